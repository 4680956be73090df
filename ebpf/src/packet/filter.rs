//! The flow filter: see `millrace_common::flow_filter`.

use core::mem::offset_of;
use core::ptr;

use millrace_common::address::{Address, Family};
use millrace_common::flow::FlowKey;
use millrace_common::flow_filter::{CELLS, FlowFilter, Possible};

use crate::maps;

/// What is said of a key. (IPv6's by a call, though a call costs: its addresses fill the stack.)
#[inline(always)]
pub fn possible<A: Address>(key: &FlowKey<A>) -> Possible {
    match A::FAMILY {
        Family::V4 => possible_at(key.pair_of_cells()),
        Family::V6 => possible_by_call(key),
    }
}

#[inline(never)]
fn possible_by_call<A: Address>(key: &FlowKey<A>) -> Possible {
    possible_at(key.pair_of_cells())
}

/// What is said of a key that leads to these two bytes.
#[inline(always)]
fn possible_at(pair_of_cells: u32) -> Possible {
    let all = Possible { ingress: true, egress: true };
    let Some(filter) = maps::FLOW_FILTER.get_ptr_mut(0) else { return all };
    // SAFETY: a live row; the agent writes the word.
    let in_force = unsafe { ptr::read_volatile(&raw const (*filter).in_force) };
    if in_force == 0 {
        return all;
    }
    // SAFETY: `place` gives bytes of a live row, and an even one is aligned.
    let [ingress, egress] = unsafe {
        let pair = place::<EVEN>(filter, in_force - 1, pair_of_cells).cast::<u16>();
        ptr::read_volatile(pair).to_ne_bytes()
    };
    Possible { ingress: ingress != 0, egress: egress != 0 }
}

/// An entry was written that has this key. Whoever else writes the bytes writes the same. (Not
/// inlined: there are many callers, and the stack is small.)
#[inline(never)]
pub fn note<A: Address>(key: &FlowKey<A>) {
    let cell = key.cell();
    let Some(filter) = maps::FLOW_FILTER.get_ptr_mut(0) else { return };
    // SAFETY: `place` gives bytes of a live row.
    unsafe {
        ptr::write_volatile(place::<ANY>(filter, 0, cell), 1);
        ptr::write_volatile(place::<ANY>(filter, 1, cell), 1);
    }
}

/// Places of single bytes.
const ANY: usize = CELLS - 1;
/// Places of pairs.
const EVEN: usize = CELLS - 2;

/// Where a byte of a half is: the verifier sees that it is within the row, a pair with both its
/// bytes. (By an instruction that the compiler does not know for a needless one.)
#[inline(always)]
fn place<const PLACES: usize>(filter: *mut FlowFilter, half: u32, cell: u32) -> *mut u8 {
    let mut cell = u64::from(cell);
    // SAFETY: a number.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) cell, const PLACES,
            options(pure, nomem, nostack));
    }
    let half = (half & 1) as usize * CELLS;
    filter.cast::<u8>().wrapping_add(offset_of!(FlowFilter, cells) + half + cell as usize)
}
