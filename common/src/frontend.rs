//! Frontends: the (address, port, protocol) that clients dial.

use crate::address::{Address, Be16, V4, V6};
use crate::flow_filter::MIX;
use crate::row::Row;

/// Key of the `frontends_v4` and `frontends_v6` maps.
///
/// A NodePort has one row per address it is served on, so that the look-up of a destination that is
/// no frontend costs one miss and no second question.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FrontendKey<A> {
    /// Destination address.
    pub address: A,
    /// Destination port.
    pub port: Be16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

impl<A: Address> FrontendKey<A> {
    /// The key of a destination.
    pub const fn new(address: A, port: Be16, protocol: u8) -> Self {
        Self { address, port, protocol, pad: 0 }
    }

    /// What is in [`Frontend::check`] of its row.
    #[inline(always)]
    pub fn check(&self) -> u32 {
        let words = core::ptr::from_ref(self).cast::<u32>();
        let mut sum = 0_u64;
        for word in 0..size_of::<Self>() / size_of::<u32>() {
            // SAFETY: a key is made of aligned words.
            let word = unsafe { words.add(word).read() };
            sum = (sum ^ u64::from(word)).wrapping_mul(MIX);
        }
        (sum >> u32::BITS) as u32
    }
}

// SAFETY: 4 + 2 + 1 + 1 bytes, checked by `layout` below.
unsafe impl Row for FrontendKey<V4> {}
// SAFETY: 16 + 2 + 1 + 1 bytes, checked by `layout` below.
unsafe impl Row for FrontendKey<V6> {}

/// A contiguous run of rows of the `slots` map: the backends of one list, each equally likely.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SlotRange {
    /// Index of the first slot.
    pub first: u32,
    /// How many.
    pub count: u32,
}

/// Value of the `frontends_*` maps. One write of this row switches a service to a new set of
/// backends: no packet sees a mixture.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Frontend {
    /// Row of the `services` map: the service port this belongs to.
    pub service: u32,
    /// See [`flags`].
    pub flags: u32,
    /// Backends for clients on this node: its pods and its own processes.
    pub near: SlotRange,
    /// Backends for traffic that arrives from outside the node.
    pub far: SlotRange,
    /// ClientIP affinity timeout in seconds; meaningful with [`flags::AFFINITY`].
    pub affinity_secs: u32,
    /// [`FrontendKey::check`] of its key, in the last word, which the kernel writes last. The
    /// element of a row that is replaced is another key's at once, not when nobody reads it any
    /// more (`bpf_mem_alloc`, Linux 6.1), and a program may be preempted before it reads: whoever
    /// finds another check looks the key up once more.
    pub check: u32,
}

// SAFETY: eight 32-bit words, checked by `layout` below.
unsafe impl Row for Frontend {}

impl Frontend {
    /// Whether a flag is set.
    pub const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
    /// What kind of address clients dial.
    pub const fn kind(&self) -> Option<Kind> {
        Kind::from_number((self.flags >> flags::KIND_SHIFT) as u8)
    }
}

/// What kind of address a frontend is; in the top byte of [`Frontend::flags`].
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// `spec.clusterIPs`.
    ClusterIp = 1,
    /// `spec.externalIPs`.
    ExternalIp = 2,
    /// `status.loadBalancer.ingress[].ip`.
    LoadBalancer = 3,
    /// `spec.ports[].nodePort` on one of the node's addresses.
    NodePort = 4,
    /// ClusterIPs as such, a block of them: see [`crate::cluster_ips`]. Nobody dials it.
    ClusterIps = 5,
}

impl Kind {
    /// From the number in the flags.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::ClusterIp),
            2 => Some(Self::ExternalIp),
            3 => Some(Self::LoadBalancer),
            4 => Some(Self::NodePort),
            5 => Some(Self::ClusterIps),
            _ => None,
        }
    }
    /// The bits to set in [`Frontend::flags`].
    pub const fn bits(self) -> u32 {
        (self as u32) << flags::KIND_SHIFT
    }
    /// The name shown to people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClusterIp => "ClusterIP",
            Self::ExternalIp => "ExternalIP",
            Self::LoadBalancer => "LoadBalancer",
            Self::NodePort => "NodePort",
            Self::ClusterIps => "ClusterIPs",
        }
    }
}

/// Bits of [`Frontend::flags`].
pub mod flags {
    /// ClientIP session affinity is on.
    pub const AFFINITY: u32 = 1 << 0;
    /// Only sockets of the node's own network namespace may use it: a NodePort on a loopback
    /// address. A pod's 127.0.0.1 is its own.
    pub const NODE_ONLY: u32 = 1 << 1;
    /// The near list is empty because of a Local policy, while backends exist elsewhere: drop
    /// silently instead of rejecting.
    pub const NEAR_DROP: u32 = 1 << 2;
    /// As [`NEAR_DROP`], for the far list.
    pub const FAR_DROP: u32 = 1 << 3;
    /// The near list is the Local list (else the Cluster list).
    pub const NEAR_LOCAL: u32 = 1 << 4;
    /// The far list is the Local list (else the Cluster list).
    pub const FAR_LOCAL: u32 = 1 << 5;
    /// Source ranges apply: only a hook that knows the client's address may translate.
    pub const SOURCE_RANGES: u32 = 1 << 6;
    /// With [`SOURCE_RANGES`]: the node's own address is in one of them, so its own sockets may.
    pub const NODE_ALLOWED: u32 = 1 << 7;
    /// Where the [`Kind`](super::Kind) begins.
    pub const KIND_SHIFT: u32 = 24;
}

const _LAYOUT: () = {
    assert!(size_of::<FrontendKey<V4>>() == 8 && size_of::<FrontendKey<V6>>() == 20);
    assert!(core::mem::offset_of!(FrontendKey<V4>, port) == 4);
    assert!(core::mem::offset_of!(FrontendKey<V6>, port) == 16);
    assert!(size_of::<Frontend>() == 32 && core::mem::offset_of!(Frontend, far) == 16);
};
