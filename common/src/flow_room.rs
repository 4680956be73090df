//! How many flows may be written to `flows_*` before they are answered.
//!
//! A flow that begins in `half_open_*` has to be moved when it is answered, entry by entry, for
//! which the client's `connect()` waits. So most begin in `flows_*` at once. Nothing is ever
//! evicted there, and a flood of first packets must not fill it: there is room for so many flows
//! that are not answered, and the rest begin in `half_open_*`, as all do in a new map.
//!
//! A program takes one when it writes such a flow, and gives it back when the flow is answered. A
//! flow that is never answered keeps its own: the agent counts those that are there, pass by pass,
//! and says anew how many are left. An agent that is dead does not, and more and more flows begin
//! in `half_open_*`.

use crate::row::Row;

/// Value of the `flow_room` map, whose rows are [`V4`] and [`V6`]. Programs add to it atomically.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowRoom {
    /// How many are left; none if not above 0, as when several CPUs have taken the last one.
    pub left: i64,
    /// Zero: the rows are not in one line of a cache.
    pub pad: [u64; 7],
}

/// The row of IPv4.
pub const V4: u32 = 0;
/// The row of IPv6.
pub const V6: u32 = 1;

// SAFETY: eight words, checked by `_LAYOUT`.
unsafe impl Row for FlowRoom {}

const _LAYOUT: () = assert!(size_of::<FlowRoom>() == 64);
