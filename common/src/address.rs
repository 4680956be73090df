//! Addresses, ports and protocols, each with its byte order in the type.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::cluster_ips::BLOCK_ADDRESSES;
use crate::row::Row;

/// The first three 32-bit words of an IPv4-mapped IPv6 address (`::ffff:0:0/96`), network order.
const MAPPED_PREFIX: [u32; 3] = [0, 0, u32::from_be_bytes([0, 0, 0xff, 0xff]).to_be()];

/// A 16-bit number in network byte order: a port as packets and socket addresses carry it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Be16(u16);

impl Be16 {
    /// From a number in host order.
    pub const fn new(host: u16) -> Self {
        Self(host.to_be())
    }
    /// From the bits as they stand in a packet or a `bpf_sock_addr`.
    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
    /// The bits as they stand in a packet.
    pub const fn raw(self) -> u16 {
        self.0
    }
    /// The number in host order.
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.get(), f)
    }
}

/// An IPv4 address in network byte order.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct V4(u32);

/// An IPv6 address in network byte order, as four words (the shape `bpf_sock_addr` has).
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct V6([u32; 4]);

// SAFETY: a transparent wrapper of an integer.
unsafe impl Row for V4 {}
// SAFETY: a transparent wrapper of integers.
unsafe impl Row for V6 {}

impl V4 {
    /// From the bits as they stand in a packet.
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
    /// The bits as they stand in a packet.
    pub const fn raw(self) -> u32 {
        self.0
    }
    /// The IPv4-mapped IPv6 address (RFC 4291 section 2.5.5.2).
    pub const fn mapped(self) -> V6 {
        V6([MAPPED_PREFIX[0], MAPPED_PREFIX[1], MAPPED_PREFIX[2], self.0])
    }
}

impl V6 {
    /// From the words as they stand in a packet.
    pub const fn from_raw(raw: [u32; 4]) -> Self {
        Self(raw)
    }
    /// The words as they stand in a packet.
    pub const fn raw(self) -> [u32; 4] {
        self.0
    }
    /// The IPv4 address inside, if this is an IPv4-mapped address.
    pub const fn unmapped(self) -> Option<V4> {
        let [a, b, c, d] = self.0;
        if a == MAPPED_PREFIX[0] && b == MAPPED_PREFIX[1] && c == MAPPED_PREFIX[2] {
            Some(V4(d))
        } else {
            None
        }
    }
}

impl From<Ipv4Addr> for V4 {
    fn from(address: Ipv4Addr) -> Self {
        Self(u32::from_ne_bytes(address.octets()))
    }
}

impl From<V4> for Ipv4Addr {
    fn from(address: V4) -> Self {
        Self::from(address.0.to_ne_bytes())
    }
}

impl From<Ipv6Addr> for V6 {
    fn from(address: Ipv6Addr) -> Self {
        let mut words = [0; 4];
        let octets = address.octets();
        for (word, bytes) in words.iter_mut().zip(octets.as_chunks::<4>().0) {
            *word = u32::from_ne_bytes(*bytes);
        }
        Self(words)
    }
}

impl From<V6> for Ipv6Addr {
    fn from(address: V6) -> Self {
        let mut octets = [0; 16];
        for (bytes, word) in octets.as_chunks_mut::<4>().0.iter_mut().zip(address.0) {
            *bytes = word.to_ne_bytes();
        }
        Self::from(octets)
    }
}

impl fmt::Debug for V4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv4Addr::from(*self), f)
    }
}

impl fmt::Debug for V6 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&Ipv6Addr::from(*self), f)
    }
}

/// What the code is generic over: [`V4`] or [`V6`].
pub trait Address: Row + Eq + Ord + core::hash::Hash + fmt::Debug + Into<IpAddr> {
    /// Which of the two it is.
    const FAMILY: Family;
    /// The address as IPv6, IPv4-mapped if it is IPv4: the one form in which both are remembered.
    fn to_v6(self) -> V6;
    /// Back from the remembered form; nothing if it is of the other family.
    fn from_v6(address: V6) -> Option<Self>;
    /// The unspecified address.
    const ZERO: Self;
    /// All bits set.
    const ONES: Self;
    /// Bit by bit.
    fn and(self, mask: Self) -> Self;
    /// The first address of the block it is in ([`BLOCK_ADDRESSES`]), and its place there.
    fn in_block(self) -> (Self, u32);
    /// The checksum's difference when `self` becomes `new`: the one's complement sum of all words
    /// of `new` and of the complements of those of `self` (RFC 1624), not folded.
    fn checksum_difference(self, new: Self) -> u32;
}

/// The last word of an address, in network order: that of its block's first one, and its place.
#[inline(always)]
const fn split_word(word: u32) -> (u32, u32) {
    let place = u32::from_be(word) % BLOCK_ADDRESSES;
    (word & !place.to_be(), place)
}

/// One's complement sum of two partial sums.
#[inline(always)]
pub const fn checksum_add(a: u32, b: u32) -> u32 {
    fold_carries(a as u64 + b as u64)
}

/// A checksum as it stands in a header, after a change of what it covers (RFC 1624).
#[inline(always)]
pub const fn checksum_replace(checksum: u16, difference: u32) -> u16 {
    let sum = checksum_add(!checksum as u32, difference);
    let once = (sum & 0xffff) + (sum >> 16);
    !((once & 0xffff) + (once >> 16)) as u16
}

/// [`Address::checksum_difference`] of IPv6. Not inlined: there are many callers, and the stack of
/// a BPF program is small.
#[inline(never)]
fn difference_of_eight(old: &[u32; 4], new: &[u32; 4]) -> u32 {
    let ([a, b, c, d], [e, f, g, h]) = (*old, *new);
    let word = |word: u32| u64::from(word);
    let gone = word(!a) + word(!b) + word(!c) + word(!d);
    fold_carries(gone + word(e) + word(f) + word(g) + word(h))
}

/// A sum of 32-bit words with its carries added to its end.
///
/// Not by `overflowing_add`: BPF has no carry flag, so that becomes a branch, and each addition
/// then doubles the ways that the verifier follows (more than its million on Linux 6.1).
#[inline(always)]
const fn fold_carries(sum: u64) -> u32 {
    const WORD: u64 = u32::MAX as u64;
    let sum = (sum & WORD) + (sum >> u32::BITS);
    ((sum & WORD) + (sum >> u32::BITS)) as u32
}

impl From<V4> for IpAddr {
    fn from(address: V4) -> Self {
        Self::V4(address.into())
    }
}

impl From<V6> for IpAddr {
    fn from(address: V6) -> Self {
        Self::V6(address.into())
    }
}

impl Address for V4 {
    const FAMILY: Family = Family::V4;
    fn to_v6(self) -> V6 {
        self.mapped()
    }
    fn from_v6(address: V6) -> Option<Self> {
        address.unmapped()
    }
    const ZERO: Self = Self(0);
    const ONES: Self = Self(u32::MAX);
    #[inline(always)]
    fn and(self, mask: Self) -> Self {
        Self(self.0 & mask.0)
    }
    #[inline(always)]
    fn in_block(self) -> (Self, u32) {
        let (first, place) = split_word(self.0);
        (Self(first), place)
    }
    #[inline(always)]
    fn checksum_difference(self, new: Self) -> u32 {
        checksum_add(!self.0, new.0)
    }
}

impl Address for V6 {
    const FAMILY: Family = Family::V6;
    fn to_v6(self) -> V6 {
        self
    }
    fn from_v6(address: V6) -> Option<Self> {
        Some(address)
    }
    const ZERO: Self = Self([0; 4]);
    const ONES: Self = Self([u32::MAX; 4]);
    #[inline(always)]
    fn and(self, mask: Self) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (self.0, mask.0);
        Self([a & e, b & f, c & g, d & h])
    }
    #[inline(always)]
    fn in_block(self) -> (Self, u32) {
        let [a, b, c, d] = self.0;
        let (first, place) = split_word(d);
        (Self([a, b, c, first]), place)
    }
    #[inline(always)]
    fn checksum_difference(self, new: Self) -> u32 {
        difference_of_eight(&self.0, &new.0)
    }
}

/// IP version.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

impl Family {
    /// The family of an address.
    pub const fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// Transport protocol, by its IANA number.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp = 6,
    /// UDP (RFC 768).
    Udp = 17,
    /// SCTP (RFC 9260).
    Sctp = 132,
}

impl Protocol {
    /// From the IANA number.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }
    /// The name Kubernetes uses.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_keep_their_bytes_both_ways() {
        let v4: Ipv4Addr = "10.96.0.1".parse().unwrap();
        assert_eq!(V4::from(v4).as_bytes(), &[10, 96, 0, 1]);
        assert_eq!(Ipv4Addr::from(V4::from(v4)), v4);
        let v6: Ipv6Addr = "fd00:96::a:1".parse().unwrap();
        assert_eq!(V6::from(v6).as_bytes(), &v6.octets());
        assert_eq!(Ipv6Addr::from(V6::from(v6)), v6);
    }

    #[test]
    fn mapped_addresses_are_those_of_the_rfc() {
        let v4: Ipv4Addr = "192.0.2.7".parse().unwrap();
        assert_eq!(Ipv6Addr::from(V4::from(v4).mapped()), v4.to_ipv6_mapped());
        assert_eq!(V6::from(v4.to_ipv6_mapped()).unmapped(), Some(V4::from(v4)));
        let plain: Ipv6Addr = "2001:db8::1".parse().unwrap();
        assert_eq!(V6::from(plain).unmapped(), None);
    }
}
