//! Which backend a client gets: the one decision that both paths share.
//!
//! Written over [`Tables`], so that the kernel runs it on BPF maps and tests on ordinary ones.
//! [`select`], [`admit`] and [`gate`] are the socket path's, whose clients are all on this node;
//! the packet path has its own gate (`packet::open`) and shares [`choose`].

use crate::address::{Address, Be16};
use crate::affinity::{AffinityEntry, AffinityKey, Client};
use crate::backend::{Backend, state};
use crate::frontend::{Frontend, FrontendKey, SlotRange, flags};

/// The maps and helpers the decision needs.
pub trait Tables<A: Address> {
    /// The frontend row of a destination.
    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend>;
    /// Whether an address is a ClusterIP, whatever its ports are.
    #[inline(always)]
    fn has_cluster_ip(&self, address: A) -> bool {
        let (key, place) = FrontendKey::of_block(address);
        self.frontend(&key).is_some_and(|block| block.has_cluster_ip(place))
    }
    /// The backend id in a slot.
    fn slot(&self, index: u32) -> Option<u32>;
    /// A backend's row.
    fn backend(&self, id: u32) -> Option<Backend<A>>;
    /// A uniformly random number.
    fn random(&self) -> u32;
    /// `CLOCK_MONOTONIC` in nanoseconds.
    fn now_ns(&self) -> u64;
    /// The affinity entry of a client.
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry>;
    /// Remember or re-arm a client's affinity.
    fn set_affinity(&self, key: &AffinityKey, entry: &AffinityEntry);
}

/// What the socket path needs besides.
pub trait Sockets<A: Address>: Tables<A> {
    /// The client, as affinity knows it.
    fn client(&self) -> Client;
    /// Whether the client is in the node's own network namespace.
    fn client_is_node(&self) -> bool;
    /// Whether an address that is no frontend with this port is a ClusterIP all the same.
    fn is_cluster_ip(&self, address: A) -> bool;
}

/// One of a frontend's two lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct List {
    /// Where its backends are.
    pub slots: SlotRange,
    /// The bit of [`state`] that all its backends have.
    pub bit: u8,
}

impl Frontend {
    /// The list for clients on this node.
    #[inline(always)]
    pub const fn near_list(&self) -> List {
        let local = self.has(flags::NEAR_LOCAL);
        List { slots: self.near, bit: if local { state::LOCAL } else { state::CLUSTER } }
    }
    /// The list for clients outside.
    #[inline(always)]
    pub const fn far_list(&self) -> List {
        let local = self.has(flags::FAR_LOCAL);
        List { slots: self.far, bit: if local { state::LOCAL } else { state::CLUSTER } }
    }
}

/// What to do with a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision<A> {
    /// Not a frontend for this client: leave it alone.
    Pass,
    /// A frontend that only a hook which knows the client's address may serve.
    NeedsSource,
    /// No backend anywhere: say so at once. The service port; 0: the ClusterIP has no such port.
    Refuse(u32),
    /// Local policy and no backend here: silence. The service port.
    Drop(u32),
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
    /// The service port it serves.
    pub service: u32,
    /// Whether affinity chose it.
    pub by_affinity: bool,
}

/// Decide for a client on this node that dials `key`.
#[inline(always)]
pub fn select<A: Address, T: Sockets<A>>(tables: &T, key: &FrontendKey<A>) -> Decision<A> {
    let Some(frontend) = tables.frontend(key) else {
        return if tables.is_cluster_ip(key.address) {
            Decision::Refuse(0)
        } else {
            Decision::Pass
        };
    };
    admit(tables, &frontend)
}

/// As [`select`], once the frontend's row is known.
#[inline(always)]
pub fn admit<A: Address, T: Sockets<A>>(tables: &T, frontend: &Frontend) -> Decision<A> {
    match gate(tables, frontend) {
        Some(decision) => decision,
        None => choose(tables, frontend, frontend.near_list(), || tables.client()),
    }
}

/// What settles the matter before a backend is chosen: who may use the frontend, and whether there
/// is anything behind it.
#[inline(always)]
pub fn gate<A: Address, T: Sockets<A>>(tables: &T, frontend: &Frontend) -> Option<Decision<A>> {
    if frontend.has(flags::NODE_ONLY) && !tables.client_is_node() {
        return Some(Decision::Pass);
    }
    if frontend.has(flags::SOURCE_RANGES) {
        // A pod's address is not known here; the node's own is known to the agent.
        if !tables.client_is_node() {
            return Some(Decision::NeedsSource);
        }
        if !frontend.has(flags::NODE_ALLOWED) {
            return Some(Decision::Drop(frontend.service));
        }
    }
    if frontend.near.count == 0 {
        let service = frontend.service;
        let drop = frontend.has(flags::NEAR_DROP);
        return Some(if drop { Decision::Drop(service) } else { Decision::Refuse(service) });
    }
    None
}

/// A backend of one of a frontend's lists, which is not empty: the one the client has, or any.
#[inline(always)]
pub fn choose<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &Frontend,
    list: List,
    client: impl FnOnce() -> Client,
) -> Decision<A> {
    if frontend.has(flags::AFFINITY) {
        return with_affinity(tables, frontend, list, client());
    }
    at_random(tables, frontend, list.slots)
}

/// A backend of the list, each equally likely.
#[inline(always)]
fn at_random<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &Frontend,
    slots: SlotRange,
) -> Decision<A> {
    let index = slots.first.wrapping_add(scale(tables.random(), slots.count));
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
fn with_affinity<A: Address, T: Tables<A>>(
    tables: &T,
    frontend: &Frontend,
    list: List,
    client: Client,
) -> Decision<A> {
    let key = AffinityKey { client, service: frontend.service, family: A::FAMILY as u32 };
    let now_ns = tables.now_ns();
    let mut decision = Decision::Pass;
    if let Some(entry) = tables.affinity(&key)
        && entry.is_live(now_ns, frontend.affinity_secs)
        && let Some(backend) = tables.backend(entry.backend)
        && backend.service == frontend.service
        && backend.is_usable(entry.generation, list.bit)
    {
        decision = Decision::Forward(target(entry.backend, &backend, true));
    }
    if decision == Decision::Pass {
        decision = at_random(tables, frontend, list.slots);
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
        service: backend.service,
        by_affinity,
    }
}

/// Map a uniform 32-bit number to `0..count` by multiply-shift: no division, and no bias beyond
/// count / 2^32.
#[inline(always)]
pub const fn scale(random: u32, count: u32) -> u32 {
    ((random as u64 * count as u64) >> 32) as u32
}
