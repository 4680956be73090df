//! The transport header: as much of TCP, UDP and SCTP as a flow needs.

use core::mem::MaybeUninit;

use super::frame::Frame;
use super::network::{Family, Part};
use crate::address::{Be16, Protocol};
use crate::counters::Counter;
use crate::flow::{FlowKey, seen};
use crate::row::{Row, zero_in};

/// TCP flag bits (RFC 9293 section 3.1).
pub mod tcp {
    /// No more data from the sender.
    pub const FIN: u8 = 1 << 0;
    /// Opens a connection.
    pub const SYN: u8 = 1 << 1;
    /// Ends one at once.
    pub const RST: u8 = 1 << 2;
    /// The acknowledgement number counts.
    pub const ACK: u8 = 1 << 4;
}

/// A packet's headers. (They are read into place: a large result by value leaves BPF with paths on
/// which it is not initialised.)
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<A> {
    /// Addresses, protocol and, once the transport header is read, ports.
    pub key: FlowKey<A>,
    /// Where the network header begins.
    pub network: u32,
    /// Where the transport header begins.
    pub transport: u32,
    /// Where the packet ends by what it says itself; padding may follow.
    pub end: u32,
    /// Identification, if this is a fragment.
    pub fragment_id: u32,
    /// TCP: sequence number, host order.
    pub sequence: u32,
    /// TCP: acknowledgement number, host order.
    pub acknowledgement: u32,
    /// Whether it is a fragment, and which.
    pub fragment: Part,
    /// TCP: flags; SCTP: type of the first chunk.
    pub flags: u8,
    /// TCP: bytes of its header.
    pub header_bytes: u8,
}

/// The fixed part of a TCP header.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    source: Be16,
    destination: Be16,
    sequence: [u8; 4],
    acknowledgement: [u8; 4],
    offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

/// A UDP header; of an SCTP header, all but the checksum.
#[repr(C)]
#[derive(Clone, Copy)]
struct UdpHeader {
    source: Be16,
    destination: Be16,
    length: Be16,
    checksum: u16,
}

// SAFETY: the twenty bytes of RFC 9293 section 3.1.
unsafe impl Row for TcpHeader {}
// SAFETY: the eight bytes of RFC 768.
unsafe impl Row for UdpHeader {}

/// Bytes of a TCP header without options.
pub const TCP_BYTES: u32 = 20;
/// Bytes of a UDP header.
pub const UDP_BYTES: u32 = 8;
/// Offset of the first chunk's type in an SCTP packet.
const SCTP_CHUNK_OFFSET: u32 = 12;

/// SCTP chunk types (RFC 9260 section 3.2).
const SCTP_INIT: u8 = 1;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN: u8 = 7;

impl<A: Family> Packet<A> {
    /// Nothing read yet, at a hook of that [`side`](crate::flow::side).
    #[inline(always)]
    pub fn at(side: u8, place: &mut MaybeUninit<Self>) -> &mut Self {
        // SAFETY: numbers, and a part that is the whole.
        let packet = unsafe { zero_in(place) };
        packet.key.side = side;
        packet
    }

    /// Read the transport header after the network header, which is read. An error is the reason to
    /// leave the packet alone.
    #[inline(always)]
    pub fn read_transport<F: Frame>(&mut self, frame: &F) -> Result<(), Counter> {
        match self.key.protocol {
            6 => self.read_tcp(frame)?,
            17 | 132 => self.read_datagram(frame)?,
            _ => return Err(Counter::IngressPassed),
        }
        if !F::SWIFT {
            self.forget(frame);
        }
        Ok(())
    }

    /// By which of many ways the verifier got here no longer matters. Swift programs do without for
    /// the packets of a flow.
    #[inline(always)]
    pub fn forget<F: Frame>(&mut self, frame: &F) {
        self.key.protocol = frame.forget(self.key.protocol.into()) as u8;
        self.flags = frame.forget(self.flags.into()) as u8;
        self.header_bytes = frame.forget(self.header_bytes.into()) as u8;
        for number in [
            &mut self.transport,
            &mut self.end,
            &mut self.fragment_id,
            &mut self.sequence,
            &mut self.acknowledgement,
        ] {
            *number = frame.forget(*number);
        }
    }

    #[inline(always)]
    fn read_tcp<F: Frame>(&mut self, frame: &F) -> Result<(), Counter> {
        let Some(header) = frame.load_header::<TcpHeader>(self.transport) else {
            return Err(Counter::PassedMalformed);
        };
        let header_bytes = (header.offset >> 4) * 4;
        if u32::from(header_bytes) < TCP_BYTES
            || self.transport + u32::from(header_bytes) > self.end
        {
            return Err(Counter::PassedMalformed);
        }
        self.key.source_port = header.source;
        self.key.destination_port = header.destination;
        self.sequence = u32::from_be_bytes(header.sequence);
        self.acknowledgement = u32::from_be_bytes(header.acknowledgement);
        self.flags = header.flags;
        self.header_bytes = header_bytes;
        Ok(())
    }

    #[inline(always)]
    fn read_datagram<F: Frame>(&mut self, frame: &F) -> Result<(), Counter> {
        let Some(header) = frame.load_header::<UdpHeader>(self.transport) else {
            return Err(Counter::PassedMalformed);
        };
        let mut bytes = UDP_BYTES;
        if self.key.protocol == Protocol::Sctp as u8 {
            bytes = SCTP_CHUNK_OFFSET + 4;
            let Some(chunk) = frame.load::<u8>(self.transport + SCTP_CHUNK_OFFSET) else {
                return Err(Counter::PassedMalformed);
            };
            self.flags = chunk;
        }
        if self.transport + bytes > self.end {
            return Err(Counter::PassedMalformed);
        }
        self.key.source_port = header.source;
        self.key.destination_port = header.destination;
        Ok(())
    }

    /// Whether it is TCP and has these flags, of which none else of `mask`.
    #[inline(always)]
    pub const fn is_tcp_with(&self, flags: u8, mask: u8) -> bool {
        self.key.protocol == Protocol::Tcp as u8 && self.flags & mask == flags
    }

    /// Whether it begins a flow. TCP and SCTP that begin none are somebody else's: connections that
    /// were there before us.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        match self.key.protocol {
            6 => self.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN,
            132 => self.flags == SCTP_INIT,
            _ => true,
        }
    }

    /// What a flow remembers of it: bits of [`seen`].
    #[inline(always)]
    pub const fn seen(&self) -> u16 {
        let (fin, rst) = match self.key.protocol {
            6 => (self.flags & tcp::FIN != 0, self.flags & tcp::RST != 0),
            132 => (self.flags == SCTP_SHUTDOWN, self.flags == SCTP_ABORT),
            _ => (false, false),
        };
        seen::PACKET | if fin { seen::FIN } else { 0 } | if rst { seen::RST } else { 0 }
    }

    /// Where the checksum is that covers addresses and ports, if there is one.
    #[inline(always)]
    pub const fn checksum_offset(&self) -> Option<u32> {
        match self.key.protocol {
            6 => Some(self.transport + 16),
            17 => Some(self.transport + 6),
            _ => None,
        }
    }

    /// Whether fragments follow it.
    #[inline(always)]
    pub fn is_first_fragment(&self) -> bool {
        self.fragment == Part::First
    }
}
