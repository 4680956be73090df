//! 7.2 and 7.3: `networking.go`, `dual_stack.go`.

use crate::conformance::scenario::{Section, missing, same};

/// Every kind of client, every topology, both families.
const GRANULAR: &[&str] = &[
    "lab_granular::bridge_direct_dual_stack",
    "lab_granular::bridge_vxlan_dual_stack",
    "lab_granular::point_to_point_direct_dual_stack",
    "lab_granular::bridge_direct_ipv4_only",
    "lab_granular::point_to_point_vxlan_ipv6_only",
];
/// The same and NodePorts.
const WITH_NODE_PORTS: &[&str] = &[
    "lab_granular::bridge_direct_dual_stack",
    "lab_granular::bridge_vxlan_dual_stack",
    "lab_granular::point_to_point_direct_dual_stack",
    "lab_node_port::create_a_functioning_node_port_service",
];
/// Both families, IPv6 as the second one.
const DUAL: &[&str] = &[
    "lab_granular::bridge_direct_dual_stack",
    "lab_granular::bridge_vxlan_dual_stack",
    "lab_granular::point_to_point_direct_dual_stack",
    "lab_node_port::create_a_functioning_node_port_service",
];
const SCTP: &[&str] = &["conformance_objects::sctp_is_served_where_its_port_need_not_change"];
const SCTP_DIFFERS: &str = "only as packets, and where the frontend's port is the target port: \
                            SCTP's checksum covers the ports, and BPF cannot compute it";

/// "Networking".
pub const NETWORKING: Section = Section {
    number: "7.2",
    title: "Networking (test/e2e/network/networking.go)",
    rows: &[
        same(
            "check kube-proxy urls",
            ":10256/healthz answers 200 with lastUpdated, :10249/proxyMode 200",
            &[
                "lab_health::healthz_and_livez_say_what_kube_proxys_say",
                "lab_health::the_metrics_port_is_kube_proxys",
            ],
        ),
        same(
            "Granular: pod-Service http, udp",
            "a pod reaches every endpoint by the ClusterIP and by a node's NodePort",
            WITH_NODE_PORTS,
        ),
        same("Granular: pod-Service sctp", "the same with SCTP", SCTP).differs(SCTP_DIFFERS),
        same("Granular: node-Service http, udp", "a host does", WITH_NODE_PORTS),
        missing(
            "Granular: node-Service sctp",
            "a host does with SCTP",
            "the kernel calls no hook when an SCTP socket connects, and a host's own packets \
             come in by no device; pods' do",
        ),
        same(
            "Granular: endpoint-Service http, udp",
            "an endpoint does, itself included",
            WITH_NODE_PORTS,
        ),
        same("Granular: endpoint-Service sctp", "the same with SCTP", SCTP).differs(SCTP_DIFFERS),
        same(
            "multiple endpoint-Services with same selector",
            "two Services with the same backends; one is deleted, the other is not affected",
            &[
                "conformance_objects::services_with_the_same_endpoints_do_not_know_each_other",
                "lab_granular::bridge_direct_dual_stack",
            ],
        ),
        same(
            "update endpoints: http, udp",
            "an endpoint is deleted; the others are reached and it is not",
            &["lab_cluster_ip::serve_a_basic_endpoint_from_pods"],
        ),
        same(
            "update nodePort: http, udp; basic nodePort udp",
            "a deleted NodePort Service is unreachable",
            &[
                "lab_node_port::release_node_ports_on_delete",
                "lab_packet_node_port::changes_of_a_node_port_service_are_followed",
            ],
        ),
        same(
            "client IP based session affinity: http, udp",
            "a client sticks, by either protocol",
            &["lab_affinity::session_affinity_for_cluster_ip_and_node_port"],
        ),
        same(
            "handle large requests: http, udp",
            "2000 bytes, also in one datagram",
            &[
                "lab_cluster_ip::handle_large_requests",
                "lab_packet_odd::large_datagrams_are_answered",
            ],
        ),
        same(
            "service endpoints using hostNetwork",
            "backends in the hosts' network for pods, hosts and endpoints, http and udp",
            &[
                "lab_granular::bridge_direct_dual_stack",
                "lab_packet_cluster_ip::backends_on_the_hosts_network",
                "lab_packet_node_port::backends_on_the_hosts_network",
            ],
        ),
        same(
            "recreate its iptables rules if they are deleted",
            "what somebody deletes returns (here: programs, links and pins)",
            &[
                "lab_devices::what_somebody_removes_is_put_back",
                "lab_canary::sockets_hooks_that_somebody_removes_are_put_back",
                "lab_clsact::removed_filters_are_put_back",
            ],
        ),
    ],
};

/// "IPv6DualStack".
pub const DUAL_STACK: Section = Section {
    number: "7.3",
    title: "Dual stack (test/e2e/network/dual_stack.go)",
    rows: &[
        same(
            "slices per family of a Service: ipv4; ipv6; ipv4,ipv6; ipv6,ipv4",
            "each family is served that the Service has a ClusterIP of",
            &["conformance_objects::single_and_dual_stack_services"],
        ),
        same("Granular, second family: pod-Service http, udp", "as in 7.2", DUAL),
        same("Granular, second family: pod-Service sctp", "as in 7.2", SCTP).differs(SCTP_DIFFERS),
        same("Granular, second family: node-Service http, udp", "as in 7.2", DUAL),
        same("Granular, second family: endpoint-Service http, udp", "as in 7.2", DUAL),
        same("one family alone", "IPv4 only, IPv6 only", GRANULAR),
        same(
            "update endpoints: http, udp",
            "as in 7.2, by the second family",
            &["lab_cluster_ip::serve_a_basic_endpoint_from_pods"],
        ),
        same(
            "client IP based session affinity: http, udp",
            "as in 7.2, by the second family",
            &["lab_affinity::session_affinity_for_cluster_ip_and_node_port"],
        ),
        same(
            "handle large requests: http, udp",
            "as in 7.2, by the second family",
            &[
                "lab_cluster_ip::handle_large_requests",
                "lab_packet_odd::large_datagrams_are_answered",
            ],
        ),
        same(
            "service endpoints using hostNetwork",
            "as in 7.2, by the second family",
            &[
                "lab_granular::bridge_direct_dual_stack",
                "lab_packet_cluster_ip::backends_on_the_hosts_network",
            ],
        ),
    ],
};
