//! What a socket dialled: the way back from a backend's address to the frontend's.
//!
//! What a socket is *connected* to is one [`Connected`], in a place of the `peers` array that the
//! socket's cookie chooses, taken when it connects and given back when it is closed. Cookies are
//! given in sequence, so the places of sockets that live at the same time lie side by side, and a
//! collision needs a socket that outlived [`PEER_SLOTS`] others; the newcomer's record then goes to
//! its socket storage, which costs several times as much.
//!
//! Who has a place is in an array of its own, `peer_owners`: a socket's cookie, 0 if the place is
//! free. Eight owners are in one line of the processor's cache, and every socket that is closed
//! asks for one, also those that never dialled a frontend.
//!
//! What an unconnected UDP socket sent to is a [`UdpPeers`] in its socket storage, written once per
//! destination.

use crate::address::{Be16, V6};
use crate::row::Row;

/// One dialled destination and the backend it was translated to. All zero: unused (no destination
/// has port 0). Addresses of both families are kept as IPv6 (IPv4-mapped): one IPv6 socket can dial
/// both.
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
    /// Backend id; 0 if the destination was not translated but is to be dropped silently (Local
    /// policy without a local backend).
    pub id: u32,
    /// Generation of the id.
    pub generation: u32,
    /// `CLOCK_MONOTONIC` at the last send, in seconds (unconnected UDP only).
    pub last_used_secs: u32,
}

// SAFETY: 16 + 16 + 2 + 2 + 4 + 4 + 4 bytes, checked by `_LAYOUT`.
unsafe impl Row for Peer {}

/// How long an unconnected UDP socket keeps sending to the backend it has when it falls silent, in
/// seconds. As nf_conntrack's `udp_timeout_stream`: after it, kube-proxy would choose again.
pub const UDP_IDLE_SECS: u32 = 120;

/// Places for records of connected sockets; a power of two.
pub const PEER_SLOTS: u32 = 65_536;

/// Value of the `peers` map: what a place's owner is connected to, or the last one was.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Connected {
    /// What it dialled.
    pub peer: Peer,
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero: as long as a line of a cache.
    pub pad: [u8; 15],
}

// SAFETY: 48 + 1 + 15 bytes, checked by `_LAYOUT`.
unsafe impl Row for Connected {}

/// How many destinations an unconnected UDP socket remembers; the oldest is forgotten first. A
/// reply from a forgotten one shows the backend's address.
pub const RECENT_PEERS: usize = 16;

/// Value of the `udp_peers` map (socket storage): what a UDP socket sent to while unconnected.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UdpPeers {
    /// What it sent to.
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
    /// Whether this record is of the dialled destination (whose port is not 0).
    #[inline(always)]
    pub fn is_of(&self, dialled: V6, port: Be16) -> bool {
        self.dialled_port == port && self.dialled == dialled
    }
    /// Whether packets to `address`:`port` are to be dropped silently.
    #[inline(always)]
    pub fn is_blackhole_of(&self, address: V6, port: Be16) -> bool {
        self.id == 0 && port.raw() != 0 && self.is_of(address, port)
    }
}

const _LAYOUT: () = {
    assert!(size_of::<Peer>() == 48);
    assert!(size_of::<Connected>() == 64 && PEER_SLOTS.is_power_of_two());
    assert!(size_of::<UdpPeers>() == 48 * RECENT_PEERS + 8);
};
