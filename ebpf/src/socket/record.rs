//! What a socket dialled, kept with the socket.
//!
//! Kept only for sockets that dialled a frontend, and no longer than the socket lives.

use aya_ebpf::bindings::bpf_sock;
use millrace_common::address::{Address, Be16, Protocol, V6};
use millrace_common::affinity::NS_PER_SEC;
use millrace_common::backend::state;
use millrace_common::counters::Counter;
use millrace_common::frontend::FrontendKey;
use millrace_common::peer::{Connected, PEER_SLOTS, Peer, RECENT_PEERS, UDP_IDLE_SECS, UdpPeers};
use millrace_common::select::Target;

use super::tables::Rows;
use crate::kernel::helpers;
use crate::maps;

/// A record of what was dialled and where it leads; without a target, of a destination to be
/// dropped silently.
#[inline(always)]
pub fn peer<A: Address>(key: &FrontendKey<A>, target: Option<&Target<A>>, now_secs: u32) -> Peer {
    let mut peer = Peer {
        dialled: key.address.to_v6(),
        dialled_port: key.port,
        last_used_secs: now_secs,
        ..Peer::default()
    };
    if let Some(target) = target {
        peer.backend = target.address.to_v6();
        peer.backend_port = target.port;
        peer.id = target.id;
        peer.generation = target.generation;
    }
    peer
}

/// `CLOCK_MONOTONIC` in seconds, which outlasts any uptime.
#[inline(always)]
pub fn now_secs() -> u32 {
    (helpers::now_ns() / NS_PER_SEC) as u32
}

/// The place that a cookie chooses.
#[inline(always)]
fn place(cookie: u64) -> u32 {
    cookie as u32 & (PEER_SLOTS - 1)
}

/// Who has a place.
struct Owner(*mut u64);

impl Owner {
    #[inline(always)]
    fn of(place: u32) -> Option<Self> {
        maps::PEER_OWNERS.get_ptr_mut(place).map(Self)
    }
    /// The socket's cookie; 0: nobody's.
    #[inline(always)]
    fn get(&self) -> u64 {
        // SAFETY: a row of an array, which stays while the program is loaded; an aligned word is
        // read whole.
        unsafe { self.0.read_volatile() }
    }
    /// Whether the place is free, or this socket's.
    #[inline(always)]
    fn is_free_for(&self, cookie: u64) -> bool {
        let owner = self.get();
        owner == 0 || owner == cookie
    }
    /// Give the place to a socket, or to nobody.
    #[inline(always)]
    fn set(&self, cookie: u64) {
        // SAFETY: as in `get`.
        unsafe { self.0.write_volatile(cookie) };
    }
}

/// What a place's owner is connected to.
#[inline(always)]
fn record(place: u32) -> Option<*mut Connected> {
    maps::PEERS.get_ptr_mut(place)
}

/// What a socket is connected to, if it dialled a frontend.
#[inline(always)]
pub fn connected<'a>(cookie: u64, sk: *mut bpf_sock) -> Option<&'a Peer> {
    if Owner::of(place(cookie))?.get() == cookie {
        let record = record(place(cookie))?;
        // SAFETY: a row of an array. Its owner keeps it until it is closed.
        return Some(unsafe { &(*record).peer });
    }
    // SAFETY: null or a value of the map, which lives as long as the socket.
    unsafe { helpers::sk_storage(&maps::PEERS_OVERFLOW, sk).as_ref() }
}

/// Remember what a socket connects to; false if there is no memory for it.
///
/// Taking a free place is not atomic (kernels below 5.12 have no compare-and-exchange): two sockets
/// whose cookies are 65 536 apart would have to connect within nanoseconds of each other, and the
/// one that loses would see its backend's address.
#[inline(always)]
pub fn set_connected(cookie: u64, sk: *mut bpf_sock, protocol: Protocol, peer: &Peer) -> bool {
    if let Some(owner) = Owner::of(place(cookie))
        && let Some(record) = record(place(cookie))
        && owner.is_free_for(cookie)
    {
        owner.set(cookie);
        // SAFETY: a row of an array, this socket's since the line above.
        unsafe {
            (*record).peer = *peer;
            (*record).protocol = protocol as u8;
        }
        return true;
    }
    if protocol == Protocol::Udp {
        helpers::count(Counter::UdpRecordHidden);
    }
    let row: *mut Peer = helpers::sk_storage_or_zero(&maps::PEERS_OVERFLOW, sk);
    if row.is_null() {
        return false;
    }
    // SAFETY: not null, so a value of the map. One thread connects a socket at a time: the kernel
    // holds its lock.
    unsafe { *row = *peer };
    true
}

/// Forget what a socket was connected to: it dials something that is no frontend.
#[inline(always)]
pub fn forget_connected(cookie: u64, sk: *mut bpf_sock) {
    forget_closed(cookie);
    let row: *mut Peer = helpers::sk_storage(&maps::PEERS_OVERFLOW, sk);
    if !row.is_null() {
        // SAFETY: not null, so a value of the map; see `set_connected`.
        unsafe { *row = Peer::default() };
    }
}

/// Forget a socket that is closed; its socket storage goes with it.
#[inline(always)]
pub fn forget_closed(cookie: u64) {
    if let Some(owner) = Owner::of(place(cookie))
        && owner.get() == cookie
    {
        owner.set(0);
    }
}

/// An unconnected UDP socket's memory; null if it never sent to a frontend.
#[inline(always)]
fn recent(sk: *mut bpf_sock) -> *mut UdpPeers {
    helpers::sk_storage(&maps::UDP_PEERS, sk)
}

/// Where an unconnected socket's last datagrams to `dialled` went.
pub enum Sticky<A> {
    /// It sends there for the first time, or has been silent for too long.
    None,
    /// The backend is gone.
    Stale,
    /// Still good: send there again.
    Target(A, Be16),
}

/// The backend that `sk` already sends to for `key`, if it still serves. Sending to it again arms
/// its idle timer.
#[inline(always)]
pub fn sticky<A: Rows>(sk: *mut bpf_sock, key: &FrontendKey<A>, service: u32) -> Sticky<A> {
    let peers = recent(sk);
    if peers.is_null() {
        return Sticky::None;
    }
    let dialled = key.address.to_v6();
    let now_secs = now_secs();
    for index in 0..RECENT_PEERS {
        // SAFETY: not null, so a value of the map, and the index is below its length. Two threads
        // may send on one socket: a torn record fails the checks below and is chosen again.
        let peer = unsafe { &mut (*peers).recent[index] };
        if !peer.is_of(dialled, key.port) || peer.id == 0 {
            continue;
        }
        let Some(backend) = A::backend(peer.id) else {
            return Sticky::Stale;
        };
        let kept = state::CLUSTER | state::LOCAL | state::SERVING;
        if backend.service != service || !backend.is_usable(peer.generation, kept) {
            return Sticky::Stale;
        }
        if now_secs.wrapping_sub(peer.last_used_secs) > UDP_IDLE_SECS {
            return Sticky::None;
        }
        peer.last_used_secs = now_secs;
        // SAFETY: as above.
        unsafe { (*peers).last = index as u32 };
        return Sticky::Target(backend.address, backend.port);
    }
    Sticky::None
}

/// Remember where an unconnected socket sends; false if there is no memory for it.
#[inline(always)]
pub fn set_recent(sk: *mut bpf_sock, peer: &Peer) -> bool {
    let row: *mut UdpPeers = helpers::sk_storage_or_zero(&maps::UDP_PEERS, sk);
    if row.is_null() {
        return false;
    }
    // SAFETY: not null, so a value of the map; indices are masked to its length.
    let peers = unsafe { &mut *row };
    let mut index = peers.next as usize % RECENT_PEERS;
    let mut known = false;
    for candidate in 0..RECENT_PEERS {
        if peers.recent[candidate].is_of(peer.dialled, peer.dialled_port) {
            index = candidate;
            known = true;
            break;
        }
    }
    if !known {
        peers.next = (index as u32 + 1) % RECENT_PEERS as u32;
    }
    let index = index & (RECENT_PEERS - 1);
    peers.recent[index] = *peer;
    peers.last = index as u32;
    true
}

/// An unconnected socket sends to what is no frontend. If a frontend leads it to the very same
/// place, that is remembered as a destination which leads to itself, and answers from there are
/// whose it sent to last.
#[inline(always)]
pub fn note_direct(sk: *mut bpf_sock, address: V6, port: Be16) {
    let row = recent(sk);
    if row.is_null() {
        return;
    }
    // SAFETY: not null, so a value of the map.
    let peers = unsafe { &*row };
    for index in 0..RECENT_PEERS {
        if peers.recent[index].leads_to(address, port) {
            let found = peers.recent[index];
            set_recent(sk, &Peer { dialled: address, dialled_port: port, ..found });
            return;
        }
    }
}

/// What an unconnected socket dialled when a datagram comes from `address`:`port`.
#[inline(always)]
pub fn dialled_as(sk: *mut bpf_sock, address: V6, port: Be16) -> Option<(V6, Be16)> {
    let row = recent(sk);
    if row.is_null() {
        return None;
    }
    // SAFETY: not null, so a value of the map.
    let peers = unsafe { &*row };
    let last = &peers.recent[peers.last as usize & (RECENT_PEERS - 1)];
    if last.leads_to(address, port) {
        return Some((last.dialled, last.dialled_port));
    }
    for index in 0..RECENT_PEERS {
        let peer = &peers.recent[index];
        if peer.leads_to(address, port) {
            return Some((peer.dialled, peer.dialled_port));
        }
    }
    None
}

/// The destination that an unconnected socket sent to last.
#[inline(always)]
pub fn last_sent<'a>(sk: *mut bpf_sock) -> Option<&'a Peer> {
    let row = recent(sk);
    if row.is_null() {
        return None;
    }
    // SAFETY: not null, so a value of the map, which lives as long as the socket.
    let peers = unsafe { &*row };
    Some(&peers.recent[peers.last as usize & (RECENT_PEERS - 1)])
}

const _: () = assert!(RECENT_PEERS.is_power_of_two());
