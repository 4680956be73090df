//! 7.4 to 7.6: `loadbalancer.go`, `conntrack.go`, `traffic_distribution.go`, `topology_hints.go`.

use crate::conformance::scenario::{Section, same};

/// "LoadBalancers".
pub const LOAD_BALANCER: Section = Section {
    number: "7.4",
    title: "LoadBalancers (test/e2e/network/loadbalancer.go; the address is put into the status)",
    rows: &[
        same(
            "be able to change the type and ports of a TCP service",
            "ClusterIP, NodePort, LoadBalancer, another NodePort, another port, no pods (no \
             answer), one pod, ClusterIP (the balancer's address is closed)",
            &[
                "conformance_objects::type_and_ports_change_from_cluster_ip_to_load_balancer_and_back",
                "lab_packet_load_balancer::a_load_balancer_comes_changes_and_goes",
            ],
        ),
        same(
            "be able to change the type and ports of a UDP service",
            "the same",
            &[
                "conformance_objects::type_and_ports_change_from_cluster_ip_to_load_balancer_and_back",
                "lab_packet_load_balancer::a_load_balancer_comes_changes_and_goes",
            ],
        ),
        same(
            "only allow access from service loadbalancer source ranges",
            "unset: everybody; a pod's and a node's address: these only; two halves of all: \
             everybody; a stranger's: nobody, pods included; unset again: everybody",
            &[
                "lab_packet_load_balancer::only_source_ranges_are_admitted",
                "lab_source_ranges::a_node_outside_the_ranges_meets_silence_and_one_inside_is_served",
            ],
        ),
        same(
            "session affinity, externalTrafficPolicy Local",
            "a client sticks at the load balancer's address",
            &[
                "conformance_over_time::affinity_sticks_by_every_way_and_is_shared_by_the_ways_of_a_port",
            ],
        ),
        same(
            "session affinity, externalTrafficPolicy Cluster",
            "the same",
            &[
                "conformance_over_time::affinity_sticks_by_every_way_and_is_shared_by_the_ways_of_a_port",
            ],
        ),
        same(
            "switch session affinity, externalTrafficPolicy Local",
            "ClientIP sticks, None spreads",
            &["conformance_over_time::affinity_is_switched_on_and_off"],
        ),
        same(
            "switch session affinity, externalTrafficPolicy Cluster",
            "the same",
            &["conformance_over_time::affinity_is_switched_on_and_off"],
        ),
        same(
            "create a LoadBalancer Service without NodePort and change it",
            "reachable without NodePorts; gets them later",
            &[
                "conformance_objects::a_load_balancer_needs_no_node_port_and_may_get_one",
                "lab_packet_load_balancer::external_addresses_work_from_outside",
            ],
        ),
        same(
            "preserve UDP traffic when server pod cycles, on different nodes",
            "a fixed source port is answered by the new backend within a minute",
            &[
                "lab_packet_load_balancer::udp_follows_the_pods_behind_a_load_balancer",
                "conformance_over_time::udp_goes_to_another_backend_when_its_own_is_gone",
            ],
        )
        .better("by the very next datagram"),
        same(
            "preserve UDP traffic when server pod cycles, on the same node",
            "the same",
            &[
                "lab_packet_load_balancer::udp_follows_the_pods_behind_a_load_balancer",
                "conformance_over_time::udp_goes_to_another_backend_when_its_own_is_gone",
            ],
        )
        .better("by the very next datagram"),
        same(
            "not have connectivity disruption during rolling update, \
             externalTrafficPolicy=Cluster",
            "at least 95 of 100 requests succeed",
            &["lab_packet_load_balancer::rolling_updates_lose_no_connection"],
        )
        .better("all of them"),
        same(
            "not have connectivity disruption during rolling update, externalTrafficPolicy=Local",
            "at least 95 of 100 requests succeed",
            &["lab_packet_load_balancer::rolling_updates_lose_no_connection"],
        )
        .better("all of them"),
        same(
            "externalTrafficPolicy Local: work for type=LoadBalancer",
            "the server sees the client's address; the health check port closes with the type",
            &[
                "lab_packet_load_balancer::local_external_policy_keeps_clients_addresses",
                "lab_health_check_ports::node_port_and_health_check_node_port_when_the_policy_changes",
            ],
        ),
        same(
            "externalTrafficPolicy Local: only target nodes with endpoints",
            "the health check port answers 200 on the endpoint's node only, and moves with the pod",
            &[
                "lab_health_check_ports::only_nodes_with_ready_endpoints_are_targets",
                "conformance_objects::every_node_with_an_endpoint_serves_its_own",
            ],
        ),
        same(
            "externalTrafficPolicy Local: target all nodes with endpoints",
            "both endpoints are reached, each by its node",
            &["conformance_objects::every_node_with_an_endpoint_serves_its_own"],
        ),
        same(
            "externalTrafficPolicy Local: work from pods",
            "a pod keeps its address (short-circuit, no source NAT); not with ipMode Proxy",
            &[
                "lab_packet_load_balancer::local_external_policy_keeps_clients_addresses",
                "lab_node_port::local_external_policy_short_circuits_pods_and_the_node",
            ],
        ),
    ],
};

/// "Conntrack".
pub const CONNTRACK: Section = Section {
    number: "7.5",
    title: "Conntrack (test/e2e/network/conntrack.go)",
    rows: &[
        same(
            "preserve UDP traffic when server pod cycles for a NodePort service",
            "a fixed source port is answered by the new backend within a minute",
            &[
                "lab_packet_flows::udp_from_a_fixed_port_follows_the_endpoints",
                "lab_packet_flows::udp_from_a_fixed_port_survives_its_servers_pod",
            ],
        )
        .better("by the very next datagram"),
        same(
            "preserve UDP traffic when server pod cycles for a ClusterIP service",
            "the same",
            &[
                "lab_sockets::preserve_udp_when_the_server_pod_cycles",
                "lab_sockets::connected_udp_is_told_when_its_backend_is_gone",
                "lab_packet_flows::udp_from_a_fixed_port_follows_the_endpoints",
                "lab_packet_flows::udp_from_a_fixed_port_survives_its_servers_pod",
            ],
        )
        .better(
            "by the very next datagram; a pod's socket that stays connected is told by EPERM to \
             dial again, instead of sending to nobody",
        ),
        same(
            "preserve UDP traffic when server pod cycles for a ClusterIP service, \
             internalTrafficPolicy Local",
            "the same",
            &["conformance_over_time::udp_goes_to_another_backend_when_its_own_is_gone"],
        )
        .better("by the very next datagram"),
        same(
            "preserve UDP traffic when server pod cycles, client is hostNetwork",
            "the same",
            &[
                "lab_sockets::preserve_udp_when_the_server_pod_cycles",
                "lab_sockets::connected_udp_is_told_when_its_backend_is_gone",
            ],
        )
        .differs(
            "a socket that stays connected is told by EPERM to dial again; one that sends by \
             address goes on with the very next datagram",
        ),
        same(
            "preserve UDP traffic when initial unready endpoints get ready",
            "what was sent without endpoints does not stop what is sent once there are some",
            &[
                "lab_sockets::preserve_udp_when_initially_unready_endpoints_get_ready",
                "lab_packet_flows::udp_that_began_without_endpoints_is_served_once_there_are_some",
            ],
        ),
        same(
            "not be vulnerable to the invalid conntrack state bug",
            "a segment out of the window does not make the client reset",
            &["lab_packet_odd::out_of_window_segments_do_not_reach_the_client_as_they_are"],
        ),
        same(
            "cleanup conntrack entries when the UDP target port changes for a NodePort service",
            "the flow moves from one port of the pod to the other",
            &[
                "lab_packet_flows::udp_follows_a_change_of_the_target_port",
                "lab_sockets::udp_follows_a_changed_target_port",
            ],
        ),
    ],
};

/// "Traffic Distribution", "Topology Hints".
pub const TOPOLOGY: Section = Section {
    number: "7.6",
    title: "Topology (test/e2e/network/traffic_distribution.go, topology_hints.go)",
    rows: &[
        same(
            "PreferClose: same zone",
            "zones with endpoints use their own, those without use all",
            &["lab_policy::prefer_same_zone"],
        ),
        same(
            "PreferSameZone: same zone",
            "the same: the slices' hints decide",
            &["lab_policy::prefer_same_zone"],
        ),
        same(
            "PreferClose: several nodes per zone",
            "the same on every node of a zone",
            &["conformance_objects::zones_of_several_nodes_keep_to_themselves"],
        ),
        same(
            "PreferSameZone: several nodes per zone",
            "the same on every node of a zone",
            &["conformance_objects::zones_of_several_nodes_keep_to_themselves"],
        ),
        same(
            "PreferSameNode: same node, or fall back to same zone",
            "the node's own, else the zone's, else all",
            &[
                "conformance_objects::nodes_keep_to_themselves_then_to_their_zone",
                "lab_policy::prefer_same_node_and_fall_back",
            ],
        ),
        same(
            "PreferSameNode: fall back when the endpoint becomes unavailable",
            "without it others, with it again itself",
            &["lab_policy::prefer_same_node_and_fall_back"],
        ),
        same(
            "Topology Hints: distribute endpoints evenly",
            "every request stays in its zone (the hints are the controller's)",
            &[
                "lab_policy::prefer_same_zone",
                "conformance_objects::zones_of_several_nodes_keep_to_themselves",
            ],
        ),
    ],
};
