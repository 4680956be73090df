//! Packets, built from what a test wants to say about them. Everything it does not say is valid:
//! lengths, checksums, and a payload that can be told from another.

use std::net::IpAddr;

use super::checksum::{crc32c, internet, pseudo_header, transport};

/// Bytes of an Ethernet header.
pub const ETHERNET: usize = 14;
/// Link layer address of every device that packets come in by.
pub const ADDRESS: [u8; 6] = [0x02, 0, 0, 0, 0, 2];
/// Link layer address of whoever sends.
const NEIGHBOUR: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// Hop limit or time to live of built packets.
const TTL: u8 = 64;
/// Bytes of payload, unless said otherwise.
const DATA_BYTES: usize = 12;
/// The minimum MTU that errors of the kind "too big" speak of.
const ERROR_MTU: u16 = 1280;

/// IANA protocol numbers.
pub mod number {
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMPv6.
    pub const ICMP_V6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// IPv6 extension headers.
pub mod extension {
    /// Hop-by-hop options.
    pub const HOP_BY_HOP: u8 = 0;
    /// Routing.
    pub const ROUTING: u8 = 43;
    /// Fragment.
    pub const FRAGMENT: u8 = 44;
    /// Authentication.
    pub const AUTHENTICATION: u8 = 51;
    /// Destination options.
    pub const DESTINATION: u8 = 60;
}

/// TCP flags.
pub mod tcp {
    /// No more data.
    pub const FIN: u8 = 1;
    /// Synchronise.
    pub const SYN: u8 = 2;
    /// Reset.
    pub const RST: u8 = 4;
    /// Acknowledgement is valid.
    pub const ACK: u8 = 16;
}

/// SCTP chunk types.
pub mod sctp {
    /// Data.
    pub const DATA: u8 = 0;
    /// Opens an association.
    pub const INIT: u8 = 1;
    /// Abort.
    pub const ABORT: u8 = 6;
    /// Shutdown.
    pub const SHUTDOWN: u8 = 7;
}

/// A packet to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Source address.
    pub source: IpAddr,
    /// Destination address; of the same family.
    pub destination: IpAddr,
    /// What it carries.
    pub payload: Payload,
    /// Time to live, hop limit.
    pub ttl: u8,
    /// IPv4: bytes of options, a multiple of four, forty at most.
    pub options: Vec<u8>,
    /// IPv6: extension headers, each of eight bytes (fragment headers: see [`Packet::fragments`]).
    pub extensions: Vec<u8>,
    /// VLAN tag in the frame.
    pub vlan: Option<u16>,
}

/// What a packet carries.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// TCP.
    Tcp(Ports, Tcp),
    /// UDP.
    Udp(Ports, Udp),
    /// SCTP with one chunk of the given type.
    Sctp(Ports, u8),
    /// An echo request, and its identifier.
    Echo(u16),
    /// An ICMP error that quotes an IP packet.
    Error(Error, Vec<u8>),
    /// Anything.
    Raw(u8, Vec<u8>),
}

/// Source and destination port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports(pub u16, pub u16);

/// The part of a TCP header that tests care about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// See [`tcp`].
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Data.
    pub data: Vec<u8>,
}

/// The part of a UDP datagram that tests care about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    /// Only over IPv4 may it be without.
    pub has_checksum: bool,
    /// Data.
    pub data: Vec<u8>,
}

/// ICMP errors, as either family has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// Port unreachable.
    Port,
    /// Host (address) unreachable.
    Host,
    /// Fragmentation needed, packet too big.
    TooBig,
    /// Time to live (hop limit) exceeded.
    Time,
}

impl Packet {
    /// A packet without anything special.
    pub fn new(
        source: impl Into<IpAddr>,
        destination: impl Into<IpAddr>,
        payload: Payload,
    ) -> Self {
        let (source, destination) = (source.into(), destination.into());
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "two families in one packet");
        Self {
            source,
            destination,
            payload,
            ttl: TTL,
            options: Vec::new(),
            extensions: Vec::new(),
            vlan: None,
        }
    }

    /// The Ethernet frame.
    pub fn frame(&self) -> Vec<u8> {
        self.framed(&self.packet())
    }

    /// An IP packet in a frame like this one's.
    pub fn framed(&self, packet: &[u8]) -> Vec<u8> {
        let mut frame = [ADDRESS, NEIGHBOUR].concat();
        if let Some(tag) = self.vlan {
            frame.extend([0x81, 0x00]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend(if self.source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
        frame.extend(packet);
        frame
    }

    /// The IP packet.
    pub fn packet(&self) -> Vec<u8> {
        let (protocol, bytes) = self.transport();
        let mut packet = self.header(protocol, &bytes, None);
        set_checksum(&mut packet, &self.payload);
        packet
    }

    /// The IP packet in fragments whose transport bytes are `bytes` (a multiple of eight) at most.
    pub fn fragments(&self, id: u32, bytes: usize) -> Vec<Vec<u8>> {
        let whole = self.packet();
        let Ok(found) = transport(&whole) else {
            return Vec::new();
        };
        let payload = &whole[found.range];
        let pieces = payload.chunks(bytes).enumerate();
        let packets = pieces.map(|(index, piece)| {
            let more = (index + 1) * bytes < payload.len();
            self.header(found.protocol, piece, Some((id, index * bytes, more)))
        });
        packets.collect()
    }

    /// The IP headers and `bytes`; a fragment's identification, offset and whether more follow.
    fn header(&self, protocol: u8, bytes: &[u8], fragment: Option<(u32, usize, bool)>) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let (id, offset, more) = fragment.unwrap_or((0x1234, 0, false));
                let length = 20 + self.options.len();
                let total = (length + bytes.len()) as u16;
                let word = (offset / 8) as u16 | if more { 0x2000 } else { 0 };
                let mut packet = vec![0x40 | (length / 4) as u8, 0];
                packet.extend(total.to_be_bytes());
                packet.extend((id as u16).to_be_bytes());
                packet.extend(word.to_be_bytes());
                packet.extend([self.ttl, protocol, 0, 0]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                packet.extend(&self.options);
                let sum = internet(&[&packet]);
                packet[10..12].copy_from_slice(&sum.to_be_bytes());
                packet.extend(bytes);
                packet
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut chain = self.extensions.clone();
                if fragment.is_some() {
                    chain.push(extension::FRAGMENT);
                }
                let mut packet = vec![0x60, 0, 0, 0];
                packet.extend(((chain.len() * 8 + bytes.len()) as u16).to_be_bytes());
                packet.extend([chain.first().copied().unwrap_or(protocol), self.ttl]);
                packet.extend(source.octets());
                packet.extend(destination.octets());
                for (index, kind) in chain.iter().enumerate() {
                    let next = chain.get(index + 1).copied().unwrap_or(protocol);
                    packet.extend(extension_header(*kind, next, fragment));
                }
                packet.extend(bytes);
                packet
            }
            _ => Vec::new(),
        }
    }

    /// The transport's protocol and bytes, checksums not yet computed.
    fn transport(&self) -> (u8, Vec<u8>) {
        let is_v4 = self.source.is_ipv4();
        let icmp = if is_v4 { number::ICMP } else { number::ICMP_V6 };
        match &self.payload {
            Payload::Tcp(ports, header) => (number::TCP, header.bytes(*ports)),
            Payload::Udp(ports, Udp { data, .. }) => {
                let mut bytes = ports.bytes();
                bytes.extend(((8 + data.len()) as u16).to_be_bytes());
                bytes.extend([0, 0]);
                bytes.extend(data);
                (number::UDP, bytes)
            }
            Payload::Sctp(ports, chunk) => {
                let mut bytes = ports.bytes();
                bytes.extend([0xaa, 0xbb, 0xcc, 0xdd, 0, 0, 0, 0]);
                bytes.extend([*chunk, 0, 0, 20]);
                bytes.extend([7; 16]);
                (number::SCTP, bytes)
            }
            Payload::Echo(id) => {
                let mut bytes = vec![if is_v4 { 8 } else { 128 }, 0, 0, 0];
                bytes.extend(id.to_be_bytes());
                bytes.extend([0, 1]);
                bytes.extend([7; DATA_BYTES]);
                (icmp, bytes)
            }
            Payload::Error(error, quoted) => {
                let mut bytes = error.header(is_v4);
                bytes.extend(quoted);
                (icmp, bytes)
            }
            Payload::Raw(protocol, bytes) => (*protocol, bytes.clone()),
        }
    }

    /// An error about this packet from `router`, which quotes `bytes` bytes of it.
    pub fn error(&self, router: IpAddr, error: Error, bytes: usize) -> Self {
        let mut quoted = self.packet();
        quoted.truncate(bytes);
        Self::new(router, self.source, Payload::Error(error, quoted))
    }
}

/// An IPv6 extension header of eight bytes.
fn extension_header(kind: u8, next: u8, fragment: Option<(u32, usize, bool)>) -> [u8; 8] {
    let mut header = [next, 0, 0, 0, 0, 0, 0, 0];
    match (kind, fragment) {
        (extension::FRAGMENT, Some((id, offset, more))) => {
            let word = offset as u16 | u16::from(more);
            header[2..4].copy_from_slice(&word.to_be_bytes());
            header[4..8].copy_from_slice(&id.to_be_bytes());
        }
        // An atomic fragment: all zero.
        (extension::FRAGMENT, None) => {}
        // Its length counts words of four bytes, and two of them do not count.
        (extension::AUTHENTICATION, _) => {}
        // Routing type 4 with no segments left means nothing.
        (extension::ROUTING, _) => header[2] = 4,
        // PadN over the rest.
        _ => header[2..4].copy_from_slice(&[1, 4]),
    }
    header
}

/// Compute the transport's checksum in a finished packet.
fn set_checksum(packet: &mut [u8], payload: &Payload) {
    let Ok(found) = transport(packet) else {
        return;
    };
    let pseudo = pseudo_header(packet, &found);
    let start = found.range.start;
    let bytes = &mut packet[found.range];
    debug_assert!(start >= 20, "behind a header");
    let (at, sum) = match payload {
        Payload::Tcp(..) => (16, internet(&[&pseudo, bytes])),
        Payload::Udp(_, Udp { has_checksum: true, .. }) => match internet(&[&pseudo, bytes]) {
            0 => (6, 0xffff),
            sum => (6, sum),
        },
        Payload::Echo(_) | Payload::Error(..) if pseudo.len() > 16 => {
            (2, internet(&[&pseudo, bytes]))
        }
        Payload::Echo(_) | Payload::Error(..) => (2, internet(&[bytes])),
        Payload::Sctp(..) => {
            let crc = crc32c(bytes);
            bytes[8..12].copy_from_slice(&crc.to_le_bytes());
            return;
        }
        Payload::Udp(..) | Payload::Raw(..) => return,
    };
    bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
}

impl Payload {
    /// A TCP segment: flags, and numbers that go with nothing in particular.
    pub fn tcp(source: u16, destination: u16, flags: u8) -> Self {
        Self::segment(source, destination, flags, 1000, 0)
    }

    /// A TCP segment with its numbers. Only those without SYN carry data.
    pub fn segment(
        source: u16,
        destination: u16,
        flags: u8,
        sequence: u32,
        acknowledgement: u32,
    ) -> Self {
        let bytes = if flags & (tcp::SYN | tcp::RST) == 0 { DATA_BYTES } else { 0 };
        let header = Tcp { flags, sequence, acknowledgement, data: vec![7; bytes] };
        Self::Tcp(Ports(source, destination), header)
    }

    /// A UDP datagram.
    pub fn udp(source: u16, destination: u16) -> Self {
        let udp = Udp { has_checksum: true, data: vec![7; DATA_BYTES] };
        Self::Udp(Ports(source, destination), udp)
    }

    /// A UDP datagram of a size.
    pub fn udp_of(source: u16, destination: u16, bytes: usize) -> Self {
        let data = (0..bytes).map(|index| index as u8).collect();
        Self::Udp(Ports(source, destination), Udp { has_checksum: true, data })
    }
}

impl Ports {
    fn bytes(self) -> Vec<u8> {
        [self.0.to_be_bytes(), self.1.to_be_bytes()].concat()
    }
}

impl Tcp {
    fn bytes(&self, ports: Ports) -> Vec<u8> {
        let mut bytes = ports.bytes();
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(self.acknowledgement.to_be_bytes());
        bytes.extend([5 << 4, self.flags, 0x20, 0, 0, 0, 0, 0]);
        bytes.extend(&self.data);
        bytes
    }
}

impl Error {
    /// The first eight bytes, without a checksum.
    fn header(self, is_v4: bool) -> Vec<u8> {
        let (kind, code) = match (self, is_v4) {
            (Self::Port, true) => (3, 3),
            (Self::Host, true) => (3, 1),
            (Self::TooBig, true) => (3, 4),
            (Self::Time, true) => (11, 0),
            (Self::Port, false) => (1, 4),
            (Self::Host, false) => (1, 3),
            (Self::TooBig, false) => (2, 0),
            (Self::Time, false) => (3, 0),
        };
        let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
        if self == Self::TooBig {
            bytes[6..8].copy_from_slice(&ERROR_MTU.to_be_bytes());
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::super::checksum::{are_valid, check_frame, check_packet};
    use super::super::cluster::twin;
    use super::*;

    fn addresses() -> [(IpAddr, IpAddr); 2] {
        let (a, b) = ([10, 0, 0, 1].into(), [10, 96, 0, 10].into());
        [(IpAddr::V4(a), IpAddr::V4(b)), (twin(a).into(), twin(b).into())]
    }

    fn payloads(quoted: Vec<u8>) -> Vec<Payload> {
        vec![
            Payload::tcp(1000, 80, tcp::SYN),
            Payload::tcp(1000, 80, tcp::ACK),
            Payload::udp(1000, 53),
            Payload::udp_of(1000, 53, 1001),
            Payload::Sctp(Ports(1, 2), sctp::INIT),
            Payload::Echo(7),
            Payload::Error(Error::TooBig, quoted.clone()),
            Payload::Error(Error::Time, quoted),
        ]
    }

    #[test]
    fn built_packets_are_valid_and_one_flipped_bit_is_seen() {
        for (source, destination) in addresses() {
            let quoted = Packet::new(destination, source, Payload::udp(53, 1000)).packet();
            for payload in payloads(quoted) {
                let mut packet = Packet::new(source, destination, payload);
                packet.options = vec![1; 8];
                packet.extensions = vec![extension::HOP_BY_HOP, extension::DESTINATION];
                let mut frame = packet.frame();
                check_frame(&frame).unwrap();
                let last = frame.len() - 1;
                frame[last] ^= 1;
                assert!(!are_valid(&frame), "{packet:?}");
            }
        }
    }

    #[test]
    fn fragments_together_are_the_datagram() {
        for (source, destination) in addresses() {
            let packet = Packet::new(source, destination, Payload::udp_of(1, 2, 100));
            let whole = packet.packet();
            let fragments = packet.fragments(9, 40);
            assert_eq!(fragments.len(), 3);
            let joined: Vec<u8> = fragments
                .iter()
                .flat_map(|fragment| {
                    check_packet(fragment).unwrap();
                    let found = transport(fragment).unwrap();
                    assert!(found.is_fragment);
                    fragment[found.range].to_vec()
                })
                .collect();
            assert_eq!(joined, whole[transport(&whole).unwrap().range]);
        }
    }
}
