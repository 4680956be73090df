//! The first packet of a flow: may it, is there a backend, and what has to be remembered.

use super::frame::{Frame, Verdict};
use super::ingress::{finish, pass, snapshot};
use super::network::Network;
use super::reject::{self, Answer};
use super::rewrite::{Change, now_secs};
use super::tables::{Table, Tables};
use super::transport::Packet;
use crate::address::{Be16, Protocol};
use crate::affinity::Client;
use crate::counters::Counter;
use crate::flow::{Flow, FlowKey, bits, role, seen, side};
use crate::frontend::{Frontend, FrontendKey, Kind, flags};
use crate::node::{DeviceRow, NodeRow, device, node};
use crate::select::{self, Decision, List, Target, scale};

/// How often another port is tried, at most, when one is taken.
pub const PORT_TRIES: u32 = 12;

/// Where the first packet comes from, and what follows from it.
struct Origin {
    /// From one of this node's pods; without a detector nothing is.
    is_pod: bool,
    /// Comes in by an uplink.
    is_uplink: bool,
    /// What is sent to a ClusterIP from there is masqueraded.
    masquerades_cluster_ip: bool,
}

/// The first packet of what may become a flow.
#[inline(never)]
pub fn open<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    key: &FlowKey<A>,
) -> Verdict {
    let network = &packet.network;
    let dialled = FrontendKey::new(network.destination, packet.destination_port, network.protocol);
    let Some(frontend) = s.frontend(&dialled) else {
        return no_frontend(s, network, Some(packet));
    };
    let (Some(row), Some(device)) = (s.node(), s.device()) else {
        return pass(s, Counter::IngressPassed);
    };
    if frontend.has(flags::NODE_ONLY) || is_translated(s, key) {
        return pass(s, Counter::IngressPassed);
    }
    let origin = origin::<A, S>(row, &device, network.source);
    if frontend.has(flags::SOURCE_RANGES) && !s.is_source_allowed(frontend.service, network.source)
    {
        return fail(s, &frontend, Counter::DroppedSource);
    }
    let (list, drop) = list(&frontend, &origin);
    if list.slots.count == 0 {
        if drop {
            return fail(s, &frontend, Counter::DroppedPolicy);
        }
        s.count_failed(frontend.service);
        return reject::reject(s, network, Some(packet), Counter::RejectedNoBackend);
    }
    let client = || Client::of_source(network.source);
    match select::choose(s, &frontend, list, client) {
        Decision::Forward(target) => forward(s, packet, key, &frontend, &origin, &target),
        _ => fail(s, &frontend, Counter::DroppedBroken),
    }
}

#[inline(always)]
fn fail<A: Answer, S: Frame + Tables<A>>(s: &S, frontend: &Frontend, counter: Counter) -> Verdict {
    s.count_failed(frontend.service);
    s.count(counter);
    Verdict::Drop
}

/// Whether another hook of ours has translated the packet already: then its answer is known.
#[inline(always)]
fn is_translated<A: Answer, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>) -> bool {
    let answer = key.answer(side::EGRESS);
    [Table::Established, Table::HalfOpen].into_iter().any(|table| s.flow(table, &answer).is_some())
}

#[inline(always)]
fn origin<A: Answer, S: Tables<A>>(row: &NodeRow, device: &DeviceRow, source: A) -> Origin {
    let detects = row.flags & node::DETECTOR != 0;
    let is_from_pods = if row.flags & node::DETECT_BY_DEVICE != 0 {
        device.flags & device::FROM_PODS != 0
    } else {
        S::of_node(row).pods.contains(source)
    };
    Origin {
        is_pod: detects && is_from_pods,
        is_uplink: device.flags & device::UPLINK != 0,
        masquerades_cluster_ip: row.flags & node::MASQUERADE_ALL != 0 || (detects && !is_from_pods),
    }
}

/// The list for this client, and whether an empty one means silence.
#[inline(always)]
fn list(frontend: &Frontend, origin: &Origin) -> (List, bool) {
    if is_cluster_ip(frontend) || origin.is_pod {
        (frontend.near_list(), frontend.has(flags::NEAR_DROP))
    } else {
        (frontend.far_list(), frontend.has(flags::FAR_DROP))
    }
}

#[inline(always)]
fn is_cluster_ip(frontend: &Frontend) -> bool {
    frontend.flags >> flags::KIND_SHIFT == Kind::ClusterIp as u32
}

/// kube-proxy's truth table. A pod that is led to itself must not see its own address as the
/// sender.
#[inline(always)]
fn must_masquerade(frontend: &Frontend, origin: &Origin, is_hairpin: bool) -> bool {
    let by_policy = if is_cluster_ip(frontend) {
        origin.masquerades_cluster_ip
    } else {
        !frontend.has(flags::FAR_LOCAL)
    };
    by_policy || is_hairpin
}

/// Remember the flow and send its first packet on.
#[inline(always)]
fn forward<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    key: &FlowKey<A>,
    frontend: &Frontend,
    origin: &Origin,
    target: &Target<A>,
) -> Verdict {
    let is_sctp = packet.network.protocol == Protocol::Sctp as u8;
    if is_sctp && target.port != packet.destination_port {
        return fail(s, frontend, Counter::DroppedSctpPort);
    }
    let masquerade = must_masquerade(frontend, origin, packet.network.source == target.address);
    let now = now_secs(s);
    let mut flow = Flow {
        address: target.address,
        port: target.port,
        other_port: packet.source_port,
        role: role::OPEN,
        bits: if masquerade { bits::MASQUERADE } else { 0 }
            | if origin.is_uplink { bits::FROM_UPLINK } else { 0 },
        seen: seen::PACKET,
        last_used_secs: now,
        since_secs: now,
        backend: target.id,
        generation: target.generation,
        service: frontend.service,
        device: s.device_index(),
        expected_ack: 0,
    };
    if !claim_answer(s, key, &mut flow) {
        let port = if is_sctp { Counter::DroppedSctpPort } else { Counter::DroppedNoPort };
        return fail(s, frontend, port);
    }
    if !remember(s, key, &flow) {
        return fail(s, frontend, Counter::DroppedNoRoom);
    }
    if target.by_affinity {
        s.count(Counter::AffinityHit);
    }
    s.count(Counter::FlowOpened);
    s.count_opened(frontend.service);
    let change = Change {
        side: side::INGRESS,
        address: flow.address,
        port: flow.port,
        other_port: flow.other_port,
    };
    finish(s, packet, &change, Counter::IngressToBackend)
}

/// See that the answers can be told from those of any other flow: a client may use one port
/// towards two frontends that lead to the same backend. If they cannot, the backend sees another
/// client port.
#[inline(never)]
fn claim_answer<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
) -> bool {
    if is_free(s, key, flow) {
        return true;
    }
    let Some(row) = s.node() else { return false };
    if key.protocol == Protocol::Sctp as u8 || row.last_port < row.first_port {
        return false;
    }
    let ports = u32::from(row.last_port - row.first_port) + 1;
    for _ in 0..PORT_TRIES {
        let port = u32::from(row.first_port) + scale(s.random(), ports);
        flow.other_port = Be16::new(port as u16);
        if is_free(s, key, flow) {
            s.count(Counter::PortRemapped);
            return true;
        }
    }
    false
}

/// Whether nobody else has the answer's key. An old flow's own entry makes room.
#[inline(always)]
fn is_free<A: Answer, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    let answer = flow.reply_key(key);
    for table in [Table::Established, Table::HalfOpen] {
        if let Some(row) = s.flow(table, &answer) {
            let taken = snapshot(row);
            if taken.open_key(&answer) != *key {
                return false;
            }
            s.remove_flow(table, &answer);
        }
    }
    true
}

/// Write the flow's entries, the one that is found by the next packet last.
#[inline(never)]
fn remember<A: Answer, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    let mut entry = *flow;
    entry.role = role::REPLY;
    entry.seen = 0;
    entry.address = key.destination;
    entry.port = key.destination_port;
    entry.other_port = key.source_port;
    if !s.put_flow(Table::HalfOpen, &flow.reply_key(key), &entry) {
        return false;
    }
    if flow.bits & bits::MASQUERADE != 0 {
        entry.role = role::MASQ;
        entry.address = A::ZERO;
        entry.port = Be16::new(0);
        entry.other_port = flow.port;
        let masq = flow.masq_key(key);
        s.remove_flow(Table::Established, &masq);
        if !s.put_flow(Table::HalfOpen, &masq, &entry) {
            return false;
        }
    }
    s.put_flow(Table::HalfOpen, key, flow)
}

/// What is neither TCP, UDP nor SCTP, or an ICMP message that is no error of ours.
#[inline(always)]
pub fn other<A: Answer, S: Frame + Tables<A>>(s: &S, network: &Network<A>) -> Verdict {
    no_frontend(s, network, None)
}

/// No frontend: but a ClusterIP all the same, or in a ServiceCIDR?
#[inline(never)]
fn no_frontend<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    network: &Network<A>,
    packet: Option<&Packet<A>>,
) -> Verdict {
    let Some(row) = s.node() else { return pass(s, Counter::IngressPassed) };
    let family = S::of_node(row);
    let address = network.destination;
    if family.service_hull.contains(address)
        && s.frontend(&FrontendKey::new(address, Be16::new(0), 0)).is_some()
    {
        return reject::reject(s, network, packet, Counter::RejectedNoPort);
    }
    if family.service_cidrs.iter().any(|cidr| cidr.contains(address)) {
        s.count(Counter::DroppedUnallocated);
        return Verdict::Drop;
    }
    pass(s, Counter::IngressPassed)
}
