//! The maps and helpers the packet path needs.

use core::cell::UnsafeCell;

use crate::address::Address;
use crate::counters::Counter;
use crate::flow::{Flow, FlowKey, bits};
use crate::flow_filter::Possible;
use crate::fragment::{Fragment, FragmentKey};
use crate::node::{DeviceRow, NodeFamily, NodeRow};
use crate::select;

/// A row that several CPUs read and write at once, field by field.
pub type Shared<T> = UnsafeCell<T>;

/// Which of the two tables an entry is in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Table {
    /// `flows_*`: answered, but for some ([`crate::flow_room`]). Nothing is evicted; full, it takes
    /// no more.
    Established,
    /// `half_open_*`: not answered yet. The longest unused make room.
    HalfOpen,
}

impl Table {
    /// In the order in which a packet's flow is looked for.
    pub const BOTH: [Self; 2] = [Self::Established, Self::HalfOpen];

    /// Where a flow begins whose entries have these [bits].
    #[inline(always)]
    pub const fn of_new(flow_bits: u8) -> Self {
        if flow_bits & bits::HALF_OPEN != 0 { Self::Established } else { Self::HalfOpen }
    }

    /// Whether the flow of an OPEN or REPLY entry in this table, with these [bits], is not answered
    /// yet.
    #[inline(always)]
    pub const fn is_half_open(self, flow_bits: u8) -> bool {
        matches!(self, Self::HalfOpen) || flow_bits & bits::HALF_OPEN != 0
    }

    /// The table that such an entry's flow would be in if its state were said by that alone.
    pub const fn by_state(self, flow_bits: u8) -> Self {
        if self.is_half_open(flow_bits) { Self::HalfOpen } else { self }
    }
}

/// The maps of one family, seen by one packet.
pub trait Tables<A: Address>: select::Tables<A> {
    /// What the flow filter says of a packet. Asked of every one, and before an entry is looked for
    /// that is hardly ever there.
    fn possible(&self, key: &FlowKey<A>) -> Possible;
    /// A flow's entry.
    fn flow(&self, table: Table, key: &FlowKey<A>) -> Option<&Shared<Flow<A>>>;
    /// Write an entry, over an old one. False: there is no room.
    fn put_flow(&self, table: Table, key: &FlowKey<A>, flow: &Flow<A>) -> bool;
    /// Write an entry unless there is one. False: there is, or there is no room.
    fn add_flow(&self, table: Table, key: &FlowKey<A>, flow: &Flow<A>) -> bool;
    /// Add to an entry's bytes.
    fn add_bytes(&self, entry: &Shared<Flow<A>>, bytes: u32);
    /// Delete an entry.
    fn remove_flow(&self, table: Table, key: &FlowKey<A>);
    /// Whether a flow may begin among the established ones; if so, there is room for one fewer.
    fn take_room(&self) -> bool;
    /// It was answered: there is room for another.
    fn give_room(&self);
    /// There was none: let no other begin there until the agent has counted.
    fn close_room(&self);
    /// What became of a datagram's first fragment.
    fn fragment(&self, key: &FragmentKey<A>) -> Option<Fragment<A>>;
    /// Remember what became of it.
    fn set_fragment(&self, key: &FragmentKey<A>, fragment: &Fragment<A>);
    /// Keep the packet, a later fragment, until the first one comes. False: there is no room, or it
    /// is too large.
    fn park(&self, key: &FragmentKey<A>) -> bool;
    /// Have what was kept come in again. The packet is the first fragment, and stays as it is.
    fn release(&self, key: &FragmentKey<A>);
    /// Whether `source` is in one of the source ranges of a service port.
    fn is_source_allowed(&self, service: u32, source: A) -> bool;
    /// Whether a socket of the node would take the packet with this key: it listens on the
    /// destination port, or is connected to the source.
    fn is_port_in_use(&self, key: &FlowKey<A>) -> bool;
    /// The device the packet is on.
    fn device(&self) -> Option<DeviceRow>;
    /// What masqueraded packets of this family that leave by the device come from.
    fn masquerade_address(row: &DeviceRow) -> A;
    /// The node.
    fn node(&self) -> Option<&NodeRow>;
    /// This family's part of the node's row.
    fn of_node(row: &NodeRow) -> &NodeFamily<A>;
    /// Count an outcome.
    fn count(&self, counter: Counter);
    /// Count a new connection of a service port.
    fn count_opened(&self, service: u32);
    /// Count one that was refused or dropped.
    fn count_failed(&self, service: u32);
}
