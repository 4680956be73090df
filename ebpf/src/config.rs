//! Values the agent sets when it loads the object. They are frozen before the verifier runs, so a
//! branch they rule out costs nothing.

use aya_ebpf::Global;

/// Cookie of the node's network namespace; 0 if the agent could not learn it (kernels below 5.14),
/// then the initial namespace is taken for the node's.
#[unsafe(no_mangle)]
static NODE_NETNS_COOKIE: Global<u64> = Global::new(0);

/// 1 if the kernel has `bpf_set_retval` (5.18): a refusal is ECONNREFUSED, not EPERM.
#[unsafe(no_mangle)]
static HAS_SET_RETVAL: Global<u8> = Global::new(0);

/// The node's network namespace cookie, if it is known.
#[inline(always)]
pub fn node_netns_cookie() -> Option<u64> {
    match NODE_NETNS_COOKIE.load() {
        0 => None,
        cookie => Some(cookie),
    }
}

/// Whether a program may set the error its caller sees.
#[inline(always)]
pub fn has_set_retval() -> bool {
    HAS_SET_RETVAL.load() != 0
}

/// 1 if the kernel has `bpf_ktime_get_coarse_ns` (5.11): the clock of the last timer tick, which
/// costs no look at the hardware.
#[unsafe(no_mangle)]
static HAS_COARSE_CLOCK: Global<u8> = Global::new(0);

/// Whether there is a clock that is as good as its ticks, and cheap.
#[inline(always)]
pub fn has_coarse_clock() -> bool {
    HAS_COARSE_CLOCK.load() != 0
}
