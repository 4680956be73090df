//! The frontend filter: see `millrace_common::frontend_filter`.

use millrace_common::address::Address;
use millrace_common::frontend_filter::{Bit, FrontendFilter, WORDS};

use crate::maps;

/// Whether there may be a frontend with this address. False rules it out.
#[inline(always)]
pub fn may_have<A: Address>(address: &A) -> bool {
    let Some(filter) = maps::FRONTEND_FILTER.get_ptr_mut(0) else { return true };
    let bit = Bit::of(address);
    // SAFETY: `place` gives an aligned word of a live row.
    let ruled_out = unsafe { place(filter, bit).read_volatile() };
    ruled_out & bit.mask() == 0
}

/// Where a bit's word is: the verifier sees that it is within the row. (By an instruction that the
/// compiler does not know for a needless one.)
#[inline(always)]
fn place(filter: *mut FrontendFilter, bit: Bit) -> *const u64 {
    let mut word = u64::from(bit.word());
    // SAFETY: a number.
    unsafe {
        core::arch::asm!("{0} &= {1}", inout(reg) word, const WORDS - 1,
            options(pure, nomem, nostack));
    }
    filter.cast::<u64>().wrapping_add(word as usize)
}
