//! A packet under a hook, as the code that translates it wants to see it.

use crate::address::Be16;
use crate::row::Row;

/// What a hook says to the kernel. (One number, not an enum: it goes through BPF's one return
/// register, and no part of it is ever uninitialised.)
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Verdict(u64);

impl Verdict {
    /// On to the next program, and then on its way.
    pub const NEXT: Self = Self(0);
    /// It is lost.
    pub const DROP: Self = Self(1);
    /// It was made an answer: out by the device it came in by.
    pub const RETURN: Self = Self(2);
    /// No verdict yet: somebody else has to decide. Never leaves [`packet`](super).
    pub const NONE: Self = Self(3);
    /// Set in a redirect; the upper half is the device.
    const REDIRECT: u64 = 4;

    /// Out by that device (an interface index), whatever the routing said.
    #[inline(always)]
    pub const fn redirect(device: u32) -> Self {
        Self(Self::REDIRECT | (device as u64) << 32)
    }
    /// The device, if it is a redirect.
    #[inline(always)]
    pub const fn redirected_to(self) -> Option<u32> {
        if self.0 & Self::REDIRECT != 0 { Some((self.0 >> 32) as u32) } else { None }
    }
}

/// `ETH_P_IP`.
pub const ETHERTYPE_V4: Be16 = Be16::new(0x0800);
/// `ETH_P_IPV6`.
pub const ETHERTYPE_V6: Be16 = Be16::new(0x86dd);

/// Bytes of an Ethernet header; devices without one (tun, ipip, WireGuard) have 0.
pub const ETHERNET_BYTES: u32 = 14;

/// A packet. Offsets are in bytes from its first byte, the link layer's header included.
///
/// In the kernel these are the helpers on `__sk_buff`, which know of checksums that hardware has
/// yet to compute; natively they work on a plain buffer.
#[expect(clippy::len_without_is_empty, reason = "a packet under a hook is never empty")]
pub trait Frame {
    /// Whether headers are read and written in as few steps as can be. Verifiers of older kernels
    /// give up over that.
    const SWIFT: bool;
    /// Length of the whole packet.
    fn len(&self) -> u32;
    /// Bytes of the link layer's header: [`ETHERNET_BYTES`] or 0.
    fn link_bytes(&self) -> u32;
    /// Bytes of the packet without that header: with padding, if it came in by a wire with any.
    /// (What the headers say would be exact, but many more states for the verifier.)
    #[inline(always)]
    fn network_bytes(&self) -> u32 {
        self.len() - self.link_bytes()
    }
    /// The number, of which the verifier knows nothing from here on: it walks again through all
    /// that follows for every value it can tell apart.
    #[inline(always)]
    fn forget(&self, number: u32) -> u32 {
        number
    }
    /// The network protocol (`__sk_buff.protocol`).
    fn ethertype(&self) -> Be16;
    /// Index of the device under whose hook we are.
    fn device_index(&self) -> u32;
    /// Whether its link layer address is another host's (`PACKET_OTHERHOST`): a device that listens
    /// to everything, or a bridge's port.
    fn is_for_another_host(&self) -> bool;
    /// Read; nothing if the packet is shorter.
    fn load<T: Row>(&self, offset: u32) -> Option<T>;
    /// As [`load`](Self::load), for what is read of every packet.
    #[inline(always)]
    fn load_header<T: Row>(&self, offset: u32) -> Option<T> {
        self.load(offset)
    }
    /// Write; false if the packet is shorter or there is no memory.
    fn store<T: Row>(&self, offset: u32, value: &T) -> bool;
    /// Update the IPv4 header checksum at `offset` for a change whose
    /// [difference](crate::address::Address::checksum_difference) is given (`bpf_l3_csum_replace`).
    fn update_header_checksum(&self, offset: u32, difference: u32) -> bool;
    /// Update a transport checksum at `offset` for a change of the pseudo header or of what the
    /// checksum covers itself (`bpf_l4_csum_replace`).
    fn update_checksum(&self, offset: u32, difference: u32, how: Checksum) -> bool;
    /// Cut to, or grow by zeroes to, `len` bytes (`bpf_skb_change_tail`).
    fn resize(&self, len: u32) -> bool;
}

/// How [`Frame::update_checksum`] goes about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksum {
    /// The change is of an address, which is in the pseudo header (`BPF_F_PSEUDO_HDR`).
    pub pseudo: bool,
    /// Zero means "no checksum" and stays (`BPF_F_MARK_MANGLED_0`): UDP.
    pub optional: bool,
    /// The packet is IPv6, which has no header checksum to balance the change (`BPF_F_IPV6`).
    pub v6: bool,
}
