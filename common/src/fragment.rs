//! Fragments: the first one has the ports, the others follow it.

use crate::address::{V4, V6};
use crate::row::Row;

/// Key of the `fragments_*` maps: a datagram under reassembly (RFC 791, RFC 8200), as a hook sees it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FragmentKey<A> {
    /// The packet's source.
    pub source: A,
    /// The packet's destination.
    pub destination: A,
    /// The datagram's identification, as it stands in the packet (IPv4: 16 bits).
    pub id: u32,
    /// IANA protocol number.
    pub protocol: u8,
    /// Which hook: see [`crate::flow::side`].
    pub side: u8,
    /// Zero.
    pub pad: u16,
}

/// Value of the `fragments_*` maps: the address that replaces the destination (at ingress) or the
/// source (at egress).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fragment<A> {
    /// The address that is put in.
    pub address: A,
    /// `CLOCK_MONOTONIC` of the first fragment, in seconds.
    pub since_secs: u32,
}

// SAFETY: two addresses and 8 bytes.
unsafe impl Row for FragmentKey<V4> {}
// SAFETY: two addresses and 8 bytes.
unsafe impl Row for FragmentKey<V6> {}
// SAFETY: an address and a word.
unsafe impl Row for Fragment<V4> {}
// SAFETY: an address and a word.
unsafe impl Row for Fragment<V6> {}

/// How long fragments follow their first one, in seconds (RFC 1122: reassembly takes 60 to 120;
/// Linux gives up after 30).
pub const FRAGMENT_SECS: u32 = 30;

const _LAYOUT: () = {
    assert!(size_of::<FragmentKey<V4>>() == 16 && size_of::<FragmentKey<V6>>() == 40);
    assert!(size_of::<Fragment<V4>>() == 8 && size_of::<Fragment<V6>>() == 20);
};
