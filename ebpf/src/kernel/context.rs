//! Fields of the contexts, read and written as the verifier wants it: each at its full width and
//! never merged with a neighbour, hence volatile.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use core::ffi::c_void;
use core::ptr::{read_volatile, write_volatile};
use millrace_common::address::{Be16, Protocol, V4, V6};

/// `IPPROTO_MPTCP`: a TCP connection in all that matters here.
const IPPROTO_MPTCP: u32 = 262;

/// The context of a `connect`, `sendmsg`, `recvmsg` or `getpeername` hook: a socket and the
/// address that is being dialled or shown.
pub struct SockAddr<'a> {
    raw: *mut bpf_sock_addr,
    ctx: &'a SockAddrContext,
}

impl<'a> SockAddr<'a> {
    /// Wrap the program's context.
    #[inline(always)]
    pub fn new(ctx: &'a SockAddrContext) -> Self {
        Self { raw: ctx.sock_addr, ctx }
    }

    /// For helpers that take the context.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut c_void {
        self.ctx.as_ptr()
    }

    /// The context as aya knows it.
    #[cfg(feature = "bpf-log")]
    #[inline(always)]
    pub fn inner(&self) -> &SockAddrContext {
        self.ctx
    }

    /// The socket.
    #[inline(always)]
    pub fn socket(&self) -> *mut bpf_sock {
        // SAFETY: `raw` is the program's context, and `sk` a field any of these hooks may read.
        unsafe { read_volatile(&raw const (*self.raw).__bindgen_anon_1.sk) }
    }

    /// Whether this is a TCP socket that never tried to connect: only then it has no destination,
    /// which stays when an attempt fails. (UDP forgets its own when it disconnects.)
    #[inline(always)]
    pub fn is_fresh_tcp(&self, protocol: Protocol) -> bool {
        let sk = self.socket();
        // SAFETY: the context's socket, whose fields these hooks may read, each at its full width.
        let destination = unsafe {
            read_volatile(&raw const (*sk).dst_ip4)
                | read_volatile(&raw const (*sk).dst_ip6[0])
                | read_volatile(&raw const (*sk).dst_ip6[1])
                | read_volatile(&raw const (*sk).dst_ip6[2])
                | read_volatile(&raw const (*sk).dst_ip6[3])
        };
        protocol == Protocol::Tcp && destination == 0
    }

    /// Whether the socket is connected: only then it has a destination port.
    #[inline(always)]
    pub fn is_connected(&self) -> bool {
        // SAFETY: the context's socket, whose fields these hooks may read, each at its full width.
        (unsafe { read_volatile(&raw const (*self.socket()).dst_port) }) != 0
    }

    /// The socket's cookie.
    #[inline(always)]
    pub fn cookie(&self) -> u64 {
        super::helpers::socket_cookie(self.as_ptr())
    }

    /// The transport protocol, if Services know it.
    #[inline(always)]
    pub fn protocol(&self) -> Option<Protocol> {
        // SAFETY: `raw` is the program's context.
        match unsafe { read_volatile(&raw const (*self.raw).protocol) } {
            6 | IPPROTO_MPTCP => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// The port.
    #[inline(always)]
    pub fn port(&self) -> Be16 {
        // SAFETY: `raw` is the program's context; the port is the low half in memory order.
        Be16::from_raw(unsafe { read_volatile(&raw const (*self.raw).user_port) } as u16)
    }

    /// The IPv4 address. Only in hooks of IPv4.
    #[inline(always)]
    pub fn v4(&self) -> V4 {
        // SAFETY: `raw` is the program's context.
        V4::from_raw(unsafe { read_volatile(&raw const (*self.raw).user_ip4) })
    }

    /// The IPv6 address. Only in hooks of IPv6.
    #[inline(always)]
    pub fn v6(&self) -> V6 {
        // SAFETY: `raw` is the program's context; each word is read on its own.
        unsafe {
            V6::from_raw([
                read_volatile(&raw const (*self.raw).user_ip6[0]),
                read_volatile(&raw const (*self.raw).user_ip6[1]),
                read_volatile(&raw const (*self.raw).user_ip6[2]),
                read_volatile(&raw const (*self.raw).user_ip6[3]),
            ])
        }
    }

    /// Replace address and port. Only in hooks of IPv4.
    #[inline(always)]
    pub fn set_v4(&self, address: V4, port: Be16) {
        // SAFETY: `raw` is the program's context; these fields are writable in every hook we use.
        unsafe {
            write_volatile(&raw mut (*self.raw).user_ip4, address.raw());
            write_volatile(&raw mut (*self.raw).user_port, u32::from(port.raw()));
        }
    }

    /// Replace address and port. Only in hooks of IPv6.
    #[inline(always)]
    pub fn set_v6(&self, address: V6, port: Be16) {
        let [a, b, c, d] = address.raw();
        // SAFETY: as in `set_v4`; each word is written on its own.
        unsafe {
            write_volatile(&raw mut (*self.raw).user_ip6[0], a);
            write_volatile(&raw mut (*self.raw).user_ip6[1], b);
            write_volatile(&raw mut (*self.raw).user_ip6[2], c);
            write_volatile(&raw mut (*self.raw).user_ip6[3], d);
            write_volatile(&raw mut (*self.raw).user_port, u32::from(port.raw()));
        }
    }
}

/// `TCP_SYN_SENT` as `bpf_sock.state` shows it.
const TCP_SYN_SENT: u32 = 2;

/// The socket that sends a packet.
pub struct Sender {
    raw: *mut bpf_sock,
}

impl Sender {
    /// The full socket behind a packet; none for packets the kernel sends on its own account.
    #[inline(always)]
    pub fn of(ctx: &SkBuffContext) -> Option<Self> {
        // SAFETY: the program's context; `sk` is a pointer or null.
        let common = unsafe { read_volatile(&raw const (*ctx.skb.skb).__bindgen_anon_2.sk) };
        if common.is_null() {
            return None;
        }
        let raw = super::helpers::sk_fullsock(common);
        if raw.is_null() { None } else { Some(Self { raw }) }
    }

    /// For helpers that take the socket.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut bpf_sock {
        self.raw
    }

    /// The transport protocol, if Services know it.
    #[inline(always)]
    pub fn protocol(&self) -> Option<Protocol> {
        // SAFETY: a full socket, checked in `of`.
        match unsafe { read_volatile(&raw const (*self.raw).protocol) } {
            6 => Some(Protocol::Tcp),
            17 => Some(Protocol::Udp),
            _ => None,
        }
    }

    /// Whether a TCP socket is still trying to connect.
    #[inline(always)]
    pub fn is_connecting(&self) -> bool {
        // SAFETY: a full socket, checked in `of`.
        (unsafe { read_volatile(&raw const (*self.raw).state) }) == TCP_SYN_SENT
    }
}
