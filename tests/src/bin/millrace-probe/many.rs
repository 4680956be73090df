//! Dialogues that use a socket in an unusual way.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, bail, ensure};

use crate::client::{self, Plan, observe};
use crate::socket::{Kind, RawAddress, Socket, check};

/// Datagrams per sendmmsg.
const BATCH: usize = 4;

fn plan(to: SocketAddr, limit: Duration) -> Plan {
    Plan { to, bind: None, limit, nonblocking: false, echo: 0 }
}

/// One unconnected UDP socket that talks to two services in turn.
pub fn two_services(a: SocketAddr, b: SocketAddr, count: usize, limit: Duration) -> Result<()> {
    let socket = client::open(Kind::Udp, &plan(a, limit))?;
    for turn in 0..count {
        let to = if turn % 2 == 0 { a } else { b };
        let step = to.to_string();
        client::print(&observe(&step, |outcome| client::ask_to(&socket, to, outcome)));
    }
    Ok(())
}

/// AF_INET6 sockets that dial an IPv4 address in mapped form.
pub fn v4_mapped(to: SocketAddr, limit: Duration) -> Result<()> {
    let IpAddr::V4(v4) = to.ip() else { bail!("{to} is not an IPv4 address") };
    let mapped: Ipv6Addr = v4.to_ipv6_mapped();
    let plan = plan(SocketAddr::new(mapped.into(), to.port()), limit);
    client::print(&client::tcp(&plan));
    client::print(&client::udp_connected(&plan));
    client::print(&client::udp_unconnected(&plan));
    Ok(())
}

/// Two UDP sockets on one local port, each connected to the service.
pub fn reuseport(to: SocketAddr, limit: Duration) -> Result<()> {
    let first = Socket::for_address(Kind::Udp, to)?;
    let second = Socket::for_address(Kind::Udp, to)?;
    for socket in [&first, &second] {
        socket.set(libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
        socket.set_timeout(limit)?;
    }
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    first.bind(any.parse()?)?;
    let Some(local) = first.local() else { bail!("no local address") };
    second.bind(local)?;
    for (step, socket) in [("first", &first), ("second", &second)] {
        client::print(&observe(step, |outcome| {
            socket.connect(to)?;
            client::ask_udp(socket, outcome)
        }));
    }
    Ok(())
}

/// The parent connects; the child talks and looks at the names.
pub fn fork(to: SocketAddr, limit: Duration) -> Result<()> {
    let tcp = client::open(Kind::Tcp, &plan(to, limit))?;
    let udp = client::open(Kind::Udp, &plan(to, limit))?;
    let connected = tcp.connect(to).and_then(|()| udp.connect(to));
    if let Err(error) = connected {
        client::print(&observe("connect", |_| Err(error)));
        return Ok(());
    }
    // SAFETY: this process has one thread, so the child may do everything the parent may.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error().into()),
        0 => {
            client::print(&observe("tcp in the child", |outcome| {
                client::note_names(&tcp, outcome);
                client::ask_tcp(&tcp, outcome)
            }));
            client::print(&observe("udp in the child", |outcome| client::ask_udp(&udp, outcome)));
            Ok(())
        }
        child => {
            // SAFETY: a null status pointer is allowed; the child is ours.
            let code = unsafe { libc::waitpid(child, std::ptr::null_mut(), 0) };
            ensure!(code == child, "the child is gone");
            Ok(())
        }
    }
}

/// Datagrams to two services in one sendmmsg; the answers by recvmmsg.
pub fn sendmmsg(a: SocketAddr, b: SocketAddr, limit: Duration) -> Result<()> {
    let socket = client::open(Kind::Udp, &plan(a, limit))?;
    let targets: [SocketAddr; BATCH] = [a, b, a, b];
    let mut names = targets.map(RawAddress::new);
    let mut data = [*b"who"; BATCH];
    let mut pieces: [libc::iovec; BATCH] = data
        .each_mut()
        .map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
    let mut messages = headers(&mut names, &mut pieces);
    // SAFETY: every header points at a live name and a live buffer.
    let sent = unsafe { libc::sendmmsg(socket.fd(), messages.as_mut_ptr(), BATCH as u32, 0) };
    match check(sent as isize) {
        Ok(sent) => ensure!(sent == BATCH, "only {sent} datagrams were sent"),
        Err(error) => {
            client::print(&observe("sendmmsg", |_| Err(error)));
            return Ok(());
        }
    }
    receive_many(&socket)
}

fn headers(
    names: &mut [RawAddress; BATCH],
    pieces: &mut [libc::iovec; BATCH],
) -> [libc::mmsghdr; BATCH] {
    // SAFETY: mmsghdr is plain data; all zeroes is an empty message.
    let mut messages: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    for ((message, name), piece) in messages.iter_mut().zip(names).zip(pieces) {
        message.msg_hdr.msg_name = (&raw mut name.storage).cast();
        message.msg_hdr.msg_namelen = name.length;
        message.msg_hdr.msg_iov = piece;
        message.msg_hdr.msg_iovlen = 1;
    }
    messages
}

fn receive_many(socket: &Socket) -> Result<()> {
    let mut left = BATCH;
    while left > 0 {
        let mut names = [RawAddress::empty(); BATCH];
        let mut data = [[0_u8; 256]; BATCH];
        let mut pieces: [libc::iovec; BATCH] = data
            .each_mut()
            .map(|bytes| libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() });
        let mut messages = headers(&mut names, &mut pieces);
        // SAFETY: every header points at a live name and a live buffer; no timeout is given.
        let got = unsafe {
            libc::recvmmsg(
                socket.fd(),
                messages.as_mut_ptr(),
                left as u32,
                libc::MSG_WAITFORONE,
                std::ptr::null_mut(),
            )
        };
        let got = match check(got as isize) {
            Ok(got) => got,
            Err(error) => {
                client::print(&observe("recvmmsg", |_| Err(error)));
                return Ok(());
            }
        };
        for index in 0..got {
            client::print(&observe("recvmmsg", |outcome| {
                outcome.source = names[index].get();
                client::read_identity(&data[index][..messages[index].msg_len as usize], outcome)
            }));
        }
        left -= got;
    }
    Ok(())
}

/// One UDP socket connected to one address after the other.
pub fn redial_udp(targets: &[SocketAddr], limit: Duration) -> Result<()> {
    let Some(&first) = targets.first() else { bail!("no targets") };
    let socket = client::open(Kind::Udp, &plan(first, limit))?;
    for &to in targets {
        client::print(&observe(&to.to_string(), |outcome| {
            socket.connect(to)?;
            outcome.peer = socket.peer();
            client::ask_udp(&socket, outcome)
        }));
    }
    Ok(())
}

/// Sockets connected to a service, disconnected, then connected to one of its backends.
pub fn disconnect(service: SocketAddr, backend: SocketAddr, limit: Duration) -> Result<()> {
    let ask = |kind, socket: &Socket, outcome: &mut _| match kind {
        Kind::Tcp => client::ask_tcp(socket, outcome),
        Kind::Udp => client::ask_udp(socket, outcome),
    };
    for kind in [Kind::Tcp, Kind::Udp] {
        let socket = client::open(kind, &plan(service, limit))?;
        for to in [service, backend] {
            client::print(&observe(&to.to_string(), |outcome| {
                socket.connect(to)?;
                client::note_names(&socket, outcome);
                ask(kind, &socket, outcome)
            }));
            socket.disconnect()?;
        }
    }
    Ok(())
}

/// One UDP socket connected to a service that also sends to it by address.
pub fn send_to_own_peer(to: SocketAddr, count: usize, limit: Duration) -> Result<()> {
    let socket = client::open(Kind::Udp, &plan(to, limit))?;
    client::print(&observe("connect", |outcome| {
        socket.connect(to)?;
        client::ask_udp(&socket, outcome)
    }));
    for _ in 0..count {
        client::print(&observe("sendto", |outcome| client::ask_to(&socket, to, outcome)));
    }
    Ok(())
}

/// A TCP socket whose first connect fails, then used for another address.
pub fn redial_tcp(a: SocketAddr, b: SocketAddr, limit: Duration) -> Result<()> {
    let socket = client::open(Kind::Tcp, &plan(a, limit))?;
    for to in [a, b] {
        client::print(&observe(&to.to_string(), |outcome| {
            socket.connect(to)?;
            client::note_names(&socket, outcome);
            client::ask_tcp(&socket, outcome)
        }));
    }
    Ok(())
}
