//! Packets in the making.

use std::net::{IpAddr, SocketAddr};

use super::{
    DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, IPV4_BYTES, TCP, TCP_CHECKSUM_AT, UDP,
    UDP_CHECKSUM_AT, checksum, octets, pseudo_header,
};

/// Hops a packet may take.
const TTL: u8 = 64;
/// Fragment offsets are counted in units of this many bytes.
const OFFSET_UNIT: usize = 8;
/// "More fragments" in IPv4's and in IPv6's field.
const MORE_V4: u16 = 0x2000;
const MORE_V6: u16 = 1;
/// An IPv6 options header of eight bytes whose only option is padding.
const PADDED_OPTIONS: [u8; 6] = [1, 4, 0, 0, 0, 0];

/// The fields of a TCP header that tests look at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// SYN, ACK, ...
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
}

/// A packet before it has an IP header.
#[derive(Clone, Debug)]
pub struct Draft {
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    /// The transport header and what follows it, checksum included.
    body: Vec<u8>,
    /// IPv4 options, a multiple of four bytes.
    options: Vec<u8>,
    /// IPv6 extension headers by number, each of eight bytes.
    extensions: Vec<u8>,
    /// What fragments are recognised by.
    identification: u32,
}

impl Draft {
    fn new(source: IpAddr, target: IpAddr, protocol: u8, body: Vec<u8>) -> Self {
        let (options, extensions, identification) = (Vec::new(), Vec::new(), 0);
        Draft { source, target, protocol, body, options, extensions, identification }
    }

    /// A datagram.
    pub fn udp(from: SocketAddr, to: SocketAddr, payload: &[u8]) -> Self {
        let length = (8 + payload.len()) as u16;
        let mut body = ports(from, to);
        body.extend(length.to_be_bytes());
        body.extend([0, 0]);
        body.extend(payload);
        let mut draft = Self::new(from.ip(), to.ip(), UDP, body);
        draft.seal(UDP_CHECKSUM_AT);
        draft
    }

    /// A TCP segment without options.
    pub fn tcp(from: SocketAddr, to: SocketAddr, segment: Segment, payload: &[u8]) -> Self {
        let mut body = ports(from, to);
        body.extend(segment.sequence.to_be_bytes());
        body.extend(segment.acknowledged.to_be_bytes());
        // A header of five words, a window that is never full, no urgent data.
        body.extend([5 << 4, segment.flags, 0xfa, 0xf0, 0, 0, 0, 0]);
        body.extend(payload);
        let mut draft = Self::new(from.ip(), to.ip(), TCP, body);
        draft.seal(TCP_CHECKSUM_AT);
        draft
    }

    /// An ICMP error of the addresses' family about the packet it quotes. `rest` is the word
    /// after the checksum: the MTU, or nothing.
    pub fn icmp_error(
        source: IpAddr,
        target: IpAddr,
        (kind, code): (u8, u8),
        rest: u32,
        quoted: &[u8],
    ) -> Self {
        let mut body = vec![kind, code, 0, 0];
        body.extend(rest.to_be_bytes());
        body.extend(quoted);
        let protocol = if source.is_ipv4() { ICMP } else { ICMPV6 };
        let mut draft = Self::new(source, target, protocol, body);
        draft.seal(2);
        draft
    }

    /// Writes the checksum at its place.
    fn seal(&mut self, at: usize) {
        let (source, target, length) = (self.source, self.target, self.body.len());
        let sum = match self.protocol {
            ICMP => checksum(&[&self.body]),
            protocol => checksum(&[&pseudo_header(source, target, protocol, length), &self.body]),
        };
        // Zero would mean that there is none.
        let sum = if sum == 0 { 0xffff } else { sum };
        self.body[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// IPv4 options, padded to whole words with "end of options".
    pub fn options(mut self, bytes: &[u8]) -> Self {
        self.options = bytes.to_vec();
        self.options.resize(bytes.len().next_multiple_of(4), 0);
        self
    }

    /// IPv6 hop-by-hop and destination options, each with padding only.
    pub fn extension_headers(mut self) -> Self {
        self.extensions = vec![HOP_BY_HOP, DESTINATION_OPTIONS];
        self
    }

    /// What its fragments are recognised by.
    pub fn identification(mut self, identification: u32) -> Self {
        self.identification = identification;
        self
    }

    /// Cuts the transport header and payload; the IP header's length will agree.
    pub fn truncated(mut self, bytes: usize) -> Self {
        self.body.truncate(bytes);
        self
    }

    /// The whole packet.
    pub fn packet(&self) -> Vec<u8> {
        self.piece(0, self.body.len(), None)
    }

    /// The packet in fragments with this much of it in each, first to last.
    pub fn fragments(&self, bytes: usize) -> Vec<Vec<u8>> {
        assert!(bytes.is_multiple_of(OFFSET_UNIT), "offsets are multiples of {OFFSET_UNIT}");
        let starts = (0..self.body.len()).step_by(bytes);
        let piece = |start| {
            let end = self.body.len().min(start + bytes);
            self.piece(start, end, Some(end < self.body.len()))
        };
        starts.map(piece).collect()
    }

    /// Bytes `start..end` under an IP header; `more` is given for fragments.
    fn piece(&self, start: usize, end: usize, more: Option<bool>) -> Vec<u8> {
        match self.source {
            IpAddr::V4(_) => self.piece_v4(start, end, more.unwrap_or(false)),
            IpAddr::V6(_) => self.piece_v6(start, end, more),
        }
    }

    fn piece_v4(&self, start: usize, end: usize, more: bool) -> Vec<u8> {
        let header = IPV4_BYTES + self.options.len();
        let total = (header + end - start) as u16;
        let mut packet = vec![0x40 | (header / 4) as u8, 0];
        packet.extend(total.to_be_bytes());
        packet.extend((self.identification as u16).to_be_bytes());
        let offset = (start / OFFSET_UNIT) as u16 | if more { MORE_V4 } else { 0 };
        packet.extend(offset.to_be_bytes());
        packet.extend([TTL, self.protocol, 0, 0]);
        packet.extend(octets(self.source));
        packet.extend(octets(self.target));
        packet.extend(&self.options);
        let sum = checksum(&[&packet]);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet.extend(&self.body[start..end]);
        packet
    }

    fn piece_v6(&self, start: usize, end: usize, more: Option<bool>) -> Vec<u8> {
        let mut chain = self.extensions.clone();
        // The fragment header follows those that every hop reads.
        more.inspect(|_| chain.push(FRAGMENT));
        chain.push(self.protocol);
        let length = (chain.len() - 1) * OFFSET_UNIT + end - start;
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend((length as u16).to_be_bytes());
        packet.extend([chain[0], TTL]);
        packet.extend(octets(self.source));
        packet.extend(octets(self.target));
        for pair in chain.windows(2) {
            packet.push(pair[1]);
            if pair[0] == FRAGMENT {
                let more = if more == Some(true) { MORE_V6 } else { 0 };
                packet.push(0);
                packet.extend((start as u16 | more).to_be_bytes());
                packet.extend(self.identification.to_be_bytes());
            } else {
                packet.push(0);
                packet.extend(PADDED_OPTIONS);
            }
        }
        packet.extend(&self.body[start..end]);
        packet
    }
}

fn ports(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    [from.port().to_be_bytes(), to.port().to_be_bytes()].concat()
}
