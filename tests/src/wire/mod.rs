//! What no socket sends and no socket sees: packets byte by byte, on a device of the lab.
//!
//! [`Draft`] makes them, [`Seen`] reads them, [`Wire`] sends and captures them.

mod device;
mod draft;
mod offload;
mod seen;

pub use device::{Mac, Wire, hardware_address};
pub use draft::{Draft, Segment};
pub use offload::compute_checksums;
pub use seen::{Icmp, Seen};

/// IP protocol numbers.
pub const ICMP: u8 = 1;
/// TCP.
pub const TCP: u8 = 6;
/// UDP.
pub const UDP: u8 = 17;
/// ICMPv6.
pub const ICMPV6: u8 = 58;
/// IPv6 extension headers: hop-by-hop options, fragment, destination options.
const HOP_BY_HOP: u8 = 0;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

/// Lengths of headers without options, in bytes.
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const TCP_BYTES: usize = 20;
const UDP_BYTES: usize = 8;
const ICMP_BYTES: usize = 8;
/// Where the checksum is in each.
const TCP_CHECKSUM_AT: usize = 16;
const UDP_CHECKSUM_AT: usize = 6;

/// TCP flags.
pub const FIN: u8 = 0x01;
/// Opens a connection.
pub const SYN: u8 = 0x02;
/// Ends it at once.
pub const RST: u8 = 0x04;
/// Asks the receiver not to wait for more.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;

/// One's-complement sum of 16-bit words, an odd last byte padded with zero.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes.chunks(2);
    words.map(|w| u32::from(w[0]) << 8 | u32::from(*w.get(1).unwrap_or(&0))).sum()
}

/// The Internet checksum over several pieces, of which all but the last have even lengths.
fn checksum(pieces: &[&[u8]]) -> u16 {
    let mut total: u32 = pieces.iter().map(|piece| sum(piece)).sum();
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    !(total as u16)
}

/// What TCP, UDP and ICMPv6 put before their own bytes to compute the checksum.
fn pseudo_header(
    source: std::net::IpAddr,
    target: std::net::IpAddr,
    protocol: u8,
    length: usize,
) -> Vec<u8> {
    let mut bytes = octets(source);
    bytes.extend(octets(target));
    bytes.extend((length as u32).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

fn octets(address: std::net::IpAddr) -> Vec<u8> {
    match address {
        std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
        std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_drafted_is_read_back() {
        for (from, to) in [("10.0.0.1:7", "10.0.0.2:80"), ("[fd00::1]:7", "[fd00::2]:80")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let draft = Draft::udp(from, to, b"who");
            let seen = Seen::parse(&draft.packet()).unwrap();
            assert_eq!((seen.from(), seen.to(), seen.protocol), (from, to, UDP));
            assert_eq!(seen.payload, b"who");
            assert_eq!(seen.sound, Some(true));
            let segment = Segment { flags: SYN | ACK, sequence: 7, acknowledged: 9 };
            let mut packet = Draft::tcp(from, to, segment, b"").packet();
            let seen = Seen::parse(&packet).unwrap();
            assert_eq!((seen.segment, seen.sound), (segment, Some(true)));
            let last = packet.len() - 1;
            packet[last] ^= 1;
            assert_eq!(Seen::parse(&packet).unwrap().sound, Some(false));
        }
    }

    #[test]
    fn fragments_carry_the_whole() {
        for (from, to) in [("10.0.0.1:7", "10.0.0.2:80"), ("[fd00::1]:7", "[fd00::2]:80")] {
            let draft = Draft::udp(from.parse().unwrap(), to.parse().unwrap(), &[b'x'; 2000]);
            let pieces = draft.fragments(1000);
            let seen: Vec<Seen> = pieces.iter().filter_map(|p| Seen::parse(p)).collect();
            let places: Vec<_> = seen.iter().map(|piece| piece.fragment).collect();
            assert_eq!(places, [Some((0, true)), Some((1000, true)), Some((2000, false))]);
            assert_eq!(seen[0].to().port(), 80);
            assert_eq!(seen.iter().map(|piece| piece.payload.len()).sum::<usize>(), 2000);
        }
    }

    #[test]
    fn errors_are_read_with_the_packet_they_quote() {
        let (from, to) = ("10.0.0.1:7".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        let quoted = Draft::udp(from, to, b"who").packet();
        let error = Draft::icmp_error(to.ip(), from.ip(), (3, 3), 0, &quoted);
        let seen = Seen::parse(&error.packet()).unwrap();
        let icmp = seen.icmp.unwrap();
        assert_eq!((icmp.kind, icmp.code, seen.sound), (3, 3, Some(true)));
        let inner = icmp.quoted.unwrap();
        assert_eq!((inner.from(), inner.to()), (from, to));
    }
}
