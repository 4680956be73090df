//! The first packet of a flow: may it, is there a backend, and what has to be remembered.

use core::mem::MaybeUninit;

use super::beside;
use super::frame::{Frame, Verdict};
use super::ingress::pass;
use super::reject::{self, Answer};
use super::rewrite::{Change, now_secs, rewrite};
use super::tables::{Table, Tables};
use super::transport::Packet;
use crate::address::{Be16, Protocol};
use crate::affinity::Client;
use crate::counters::Counter;
use crate::flow::{Count, Flow, FlowKey, bits, role, seen, side};
use crate::frontend::{Frontend, FrontendKey, Kind, flags};
use crate::node::{DeviceRow, NodeRow, device, node};
use crate::row::zero_in;
use crate::select::{self, Decision, List, Target, scale};

/// How often another port is tried, at most, when one is taken.
const PORT_TRIES: u32 = 8;

/// Where the first packet comes from, and what follows from it.
struct Origin {
    /// From one of this node's pods; without a detector nothing is.
    is_pod: bool,
    /// Comes in by an uplink.
    is_uplink: bool,
    /// What is sent to a ClusterIP from there is masqueraded.
    masquerades_cluster_ip: bool,
}

/// Where a flow leads, and how.
#[derive(Clone, Copy)]
pub struct Choice<A> {
    /// The backend.
    pub target: Target<A>,
    /// The service port, or [`NO_SERVICE`](crate::flow::NO_SERVICE).
    pub service: u32,
    /// See [`bits`].
    pub bits: u8,
}

/// What becomes of a packet that may begin a flow.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is no frontend's.
    NotOurs,
    /// It is left alone.
    Pass,
    /// It is dropped, and that is counted.
    Drop(Counter),
    /// It is answered.
    Reject,
    /// It is led to a backend.
    Forward,
}

/// The first packet of what may become a flow. (Its parts come one after the other, not one in the
/// other: BPF has 512 bytes of stack for all.)
#[inline(always)]
pub fn open<A: Answer, S: Frame + Tables<A>>(s: &S, packet: &Packet<A>) -> Verdict {
    let mut place = MaybeUninit::uninit();
    // SAFETY: numbers, addresses and a bool.
    let choice: &mut Choice<A> = unsafe { zero_in(&mut place) };
    match decide(s, packet, choice) {
        Fate::NotOurs => {
            if !beside::shares_answers(s, &packet.key, choice) {
                return no_frontend(s, packet);
            }
        }
        Fate::Pass => return pass(s, Counter::IngressPassed),
        Fate::Forward => {}
        Fate::Reject => {
            s.count_failed(choice.service);
            return reject::reject(s, packet, Counter::RejectedNoBackend);
        }
        Fate::Drop(counter) => return fail(s, choice, counter),
    }
    match forward(s, packet, choice) {
        Ok(()) => Verdict::NEXT,
        Err(counter) => fail(s, choice, counter),
    }
}

/// Whether an uplink shows us what is meant for another host on its link. (A bridge's port always
/// does: there the bridge is meant.)
#[inline(always)]
fn is_elsewhere<A: Answer, S: Frame + Tables<A>>(s: &S) -> bool {
    s.is_for_another_host() && s.device().is_none_or(|row| row.flags & device::UPLINK != 0)
}

#[inline(always)]
fn fail<A: Answer, S: Frame + Tables<A>>(s: &S, choice: &Choice<A>, counter: Counter) -> Verdict {
    s.count_failed(choice.service);
    s.count(counter);
    Verdict::DROP
}

/// May it, and where to?
#[inline(never)]
fn decide<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    choice: &mut Choice<A>,
) -> Fate {
    if is_elsewhere::<A, S>(s) {
        return Fate::Pass;
    }
    let key = &packet.key;
    let dialled = FrontendKey::new(key.destination, key.destination_port, key.protocol);
    let Some(frontend) = s.frontend(&dialled) else { return Fate::NotOurs };
    let (Some(row), Some(device)) = (s.node(), s.device()) else { return Fate::Pass };
    if row.flags & node::KNOWN == 0 || frontend.has(flags::NODE_ONLY) || is_translated(s, key) {
        return Fate::Pass;
    }
    choice.service = frontend.service;
    let origin = origin::<A, S>(row, &device, key.source);
    if frontend.has(flags::SOURCE_RANGES) && !s.is_source_allowed(frontend.service, key.source) {
        return Fate::Drop(Counter::DroppedSource);
    }
    let (list, drop) = list(&frontend, &origin);
    if list.slots.count == 0 {
        return if drop { Fate::Drop(Counter::DroppedPolicy) } else { Fate::Reject };
    }
    let client = || Client::of_source(key.source);
    let Decision::Forward(target) = select::choose(s, &frontend, list, client) else {
        return Fate::Drop(Counter::DroppedBroken);
    };
    let is_sctp = key.protocol == Protocol::Sctp as u8;
    if is_sctp && target.port != key.destination_port {
        return Fate::Drop(Counter::DroppedSctpPort);
    }
    if must_masquerade(&frontend, &origin, key.source == target.address) {
        choice.bits |= bits::MASQUERADE;
    }
    if origin.is_uplink {
        choice.bits |= bits::FROM_UPLINK;
    }
    if s.take_room() {
        choice.bits |= bits::HALF_OPEN;
    }
    choice.target = target;
    Fate::Forward
}

/// Whether another hook of ours has translated the packet already: then its answer is known.
#[inline(always)]
fn is_translated<A: Answer, S: Frame + Tables<A>>(s: &S, key: &FlowKey<A>) -> bool {
    let answer = key.answer(side::EGRESS);
    s.possible(&answer).egress
        && Table::BOTH.into_iter().any(|table| s.flow(table, &answer).is_some())
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

/// Remember the flow and send its first packet on. An error is the reason to drop it.
#[inline(never)]
fn forward<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    choice: &Choice<A>,
) -> Result<(), Counter> {
    let target = &choice.target;
    let now = now_secs(s);
    let mut flow = Flow {
        bytes: Count::ZERO,
        address: target.address,
        port: target.port,
        other_port: packet.key.source_port,
        role: role::OPEN,
        bits: choice.bits,
        seen: seen::PACKET,
        last_used_secs: now,
        since_secs: now,
        service: choice.service,
        backend_or_device: s.device_index(),
        generation_or_ack: 0,
    };
    if !claim_answer(s, &packet.key, &mut flow) {
        let is_sctp = packet.key.protocol == Protocol::Sctp as u8;
        return Err(if is_sctp { Counter::DroppedSctpPort } else { Counter::DroppedNoPort });
    }
    if !write(s, packet, &mut flow, target) && !write_half_open(s, packet, &mut flow, target) {
        return Err(Counter::DroppedNoRoom);
    }
    if !rewrite(s, packet, &Change::of(&flow)) {
        return Err(Counter::DroppedBroken);
    }
    if target.by_affinity {
        s.count(Counter::AffinityHit);
    }
    s.count(Counter::FlowOpened);
    s.count_opened(choice.service);
    s.count(Counter::IngressToBackend);
    Ok(())
}

/// Write the flow's entries. The one that is found by the next packet is written last.
#[inline(always)]
fn write<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    flow: &mut Flow<A>,
    target: &Target<A>,
) -> bool {
    remember(s, &packet.key, flow, target) && begin(s, packet, flow, target)
}

/// There was no room for them among the established ones after all: write them among the half-open
/// ones, which make some.
#[inline(never)]
fn write_half_open<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    flow: &mut Flow<A>,
    target: &Target<A>,
) -> bool {
    if flow.bits & bits::HALF_OPEN == 0 {
        return false;
    }
    s.close_room();
    take_back(s, &packet.key, flow, target);
    flow.bits &= !bits::HALF_OPEN;
    write(s, packet, flow, target)
}

/// Delete what [`remember`] has written among the established ones.
#[inline(never)]
fn take_back<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    target: &Target<A>,
) {
    flow.address = target.address;
    flow.port = target.port;
    let mut other = flow.reply_key(key);
    s.remove_flow(Table::Established, &other);
    if flow.bits & bits::MASQUERADE != 0 {
        other = other.answer(side::EGRESS);
        s.remove_flow(Table::Established, &other);
    }
}

/// Write the OPEN entry: what it has and the others have not, and the first packet's bytes.
#[inline(never)]
fn begin<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    flow: &mut Flow<A>,
    target: &Target<A>,
) -> bool {
    flow.role = role::OPEN;
    flow.seen = seen::PACKET;
    flow.address = target.address;
    flow.port = target.port;
    flow.backend_or_device = target.id;
    flow.generation_or_ack = target.generation;
    flow.bytes = Count::new(s.network_bytes().into());
    s.put_flow(Table::of_new(flow.bits), &packet.key, flow)
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
    if !s.possible(&answer).egress {
        return true;
    }
    for table in Table::BOTH {
        if let Some(row) = s.flow(table, &answer) {
            let row = row.get();
            // The rest of the key of its OPEN entry is in the answer's.
            // SAFETY: fields of a live row that no longer change. Not a copy of all: the stack.
            let its = unsafe { ((*row).address, (*row).port, (*row).other_port) };
            if its != (key.destination, key.destination_port, key.source_port) {
                return false;
            }
            s.remove_flow(table, &answer);
        }
    }
    true
}

/// Write the flow's entries but OPEN, which [`begin`] makes of what is left in `flow`.
#[inline(never)]
fn remember<A: Answer, S: Frame + Tables<A>>(
    s: &S,
    key: &FlowKey<A>,
    flow: &mut Flow<A>,
    target: &Target<A>,
) -> bool {
    let other_port = flow.other_port;
    flow.address = target.address;
    flow.port = target.port;
    flow.backend_or_device = s.device_index();
    flow.generation_or_ack = 0;
    flow.bytes = Count::ZERO;
    let mut other = flow.reply_key(key);
    flow.role = role::REPLY;
    flow.seen = 0;
    flow.address = key.destination;
    flow.port = key.destination_port;
    flow.other_port = key.source_port;
    let mut written = s.put_flow(Table::of_new(flow.bits), &other, flow);
    if flow.bits & bits::MASQUERADE != 0 {
        other = other.answer(side::EGRESS);
        flow.role = role::MASQ;
        // Volatile, or it becomes a call of memset, whose stack frame is one too many.
        // SAFETY: a live reference.
        unsafe { core::ptr::write_volatile(&raw mut flow.address, A::ZERO) };
        flow.port = Be16::new(0);
        flow.other_port = target.port;
        if s.possible(&other).egress {
            Table::BOTH.into_iter().for_each(|table| s.remove_flow(table, &other));
        }
        written = written && s.put_flow(Table::of_new(flow.bits), &other, flow);
    }
    flow.other_port = other_port;
    written
}

/// No frontend: but a ClusterIP all the same, or in a ServiceCIDR? Also for what is neither TCP,
/// UDP nor SCTP, and for ICMP messages that are no errors of ours.
#[inline(always)]
pub fn no_frontend<A: Answer, S: Frame + Tables<A>>(s: &S, packet: &Packet<A>) -> Verdict {
    match look_closer(s, packet.key.destination) {
        Fate::Reject => reject::reject(s, packet, Counter::RejectedNoPort),
        Fate::Drop(counter) => {
            s.count(counter);
            Verdict::DROP
        }
        _ => pass(s, Counter::IngressPassed),
    }
}

#[inline(never)]
fn look_closer<A: Answer, S: Frame + Tables<A>>(s: &S, address: A) -> Fate {
    let Some(row) = s.node() else { return Fate::Pass };
    if row.flags & node::KNOWN == 0 || is_elsewhere::<A, S>(s) {
        return Fate::Pass;
    }
    let family = S::of_node(row);
    if family.service_hull.contains(address) && s.has_cluster_ip(address) {
        return Fate::Reject;
    }
    if family.service_cidrs.iter().any(|cidr| cidr.contains(address)) {
        return Fate::Drop(Counter::DroppedUnallocated);
    }
    Fate::Pass
}
