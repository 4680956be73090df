//! The `ip` lines that make a lab. Pure text: options in, lines out.

use super::address::{self, Family};
use super::options::{InterNode, Options, PodNetwork};

/// Payload that fits into a VXLAN packet on a 1500-byte underlay.
const VXLAN_MTU: u32 = 1450;
/// The gateway that point-to-point pods see, as with Calico; answered by proxy ARP.
const PTP_GATEWAY: &str = "169.254.1.1";

/// Settings of every namespace: no duplicate address detection, so that addresses work at once.
pub const COMMON_SYSCTLS: &[(&str, &str)] = &[
    ("ipv6/conf/all/accept_dad", "0"),
    ("ipv6/conf/default/accept_dad", "0"),
    ("ipv6/conf/all/disable_ipv6", "0"),
    ("ipv6/conf/default/disable_ipv6", "0"),
    ("ipv6/conf/default/accept_ra", "0"),
    ("ipv6/conf/default/router_solicitations", "0"),
];

/// Settings of namespaces that forward, routers and nodes. They filter no reverse path.
pub const ROUTER_SYSCTLS: &[(&str, &str)] = &[
    ("ipv4/ip_forward", "1"),
    ("ipv6/conf/all/forwarding", "1"),
    ("ipv6/conf/default/forwarding", "1"),
    ("ipv4/conf/all/rp_filter", "0"),
    ("ipv4/conf/default/rp_filter", "0"),
];

/// Settings of nodes besides: what the options say. Devices take theirs from `default` when they
/// are made, so this comes first.
pub fn node_sysctls(options: &Options) -> Vec<(&'static str, &'static str)> {
    let mut settings = vec![("ipv4/conf/default/rp_filter", options.reverse_path.setting())];
    if let Some(on) = options.bridge_netfilter {
        let value = if on { "1" } else { "0" };
        settings.push(("bridge/bridge-nf-call-iptables", value));
        settings.push(("bridge/bridge-nf-call-ip6tables", value));
    }
    settings
}

/// The default route's prefix. Written out, because a batch knows no `-6`.
pub(super) fn everywhere(family: Family) -> &'static str {
    match family {
        Family::V4 => "0.0.0.0/0",
        Family::V6 => "::/0",
    }
}

pub(super) fn address_line(
    options: &Options,
    device: &str,
    pick: impl Fn(Family) -> String,
) -> Vec<String> {
    let families = options.families.list().iter();
    families.map(|&f| format!("addr add {} dev {device} nodad", pick(f))).collect()
}

/// The underlay: a bridge, a port for each namespace, and a gateway that swallows everything.
pub fn underlay(options: &Options, members: &[(String, String)]) -> Vec<String> {
    let mut lines = vec!["link set lo up".into(), "link add br0 type bridge".into()];
    lines.push("link set br0 up".into());
    for (port, namespace) in members {
        lines.push(format!("link add {port} type veth peer name eth0 netns {namespace}"));
        lines.push(format!("link set {port} master br0 up"));
    }
    lines.extend(address_line(options, "br0", |f| {
        format!("{}/{}", address::gateway(f), address::underlay_prefix(f))
    }));
    for &family in options.families.list() {
        lines.push(format!("route add blackhole {}", everywhere(family)));
    }
    lines
}

/// The outside client. It knows the way to the pods, as in a routed network: an answer that
/// bypasses a translation then arrives with the wrong source instead of vanishing.
pub fn outside(options: &Options) -> Vec<String> {
    let mut lines = vec!["link set lo up".into(), "link set eth0 up".into()];
    lines.extend(address_line(options, "eth0", |f| {
        format!("{}/{}", address::outside(f), address::underlay_prefix(f))
    }));
    for node in 1..=options.nodes as u8 {
        lines.extend(direct_routes(options, node));
    }
    lines
}

/// A node: its underlay address, its pod network, and the way to the other nodes' pods.
pub fn node(options: &Options, node: u8) -> Vec<String> {
    let mut lines = vec!["link set lo up".into(), "link set eth0 up".into()];
    lines.extend(address_line(options, "eth0", |f| {
        format!("{}/{}", address::node(f, node), address::underlay_prefix(f))
    }));
    for &family in options.families.list() {
        lines.push(format!("route add {} via {}", everywhere(family), address::gateway(family)));
    }
    if options.pod_network == PodNetwork::Bridge {
        // A bridge without an address of its own takes a port's, and changes it when that pod goes.
        let mac = format!("0a:58:0a:f4:{node:02x}:01");
        lines.push(format!("link add cni0 mtu {} address {mac} type bridge", pod_mtu(options)));
        lines.push("link set cni0 up".into());
        lines.extend(address_line(options, "cni0", |f| {
            format!("{}/{}", address::pod_gateway(f, node), address::pod_prefix(f))
        }));
    }
    let others = (1..=options.nodes as u8).filter(|&other| other != node);
    match options.inter_node {
        InterNode::Direct => lines.extend(others.flat_map(|other| direct_routes(options, other))),
        InterNode::Vxlan => {
            lines.extend(vxlan_device(options, node));
            lines.extend(others.flat_map(|other| vxlan_peer(options, other)));
        }
    }
    lines
}

fn pod_mtu(options: &Options) -> u32 {
    if options.inter_node == InterNode::Vxlan { VXLAN_MTU } else { 1500 }
}

/// The way to a node's pods over the underlay.
pub fn direct_routes(options: &Options, node: u8) -> Vec<String> {
    let families = options.families.list().iter();
    families
        .map(|&f| {
            let (cidr, via) = (address::pod_cidr(f, node), address::node(f, node));
            format!("route add {cidr} via {via}")
        })
        .collect()
}

fn vxlan_mac(node: u8) -> String {
    format!("0e:00:00:00:00:{node:02x}")
}

fn vxlan_device(options: &Options, node: u8) -> Vec<String> {
    let local = address::node(options.families.primary(), node);
    let mut lines = vec![
        format!(
            "link add flannel.1 mtu {VXLAN_MTU} address {} type vxlan id 1 dstport 8472 \
             nolearning local {local} dev eth0",
            vxlan_mac(node)
        ),
        "link set flannel.1 up".into(),
    ];
    lines.extend(address_line(options, "flannel.1", |f| {
        format!("{}/{}", address::vxlan(f, node), f.bits())
    }));
    lines
}

fn vxlan_peer(options: &Options, other: u8) -> Vec<String> {
    let mut lines = Vec::new();
    for &family in options.families.list() {
        let (via, mac) = (address::vxlan(family, other), vxlan_mac(other));
        let cidr = address::pod_cidr(family, other);
        lines.push(format!("neigh replace {via} lladdr {mac} dev flannel.1 nud permanent"));
        lines.push(format!("route add {cidr} via {via} dev flannel.1 onlink"));
    }
    lines
}

/// Forwarding entries of the VXLAN device, for the `bridge` tool.
pub fn forwarding(options: &Options, node: u8) -> Vec<String> {
    if options.inter_node != InterNode::Vxlan {
        return Vec::new();
    }
    let others = (1..=options.nodes as u8).filter(|&other| other != node);
    let family = options.families.primary();
    others
        .map(|other| {
            let (mac, at) = (vxlan_mac(other), address::node(family, other));
            format!("fdb append {mac} dev flannel.1 dst {at}")
        })
        .collect()
}

/// The node's end of a pod's veth.
pub fn pod_device(options: &Options, index: u8) -> String {
    match options.pod_network {
        PodNetwork::Bridge => format!("veth{index}"),
        PodNetwork::PointToPoint => format!("cali{index}"),
    }
}

/// The lines a new pod needs in its node.
pub fn pod_in_node(options: &Options, node: u8, index: u8, namespace: &str) -> Vec<String> {
    let (device, mtu) = (pod_device(options, index), pod_mtu(options));
    let mut lines = vec![format!(
        "link add {device} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {namespace}"
    )];
    match options.pod_network {
        PodNetwork::Bridge => {
            lines.push(format!("link set {device} master cni0 up"));
            lines.push(format!("link set {device} type bridge_slave hairpin on"));
        }
        PodNetwork::PointToPoint => {
            lines.push(format!("link set {device} up"));
            if options.families.has(Family::V6) {
                lines.push(format!("addr add fe80::1/64 dev {device} nodad"));
            }
            for &family in options.families.list() {
                let pod = address::pod(family, node, index);
                lines.push(format!("route add {pod}/{} dev {device}", family.bits()));
            }
        }
    }
    lines
}

/// Settings a point-to-point pod's device needs in the node.
pub fn pod_sysctls(options: &Options, index: u8) -> Vec<(String, &'static str)> {
    if options.pod_network != PodNetwork::PointToPoint {
        return Vec::new();
    }
    let device = pod_device(options, index);
    // Without the second line the kernel waits up to 0.8 s before it answers for others.
    vec![
        (format!("ipv4/conf/{device}/proxy_arp"), "1"),
        (format!("ipv4/neigh/{device}/proxy_delay"), "0"),
    ]
}

/// The lines a new pod needs in its own namespace.
pub fn pod(options: &Options, node: u8, index: u8) -> Vec<String> {
    let mut lines = vec!["link set lo up".into(), "link set eth0 up".into()];
    let bridge = options.pod_network == PodNetwork::Bridge;
    lines.extend(address_line(options, "eth0", |f| {
        let prefix = if bridge { address::pod_prefix(f) } else { f.bits() };
        format!("{}/{prefix}", address::pod(f, node, index))
    }));
    if !bridge && options.families.has(Family::V4) {
        lines.push(format!("route add {PTP_GATEWAY}/32 dev eth0 scope link"));
    }
    for &family in options.families.list() {
        let gateway = match (bridge, family) {
            (true, family) => address::pod_gateway(family, node).to_string(),
            (false, Family::V4) => PTP_GATEWAY.to_owned(),
            (false, Family::V6) => "fe80::1".to_owned(),
        };
        lines.push(format!("route add {} via {gateway} dev eth0", everywhere(family)));
    }
    lines
}
