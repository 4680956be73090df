//! 8.2: `pkg/proxy/nftables/proxier_test.go`.

use crate::conformance::scenario::{Section, same};

/// Packet flows.
pub const FLOWS: Section = Section {
    number: "8.2",
    title: "Packet flows and state (pkg/proxy/nftables/proxier_test.go)",
    rows: &[
        same(
            "No endpoints",
            "pods and outside, at ClusterIP, externalIP, NodePort, LB: all REJECT",
            &["conformance_flows::no_endpoints_reject"],
        )
        .differs(
            "TCP is refused by a reset, not by an ICMP error: clients believe it at once; \
             sockets get ECONNREFUSED",
        ),
        same(
            "ClusterIP general",
            "one and several endpoints, target ports, hairpin masqueraded, protocols apart; \
             another Service's port: REJECT; an unallocated address of a ServiceCIDR: DROP",
            &["conformance_flows::cluster_ip_general"],
        ),
        same(
            "Load balancer and source ranges",
            "blocked sources, pods included: DROP; not for ClusterIP, NodePort, externalIP; a \
             node in a range may, and so may the balancer's address as a source",
            &[
                "conformance_flows::load_balancer_source_ranges",
                "conformance_flows::source_ranges_of_the_other_family_admit_everybody",
            ],
        ),
        same(
            "NodePorts",
            "IPv4, IPv6; one and several nodeport-addresses: what is not covered gets no verdict",
            &["conformance_flows::node_port_addresses"],
        ),
        same(
            "externalTrafficPolicy Local",
            "pods: all endpoints, not masqueraded; outside: local ones, not masqueraded",
            &["conformance_flows::external_policy_local"],
        ),
        same(
            "externalTrafficPolicy Cluster",
            "all endpoints; at external addresses masqueraded, from wherever",
            &["conformance_flows::external_policy_cluster"],
        )
        .differs(
            "what a pod's or a host's own socket dials is led to the backend before there is a \
             packet and comes from the pod's or host's address; packets are masqueraded",
        ),
        same(
            "internalTrafficPolicy",
            "Cluster: all; Local: those here, none here: DROP; no slices: REJECT",
            &["conformance_flows::internal_policy"],
        ),
        same(
            "Terminating endpoints, externalTrafficPolicy Local",
            "ready ones before terminating ones; only elsewhere: DROP for outside; none: REJECT",
            &["conformance_flows::terminating_endpoints_by_external_policy"],
        ),
        same(
            "Terminating endpoints, externalTrafficPolicy Cluster",
            "ready ones before terminating ones, wherever they are; none: REJECT",
            &["conformance_flows::terminating_endpoints_by_external_policy"],
        ),
        same(
            "Masquerade matrix, base",
            "pods, node, outside at ClusterIP, NodePort, LB under three policies: section 2.5",
            &["conformance_masquerade::masquerade_matrix"],
        ),
        same(
            "Masquerade matrix, no local detector",
            "ClusterIPs: nobody; external addresses: pods as outside",
            &["conformance_masquerade::masquerade_matrix"],
        )
        .differs("a process of the node always has the node's address"),
        same(
            "Masquerade matrix, masqueradeAll",
            "pods at ClusterIPs, too",
            &[
                "conformance_masquerade::masquerade_matrix",
                "lab_packet_cluster_ip::masquerade_follows_the_settings",
            ],
        )
        .differs("for packets; a pod's own socket connects to the backend itself, from its \
                  address"),
        same(
            "Masquerade matrix, masqueradeAll and no local detector",
            "everybody at ClusterIPs",
            &["conformance_masquerade::masquerade_matrix"],
        ),
        same(
            "Hairpin and host network",
            "a pod led to itself is masqueraded; what never leaves the node is not",
            &[
                "conformance_masquerade::hairpins_are_masqueraded_at_every_address",
                "conformance_masquerade::backends_in_the_hosts_network_see_the_client",
            ],
        ),
        same(
            "ipMode",
            "Proxy: the address is not captured; VIP or none given: it is",
            &[
                "conformance_flows::ip_mode",
                "lab_packet_load_balancer::addresses_of_proxies_are_left_to_them",
            ],
        ),
        same(
            "healthCheckNodePort",
            "ready local endpoints alone are counted; none when they terminate",
            &[
                "lab_health_check_ports::only_nodes_with_ready_endpoints_are_targets",
                "lab_health_check_ports::terminating_endpoints_serve_and_do_not_count",
            ],
        ),
        same(
            "No-local-endpoints metric",
            "7 combinations of policies and endpoints; without any endpoint it is not counted",
            &[
                "conformance_sync::ports_without_local_endpoints_are_counted",
                "millrace::metrics::tests::ports_without_local_endpoints_are_counted_by_family_and_policy",
            ],
        ),
        same(
            "Startup: nothing before both lists are complete",
            "no write, and not ready, before Services and EndpointSlices are known",
            &[
                "millrace::model::tests::events::a_complete_list_sweeps_what_it_did_not_name",
                "lab_kubernetes::an_agent_that_starts_without_its_api_adopts_and_waits",
                "lab_kubernetes::lists_that_come_slowly_after_a_restart_change_nothing",
            ],
        ),
        same(
            "Repeated sync",
            "a Service added, deleted, without endpoints and then with a slice, an endpoint \
             added, a policy changed: only what changed is written, and nothing without a change",
            &[
                "conformance_sync::repeated_syncs_write_what_changed",
                "millrace::plan::tests::scale::one_changed_endpoint_among_all_touches_its_service_alone",
            ],
        ),
        same(
            "Failed sync, then a full one",
            "everything is as it should be again",
            &[
                "conformance_sync::a_failed_sync_is_made_good_by_the_next",
                "millrace::apply::tests::failures_and_restarts_leave_no_trace",
            ],
        ),
        same(
            "ServiceCIDR change",
            "each family its own CIDRs",
            &[
                "conformance_sync::service_cidrs_come_and_go_by_family",
                "millrace::model::tests::networks::service_cidrs_come_change_and_go_at_once_and_gate_nothing",
                "lab_packet_cluster_ip::unallocated_cluster_ips_are_dropped",
            ],
        )
        .better("at once, not with the next full sync an hour later"),
        same(
            "Bad IPs",
            "leading zeros are read as decimal, malformed addresses are skipped, others are \
             served",
            &[
                "conformance_sync::bad_addresses_break_nothing_else",
                "lab_hostile::a_directory_full_of_bad_objects_harms_nobody",
                "millrace::model::tests::services::bad_ips_are_read_leniently_or_skipped",
                "millrace::model::tests::endpoints::unusable_endpoints_are_skipped_and_reported_one_by_one",
            ],
        )
        .better("each is reported with object, field and what to do"),
        same(
            "Endpoint map updates",
            "18 before-and-after tables of slices: addresses, ports and slices come, go, are \
             renamed",
            &["millrace::model::tests::endpoints::endpoint_map_updates"],
        ),
        same(
            "Endpoint map updates: UDP",
            "a change of a UDP Service has its stale flows removed",
            &[
                "conformance_over_time::udp_goes_to_another_backend_when_its_own_is_gone",
                "conformance_over_time::udp_that_began_without_endpoints_is_served_when_there_are_some",
            ],
        ),
        same(
            "Service map updates",
            "ports come and go; headless and ExternalName Services are ignored",
            &[
                "millrace::model::tests::services::service_map_updates",
                "millrace::model::tests::services::services_that_are_not_ours_are_ignored",
            ],
        ),
        same(
            "Service map updates: ClusterIP to LoadBalancer and back",
            "external addresses (and the health check port) come and go with the type",
            &[
                "conformance_objects::type_and_ports_change_from_cluster_ip_to_load_balancer_and_back",
            ],
        ),
    ],
};
