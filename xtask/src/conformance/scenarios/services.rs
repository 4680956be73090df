//! 7.1: `test/e2e/network/service.go`.

use crate::conformance::scenario::{Section, same};

/// "Services".
pub const SERVICES: Section = Section {
    number: "7.1",
    title: "Services (test/e2e/network/service.go)",
    rows: &[
        same(
            "C serve a basic endpoint from pods",
            "0, 1, 2, 1, 0 endpoints: traffic reaches exactly the current set",
            &["lab_cluster_ip::serve_a_basic_endpoint_from_pods"],
        ),
        same(
            "C serve multiport endpoints from pods",
            "two named ports with different target ports and pods; each port reaches its own",
            &[
                "lab_cluster_ip::serve_multiport_endpoints_from_pods",
                "lab_packet_cluster_ip::ports_and_protocols_are_told_apart",
            ],
        ),
        same(
            "be updated after adding or deleting ports",
            "a second port works; without it the first goes on",
            &["lab_cluster_ip::be_updated_after_adding_or_deleting_ports"],
        ),
        same(
            "preserve source pod IP for traffic thru service cluster IP",
            "the server sees the pod's address, on its node and on another",
            &[
                "lab_cluster_ip::preserve_source_pod_ip_for_traffic_thru_service_cluster_ip",
                "lab_packet_cluster_ip::cluster_ips_for_pods_on_bridges_with_routes",
                "lab_packet_cluster_ip::cluster_ips_for_pods_on_bridges_with_vxlan",
                "lab_packet_cluster_ip::cluster_ips_for_point_to_point_pods_with_routes",
                "lab_packet_cluster_ip::cluster_ips_for_point_to_point_pods_with_vxlan",
            ],
        ),
        same(
            "allow pods to hairpin back to themselves through services",
            "the only endpoint connects to its own ClusterIP",
            &[
                "lab_cluster_ip::allow_pods_to_hairpin_back_to_themselves_through_services",
                "lab_packet_cluster_ip::cluster_ips_for_pods_on_bridges_with_routes",
            ],
        ),
        same(
            "be able to up and down services",
            "a deleted Service is unreachable, others and new ones are not affected",
            &["lab_cluster_ip::be_able_to_up_and_down_services"],
        ),
        same(
            "work after the service has been recreated",
            "deleted and created again under its name, it is served again",
            &["lab_cluster_ip::be_able_to_up_and_down_services"],
        ),
        same(
            "work after restarting kube-proxy",
            "an old Service works after the restart, and a new one",
            &[
                "lab_restart::no_connection_fails_when_the_agent_restarts",
                "lab_packet_flows::no_packet_is_lost_when_agents_die_and_return",
            ],
        )
        .better("not one dialogue fails while the agent is stopped, killed and started again"),
        same(
            "work after restarting apiserver",
            "Services survive, new ones work afterwards",
            &["lab_kubernetes::without_its_api_the_agent_serves_on_and_catches_up_later"],
        ),
        same(
            "C create a functioning NodePort service",
            "the ClusterIP and every node's NodePort answer",
            &[
                "lab_node_port::create_a_functioning_node_port_service",
                "lab_packet_node_port::node_ports_from_outside_with_bridges_and_routes",
                "lab_packet_node_port::node_ports_from_outside_with_bridges_and_vxlan",
                "lab_packet_node_port::node_ports_from_outside_with_point_to_point_pods_and_routes",
                "lab_packet_node_port::node_ports_from_outside_with_point_to_point_pods_and_vxlan",
            ],
        ),
        same(
            "connect via ExternalIP when the external IP is not assigned to a node",
            "a pod reaches 203.0.113.250:80, and its IPv6 twin",
            &[
                "lab_node_port::connect_via_external_ip_when_it_is_not_assigned_to_a_node",
                "lab_packet_load_balancer::external_addresses_work_from_outside",
            ],
        ),
        same(
            "update type to NodePort, same port different protocols",
            "ClusterIP, then NodePort TCP, then TCP and UDP on one port: all reachable",
            &["lab_node_port::update_type_to_node_port_same_port_different_protocols"],
        ),
        same(
            "C change ExternalName to ClusterIP",
            "it becomes reachable by its ClusterIP",
            &[
                "lab_cluster_ip::change_the_type_between_external_name_and_cluster_ip",
                "conformance_objects::an_external_name_leaves_nothing_and_becomes_anything",
            ],
        ),
        same(
            "C change ExternalName to NodePort",
            "it becomes reachable by its NodePort",
            &["conformance_objects::an_external_name_leaves_nothing_and_becomes_anything"],
        ),
        same(
            "C change ClusterIP to ExternalName",
            "the proxy's state is gone (the CNAME is DNS's)",
            &[
                "lab_cluster_ip::change_the_type_between_external_name_and_cluster_ip",
                "conformance_objects::an_external_name_leaves_nothing_and_becomes_anything",
            ],
        ),
        same(
            "C change NodePort to ExternalName",
            "the same, and the NodePort is released",
            &[
                "lab_node_port::update_type_to_node_port_same_port_different_protocols",
                "conformance_objects::an_external_name_leaves_nothing_and_becomes_anything",
            ],
        ),
        same(
            "release NodePorts on delete",
            "no socket holds the port; it can be given out again",
            &[
                "lab_node_port::release_node_ports_on_delete",
                "lab_packet_node_port::changes_of_a_node_port_service_are_followed",
            ],
        ),
        same(
            "create endpoints for unready pods",
            "publishNotReadyAddresses: unready and terminating pods answer; without it they do \
             not; switched to and fro",
            &["conformance_objects::pods_are_served_while_slices_say_that_they_are_ready"],
        ),
        same(
            "connect to terminating+unready endpoints if PublishNotReadyAddresses=true",
            "the ClusterIP and the NodePorts of both nodes answer",
            &["conformance_objects::pods_are_served_while_slices_say_that_they_are_ready"],
        ),
        same(
            "NOT connect to terminating+unready endpoints if PublishNotReadyAddresses=false",
            "the ClusterIP and both NodePorts fail",
            &["conformance_objects::pods_are_served_while_slices_say_that_they_are_ready"],
        ),
        same(
            "C session affinity ClusterIP",
            "15 answers from one backend",
            &[
                "lab_affinity::session_affinity_for_cluster_ip_and_node_port",
                "lab_packet_cluster_ip::machines_stick_to_an_endpoint",
            ],
        ),
        same(
            "session affinity timeout ClusterIP",
            "it sticks within the timeout, and changes after that long without a new connection",
            &[
                "lab_affinity::session_affinity_times_out_after_the_last_new_connection",
                "conformance_over_time::affinity_ends_after_its_time_without_a_new_connection",
            ],
        ),
        same(
            "C switch session affinity ClusterIP",
            "None spreads, ClientIP sticks",
            &["lab_affinity::switch_session_affinity"],
        ),
        same(
            "session affinity NodePort",
            "15 answers from one backend",
            &[
                "lab_affinity::session_affinity_for_cluster_ip_and_node_port",
                "lab_packet_node_port::clients_outside_stick_to_an_endpoint",
            ],
        ),
        same(
            "session affinity timeout NodePort",
            "as by the ClusterIP",
            &["conformance_over_time::affinity_ends_after_its_time_without_a_new_connection"],
        ),
        same(
            "C switch session affinity NodePort",
            "as by the ClusterIP",
            &[
                "lab_packet_node_port::clients_outside_stick_to_an_endpoint",
                "conformance_over_time::affinity_is_switched_on_and_off",
            ],
        ),
        same(
            "implement service-proxy-name",
            "a labelled Service is never up; taking the label off and putting it on brings it up \
             and down",
            &[
                "lab_cluster_ip::implement_service_proxy_name",
                "lab_kubernetes::a_service_of_another_proxy_is_left_to_it",
            ],
        ),
        same(
            "implement headless label",
            "a slice that gets the label no longer counts",
            &["lab_cluster_ip::implement_headless_label"],
        ),
        same(
            "be rejected when no endpoints exist",
            "REFUSED, not a timeout, within 30 s",
            &[
                "lab_cluster_ip::be_rejected_when_no_endpoints_exist",
                "lab_node_port::node_ports_without_endpoints_refuse",
                "lab_packet_cluster_ip::what_a_cluster_ip_does_not_have_is_rejected",
            ],
        ),
        same(
            "be rejected for evicted pods (no endpoints)",
            "the same",
            &["lab_cluster_ip::be_rejected_when_no_endpoints_exist"],
        ),
        same(
            "respect internalTrafficPolicy=Local Pod to Pod",
            "a pod of the node is reached, none from another node",
            &[
                "lab_policy::respect_internal_traffic_policy_local",
                "lab_packet_cluster_ip::internal_policy_local_is_silent_without_an_endpoint_here",
            ],
        ),
        same(
            "respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod",
            "the same from the host's namespace",
            &["lab_policy::respect_internal_traffic_policy_local"],
        ),
        same(
            "respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true)",
            "the same with a backend in the host's network",
            &["lab_policy::respect_internal_traffic_policy_local"],
        ),
        same(
            "support externalTrafficPolicy=Local for type=NodePort",
            "a host of another node is seen by its own address",
            &["lab_packet_node_port::local_external_policy_knows_its_own_pods_from_strangers"],
        ),
        same(
            "fail health check node port if there are only terminating endpoints",
            "the health check port answers 200, and 503 once the endpoint terminates, while the \
             NodePort still serves",
            &["lab_health_check_ports::terminating_endpoints_serve_and_do_not_count"],
        ),
        same(
            "fallback to terminating endpoints when there are no ready endpoints with \
             internalTrafficPolicy=Cluster",
            "the only endpoint terminates: pods of both nodes reach it by the ClusterIP",
            &["lab_policy::fallback_to_terminating_endpoints_with_cluster_policies"],
        ),
        same(
            "fallback to local terminating endpoints ... internalTrafficPolicy=Local",
            "pods of its node reach it, others do not",
            &[
                "lab_policy::fallback_to_local_terminating_endpoints_with_internal_policy_local",
                "lab_packet_cluster_ip::internal_policy_local_is_silent_without_an_endpoint_here",
            ],
        ),
        same(
            "fallback to terminating endpoints ... externalTrafficPolicy=Cluster",
            "the NodePorts of both nodes answer",
            &[
                "lab_policy::fallback_to_terminating_endpoints_with_cluster_policies",
                "lab_packet_node_port::fallback_to_terminating_endpoints",
            ],
        ),
        same(
            "fallback to local terminating endpoints ... externalTrafficPolicy=Local",
            "the NodePort of its node answers; another node's does not, from a pod of a third",
            &["lab_packet_node_port::fallback_to_terminating_endpoints"],
        ),
        same(
            "C serve endpoints on same port and different protocols",
            "TCP and UDP on port 80; without the one the other goes on",
            &["lab_cluster_ip::endpoints_on_same_port_and_different_protocols"],
        ),
        same(
            "same port with different protocol on type LoadBalancer (internal traffic)",
            "TCP and UDP by the ClusterIP",
            &["lab_node_port::load_balancer_addresses_work_from_pods_and_nodes"],
        ),
        same(
            "allow creating a basic SCTP service with pod and endpoints",
            "the Service is there, and the module sctp is not loaded because of it",
            &["lab_node_port::an_sctp_service_loads_no_module"],
        ),
        same(
            "NodePort and HealthCheckNodePort when externalTrafficPolicy changes",
            "Local: the endpoint's node answers with the client's address kept, others do not; \
             Cluster: all answer; the health check port answers 200, 503, is closed, and returns",
            &[
                "lab_health_check_ports::node_port_and_health_check_node_port_when_the_policy_changes",
                "lab_packet_node_port::changes_of_a_node_port_service_are_followed",
            ],
        ),
        same(
            "connect to the ports exposed by restartable init containers (2: number, name)",
            "a sidecar's port is one more port of the pod",
            &["lab_packet_cluster_ip::ports_and_protocols_are_told_apart"],
        ),
        same(
            "work with named target ports that resolve to different ports per endpoint",
            "two slices with one port name and two numbers; the pods swap them",
            &[
                "lab_cluster_ip::named_target_ports_resolving_to_different_ports_per_endpoint",
                "conformance_objects::endpoints_with_different_ports_swap_them",
            ],
        ),
    ],
};
