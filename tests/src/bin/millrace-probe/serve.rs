//! The server: says who it is and whom it saw.
//!
//! TCP: a line `who` is answered with a line `NAME ADDRESS`; a line `echo N` followed by N bytes
//! is answered with these bytes; an HTTP request is answered with the same identity, so that a
//! person can use curl. UDP: a datagram `who`, spaces after it or not, likewise; any other
//! datagram comes back.
//! UDP answers leave from the address that was dialled, as DNS servers take care to do.

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use libc::c_int;

use crate::socket::{Kind, RawAddress, Socket, check};

/// Largest datagram and largest piece of an echo.
const BUFFER_BYTES: usize = 65536;
/// Room for one packet-info control message of either family.
const CONTROL_WORDS: usize = 16;

/// Serves until killed.
pub fn serve(name: &str, tcp: &[u16], udp: &[u16], address: Option<IpAddr>) -> Result<()> {
    let any: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
    let addresses = address.map_or(any.to_vec(), |one| vec![one]);
    let mut threads = Vec::new();
    for (kind, ports) in [(Kind::Tcp, tcp), (Kind::Udp, udp)] {
        for (port, address) in ports.iter().flat_map(|p| addresses.iter().map(move |a| (p, a))) {
            let at = SocketAddr::new(*address, *port);
            let socket = open(kind, at).with_context(|| format!("listen on {at}"))?;
            let name = name.to_owned();
            threads.push(std::thread::spawn(move || match kind {
                Kind::Tcp => accept_loop(&name, &socket),
                Kind::Udp => datagram_loop(&name, &socket),
            }));
        }
    }
    ensure!(!threads.is_empty(), "no ports given");
    println!("{{\"ready\":true}}");
    for thread in threads {
        // A listener ends only by a bug, which its panic has printed.
        let _ = thread.join();
    }
    Ok(())
}

fn open(kind: Kind, at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::for_address(kind, at)?;
    socket.set(libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if at.is_ipv6() {
        socket.set(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    if kind == Kind::Udp {
        let (level, option) = match at {
            SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_PKTINFO),
            SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO),
        };
        socket.set(level, option, 1)?;
    }
    socket.bind(at)?;
    if kind == Kind::Tcp {
        socket.listen()?;
    }
    Ok(socket)
}

fn accept_loop(name: &str, listener: &Socket) {
    loop {
        // A client that gave up before it was accepted is no reason to stop serving.
        let Ok((stream, peer)) = listener.accept() else { continue };
        let name = name.to_owned();
        std::thread::spawn(move || {
            // The client sees the broken connection; there is nobody else to tell.
            let _ = converse(&name, &stream, peer);
        });
    }
}

fn converse(name: &str, stream: &Socket, peer: SocketAddr) -> io::Result<()> {
    let mut pending = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        while let Some(end) = pending.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if line.trim_end().ends_with("HTTP/1.1") {
                return answer_http(name, stream, peer, pending);
            }
            match line.trim().strip_prefix("echo ").and_then(|n| n.parse::<usize>().ok()) {
                None => send_all(stream, format!("{name} {peer}\n").as_bytes())?,
                Some(length) => {
                    while pending.len() < length {
                        let got = stream.recv(&mut buffer)?;
                        if got == 0 {
                            return Ok(());
                        }
                        pending.extend_from_slice(&buffer[..got]);
                    }
                    let payload: Vec<u8> = pending.drain(..length).collect();
                    send_all(stream, &payload)?;
                }
            }
        }
        let got = stream.recv(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&buffer[..got]);
    }
}

/// Answers one HTTP request and closes. What has been read of its header is in `pending`.
fn answer_http(
    name: &str,
    stream: &Socket,
    peer: SocketAddr,
    mut pending: Vec<u8>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    // Closing before all of the header is read would reset the connection.
    while !pending.ends_with(b"\r\n\r\n") && pending != b"\r\n" {
        let got = stream.recv(&mut buffer)?;
        if got == 0 {
            return Ok(());
        }
        pending.extend_from_slice(&buffer[..got]);
    }
    let body = format!("{name} saw {peer}\n");
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len());
    send_all(stream, format!("{head}Connection: close\r\n\r\n{body}").as_bytes())
}

fn send_all(stream: &Socket, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        bytes = &bytes[stream.send(bytes)?..];
    }
    Ok(())
}

fn datagram_loop(name: &str, socket: &Socket) {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        // Errors here are ICMP answers to earlier replies: clients that left.
        let _ = answer_datagram(name, socket, &mut buffer);
    }
}

fn answer_datagram(name: &str, socket: &Socket, buffer: &mut [u8]) -> io::Result<()> {
    let mut from = RawAddress::empty();
    // u64 words, because control messages are aligned to them.
    let mut control = [0_u64; CONTROL_WORDS];
    let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data; all zeroes is an empty message.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_name = (&raw mut from.storage).cast();
    message.msg_namelen = from.length;
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control);
    // SAFETY: all pointers in the message describe live buffers.
    let length = check(unsafe { libc::recvmsg(socket.fd(), &mut message, 0) })?;
    let Some(peer) = from.get() else { return Ok(()) };
    let identity = format!("{name} {peer}");
    let asked = buffer[..length].trim_ascii_end() == b"who";
    let reply: &[u8] = if asked { identity.as_bytes() } else { &buffer[..length] };
    let mut answer =
        libc::iovec { iov_base: reply.as_ptr().cast_mut().cast(), iov_len: reply.len() };
    message.msg_iov = &raw mut answer;
    // The packet info that was received says where the answer must come from.
    clear_interface(&message);
    // SAFETY: as above; the reply outlives the call and is only read.
    check(unsafe { libc::sendmsg(socket.fd(), &message, 0) }).map(|_| ())
}

/// Keeps the dialled address in the packet info and leaves the way out to routing.
fn clear_interface(message: &libc::msghdr) {
    // SAFETY: the message was filled by recvmsg, so its first control header is valid or null.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    if header.is_null() {
        return;
    }
    // SAFETY: the header is valid (above); its data is the packet info of its level.
    unsafe {
        let data = libc::CMSG_DATA(header);
        match (*header).cmsg_level as c_int {
            libc::IPPROTO_IP => {
                let info = data.cast::<libc::in_pktinfo>();
                (*info).ipi_ifindex = 0;
                // The destination that was dialled becomes the source of the answer.
                (*info).ipi_spec_dst = (*info).ipi_addr;
            }
            _ => (*data.cast::<libc::in6_pktinfo>()).ipi6_ifindex = 0,
        }
    }
}
