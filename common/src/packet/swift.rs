//! A packet changed in one write, or two, transport checksum included: where it is known what
//! stands in the checksum's field, that is cheaper than the helpers, each of which returns often.

use super::frame::{Frame, Sum};
use super::rewrite::Ports;
use super::transport::Packet;
use crate::address::{Protocol, V4, V6, checksum_replace};
use crate::flow::side;
use crate::row::Row;

/// How much of a packet was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// Nothing: it takes other steps.
    Nothing,
    /// All but the transport checksum.
    Headers,
    /// All.
    All,
}

/// By how much a checksum changes with what it covers (RFC 1624).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Differences {
    /// With the address, which is in the pseudo header.
    pub address: u32,
    /// With the ports.
    pub ports: u32,
}

/// Bytes between ports and checksum in a TCP header (RFC 9293 section 3.1).
const TCP_BETWEEN: usize = 12;
/// The same in a UDP header (RFC 768).
const UDP_BETWEEN: usize = 2;
const TCP: u8 = Protocol::Tcp as u8;
const UDP: u8 = Protocol::Udp as u8;
/// The first part of a transport header, up to the checksum.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct Transport<const BETWEEN: usize> {
    ports: Ports,
    between: [u8; BETWEEN],
    checksum: u16,
}

// SAFETY: numbers and bytes, packed.
unsafe impl<const BETWEEN: usize> Row for Transport<BETWEEN> {}

/// The end of an IPv4 header without options, from its checksum on, and what follows.
#[repr(C, packed)]
#[derive(Clone, Copy)]
struct V4Block<const BETWEEN: usize> {
    checksum: u16,
    source: V4,
    destination: V4,
    transport: Transport<BETWEEN>,
}

// SAFETY: numbers and bytes, packed.
unsafe impl<const BETWEEN: usize> Row for V4Block<BETWEEN> {}

impl<const BETWEEN: usize> Transport<BETWEEN> {
    /// What the checksum becomes.
    #[inline(always)]
    fn changed(self, sum: Sum, by: Differences) -> u16 {
        let old = self.checksum;
        let new = sum.replace(old, by.address, by.ports);
        if BETWEEN == UDP_BETWEEN {
            // Zero says that there is none, and stays; what comes out as zero is written as ones.
            // (Masks, as in `Sum`.)
            (new | ones_if_zero(new)) & !ones_if_zero(old)
        } else {
            new
        }
    }
}

/// All bits for zero, none for other numbers.
#[inline(always)]
const fn ones_if_zero(number: u16) -> u16 {
    ((number as u32).wrapping_sub(1) >> 16) as u16
}

/// Change an IPv4 packet without options. At [`side::INGRESS`] the address is the destination's.
#[inline(always)]
pub fn store_v4<F: Frame>(
    frame: &F,
    packet: &Packet<V4>,
    address: V4,
    ports: Ports,
    by: Differences,
) -> Stored {
    const CHECKSUM_OFFSET: u32 = 10;
    const HEADER_BYTES: u32 = 20;
    if packet.transport != packet.network + HEADER_BYTES {
        return Stored::Nothing;
    }
    let place = packet.network + CHECKSUM_OFFSET;
    let is_ingress = packet.key.side == side::INGRESS;
    match packet.key.protocol {
        TCP => store_block::<TCP_BETWEEN, F>(frame, place, is_ingress, address, ports, by),
        UDP => store_block::<UDP_BETWEEN, F>(frame, place, is_ingress, address, ports, by),
        _ => Stored::Nothing,
    }
}

#[inline(always)]
fn store_block<const BETWEEN: usize, F: Frame>(
    frame: &F,
    place: u32,
    is_ingress: bool,
    address: V4,
    ports: Ports,
    by: Differences,
) -> Stored {
    let Some(mut block) = frame.load_header::<V4Block<BETWEEN>>(place) else {
        return Stored::Nothing;
    };
    block.checksum = checksum_replace(block.checksum, by.address);
    if is_ingress {
        block.destination = address;
    } else {
        block.source = address;
    }
    block.transport.ports = ports;
    let sum = frame.sum();
    if let Some(sum) = sum {
        block.transport.checksum = { block.transport }.changed(sum, by);
    }
    match (frame.store(place, &block), sum) {
        (false, _) => Stored::Nothing,
        (true, None) => Stored::Headers,
        (true, Some(_)) => Stored::All,
    }
}

/// Change an IPv6 packet, whose address is at `place`.
#[inline(always)]
pub fn store_v6<F: Frame>(
    frame: &F,
    packet: &Packet<V6>,
    place: u32,
    address: &V6,
    ports: Ports,
    by: Differences,
) -> Stored {
    let Some(sum) = frame.sum() else { return Stored::Nothing };
    // The address first: it may be put in twice.
    let is_stored = frame.store(place, address)
        && match packet.key.protocol {
            TCP => store_transport::<TCP_BETWEEN, F>(frame, packet.transport, sum, ports, by),
            UDP => store_transport::<UDP_BETWEEN, F>(frame, packet.transport, sum, ports, by),
            _ => false,
        };
    if is_stored { Stored::All } else { Stored::Nothing }
}

#[inline(always)]
fn store_transport<const BETWEEN: usize, F: Frame>(
    frame: &F,
    place: u32,
    sum: Sum,
    ports: Ports,
    by: Differences,
) -> bool {
    // Not read in place: behind extension headers, that is too much for the verifier.
    let Some(mut head) = frame.load::<Transport<BETWEEN>>(place) else { return false };
    head.ports = ports;
    head.checksum = head.changed(sum, by);
    frame.store(place, &head)
}
