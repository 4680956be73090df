//! On the way out: a frontend's address becomes a backend's.

use millrace_common::address::{Address, Be16, Protocol, V4};
use millrace_common::backend::state;
use millrace_common::counters::Counter;
use millrace_common::frontend::FrontendKey;
use millrace_common::peer::Peer;
use millrace_common::select::{self, Decision, Sockets, Target};

use super::record::{self, Sticky};
use super::tables::{Kernel, Rows};
use crate::config;
use crate::kernel::context::SockAddr;
use crate::kernel::helpers::{self, count};
use crate::observe;

/// What a `connect` or `sendmsg` hook answers.
#[derive(Clone, Copy)]
pub enum Verdict {
    /// Go on, with the address as it now stands.
    Allow,
    /// Fail with ECONNREFUSED (EPERM below Linux 5.18).
    Refuse,
}

impl Verdict {
    /// The program's return value.
    #[inline(always)]
    pub fn code(self) -> i32 {
        match self {
            Self::Allow => 1,
            Self::Refuse => {
                if config::has_set_retval() {
                    helpers::set_retval_refused();
                }
                0
            }
        }
    }
}

/// Where to go on to.
enum Outcome<A> {
    /// Leave the address as it is.
    Keep,
    /// Rewrite it.
    Rewrite(A, Be16),
    /// Refuse.
    Refuse,
}

/// An IPv4 socket connects.
#[inline(always)]
pub fn connect_v4(ctx: &SockAddr) -> Verdict {
    finish_v4(ctx, connect(ctx, ctx.v4()))
}

/// An IPv6 socket connects, to IPv6 or IPv4-mapped.
#[inline(always)]
pub fn connect_v6(ctx: &SockAddr) -> Verdict {
    let address = ctx.v6();
    match address.unmapped() {
        Some(v4) => finish_v6(ctx, connect(ctx, v4)),
        None => finish_v6(ctx, connect(ctx, address)),
    }
}

/// A UDP socket sends to an IPv4 address.
#[inline(always)]
pub fn send_v4(ctx: &SockAddr) -> Verdict {
    finish_v4(ctx, send(ctx, ctx.v4()))
}

/// A UDP socket sends to an IPv6 address.
#[inline(always)]
pub fn send_v6(ctx: &SockAddr) -> Verdict {
    finish_v6(ctx, send(ctx, ctx.v6()))
}

#[inline(always)]
fn finish_v4(ctx: &SockAddr, outcome: Outcome<V4>) -> Verdict {
    match outcome {
        Outcome::Keep => Verdict::Allow,
        Outcome::Refuse => Verdict::Refuse,
        Outcome::Rewrite(address, port) => {
            ctx.set_v4(address, port);
            Verdict::Allow
        }
    }
}

#[inline(always)]
fn finish_v6<A: Address>(ctx: &SockAddr, outcome: Outcome<A>) -> Verdict {
    match outcome {
        Outcome::Keep => Verdict::Allow,
        Outcome::Refuse => Verdict::Refuse,
        Outcome::Rewrite(address, port) => {
            ctx.set_v6(address.to_v6(), port);
            Verdict::Allow
        }
    }
}

/// Connect: choose a backend and remember for good what was dialled.
#[inline(always)]
fn connect<A: Rows>(ctx: &SockAddr, address: A) -> Outcome<A> {
    let Some(protocol) = ctx.protocol() else {
        return Outcome::Keep;
    };
    let key = FrontendKey::new(address, ctx.port(), protocol as u8);
    let decision = select::select(&Kernel(ctx), &key);
    observe::dialled(ctx, &key, &decision);
    match decision {
        Decision::Forward(target) => {
            let peer = record::peer(&key, Some(&target), 0);
            if !record::set_connected(ctx.cookie(), ctx.socket(), protocol, &peer) {
                count(Counter::RecordFailed);
            }
            forward(&target)
        }
        Decision::Drop(service) => {
            count(Counter::DroppedNoLocalBackend);
            helpers::count_failed(service);
            // The guard drops what is sent to a destination recorded without a backend.
            let peer = record::peer(&key, None, 0);
            record::set_connected(ctx.cookie(), ctx.socket(), protocol, &peer);
            Outcome::Keep
        }
        Decision::Pass | Decision::NeedsSource => {
            // A socket that never dialled before has nothing to forget.
            if !ctx.is_fresh_tcp(protocol) {
                record::forget_connected(ctx.cookie(), ctx.socket());
            }
            without_target(decision)
        }
        Decision::Refuse(_) | Decision::Broken => without_target(decision),
    }
}

/// Send from an unconnected socket: stay with the backend this socket has for the destination, as
/// long as it serves.
#[inline(always)]
fn send<A: Rows>(ctx: &SockAddr, address: A) -> Outcome<A> {
    let key = FrontendKey::new(address, ctx.port(), Protocol::Udp as u8);
    let kernel = Kernel(ctx);
    let Some(frontend) = A::frontend(&key) else {
        return match kernel.is_cluster_ip(address) {
            true => without_target(Decision::Refuse(0)),
            false => {
                record::note_direct(ctx.socket(), address.to_v6(), ctx.port());
                Outcome::Keep
            }
        };
    };
    let socket = ctx.socket();
    let mut decision = select::gate(&kernel, &frontend);
    if decision.is_none() {
        // A connected socket hears nobody but its own backend: what it sends to the same frontend
        // by address must go there too.
        if ctx.is_connected()
            && let Some(peer) = record::connected(ctx.cookie(), socket)
            && peer.is_of(address.to_v6(), key.port)
        {
            return same_backend(peer);
        }
        match record::sticky(socket, &key, frontend.service) {
            Sticky::Target(address, port) => return Outcome::Rewrite(address, port),
            Sticky::Stale => count(Counter::UdpRepicked),
            Sticky::None => {}
        }
        let client = || Sockets::<A>::client(&kernel);
        decision = Some(select::choose(&kernel, &frontend, frontend.near_list(), client));
    }
    let decision = decision.unwrap_or(Decision::Pass);
    observe::dialled(ctx, &key, &decision);
    match decision {
        Decision::Forward(target) => {
            let peer = record::peer(&key, Some(&target), record::now_secs());
            if !record::set_recent(socket, &peer) {
                count(Counter::RecordFailed);
            }
            forward(&target)
        }
        Decision::Drop(service) => {
            count(Counter::DroppedNoLocalBackend);
            helpers::count_failed(service);
            record::set_recent(socket, &record::peer(&key, None, 0));
            Outcome::Keep
        }
        _ => without_target(decision),
    }
}

/// On to the backend of a connected socket, if it still serves; else let the application dial
/// again.
#[inline(always)]
fn same_backend<A: Rows>(peer: &Peer) -> Outcome<A> {
    if let Some(address) = A::from_v6(peer.backend)
        && let Some(backend) = A::backend(peer.id)
        && backend.is_usable(peer.generation, state::CLUSTER | state::LOCAL | state::SERVING)
    {
        return Outcome::Rewrite(address, peer.backend_port);
    }
    count(Counter::StaleUdpRefused);
    Outcome::Refuse
}

#[inline(always)]
fn forward<A: Address>(target: &Target<A>) -> Outcome<A> {
    count(Counter::Translated);
    helpers::count_opened(target.service);
    if target.by_affinity {
        count(Counter::AffinityHit);
    }
    Outcome::Rewrite(target.address, target.port)
}

#[inline(always)]
fn without_target<A>(decision: Decision<A>) -> Outcome<A> {
    match decision {
        Decision::NeedsSource => {
            count(Counter::LeftToPacketPath);
            Outcome::Keep
        }
        Decision::Refuse(service) => {
            count(Counter::RefusedNoBackend);
            // Row 0 is no service port's: nobody reads it.
            helpers::count_failed(service);
            Outcome::Refuse
        }
        Decision::Broken => {
            count(Counter::BrokenRow);
            Outcome::Refuse
        }
        _ => Outcome::Keep,
    }
}
