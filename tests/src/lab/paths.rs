//! More ways to a node than one device: a second uplink as on EKS, a distant client behind a hop
//! that is narrower than the rest. Pure text, as [`super::topology`].
//!
//! ```text
//!   outside ── eth0 ── br0 ── eth0 ── n1        distant ── r1 ── MTU 1280 ── r2 ── br0 ── n1
//!      └────── eth1 ── br1 ── eth1 ──┘
//! ```

use super::address::{self, Family};
use super::options::Options;
use super::topology::{address_line, direct_routes, everywhere};

/// The table that pods of the second uplink are routed by.
const SECOND_TABLE: u16 = 101;
/// Bit that the CNI plugin of EKS marks connections with that came in by the first uplink.
pub const FIRST_UPLINK_MARK: u32 = 0x80;
/// Order of the rules, as on EKS: to the node's own pods, marked packets, pods by source.
const TO_POD_PRIORITY: u16 = 512;
const MARKED_PRIORITY: u16 = 1024;
const FROM_POD_PRIORITY: u16 = 1536;

/// The second underlay: a bridge beside the first, whose gateway routes everything it can.
pub fn second_underlay(options: &Options, members: &[(String, String)]) -> Vec<String> {
    let mut lines = vec!["link add br1 type bridge".into(), "link set br1 up".into()];
    for (port, namespace) in members {
        lines.push(format!("link add {port}b type veth peer name eth1 netns {namespace}"));
        lines.push(format!("link set {port}b master br1 up"));
    }
    lines.extend(address_line(options, "br1", |f| {
        format!("{}/{}", address::second_gateway(f), address::underlay_prefix(f))
    }));
    for node in 1..=options.nodes as u8 {
        lines.extend(direct_routes(options, node));
    }
    lines
}

/// The outside client's second device.
pub fn second_outside(options: &Options) -> Vec<String> {
    second_device(options, address::second_outside)
}

/// A node's second device and the table that leads to it.
pub fn second_uplink(options: &Options, node: u8) -> Vec<String> {
    let mut lines = second_device(options, |family| address::second_node(family, node));
    for &family in options.families.list() {
        let (all, via) = (everywhere(family), address::second_gateway(family));
        lines.push(format!("route add {all} via {via} dev eth1 table {SECOND_TABLE}"));
    }
    lines
}

/// The rules of a node with two uplinks that do not depend on its pods.
pub fn second_uplink_rules(family: Family, node: u8) -> Vec<String> {
    let (mark, own) = (FIRST_UPLINK_MARK, address::pod_cidr(family, node));
    vec![
        format!("rule add to {own} lookup main priority {TO_POD_PRIORITY}"),
        format!("rule add fwmark {mark:#x}/{mark:#x} lookup main priority {MARKED_PRIORITY}"),
    ]
}

fn second_device(options: &Options, pick: impl Fn(Family) -> std::net::IpAddr) -> Vec<String> {
    let mut lines = vec!["link set eth1 up".into()];
    lines.extend(address_line(options, "eth1", |family| {
        format!("{}/{}", pick(family), address::underlay_prefix(family))
    }));
    lines
}

/// The rule that makes a pod leave its node by the second uplink.
pub fn by_second_uplink(family: Family, node: u8, pod: u8) -> String {
    let (from, bits) = (address::pod(family, node, pod), family.bits());
    format!("rule add from {from}/{bits} lookup {SECOND_TABLE} priority {FROM_POD_PRIORITY}")
}

/// The nodes' router: eth0 is on the underlay; makes the narrow hop to the other router.
pub fn near_router(options: &Options, mtu: u32, other: &str) -> Vec<String> {
    let mut lines = vec!["link set lo up".into(), "link set eth0 up".into()];
    lines.push(format!("link add hop mtu {mtu} type veth peer name hop mtu {mtu} netns {other}"));
    lines.push("link set hop up".into());
    lines.extend(address_line(options, "eth0", |f| {
        format!("{}/{}", address::hop_router(f), address::underlay_prefix(f))
    }));
    lines.extend(address_line(options, "hop", |f| {
        format!("{}/{}", address::hop(f)[1], address::underlay_prefix(f))
    }));
    for &family in options.families.list() {
        let (cidr, via) = (address::distant_cidr(family), address::hop(family)[0]);
        lines.push(format!("route add {cidr} via {via}"));
    }
    for node in 1..=options.nodes as u8 {
        lines.extend(direct_routes(options, node));
    }
    lines
}

/// The distant client's router, which makes the link to it.
pub fn far_router(options: &Options, client: &str) -> Vec<String> {
    let mut lines = vec!["link set lo up".into(), "link set hop up".into()];
    lines.push(format!("link add eth0 type veth peer name eth0 netns {client}"));
    lines.push("link set eth0 up".into());
    lines.extend(address_line(options, "hop", |f| {
        format!("{}/{}", address::hop(f)[0], address::underlay_prefix(f))
    }));
    lines.extend(address_line(options, "eth0", |f| {
        format!("{}/{}", address::distant_gateway(f), address::underlay_prefix(f))
    }));
    for &family in options.families.list() {
        let via = address::hop(family)[1];
        lines.push(format!("route add {} via {via}", everywhere(family)));
    }
    lines
}

/// The distant client itself.
pub fn distant(options: &Options) -> Vec<String> {
    let mut lines = vec!["link set lo up".into(), "link set eth0 up".into()];
    lines.extend(address_line(options, "eth0", |f| {
        format!("{}/{}", address::distant(f), address::underlay_prefix(f))
    }));
    for &family in options.families.list() {
        let via = address::distant_gateway(family);
        lines.push(format!("route add {} via {via}", everywhere(family)));
    }
    lines
}

/// A node's way to the distant client.
pub fn to_distant(options: &Options) -> Vec<String> {
    let route = |&family: &Family| {
        let (cidr, via) = (address::distant_cidr(family), address::hop_router(family));
        format!("route add {cidr} via {via}")
    };
    options.families.list().iter().map(route).collect()
}
