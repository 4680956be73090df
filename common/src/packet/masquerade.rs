//! The node takes the client's place: its address, and a port that nobody else has towards this
//! backend.

use super::frame::{Frame, Verdict};
use super::ingress::{finish, snapshot};
use super::network::Family;
use super::open::PORT_TRIES;
use super::rewrite::Change;
use super::tables::{Shared, Table, Tables};
use super::transport::Packet;
use crate::address::{Be16, Protocol};
use crate::counters::Counter;
use crate::flow::{Flow, FlowKey, role};
use crate::select::scale;

/// The first packet of a flow that must be masqueraded leaves. False: it must not.
#[inline(never)]
pub fn begin<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    packet: &Packet<A>,
    row: &Shared<Flow<A>>,
) -> bool {
    let mut flow = snapshot(row);
    flow.address = address(s);
    if flow.address == A::ZERO {
        s.count_failed(flow.service);
        s.count(Counter::DroppedNoAddress);
        return false;
    }
    if !choose_port(s, table, &packet.key, &mut flow) {
        let sctp = packet.key.protocol == Protocol::Sctp as u8;
        s.count_failed(flow.service);
        s.count(if sctp { Counter::DroppedSctpPort } else { Counter::DroppedNoPort });
        return false;
    }
    // SAFETY: a live row. Whoever reads it half-written finds port 0 or this flow's own answer key.
    unsafe {
        core::ptr::write_volatile(&raw mut (*row.get()).address, flow.address);
        core::ptr::write_volatile(&raw mut (*row.get()).port, flow.port);
    }
    let change = Change::of(&flow);
    finish(s, packet, &change, Counter::EgressMasqueraded) == Verdict::NEXT
}

/// The address of the device, else of the node.
#[inline(always)]
fn address<A: Family, S: Frame + Tables<A>>(s: &S) -> A {
    if let Some(row) = s.device() {
        let own = S::masquerade_address(&row);
        if own != A::ZERO {
            return own;
        }
    }
    s.node().map_or(A::ZERO, |row| S::of_node(row).address)
}

/// Find a port and write the entry its answers find. SCTP keeps the client's: its checksum covers
/// the ports.
#[inline(always)]
fn choose_port<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
) -> bool {
    let mut answer = *flow;
    answer.role = role::UNMASQ;
    answer.address = key.source;
    answer.port = key.source_port;
    answer.other_port = key.destination_port;
    if key.protocol == Protocol::Sctp as u8 {
        flow.port = key.source_port;
        return claim(s, table, &flow.unmasq_key(key), &answer);
    }
    let Some(row) = s.node() else { return false };
    if row.last_port < row.first_port {
        return false;
    }
    let ports = u32::from(row.last_port - row.first_port) + 1;
    for _ in 0..PORT_TRIES {
        let port = u32::from(row.first_port) + scale(s.random(), ports);
        flow.port = Be16::new(port as u16);
        if claim(s, table, &flow.unmasq_key(key), &answer) {
            return true;
        }
        s.count(Counter::PortRetried);
    }
    false
}

/// Take a key for the answers, unless another flow or a socket of the node has it.
#[inline(always)]
fn claim<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    key: &FlowKey<A>,
    answer: &Flow<A>,
) -> bool {
    let other = match table {
        Table::Established => Table::HalfOpen,
        Table::HalfOpen => Table::Established,
    };
    s.flow(other, key).is_none() && !s.is_port_in_use(key) && s.add_flow(table, key, answer)
}
