//! Fragments: the first one is translated like any packet, the others get the address it got. Those
//! that overtook it wait for it, if they go to an address that is ours to translate.

use super::frame::{Frame, Verdict};
use super::network::Family;
use super::rewrite::{Change, now_secs, replace_address};
use super::tables::Tables;
use super::transport::Packet;
use crate::address::Family as Version;
use crate::counters::Counter;
use crate::flow::side;
use crate::fragment::{FRAGMENT_SECS, Fragment, FragmentKey};

/// The first fragment is about to be changed: have the others follow.
#[inline(never)]
pub fn remember<A: Family, S: Frame + Tables<A>>(s: &S, packet: &Packet<A>, change: &Change<A>) {
    let fragment = Fragment { address: change.address, since_secs: now_secs(s) };
    s.set_fragment(&key(packet), &fragment);
}

/// A later fragment: follow the first one.
#[inline(never)]
pub fn follow<A: Family, S: Frame + Tables<A>>(s: &S, packet: &Packet<A>) -> Verdict {
    let fragment = match s.fragment(&key(packet)) {
        Some(found) if now_secs(s).wrapping_sub(found.since_secs) <= FRAGMENT_SECS => found,
        _ if is_ours(s, packet) && s.park(&key(packet)) => {
            s.count(Counter::FragmentParked);
            return Verdict::DROP;
        }
        _ => {
            s.count(Counter::PassedFragment);
            return Verdict::NEXT;
        }
    };
    let (old, offset, counter) = match packet.key.side {
        side::INGRESS => (packet.key.destination, A::DESTINATION_OFFSET, Counter::IngressFragment),
        _ => (packet.key.source, A::SOURCE_OFFSET, Counter::EgressFragment),
    };
    let difference = old.checksum_difference(fragment.address);
    if !replace_address(s, packet.network, offset, &fragment.address, difference) {
        s.count(Counter::DroppedBroken);
        return Verdict::DROP;
    }
    s.count(counter);
    Verdict::NEXT
}

/// The first fragment came in and is dealt with: let those go that overtook it. If it was left as
/// it is, so are they.
#[inline(never)]
pub fn settle<A: Family, S: Frame + Tables<A>>(s: &S, packet: &Packet<A>) {
    if !is_ours(s, packet) {
        return;
    }
    let key = key(packet);
    if s.fragment(&key).is_none() {
        let fragment = Fragment { address: packet.key.destination, since_secs: now_secs(s) };
        s.set_fragment(&key, &fragment);
    }
    s.release(&key);
}

/// Whether an incoming packet's destination is one that we may translate: the node's address or
/// that of a Service.
#[inline(always)]
fn is_ours<A: Family, S: Frame + Tables<A>>(s: &S, packet: &Packet<A>) -> bool {
    let destination = packet.key.destination;
    packet.key.side == side::INGRESS
        && (s.node().is_some_and(|row| S::of_node(row).address == destination)
            || s.has_cluster_ip(destination))
}

/// IPv6 tells datagrams apart without the protocol (RFC 8200 section 4.5), and a later fragment may
/// not show which one it is.
#[inline(always)]
fn key<A: Family>(packet: &Packet<A>) -> FragmentKey<A> {
    FragmentKey {
        source: packet.key.source,
        destination: packet.key.destination,
        id: packet.fragment_id,
        protocol: if matches!(A::FAMILY, Version::V4) { packet.key.protocol } else { 0 },
        side: packet.key.side,
        pad: 0,
    }
}
