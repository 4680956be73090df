//! A flow is answered and the client shows that it got the answer: it moves to the table whose entries
//! are never evicted. And: a flow is over.
//!
//! A sender of forged packets cannot get there: it does not see the answers, and TCP has to
//! acknowledge the number in one.

use super::frame::Frame;
use super::ingress::snapshot;
use super::network::Family;
use super::tables::{Table, Tables};
use super::transport::Packet;
use crate::address::Protocol;
use crate::counters::Counter;
use crate::flow::{Flow, FlowKey, bits, seen};

/// How far beyond the first acknowledgement that is possible a client's first packet may be, in
/// bytes: what the backend may send before it (TCP Fast Open) or while we were not looking.
const EARLY_BYTES: u32 = 1 << 20;

/// Move a half-open flow, if its answer was seen.
#[inline(never)]
pub fn establish<A: Family, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    key: &FlowKey<A>,
    flow: &Flow<A>,
) {
    let reply_key = flow.reply_key(key);
    let Some(row) = s.flow(Table::HalfOpen, &reply_key) else { return };
    let reply = snapshot(row);
    if reply.seen & seen::PACKET == 0 {
        return;
    }
    let ahead = packet.acknowledgement.wrapping_sub(reply.expected_ack);
    if packet.network.protocol == Protocol::Tcp as u8 && ahead > EARLY_BYTES {
        return;
    }
    let moved = s.put_flow(Table::Established, &reply_key, &reply)
        && (flow.bits & bits::MASQUERADE == 0 || move_masquerade(s, key, flow));
    let mut open = *flow;
    open.seen |= packet.seen();
    if !moved || !s.put_flow(Table::Established, key, &open) {
        s.count(Counter::FlowTableFull);
        s.remove_flow(Table::Established, &reply_key);
        return;
    }
    s.count(Counter::FlowEstablished);
    s.remove_flow(Table::HalfOpen, &reply_key);
    s.remove_flow(Table::HalfOpen, key);
}

/// Move the entries of a masqueraded flow.
#[inline(never)]
fn move_masquerade<A: Family, S: Frame + Tables<A>>(
    s: &S,
    key: &FlowKey<A>,
    flow: &Flow<A>,
) -> bool {
    let masq_key = flow.masq_key(key);
    let Some(row) = s.flow(Table::HalfOpen, &masq_key) else { return true };
    let masq = snapshot(row);
    if !s.put_flow(Table::Established, &masq_key, &masq) {
        return false;
    }
    s.remove_flow(Table::HalfOpen, &masq_key);
    if masq.port.raw() == 0 {
        return true;
    }
    let unmasq_key = masq.unmasq_key(&masq_key);
    if let Some(row) = s.flow(Table::HalfOpen, &unmasq_key) {
        let unmasq = snapshot(row);
        if !s.put_flow(Table::Established, &unmasq_key, &unmasq) {
            return false;
        }
        s.remove_flow(Table::HalfOpen, &unmasq_key);
    }
    true
}

/// Delete all entries of a flow, given its OPEN entry.
#[inline(never)]
pub fn forget<A: Family, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>, flow: &Flow<A>) {
    for table in [Table::Established, Table::HalfOpen] {
        s.remove_flow(table, key);
        s.remove_flow(table, &flow.reply_key(key));
    }
    if flow.bits & bits::MASQUERADE != 0 {
        forget_masquerade(s, &flow.masq_key(key));
    }
}

#[inline(never)]
fn forget_masquerade<A: Family, S: Frame + Tables<A>>(s: &S, masq_key: &FlowKey<A>) {
    for table in [Table::Established, Table::HalfOpen] {
        if let Some(row) = s.flow(table, masq_key) {
            let masq = snapshot(row);
            s.remove_flow(table, masq_key);
            s.remove_flow(table, &masq.unmasq_key(masq_key));
        }
    }
}
