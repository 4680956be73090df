//! The packet path's doors: a device's hooks. The story is `millrace_common::packet`; here are the
//! packet and the maps it works on, and what its verdicts mean to the kernel.

mod filter;
mod frame;
mod parking;
mod room;
mod rows;
mod tables;

use aya_ebpf::bindings::{TC_ACT_SHOT, TC_ACT_UNSPEC};
use aya_ebpf::programs::TcContext;
use millrace_common::packet::frame::Verdict;
use millrace_common::packet::{comes_in, goes_out};

use crate::kernel::helpers;

/// A packet under a hook. `SWIFT`: see [`Frame::SWIFT`](millrace_common::packet::frame::Frame).
pub struct Hook<'a, const SWIFT: bool> {
    ctx: &'a TcContext,
    link_bytes: u32,
}

/// A packet comes in by a device whose link layer header has that many bytes.
#[inline(always)]
pub fn packet_in<const SWIFT: bool>(ctx: &TcContext, link_bytes: u32) -> i32 {
    let hook = Hook::<SWIFT> { ctx, link_bytes };
    code(&hook, comes_in(&hook))
}

/// A packet goes out by one.
#[inline(always)]
pub fn packet_out<const SWIFT: bool>(ctx: &TcContext, link_bytes: u32) -> i32 {
    let hook = Hook::<SWIFT> { ctx, link_bytes };
    code(&hook, goes_out(&hook))
}

/// What the program returns. "Unspecified" lets the next program have its say: we only translate.
#[inline(always)]
fn code<const SWIFT: bool>(hook: &Hook<SWIFT>, verdict: Verdict) -> i32 {
    if let Some(device) = verdict.redirected_to() {
        return helpers::redirect_to_neighbour(device);
    }
    match verdict {
        Verdict::DROP => TC_ACT_SHOT,
        Verdict::RETURN => helpers::redirect(helpers::device(hook.ctx)),
        _ => TC_ACT_UNSPEC,
    }
}
