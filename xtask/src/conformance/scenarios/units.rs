//! 8.3: unit tests elsewhere in `pkg/proxy` and `cmd/kube-proxy`.

use crate::conformance::scenario::{Section, same};

/// The rest of them.
pub const UNITS: Section = Section {
    number: "8.3",
    title: "Other unit tests",
    rows: &[
        same(
            "conntrack/cleanup_test: flows per kind of address",
            "ClusterIP, NodePort, externalIP, LB: a flow whose endpoint is gone is removed",
            &["conformance_over_time::udp_goes_to_another_backend_when_its_own_is_gone"],
        ),
        same(
            "conntrack/cleanup_test: endpoints that do not serve",
            "serving ones keep their flows, terminating or not; others lose them",
            &[
                "conformance_over_time::udp_stays_with_a_backend_that_serves",
                "conformance_over_time::policies_and_hints_cut_no_udp_flow",
            ],
        ),
        same(
            "conntrack/cleanup_test: TCP and SCTP",
            "never touched",
            &[
                "conformance_over_time::tcp_and_sctp_stay_with_their_backend",
                "lab_packet_flows::tcp_drains_when_its_backend_leaves",
                "lab_sockets::established_tcp_connections_are_left_alone",
            ],
        ),
        same(
            "conntrack/cleanup_test: no endpoints",
            "1.32 to 1.36: the flows stay; 1.37: they are removed",
            &["conformance_over_time::udp_ends_when_no_backend_is_left"],
        )
        .better("as 1.37, by the next datagram"),
        same(
            "conntrack/cleanup_test: 0 to N endpoints",
            "black-holed flows are removed",
            &[
                "conformance_over_time::udp_that_began_without_endpoints_is_served_when_there_are_some",
            ],
        ),
        same(
            "conntrack/cleanup_test: changed target port",
            "flows to the old port are removed",
            &["conformance_over_time::udp_follows_a_changed_target_port"],
        ),
        same(
            "endpointslicecache_test: duplicates across slices",
            "one endpoint; a terminating one loses against one that is not",
            &[
                "millrace::model::tests::endpoints::a_running_pod_wins_over_a_terminating_one_with_its_address",
                "millrace::model::tests::endpoints::endpoint_map_updates",
            ],
        ),
        same(
            "endpointslicecache_test: nil port, nil name",
            "such ports are skipped",
            &["millrace::model::tests::endpoints::unusable_ports_are_skipped_and_reported"],
        ),
        same(
            "endpointslicecache_test: mixed protocols, several slices",
            "joined by port name and protocol",
            &[
                "millrace::model::tests::endpoints::slices_of_a_service_are_one_set_joined_by_port_name_and_protocol",
            ],
        ),
        same(
            "node_test: waits for the Node and its IP, exits when the podCIDR changes",
            "kube-proxy exits and is started again",
            &[
                "lab_environment::a_node_name_that_no_node_has_is_told",
                "millrace::model::tests::frontends::node_ports_are_on_the_primary_addresses_or_the_interfaces_and_on_loopback",
                "millrace::devices::tests::the_nodes_row_has_its_detector_and_its_services",
            ],
        )
        .better(
            "an unknown Node is a condition while the interfaces' addresses serve; addresses, \
             zone and podCIDRs are followed live",
        ),
        same(
            "nodeport_addresses_test",
            "CIDRs of both families, /0, a family without any, loopback",
            &[
                "millrace::model::tests::policy::node_ports_are_served_on_the_addresses_that_are_asked_for",
                "millrace::model::tests::policy::a_loopback_network_for_node_ports_is_refused_with_a_reason",
                "lab_packet_node_port::only_listed_addresses_serve_node_ports",
            ],
        ),
        same(
            "healthcheck_test: proxy health",
            "queued and updated clocks per family, the taint, the Node's deletion: /healthz and \
             /livez",
            &[
                "millrace::health::tests::a_change_may_wait_for_two_sync_periods",
                "millrace::health::tests::a_family_that_takes_no_part_is_absent",
                "millrace::health::tests::only_healthz_asks_for_the_node",
                "millrace::health::tests::bodies_are_kube_proxys",
                "lab_health::healthz_and_livez_say_what_kube_proxys_say",
            ],
        )
        .better("it also asks whether a canary connection is translated by every hook"),
        same(
            "healthcheck_test: service health",
            "status, body and weight header of every healthCheckNodePort",
            &[
                "millrace::health::tests::a_services_page_is_kube_proxys",
                "lab_health_check_ports::node_port_and_health_check_node_port_when_the_policy_changes",
                "lab_health_check_ports::a_port_is_one_services",
            ],
        ),
        same(
            "bounded runner tests",
            "minimal interval, retry, coalescing",
            &[
                "millrace::apply::tests::a_failed_write_is_read_back_and_made_good",
                "millrace::apply::tests::failures_and_restarts_leave_no_trace",
                "millrace::model::tests::events::what_is_not_used_changes_nothing",
            ],
        )
        .differs(
            "there are no full syncs to space out: what changed is planned at once, changes that \
             come together are one round, and a failed one is repeated",
        ),
        same(
            "config tests: ServiceCIDR aggregation",
            "one set of all ServiceCIDRs, those inside others left out",
            &[
                "millrace::model::tests::networks::service_cidrs_come_change_and_go_at_once_and_gate_nothing",
            ],
        ),
        same(
            "config tests: topology label filter",
            "the Node's topology labels alone trigger work",
            &[
                "millrace::model::tests::events::the_zone_of_this_node_dirties_everything_once",
                "millrace::model::tests::events::what_is_not_used_changes_nothing",
            ],
        ),
        same(
            "server_test: detectNodeIPs",
            "the node's addresses from the Node object, else from elsewhere, per family",
            &[
                "millrace::devices::tests::the_nodes_row_has_its_address_and_its_ports",
                "millrace::model::tests::frontends::ipv6_node_ports_fall_back_by_family",
            ],
        ),
        same(
            "server_test: checkBadConfig",
            "settings that make no sense are refused, each by name",
            &[
                "millrace::config::tests::validate::what_kube_proxy_refuses_is_refused",
                "lab_config::a_bad_file_leaves_what_was_in_force_and_what_needs_a_restart_says_so",
                "lab_environment::arguments_that_make_no_sense_are_refused",
            ],
        )
        .better("a bad change of the file leaves what was in force, where kube-proxy exits"),
    ],
};
