//! Answers that a bridge would carry past the kernel's routing.
//!
//! A pod that was sent to another pod on the same bridge has its packets routed, for it sent them
//! to the gateway; the answers would go straight from port to port. The kernel's connection
//! tracking then sees half a conversation, holds the rest for invalid, and firewalls that drop what
//! is invalid end it. kube-proxy needs `bridge-nf-call-iptables` for that. Here the answer's frame
//! is addressed to the bridge itself, so that it takes the way back that the request came.

use super::frame::{ETHERNET_BYTES, Frame};
use super::network::Family;
use super::tables::{Table, Tables};
use super::transport::Packet;
use crate::flow::{FlowKey, side};
use crate::node::node;

/// Address an answer to the bridge, if it comes in by one of the bridge's ports and goes to
/// another.
#[inline(never)]
pub fn bring_up<A: Family, S: Frame + Tables<A>>(s: &S, packet: &Packet<A>) {
    // Of every answer this is asked, so the node's row is asked before the device's.
    let has_bridge = s.node().is_some_and(|row| row.flags & node::BRIDGED != 0);
    if !has_bridge || s.link_bytes() != ETHERNET_BYTES {
        return;
    }
    let Some(bridge) = s.device().map(|row| row.bridge) else { return };
    if bridge == [0; 6] {
        return;
    }
    let Some(to) = s.load::<[u8; 6]>(0) else { return };
    if to == bridge || to[0] & 1 != 0 {
        return;
    }
    let key = FlowKey { side: side::EGRESS, ..packet.key };
    let is_answer = Table::BOTH.into_iter().any(|table| s.flow(table, &key).is_some());
    if is_answer {
        // If it cannot be written, the bridge carries it as it would have.
        s.store(0, &bridge);
    }
}
