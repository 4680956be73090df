//! A network device as a cable: frames of any shape go out, and everything that passes is seen.
//!
//! The socket is opened in the device's namespace and used from the test itself. A capture sees a
//! packet before the ingress programs of its device and after the egress programs, as tcpdump.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use libc::c_int;

use super::Seen;
use crate::lab::Place;
use crate::wait;

/// How long a packet may take that is expected.
const PACKET_TIMEOUT: Duration = Duration::from_secs(5);
/// Room for packets that nobody has looked at yet.
const QUEUE_BYTES: c_int = 16 << 20;
/// The largest frame: a bundle of segments before the device cuts it.
const FRAME_BYTES: usize = 1 << 17;
/// Two addresses and the type.
const ETHERNET_BYTES: usize = 14;
/// Ethernet types of IPv4 and IPv6.
const TYPE_V4: u16 = 0x0800;
const TYPE_V6: u16 = 0x86dd;
/// Room for one `tpacket_auxdata` control message, in words, because it is aligned to them.
const CONTROL_WORDS: usize = 8;
/// Tries to queue one frame of a flood; the queue drains within microseconds.
const QUEUE_TRIES: usize = 10_000;

/// How many packets a failed wait shows.
const SHOWN_PACKETS: usize = 20;

/// A hardware address.
pub type Mac = [u8; 6];

/// A device's cable, from now on.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    name: String,
    mac: Mac,
    seen: Vec<Seen>,
}

/// The hardware address of a device.
pub fn hardware_address(place: &Place, device: &str) -> Result<Mac> {
    Ok(Wire::open(place, device)?.mac)
}

impl Wire {
    /// Begins to listen on a device.
    pub fn open(place: &Place, device: &str) -> Result<Wire> {
        let name = format!("{} of {}", device, place.name());
        let opened = place.within(|| open(device))?;
        let (socket, mac) = opened.with_context(|| format!("listen on {name}"))?;
        Ok(Wire { socket, name, mac, seen: Vec::new() })
    }

    /// Sends an IP packet to the neighbour with this hardware address.
    pub fn send(&self, to: Mac, packet: &[u8]) -> Result<()> {
        let version = packet.first().context("an empty packet")? >> 4;
        let kind = if version == 6 { TYPE_V6 } else { TYPE_V4 };
        let mut frame = [to, self.mac].concat();
        frame.extend(kind.to_be_bytes());
        frame.extend(packet);
        self.send_frame(&frame)
    }

    /// Sends an Ethernet frame as it is.
    pub fn send_frame(&self, frame: &[u8]) -> Result<()> {
        let (data, length) = (frame.as_ptr().cast(), frame.len());
        for _ in 0..QUEUE_TRIES {
            // SAFETY: the pointer and length describe the slice.
            let sent = unsafe { libc::send(self.socket.as_raw_fd(), data, length, 0) };
            if sent >= 0 {
                return Ok(());
            }
            let error = io::Error::last_os_error();
            match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::EAGAIN) => std::thread::yield_now(),
                _ => return Err(error).with_context(|| format!("send on {}", self.name)),
            }
        }
        bail!("the queue of {} does not drain", self.name)
    }

    /// Sends `count` packets to a neighbour as fast as the device takes them.
    pub fn flood(&self, to: Mac, count: u32, packet: impl Fn(u32) -> Vec<u8>) -> Result<()> {
        (0..count).try_for_each(|index| self.send(to, &packet(index)))
    }

    /// Everything that has passed since the start, or since [`Wire::forget`].
    pub fn seen(&mut self) -> Result<&[Seen]> {
        while let Some(packet) = self.receive()? {
            self.seen.extend(packet);
        }
        Ok(&self.seen)
    }

    /// Forgets what has passed so far.
    pub fn forget(&mut self) -> Result<()> {
        self.seen()?;
        self.seen.clear();
        Ok(())
    }

    /// Waits until a packet like this has passed, and returns the first.
    pub fn expect(&mut self, what: &str, like: impl Fn(&Seen) -> bool) -> Result<Seen> {
        let what = format!("{what} on {}", self.name);
        wait::until(&what, PACKET_TIMEOUT, || {
            let found = self.seen()?.iter().find(|seen| like(seen)).cloned();
            found.with_context(|| {
                let last = &self.seen[self.seen.len().saturating_sub(SHOWN_PACKETS)..];
                format!("{} packets, at last {last:#?}", self.seen.len())
            })
        })
    }

    /// Fails if a packet like this has passed by now.
    pub fn expect_none(&mut self, what: &str, like: impl Fn(&Seen) -> bool) -> Result<()> {
        self.seen()?;
        match self.seen.iter().find(|seen| like(seen)) {
            Some(seen) => bail!("{what} on {}: {seen:#?}", self.name),
            None => Ok(()),
        }
    }

    /// One frame: none if the queue is empty, some none if it is not IP.
    fn receive(&self) -> Result<Option<Option<Seen>>> {
        let mut buffer = vec![0_u8; FRAME_BYTES];
        let mut control = [0_u64; CONTROL_WORDS];
        // SAFETY: both are plain data; all zeroes is an empty one.
        let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
        // SAFETY: as above.
        let mut message: libc::msghdr = unsafe { mem::zeroed() };
        let mut piece = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
        message.msg_name = (&raw mut from).cast();
        message.msg_namelen = mem::size_of_val(&from) as libc::socklen_t;
        message.msg_iov = &raw mut piece;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = mem::size_of_val(&control);
        // SAFETY: all pointers in the message describe live buffers.
        let got = unsafe { libc::recvmsg(self.socket.as_raw_fd(), &mut message, 0) };
        let Ok(length) = usize::try_from(got) else {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EAGAIN) => Ok(None),
                _ => Err(error).with_context(|| format!("capture on {}", self.name)),
            };
        };
        let packet = buffer.get(ETHERNET_BYTES..length).unwrap_or_default();
        let mut seen = Seen::parse(packet);
        if let Some(seen) = &mut seen {
            seen.outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
            if checksum_comes_later(&message) {
                seen.sound = None;
            }
        }
        Ok(Some(seen))
    }
}

/// Whether the checksum of a captured packet is yet to be filled in.
fn checksum_comes_later(message: &libc::msghdr) -> bool {
    // SAFETY: recvmsg filled the message, so its first control header is valid or null.
    let header = unsafe { libc::CMSG_FIRSTHDR(message) };
    if header.is_null() {
        return false;
    }
    // SAFETY: the header is valid (above); the kernel puts auxdata, and nothing else, behind it.
    let data = unsafe { libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned() };
    data.tp_status & libc::TP_STATUS_CSUMNOTREADY != 0
}

/// A packet socket on a device of this thread's namespace, and the device's address.
fn open(device: &str) -> Result<(OwnedFd, Mac)> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    let everything = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0 hears nothing, so that no other device's packet comes before the bind.
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
    check(fd)?;
    // SAFETY: the fd was just opened and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, QUEUE_BYTES)?;
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, 1)?;
    let mut request = interface(device)?;
    // SAFETY: SIOCGIFINDEX reads the name and writes the index into the live request.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX, &raw mut request) })?;
    // SAFETY: the call above wrote this member.
    let index = unsafe { request.ifr_ifru.ifru_ifindex };
    // SAFETY: SIOCGIFHWADDR reads the name and writes the address into the live request.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFHWADDR, &raw mut request) })?;
    // SAFETY: the call above wrote this member.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr.sa_data };
    let mac = [0, 1, 2, 3, 4, 5].map(|at| address[at] as u8);
    // SAFETY: plain data; all zeroes is an empty address.
    let mut at: libc::sockaddr_ll = unsafe { mem::zeroed() };
    at.sll_family = libc::AF_PACKET as u16;
    at.sll_protocol = everything;
    at.sll_ifindex = index;
    let length = mem::size_of_val(&at) as libc::socklen_t;
    // SAFETY: the pointer and length describe `at`.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const at).cast(), length) })?;
    Ok((socket, mac))
}

/// A request about a device.
pub(super) fn interface(device: &str) -> Result<libc::ifreq> {
    // SAFETY: plain data; all zeroes is an empty request.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last byte stays zero.
    let room = request.ifr_name.len() - 1;
    if device.len() > room {
        bail!("{device} is too long for a device's name");
    }
    for (to, byte) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = byte as libc::c_char;
    }
    Ok(request)
}

fn set(socket: &OwnedFd, level: c_int, option: c_int, value: c_int) -> Result<()> {
    let size = mem::size_of_val(&value) as libc::socklen_t;
    let pointer = (&raw const value).cast();
    // SAFETY: the pointer and the size describe one live value.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, pointer, size) })
}

pub(super) fn check(code: c_int) -> Result<()> {
    if code < 0 { Err(io::Error::last_os_error().into()) } else { Ok(()) }
}
