//! A packet goes out by a device: from the frontend, if it answers what was sent to one; from the
//! node, if answers would not find their way back to this node otherwise.

use core::mem::MaybeUninit;

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
use crate::flow::{Flow, role, side};
use crate::node::device;

/// Translate an outgoing packet.
#[inline(never)]
pub fn egress<A: Family, S: Frame + Tables<A>>(s: &S) -> Verdict {
    let mut place = MaybeUninit::uninit();
    let packet = Packet::at(side::EGRESS, &mut place);
    if let Err(reason) = A::read(s, s.link_bytes(), false, packet) {
        return pass(s, reason);
    }
    if packet.fragment == Part::Later {
        return fragments::follow(s, packet);
    }
    if packet.key.protocol == A::ICMP {
        packet.forget(s);
        let verdict = errors::translate(s, packet);
        return if verdict == Verdict::NONE { pass(s, Counter::EgressPassed) } else { verdict };
    }
    match packet.read_transport(s) {
        Ok(()) => {}
        Err(Counter::IngressPassed) => return pass(s, Counter::EgressPassed),
        Err(reason) => return pass(s, reason),
    }
    if !s.possible(&packet.key).egress {
        return pass(s, Counter::EgressPassed);
    }
    for table in Table::BOTH {
        if let Some(row) = s.flow(table, &packet.key) {
            let verdict = known(s, table, packet, row);
            if verdict != Verdict::NONE {
                return verdict;
            }
            if S::SWIFT {
                packet.forget(s);
            }
            let begun = masquerade::begin(s, table, packet, row);
            return if begun { Verdict::NEXT } else { Verdict::DROP };
        }
    }
    pass(s, Counter::EgressPassed)
}

/// A packet of a flow; none if it is the first one that must be masqueraded.
#[inline(never)]
fn known<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    packet: &Packet<A>,
    row: &Shared<Flow<A>>,
) -> Verdict {
    let flow = snapshot(row);
    let is_answer = flow.role != role::MASQ;
    let mut counter = Counter::EgressMasqueraded;
    if is_answer {
        note_answer(s, table, packet, row, &flow);
        counter = Counter::EgressFromFrontend;
    } else if flow.port.raw() == 0 {
        return Verdict::NONE;
    }
    match finish(s, packet, &Change::of(&flow), counter) {
        Verdict::NEXT if is_answer && is_from_uplink(&flow) => back(s, &flow),
        verdict => verdict,
    }
}

/// Note an answer in its entry, and which acknowledgement shows that the client got it.
#[inline(always)]
fn note_answer<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    packet: &Packet<A>,
    row: &Shared<Flow<A>>,
    flow: &Flow<A>,
) {
    touch(row, flow, now_secs(s), packet.seen());
    s.add_bytes(row, s.network_bytes());
    if table.is_half_open(flow.bits) && packet.is_tcp_with(tcp::SYN | tcp::ACK, tcp::SYN | tcp::ACK)
    {
        // SAFETY: an aligned word of a live row; a retransmission writes the same.
        unsafe {
            let expected = &raw mut (*row.get()).generation_or_ack;
            core::ptr::write_volatile(expected, packet.sequence.wrapping_add(1));
        }
    }
}

/// The answer to what came in by an uplink leaves by the same one, though it was routed by the
/// backend's address, which may have an uplink of its own (as pods on EKS do).
#[inline(always)]
fn back<A: Family, S: Frame + Tables<A>>(s: &S, flow: &Flow<A>) -> Verdict {
    if flow.backend_or_device == s.device_index() {
        return Verdict::NEXT;
    }
    match s.device() {
        Some(row) if row.flags & device::UPLINK != 0 => {
            s.count(Counter::AnswerRedirected);
            Verdict::redirect(flow.backend_or_device)
        }
        _ => Verdict::NEXT,
    }
}
