//! ICMP errors (RFC 792, RFC 4443): they quote the packet they are about, as it was where it failed, so
//! both the error and its quotation are translated. Path MTU discovery lives by it.
//!
//! A quotation travels against the packet it quotes: its source is where the error must go, and its key is
//! that of the answer.

use super::frame::{Checksum, Frame, Verdict};
use super::ingress::{finish_error, snapshot};
use super::network::{Family, Network, Part};
use super::rewrite::{port_difference, replace_address};
use super::tables::{Table, Tables};
use crate::address::{Be16, Family as Version, checksum_add};
use crate::flow::{Flow, FlowKey, role, side};
use crate::row::Row;

/// Bytes of an ICMP error's header, before the quotation.
const ERROR_BYTES: u32 = 8;
/// Offset of the ICMP checksum.
const CHECKSUM_OFFSET: u32 = 2;

/// Both ports of the quoted packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ports {
    source: Be16,
    destination: Be16,
}

// SAFETY: two 16-bit numbers.
unsafe impl Row for Ports {}

/// A quotation that is of one of our flows.
struct Quoted<A> {
    network: Network<A>,
    ports: Ports,
    flow: Flow<A>,
}

/// Translate an error about one of our flows; nothing if it is no error, or not about one.
#[inline(never)]
pub fn translate<A: Family, S: Frame + Tables<A>>(
    s: &S,
    outer: &Network<A>,
    side: u8,
) -> Option<Verdict> {
    let icmp_type = s.load::<u8>(outer.transport)?;
    if !A::is_error(icmp_type) {
        return None;
    }
    let quoted = read(s, outer, side)?;
    let changed = change(s, outer, &quoted, side);
    Some(finish_error(s, changed, side))
}

/// Read the quotation and find its flow.
#[inline(always)]
fn read<A: Family, S: Frame + Tables<A>>(s: &S, outer: &Network<A>, side: u8) -> Option<Quoted<A>> {
    let network = A::read(s, outer.transport + ERROR_BYTES, true).ok()?;
    let ports = s.load::<Ports>(network.transport)?;
    // An error goes to whom it quotes.
    if network.fragment == Part::Later
        || !matches!(network.protocol, 6 | 17 | 132)
        || network.source != outer.destination
    {
        return None;
    }
    let key = FlowKey {
        source: network.destination,
        destination: network.source,
        source_port: ports.destination,
        destination_port: ports.source,
        protocol: network.protocol,
        side,
        pad: 0,
    };
    let row = match s.flow(Table::Established, &key) {
        Some(row) => row,
        None => s.flow(Table::HalfOpen, &key)?,
    };
    let flow = snapshot(row);
    if flow.role == role::MASQ && flow.port.raw() == 0 {
        return None;
    }
    Some(Quoted { network, ports, flow })
}

/// Change the error and its quotation.
#[inline(always)]
fn change<A: Family, S: Frame + Tables<A>>(
    s: &S,
    outer: &Network<A>,
    quoted: &Quoted<A>,
    side_of_hook: u8,
) -> bool {
    let Quoted { network: inner, ports, flow } = quoted;
    let ingress = side_of_hook == side::INGRESS;
    let (outer_old, outer_offset, inner_old, inner_offset) = match ingress {
        true => (outer.destination, A::DESTINATION_OFFSET, inner.source, A::SOURCE_OFFSET),
        false => (outer.source, A::SOURCE_OFFSET, inner.destination, A::DESTINATION_OFFSET),
    };
    let new_ports = match ingress {
        true => Ports { source: flow.port, destination: flow.other_port },
        false => Ports { source: flow.other_port, destination: flow.port },
    };
    let outer_difference = outer_old.checksum_difference(flow.address);
    let inner_difference = inner_old.checksum_difference(flow.address);
    let port_change = checksum_add(
        port_difference(ports.source, new_ports.source),
        port_difference(ports.destination, new_ports.destination),
    );
    let transport = update_quoted_checksum(s, inner, checksum_add(inner_difference, port_change));
    // In a quoted IPv4 header, address and header checksum balance each other.
    let header = if A::CHECKSUM_OFFSET.is_some() { 0 } else { inner_difference };
    let covered = checksum_add(checksum_add(header, port_change), transport);
    let checksum = outer.transport + CHECKSUM_OFFSET;
    let plain = Checksum { pseudo: false, optional: false, v6: false };
    let v6 = matches!(A::FAMILY, Version::V6);
    replace_address(s, outer.offset, outer_offset, &flow.address, outer_difference)
        && replace_address(s, inner.offset, inner_offset, &flow.address, inner_difference)
        && s.store(inner.transport, &new_ports)
        && s.update_checksum(checksum, covered, plain)
        && (!v6
            || s.update_checksum(
                checksum,
                outer_difference,
                Checksum { pseudo: true, v6, ..plain },
            ))
}

/// Update the transport checksum in the quotation, if it is there and there is one; returns the
/// difference that makes to the ICMP checksum.
#[inline(always)]
fn update_quoted_checksum<A: Family, S: Frame>(s: &S, inner: &Network<A>, difference: u32) -> u32 {
    let offset = match inner.protocol {
        6 => inner.transport + 16,
        17 => inner.transport + 6,
        _ => return 0,
    };
    let Some(old) = s.load::<u16>(offset) else { return 0 };
    if inner.protocol == 17 && old == 0 {
        return 0;
    }
    let new = fold_into(old, difference);
    if !s.store(offset, &new) {
        return 0;
    }
    port_difference(Be16::from_raw(old), Be16::from_raw(new))
}

/// A checksum after a change (RFC 1624, equation 3).
#[inline(always)]
pub const fn fold_into(checksum: u16, difference: u32) -> u16 {
    let sum = checksum_add(!checksum as u32, difference);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}
