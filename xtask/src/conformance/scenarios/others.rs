//! 7.7: what other files of `test/e2e/network` ask of a proxy.

use crate::conformance::scenario::{Section, same};

/// The rest.
pub const OTHERS: Section = Section {
    number: "7.7",
    title: "Other end-to-end tests",
    rows: &[
        same(
            "kube_proxy.go: set TCP CLOSE_WAIT timeout",
            "nf_conntrack remembers a connection in CLOSE_WAIT for an hour",
            &["millrace::flows::rules::tests::timeouts_are_those_of_the_contract"],
        )
        .differs("no nf_conntrack entry is ours: our own flows are remembered for as long"),
        same(
            "kube_proxy.go: update metric for tracking accepted packets destined for localhost \
             nodeports",
            "127.0.0.1:nodePort works ten times, and a counter grows",
            &["lab_node_port::node_ports_answer_on_the_nodes_loopback"],
        )
        .better("on ::1 and by UDP too, without route_localnet; counted per Service"),
        same(
            "service_cidrs.go: create Services on different Service CIDRs",
            "a NodePort Service whose ClusterIP is of a new ServiceCIDR is reachable",
            &["conformance_sync::service_cidrs_come_and_go_by_family"],
        ),
        same(
            "endpointslice.go: C support a Service with multiple ports specified in multiple \
             EndpointSlices",
            "two ports in two slices: both answer",
            &["lab_cluster_ip::serve_multiport_endpoints_from_pods"],
        ),
        same(
            "endpointslice.go: C support a Service with multiple endpoint IPs specified in \
             multiple EndpointSlices",
            "the union of the slices",
            &["lab_cluster_ip::multiple_endpoint_ips_in_multiple_endpoint_slices"],
        ),
        same(
            "endpointslicemirroring.go: mirror a custom Endpoints with multiple subsets and same \
             IP address",
            "two ports of one address, both reachable",
            &[
                "lab_packet_cluster_ip::ports_and_protocols_are_told_apart",
                "millrace::model::tests::endpoints::one_pod_in_two_ports_of_a_slice_is_two_backends",
            ],
        ),
        same(
            "hostport.go: C no conflict between pods with same hostPort but different hostIP and \
             protocol",
            "host ports are the network plugin's, and not broken by NodePorts",
            &[
                "conformance_flows::what_is_no_services_is_left_alone",
                "lab_packet_node_port::a_node_port_is_of_one_protocol",
            ],
        ),
        same(
            "pod_lifecycle.go: zero downtime on a Blue/Green deployment using readiness gates",
            "ready flips: only the right pod answers, while the other serves and terminates",
            &["lab_policy::only_ready_endpoints_serve_and_unready_ones_return"],
        ),
        same(
            "no_snat.go: be able to send traffic between Pods without SNAT",
            "what goes from pod to pod and from pod to node keeps its source",
            &[
                "conformance_flows::what_is_no_services_is_left_alone",
                "lab_packet_odd::what_is_not_ours_passes_as_it_is",
            ],
        ),
        same(
            "apiserver.go: provide secure master service; slices point to the API servers",
            "the Service kubernetes leads to hosts",
            &[
                "conformance_objects::the_kubernetes_service_leads_to_hosts",
                "lab_config::the_api_servers_own_service_keeps_its_backends",
                "lab_packet_cluster_ip::backends_on_the_hosts_network",
            ],
        ),
        same(
            "[1.37] KEP-6032: localhost NodePort, endpoints here and elsewhere",
            "curl localhost:nodePort from the node reaches either",
            &["lab_node_port::node_ports_answer_on_the_nodes_loopback"],
        ),
        same(
            "[1.37] KEP-6032: localhost NodePort and ClientIP affinity",
            "a client sticks",
            &["lab_affinity::clients_stick_by_loopback_too"],
        ),
    ],
};
