//! Backends: what can serve a service port.

use crate::address::{Address, Be16, V4, V6};
use crate::row::Row;

/// Value of the `backends_v4` and `backends_v6` maps (arrays, indexed by backend id; id 0 is never
/// used).
///
/// A backend belongs to one service port: two services with the same pod behind them have two rows,
/// so that leaving one service says nothing about the other.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Backend<A> {
    /// Where to send.
    pub address: A,
    /// Which port.
    pub port: Be16,
    /// Which lists it is in; see [`state`]. 0: gone.
    pub state: u8,
    /// Zero.
    pub pad: u8,
    /// Counts how often this id was given to another endpoint: what remembers an id remembers its
    /// generation too, and does not follow it to a stranger.
    pub generation: u32,
    /// The service port it serves.
    pub service: u32,
}

// SAFETY: 4 + 2 + 1 + 1 + 4 + 4 bytes, checked by `_LAYOUT`.
unsafe impl Row for Backend<V4> {}
// SAFETY: 16 + 2 + 1 + 1 + 4 + 4 bytes, checked by `_LAYOUT`.
unsafe impl Row for Backend<V6> {}

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
    assert!(core::mem::offset_of!(Backend<V4>, generation) == 8);
    assert!(core::mem::offset_of!(Backend<V6>, generation) == 20);
};
