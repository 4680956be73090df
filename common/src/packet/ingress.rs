//! A packet comes in by a device: to the backend, if it goes to a frontend; to the client, if it
//! answers what the node sent in the client's place.

use core::mem::MaybeUninit;

use super::bridged;
use super::frame::{Frame, Verdict};
use super::network::{Family, Part};
use super::reject;
use super::rewrite::{Change, now_secs, rewrite};
use super::tables::{Shared, Table, Tables};
use super::transport::Packet;
use super::{errors, establish, fragments, open};
use crate::address::Protocol;
use crate::backend::state;
use crate::counters::Counter;
use crate::flow::{Flow, HALF_OPEN_SECS, NO_SERVICE, UDP_IDLE_SECS, bits, role, seen, side};

/// Translate an incoming packet.
#[inline(never)]
pub fn ingress<A: reject::Answer, S: Frame + Tables<A>>(s: &S) -> Verdict {
    let mut place = MaybeUninit::uninit();
    let packet = Packet::at(side::INGRESS, &mut place);
    if let Err(reason) = A::read(s, s.link_bytes(), false, packet) {
        return pass(s, reason);
    }
    if packet.fragment == Part::Later {
        return fragments::follow(s, packet);
    }
    if packet.key.protocol == A::ICMP {
        packet.forget(s);
        let verdict = errors::translate(s, packet);
        return if verdict == Verdict::NONE { open::no_frontend(s, packet) } else { verdict };
    }
    let verdict = transport(s, packet);
    if packet.fragment == Part::First && verdict == Verdict::NEXT {
        fragments::settle(s, packet);
    }
    verdict
}

/// Translate a packet with a transport header.
#[inline(always)]
fn transport<A: reject::Answer, S: Frame + Tables<A>>(s: &S, packet: &mut Packet<A>) -> Verdict {
    match packet.read_transport(s) {
        Ok(()) => {}
        Err(Counter::IngressPassed) => return open::no_frontend(s, packet),
        Err(reason) => return pass(s, reason),
    }
    let possible = s.possible(&packet.key);
    if possible.ingress
        && let Some(verdict) = of_flow(s, packet)
    {
        return verdict;
    }
    if !packet.opens() {
        if possible.egress && packet.key.protocol == Protocol::Tcp as u8 {
            bridged::bring_up(s, packet);
        }
        return pass(s, Counter::IngressPassed);
    }
    if S::SWIFT {
        packet.forget(s);
    }
    open::open(s, packet)
}

/// What becomes of a flow's packet; nothing: it is of none, or the flow is over.
#[inline(always)]
fn of_flow<A: Family, S: Frame + Tables<A>>(s: &S, packet: &Packet<A>) -> Option<Verdict> {
    for table in Table::BOTH {
        let Some(row) = s.flow(table, &packet.key) else { continue };
        let is_whole = !is_half_open(table, row) || establish::is_whole(s, table, packet, row);
        let verdict = if is_whole { known(s, table, packet, row) } else { Verdict::NONE };
        if verdict == Verdict::NONE {
            establish::forget(s, &packet.key, row);
            continue;
        }
        // Asked anew: the answer would take room on the stack.
        if verdict == Verdict::NEXT && is_half_open(table, row) {
            establish::establish(s, table, packet, row);
        }
        return Some(verdict);
    }
    None
}

/// Whether the entry is of a flow that is not answered yet.
#[inline(always)]
fn is_half_open<A: Family>(table: Table, row: &Shared<Flow<A>>) -> bool {
    // SAFETY: a byte of a live row.
    table.is_half_open(unsafe { core::ptr::read_volatile(&raw const (*row.get()).bits) })
}

/// Leave the packet alone.
#[inline(always)]
pub fn pass<A: Family, S: Frame + Tables<A>>(s: &S, reason: Counter) -> Verdict {
    s.count(reason);
    Verdict::NEXT
}

/// A packet of a flow; none if the flow is over and this one begins another.
#[inline(never)]
fn known<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    packet: &Packet<A>,
    row: &Shared<Flow<A>>,
) -> Verdict {
    let flow = snapshot(row);
    let mut counter = Counter::IngressToClient;
    if flow.role != role::UNMASQ {
        let now = now_secs(s);
        if is_over(s, table, packet, &flow, now) {
            return Verdict::NONE;
        }
        touch(row, &flow, now, packet.seen());
        s.add_bytes(row, s.network_bytes());
        counter = Counter::IngressToBackend;
    }
    finish(s, packet, &Change::of(&flow), counter)
}

/// Whether the flow is over for this packet: the backend of a UDP flow is gone, or both sides were
/// silent for too long; or a connection begins anew with the ports of one that was closed, or whose
/// backend is gone.
#[inline(always)]
fn is_over<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    packet: &Packet<A>,
    flow: &Flow<A>,
    now: u32,
) -> bool {
    if !packet.opens() {
        return false;
    }
    if is_gone(s, flow) {
        return true;
    }
    let idle = idle_secs(flow.last_used_secs, now);
    if packet.key.protocol == Protocol::Udp as u8 {
        return idle > UDP_IDLE_SECS
            && idle_secs(answer(s, table, packet, flow).last_used_secs, now) > UDP_IDLE_SECS;
    }
    let is_stale = table.is_half_open(flow.bits) && idle > HALF_OPEN_SECS;
    let saw = flow.seen | answer(s, table, packet, flow).seen;
    is_stale || saw & (seen::FIN | seen::RST) != 0
}

/// What the backend's side of a flow has seen.
struct Answer {
    last_used_secs: u32,
    seen: u16,
}

#[inline(always)]
fn answer<A: Family, S: Frame + Tables<A>>(
    s: &S,
    table: Table,
    packet: &Packet<A>,
    flow: &Flow<A>,
) -> Answer {
    let Some(row) = s.flow(table, &flow.reply_key(&packet.key)) else {
        return Answer { last_used_secs: flow.last_used_secs, seen: 0 };
    };
    let row = row.get();
    // SAFETY: aligned fields of a live row.
    unsafe {
        Answer {
            last_used_secs: core::ptr::read_volatile(&raw const (*row).last_used_secs),
            seen: core::ptr::read_volatile(&raw const (*row).seen),
        }
    }
}

/// Whether the backend is gone: it neither takes nor keeps flows. (A dialogue beside a flow goes on
/// whatever becomes of the Service.)
#[inline(always)]
fn is_gone<A: Family, S: Frame + Tables<A>>(s: &S, flow: &Flow<A>) -> bool {
    if flow.service == NO_SERVICE {
        return false;
    }
    let kept = state::CLUSTER | state::LOCAL | state::SERVING;
    let row = s.backend(flow.backend_or_device);
    let gone = !row.is_some_and(|backend| backend.is_usable(flow.generation_or_ack, kept));
    if gone {
        s.count(Counter::FlowRepicked);
    }
    gone
}

/// Seconds since `last`. Another CPU's second may be a little ahead of ours.
#[inline(always)]
const fn idle_secs(last: u32, now: u32) -> u32 {
    let idle = now.wrapping_sub(last);
    if idle > u32::MAX / 2 { 0 } else { idle }
}

/// Change the packet and count it.
#[inline(always)]
pub fn finish<A: Family, S: Frame + Tables<A>>(
    s: &S,
    packet: &Packet<A>,
    change: &Change<A>,
    counter: Counter,
) -> Verdict {
    if !rewrite(s, packet, change) {
        s.count(Counter::DroppedBroken);
        return Verdict::DROP;
    }
    s.count(counter);
    Verdict::NEXT
}

/// A copy of an entry. Its changing fields may be a moment old.
#[inline(always)]
pub fn snapshot<A: Family>(row: &Shared<Flow<A>>) -> Flow<A> {
    // SAFETY: a row of a map, or of a test's collection, that stays readable until the program
    // ends.
    unsafe { *row.get() }
}

/// Note that a packet came. A row that stays as it is is not written: its cache line stays shared.
#[inline(always)]
pub fn touch<A: Family>(row: &Shared<Flow<A>>, known: &Flow<A>, now: u32, saw: u16) {
    let row = row.get();
    if known.last_used_secs != now {
        // SAFETY: an aligned word of a live row; two writers write nearly the same.
        unsafe { core::ptr::write_volatile(&raw mut (*row).last_used_secs, now) };
    }
    if known.seen & saw != saw {
        // SAFETY: an aligned half-word of a live row. A bit that two writers set at once may be
        // lost, and is set again by the next packet or made up for by idle time.
        unsafe { core::ptr::write_volatile(&raw mut (*row).seen, known.seen | saw) };
    }
}

/// Whether an entry's packets go by the uplink its first one came in by.
#[inline(always)]
pub const fn is_from_uplink<A>(flow: &Flow<A>) -> bool {
    flow.bits & bits::FROM_UPLINK != 0
}

/// Count what became of an ICMP error.
#[inline(always)]
pub fn finish_error<A: Family, S: Frame + Tables<A>>(
    s: &S,
    changed: bool,
    side_of_hook: u8,
) -> Verdict {
    if !changed {
        s.count(Counter::DroppedBroken);
        return Verdict::DROP;
    }
    let ingress = side_of_hook == side::INGRESS;
    s.count(if ingress { Counter::IngressError } else { Counter::EgressError });
    Verdict::NEXT
}
