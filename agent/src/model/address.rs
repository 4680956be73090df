//! Addresses and prefixes as people write them, and which of them can be used.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnetwork::IpNetwork;

/// Characters of the longest address there is, with room for leading zeros.
const ADDRESS_CHARS_MAX: usize = 64;

/// The address in `text`. Leading zeros are decimal, as the API server takes them.
pub fn parse_address(text: &str) -> Option<IpAddr> {
    // As nearly all are written, and several times as fast.
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(address.into());
    }
    let text = text.trim();
    if text.len() > ADDRESS_CHARS_MAX {
        return None;
    }
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut octets = [0; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        *octet = decimal(parts.next()?)?;
    }
    parts.next().is_none().then(|| Ipv4Addr::from(octets).into())
}

/// The prefix in `text` (`192.0.2.0/24`), bits beyond its length cleared.
pub fn parse_range(text: &str) -> Option<IpNetwork> {
    let (address, length) = text.trim().split_once('/')?;
    let whole = IpNetwork::new(parse_address(address)?, decimal(length)?).ok()?;
    IpNetwork::new(whole.network(), whole.prefix()).ok()
}

fn decimal(text: &str) -> Option<u8> {
    // `parse` alone would accept a plus sign.
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// Why nothing can be served on or sent to `address`; nothing if it is an ordinary one.
pub fn unusable(address: IpAddr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("the unspecified address");
    }
    if address.is_loopback() {
        return Some("a loopback address, another one in every pod");
    }
    if address.is_multicast() {
        return Some("a multicast address");
    }
    match address {
        IpAddr::V4(v4) if v4.octets()[0] == 0 => Some("an address of \"this network\" (0.0.0.0/8)"),
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.is_broadcast() => Some("the broadcast address"),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => Some("a link-local address"),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Some("an IPv4-mapped address, to be written as IPv4")
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leading_zeros_are_decimal_and_garbage_is_nothing() {
        let good = [
            ("10.20.30.40", "10.20.30.40"),
            ("010.020.030.040", "10.20.30.40"),
            (" 192.0.2.1 ", "192.0.2.1"),
            ("fd00::1", "fd00::1"),
            ("FD00:0::01", "fd00::1"),
        ];
        for (text, expected) in good {
            assert_eq!(parse_address(text), Some(expected.parse().unwrap()), "{text}");
        }
        for text in
            ["", "10.0.0", "10.0.0.0.1", "10.0.0.256", "+1.2.3.4", "a.b.c.d", "fe80::1%eth0"]
        {
            assert_eq!(parse_address(text), None, "{text}");
        }
    }

    #[test]
    fn prefixes_are_cut_to_their_length() {
        let text = |range| parse_range(range).map(|range| range.to_string());
        assert_eq!(text(" 010.1.2.3/8 ").as_deref(), Some("10.0.0.0/8"));
        assert_eq!(text("fd00::1/64").as_deref(), Some("fd00::/64"));
        assert_eq!(text("0.0.0.0/0").as_deref(), Some("0.0.0.0/0"));
        for garbage in ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/-1", "/8", "fd00::/129", "x/8"] {
            assert_eq!(text(garbage), None, "{garbage}");
        }
    }

    #[test]
    fn special_addresses_are_unusable() {
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.9.9.9",
            "169.254.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(unusable(text.parse().unwrap()).is_some(), "{text}");
        }
        for text in ["10.0.0.1", "203.0.113.9", "fd00::1", "2001:db8::1"] {
            assert_eq!(unusable(text.parse().unwrap()), None, "{text}");
        }
    }
}
