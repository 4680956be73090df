//! Checksums in full: to make packets with, and to judge those that were changed by differences.

use std::ops::Range;

use anyhow::{Context as _, Result, bail, ensure};

use super::build::{ETHERNET, extension, number};

/// Most extension headers that are followed.
const EXTENSIONS_MAX: usize = 16;
/// Bytes of an IPv6 header.
const HEADER_BYTES_V6: usize = 40;

/// The Internet checksum (RFC 1071) of `parts`, as if they stood one after the other. All but the
/// last have even lengths.
pub fn internet(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u64;
    for part in parts {
        for word in part.chunks(2) {
            let low = word.get(1).copied().unwrap_or(0);
            sum += u64::from(u16::from_be_bytes([word[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// CRC32c (RFC 9260, appendix A), as SCTP has it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    const POLYNOMIAL_REVERSED: u32 = 0x82f6_3b78;
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..u8::BITS {
            crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL_REVERSED } else { crc >> 1 };
        }
    }
    !crc
}

/// Where the transport's bytes are in an IP packet, and what the pseudo header needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transport {
    /// IANA protocol number.
    pub protocol: u8,
    /// Its bytes.
    pub range: Range<usize>,
    /// Both addresses, as they stand in the packet.
    pub addresses: Range<usize>,
    /// The packet is not the whole datagram.
    pub is_fragment: bool,
}

/// Find the transport's bytes in an IP packet; an error if it is no such packet or is cut off.
pub fn transport(packet: &[u8]) -> Result<Transport> {
    match packet.first().map(|byte| byte >> 4) {
        Some(4) => transport_v4(packet),
        Some(6) => transport_v6(packet),
        _ => bail!("neither IPv4 nor IPv6"),
    }
}

fn transport_v4(packet: &[u8]) -> Result<Transport> {
    let header = usize::from(packet[0] & 0xf) * 4;
    ensure!(header >= 20, "a header of {header} bytes");
    let total = usize::from(word(packet, 2)?);
    ensure!((header..=packet.len()).contains(&total), "length {total} of {}", packet.len());
    Ok(Transport {
        protocol: packet[9],
        range: header..total,
        addresses: 12..20,
        is_fragment: word(packet, 6)? & 0x3fff != 0,
    })
}

fn transport_v6(packet: &[u8]) -> Result<Transport> {
    let end = HEADER_BYTES_V6 + usize::from(word(packet, 4)?);
    ensure!(end <= packet.len(), "ends at {end} of {}", packet.len());
    let (mut protocol, mut at, mut is_fragment) = (packet[6], HEADER_BYTES_V6, false);
    for _ in 0..EXTENSIONS_MAX {
        let bytes = packet.get(at..end).unwrap_or_default();
        let length = match (protocol, bytes) {
            (extension::FRAGMENT, [_, _, high, low, ..]) => {
                let word = u16::from_be_bytes([*high, *low]);
                // An atomic fragment (RFC 6946) is a whole datagram.
                is_fragment |= word & 0xfff9 != 0;
                8
            }
            (extension::HOP_BY_HOP | extension::ROUTING | extension::DESTINATION, [_, n, ..]) => {
                (usize::from(*n) + 1) * 8
            }
            (extension::AUTHENTICATION, [_, n, ..]) => (usize::from(*n) + 2) * 4,
            _ => return Ok(Transport { protocol, range: at..end, addresses: 8..40, is_fragment }),
        };
        ensure!(bytes.len() >= length, "a header of {length} bytes at {at} of {end}");
        (protocol, at) = (bytes[0], at + length);
        if is_fragment {
            break;
        }
    }
    Ok(Transport { protocol, range: at..end, addresses: 8..40, is_fragment })
}

fn word(packet: &[u8], at: usize) -> Result<u16> {
    let bytes = packet.get(at..at + 2).context("cut off")?;
    Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Whether every checksum in an Ethernet frame is right, IP packets quoted in ICMP errors included.
pub fn are_valid(frame: &[u8]) -> bool {
    check_frame(frame).is_ok()
}

/// As [`are_valid`]: which one is not, and what it should be.
pub fn check_frame(frame: &[u8]) -> Result<()> {
    check_packet(frame.get(ETHERNET..).context("shorter than an Ethernet header")?)
}

/// As [`check_frame`], of an IP packet.
pub fn check_packet(packet: &[u8]) -> Result<()> {
    check_header(packet)?;
    let found = transport(packet)?;
    if found.is_fragment {
        return Ok(());
    }
    check_transport(packet, &found)?;
    let bytes = &packet[found.range];
    match quoted(found.protocol, bytes) {
        Some(inner) => check_quoted(inner).context("in the packet quoted in an ICMP error"),
        None => Ok(()),
    }
}

/// The packet that an ICMP error quotes.
pub fn quoted(protocol: u8, bytes: &[u8]) -> Option<&[u8]> {
    let kind = *bytes.first()?;
    let is_error = match protocol {
        number::ICMP => matches!(kind, 3 | 11 | 12),
        number::ICMP_V6 => (1..=4).contains(&kind),
        _ => false,
    };
    if is_error { bytes.get(8..) } else { None }
}

/// A quoted packet may be cut off anywhere behind its header.
fn check_quoted(packet: &[u8]) -> Result<()> {
    check_header(packet)?;
    match transport(packet) {
        Ok(found) if !found.is_fragment => check_transport(packet, &found),
        _ => Ok(()),
    }
}

/// An IPv4 header's own checksum.
fn check_header(packet: &[u8]) -> Result<()> {
    if packet.first().map(|byte| byte >> 4) == Some(4) {
        let length = usize::from(packet[0] & 0xf) * 4;
        let header = packet.get(..length).context("the IPv4 header is cut off")?;
        let sum = internet(&[header]);
        ensure!(sum == 0, "IPv4 header checksum: off by {sum:#06x}");
    }
    Ok(())
}

fn check_transport(packet: &[u8], found: &Transport) -> Result<()> {
    let bytes = &packet[found.range.clone()];
    let pseudo = pseudo_header(packet, found);
    let sum = match found.protocol {
        number::UDP if bytes.get(6..8) == Some(&[0, 0]) => {
            ensure!(packet[0] >> 4 == 4, "UDP over IPv6 without a checksum");
            return Ok(());
        }
        number::TCP | number::UDP | number::ICMP_V6 => internet(&[&pseudo, bytes]),
        number::ICMP => internet(&[bytes]),
        number::SCTP => return check_sctp(bytes),
        _ => return Ok(()),
    };
    ensure!(sum == 0, "checksum of protocol {}: off by {sum:#06x}", found.protocol);
    Ok(())
}

fn check_sctp(bytes: &[u8]) -> Result<()> {
    let mut zeroed = bytes.to_vec();
    let place = zeroed.get_mut(8..12).context("the SCTP header is cut off")?;
    place.fill(0);
    let right = crc32c(&zeroed).to_le_bytes();
    ensure!(bytes[8..12] == right, "SCTP CRC32c is {:x?}, not {right:x?}", &bytes[8..12]);
    Ok(())
}

/// The pseudo header of RFC 9293 and RFC 8200.
pub fn pseudo_header(packet: &[u8], found: &Transport) -> Vec<u8> {
    let mut pseudo = packet[found.addresses.clone()].to_vec();
    let length = u32::try_from(found.range.len()).unwrap_or(u32::MAX);
    pseudo.extend(length.to_be_bytes());
    pseudo.extend([0, 0, 0, found.protocol]);
    pseudo
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_sums() {
        // RFC 1071, section 3.
        assert_eq!(internet(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
        // RFC 3720, appendix B.4.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }
}
