//! A packet under a hook of a node: what `millrace_common::packet` is generic over. What of it a
//! socket needs as well ([`At`]) is there for both.

use millrace_common::address::Be16;
use millrace_common::affinity::{AffinityEntry, AffinityKey};
use millrace_common::backend::Backend;
use millrace_common::counters::Counter;
use millrace_common::flow::{Count, Flow, FlowKey};
use millrace_common::flow_filter::Possible;
use millrace_common::fragment::{Fragment, FragmentKey, ParkedKey};
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::node::{DeviceRow, NodeFamily, NodeRow};
use millrace_common::packet::frame::{Checksum, Frame};
use millrace_common::packet::tables::{Shared, Table, Tables};
use millrace_common::row::Row;
use millrace_common::select;

use super::buffer::Buffer;
use super::node::{InNode, Node};

/// Something at a node, which uses the node's rows.
pub struct At<'a, T> {
    /// What it is.
    pub subject: T,
    /// The node.
    pub node: &'a Node,
}

/// One packet at one node.
pub type Hook<'a> = At<'a, Buffer>;

impl Frame for Hook<'_> {
    const SWIFT: bool = true;

    fn len(&self) -> u32 {
        self.subject.len()
    }
    fn link_bytes(&self) -> u32 {
        self.subject.link_bytes()
    }
    fn ethertype(&self) -> Be16 {
        self.subject.ethertype()
    }
    fn device_index(&self) -> u32 {
        self.subject.device_index()
    }
    fn is_for_another_host(&self) -> bool {
        self.subject.is_for_another_host()
    }
    fn load<T: Row>(&self, offset: u32) -> Option<T> {
        self.subject.load(offset)
    }
    fn store<T: Row>(&self, offset: u32, value: &T) -> bool {
        self.subject.store(offset, value)
    }
    fn update_header_checksum(&self, offset: u32, difference: u32) -> bool {
        self.subject.update_header_checksum(offset, difference)
    }
    fn update_checksum(&self, offset: u32, difference: u32, how: Checksum) -> bool {
        self.subject.update_checksum(offset, difference, how)
    }
    fn resize(&self, len: u32) -> bool {
        self.subject.resize(len)
    }
}

impl<A: InNode, T> select::Tables<A> for At<'_, T> {
    fn frontend(&self, key: &FrontendKey<A>) -> Option<Frontend> {
        A::rows(self.node).frontends.get(key).copied().filter(|row| row.check == key.check())
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.node.slots.get(&index).copied()
    }
    fn backend(&self, id: u32) -> Option<Backend<A>> {
        A::rows(self.node).backends.get(&id).copied()
    }
    fn random(&self) -> u32 {
        self.node.random.next_u32()
    }
    fn now_ns(&self) -> u64 {
        self.node.now_ns.get()
    }
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry> {
        self.node.affinity.borrow().get(key).copied()
    }
    fn set_affinity(&self, key: &AffinityKey, entry: &AffinityEntry) {
        self.node.affinity.borrow_mut().insert(*key, *entry);
    }
}

impl<A: InNode> Tables<A> for Hook<'_> {
    /// The kernel's filter must make no difference.
    fn possible(&self, _: &FlowKey<A>) -> Possible {
        Possible { ingress: true, egress: true }
    }
    fn flow(&self, table: Table, key: &FlowKey<A>) -> Option<&Shared<Flow<A>>> {
        A::rows(self.node).table(table).get(key)
    }
    fn put_flow(&self, table: Table, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        A::rows(self.node).table(table).put(key, flow)
    }
    fn add_flow(&self, table: Table, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        A::rows(self.node).table(table).add(key, flow)
    }
    fn add_bytes(&self, entry: &Shared<Flow<A>>, bytes: u32) {
        // SAFETY: nobody else looks at the entry meanwhile.
        let count = unsafe { &mut (*entry.get()).bytes };
        *count = Count::new(count.get() + u64::from(bytes));
    }
    fn remove_flow(&self, table: Table, key: &FlowKey<A>) {
        A::rows(self.node).table(table).remove(key);
    }
    fn take_room(&self) -> bool {
        let room = &A::rows(self.node).room;
        let is_there = room.get() > 0;
        room.set(room.get() - i64::from(is_there));
        is_there
    }
    fn give_room(&self) {
        let room = &A::rows(self.node).room;
        room.set(room.get() + 1);
    }
    fn close_room(&self) {
        A::rows(self.node).room.set(0);
    }
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Fragment<A>> {
        A::rows(self.node).fragments.borrow().get(key).copied()
    }
    fn set_fragment(&self, key: &FragmentKey<A>, fragment: &Fragment<A>) {
        A::rows(self.node).fragments.borrow_mut().insert(*key, *fragment);
    }
    fn park(&self, key: &FragmentKey<A>) -> bool {
        self.node.park(|index| ParkedKey::new(key, index), self.subject.bytes())
    }
    fn release(&self, key: &FragmentKey<A>) {
        self.node.release(|index| ParkedKey::new(key, index));
    }
    fn is_source_allowed(&self, service: u32, source: A) -> bool {
        A::rows(self.node).is_source_allowed(service, source)
    }
    fn is_port_in_use(&self, key: &FlowKey<A>) -> bool {
        let socket = (key.destination, key.destination_port, key.protocol);
        A::rows(self.node).sockets.contains(&socket)
    }
    fn device(&self) -> Option<DeviceRow> {
        self.node.devices.get(&self.subject.device_index()).copied()
    }
    fn masquerade_address(row: &DeviceRow) -> A {
        A::masquerade(row)
    }
    fn node(&self) -> Option<&NodeRow> {
        self.node.row.as_ref()
    }
    fn of_node(row: &NodeRow) -> &NodeFamily<A> {
        A::part(row)
    }
    fn count(&self, counter: Counter) {
        self.node.count(counter);
    }
    fn count_opened(&self, service: u32) {
        self.node.with_traffic(service, |traffic| traffic.opened += 1);
    }
    fn count_failed(&self, service: u32) {
        self.node.with_traffic(service, |traffic| traffic.failed += 1);
    }
}
