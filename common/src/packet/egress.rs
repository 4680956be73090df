//! A packet goes out by a device: from the frontend, if it answers what was sent to one; from the
//! node, if answers would not find their way back to this node otherwise.

use super::errors;
use super::fragments;
use super::frame::{Frame, Verdict};
use super::ingress::{finish, is_from_uplink, pass, snapshot, touch};
use super::masquerade;
use super::network::{Family, Part};
use super::rewrite::{Change, now_secs};
use super::tables::{Shared, Table, Tables};
use super::transport::{Packet, tcp};
use crate::counters::Counter;
use crate::flow::{Flow, FlowKey, role, side};
use crate::node::device;

/// Translate an outgoing packet.
#[inline(always)]
pub fn egress<A: Family, S: Frame + Tables<A>>(s: &S) -> Verdict {
    let network = match A::read(s, s.link_bytes(), false) {
        Ok(network) => network,
        Err(reason) => return pass(s, reason),
    };
    if network.fragment == Part::Later {
        return fragments::follow(s, &network, side::EGRESS);
    }
    if network.protocol == A::ICMP {
        return match errors::translate(s, &network, side::EGRESS) {
            Some(verdict) => verdict,
            None => pass(s, Counter::EgressPassed),
        };
    }
    let packet = match Packet::read(s, network) {
        Ok(packet) => packet,
        Err(Counter::IngressPassed) => return pass(s, Counter::EgressPassed),
        Err(reason) => return pass(s, reason),
    };
    let key = packet.key(side::EGRESS);
    for table in [Table::Established, Table::HalfOpen] {
        if let Some(row) = s.flow(table, &key) {
            return known(s, table, &packet, &key, row);
        }
    }
    pass(s, Counter::EgressPassed)
}

#[inline(always)]
fn known<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    packet: &Packet<A>,
    key: &FlowKey<A>,
    row: &Shared<Flow<A>>,
) -> Verdict {
    let flow = snapshot(row);
    let change = Change {
        side: side::EGRESS,
        address: flow.address,
        port: flow.port,
        other_port: flow.other_port,
    };
    if flow.role == role::MASQ {
        if flow.port.raw() != 0 {
            return finish(s, packet, &change, Counter::EgressMasqueraded);
        }
        let begun = masquerade::begin(s, table, packet, key, row);
        return if begun { Verdict::Next } else { Verdict::Drop };
    }
    touch(row, &flow, now_secs(s), packet.seen());
    if matches!(table, Table::HalfOpen)
        && packet.is_tcp_with(tcp::SYN | tcp::ACK, tcp::SYN | tcp::ACK)
    {
        // SAFETY: an aligned word of a live row; a retransmission writes the same.
        unsafe {
            let expected = &raw mut (*row.get()).expected_ack;
            core::ptr::write_volatile(expected, packet.sequence.wrapping_add(1));
        }
    }
    match finish(s, packet, &change, Counter::EgressFromFrontend) {
        Verdict::Next if is_from_uplink(&flow) => back(s, &flow),
        verdict => verdict,
    }
}

/// The answer to what came in by an uplink leaves by the same one, though it was routed by the
/// backend's address, which may have an uplink of its own (as pods on EKS do).
#[inline(always)]
fn back<A: Family, S: Frame + Tables<A>>(s: &S, flow: &Flow<A>) -> Verdict {
    if flow.device == s.device_index() {
        return Verdict::Next;
    }
    match s.device() {
        Some(row) if row.flags & device::UPLINK != 0 => {
            s.count(Counter::AnswerRedirected);
            Verdict::Redirect(flow.device)
        }
        _ => Verdict::Next,
    }
}
