//! The helper calls we use.

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated;
use core::ffi::c_void;
use core::ptr;
use millrace_common::counters::Counter;

use crate::maps;

/// `ECONNREFUSED` (`asm-generic/errno.h`).
const ECONNREFUSED: i32 = 111;

/// Make the system call fail with ECONNREFUSED once the program denies it. Linux 5.18.
#[inline(always)]
pub fn set_retval_refused() {
    // SAFETY: takes a number.
    unsafe { generated::bpf_set_retval(-ECONNREFUSED) };
}

/// A uniformly random number.
#[inline(always)]
pub fn random() -> u32 {
    // SAFETY: takes nothing.
    unsafe { generated::bpf_get_prandom_u32() }
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline(always)]
pub fn now_ns() -> u64 {
    // SAFETY: takes nothing.
    unsafe { generated::bpf_ktime_get_ns() }
}

/// Cookie of the network namespace of the context's socket. Linux 5.7.
#[inline(always)]
pub fn netns_cookie(ctx: *mut c_void) -> u64 {
    // SAFETY: takes the program's context.
    unsafe { generated::bpf_get_netns_cookie(ctx) }
}

/// Cookie of the initial network namespace.
#[inline(always)]
pub fn initial_netns_cookie() -> u64 {
    // SAFETY: null stands for the initial namespace.
    unsafe { generated::bpf_get_netns_cookie(ptr::null_mut()) }
}

/// Cookie of the context's socket: unique while the system is up, and given on first asking.
#[inline(always)]
pub fn socket_cookie(ctx: *mut c_void) -> u64 {
    // SAFETY: takes the program's context.
    unsafe { generated::bpf_get_socket_cookie(ctx) }
}

/// The full socket of a packet's socket; null if it is not a full one (a TIME_WAIT, say).
#[inline(always)]
pub fn sk_fullsock(sk: *mut bpf_sock) -> *mut bpf_sock {
    // SAFETY: the caller has checked that the pointer is not null.
    unsafe { generated::bpf_sk_fullsock(sk) }
}

/// What a socket has in a socket storage map; null if nothing.
#[inline(always)]
pub fn sk_storage<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock) -> *mut T {
    storage(map, sk, 0)
}

/// As [`sk_storage`], all zero if it had nothing; null if there is no memory.
#[inline(always)]
pub fn sk_storage_or_zero<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock) -> *mut T {
    storage(map, sk, u64::from(BPF_SK_STORAGE_GET_F_CREATE))
}

#[inline(always)]
fn storage<T>(map: &'static SkStorage<T>, sk: *mut bpf_sock, flags: u64) -> *mut T {
    let map = ptr::from_ref(map).cast_mut().cast();
    // SAFETY: `sk` is a socket of the context; a null value means zeroes.
    unsafe { generated::bpf_sk_storage_get(map, sk.cast(), ptr::null_mut(), flags) }.cast()
}

/// Count an outcome.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(row) = maps::COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: a per-CPU row; a program is not preempted by another one on its CPU, and a lost
        // update would cost a count.
        unsafe { *row = (*row).wrapping_add(1) };
    }
}
