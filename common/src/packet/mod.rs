//! The packet path: Services for every client whose sockets we do not see.
//!
//! The story of a packet that comes in: its [`network`] and [`transport`] headers are read; in
//! [`ingress`] it is found to belong to a flow, or to begin one ([`open`]), or to be none of ours;
//! it gets another destination ([`rewrite`]), or is turned down ([`reject`]). When it goes out,
//! [`egress`] gives answers the frontend's address back, and [`masquerade`] gives packets whose
//! answers must come back here the node's. A flow that was answered is [`establish`]ed. A dialogue
//! [`beside`] it, from the same port to the same backend, becomes one too. Answers that are
//! [`bridged`] are brought up to the kernel's routing, [`fragments`] follow their first one, and
//! ICMP [`errors`] the packet they quote.
//!
//! [`frame`] and [`tables`] are what all this needs of its surroundings: in the kernel helpers and
//! BPF maps (`ebpf/src/packet`), in tests a buffer and ordinary collections.

pub mod beside;
pub mod bridged;
pub mod egress;
pub mod errors;
pub mod establish;
pub mod fragments;
pub mod frame;
pub mod ingress;
pub mod masquerade;
pub mod network;
pub mod open;
pub mod reject;
pub mod rewrite;
pub mod tables;
pub mod transport;

use self::frame::{ETHERTYPE_V4, ETHERTYPE_V6, Frame, Verdict};
use self::tables::Tables;
use crate::address::{V4, V6};
use crate::counters::Counter;

/// A packet comes in by a device.
#[inline(always)]
pub fn comes_in<S: Frame + Tables<V4> + Tables<V6>>(s: &S) -> Verdict {
    match s.ethertype() {
        ETHERTYPE_V4 => ingress::ingress::<V4, S>(s),
        ETHERTYPE_V6 => ingress::ingress::<V6, S>(s),
        _ => ingress::pass::<V4, S>(s, Counter::PassedNotIp),
    }
}

/// A packet goes out by a device.
#[inline(always)]
pub fn goes_out<S: Frame + Tables<V4> + Tables<V6>>(s: &S) -> Verdict {
    match s.ethertype() {
        ETHERTYPE_V4 => egress::egress::<V4, S>(s),
        ETHERTYPE_V6 => egress::egress::<V6, S>(s),
        _ => ingress::pass::<V4, S>(s, Counter::PassedNotIp),
    }
}
