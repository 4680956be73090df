//! The maps and helpers, as `millrace_common::select` wants to see them.

use aya_ebpf::bindings::BPF_ANY;
use millrace_common::address::{Address, V4, V6};
use millrace_common::affinity::{AffinityEntry, AffinityKey, Client};
use millrace_common::backend::{Backend, BackendPair};
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::node::{NodeFamily, NodeRow, node};
use millrace_common::row::Pair;
use millrace_common::select::{Sockets, Tables};

use crate::config;
use crate::frontend_filter;
use crate::kernel::context::SockAddr;
use crate::kernel::helpers;
use crate::maps;

/// How often a frontend is looked up whose row is another key's when it is read.
const LOOKUPS: usize = 2;

/// A copy of a frontend's row, if there is one.
#[inline(always)]
fn find_frontend<A: Address>(
    key: &FrontendKey<A>,
    row: impl Fn() -> Option<*const Frontend>,
) -> Option<Frontend> {
    if !frontend_filter::may_have(&key.address) {
        return None;
    }
    for _ in 0..LOOKUPS {
        // SAFETY: a row of the map.
        let found = unsafe { read_in_order(row()?) };
        if found.check == key.check() {
            return Some(found);
        }
    }
    None
}

/// A copy of a row, the last word last: an element that becomes another key's while it is read has
/// that one's check. (Half-written when it was read, it has a service that its slots' backends do
/// not serve, which is no good either: `select`.)
///
/// # Safety
/// It is a row of a map.
#[inline(always)]
unsafe fn read_in_order(row: *const Frontend) -> Frontend {
    const WORDS: usize = size_of::<Frontend>() / size_of::<u64>();
    let mut words = [0; WORDS];
    for (index, word) in words.iter_mut().enumerate() {
        // SAFETY: a value of a map is aligned to 64-bit words, and made of them; the kernel keeps
        // the memory, whatever becomes of it, until the program ends.
        *word = unsafe { row.cast::<u64>().add(index).read_volatile() };
    }
    // SAFETY: words of a row, as many as it has; every bit pattern is one.
    unsafe { core::mem::transmute::<[u64; WORDS], Frontend>(words) }
}

/// The maps of one family.
pub trait Rows: Address {
    /// The frontend row of a destination.
    fn frontend(key: &FrontendKey<Self>) -> Option<Frontend>;
    /// A backend's row.
    fn backend(id: u32) -> Option<Backend<Self>>;
    /// This family's part of the node's row.
    fn of_node(row: &NodeRow) -> &NodeFamily<Self>;
}

impl Rows for V4 {
    #[inline(always)]
    fn frontend(key: &FrontendKey<Self>) -> Option<Frontend> {
        find_frontend(key, || maps::FRONTENDS_V4.get_ptr(key))
    }
    #[inline(always)]
    fn backend(id: u32) -> Option<Backend<Self>> {
        maps::BACKENDS.get(BackendPair::row_of(id)).map(|pair| pair.get(id))
    }
    #[inline(always)]
    fn of_node(row: &NodeRow) -> &NodeFamily<Self> {
        &row.v4
    }
}

impl Rows for V6 {
    #[inline(always)]
    fn frontend(key: &FrontendKey<Self>) -> Option<Frontend> {
        find_frontend(key, || maps::FRONTENDS_V6.get_ptr(key))
    }
    #[inline(always)]
    fn backend(id: u32) -> Option<Backend<Self>> {
        maps::BACKENDS.get(BackendPair::row_of(id)).map(|pair| *pair.as_v6())
    }
    #[inline(always)]
    fn of_node(row: &NodeRow) -> &NodeFamily<Self> {
        &row.v6
    }
}

/// The kernel's maps, seen by the client whose socket the context is about.
pub struct Kernel<'a>(pub &'a SockAddr<'a>);

impl<A: Rows> Tables<A> for Kernel<'_> {
    #[inline(always)]
    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend> {
        A::frontend(key)
    }
    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u32> {
        maps::SLOTS.get(Pair::<u32>::row_of(index)).map(|pair| pair.get(index))
    }
    #[inline(always)]
    fn backend(&self, id: u32) -> Option<Backend<A>> {
        A::backend(id)
    }
    #[inline(always)]
    fn random(&self) -> u32 {
        helpers::random()
    }
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        helpers::now_ns()
    }
    #[inline(always)]
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry> {
        affinity(key)
    }
    #[inline(always)]
    fn set_affinity(&self, key: &AffinityKey, entry: &AffinityEntry) {
        set_affinity(key, entry);
    }
}

/// The affinity entry of a client.
#[inline(always)]
pub fn affinity(key: &AffinityKey) -> Option<AffinityEntry> {
    // SAFETY: copied out at once. The map recycles entries, so a copy may mix two of them:
    // generation and service of the backend are checked before it is believed.
    unsafe { maps::AFFINITY.get(key) }.copied()
}

/// Remember or re-arm a client's affinity.
#[inline(always)]
pub fn set_affinity(key: &AffinityKey, entry: &AffinityEntry) {
    if let Some(row) = maps::AFFINITY.get_ptr_mut(key) {
        // An update of the whole row would cost as much as all the rest of the program.
        // SAFETY: a row of the map. Whoever reads a half-written one finds a generation that
        // does not fit, and chooses anew.
        unsafe { *row = *entry };
        return;
    }
    // Fails only when memory is short; then the next connection chooses anew.
    let _ = maps::AFFINITY.insert(key, entry, u64::from(BPF_ANY));
}

impl<A: Rows> Sockets<A> for Kernel<'_> {
    #[inline(always)]
    fn client(&self) -> Client {
        Client::of_namespace(helpers::netns_cookie(self.0.as_ptr()))
    }
    #[inline(always)]
    fn client_is_node(&self) -> bool {
        let node = config::node_netns_cookie().unwrap_or_else(helpers::initial_netns_cookie);
        helpers::netns_cookie(self.0.as_ptr()) == node
    }
    #[inline(always)]
    fn is_cluster_ip(&self, address: A) -> bool {
        maps::NODE.get(0).is_some_and(|row| {
            row.flags & node::KNOWN != 0 && A::of_node(row).service_hull.contains(address)
        }) && self.has_cluster_ip(address)
    }
}
