//! Flows that may begin among the established ones: see `millrace_common::flow_room`.

use core::ptr;

use millrace_common::address::{Address, Family};
use millrace_common::flow_room::{self, FlowRoom};

use crate::kernel::helpers;
use crate::maps;

/// The family's row.
#[inline(always)]
fn row<A: Address>() -> Option<*mut FlowRoom> {
    maps::FLOW_ROOM.get_ptr_mut(match A::FAMILY {
        Family::V4 => flow_room::V4,
        Family::V6 => flow_room::V6,
    })
}

/// Take one. (CPUs that all see the last one all take it: Linux has no atomic operation with a
/// result for programs before 5.12.)
#[inline(always)]
pub fn take<A: Address>() -> bool {
    let Some(row) = row::<A>() else { return false };
    // SAFETY: an aligned word of a live row.
    if unsafe { ptr::read_volatile(&raw const (*row).left) } <= 0 {
        return false;
    }
    add(row, -1);
    true
}

/// Give one back.
#[inline(always)]
pub fn give<A: Address>() {
    if let Some(row) = row::<A>() {
        add(row, 1);
    }
}

/// No more.
#[inline(always)]
pub fn close<A: Address>() {
    if let Some(row) = row::<A>() {
        // SAFETY: an aligned word of a live row.
        unsafe { ptr::write_volatile(&raw mut (*row).left, 0) };
    }
}

#[inline(always)]
fn add(row: *mut FlowRoom, what: i64) {
    // SAFETY: a field of a live row.
    let left = unsafe { &raw mut (*row).left };
    helpers::add_atomically(left.cast(), what.cast_unsigned());
}
