//! Dialogues that are no frontend's, beside flows: a client may use one port towards a frontend
//! and, at the same time, towards the backend itself. To the backend both would be one, and the
//! answers of both have one key. nf_conntrack gives the later one another port; so do we: it
//! becomes a flow of its own, that leads to where the client sends it.

use super::establish::find;
use super::frame::Frame;
use super::network::Family;
use super::open::Choice;
use super::tables::{Shared, Table, Tables};
use crate::address::Protocol;
use crate::flow::{Flow, FlowKey, NO_SERVICE, bits, role, seen, side};
use crate::node::{NodeRow, node};

/// Whether what begins with this packet must become a flow, since its answers would be taken for
/// those of one; `choice` is where to. A connection that was closed is forgotten instead, before
/// the sweep would. (What a masqueraded one has besides, the sweep will find.)
#[inline(never)]
pub fn shares_answers<A: Family, S: Frame + Tables<A>>(
    s: &S,
    key: &FlowKey<A>,
    choice: &mut Choice<A>,
) -> bool {
    let other = key.answer(side::EGRESS);
    if !s.possible(&other).egress {
        return false;
    }
    let Some(reply) = find(s, Table::HalfOpen, &other) else { return false };
    // SAFETY: fields of a live row that no longer change.
    let (role, open_key) = unsafe { ((*reply.get()).role, (*reply.get()).open_key(&other)) };
    if role != role::REPLY {
        return false;
    }
    let open = find(s, Table::HalfOpen, &open_key);
    let is_tcp = key.protocol == Protocol::Tcp as u8;
    if is_tcp && is_closed(open.map_or(seen::FIN, saw), saw(reply)) {
        for table in Table::BOTH {
            s.remove_flow(table, &open_key);
            s.remove_flow(table, &other);
        }
        return false;
    }
    if open.is_none() || !is_of_another(s, key, reply) || !can_change_ports(s, key) {
        return false;
    }
    choice.service = NO_SERVICE;
    choice.target.address = key.destination;
    choice.target.port = key.destination_port;
    if s.take_room() {
        choice.bits |= bits::HALF_OPEN;
    }
    true
}

/// Whether the packet is none of the flow's own, whose REPLY entry this is.
#[inline(always)]
fn is_of_another<A: Family, S: Frame + Tables<A>>(
    s: &S,
    key: &FlowKey<A>,
    reply: &Shared<Flow<A>>,
) -> bool {
    // Another hook may have translated this very packet, and shows it to this one.
    // SAFETY: a field of a live row that no longer changes.
    let device = unsafe { (*reply.get()).backend_or_device };
    if saw(reply) & seen::PACKET == 0 || device != s.device_index() {
        return false;
    }
    // Where both sides are clients and backends of each other, by the same ports, an answer to a
    // flow the other way round looks alike, and is more likely.
    let own = FlowKey { side: side::EGRESS, ..*key };
    // SAFETY: as above.
    let is_answer = |row: &Shared<Flow<A>>| unsafe { (*row.get()).role == role::REPLY };
    !find(s, Table::HalfOpen, &own).is_some_and(is_answer)
}

/// Whether there are other ports, and the protocol does with another one.
#[inline(always)]
fn can_change_ports<A: Family, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>) -> bool {
    let has_ports = |row: &NodeRow| row.flags & node::KNOWN != 0 && row.first_port <= row.last_port;
    key.protocol != Protocol::Sctp as u8 && s.node().is_some_and(has_ports)
}

/// Whether a connection is over by what both sides have sent.
#[inline(always)]
const fn is_closed(client: u16, backend: u16) -> bool {
    client & backend & seen::FIN != 0 || (client | backend) & seen::RST != 0
}

/// What one side of a flow has seen.
#[inline(always)]
fn saw<A: Family>(row: &Shared<Flow<A>>) -> u16 {
    // SAFETY: an aligned field of a live row.
    unsafe { core::ptr::read_volatile(&raw const (*row.get()).seen) }
}
