//! A flow is answered and the client shows that it got the answer: it stays in, or moves to, the
//! table whose entries are never evicted. And: a flow is over.
//!
//! A sender of forged packets cannot get there: it does not see the answers, and TCP has to
//! acknowledge the number in one.

use super::frame::Frame;
use super::ingress::snapshot;
use super::network::Family;
use super::tables::{Shared, Table, Tables};
use super::transport::{Packet, tcp};
use crate::address::Protocol;
use crate::counters::Counter;
use crate::flow::{Flow, FlowKey, bits, role, seen, side};

/// How far beyond the first acknowledgement that is possible a client's first packet may be, in
/// bytes: what the backend may send before it (TCP Fast Open) or while we were not looking.
const EARLY_BYTES: u32 = 1 << 20;

/// A packet of a half-open flow came in: if that packet follows its answer, the flow is
/// established.
#[inline(never)]
pub fn establish<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    packet: &Packet<A>,
    row: &Shared<Flow<A>>,
) {
    // SAFETY: fields of a live row that no longer change.
    let (open, reply_key) = unsafe { (row.get(), (*row.get()).reply_key(&packet.key)) };
    // SAFETY: as above.
    let (role, flow_bits) = unsafe { ((*open).role, (*open).bits) };
    if role != role::OPEN || !completes(packet) {
        return;
    }
    let Some(reply) = find(s, table, &reply_key) else { return };
    if !is_answered(packet, reply) {
        return;
    }
    let moves = matches!(table, Table::HalfOpen);
    let is_masqueraded = flow_bits & bits::MASQUERADE != 0;
    // What is moved already was, by a packet for whose other entries there was no room.
    let moved = (!moves || move_entry(s, &reply_key))
        && (!is_masqueraded || move_masquerade(s, table, &reply_key.answer(side::EGRESS)))
        && (!moves || move_entry(s, &packet.key));
    if !moved {
        s.count(Counter::FlowTableFull);
        return;
    }
    if !moves {
        [row, reply].into_iter().for_each(mark_answered);
        s.give_room();
    }
    s.count(Counter::FlowEstablished);
}

/// The flow is answered. (A byte that nobody writes otherwise: nothing is lost.)
#[inline(always)]
fn mark_answered<A: Family>(row: &Shared<Flow<A>>) {
    // SAFETY: a byte of a live row.
    unsafe {
        let flow_bits = &raw mut (*row.get()).bits;
        let known = core::ptr::read_volatile(flow_bits);
        core::ptr::write_volatile(flow_bits, known & !bits::HALF_OPEN);
    }
}

/// Whether a half-open flow still has all its entries. They are evicted one by one, and one alone
/// leads its packets where no answer comes back from. What cannot begin anew is not asked about:
/// for TCP under way there is nothing better.
#[inline(never)]
pub fn is_whole<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    packet: &Packet<A>,
    row: &Shared<Flow<A>>,
) -> bool {
    let row = row.get();
    // SAFETY: fields of a live row that no longer change.
    let (role, flow_bits) = unsafe { ((*row).role, (*row).bits) };
    if role != role::OPEN || !packet.opens() {
        return true;
    }
    // SAFETY: as above.
    let mut key = unsafe { (*row).reply_key(&packet.key) };
    if find(s, table, &key).is_none() {
        return false;
    }
    if flow_bits & bits::MASQUERADE == 0 {
        return true;
    }
    // The MASQ entry's key, in place: the stack is small.
    core::mem::swap(&mut key.source, &mut key.destination);
    core::mem::swap(&mut key.source_port, &mut key.destination_port);
    let Some(masq) = find(s, table, &key) else { return false };
    let masq = masq.get();
    // SAFETY: aligned fields of a live row.
    let (address, port) = unsafe { ((*masq).address, (*masq).port) };
    if port.raw() == 0 {
        return true;
    }
    // And the UNMASQ entry's.
    key.source = key.destination;
    key.source_port = key.destination_port;
    key.destination = address;
    key.destination_port = port;
    key.side = side::INGRESS;
    find(s, Table::HalfOpen, &key).is_some()
}

/// Another entry of a flow whose OPEN entry was found in `table`. Among the half-open ones another
/// CPU may be moving it; among the established ones only UNMASQ may be in the other table.
#[inline(always)]
pub fn find<'a, A: Family, S: Frame + Tables<A>>(
    s: &'a S,
    table: Table,
    key: &FlowKey<A>,
) -> Option<&'a Shared<Flow<A>>> {
    match s.flow(table, key) {
        None if matches!(table, Table::HalfOpen) => s.flow(Table::Established, key),
        found => found,
    }
}

/// Whether the packet is one that a client sends when it has got an answer.
#[inline(always)]
fn completes<A: Family>(packet: &Packet<A>) -> bool {
    packet.key.protocol != Protocol::Tcp as u8
        || packet.is_tcp_with(tcp::ACK, tcp::ACK | tcp::SYN | tcp::RST)
}

/// Whether the backend has answered, and the packet shows that the client got the answer.
#[inline(always)]
fn is_answered<A: Family>(packet: &Packet<A>, reply: &Shared<Flow<A>>) -> bool {
    let row = reply.get();
    // SAFETY: aligned fields of a live row.
    let (saw, expected) = unsafe {
        let saw = core::ptr::read_volatile(&raw const (*row).seen);
        (saw, core::ptr::read_volatile(&raw const (*row).generation_or_ack))
    };
    let ahead = packet.acknowledgement.wrapping_sub(expected);
    let is_tcp = packet.key.protocol == Protocol::Tcp as u8;
    saw & seen::PACKET != 0 && (!is_tcp || ahead <= EARLY_BYTES)
}

/// Move the entries of a masqueraded flow that are among the half-open ones: MASQ last, by which
/// the other one is found.
#[inline(never)]
fn move_masquerade<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    masq_key: &FlowKey<A>,
) -> bool {
    let Some(row) = s.flow(table, masq_key) else {
        // Another CPU moved it, or it was evicted (TCP under way: see `is_whole`).
        return true;
    };
    let row = row.get();
    // SAFETY: aligned fields of a live row.
    let (address, port) = unsafe { ((*row).address, (*row).port) };
    let unmasq_key = FlowKey {
        source: masq_key.destination,
        destination: address,
        source_port: masq_key.destination_port,
        destination_port: port,
        protocol: masq_key.protocol,
        side: side::INGRESS,
        pad: 0,
    };
    (port.raw() == 0 || move_entry(s, &unmasq_key)) && move_entry(s, masq_key)
}

/// Move one entry. False: there is no room for it, and it stays.
#[inline(never)]
fn move_entry<A: Family, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>) -> bool {
    let Some(row) = s.flow(Table::HalfOpen, key) else { return true };
    // A row of a map is as good a value as a copy of it.
    // SAFETY: a live row.
    let moved = s.put_flow(Table::Established, key, unsafe { &*row.get() });
    if moved {
        s.remove_flow(Table::HalfOpen, key);
    }
    moved
}

/// Delete all entries of a flow, given its OPEN entry.
#[inline(never)]
pub fn forget<A: Family, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>, row: &Shared<Flow<A>>) {
    let row = row.get();
    // SAFETY: fields of a live row that no longer change.
    let (reply_key, flow_bits) = unsafe { ((*row).reply_key(key), (*row).bits) };
    for table in Table::BOTH {
        s.remove_flow(table, key);
        s.remove_flow(table, &reply_key);
    }
    if flow_bits & bits::MASQUERADE != 0 {
        forget_masquerade(s, &reply_key.answer(side::EGRESS));
    }
}

#[inline(never)]
fn forget_masquerade<A: Family, S: Frame + Tables<A>>(s: &S, masq_key: &FlowKey<A>) {
    for table in Table::BOTH {
        if let Some(row) = s.flow(table, masq_key) {
            let masq = snapshot(row);
            s.remove_flow(table, masq_key);
            s.remove_flow(table, &masq.unmasq_key(masq_key));
        }
    }
}
