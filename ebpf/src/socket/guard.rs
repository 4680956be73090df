//! What leaves: two kinds of packets must not, and only here are they seen.
//!
//! A connected UDP socket sends without asking any of the other hooks, so here it learns that its
//! backend is gone: its `send` fails, and it can dial again. And what is dialled under a Local
//! policy without a local backend, or by a node that source ranges shut out, is dropped here,
//! silently, as the specification wants it.
//!
//! Every packet of every socket pays for this program, so the agent attaches it only while there is
//! something to guard (`agent/src/guard.rs`).

use aya_ebpf::EbpfContext;
use aya_ebpf::programs::SkBuffContext;
use millrace_common::address::{Address, Be16, Protocol, V4, V6};
use millrace_common::backend::state;
use millrace_common::counters::Counter;
use millrace_common::frontend::{FrontendKey, flags};
use millrace_common::peer::Peer;

use super::record;
use super::tables::Rows;
use crate::kernel::context::Sender;
use crate::kernel::helpers::{self, count};

/// What becomes of the packet.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// It leaves.
    Pass,
    /// It is lost, and nobody is told.
    Drop,
    /// It is lost, and the sender's system call fails with EPERM.
    Refuse,
}

impl Verdict {
    /// The program's return value (`BPF_PROG_CGROUP_INET_EGRESS_RUN_ARRAY` in the kernel): bit 0
    /// passes, bit 1 makes it look like congestion, of which UDP does not tell.
    #[inline(always)]
    pub fn code(self) -> i32 {
        match self {
            Self::Pass => 1,
            Self::Drop => 2,
            Self::Refuse => 0,
        }
    }
}

/// Judge a packet by its socket. Established TCP, the bulk, leaves after three loads.
#[inline(always)]
pub fn egress(ctx: &SkBuffContext) -> Verdict {
    let Some(sender) = Sender::of(ctx) else {
        return Verdict::Pass;
    };
    match sender.protocol() {
        Some(Protocol::Tcp) if sender.is_connecting() => tcp_connecting(ctx, &sender),
        Some(Protocol::Udp) => udp(ctx, &sender),
        _ => Verdict::Pass,
    }
}

/// A SYN. A socket that is connecting has one destination: the record speaks of it.
#[inline(always)]
fn tcp_connecting(ctx: &SkBuffContext, sender: &Sender) -> Verdict {
    match record::connected(helpers::socket_cookie(ctx.as_ptr()), sender.as_ptr()) {
        Some(peer) if peer.is_blackhole_of(peer.dialled, peer.dialled_port) => Verdict::Drop,
        _ => Verdict::Pass,
    }
}

#[inline(always)]
fn udp(ctx: &SkBuffContext, sender: &Sender) -> Verdict {
    let connected = record::connected(helpers::socket_cookie(ctx.as_ptr()), sender.as_ptr());
    let last = record::last_sent(sender.as_ptr());
    if connected.is_none() && last.is_none() {
        return Verdict::Pass;
    }
    let Some((address, port)) = destination(ctx) else {
        return Verdict::Pass;
    };
    if let Some(last) = last
        && last.is_blackhole_of(address, port)
    {
        return Verdict::Drop;
    }
    let Some(connected) = connected else {
        return Verdict::Pass;
    };
    let stale = if connected.is_blackhole_of(address, port) {
        if is_still_to_drop(connected) {
            return Verdict::Drop;
        }
        true
    } else {
        connected.leads_to(address, port) && is_gone(connected)
    };
    if stale {
        count(Counter::StaleUdpRefused);
        return Verdict::Refuse;
    }
    Verdict::Pass
}

/// Whether the destination still drops the socket. If it does not, dialling again helps.
#[inline(always)]
fn is_still_to_drop(peer: &Peer) -> bool {
    match peer.dialled.unmapped() {
        Some(address) => is_drop(address, peer.dialled_port),
        None => is_drop(peer.dialled, peer.dialled_port),
    }
}

#[inline(always)]
fn is_drop<A: Rows>(address: A, port: Be16) -> bool {
    let key = FrontendKey::new(address, port, Protocol::Udp as u8);
    A::frontend(&key).is_some_and(|row| {
        // Sockets of pods are never recorded as shut out by source ranges: this one is the node's.
        let shut_out = row.has(flags::SOURCE_RANGES) && !row.has(flags::NODE_ALLOWED);
        shut_out || (row.near.count == 0 && row.has(flags::NEAR_DROP))
    })
}

/// Whether the backend a socket is connected to no longer serves.
#[inline(always)]
fn is_gone(peer: &Peer) -> bool {
    match peer.backend.unmapped() {
        Some(_) => is_gone_in::<V4>(peer),
        None => is_gone_in::<V6>(peer),
    }
}

#[inline(always)]
fn is_gone_in<A: Rows>(peer: &Peer) -> bool {
    let kept = state::CLUSTER | state::LOCAL | state::SERVING;
    !A::backend(peer.id).is_some_and(|backend| backend.is_usable(peer.generation, kept))
}

/// Length of an IPv6 header, and of an IPv4 header without options.
const IPV6_HEADER_BYTES: usize = 40;
/// Offset of the destination in an IPv4 and in an IPv6 header.
const IPV4_DST_OFFSET: usize = 16;
/// As above.
const IPV6_DST_OFFSET: usize = 24;
/// Offset of the destination port in a UDP header.
const UDP_DST_OFFSET: usize = 2;
/// IANA number of UDP.
const UDP: u8 = Protocol::Udp as u8;

/// Where a UDP packet goes; the packet begins with its IP header. An IPv6 packet with extension
/// headers is not looked into: sockets that ask for those are beyond this guard.
#[inline(always)]
fn destination(ctx: &SkBuffContext) -> Option<(V6, Be16)> {
    let first: u8 = ctx.load(0).ok()?;
    if first >> 4 == 4 {
        let address = V4::from_raw(ctx.load(IPV4_DST_OFFSET).ok()?);
        let header_bytes = usize::from(first & 0x0f) * 4;
        let port = Be16::from_raw(ctx.load(header_bytes + UDP_DST_OFFSET).ok()?);
        return Some((address.to_v6(), port));
    }
    let next_header: u8 = ctx.load(6).ok()?;
    if next_header != UDP {
        return None;
    }
    let address = V6::from_raw(ctx.load(IPV6_DST_OFFSET).ok()?);
    let port = Be16::from_raw(ctx.load(IPV6_HEADER_BYTES + UDP_DST_OFFSET).ok()?);
    Some((address, port))
}
