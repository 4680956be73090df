//! Sockets as a C program uses them: the calls the agent's hooks see, without a runtime between.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use libc::{c_int, sockaddr_storage, socklen_t};

/// An address in the kernel's form.
#[derive(Clone, Copy)]
pub struct RawAddress {
    /// Room for any family.
    pub storage: sockaddr_storage,
    /// How much of it counts.
    pub length: socklen_t,
}

impl RawAddress {
    /// An empty one, to be filled by the kernel.
    pub fn empty() -> Self {
        // SAFETY: sockaddr_storage is plain data; all zeroes is AF_UNSPEC.
        let storage: sockaddr_storage = unsafe { mem::zeroed() };
        RawAddress { storage, length: mem::size_of::<sockaddr_storage>() as socklen_t }
    }

    /// Writes an address in the kernel's form.
    pub fn new(address: SocketAddr) -> Self {
        let mut raw = Self::empty();
        let pointer = (&raw mut raw.storage).cast::<u8>();
        match address {
            SocketAddr::V4(v4) => {
                let sin = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                raw.length = mem::size_of_val(&sin) as socklen_t;
                // SAFETY: sockaddr_storage is larger than and aligned for every sockaddr.
                unsafe { pointer.cast::<libc::sockaddr_in>().write(sin) };
            }
            SocketAddr::V6(v6) => {
                let sin6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: 0,
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                raw.length = mem::size_of_val(&sin6) as socklen_t;
                // SAFETY: as above.
                unsafe { pointer.cast::<libc::sockaddr_in6>().write(sin6) };
            }
        }
        raw
    }

    /// Reads the kernel's form; `None` for families that are not IP.
    pub fn get(&self) -> Option<SocketAddr> {
        let pointer = (&raw const self.storage).cast::<u8>();
        match c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the family says what the kernel wrote; the storage is aligned for it.
                let sin = unsafe { pointer.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(sin.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let sin6 = unsafe { pointer.cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                Some(SocketAddrV6::new(ip, u16::from_be(sin6.sin6_port), 0, 0).into())
            }
            _ => None,
        }
    }

    /// As the pointer the calls want.
    pub fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }
}

/// TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SOCK_STREAM.
    Tcp,
    /// SOCK_DGRAM.
    Udp,
}

/// An open socket.
#[derive(Debug)]
pub struct Socket(OwnedFd);

/// Turns the C convention into a Result.
pub fn check(code: isize) -> io::Result<usize> {
    usize::try_from(code).map_err(|_| io::Error::last_os_error())
}

impl Socket {
    /// A socket of the address's family.
    pub fn for_address(kind: Kind, address: SocketAddr) -> io::Result<Socket> {
        Self::new(kind, if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 })
    }

    /// A socket of a family.
    pub fn new(kind: Kind, family: c_int) -> io::Result<Socket> {
        let kind = match kind {
            Kind::Tcp => libc::SOCK_STREAM,
            Kind::Udp => libc::SOCK_DGRAM,
        };
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
        check(fd as isize)?;
        // SAFETY: the fd was just opened and belongs to nobody else.
        Ok(Socket(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// The descriptor.
    pub fn fd(&self) -> c_int {
        self.0.as_raw_fd()
    }

    /// Sets an integer option.
    pub fn set(&self, level: c_int, option: c_int, value: c_int) -> io::Result<()> {
        self.set_raw(level, option, &value)
    }

    fn set_raw<T>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        let size = mem::size_of::<T>() as socklen_t;
        let pointer = std::ptr::from_ref(value).cast();
        // SAFETY: the pointer and the size describe one live value.
        let code = unsafe { libc::setsockopt(self.fd(), level, option, pointer, size) };
        check(code as isize).map(|_| ())
    }

    /// Bounds connect, send and receive.
    pub fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        let time = libc::timeval {
            tv_sec: limit.as_secs() as libc::time_t,
            tv_usec: libc::suseconds_t::from(limit.subsec_micros()),
        };
        self.set_raw(libc::SOL_SOCKET, libc::SO_RCVTIMEO, &time)?;
        self.set_raw(libc::SOL_SOCKET, libc::SO_SNDTIMEO, &time)
    }

    /// Switches O_NONBLOCK.
    pub fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        // SAFETY: no pointers.
        let flags = unsafe { libc::fcntl(self.fd(), libc::F_GETFL) };
        check(flags as isize)?;
        let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
        // SAFETY: no pointers.
        check(unsafe { libc::fcntl(self.fd(), libc::F_SETFL, flags) } as isize).map(|_| ())
    }

    /// bind(2).
    pub fn bind(&self, address: SocketAddr) -> io::Result<()> {
        let raw = RawAddress::new(address);
        // SAFETY: the pointer and length describe `raw`, which lives through the call.
        check(unsafe { libc::bind(self.fd(), raw.as_ptr(), raw.length) } as isize).map(|_| ())
    }

    /// listen(2).
    pub fn listen(&self) -> io::Result<()> {
        // SAFETY: no pointers.
        check(unsafe { libc::listen(self.fd(), 1024) } as isize).map(|_| ())
    }

    /// accept(2).
    pub fn accept(&self) -> io::Result<(Socket, SocketAddr)> {
        let mut raw = RawAddress::empty();
        let pointer = (&raw mut raw.storage).cast();
        // SAFETY: the pointers describe `raw`, which lives through the call.
        let fd =
            unsafe { libc::accept4(self.fd(), pointer, &raw mut raw.length, libc::SOCK_CLOEXEC) };
        check(fd as isize)?;
        // SAFETY: the fd was just opened and belongs to nobody else.
        let socket = Socket(unsafe { OwnedFd::from_raw_fd(fd) });
        let peer = raw.get().ok_or_else(|| io::Error::other("not an IP peer"))?;
        Ok((socket, peer))
    }

    /// connect(2).
    pub fn connect(&self, address: SocketAddr) -> io::Result<()> {
        let raw = RawAddress::new(address);
        // SAFETY: the pointer and length describe `raw`, which lives through the call.
        let code = unsafe { libc::connect(self.fd(), raw.as_ptr(), raw.length) };
        check(code as isize).map(|_| ())
    }

    /// connect(2) to AF_UNSPEC: the socket is as if it had never been connected.
    pub fn disconnect(&self) -> io::Result<()> {
        let nowhere = libc::sockaddr { sa_family: libc::AF_UNSPEC as u16, sa_data: [0; 14] };
        let length = mem::size_of_val(&nowhere) as libc::socklen_t;
        // SAFETY: an open socket, and an address of the length that is given.
        check(unsafe { libc::connect(self.fd(), &raw const nowhere, length) } as isize).map(drop)
    }

    /// Waits until a non-blocking connect is decided, and returns the decision.
    pub fn finish_connect(&self, limit: Duration) -> io::Result<()> {
        let mut poll = libc::pollfd { fd: self.fd(), events: libc::POLLOUT, revents: 0 };
        // SAFETY: one live pollfd.
        let ready =
            check(unsafe { libc::poll(&mut poll, 1, limit.as_millis() as c_int) } as isize)?;
        if ready == 0 {
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        let mut error: c_int = 0;
        let mut size = mem::size_of::<c_int>() as socklen_t;
        let pointer = (&raw mut error).cast();
        // SAFETY: the pointers describe live values of the right size.
        let code = unsafe {
            libc::getsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_ERROR, pointer, &mut size)
        };
        check(code as isize)?;
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    /// send(2).
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length describe the slice.
        let code = unsafe {
            libc::send(self.fd(), bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL)
        };
        check(code)
    }

    /// sendto(2).
    pub fn send_to(&self, bytes: &[u8], to: SocketAddr) -> io::Result<usize> {
        let raw = RawAddress::new(to);
        let (data, length) = (bytes.as_ptr().cast(), bytes.len());
        // SAFETY: the pointers and lengths describe the slice and `raw`.
        check(unsafe { libc::sendto(self.fd(), data, length, 0, raw.as_ptr(), raw.length) })
    }

    /// recv(2).
    pub fn recv(&self, buffer: &mut [u8]) -> io::Result<usize> {
        // SAFETY: the pointer and length describe the buffer.
        check(unsafe { libc::recv(self.fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) })
    }

    /// recvfrom(2).
    pub fn recv_from(&self, buffer: &mut [u8]) -> io::Result<(usize, Option<SocketAddr>)> {
        let mut raw = RawAddress::empty();
        let (data, size) = (buffer.as_mut_ptr().cast(), buffer.len());
        let pointer = (&raw mut raw.storage).cast();
        // SAFETY: the pointers and lengths describe the buffer and `raw`.
        let code =
            unsafe { libc::recvfrom(self.fd(), data, size, 0, pointer, &raw mut raw.length) };
        Ok((check(code)?, raw.get()))
    }

    /// getpeername(2).
    pub fn peer(&self) -> Option<SocketAddr> {
        self.name_by(libc::getpeername)
    }

    /// getsockname(2).
    pub fn local(&self) -> Option<SocketAddr> {
        self.name_by(libc::getsockname)
    }

    fn name_by(
        &self,
        call: unsafe extern "C" fn(c_int, *mut libc::sockaddr, *mut socklen_t) -> c_int,
    ) -> Option<SocketAddr> {
        let mut raw = RawAddress::empty();
        // SAFETY: the pointers describe `raw`, which lives through the call.
        let code = unsafe { call(self.fd(), (&raw mut raw.storage).cast(), &raw mut raw.length) };
        (code == 0).then(|| raw.get()).flatten()
    }
}

/// An errno by name, as people read it.
pub fn errno_name(error: &io::Error) -> String {
    let Some(code) = error.raw_os_error() else { return error.kind().to_string() };
    let name = match code {
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::ETIMEDOUT => "ETIMEDOUT",
        libc::EHOSTUNREACH => "EHOSTUNREACH",
        libc::ENETUNREACH => "ENETUNREACH",
        libc::ECONNRESET => "ECONNRESET",
        libc::ECONNABORTED => "ECONNABORTED",
        libc::EDESTADDRREQ => "EDESTADDRREQ",
        libc::EADDRNOTAVAIL => "EADDRNOTAVAIL",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EAFNOSUPPORT => "EAFNOSUPPORT",
        libc::EISCONN => "EISCONN",
        libc::ENOTCONN => "ENOTCONN",
        libc::EINVAL => "EINVAL",
        libc::EPERM => "EPERM",
        libc::EACCES => "EACCES",
        libc::EPIPE => "EPIPE",
        libc::EMSGSIZE => "EMSGSIZE",
        // How a blocking socket says that its time limit passed.
        libc::EAGAIN | libc::EINPROGRESS => "ETIMEDOUT",
        other => return format!("errno {other}"),
    };
    name.to_owned()
}
