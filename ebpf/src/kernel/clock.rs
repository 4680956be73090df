//! The time in seconds, read from the clock once a tick.

use aya_ebpf::helpers::generated;
use core::ptr;
use millrace_common::affinity::NS_PER_SEC;

use super::helpers;

/// The tick that was last asked in, and the second it was: high and low half, so that no CPU sees
/// one without the other.
#[unsafe(no_mangle)]
static mut TICK: u64 = 0;

/// `CLOCK_MONOTONIC` in seconds, as of the last tick. (The number of ticks costs one instruction, a
/// clock a call that returns three times.)
#[inline(always)]
pub fn now_secs() -> u32 {
    // SAFETY: takes nothing.
    let tick = unsafe { generated::bpf_jiffies64() } as u32;
    // SAFETY: an aligned word, which programs alone read and write, whole.
    let known = unsafe { ptr::read_volatile(&raw const TICK) };
    if (known >> 32) as u32 == tick {
        return known as u32;
    }
    let secs = (helpers::now_ns() / NS_PER_SEC) as u32;
    // SAFETY: as above.
    unsafe { ptr::write_volatile(&raw mut TICK, u64::from(tick) << 32 | u64::from(secs)) };
    secs
}
