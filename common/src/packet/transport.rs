//! The transport header: as much of TCP, UDP and SCTP as a flow needs.

use super::frame::Frame;
use super::network::{Family, Network, Part};
use crate::address::{Be16, Protocol};
use crate::counters::Counter;
use crate::flow::{FlowKey, seen};
use crate::row::Row;

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

/// A packet with ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet<A> {
    /// Its network header.
    pub network: Network<A>,
    /// Source port.
    pub source_port: Be16,
    /// Destination port.
    pub destination_port: Be16,
    /// TCP: sequence number, host order.
    pub sequence: u32,
    /// TCP: acknowledgement number, host order.
    pub acknowledgement: u32,
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
    /// Read the transport header after a network header. An error is the reason to leave the packet
    /// alone.
    #[inline(always)]
    pub fn read<F: Frame>(frame: &F, network: Network<A>) -> Result<Self, Counter> {
        match network.protocol {
            6 => Self::tcp(frame, network),
            17 | 132 => Self::datagram(frame, network),
            _ => Err(Counter::IngressPassed),
        }
    }

    #[inline(always)]
    fn tcp<F: Frame>(frame: &F, network: Network<A>) -> Result<Self, Counter> {
        let Some(header) = frame.load::<TcpHeader>(network.transport) else {
            return Err(Counter::PassedMalformed);
        };
        let header_bytes = (header.offset >> 4) * 4;
        if u32::from(header_bytes) < TCP_BYTES || network.transport + TCP_BYTES > network.end {
            return Err(Counter::PassedMalformed);
        }
        Ok(Self {
            network,
            source_port: header.source,
            destination_port: header.destination,
            sequence: u32::from_be_bytes(header.sequence),
            acknowledgement: u32::from_be_bytes(header.acknowledgement),
            flags: header.flags,
            header_bytes,
        })
    }

    #[inline(always)]
    fn datagram<F: Frame>(frame: &F, network: Network<A>) -> Result<Self, Counter> {
        let Some(header) = frame.load::<UdpHeader>(network.transport) else {
            return Err(Counter::PassedMalformed);
        };
        let mut flags = 0;
        let mut bytes = UDP_BYTES;
        if network.protocol == Protocol::Sctp as u8 {
            bytes = SCTP_CHUNK_OFFSET + 4;
            let Some(chunk) = frame.load::<u8>(network.transport + SCTP_CHUNK_OFFSET) else {
                return Err(Counter::PassedMalformed);
            };
            flags = chunk;
        }
        if network.transport + bytes > network.end {
            return Err(Counter::PassedMalformed);
        }
        Ok(Self {
            network,
            source_port: header.source,
            destination_port: header.destination,
            sequence: 0,
            acknowledgement: 0,
            flags,
            header_bytes: 0,
        })
    }

    /// The key it is looked up by.
    #[inline(always)]
    pub const fn key(&self, side: u8) -> FlowKey<A> {
        FlowKey {
            source: self.network.source,
            destination: self.network.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.network.protocol,
            side,
            pad: 0,
        }
    }

    /// Whether it is TCP and has these flags, of which none else of `mask`.
    #[inline(always)]
    pub const fn is_tcp_with(&self, flags: u8, mask: u8) -> bool {
        self.network.protocol == Protocol::Tcp as u8 && self.flags & mask == flags
    }

    /// Whether it begins a flow. TCP and SCTP that begin none are somebody else's: connections that
    /// were there before us.
    #[inline(always)]
    pub const fn opens(&self) -> bool {
        match self.network.protocol {
            6 => self.flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN,
            132 => self.flags == SCTP_INIT,
            _ => true,
        }
    }

    /// What a flow remembers of it: bits of [`seen`].
    #[inline(always)]
    pub const fn seen(&self) -> u16 {
        let (fin, rst) = match self.network.protocol {
            6 => (self.flags & tcp::FIN != 0, self.flags & tcp::RST != 0),
            132 => (self.flags == SCTP_SHUTDOWN, self.flags == SCTP_ABORT),
            _ => (false, false),
        };
        seen::PACKET | if fin { seen::FIN } else { 0 } | if rst { seen::RST } else { 0 }
    }

    /// Where the checksum is that covers addresses and ports, if there is one.
    #[inline(always)]
    pub const fn checksum_offset(&self) -> Option<u32> {
        match self.network.protocol {
            6 => Some(self.network.transport + 16),
            17 => Some(self.network.transport + 6),
            _ => None,
        }
    }

    /// Whether fragments follow it.
    #[inline(always)]
    pub fn is_first_fragment(&self) -> bool {
        self.network.fragment == Part::First
    }
}
