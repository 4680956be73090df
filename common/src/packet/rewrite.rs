//! Changing a packet's source or destination, checksums included.

use super::fragments;
use super::frame::{Checksum, Frame};
use super::network::Family;
use super::tables::Tables;
use super::transport::Packet;
use crate::address::{Be16, Family as Version, Protocol, checksum_add};
use crate::flow::{Flow, side};
use crate::row::Row;

/// What a packet becomes. At [`side::INGRESS`] "that side" is the destination, at [`side::EGRESS`]
/// the source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Change<A> {
    /// That side's port.
    pub port: Be16,
    /// The other side's port.
    pub other_port: Be16,
    /// That side's address.
    pub address: A,
}

impl<A: Family> Change<A> {
    /// What a flow's entry makes of its packets.
    #[inline(always)]
    pub const fn of(flow: &Flow<A>) -> Self {
        Self { port: flow.port, other_port: flow.other_port, address: flow.address }
    }
}

/// Both ports, as they stand in the packet.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Ports {
    /// Source.
    pub source: Be16,
    /// Destination.
    pub destination: Be16,
}

// SAFETY: two 16-bit numbers.
unsafe impl Row for Ports {}

/// The checksum's difference when a port changes.
#[inline(always)]
pub const fn port_difference(old: Be16, new: Be16) -> u32 {
    checksum_add(!(old.raw() as u32), new.raw() as u32)
}

/// Change the packet. False: it could not be written.
#[inline(always)]
pub fn rewrite<A: Family, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    change: &Change<A>,
) -> bool {
    let ingress = packet.key.side == side::INGRESS;
    let (old, offset) = match ingress {
        true => (packet.key.destination, A::DESTINATION_OFFSET),
        false => (packet.key.source, A::SOURCE_OFFSET),
    };
    let (source, destination) = match ingress {
        true => (change.other_port, change.port),
        false => (change.port, change.other_port),
    };
    if packet.is_first_fragment() {
        fragments::remember(s, packet, change);
    }
    let address = old.checksum_difference(change.address);
    let ports = Ports { source, destination };
    let is_stored = S::SWIFT && A::store_ends(s, packet, &change.address, address, ports);
    if !is_stored && !replace_address(s, packet.network, offset, &change.address, address) {
        return false;
    }
    let how = Checksum {
        pseudo: true,
        optional: packet.key.protocol == Protocol::Udp as u8,
        v6: matches!(A::FAMILY, Version::V6),
    };
    if let Some(checksum) = packet.checksum_offset()
        && !s.update_checksum(checksum, address, how)
    {
        return false;
    }
    if source == packet.key.source_port && destination == packet.key.destination_port {
        return true;
    }
    let difference = checksum_add(
        port_difference(packet.key.source_port, source),
        port_difference(packet.key.destination_port, destination),
    );
    if !is_stored && !s.store(packet.transport, &ports) {
        return false;
    }
    match packet.checksum_offset() {
        Some(checksum) => {
            s.update_checksum(checksum, difference, Checksum { pseudo: false, ..how })
        }
        None => true,
    }
}

/// Put an address into the network header that begins at `network`.
#[inline(always)]
pub fn replace_address<A: Family, F: Frame>(
    frame: &F,
    network: u32,
    offset: u32,
    address: &A,
    difference: u32,
) -> bool {
    if !frame.store(network + offset, address) {
        return false;
    }
    match A::CHECKSUM_OFFSET {
        Some(checksum) => frame.update_header_checksum(network + checksum, difference),
        None => true,
    }
}

/// `CLOCK_MONOTONIC` in seconds.
#[inline(always)]
pub fn now_secs<A: Family, S: Tables<A>>(s: &S) -> u32 {
    (s.now_ns() / crate::affinity::NS_PER_SEC) as u32
}
