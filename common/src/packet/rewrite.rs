//! Changing a packet's source or destination, checksums included.

use super::fragments;
use super::frame::{Checksum, Frame};
use super::network::Family;
use super::swift::{Differences, Stored};
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
    if packet.is_first_fragment() {
        fragments::remember(s, packet, change);
    }
    put(s, packet, change, S::SWIFT)
}

/// As [`rewrite`], by a call: for a flow's first packet, where the stack is full of what was found.
#[inline(always)]
pub fn rewrite_first<A: Family, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    change: &Change<A>,
) -> bool {
    if packet.is_first_fragment() {
        fragments::remember(s, packet, change);
    }
    put_by_call(s, packet, change)
}

#[inline(never)]
fn put_by_call<A: Family, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    change: &Change<A>,
) -> bool {
    // IPv6 has no room for its headers here.
    put(s, packet, change, S::SWIFT && matches!(A::FAMILY, Version::V4))
}

/// Change the packet: in as few steps as can be, or in more.
#[inline(always)]
fn put<A: Family, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    change: &Change<A>,
    swiftly: bool,
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
    let ports = Ports { source, destination };
    let by = Differences {
        address: old.checksum_difference(change.address),
        ports: checksum_add(
            port_difference(packet.key.source_port, source),
            port_difference(packet.key.destination_port, destination),
        ),
    };
    // Often a port stays what it is.
    let moves = source != packet.key.source_port || destination != packet.key.destination_port;
    match if swiftly { A::store(s, packet, &change.address, ports, by) } else { Stored::Nothing } {
        Stored::All => true,
        Stored::Headers => update_checksum(s, packet, by, moves),
        Stored::Nothing => {
            replace_address(s, packet.network, offset, &change.address, by.address)
                && (!moves || s.store(packet.transport, &ports))
                && update_checksum(s, packet, by, moves)
        }
    }
}

/// Update the transport checksum, if there is one.
#[inline(always)]
fn update_checksum<A: Family, F: Frame>(
    frame: &F,
    packet: &Packet<A>,
    by: Differences,
    moves: bool,
) -> bool {
    let Some(offset) = packet.checksum_offset() else { return true };
    let how = Checksum {
        pseudo: true,
        optional: packet.key.protocol == Protocol::Udp as u8,
        v6: matches!(A::FAMILY, Version::V6),
    };
    frame.update_checksum(offset, by.address, how)
        && (!moves || frame.update_checksum(offset, by.ports, Checksum { pseudo: false, ..how }))
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
