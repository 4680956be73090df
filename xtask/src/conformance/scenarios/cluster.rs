//! Scenarios that are not run here: they are about the API server, controllers, DNS or a network
//! plugin, and would be the same with any proxy.

/// What it is about, and why it is not run.
pub struct Elsewhere {
    /// Upstream's file.
    pub file: &'static str,
    /// The scenarios.
    pub what: &'static str,
    /// Whose they are.
    pub why: &'static str,
}

const fn row(file: &'static str, what: &'static str, why: &'static str) -> Elsewhere {
    Elsewhere { file, what, why }
}

/// All of them.
pub const CLUSTER: &[Elsewhere] = &[
    row(
        "service.go",
        "prevent NodePort collisions; check NodePort out-of-range",
        "the API server validates",
    ),
    row(
        "service.go",
        "C find a service from listing all namespaces; C status lifecycle; C delete a collection",
        "API only",
    ),
    row("networking.go", "SCTP HostPort pod", "host ports are the network plugin's"),
    row(
        "networking.go",
        "Internet connection (IPv4, IPv6, DNS); static URL paths for the API",
        "no proxy is involved",
    ),
    row(
        "dual_stack.go",
        "a dual-stack node; pod and host IPs; pods reach each other by both",
        "the cluster's and the network plugin's",
    ),
    row(
        "dual_stack.go",
        "Services of one family, of two, in either order: allocation",
        "the API server's (what follows from it for a node: 7.3)",
    ),
    row("loadbalancer.go", "finalizer handling", "the cloud controller's"),
    row("service_cidrs.go", "C ServiceCIDR and IPAddress API", "API only"),
    row(
        "endpointslice.go",
        "C create and delete slices; C match pods; C API operations",
        "the controller's and the API's",
    ),
    row("endpointslicemirroring.go", "C mirror a custom Endpoints", "the controller's"),
    row("endpoints.go", "3 C", "API and controller"),
    row(
        "service_latency.go",
        "C latency should not be very high",
        "the controllers' latency (a node's part: \
         `lab_restart::an_endpoint_change_reaches_the_kernel_quickly`)",
    ),
    row(
        "proxy.go",
        "logs of nodes, C proxy through a service and a pod, C ProxyWithPath",
        "the API server's proxy subresource dials endpoints itself",
    ),
    row("pod_lifecycle.go", "connect to and from terminating pods", "pod IPs, no Service"),
    row("dns.go, dns_*.go", "about 20", "DNS; by its ClusterIP it is a Service like any other"),
    row("networking_perf.go", "iperf2", "pod IPs, no Service"),
    row(
        "netpol/*",
        "all",
        "the policy engine's; it sees the backend as the destination and the pod as the source",
    ),
];
