//! This node, as the packet path must know it: its devices, its addresses, its policy.

use crate::address::{Address, V4, V6};
use crate::row::Row;

/// Value of the `devices` map (key: interface index).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DeviceRow {
    /// See [`device`].
    pub flags: u32,
    /// What masqueraded packets that leave here come from, IPv4; zero: the node's own
    /// ([`NodeFamily::address`]).
    pub masquerade_v4: V4,
    /// As above, IPv6.
    pub masquerade_v6: V6,
    /// Link layer address of the bridge it is a port of; zero: it is none's.
    pub bridge: [u8; 6],
    /// Zero.
    pub pad: u16,
}

/// Bits of [`DeviceRow::flags`].
pub mod device {
    /// Leads to pods.
    pub const POD: u32 = 1 << 0;
    /// Leads out of the node: answers leave by the uplink the request came in by.
    pub const UPLINK: u32 = 1 << 1;
    /// Carries pods' packets to other nodes.
    pub const TUNNEL: u32 = 1 << 2;
    /// What comes in by it is from this node's pods: the local-traffic detector's answer, when it
    /// goes by device ([`node::DETECT_BY_DEVICE`](super::node::DETECT_BY_DEVICE)).
    pub const FROM_PODS: u32 = 1 << 3;
}

/// The single row of the `node` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeRow {
    /// See [`node`].
    pub flags: u32,
    /// First port for masqueraded flows, host order.
    pub first_port: u16,
    /// Last port for masqueraded flows, host order. Below `first_port`: none may be used.
    pub last_port: u16,
    /// IPv4.
    pub v4: NodeFamily<V4>,
    /// IPv6.
    pub v6: NodeFamily<V6>,
}

/// Bits of [`NodeRow::flags`].
#[expect(clippy::module_inception, reason = "named like `device`, and used as `node::FLAG`")]
pub mod node {
    /// Masquerade what pods send to ClusterIPs as well.
    pub const MASQUERADE_ALL: u32 = 1 << 0;
    /// There is a local-traffic detector. Without one, everything sent to a ClusterIP counts as
    /// from pods, and nothing sent to an external address does.
    pub const DETECTOR: u32 = 1 << 1;
    /// The detector goes by [`device::FROM_PODS`](super::device::FROM_PODS), else by
    /// [`NodeFamily::pods`](super::NodeFamily::pods).
    pub const DETECT_BY_DEVICE: u32 = 1 << 2;
    /// The row was written. (All zero, its prefixes would contain every address.)
    pub const KNOWN: u32 = 1 << 3;
    /// A device is a bridge's port ([`DeviceRow::bridge`](super::DeviceRow::bridge)).
    pub const BRIDGED: u32 = 1 << 4;
}

/// ServiceCIDRs that are told apart, of each family.
pub const SERVICE_CIDRS: usize = 4;

/// One family's part of [`NodeRow`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeFamily<A> {
    /// The node's address; zero: it has none.
    pub address: A,
    /// Where pods' addresses are, if the detector goes by address.
    pub pods: Prefix<A>,
    /// Contains every ClusterIP there is: outside it nothing needs a closer look.
    pub service_hull: Prefix<A>,
    /// What lies in one of these and is no ClusterIP is dropped.
    pub service_cidrs: [Prefix<A>; SERVICE_CIDRS],
}

/// A network.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix<A> {
    /// Its address; host bits zero.
    pub address: A,
    /// Its mask.
    pub mask: A,
}

impl<A: Address> Prefix<A> {
    /// Contains nothing: no address has bits outside its mask.
    pub const NONE: Self = Self { address: A::ONES, mask: A::ZERO };
    /// Whether it contains an address.
    #[inline(always)]
    pub fn contains(&self, address: A) -> bool {
        address.and(self.mask) == self.address
    }
}

/// Key of the `source_ranges_*` maps (LPM tries): who may use the frontends of a service port that
/// have [`SOURCE_RANGES`](crate::frontend::flags::SOURCE_RANGES). Value: a `u32`, 1.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SourceKey<A> {
    /// Bits of `net` that count: [`SERVICE_BITS`] and the prefix length.
    pub bits: u32,
    /// What is matched.
    pub net: SourceNet<A>,
}

/// The part of [`SourceKey`] that is matched.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct SourceNet<A> {
    /// Service id, network order.
    pub service: [u8; 4],
    /// Network.
    pub address: A,
}

/// Bits of [`SourceNet::service`].
pub const SERVICE_BITS: u32 = 32;

impl<A: Address> SourceKey<A> {
    /// The key of a range, or of one address with a prefix of its whole length.
    #[inline(always)]
    pub const fn new(service: u32, address: A, prefix: u32) -> Self {
        let net = SourceNet { service: service.to_be_bytes(), address };
        Self { bits: SERVICE_BITS + prefix, net }
    }
}

// SAFETY: 4 + 4 + 16 + 6 + 2 bytes, checked by `_LAYOUT`.
unsafe impl Row for DeviceRow {}
// SAFETY: 4 + 2 + 2 bytes and addresses, checked by `_LAYOUT`.
unsafe impl Row for NodeRow {}
// SAFETY: 4 + 4 bytes and an address.
unsafe impl Row for SourceKey<V4> {}
// SAFETY: 4 + 4 bytes and an address.
unsafe impl Row for SourceKey<V6> {}

const _LAYOUT: () = {
    assert!(size_of::<DeviceRow>() == 32);
    assert!(size_of::<NodeFamily<V4>>() == 52 && size_of::<NodeFamily<V6>>() == 208);
    assert!(size_of::<NodeRow>() == 8 + 52 + 208);
    assert!(size_of::<SourceKey<V4>>() == 12 && size_of::<SourceKey<V6>>() == 24);
};
