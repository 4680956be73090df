//! The canary of the packet path: a request and its answer, as frames that are run through the
//! programs and must come out as they would leave the node. Nothing is sent.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use millrace_common::address::{Address, Be16, Family, Protocol, V4, V6};
use millrace_common::flow::{FlowKey, side};

use super::rows::{NOWHERE_V4, NOWHERE_V6, PACKET_V4, PACKET_V6, PORT};

/// Who asks. Nobody: it is only ever a row. The kernel takes bytes 12 and 13 of a frame for its
/// ethertype even where there is no Ethernet header, and there the source address is: these spell
/// the right one.
const CLIENT_V4: Ipv4Addr = Ipv4Addr::new(8, 0, 109, 114);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0x86dd, 0, 0, 0, 0x6d72, 3);
/// Its port.
const CLIENT_PORT: u16 = 7641;

/// Bytes of an IPv4 header without options.
const V4_BYTES: usize = 20;
/// Bytes of a UDP header.
const UDP_BYTES: usize = 8;
/// What the datagram carries: enough for the shortest frame Ethernet has.
const PAYLOAD: [u8; 18] = *b"millrace canary ..";
/// Hops it has left.
const HOP_LIMIT: u8 = 64;

/// One end of the conversation.
type End = (IpAddr, u16);

/// One frame and what must become of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Case {
    /// As it comes to the hook.
    pub frame: Vec<u8>,
    /// As it must leave it.
    pub expected: Vec<u8>,
}

/// The request, at the hook it comes in by, and its answer, at the hook it goes out by.
pub fn cases(family: Family, ethernet: bool) -> [Case; 2] {
    let (client, frontend, backend) = ends(family);
    let case = |given: (End, End), expected: (End, End)| Case {
        frame: frame(given.0, given.1, ethernet),
        expected: frame(expected.0, expected.1, ethernet),
    };
    [case((client, frontend), (client, backend)), case((backend, client), (frontend, client))]
}

/// The rows that the request leaves, to be removed: nobody shall see flows of ours.
pub fn keys_v4() -> [FlowKey<V4>; 2] {
    keys(CLIENT_V4.into(), PACKET_V4.into(), NOWHERE_V4.into())
}

/// The same for IPv6.
pub fn keys_v6() -> [FlowKey<V6>; 2] {
    keys(CLIENT_V6.into(), PACKET_V6.into(), NOWHERE_V6.into())
}

fn keys<A: Address>(client: A, frontend: A, backend: A) -> [FlowKey<A>; 2] {
    let key = FlowKey {
        source: client,
        destination: frontend,
        source_port: Be16::new(CLIENT_PORT),
        destination_port: Be16::new(PORT),
        protocol: Protocol::Udp as u8,
        side: side::INGRESS,
        pad: 0,
    };
    let answer = FlowKey { source: backend, ..key.answer(side::EGRESS) };
    [key, answer]
}

/// Client, frontend and backend.
fn ends(family: Family) -> (End, End, End) {
    let (client, frontend, backend): (IpAddr, IpAddr, IpAddr) = match family {
        Family::V4 => (CLIENT_V4.into(), PACKET_V4.into(), NOWHERE_V4.into()),
        Family::V6 => (CLIENT_V6.into(), PACKET_V6.into(), NOWHERE_V6.into()),
    };
    ((client, CLIENT_PORT), (frontend, PORT), (backend, PORT))
}

/// A datagram, with every checksum.
fn frame(from: End, to: End, ethernet: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    if ethernet {
        // To everybody: what is meant for another host would be left alone.
        bytes.extend([0xff; 6]);
        bytes.extend([2, 0, 0, 0, 0, 1]);
        let ethertype: u16 = if from.0.is_ipv4() { 0x0800 } else { 0x86dd };
        bytes.extend(ethertype.to_be_bytes());
    }
    let udp = datagram(from, to);
    match (from.0, to.0) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            bytes.extend(header_v4(source, destination, udp.len()));
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            bytes.extend(header_v6(source, destination, udp.len()));
        }
        // Both ends are of one family.
        _ => {}
    }
    bytes.extend(udp);
    bytes
}

fn header_v4(source: Ipv4Addr, destination: Ipv4Addr, payload: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(length(V4_BYTES + payload));
    // Identification, "don't fragment", checksum to come.
    header.extend([0, 1, 0x40, 0, HOP_LIMIT, Protocol::Udp as u8, 0, 0]);
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

fn header_v6(source: Ipv6Addr, destination: Ipv6Addr, payload: usize) -> Vec<u8> {
    // The traffic class makes the first byte odd. Where there is no Ethernet header, the kernel
    // takes it for the begin of a link layer address: so for one of a group, not of another host.
    let mut header = vec![0x61, 0, 0, 0];
    header.extend(length(payload));
    header.extend([Protocol::Udp as u8, HOP_LIMIT]);
    header.extend(source.octets());
    header.extend(destination.octets());
    header
}

fn datagram(from: End, to: End) -> Vec<u8> {
    let mut udp = Vec::with_capacity(UDP_BYTES + PAYLOAD.len());
    udp.extend(from.1.to_be_bytes());
    udp.extend(to.1.to_be_bytes());
    udp.extend(length(UDP_BYTES + PAYLOAD.len()));
    udp.extend([0, 0]);
    udp.extend(PAYLOAD);
    let mut summed = Vec::new();
    for end in [from, to] {
        match end.0 {
            IpAddr::V4(address) => summed.extend(address.octets()),
            IpAddr::V6(address) => summed.extend(address.octets()),
        }
    }
    summed.extend([0, Protocol::Udp as u8]);
    summed.extend(length(udp.len()));
    summed.extend(&udp);
    udp[6..8].copy_from_slice(&checksum(&summed).to_be_bytes());
    udp
}

/// A length field; ours are far below its limit.
fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes()
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

/// Whether a program did to a frame what it must.
pub fn judge(case: &Case, returned: i32, frame: &[u8], next: i32) -> Result<(), String> {
    if frame == case.expected && returned == next {
        return Ok(());
    }
    if frame == case.frame {
        return Err(format!("a packet to the canary was not translated (verdict {returned})"));
    }
    Err(format!("a packet to the canary was not translated as it must be (verdict {returned})"))
}
