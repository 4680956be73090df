//! The helper calls we use.

use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock, bpf_sock_tuple};
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::helpers::generated;
use aya_ebpf::programs::TcContext;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr;
use millrace_common::address::Be16;
use millrace_common::counters::Counter;
use millrace_common::row::Row;

use crate::{config, maps};

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
    if config::has_coarse_clock() {
        // SAFETY: takes nothing.
        return unsafe { generated::bpf_ktime_get_coarse_ns() };
    }
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

/// Offsets up to here are read directly, in bytes: what the verifier can follow, and more than all
/// headers that are not odd.
pub const DIRECT_BYTES: u32 = 256;

/// Read from a packet at an offset up to [`DIRECT_BYTES`]. False: it is shorter. (Word by word and
/// in assembly: the compiler takes BPF for a machine that must not read a word at an odd place.)
#[inline(always)]
pub fn read_packet<T: Row>(ctx: &TcContext, offset: u32, value: &mut MaybeUninit<T>) -> bool {
    if offset > DIRECT_BYTES {
        return false;
    }
    let bytes = size_of::<T>();
    if ctx.data() + offset as usize + bytes > ctx.data_end() {
        // Headers in fragments of a buffer are rare: then they are brought to its beginning.
        // SAFETY: the context and a number.
        unsafe { generated::bpf_skb_pull_data(ctx.skb.skb, offset + bytes as u32) };
    }
    let start = ctx.data() + offset as usize;
    if start + bytes > ctx.data_end() {
        return false;
    }
    let to = value.as_mut_ptr().cast::<u8>();
    let mut at = 0;
    while at + 4 <= size_of::<T>() {
        let word: u64;
        // SAFETY: within the packet, as was just checked; the verifier checks it again.
        unsafe {
            core::arch::asm!(
                "{0} = *(u32 *)({1} + 0)",
                out(reg) word, in(reg) start + at,
                options(pure, readonly, nostack)
            );
            to.add(at).cast::<u32>().write_unaligned(word as u32);
        }
        at += 4;
    }
    while at < size_of::<T>() {
        // SAFETY: as above, a byte.
        unsafe { to.add(at).write(((start + at) as *const u8).read()) };
        at += 1;
    }
    true
}

/// The network protocol of a packet.
#[inline(always)]
pub fn ethertype(ctx: &TcContext) -> Be16 {
    // SAFETY: the program's context; the number is the low half.
    Be16::from_raw(unsafe { ptr::read_volatile(&raw const (*ctx.skb.skb).protocol) } as u16)
}

/// `PACKET_*`: whose a packet is by its link layer address.
#[inline(always)]
pub fn packet_type(ctx: &TcContext) -> u32 {
    // SAFETY: the program's context.
    unsafe { ptr::read_volatile(&raw const (*ctx.skb.skb).pkt_type) }
}

/// The number, of which the verifier knows nothing any more: a zero is mixed in that it takes for
/// anything.
#[inline(always)]
pub fn forget(ctx: &TcContext, number: u32) -> u32 {
    // SAFETY: the program's context.
    let mut word = unsafe { ptr::read_volatile(&raw const (*ctx.skb.skb).len) };
    // SAFETY: two numbers; a number with itself gives 0, for any verifier that works number by
    // number.
    unsafe {
        core::arch::asm!("{0} ^= {0}", "{0} ^= {1}", inout(reg) word, in(reg) number,
            options(pure, nomem, nostack));
    }
    word
}

/// Index of the device a packet is on.
#[inline(always)]
pub fn device(ctx: &TcContext) -> u32 {
    // SAFETY: the program's context.
    unsafe { ptr::read_volatile(&raw const (*ctx.skb.skb).ifindex) }
}

/// Send the packet out of a device, with the link layer's header it has; the program returns what
/// this returns.
#[inline(always)]
pub fn redirect(device: u32) -> i32 {
    // SAFETY: takes numbers.
    unsafe { generated::bpf_redirect(device, 0) as i32 }
}

/// Send the packet out of a device, to the neighbour that the device's routes name (Linux 5.10);
/// the program returns what this returns.
#[inline(always)]
pub fn redirect_to_neighbour(device: u32) -> i32 {
    // SAFETY: null: the kernel asks its routes.
    unsafe { generated::bpf_redirect_neigh(device, ptr::null_mut(), 0, 0) as i32 }
}

/// `BPF_F_CURRENT_NETNS`.
const CURRENT_NETNS: u64 = u64::MAX;

/// Whether a TCP socket of the packet's namespace would take a packet with these addresses and
/// ports.
#[inline(always)]
pub fn has_tcp_socket(ctx: &TcContext, tuple: *mut bpf_sock_tuple, bytes: u32) -> bool {
    // SAFETY: the context, and `bytes` bytes that the caller vouches for.
    let sk = unsafe {
        generated::bpf_skc_lookup_tcp(ctx.skb.skb.cast(), tuple, bytes, CURRENT_NETNS, 0)
    };
    release(sk)
}

/// As [`has_tcp_socket`], UDP.
#[inline(always)]
pub fn has_udp_socket(ctx: &TcContext, tuple: *mut bpf_sock_tuple, bytes: u32) -> bool {
    // SAFETY: as above.
    let sk =
        unsafe { generated::bpf_sk_lookup_udp(ctx.skb.skb.cast(), tuple, bytes, CURRENT_NETNS, 0) };
    release(sk)
}

/// Give a socket back, if there is one; returns whether there was.
#[inline(always)]
fn release(sk: *mut bpf_sock) -> bool {
    if sk.is_null() {
        return false;
    }
    // SAFETY: a socket that a look-up returned, given back once.
    unsafe { generated::bpf_sk_release(sk.cast()) };
    true
}

/// Add to a number that all CPUs share, which is an aligned word of a map's row. (Rust gives the
/// BPF target no atomic addition, though BPF has had one from the start: `BPF_XADD`.)
#[inline(always)]
pub fn add_atomically(number: *mut u64, what: u64) {
    // SAFETY: the caller's pointer is into a row, which the verifier checks.
    unsafe {
        core::arch::asm!("lock *(u64 *)({} + 0) += {}", in(reg) number, in(reg) what);
    }
}

/// Count a new connection or flow of a service port.
#[inline(always)]
pub fn count_opened(service: u32) {
    if let Some(row) = maps::TRAFFIC.get_ptr_mut(service) {
        // SAFETY: a field of a row of an array, which lives as long as the program.
        add_atomically(unsafe { &raw mut (*row).opened }, 1);
    }
}

/// Count one that was refused or dropped.
#[inline(always)]
pub fn count_failed(service: u32) {
    if let Some(row) = maps::TRAFFIC.get_ptr_mut(service) {
        // SAFETY: as above.
        add_atomically(unsafe { &raw mut (*row).failed }, 1);
    }
}
