//! Packets as they were captured.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{
    DESTINATION_OPTIONS, FRAGMENT, HOP_BY_HOP, ICMP, ICMP_BYTES, ICMPV6, IPV4_BYTES, IPV6_BYTES,
    Segment, TCP, TCP_BYTES, UDP, UDP_BYTES, checksum, pseudo_header,
};

/// ICMP messages that quote a packet: unreachable, time exceeded, parameter problem.
const ERRORS_V4: [u8; 3] = [3, 11, 12];
/// ICMPv6: unreachable, too big, time exceeded, parameter problem.
const ERRORS_V6: [u8; 4] = [1, 2, 3, 4];

/// How much of a payload a person is shown.
const SHOWN_BYTES: usize = 32;

/// A captured IP packet.
#[derive(Clone, PartialEq, Eq)]
pub struct Seen {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub target: IpAddr,
    /// What is inside, behind all extension headers.
    pub protocol: u8,
    /// Source and destination port; zero where there is none.
    pub ports: (u16, u16),
    /// Of TCP.
    pub segment: Segment,
    /// Of a fragment: offset in bytes, and whether more follow.
    pub fragment: Option<(usize, bool)>,
    /// Of ICMP.
    pub icmp: Option<Icmp>,
    /// What follows the transport header; of later fragments, all.
    pub payload: Vec<u8>,
    /// Whether the transport checksum is right; none: not all of it is here, or a device computes
    /// it later.
    pub sound: Option<bool>,
    /// Whether it left by the device rather than arrived.
    pub outgoing: bool,
}

/// One line, as tcpdump's: a failed test shows many.
impl fmt::Debug for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let way = if self.outgoing { "out" } else { "in" };
        write!(f, "{way} {} > {} protocol {}", self.from(), self.to(), self.protocol)?;
        if self.protocol == TCP {
            let Segment { flags, sequence, acknowledged } = self.segment;
            write!(f, " flags {flags:#04x} seq {sequence} ack {acknowledged}")?;
        }
        if let Some((offset, more)) = self.fragment {
            write!(f, " fragment at {offset}, more {more}")?;
        }
        let shown = &self.payload[..self.payload.len().min(SHOWN_BYTES)];
        match &self.icmp {
            Some(icmp) => write!(f, " type {} {} [{:?}]", icmp.kind, icmp.code, icmp.quoted)?,
            None => {
                write!(f, " {} bytes {:?}", self.payload.len(), shown.escape_ascii().to_string())?
            }
        }
        self.sound.map_or(Ok(()), |sound| f.write_str(if sound { "" } else { " BAD CHECKSUM" }))
    }
}

/// An ICMP or ICMPv6 message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The packet an error is about, as far as it is quoted.
    pub quoted: Option<Box<Seen>>,
}

impl Seen {
    /// Source address and port.
    pub fn from(&self) -> SocketAddr {
        SocketAddr::new(self.source, self.ports.0)
    }

    /// Destination address and port.
    pub fn to(&self) -> SocketAddr {
        SocketAddr::new(self.target, self.ports.1)
    }

    /// Whether all of these TCP flags are set.
    pub fn has(&self, flags: u8) -> bool {
        self.protocol == TCP && self.segment.flags & flags == flags
    }

    /// Type and code of the ICMP message it is.
    pub fn icmp_kind(&self) -> Option<(u8, u8)> {
        self.icmp.as_ref().map(|icmp| (icmp.kind, icmp.code))
    }

    /// The packet that an ICMP error is about.
    pub fn quoted(&self) -> Option<&Seen> {
        self.icmp.as_ref()?.quoted.as_deref()
    }

    /// Reads an IP packet; none if it is not one.
    pub fn parse(packet: &[u8]) -> Option<Seen> {
        match packet.first()? >> 4 {
            4 => parse_v4(packet),
            6 => parse_v6(packet),
            _ => None,
        }
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn parse_v4(packet: &[u8]) -> Option<Seen> {
    let header = usize::from(packet[0] & 0xf) * 4;
    let total = usize::from(word(packet, 2)?);
    let field = word(packet, 6)?;
    let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(long(packet, at)?)));
    let (source, target) = (address(12)?, address(16)?);
    let (offset, more) = (usize::from(field & 0x1fff) * 8, field & 0x2000 != 0);
    let fragment = (offset > 0 || more).then_some((offset, more));
    // The quotation in an ICMP error ends early; a frame may have padding.
    let body = packet.get(header.max(IPV4_BYTES)..packet.len().min(total))?;
    let whole = packet.len() >= total;
    Some(transport(source, target, *packet.get(9)?, fragment, body, whole))
}

fn parse_v6(packet: &[u8]) -> Option<Seen> {
    let address = |at: usize| {
        let octets: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(IpAddr::V6(Ipv6Addr::from(octets)))
    };
    let (source, target) = (address(8)?, address(24)?);
    let total = IPV6_BYTES + usize::from(word(packet, 4)?);
    let whole = packet.len() >= total;
    let mut body = packet.get(IPV6_BYTES..packet.len().min(total))?;
    let mut protocol = *packet.get(6)?;
    let mut fragment = None;
    while [HOP_BY_HOP, FRAGMENT, DESTINATION_OPTIONS].contains(&protocol) {
        let mut length = 8;
        if protocol == FRAGMENT {
            let field = word(body, 2)?;
            fragment = Some((usize::from(field & !7), field & 1 != 0));
        } else {
            length += usize::from(*body.get(1)?) * 8;
        }
        protocol = *body.first()?;
        body = body.get(length..)?;
        if fragment.is_some_and(|(offset, _)| offset > 0) {
            break;
        }
    }
    Some(transport(source, target, protocol, fragment, body, whole))
}

fn transport(
    source: IpAddr,
    target: IpAddr,
    protocol: u8,
    fragment: Option<(usize, bool)>,
    body: &[u8],
    whole: bool,
) -> Seen {
    let mut seen = Seen {
        source,
        target,
        protocol,
        ports: (0, 0),
        segment: Segment::default(),
        fragment,
        icmp: None,
        payload: Vec::new(),
        sound: None,
        outgoing: false,
    };
    let later = fragment.is_some_and(|(offset, _)| offset > 0);
    let header = match protocol {
        _ if later => 0,
        TCP => body.get(12).map_or(TCP_BYTES, |offset| usize::from(offset >> 4) * 4),
        UDP => UDP_BYTES,
        ICMP | ICMPV6 => ICMP_BYTES,
        _ => 0,
    };
    seen.payload = body.get(header..).unwrap_or_default().to_vec();
    if later {
        return seen;
    }
    if let (TCP | UDP, Some(from), Some(to)) = (protocol, word(body, 0), word(body, 2)) {
        seen.ports = (from, to);
    }
    if let (TCP, Some(&flags)) = (protocol, body.get(13)) {
        let [sequence, acknowledged] = [4, 8].map(|at| long(body, at).unwrap_or_default());
        seen.segment = Segment { flags, sequence, acknowledged };
    }
    if let (ICMP | ICMPV6, [kind, code, ..]) = (protocol, body) {
        let errors = if protocol == ICMP { &ERRORS_V4[..] } else { &ERRORS_V6[..] };
        let quoted = errors.contains(kind).then(|| Seen::parse(&seen.payload)).flatten();
        seen.icmp = Some(Icmp { kind: *kind, code: *code, quoted: quoted.map(Box::new) });
    }
    if whole && fragment.is_none() {
        let pseudo = match protocol {
            TCP | UDP | ICMPV6 => Some(pseudo_header(source, target, protocol, body.len())),
            ICMP => Some(Vec::new()),
            _ => None,
        };
        seen.sound = pseudo.map(|pseudo| checksum(&[&pseudo, body]) == 0);
    }
    seen
}
