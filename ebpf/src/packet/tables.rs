//! The maps and helpers, as `millrace_common::packet` wants to see them.

use millrace_common::address::Protocol;
use millrace_common::affinity::{AffinityEntry, AffinityKey};
use millrace_common::backend::Backend;
use millrace_common::counters::Counter;
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::flow_filter::Possible;
use millrace_common::fragment::{Fragment, FragmentKey, ParkedKey};
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::node::{DeviceRow, NodeFamily, NodeRow, SourceKey};
use millrace_common::packet::frame::Frame;
use millrace_common::packet::tables::{Shared, Table, Tables};
use millrace_common::row::Pair;
use millrace_common::select;

use super::rows::{PacketRows, Put};
use super::{Hook, filter, parking, room};
use crate::kernel::helpers;
use crate::maps;
use crate::socket::tables::{affinity, set_affinity};

/// Bits of an address of the family.
const fn address_bits<A>() -> u32 {
    size_of::<A>() as u32 * 8
}

impl<A: PacketRows, const SWIFT: bool> select::Tables<A> for Hook<'_, SWIFT> {
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

impl<A: PacketRows, const SWIFT: bool> Tables<A> for Hook<'_, SWIFT> {
    #[inline(always)]
    fn possible(&self, key: &FlowKey<A>) -> Possible {
        filter::possible(key)
    }
    #[inline(always)]
    fn flow(&self, table: Table, key: &FlowKey<A>) -> Option<&Shared<Flow<A>>> {
        let row: *const Shared<Flow<A>> = A::flow(table, key).cast_const().cast();
        // SAFETY: null, or a row that stays readable until the program ends (RCU); a row of an LRU
        // map may be given to another key meanwhile, which loses a packet or moves one flow's
        // clock.
        unsafe { row.as_ref() }
    }
    #[inline(always)]
    fn put_flow(&self, table: Table, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let written = A::put_flow(table, key, flow, Put::Replace);
        filter::note(key);
        written
    }
    #[inline(always)]
    fn add_flow(&self, table: Table, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let written = A::put_flow(table, key, flow, Put::Keep);
        filter::note(key);
        written
    }
    #[inline(always)]
    fn add_bytes(&self, entry: &Shared<Flow<A>>, bytes: u32) {
        // SAFETY: a field of a row that stays readable until the program ends.
        let count = unsafe { &raw mut (*entry.get()).bytes };
        helpers::add_atomically(count.cast(), bytes.into());
    }
    #[inline(always)]
    fn remove_flow(&self, table: Table, key: &FlowKey<A>) {
        A::remove_flow(table, key);
    }
    #[inline(always)]
    fn take_room(&self) -> bool {
        room::take::<A>()
    }
    #[inline(always)]
    fn give_room(&self) {
        room::give::<A>();
    }
    #[inline(always)]
    fn close_room(&self) {
        room::close::<A>();
    }
    #[inline(always)]
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Fragment<A>> {
        A::fragment(key)
    }
    #[inline(always)]
    fn set_fragment(&self, key: &FragmentKey<A>, fragment: &Fragment<A>) {
        A::set_fragment(key, fragment);
    }
    #[inline(always)]
    fn park(&self, key: &FragmentKey<A>) -> bool {
        parking::park(self.ctx, ParkedKey::new(key, 0))
    }
    #[inline(always)]
    fn release(&self, key: &FragmentKey<A>) {
        parking::release(self.ctx, ParkedKey::new(key, 0));
    }
    #[inline(always)]
    fn is_source_allowed(&self, service: u32, source: A) -> bool {
        A::is_source_allowed(&SourceKey::new(service, source, address_bits::<A>()))
    }
    #[inline(always)]
    fn is_port_in_use(&self, key: &FlowKey<A>) -> bool {
        // The key begins with what `bpf_sock_tuple` is: addresses and ports.
        let bytes = 2 * size_of::<A>() as u32 + 4;
        let tuple = core::ptr::from_ref(key).cast_mut().cast();
        if key.protocol == Protocol::Tcp as u8 {
            helpers::has_tcp_socket(self.ctx, tuple, bytes)
        } else {
            key.protocol == Protocol::Udp as u8 && helpers::has_udp_socket(self.ctx, tuple, bytes)
        }
    }
    #[inline(always)]
    fn device(&self) -> Option<DeviceRow> {
        // SAFETY: copied out at once.
        unsafe { maps::DEVICES.get(self.device_index()) }.copied()
    }
    #[inline(always)]
    fn masquerade_address(row: &DeviceRow) -> A {
        A::masquerade_address(row)
    }
    #[inline(always)]
    fn node(&self) -> Option<&NodeRow> {
        maps::NODE.get(0)
    }
    #[inline(always)]
    fn of_node(row: &NodeRow) -> &NodeFamily<A> {
        A::of_node(row)
    }
    #[inline(always)]
    fn count(&self, counter: Counter) {
        helpers::count(counter);
    }
    #[inline(always)]
    fn count_opened(&self, service: u32) {
        helpers::count_opened(service);
    }
    #[inline(always)]
    fn count_failed(&self, service: u32) {
        helpers::count_failed(service);
    }
}
