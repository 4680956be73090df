//! What a socket dialled: the way back from a backend's address to the frontend's.

use crate::address::{Be16, V6};
use crate::row::Row;

/// One dialled destination and the backend it was translated to. Addresses of both families are
/// kept as IPv6 (IPv4-mapped): one IPv6 socket can dial both.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Peer {
    /// The frontend's address, as the application gave it.
    pub dialled: V6,
    /// The backend's address, as the kernel was told.
    pub backend: V6,
    /// The frontend's port.
    pub dialled_port: Be16,
    /// The backend's port.
    pub backend_port: Be16,
    /// Backend id; 0 in a record that is unused.
    pub id: u32,
    /// Generation of the id.
    pub generation: u32,
    /// See [`kind`].
    pub kind: u32,
}

// SAFETY: 16 + 16 + 2 + 2 + 4 + 4 + 4 bytes, checked by `_LAYOUT`.
unsafe impl Row for Peer {}

/// Values of [`Peer::kind`].
pub mod kind {
    /// Unused.
    pub const NONE: u32 = 0;
    /// Translated to an IPv4 backend.
    pub const V4: u32 = 4;
    /// Translated to an IPv6 backend.
    pub const V6: u32 = 6;
    /// Not translated and to be dropped silently (Local policy without a local backend).
    pub const BLACKHOLE: u32 = 255;
}

/// How many destinations an unconnected UDP socket remembers; the oldest is forgotten first. A
/// reply from a forgotten one shows the backend's address.
pub const RECENT_PEERS: usize = 16;

/// Value of the `udp_peers` map (socket storage).
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UdpPeers {
    /// What the socket is connected to.
    pub connected: Peer,
    /// What it sent to while unconnected.
    pub recent: [Peer; RECENT_PEERS],
    /// Where the next new destination goes in `recent`.
    pub next: u32,
    /// The entry last sent to: when two destinations share a backend, its replies are taken for
    /// those of this one.
    pub last: u32,
}

// SAFETY: `Peer` rows and two words, checked by `_LAYOUT`.
unsafe impl Row for UdpPeers {}

impl Peer {
    /// Whether this record says where `address`:`port` was dialled as.
    #[inline(always)]
    pub fn leads_to(&self, address: V6, port: Be16) -> bool {
        self.id != 0 && self.backend_port == port && self.backend == address
    }
    /// Whether this record is of the dialled destination.
    #[inline(always)]
    pub fn is_of(&self, dialled: V6, port: Be16) -> bool {
        self.kind != kind::NONE && self.dialled_port == port && self.dialled == dialled
    }
}

const _LAYOUT: () = {
    assert!(size_of::<Peer>() == 48);
    assert!(size_of::<UdpPeers>() == 48 * (1 + RECENT_PEERS) + 8);
};
