//! Hook entry points, in the order of a connection's life. Each reads its context and calls one
//! function of the story in [`socket`].
//!
//! The story of a packet under a device's hook is `millrace_common::packet`; [`packet`] are its
//! doors.
//!
//! The story of a socket: it dials a frontend and is sent to a backend ([`socket::translate`]);
//! what it dialled is recorded ([`socket::record`]); when the application asks where an answer came
//! from or whom it is connected to, it is told what it dialled ([`socket::restore`]); and a packet
//! that must not leave is stopped ([`socket::guard`]). The choice itself is
//! `millrace_common::select`.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
// Clippy does not see this crate: nobody would be stopped by a warning.
#![deny(unused_imports, unused_variables, unused_mut, unused_must_use)]

mod config;
mod frontend_filter;
mod kernel;
mod maps;
mod observe;
mod packet;
mod socket;

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr, classifier};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext, SockContext, TcContext};
use millrace_common::packet::frame::ETHERNET_BYTES;

use kernel::context::SockAddr;

/// A socket connects, IPv4.
#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    socket::translate::connect_v4(&SockAddr::new(&ctx)).code()
}

/// A socket connects, IPv6 and IPv4-mapped.
#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    socket::translate::connect_v6(&SockAddr::new(&ctx)).code()
}

/// A UDP socket sends to an address, IPv4.
#[cgroup_sock_addr(sendmsg4)]
pub fn sendmsg4(ctx: SockAddrContext) -> i32 {
    socket::translate::send_v4(&SockAddr::new(&ctx)).code()
}

/// A UDP socket sends to an address, IPv6. (IPv4-mapped destinations come to `sendmsg4`.)
#[cgroup_sock_addr(sendmsg6)]
pub fn sendmsg6(ctx: SockAddrContext) -> i32 {
    socket::translate::send_v6(&SockAddr::new(&ctx)).code()
}

/// A UDP socket is told who sent, IPv4.
#[cgroup_sock_addr(recvmsg4)]
pub fn recvmsg4(ctx: SockAddrContext) -> i32 {
    socket::restore::sender_v4(&SockAddr::new(&ctx))
}

/// A UDP socket is told who sent, IPv6 and IPv4-mapped.
#[cgroup_sock_addr(recvmsg6)]
pub fn recvmsg6(ctx: SockAddrContext) -> i32 {
    socket::restore::sender_v6(&SockAddr::new(&ctx))
}

/// A socket asks whom it is connected to, IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    socket::restore::peer_v4(&SockAddr::new(&ctx))
}

/// A socket asks whom it is connected to, IPv6 and IPv4-mapped.
#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    socket::restore::peer_v6(&SockAddr::new(&ctx))
}

/// A socket's packet leaves.
#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
    socket::guard::egress(&ctx).code()
}

/// A socket is closed.
#[cgroup_sock(sock_release)]
pub fn sock_release(ctx: SockContext) -> i32 {
    socket::record::forget_closed(kernel::helpers::socket_cookie(ctx.as_ptr()));
    1
}

/// The packet path's programs, for current kernels and for those whose verifiers give up over
/// them.
macro_rules! packet_programs {
    (
        $swift:literal,
        $packet_in:ident,
        $packet_out:ident,
        $packet_in_l3:ident,
        $packet_out_l3:ident
    ) => {
        /// A packet comes in by an Ethernet device.
        #[classifier]
        pub fn $packet_in(ctx: TcContext) -> i32 {
            packet::packet_in::<$swift>(&ctx, ETHERNET_BYTES)
        }

        /// A packet goes out by an Ethernet device.
        #[classifier]
        pub fn $packet_out(ctx: TcContext) -> i32 {
            packet::packet_out::<$swift>(&ctx, ETHERNET_BYTES)
        }

        /// A packet comes in by a device without a link layer header (tun, WireGuard, ipip).
        #[classifier]
        pub fn $packet_in_l3(ctx: TcContext) -> i32 {
            packet::packet_in::<$swift>(&ctx, 0)
        }

        /// A packet goes out by one.
        #[classifier]
        pub fn $packet_out_l3(ctx: TcContext) -> i32 {
            packet::packet_out::<$swift>(&ctx, 0)
        }
    };
}

packet_programs!(true, packet_in, packet_out, packet_in_l3, packet_out_l3);
packet_programs!(false, packet_in_plain, packet_out_plain, packet_in_l3_plain, packet_out_l3_plain);

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// Lets the kernel run helpers that only GPL-compatible programs may call.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
