//! Which backend a client on this node gets: the one decision of the socket path.
//!
//! Written over [`Tables`], so that the kernel runs it on BPF maps and tests on ordinary ones.

use crate::address::{Address, Be16};
use crate::affinity::{AffinityEntry, AffinityKey};
use crate::backend::{Backend, state};
use crate::frontend::{Frontend, FrontendKey, flags};

/// The maps and helpers the decision needs.
pub trait Tables<A: Address> {
    /// The frontend row of a destination.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend>;
    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// A backend's row.
    fn backend(&self, id: u32) -> Option<Backend<A>>;
    /// Whether the client is in the node's own network namespace.
    fn client_is_node(&self) -> bool;
    /// The client's network namespace cookie.
    fn client(&self) -> u64;
    /// A uniformly random number.
    fn random(&self) -> u32;
    /// `CLOCK_MONOTONIC` in nanoseconds.
    fn now_ns(&self) -> u64;
    /// The affinity entry of a client.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry>;
    /// Remember or re-arm a client's affinity.
    fn set_affinity(&self, key: &AffinityKey, entry: &AffinityEntry);
}

/// What to do with a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<A> {
    /// Not a frontend for this client: leave it alone.
    Pass,
    /// A frontend that only a hook which knows the client's address may serve.
    NeedsSource,
    /// No backend anywhere: say so at once.
    Refuse,
    /// Local policy and no backend here: silence.
    Drop,
    /// A row is missing or does not belong: refuse, and count a bug.
    Broken,
    /// Send it there.
    Forward(Target<A>),
}

/// The backend that was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Target<A> {
    /// Backend id.
    pub id: u32,
    /// Generation of the id.
    pub generation: u32,
    /// Address.
    pub address: A,
    /// Port.
    pub port: Be16,
    /// Whether affinity chose it.
    pub by_affinity: bool,
}

/// Decide for a client on this node that dials `key`.
#[inline(always)]
pub fn select<A: Address, T: Tables<A>>(tables: &T, key: &FrontendKey<A>) -> Decision<A> {
    let Some(frontend) = tables.frontend(key) else {
        return Decision::Pass;
    };
    admit(tables, &frontend)
}

/// As [`select`], once the frontend's row is known.
#[inline(always)]
pub fn admit<A: Address, T: Tables<A>>(tables: &T, frontend: &Frontend) -> Decision<A> {
    match gate(tables, frontend) {
        Some(decision) => decision,
        None => choose(tables, frontend),
    }
}

/// What settles the matter before a backend is chosen: who may use the frontend, and whether there
/// is anything behind it.
#[inline(always)]
pub fn gate<A: Address, T: Tables<A>>(tables: &T, frontend: &Frontend) -> Option<Decision<A>> {
    if frontend.has(flags::NODE_ONLY) && !tables.client_is_node() {
        return Some(Decision::Pass);
    }
    if frontend.has(flags::SOURCE_RANGES) {
        return Some(Decision::NeedsSource);
    }
    if frontend.near.count == 0 {
        let drop = frontend.has(flags::NEAR_DROP);
        return Some(if drop { Decision::Drop } else { Decision::Refuse });
    }
    None
}

/// A backend of a frontend that passed the [`gate`].
#[inline(always)]
pub fn choose<A: Address, T: Tables<A>>(tables: &T, frontend: &Frontend) -> Decision<A> {
    if frontend.has(flags::AFFINITY) {
        return with_affinity(tables, frontend);
    }
    at_random(tables, frontend)
}

/// A backend of the near list, each equally likely.
#[inline(always)]
fn at_random<A: Address, T: Tables<A>>(tables: &T, frontend: &Frontend) -> Decision<A> {
    let index = frontend.near.first.wrapping_add(scale(tables.random(), frontend.near.count));
    let Some(id) = tables.slot(index) else {
        return Decision::Broken;
    };
    let Some(backend) = tables.backend(id) else {
        return Decision::Broken;
    };
    if backend.service != frontend.service {
        return Decision::Broken;
    }
    Decision::Forward(target(id, &backend, false))
}

/// The backend this client had, if its entry binds and the backend is still in the list; else a
/// random one, remembered.
#[inline(always)]
fn with_affinity<A: Address, T: Tables<A>>(tables: &T, frontend: &Frontend) -> Decision<A> {
    let key = AffinityKey {
        client: tables.client(),
        service: frontend.service,
        family: A::FAMILY as u32,
    };
    let now_ns = tables.now_ns();
    let list = if frontend.has(flags::NEAR_LOCAL) { state::LOCAL } else { state::CLUSTER };
    let mut decision = Decision::Pass;
    if let Some(entry) = tables.affinity(&key)
        && entry.is_live(now_ns, frontend.affinity_secs)
        && let Some(backend) = tables.backend(entry.backend)
        && backend.service == frontend.service
        && backend.is_usable(entry.generation, list)
    {
        decision = Decision::Forward(target(entry.backend, &backend, true));
    }
    if decision == Decision::Pass {
        decision = at_random(tables, frontend);
    }
    if let Decision::Forward(chosen) = decision {
        let entry = AffinityEntry {
            backend: chosen.id,
            generation: chosen.generation,
            last_used_ns: now_ns,
        };
        tables.set_affinity(&key, &entry);
    }
    decision
}

#[inline(always)]
fn target<A: Address>(id: u32, backend: &Backend<A>, by_affinity: bool) -> Target<A> {
    Target {
        id,
        generation: backend.generation,
        address: backend.address,
        port: backend.port,
        by_affinity,
    }
}

/// Map a uniform 32-bit number to `0..count` by multiply-shift: no division, and no bias beyond
/// count / 2^32.
#[inline(always)]
pub const fn scale(random: u32, count: u32) -> u32 {
    ((random as u64 * count as u64) >> 32) as u32
}
