//! Fragments: the first one is translated like any packet, the others get the address it got.

use super::frame::{Frame, Verdict};
use super::network::{Family, Network};
use super::rewrite::{Change, now_secs, replace_address};
use super::tables::Tables;
use crate::address::Family as Version;
use crate::counters::Counter;
use crate::flow::side;
use crate::fragment::{FRAGMENT_SECS, Fragment, FragmentKey};

/// The first fragment is about to be changed: have the others follow.
#[inline(never)]
pub fn remember<A: Family, S: Frame + Tables<A>>(s: &S, network: &Network<A>, change: &Change<A>) {
    let fragment = Fragment { address: change.address, since_secs: now_secs(s) };
    s.set_fragment(&key(network, change.side), &fragment);
}

/// A later fragment: follow the first one.
#[inline(never)]
pub fn follow<A: Family, S: Frame + Tables<A>>(
    s: &S,
    network: &Network<A>,
    side_of_hook: u8,
) -> Verdict {
    let fragment = match s.fragment(&key(network, side_of_hook)) {
        Some(found) if now_secs(s).wrapping_sub(found.since_secs) <= FRAGMENT_SECS => found,
        _ => {
            s.count(Counter::PassedFragment);
            return Verdict::Next;
        }
    };
    let (old, offset, counter) = match side_of_hook {
        side::INGRESS => (network.destination, A::DESTINATION_OFFSET, Counter::IngressFragment),
        _ => (network.source, A::SOURCE_OFFSET, Counter::EgressFragment),
    };
    let difference = old.checksum_difference(fragment.address);
    if !replace_address(s, network.offset, offset, &fragment.address, difference) {
        s.count(Counter::DroppedBroken);
        return Verdict::Drop;
    }
    s.count(counter);
    Verdict::Next
}

/// IPv6 tells datagrams apart without the protocol (RFC 8200 section 4.5), and a later fragment may
/// not show which one it is.
#[inline(always)]
fn key<A: Family>(network: &Network<A>, side: u8) -> FragmentKey<A> {
    FragmentKey {
        source: network.source,
        destination: network.destination,
        id: network.fragment_id,
        protocol: if matches!(A::FAMILY, Version::V4) { network.protocol } else { 0 },
        side,
        pad: 0,
    }
}
