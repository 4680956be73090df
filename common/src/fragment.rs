//! Fragments: the first one has the ports, the others follow it.

use crate::address::{Address, V4, V6};
use crate::row::Row;

/// Key of the `fragments_*` maps: a datagram under reassembly (RFC 791, RFC 8200), as a hook sees
/// it.
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

/// Key of the `parked` map: a fragment that came before the first one of its datagram.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ParkedKey {
    /// Source and destination, IPv4 ones IPv4-mapped.
    pub source: V6,
    /// As above.
    pub destination: V6,
    /// As in [`FragmentKey`].
    pub id: u32,
    /// As in [`FragmentKey`].
    pub protocol: u8,
    /// Which of [`PARKED_OF_ONE`].
    pub index: u8,
    /// Zero.
    pub pad: u16,
}

/// Fragments that wait for one first fragment, at most.
pub const PARKED_OF_ONE: u8 = 4;
/// Bytes of a frame that can be parked: an Ethernet frame of 1500 bytes and then some.
pub const PARKED_BYTES: usize = 2_040;

/// Value of the `parked` map.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Parked {
    /// Bytes of the frame.
    pub len: u32,
    /// `CLOCK_MONOTONIC` when it came, in seconds.
    pub since_secs: u32,
    /// The frame; unused bytes are of others before it.
    pub frame: [u8; PARKED_BYTES],
}

impl ParkedKey {
    /// The key of one fragment of a datagram.
    #[inline(always)]
    pub fn new<A: Address>(datagram: &FragmentKey<A>, index: u8) -> Self {
        Self {
            source: datagram.source.to_v6(),
            destination: datagram.destination.to_v6(),
            id: datagram.id,
            protocol: datagram.protocol,
            index,
            pad: 0,
        }
    }
}

// SAFETY: 16 + 16 + 4 + 1 + 1 + 2 bytes, checked by `_LAYOUT`.
unsafe impl Row for ParkedKey {}
// SAFETY: 4 + 4 + 2040 bytes, checked by `_LAYOUT`.
unsafe impl Row for Parked {}

/// How long fragments follow their first one, in seconds (RFC 1122: reassembly takes 60 to 120;
/// Linux gives up after 30).
pub const FRAGMENT_SECS: u32 = 30;

const _LAYOUT: () = {
    assert!(size_of::<FragmentKey<V4>>() == 16 && size_of::<FragmentKey<V6>>() == 40);
    assert!(size_of::<ParkedKey>() == 40 && size_of::<Parked>() == 2048);
    assert!(size_of::<Fragment<V4>>() == 8 && size_of::<Fragment<V6>>() == 20);
};
