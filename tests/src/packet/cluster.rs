//! A little cluster for packets: two nodes with the same Services, in both families from one
//! description.
//!
//! Hosts are named by their IPv4 addresses; [`Host::of`] gives either family's.

use std::net::{Ipv4Addr, Ipv6Addr};

use millrace_common::address::{Address, Be16, Family, V4, V6};
use millrace_common::backend::{Backend, V6_PLACES, state};
use millrace_common::frontend::{Frontend, FrontendKey, Kind, SlotRange, flags};
use millrace_common::node::{
    DeviceRow, NodeFamily, NodeRow, Prefix, SERVICE_CIDRS, SourceKey, device, node,
};

use super::build::number::{SCTP, TCP, UDP};
use super::node::{InNode, Node};

/// A client in a pod of node A.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 10);
/// A backend in a pod of node A.
pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 20);
/// A backend in a pod of node B.
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 244, 2, 30);
/// A backend behind a device without a link layer: see [`super::kernel`].
pub const RAW: Ipv4Addr = Ipv4Addr::new(8, 0, 2, 30);
/// Node A.
pub const NODE_A: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 1);
/// Node B.
pub const NODE_B: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 2);
/// What the tunnel devices masquerade with.
pub const TUNNEL_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);
/// A router on the way.
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 0, 254);
/// A client outside that source ranges allow.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// As [`OUTSIDE`], behind a device without a link layer.
pub const RAW_OUTSIDE: Ipv4Addr = Ipv4Addr::new(8, 0, 100, 7);
/// A client outside that they do not allow.
pub const STRANGER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
/// The ClusterIP of all Services.
pub const CLUSTER_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// In the ServiceCIDR, and nobody's.
pub const UNALLOCATED: Ipv4Addr = Ipv4Addr::new(10, 96, 200, 200);
/// The load balancer's address.
pub const EXTERNAL: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

/// Leads to pods.
pub const POD: u32 = 1;
/// Leads outside.
pub const UPLINK: u32 = 2;
/// Leads to the other node's pods.
pub const TUNNEL: u32 = 3;
/// Leads outside, too.
pub const UPLINK_2: u32 = 4;

/// The only port to masquerade with: chance has no choice.
pub const MASQUERADE_PORT: u16 = 61_000;
/// Affinity of [`AFFINITY`].
const AFFINITY_SECS: u32 = 10_800;
/// Rows of IPv6 have numbers of their own: a backend's row is of one family.
const V6_BASE: u32 = 100;

/// One port of a Service.
#[derive(Clone, Copy, Debug)]
pub struct Port {
    /// Its number.
    pub id: u32,
    /// Where it is dialled.
    pub address: Ipv4Addr,
    /// Where it is dialled.
    pub port: u16,
    /// IANA protocol number.
    pub protocol: u8,
    kind: Kind,
    flags: u32,
    /// Whether the near and the far list have the backend.
    lists: (bool, bool),
    /// Its only backend.
    pub backend: (Ipv4Addr, u16),
}

const fn port(id: u32, kind: Kind, dialled: (Ipv4Addr, u16, u8), backend: (Ipv4Addr, u16)) -> Port {
    let (address, port, protocol) = dialled;
    Port { id, address, port, protocol, kind, flags: 0, lists: (true, true), backend }
}

impl Port {
    const fn with(self, flags: u32) -> Self {
        Self { flags, ..self }
    }
    const fn lists(self, near: bool, far: bool) -> Self {
        Self { lists: (near, far), ..self }
    }
}

use Kind::{ClusterIp, LoadBalancer, NodePort};

/// ClusterIP, other port, backend on B.
pub const WEB: Port = port(1, ClusterIp, (CLUSTER_IP, 80, TCP), (FAR, 8080));
/// ClusterIP, same port, backend on A.
pub const SAME: Port = port(2, ClusterIp, (CLUSTER_IP, 8081, TCP), (NEAR, 8081));
/// ClusterIP, UDP.
pub const DNS: Port = port(3, ClusterIp, (CLUSTER_IP, 53, UDP), (FAR, 5353));
/// As [`DNS`], to the same backend.
pub const DNS_2: Port = port(4, ClusterIp, (CLUSTER_IP, 54, UDP), (FAR, 5353));
/// ClusterIP without a backend.
pub const EMPTY: Port = port(5, ClusterIp, (CLUSTER_IP, 81, TCP), (FAR, 1)).lists(false, false);
/// As [`EMPTY`], UDP.
pub const EMPTY_UDP: Port = port(6, ClusterIp, (CLUSTER_IP, 82, UDP), (FAR, 1)).lists(false, false);
/// The client is its own backend.
pub const SELF: Port = port(7, ClusterIp, (CLUSTER_IP, 83, TCP), (CLIENT, 8083));
/// SCTP.
pub const ASSOCIATION: Port = port(8, ClusterIp, (CLUSTER_IP, 132, SCTP), (FAR, 132));
/// SCTP whose port would have to change.
pub const ASSOCIATION_2: Port = port(9, ClusterIp, (CLUSTER_IP, 133, SCTP), (FAR, 134));
/// NodePort, policy Cluster.
pub const NODE_PORT: Port = port(10, NodePort, (NODE_A, 30_080, TCP), (FAR, 8080));
/// As [`NODE_PORT`], UDP.
pub const NODE_PORT_UDP: Port = port(11, NodePort, (NODE_A, 30_053, UDP), (FAR, 5353));
/// NodePort, policy Local.
pub const NODE_PORT_LOCAL: Port =
    port(12, NodePort, (NODE_A, 30_081, TCP), (NEAR, 8081)).with(flags::FAR_LOCAL);
/// NodePort of the node's own processes.
pub const NODE_ONLY: Port =
    port(13, NodePort, (NODE_A, 30_090, TCP), (NEAR, 8081)).with(flags::NODE_ONLY);
/// Load balancer, policy Local, no backend here.
pub const LOCAL_EMPTY: Port = port(14, LoadBalancer, (EXTERNAL, 80, TCP), (FAR, 8080))
    .with(flags::FAR_LOCAL | flags::FAR_DROP)
    .lists(true, false);
/// Load balancer with source ranges.
pub const RANGES: Port =
    port(15, LoadBalancer, (EXTERNAL, 443, TCP), (NEAR, 8443)).with(flags::SOURCE_RANGES);
/// Load balancer with affinity.
pub const AFFINITY: Port =
    port(16, LoadBalancer, (EXTERNAL, 8000, TCP), (NEAR, 8000)).with(flags::AFFINITY);
/// ClusterIP whose backend's row is another service's: a bug of the agent.
pub const BROKEN: Port = port(17, ClusterIp, (CLUSTER_IP, 84, TCP), (FAR, 84));
/// Load balancer, policy Local, backend here, UDP.
pub const LOCAL_UDP: Port =
    port(18, LoadBalancer, (EXTERNAL, 53, UDP), (NEAR, 5353)).with(flags::FAR_LOCAL);
/// Load balancer, policy Local, backend behind a device without a link layer.
pub const RAW_LOCAL: Port =
    port(19, LoadBalancer, (EXTERNAL, 8008, TCP), (RAW, 8080)).with(flags::FAR_LOCAL);

/// Load balancer whose row is another key's, as a program may find it that was kept from reading.
pub const RECYCLED: Port = port(20, LoadBalancer, (EXTERNAL, 8085, TCP), (FAR, 8085));

/// All of them.
pub const PORTS: [Port; 20] = [
    WEB,
    SAME,
    DNS,
    DNS_2,
    EMPTY,
    EMPTY_UDP,
    SELF,
    ASSOCIATION,
    ASSOCIATION_2,
    NODE_PORT,
    NODE_PORT_UDP,
    NODE_PORT_LOCAL,
    NODE_ONLY,
    LOCAL_EMPTY,
    RANGES,
    AFFINITY,
    BROKEN,
    RECYCLED,
    LOCAL_UDP,
    RAW_LOCAL,
];

/// A family, as hosts are named in it.
pub trait Host: InNode {
    /// A host's address.
    fn of(host: Ipv4Addr) -> Self;
    /// The prefix length that a length has in it.
    fn bits(v4: u32) -> u32;
}

impl Host for V4 {
    fn of(host: Ipv4Addr) -> Self {
        host.into()
    }
    fn bits(v4: u32) -> u32 {
        v4
    }
}

impl Host for V6 {
    fn of(host: Ipv4Addr) -> Self {
        twin(host).into()
    }
    fn bits(v4: u32) -> u32 {
        if v4 <= 16 { 64 } else { v4 + 96 }
    }
}

/// The IPv6 address of a host: its first two numbers make the /64, the others the rest. (Hosts in
/// 8/8 have IPv6's ethertype in theirs: see [`super::kernel`].)
pub fn twin(address: Ipv4Addr) -> Ipv6Addr {
    let [a, b, c, d] = address.octets();
    let mark = if a == 8 { 0x86dd } else { 0 };
    Ipv6Addr::new(0xfd00, a.into(), mark, b.into(), 0, 0, 0, u16::from_be_bytes([c, d]))
}

/// The number that a Service port's rows have in a family.
pub fn number<A: Address>(id: u32) -> u32 {
    if A::FAMILY == Family::V4 { id } else { V6_BASE + V6_PLACES * id }
}

/// A node of the cluster, at rest.
pub fn node(address: Ipv4Addr) -> Node {
    let mut rows = Node::default();
    let row = |flags, masquerade: Ipv4Addr| {
        let v6 = if masquerade.is_unspecified() { V6::ZERO } else { V6::of(masquerade) };
        DeviceRow {
            flags,
            masquerade_v4: V4::of(masquerade),
            masquerade_v6: v6,
            bridge: [0; 6],
            pad: 0,
        }
    };
    let own = Ipv4Addr::UNSPECIFIED;
    rows.devices.insert(POD, row(device::POD | device::FROM_PODS, own));
    rows.devices.insert(UPLINK, row(device::UPLINK, own));
    rows.devices.insert(TUNNEL, row(device::TUNNEL, TUNNEL_ADDRESS));
    rows.devices.insert(UPLINK_2, row(device::UPLINK, own));
    rows.row = Some(NodeRow {
        flags: node::KNOWN | node::DETECTOR | node::DETECT_BY_DEVICE,
        first_port: MASQUERADE_PORT,
        last_port: MASQUERADE_PORT,
        v4: family(address),
        v6: family(address),
    });
    for port in &PORTS {
        add::<V4>(&mut rows, port);
        add::<V6>(&mut rows, port);
    }
    finish::<V4>(&mut rows);
    finish::<V6>(&mut rows);
    rows
}

fn family<A: Host>(address: Ipv4Addr) -> NodeFamily<A> {
    let services = prefix::<A>(CLUSTER_IP, 16);
    let mut service_cidrs = [Prefix::NONE; SERVICE_CIDRS];
    service_cidrs[0] = services;
    NodeFamily {
        address: A::of(address),
        pods: Prefix::NONE,
        service_hull: services,
        service_cidrs,
    }
}

fn prefix<A: Host>(address: Ipv4Addr, v4_bits: u32) -> Prefix<A> {
    let bits = A::bits(v4_bits);
    let mask: Vec<u8> = (0..size_of::<A>() as u32)
        .map(|byte| !(0xff_u32 >> bits.saturating_sub(8 * byte).min(8)) as u8)
        .collect();
    let mask = A::from_bytes(&mask).unwrap_or(A::ZERO);
    Prefix { address: A::of(address).and(mask), mask }
}

fn add<A: Host>(node: &mut Node, port: &Port) {
    let id = number::<A>(port.id);
    let list = |filled| SlotRange { first: id, count: u32::from(filled) };
    let key = FrontendKey::new(A::of(port.address), Be16::new(port.port), port.protocol);
    let frontend = Frontend {
        service: id,
        flags: port.flags | port.kind.bits(),
        near: list(port.lists.0),
        far: list(port.lists.1),
        affinity_secs: AFFINITY_SECS,
        check: if port.id == RECYCLED.id { !key.check() } else { key.check() },
    };
    let backend = Backend {
        address: A::of(port.backend.0),
        port: Be16::new(port.backend.1),
        state: state::CLUSTER | state::LOCAL | state::SERVING,
        family: A::FAMILY as u8,
        generation: 1,
        service: if port.id == BROKEN.id { id + 1 } else { id },
    };
    node.slots.insert(id, id);
    let rows = A::rows_mut(node);
    rows.frontends.insert(key, frontend);
    rows.backends.insert(id, backend);
}

/// What belongs to no port: the ClusterIP as such, source ranges.
fn finish<A: Host>(node: &mut Node) {
    let rows = A::rows_mut(node);
    let (key, place) = FrontendKey::of_block(A::of(CLUSTER_IP));
    rows.frontends.insert(key, Frontend::of_block(&key, 1 << place));
    let range = prefix::<A>(OUTSIDE, 24);
    rows.source_ranges.insert(SourceKey::new(number::<A>(RANGES.id), range.address, A::bits(24)));
}
