//! Saying no: the packet is turned into its own answer, a TCP reset (RFC 9293 section 3.10.7.1) or
//! an ICMP port unreachable (RFC 792, RFC 4443), and goes back out of the device it came in by.
//!
//! A packet whose checksum hardware has yet to compute stays one: the sum will be taken from the
//! transport header on and put where it belongs in *that* header. So a reset keeps the TCP header
//! in place and stores the pseudo header's sum; an ICMP message leaves the place (bytes 6 and 7,
//! unused by RFC 792 for this code) to it, which makes the whole message add up as well as a
//! checksum in its own field would.

use super::frame::{Checksum, ETHERNET_BYTES, Frame, Verdict};
use super::network::Family;
use super::tables::Tables;
use super::transport::{Packet, TCP_BYTES, tcp};
use crate::address::{Be16, Protocol, V4, V6, checksum_add};
use crate::counters::Counter;
use crate::row::Row;

/// Time to live, hop limit of what we make (IANA's recommended default).
const HOPS: u8 = 64;
/// Bytes of an ICMP error's header.
const ICMP_BYTES: u32 = 8;
/// Bytes of the transport header that an error quotes.
const QUOTED_BYTES: u32 = 8;
/// ICMP echo request types: the only ICMP messages that are answered by an error.
const ECHO: [u8; 2] = [8, 128];

/// A header of one family, as answers need it.
pub trait Answer: Family {
    /// The header as it stands in a packet.
    type Header: Row;
    /// Its bytes, without options.
    const BYTES: u32;
    /// Type and code of port unreachable.
    const PORT_UNREACHABLE: [u8; 2];
    /// A new header.
    fn build(source: Self, destination: Self, protocol: u8, payload: u16) -> Self::Header;
    /// The checksum-relevant sum of a header's bytes.
    fn sum(header: &Self::Header) -> u32;
    /// Swap the addresses of the header at `offset`, and set its hops and the bytes that follow it.
    fn turn<F: Frame>(frame: &F, packet: &Packet<Self>, payload: u16) -> bool;
}

/// Answer and count. What cannot be answered is dropped.
#[inline(never)]
pub fn reject<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    counter: Counter,
) -> Verdict {
    s.count(counter);
    let done = if packet.key.protocol == Protocol::Tcp as u8 {
        reset(s, packet)
    } else {
        unreachable(s, packet)
    };
    if done && turn_link(s) { Verdict::RETURN } else { Verdict::DROP }
}

/// Back to the neighbour it came from.
#[inline(always)]
fn turn_link<F: Frame>(frame: &F) -> bool {
    if frame.link_bytes() != ETHERNET_BYTES {
        return true;
    }
    let (Some(destination), Some(source)) = (frame.load::<[u8; 6]>(0), frame.load::<[u8; 6]>(6))
    else {
        return false;
    };
    frame.store(0, &source) && frame.store(6, &destination)
}

/// A reset that answers a SYN.
#[repr(C)]
#[derive(Clone, Copy)]
struct Reset {
    source: Be16,
    destination: Be16,
    sequence: u32,
    acknowledgement: u32,
    offset_flags: Be16,
    window: u16,
    checksum: u16,
    urgent: u16,
}

// SAFETY: twenty bytes without padding.
unsafe impl Row for Reset {}

/// Offset of the checksum in a TCP header.
const TCP_CHECKSUM: u32 = 16;
/// Offset of the checksum in a UDP header.
const UDP_CHECKSUM: u32 = 6;

#[inline(never)]
fn reset<A: Answer, S: Frame>(s: &S, packet: &Packet<A>) -> bool {
    let header = packet.transport + u32::from(packet.header_bytes);
    let data = packet.end.saturating_sub(header);
    let acknowledgement = packet.sequence.wrapping_add(1).wrapping_add(data);
    let is_partial = is_partial(s, packet.transport + TCP_CHECKSUM);
    let mut reset = Reset {
        source: packet.key.destination_port,
        destination: packet.key.source_port,
        sequence: 0,
        acknowledgement: acknowledgement.to_be(),
        offset_flags: Be16::new(0x5000 | (tcp::RST | tcp::ACK) as u16),
        window: 0,
        checksum: 0,
        urgent: 0,
    };
    let addresses = checksum_add(
        A::ZERO.checksum_difference(packet.key.source),
        A::ZERO.checksum_difference(packet.key.destination),
    );
    let pseudo = pseudo_header(addresses, Protocol::Tcp as u8, TCP_BYTES);
    reset.checksum = if is_partial {
        fold(pseudo)
    } else {
        let ports = u32::from(reset.source.raw()) + u32::from(reset.destination.raw());
        let rest = checksum_add(ports, u32::from(reset.offset_flags.raw()));
        !fold(checksum_add(pseudo, checksum_add(rest, reset.acknowledgement)))
    };
    let between = packet.transport - packet.network - A::BYTES;
    A::turn(s, packet, (between + TCP_BYTES) as u16)
        && s.resize(packet.transport + TCP_BYTES)
        && s.store(packet.transport, &reset)
}

/// The header of an ICMP error.
#[repr(C)]
#[derive(Clone, Copy)]
struct Icmp {
    type_code: [u8; 2],
    checksum: u16,
    unused: u16,
    /// Where the checksum of a UDP packet was: see the module.
    deferred: u16,
}

// SAFETY: eight bytes without padding.
unsafe impl Row for Icmp {}

#[inline(never)]
fn unreachable<A: Answer, S: Frame>(s: &S, packet: &Packet<A>) -> bool {
    if packet.transport - packet.network != A::BYTES {
        // Options would have to be quoted too.
        return false;
    }
    let is_udp = packet.key.protocol == Protocol::Udp as u8;
    let (Some(quoted), Some(start)) =
        (s.load::<A::Header>(packet.network), s.load::<[u32; 2]>(packet.transport))
    else {
        return false;
    };
    let [first, ..] = start[0].to_ne_bytes();
    if packet.key.protocol == A::ICMP && !ECHO.contains(&first) {
        return false;
    }
    let is_partial = is_udp && is_partial(s, packet.transport + UDP_CHECKSUM);
    let payload = ICMP_BYTES + A::BYTES + QUOTED_BYTES;
    let header = A::build(packet.key.destination, packet.key.source, A::ICMP, payload as u16);
    // ICMP's checksum covers a pseudo header in IPv6 only.
    let pseudo = if A::CHECKSUM_OFFSET.is_some() {
        0
    } else {
        let addresses = checksum_add(
            A::ZERO.checksum_difference(packet.key.source),
            A::ZERO.checksum_difference(packet.key.destination),
        );
        pseudo_header(addresses, A::ICMP, payload)
    };
    let mut icmp = Icmp { type_code: A::PORT_UNREACHABLE, checksum: 0, unused: 0, deferred: 0 };
    if is_partial {
        icmp.deferred = fold(pseudo);
    } else {
        let type_code = u32::from(u16::from_ne_bytes(icmp.type_code));
        let quote = checksum_add(A::sum(&quoted), checksum_add(start[0], start[1]));
        icmp.checksum = !fold(checksum_add(checksum_add(type_code, quote), pseudo));
    }
    let at = packet.network + A::BYTES;
    s.resize(at + payload)
        && s.store(packet.network, &header)
        && s.store(at, &icmp)
        && s.store(at + ICMP_BYTES, &quoted)
        && s.store(at + ICMP_BYTES + A::BYTES, &start)
}

/// Whether hardware has yet to compute the packet's checksum, which is at `offset`: then a change
/// of what it covers leaves the field alone. The field is overwritten.
#[inline(always)]
fn is_partial<F: Frame>(frame: &F, offset: u32) -> bool {
    /// Any change that is not zero.
    const PROBE: u32 = 0x1234;
    let plain = Checksum { pseudo: false, optional: false, v6: false };
    frame.store(offset, &0_u16)
        && frame.update_checksum(offset, PROBE, plain)
        && frame.load::<u16>(offset) == Some(0)
}

#[inline(always)]
const fn pseudo_header(addresses: u32, protocol: u8, length: u32) -> u32 {
    let words = (protocol as u16).to_be() as u32 + (length as u16).to_be() as u32;
    checksum_add(addresses, words)
}

/// Fold a partial sum to sixteen bits.
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

impl Answer for V4 {
    type Header = [u32; 5];
    const BYTES: u32 = 20;
    const PORT_UNREACHABLE: [u8; 2] = [3, 3];

    #[inline(always)]
    fn build(source: Self, destination: Self, protocol: u8, payload: u16) -> [u32; 5] {
        let [high, low] = (Self::BYTES as u16 + payload).to_be_bytes();
        let mut words = [
            // Class "internetwork control", as the kernel's own errors have.
            u32::from_ne_bytes([0x45, 0xc0, high, low]),
            0,
            u32::from_ne_bytes([HOPS, protocol, 0, 0]),
            source.raw(),
            destination.raw(),
        ];
        let [a, b] = (!fold(Self::sum(&words))).to_ne_bytes();
        words[2] = u32::from_ne_bytes([HOPS, protocol, a, b]);
        words
    }

    #[inline(always)]
    fn sum(header: &[u32; 5]) -> u32 {
        let [a, b, c, d, e] = *header;
        checksum_add(checksum_add(checksum_add(a, b), checksum_add(c, d)), e)
    }

    #[inline(always)]
    fn turn<F: Frame>(frame: &F, packet: &Packet<Self>, payload: u16) -> bool {
        /// Offset of the total length.
        const LENGTH: u32 = 2;
        /// Offset of hops and protocol.
        const HOPS_PROTOCOL: u32 = 8;
        /// Offset of the header checksum.
        const CHECKSUM: u32 = 10;
        let at = packet.network;
        let length = Be16::new(Self::BYTES as u16 + payload);
        let (Some(old_length), Some(old_hops)) =
            (frame.load::<u16>(at + LENGTH), frame.load::<u16>(at + HOPS_PROTOCOL))
        else {
            return false;
        };
        let hops = u16::from_ne_bytes([HOPS, packet.key.protocol]);
        let difference = checksum_add(
            checksum_add(!u32::from(old_length), u32::from(length.raw())),
            checksum_add(!u32::from(old_hops), u32::from(hops)),
        );
        frame.store(at + LENGTH, &length.raw())
            && frame.store(at + HOPS_PROTOCOL, &hops)
            && frame.store(at + Self::SOURCE_OFFSET, &packet.key.destination)
            && frame.store(at + Self::DESTINATION_OFFSET, &packet.key.source)
            && frame.update_header_checksum(at + CHECKSUM, difference)
    }
}

impl Answer for V6 {
    type Header = [u32; 10];
    const BYTES: u32 = 40;
    const PORT_UNREACHABLE: [u8; 2] = [1, 4];

    #[inline(always)]
    fn build(source: Self, destination: Self, protocol: u8, payload: u16) -> [u32; 10] {
        let [high, low] = payload.to_be_bytes();
        let ([a, b, c, d], [e, f, g, h]) = (source.raw(), destination.raw());
        let version = u32::from_ne_bytes([0x60, 0, 0, 0]);
        let lengths = u32::from_ne_bytes([high, low, protocol, HOPS]);
        [version, lengths, a, b, c, d, e, f, g, h]
    }

    #[inline(always)]
    fn sum(header: &[u32; 10]) -> u32 {
        let [a, b, c, d, e, f, g, h, i, j] = *header;
        let first = checksum_add(checksum_add(a, b), checksum_add(c, d));
        let second = checksum_add(checksum_add(e, f), checksum_add(g, h));
        checksum_add(checksum_add(first, second), checksum_add(i, j))
    }

    #[inline(always)]
    fn turn<F: Frame>(frame: &F, packet: &Packet<Self>, payload: u16) -> bool {
        /// Offset of the payload length.
        const LENGTH: u32 = 4;
        /// Offset of the hop limit.
        const HOP_LIMIT: u32 = 7;
        let at = packet.network;
        frame.store(at + LENGTH, &Be16::new(payload).raw())
            && frame.store(at + HOP_LIMIT, &HOPS)
            && frame.store(at + Self::SOURCE_OFFSET, &packet.key.destination)
            && frame.store(at + Self::DESTINATION_OFFSET, &packet.key.source)
    }
}
