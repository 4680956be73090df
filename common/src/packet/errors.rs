//! ICMP errors (RFC 792, RFC 4443): they quote the packet they are about, as it was where it
//! failed, so both the error and its quotation are translated. Path MTU discovery lives by it.
//!
//! A quotation travels against the packet it quotes: its source is where the error must go, and its
//! key is that of the answer.

use core::mem::MaybeUninit;

use super::frame::{Checksum, Frame, Verdict};
use super::ingress::{finish_error, snapshot};
use super::network::{Family, Part};
use super::rewrite::{Change, Ports, port_difference, replace_address};
use super::tables::{Table, Tables};
use super::transport::Packet;
use crate::address::{Be16, Family as Version, checksum_add};
use crate::flow::side;

/// Bytes of an ICMP error's header, before the quotation.
const ERROR_BYTES: u32 = 8;
/// Offset of the ICMP checksum.
const CHECKSUM_OFFSET: u32 = 2;

/// Translate an error about one of our flows; none if it is no error, or not about one.
#[inline(never)]
pub fn translate<A: Family, S: Frame + Tables<A>>(s: &S, outer: &Packet<A>) -> Verdict {
    let mut place = MaybeUninit::uninit();
    let inner = Packet::at(outer.key.side, &mut place);
    let mut change = Change { port: Be16::new(0), other_port: Be16::new(0), address: A::ZERO };
    if !find(s, outer, inner, &mut change) {
        return Verdict::NONE;
    }
    let changed = apply(s, outer, inner, &change);
    finish_error(s, changed, outer.key.side)
}

/// Read the quotation, find its flow, and what that makes of it.
#[inline(never)]
fn find<A: Family, S: Frame + Tables<A>>(
    s: &S,
    outer: &Packet<A>,
    inner: &mut Packet<A>,
    change: &mut Change<A>,
) -> bool {
    let Some(icmp_type) = s.load::<u8>(outer.transport) else { return false };
    if !A::is_error(icmp_type) || A::read(s, outer.transport + ERROR_BYTES, true, inner).is_err() {
        return false;
    }
    // What follows the error in its frame is not quoted.
    inner.end = outer.end;
    if inner.transport + size_of::<Ports>() as u32 > inner.end {
        return false;
    }
    let Some(ports) = s.load::<Ports>(inner.transport) else { return false };
    inner.key.source_port = ports.source;
    inner.key.destination_port = ports.destination;
    // An error goes to whom it quotes.
    if inner.fragment == Part::Later
        || !matches!(inner.key.protocol, 6 | 17 | 132)
        || inner.key.source != outer.key.destination
    {
        return false;
    }
    let answer = inner.key.answer(outer.key.side);
    let row = match s.flow(Table::Established, &answer) {
        Some(row) => row,
        None => match s.flow(Table::HalfOpen, &answer) {
            Some(row) => row,
            None => return false,
        },
    };
    *change = Change::of(&snapshot(row));
    // A flow that is yet to be masqueraded has sent nothing that could fail.
    change.port.raw() != 0
}

/// Change the error and its quotation.
#[inline(never)]
fn apply<A: Family, S: Frame + Tables<A>>(
    s: &S,
    outer: &Packet<A>,
    inner: &Packet<A>,
    change: &Change<A>,
) -> bool {
    let ingress = outer.key.side == side::INGRESS;
    let (outer_old, outer_offset, inner_old, inner_offset) = match ingress {
        true => (outer.key.destination, A::DESTINATION_OFFSET, inner.key.source, A::SOURCE_OFFSET),
        false => (outer.key.source, A::SOURCE_OFFSET, inner.key.destination, A::DESTINATION_OFFSET),
    };
    let ports = match ingress {
        true => Ports { source: change.port, destination: change.other_port },
        false => Ports { source: change.other_port, destination: change.port },
    };
    let outer_difference = outer_old.checksum_difference(change.address);
    let inner_difference = inner_old.checksum_difference(change.address);
    let port_change = checksum_add(
        port_difference(inner.key.source_port, ports.source),
        port_difference(inner.key.destination_port, ports.destination),
    );
    let transport = update_quoted_checksum(s, inner, checksum_add(inner_difference, port_change));
    // In a quoted IPv4 header, address and header checksum balance each other.
    let header = if A::CHECKSUM_OFFSET.is_some() { 0 } else { inner_difference };
    let covered = checksum_add(checksum_add(header, port_change), transport);
    let checksum = outer.transport + CHECKSUM_OFFSET;
    let plain = Checksum { pseudo: false, optional: false, v6: false };
    let v6 = matches!(A::FAMILY, Version::V6);
    let address = &change.address;
    replace_address(s, outer.network, outer_offset, address, outer_difference)
        && replace_address(s, inner.network, inner_offset, address, inner_difference)
        && s.store(inner.transport, &ports)
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
fn update_quoted_checksum<A: Family, S: Frame>(s: &S, inner: &Packet<A>, difference: u32) -> u32 {
    let offset = match inner.key.protocol {
        6 => inner.transport + 16,
        17 => inner.transport + 6,
        _ => return 0,
    };
    if offset + size_of::<u16>() as u32 > inner.end {
        return 0;
    }
    let Some(old) = s.load::<u16>(offset) else { return 0 };
    if inner.key.protocol == 17 && old == 0 {
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
