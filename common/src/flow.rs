//! Flows: what the packet path remembers of a conversation it translates.
//!
//! A packet is looked up once per hook, by its own five-tuple and the side of the hook. A flow
//! therefore has up to four entries, and each leads to the next:
//!
//! ```text
//! as the client sees it     client:1000  -> vip:80        ingress OPEN   to the backend
//! inside the node           client:1000  -> backend:8080  egress  MASQ   from the node  (1)
//! answer of the backend     backend:8080 -> node:21001    ingress UNMASQ to the client  (1)
//! answer inside the node    backend:8080 -> client:1000   egress  REPLY  from the vip
//!                                                                        (1) masqueraded only
//! ```
//!
//! The OPEN entry is the flow: its state is here, and all the other keys follow from it.

use crate::address::{Address, Be16, V4, V6};
use crate::row::Row;

/// Key of the `flows_*` and `half_open_*` maps: a packet as a hook sees it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowKey<A> {
    /// The packet's source.
    pub source: A,
    /// The packet's destination.
    pub destination: A,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// IANA protocol number.
    pub protocol: u8,
    /// Which hook: see [`side`].
    pub side: u8,
    /// Zero.
    pub pad: u16,
}

/// Values of [`FlowKey::side`].
pub mod side {
    /// A packet that comes in by a device.
    pub const INGRESS: u8 = 0;
    /// A packet that goes out by a device.
    pub const EGRESS: u8 = 1;
}

impl<A: Address> FlowKey<A> {
    /// The same packet's answer, at the given side.
    #[inline(always)]
    pub const fn answer(&self, side: u8) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            side,
            pad: 0,
        }
    }
}

/// Value of the `flows_*` and `half_open_*` maps: what to make of the packet.
///
/// Entries at ingress replace the destination by `address`:`port` and the source port by
/// `other_port`; entries at egress replace the source by `address`:`port` and the destination port
/// by `other_port`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow<A> {
    /// OPEN and REPLY: bytes of this direction's packets, IP headers included, and padding of the
    /// wire they came in by. First in the row, where a map has it aligned: CPUs add to it
    /// atomically.
    pub bytes: Count,
    /// The address that is put in.
    pub address: A,
    /// The port that is put in. In a MASQ entry 0: not chosen yet.
    pub port: Be16,
    /// The other side's port: the one it has, unless two flows would be the same without.
    pub other_port: Be16,
    /// See [`role`].
    pub role: u8,
    /// See [`bits`].
    pub bits: u8,
    /// See [`seen`]. Written by every packet that changes it.
    pub seen: u16,
    /// `CLOCK_MONOTONIC` of the last packet, in seconds. In MASQ and UNMASQ entries that of the
    /// first.
    pub last_used_secs: u32,
    /// `CLOCK_MONOTONIC` of the first packet, in seconds.
    pub since_secs: u32,
    /// The service port, or [`NO_SERVICE`].
    pub service: u32,
    /// OPEN: backend id. REPLY: index of the device the first packet came in by. (One word for
    /// both, as the next: a program has two rows on its stack, which is small.)
    pub backend_or_device: u32,
    /// OPEN: generation of the id. REPLY of a half-open TCP flow: the acknowledgement number that
    /// completes the handshake, host order.
    pub generation_or_ack: u32,
}

/// A 64-bit number in two words. (As one it would align the row, and the rows of one of the two
/// families would have padding.)
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Count([u32; 2]);

impl Count {
    /// Nothing.
    pub const ZERO: Self = Self([0; 2]);

    /// A number.
    #[inline(always)]
    pub const fn new(number: u64) -> Self {
        // SAFETY: of the same size, and every bit pattern is a valid value.
        Self(unsafe { core::mem::transmute::<u64, [u32; 2]>(number) })
    }
    /// The number.
    #[inline(always)]
    pub const fn get(self) -> u64 {
        // SAFETY: as above.
        unsafe { core::mem::transmute::<[u32; 2], u64>(self.0) }
    }
}

/// Values of [`Flow::role`].
pub mod role {
    /// From the client to a frontend, at ingress: lead to the backend.
    pub const OPEN: u8 = 1;
    /// On the way to the backend, at egress: make the node the sender.
    pub const MASQ: u8 = 2;
    /// An answer to the node, at ingress: lead to the client.
    pub const UNMASQ: u8 = 3;
    /// An answer to the client, at egress: make the frontend the sender.
    pub const REPLY: u8 = 4;
}

/// Bits of [`Flow::bits`].
pub mod bits {
    /// The flow is masqueraded: it has MASQ and UNMASQ entries.
    pub const MASQUERADE: u8 = 1 << 0;
    /// It came in by an uplink: answers leave by the same one.
    pub const FROM_UPLINK: u8 = 1 << 1;
    /// In OPEN and REPLY entries of `flows_*`: the flow is not answered yet. The only bit that
    /// changes, once and for all.
    pub const HALF_OPEN: u8 = 1 << 2;
}

/// Bits of [`Flow::seen`]; those of OPEN are the client's, those of REPLY the backend's.
pub mod seen {
    /// A packet of this direction.
    pub const PACKET: u16 = 1 << 0;
    /// TCP FIN, SCTP SHUTDOWN.
    pub const FIN: u16 = 1 << 1;
    /// TCP RST, SCTP ABORT.
    pub const RST: u16 = 1 << 2;
}

// SAFETY: 4 + 4 + 2 + 2 + 1 + 1 + 2 bytes, checked by `_LAYOUT`.
unsafe impl Row for FlowKey<V4> {}
// SAFETY: 16 + 16 + 2 + 2 + 1 + 1 + 2 bytes, checked by `_LAYOUT`.
unsafe impl Row for FlowKey<V6> {}
// SAFETY: 8 + 4 + 2 + 2 + 1 + 1 + 2 bytes and five words, checked by `_LAYOUT`.
unsafe impl Row for Flow<V4> {}
// SAFETY: 8 + 16 + 2 + 2 + 1 + 1 + 2 bytes and five words, checked by `_LAYOUT`.
unsafe impl Row for Flow<V6> {}

impl<A: Address> Flow<A> {
    /// The key of the REPLY entry, given an OPEN entry and its key.
    #[inline(always)]
    pub const fn reply_key(&self, open: &FlowKey<A>) -> FlowKey<A> {
        FlowKey {
            source: self.address,
            destination: open.source,
            source_port: self.port,
            destination_port: self.other_port,
            protocol: open.protocol,
            side: side::EGRESS,
            pad: 0,
        }
    }
    /// The key of the MASQ entry, given an OPEN entry and its key.
    #[inline(always)]
    pub const fn masq_key(&self, open: &FlowKey<A>) -> FlowKey<A> {
        self.reply_key(open).answer(side::EGRESS)
    }
    /// The key of the UNMASQ entry, given a MASQ entry whose port is chosen, and its key.
    #[inline(always)]
    pub const fn unmasq_key(&self, masq: &FlowKey<A>) -> FlowKey<A> {
        FlowKey {
            source: masq.destination,
            destination: self.address,
            source_port: masq.destination_port,
            destination_port: self.port,
            protocol: masq.protocol,
            side: side::INGRESS,
            pad: 0,
        }
    }
    /// The key of the OPEN entry, given a REPLY entry and its key.
    #[inline(always)]
    pub const fn open_key(&self, reply: &FlowKey<A>) -> FlowKey<A> {
        FlowKey {
            source: reply.destination,
            destination: self.address,
            source_port: self.other_port,
            destination_port: self.port,
            protocol: reply.protocol,
            side: side::INGRESS,
            pad: 0,
        }
    }
}

/// [`Flow::service`] of a dialogue that is no Service's, beside a flow that is
/// ([`crate::packet::beside`]): its OPEN entry names no backend's row. Ids of service ports begin
/// at 1.
pub const NO_SERVICE: u32 = 0;

/// A half-open flow is forgotten after this long, in seconds (nf_conntrack: 30 for an unanswered
/// datagram, 60 for an unfinished handshake).
pub const HALF_OPEN_SECS: u32 = 60;
/// A UDP flow is forgotten when idle for this long, in seconds (nf_conntrack's
/// `udp_timeout_stream`).
pub const UDP_IDLE_SECS: u32 = 120;
/// An established TCP or SCTP flow, in seconds: kube-proxy's `conntrack.tcpEstablishedTimeout`.
pub const TCP_IDLE_SECS: u32 = 86_400;
/// A TCP flow that one side has closed, in seconds: kube-proxy's `conntrack.tcpCloseWaitTimeout`.
pub const TCP_CLOSE_WAIT_SECS: u32 = 3_600;
/// A TCP flow that is over, in seconds: late packets still find it.
pub const TCP_OVER_SECS: u32 = 30;

const _LAYOUT: () = {
    assert!(size_of::<FlowKey<V4>>() == 16 && size_of::<FlowKey<V6>>() == 40);
    assert!(size_of::<Flow<V4>>() == 40 && size_of::<Flow<V6>>() == 52);
};
