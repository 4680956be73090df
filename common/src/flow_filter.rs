//! The flow filter: one byte says that no flow can have a packet, without a look into the tables.
//!
//! Nearly all packets that a node's hooks see are none of ours, and each of them would be looked up
//! in two large tables, in cold memory. A byte of the filter is set once an entry is written whose
//! key leads to it. It is not unset when the entry goes: the agent fills the other half of the
//! filter anew, from what is in the tables, and puts that half in force; programs set the bytes of
//! both.
//!
//! A line of the processor's cache is for a pair of addresses, a byte in it for the ports and the
//! protocol: two pods that connect again and again find it at hand. Whatever else goes between a
//! pair that has many flows is looked up.
//!
//! That is safe because an entry is written before its bytes are set, and the agent clears its half
//! before it reads the tables: an entry that it does not find sets its byte after the clearing. A
//! filter that nobody fills anew (the agent is dead) rules out less and less, never too much.

use crate::address::{Address, V4, V6};
use crate::flow::FlowKey;
use crate::row::Row;

/// Bytes of each half; a power of two. Eight times the keys of a node with 16 000 flows, so one
/// packet in ten of those that are none of ours is looked up there.
pub const CELLS: usize = 1 << 18;
/// Bytes that a pair of addresses has; a power of two, and not more than a line of a cache.
pub const LINE_BYTES: usize = 64;

/// What filters' keys are multiplied by: an odd number without a pattern (xxHash's second prime).
/// Products carry upwards only, so what counts is their upper end.
pub(crate) const MIX: u64 = 0xc2b2_ae3d_27d4_eb4f;

/// Value of the `flow_filter` map, which has one row.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FlowFilter {
    /// 0: it rules out nothing (a new map). 1, 2: the first, the second half is in force.
    pub in_force: u32,
    /// Zero: the cells are not in a cache line with what is read by everybody.
    pub pad: [u32; 15],
    /// Both halves. A byte that is 0: no entry has a key that leads here.
    pub cells: [[u8; CELLS]; 2],
}

// SAFETY: sixteen words, and bytes, checked by `_LAYOUT`.
unsafe impl Row for FlowFilter {}

/// What the filter says about a packet: whether a table may have an entry with its key, and with
/// its key at the other [side](crate::flow::side). False rules it out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Possible {
    /// At ingress.
    pub ingress: bool,
    /// At egress.
    pub egress: bool,
}

impl<A: Address> FlowKey<A> {
    /// Which byte of a half the key leads to. The next one, or the one before, is that of the same
    /// key at the other side.
    #[inline(always)]
    pub fn cell(&self) -> u32 {
        self.pair_of_cells() | u32::from(self.side)
    }

    /// The first of both: that of ingress.
    #[inline(always)]
    pub fn pair_of_cells(&self) -> u32 {
        const SHIFT: u32 = u64::BITS - CELLS.trailing_zeros();
        const LINE_SHIFT: u32 = u64::BITS - LINE_BYTES.trailing_zeros();
        const LINE: u32 = LINE_BYTES as u32 - 1;
        let words = core::ptr::from_ref(self).cast::<u32>();
        let mut sum = 0_u64;
        let mut line = 0;
        for pair in 0..size_of::<Self>() / 8 {
            // SAFETY: a key is made of pairs of aligned words, and has no padding.
            let (low, mut high) = unsafe {
                let at = words.add(2 * pair);
                (at.read(), at.add(1).read())
            };
            if pair == size_of::<Self>() / 8 - 1 {
                // The addresses are done.
                line = (sum >> SHIFT) as u32 & !LINE;
                // All but the side.
                high ^= u32::from_ne_bytes([0, self.side, 0, 0]);
            }
            let pair = u64::from(low) | u64::from(high) << u32::BITS;
            sum = xor_in_turn(sum, pair).wrapping_mul(MIX);
        }
        line | (sum >> LINE_SHIFT) as u32 & !1
    }
}

/// `a ^ b`, and the next one after it: the compiler would read all words first, and BPF has no
/// registers for that many.
#[inline(always)]
fn xor_in_turn(a: u64, b: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut a = a;
        // SAFETY: two numbers.
        unsafe { core::arch::asm!("{0} ^= {1}", inout(reg) a, in(reg) b, options(nostack)) };
        a
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        a ^ b
    }
}

const _LAYOUT: () = {
    assert!(
        CELLS.is_power_of_two()
            && LINE_BYTES.is_power_of_two()
            && size_of::<FlowFilter>() == 64 + 2 * CELLS
    );
    assert!(core::mem::offset_of!(FlowKey<V4>, side) == size_of::<FlowKey<V4>>() - 3);
    assert!(core::mem::offset_of!(FlowKey<V6>, side) == size_of::<FlowKey<V6>>() - 3);
    // Addresses, then all the rest in eight bytes.
    assert!(size_of::<FlowKey<V4>>() == 2 * size_of::<V4>() + 8);
    assert!(size_of::<FlowKey<V6>>() == 2 * size_of::<V6>() + 8);
    assert!(size_of::<FlowKey<V4>>().is_multiple_of(8));
    assert!(size_of::<FlowKey<V6>>().is_multiple_of(8));
};
