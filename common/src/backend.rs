//! Backends: what can serve a service port.

use crate::address::{Address, Be16, V4, V6};
use crate::row::{Pair, Row};

/// A backend in the `backends` map (an array); its place there is its id. Both families share the
/// map: an IPv4 backend takes one place and an IPv6 backend two, of which the first has an even
/// number. So a cluster of one family pays for that one. Place 0 is never used.
///
/// A backend belongs to one service port: two services with the same pod behind them have two rows,
/// so that leaving one service says nothing about the other.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Backend<A> {
    /// Which port.
    pub port: Be16,
    /// Which lists it is in; see [`state`]. 0: gone.
    pub state: u8,
    /// [`Address::FAMILY`] as a number: what the place is. A place that had one family never gets
    /// another.
    pub family: u8,
    /// Counts how often this id was given to another endpoint: what remembers an id remembers its
    /// generation too, and does not follow it to a stranger.
    pub generation: u32,
    /// The service port it serves.
    pub service: u32,
    /// Where to send.
    pub address: A,
}

// SAFETY: 2 + 1 + 1 + 4 + 4 + 4 bytes, checked by `_LAYOUT`.
unsafe impl Row for Backend<V4> {}
// SAFETY: 2 + 1 + 1 + 4 + 4 + 16 bytes, checked by `_LAYOUT`.
unsafe impl Row for Backend<V6> {}

/// Value of the `backends` map: two places, with IPv4 backends or with one IPv6 backend. Which, is
/// told by the first one's `family`.
pub type BackendPair = Pair<Backend<V4>>;

/// Places that one IPv6 backend takes.
pub const V6_PLACES: u32 = 2;

impl BackendPair {
    /// The two places as one IPv6 backend.
    #[inline(always)]
    pub const fn as_v6(&self) -> &Backend<V6> {
        // SAFETY: as aligned as `Self` and not larger, checked by `_LAYOUT`; every bit pattern is
        // valid.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }
}

/// An address whose backends are in the map.
pub trait InPair: Address {
    /// The backend of that id, which is one of this family.
    fn of(pair: &BackendPair, id: u32) -> Backend<Self>;
}

impl InPair for V4 {
    #[inline(always)]
    fn of(pair: &BackendPair, id: u32) -> Backend<Self> {
        pair.get(id)
    }
}

impl InPair for V6 {
    #[inline(always)]
    fn of(pair: &BackendPair, _: u32) -> Backend<Self> {
        *pair.as_v6()
    }
}

impl From<Backend<V6>> for BackendPair {
    fn from(row: Backend<V6>) -> Self {
        let mut bytes = [0; size_of::<Self>()];
        bytes[..size_of::<Backend<V6>>()].copy_from_slice(row.as_bytes());
        // SAFETY: every bit pattern is valid, the read is unaligned.
        unsafe { core::ptr::read_unaligned(bytes.as_ptr().cast()) }
    }
}

impl<A: Address> Backend<A> {
    /// Whether whoever remembers `generation` may still use this backend: it is the same endpoint,
    /// and in one of the lists `wanted` (bits of [`state`]).
    pub const fn is_usable(&self, generation: u32, wanted: u8) -> bool {
        self.generation == generation && self.state & wanted != 0
    }
}

/// Bits of [`Backend::state`].
pub mod state {
    /// In the Cluster list: takes new connections under policy Cluster.
    pub const CLUSTER: u8 = 1 << 0;
    /// In the Local list: takes new connections under policy Local.
    pub const LOCAL: u8 = 1 << 1;
    /// Still serving: keeps the flows it has, whatever lists it is in.
    pub const SERVING: u8 = 1 << 2;
    /// Nothing: the endpoint is gone.
    pub const GONE: u8 = 0;
}

const _LAYOUT: () = {
    assert!(size_of::<Backend<V4>>() == 16 && size_of::<Backend<V6>>() == 28);
    assert!(size_of::<BackendPair>() == 32);
    assert!(align_of::<BackendPair>() == align_of::<Backend<V6>>());
    assert!(core::mem::offset_of!(Backend<V4>, family) == 3);
    assert!(core::mem::offset_of!(Backend<V6>, family) == 3);
    assert!(core::mem::offset_of!(Backend<V6>, address) == 12);
};
