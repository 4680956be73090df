//! Fragments that overtook the first one of their datagram: kept as bytes, and let in again as
//! packets when it comes.
//!
//! A program cannot make a packet. So the first fragment's own packet is made into each of the
//! others in turn, a clone of it goes to the device's ingress queue, and in the end it gets its own
//! bytes back.

use aya_ebpf::bindings::{BPF_F_INGRESS, BPF_F_RECOMPUTE_CSUM, BPF_NOEXIST};
use aya_ebpf::helpers::generated;
use aya_ebpf::programs::TcContext;
use millrace_common::affinity::NS_PER_SEC;
use millrace_common::fragment::{FRAGMENT_SECS, PARKED_BYTES, PARKED_OF_ONE, Parked, ParkedKey};

use crate::kernel::helpers;
use crate::maps;

/// Rows of the scratch map.
const TO_PARK: u32 = 0;
/// The first fragment's own bytes.
const OWN: u32 = 1;

/// Keep the packet. False: there is no room.
#[inline(never)]
pub fn park(ctx: &TcContext, mut key: ParkedKey) -> bool {
    let Some(scratch) = maps::SCRATCH.get_ptr_mut(TO_PARK) else { return false };
    if !copy(ctx, scratch) {
        return false;
    }
    for index in 0..PARKED_OF_ONE {
        key.index = index;
        // SAFETY: a row of this CPU's own; no program of ours interrupts another on its CPU.
        if maps::PARKED.insert(&key, unsafe { &*scratch }, u64::from(BPF_NOEXIST)).is_ok() {
            return true;
        }
    }
    false
}

/// Let in again what was kept.
#[inline(never)]
pub fn release(ctx: &TcContext, mut key: ParkedKey) {
    let Some(own) = maps::SCRATCH.get_ptr_mut(OWN) else { return };
    let mut is_saved = false;
    for index in 0..PARKED_OF_ONE {
        key.index = index;
        let Some(parked) = maps::PARKED.get_ptr_mut(&key) else { break };
        if !is_saved && !copy(ctx, own) {
            return;
        }
        is_saved = true;
        // SAFETY: a row that stays readable until the program ends.
        let age = now_secs().wrapping_sub(unsafe { (*parked).since_secs });
        if age <= FRAGMENT_SECS && become_frame(ctx, parked) {
            let device = helpers::device(ctx);
            // SAFETY: the context and numbers.
            unsafe {
                generated::bpf_clone_redirect(ctx.skb.skb, device, u64::from(BPF_F_INGRESS));
            }
        }
        // Fails only if somebody else removed it.
        let _ = maps::PARKED.remove(&key);
    }
    if is_saved {
        // If memory fails here the datagram is lost, as any packet may be.
        become_frame(ctx, own);
    }
}

/// The packet's bytes into a row. False: they are too many.
#[inline(always)]
fn copy(ctx: &TcContext, row: *mut Parked) -> bool {
    let len = ctx.len();
    if len == 0 || len > PARKED_BYTES as u32 {
        return false;
    }
    // SAFETY: a row of this CPU's own, and no more bytes than it has.
    unsafe {
        (*row).len = len;
        (*row).since_secs = now_secs();
        let frame = (&raw mut (*row).frame).cast();
        generated::bpf_skb_load_bytes(ctx.skb.skb.cast(), 0, frame, bounded(len)) == 0
    }
}

/// Make the packet into the frame in a row.
#[inline(always)]
fn become_frame(ctx: &TcContext, row: *mut Parked) -> bool {
    // SAFETY: a live row.
    let len = unsafe { (*row).len };
    if len == 0 || len > PARKED_BYTES as u32 {
        return false;
    }
    // SAFETY: the context, and no more bytes than the row has.
    unsafe {
        let frame = (&raw const (*row).frame).cast();
        let flags = u64::from(BPF_F_RECOMPUTE_CSUM);
        generated::bpf_skb_change_tail(ctx.skb.skb, len, 0) == 0
            && generated::bpf_skb_store_bytes(ctx.skb.skb, 0, frame, bounded(len), flags) == 0
    }
}

/// The number itself, in a form whose bounds the verifier sees: between 1 and [`PARKED_BYTES`].
///
/// The compiler would compare a copy and use the original, which Linux 6.1 does not connect; and it
/// is `>= 1` because below 6.8 `!= 0` tells the verifier nothing.
#[inline(always)]
fn bounded(len: u32) -> u32 {
    let mut len = u64::from(len);
    // SAFETY: changes one register, and nothing if the number is what it should be.
    unsafe {
        core::arch::asm!(
            "if {len} > {most} goto +1",
            "if {len} >= 1 goto +1",
            "{len} = 1",
            len = inout(reg) len,
            most = const PARKED_BYTES,
        );
    }
    len as u32
}

#[inline(always)]
fn now_secs() -> u32 {
    (helpers::now_ns() / NS_PER_SEC) as u32
}
