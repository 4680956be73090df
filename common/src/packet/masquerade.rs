//! The node takes the client's place: its address, and a port that nobody else has towards this
//! backend.

use super::frame::{Frame, Verdict};
use super::ingress::{finish, snapshot};
use super::network::Family;
use super::rewrite::{Change, now_secs};
use super::tables::{Shared, Table, Tables};
use super::transport::Packet;
use crate::address::{Be16, Protocol};
use crate::counters::Counter;
use crate::flow::{Flow, FlowKey, bits, role, seen, side};
use crate::select::scale;

/// How often a port that seemed to be free is claimed, at most.
pub const CLAIMS: u32 = 8;
/// How many ports are looked at, at most, for each claim. In all this is 64: when nine of ten ports
/// are taken, one flow in a thousand finds none.
const LOOKS: u32 = 8;
/// How many flows are looked at, at most, for one that nobody will miss.
const VICTIM_TRIES: u32 = 6;
/// A flow that nobody may miss was silent for this long, in seconds.
const IDLE_SECS: u32 = 2;

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
    let key = &packet.key;
    let found = choose_port(s, table, key, &mut flow)
        || (make_room(s, key, &mut flow) && claim(s, table, key, &flow));
    if !found {
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
    if key.protocol == Protocol::Sctp as u8 {
        flow.port = key.source_port;
        return claim(s, table, key, flow);
    }
    for _ in 0..CLAIMS {
        if !free_port(s, key, flow) {
            return false;
        }
        if claim(s, table, key, flow) {
            return true;
        }
        s.count(Counter::PortRetried);
    }
    false
}

/// A port that no flow has towards this backend, or one that is as likely taken as not after many
/// looks. False: there is no range.
#[inline(never)]
fn free_port<A: Family, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>, flow: &mut Flow<A>) -> bool {
    for _ in 0..LOOKS {
        if !random_port(s, flow) {
            return false;
        }
        let answer_key = flow.unmasq_key(key);
        if s.flow(Table::HalfOpen, &answer_key).is_none()
            && s.flow(Table::Established, &answer_key).is_none()
        {
            return true;
        }
    }
    true
}

/// Any port of the range. False: there is no range.
#[inline(always)]
fn random_port<A: Family, S: Frame + Tables<A>>(s: &S, flow: &mut Flow<A>) -> bool {
    let Some(row) = s.node() else { return false };
    if row.last_port < row.first_port {
        return false;
    }
    let ports = u32::from(row.last_port - row.first_port) + 1;
    flow.port = Be16::new((u32::from(row.first_port) + scale(s.random(), ports)) as u16);
    true
}

/// Take the port that is chosen, unless another flow or a socket of the node has it. Where there is
/// no room for the entry it goes among the half-open ones, which make some.
#[inline(never)]
fn claim<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    key: &FlowKey<A>,
    flow: &Flow<A>,
) -> bool {
    let answer_key = flow.unmasq_key(key);
    if s.is_port_in_use(&answer_key) {
        return false;
    }
    let mut answer = *flow;
    answer.role = role::UNMASQ;
    answer.bits &= !bits::HALF_OPEN;
    answer.address = key.source;
    answer.port = key.source_port;
    answer.other_port = key.destination_port;
    for table in [table, Table::HalfOpen] {
        if s.add_flow(table, &answer_key, &answer) {
            return is_alone(s, table, &answer_key);
        }
        let taken = Table::BOTH.into_iter().any(|table| s.flow(table, &answer_key).is_some());
        if taken || matches!(table, Table::HalfOpen) {
            return false;
        }
        s.close_room();
    }
    false
}

/// Whether an entry was added whose key the other table has not; else it is taken back. Of two CPUs
/// that add it to one table each, both may give way, but one does.
#[inline(always)]
fn is_alone<A: Family, S: Frame + Tables<A>>(s: &S, table: Table, key: &FlowKey<A>) -> bool {
    let other = match table {
        Table::Established => Table::HalfOpen,
        Table::HalfOpen => Table::Established,
    };
    let is_alone = s.flow(other, key).is_none();
    if !is_alone {
        s.remove_flow(table, key);
    }
    is_alone
}

/// Nearly all ports towards this backend are taken: find one whose flow is over or was a mere
/// question and answer, and forget that flow.
#[inline(always)]
fn make_room<A: Family, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>, flow: &mut Flow<A>) -> bool {
    for _ in 0..VICTIM_TRIES {
        if key.protocol == Protocol::Sctp as u8 || !random_port(s, flow) {
            return false;
        }
        let answer_key = flow.unmasq_key(key);
        for table in [Table::HalfOpen, Table::Established] {
            if let Some(row) = s.flow(table, &answer_key)
                && give_up(s, table, &answer_key, row)
            {
                return true;
            }
        }
    }
    false
}

/// Forget the flow that has this UNMASQ entry, if nobody will miss it.
#[inline(never)]
fn give_up<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    key: &FlowKey<A>,
    row: &Shared<Flow<A>>,
) -> bool {
    let row = row.get();
    // SAFETY: fields of a live row that no longer change.
    let (client, client_port) = unsafe { ((*row).address, (*row).port) };
    let mut other = FlowKey {
        source: key.source,
        destination: client,
        source_port: key.source_port,
        destination_port: client_port,
        protocol: key.protocol,
        side: side::EGRESS,
        pad: 0,
    };
    // What is half-open may have moved in part, or be among the others but for its UNMASQ entry.
    for table in [Table::HalfOpen, Table::Established] {
        let Some(reply) = s.flow(table, &other) else { continue };
        let reply = reply.get();
        // SAFETY: aligned fields of a live row.
        let (open_key, saw, last) =
            unsafe { ((*reply).open_key(&other), (*reply).seen, (*reply).last_used_secs) };
        // SAFETY: as above.
        let is_half_open = table.is_half_open(unsafe { (*reply).bits });
        let idle = now_secs(s).wrapping_sub(last);
        let closed = seen::FIN | seen::RST;
        let is_over = idle >= IDLE_SECS && (is_half_open || saw & closed != 0);
        if !is_over || idle > u32::MAX / 2 {
            return false;
        }
        Table::BOTH.into_iter().for_each(|table| s.remove_flow(table, &open_key));
        s.remove_flow(table, &other);
    }
    // Its answer at the same side, in place: a third key does not fit on the stack.
    core::mem::swap(&mut other.source, &mut other.destination);
    core::mem::swap(&mut other.source_port, &mut other.destination_port);
    Table::BOTH.into_iter().for_each(|table| s.remove_flow(table, &other));
    s.remove_flow(table, key);
    true
}
