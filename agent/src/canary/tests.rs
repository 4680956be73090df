//! The canary's score, rows and frames.

use std::net::IpAddr;

use millrace_common::address::{Family, Protocol};
use millrace_common::frontend::flags;

use super::packets;
use super::rows::{self, Ports};
use super::tally::{Check, PATIENCE, Tally};
use crate::model::address::unusable;
use crate::plan::op::Capacity;

fn check(hook: &str, family: Family, error: Option<&str>) -> Check {
    Check { hook: hook.to_owned(), family, error: error.map(str::to_owned) }
}

#[test]
fn one_failure_is_forgiven_but_not_the_first() {
    let mut tally = Tally::default();
    assert!(tally.passes(), "nothing was asked yet");
    tally.record(vec![check("connect4", Family::V4, Some("refused"))]);
    assert!(tally.fails(Family::V4), "what was never translated has no credit");
    tally.record(vec![check("connect4", Family::V4, None)]);
    assert!(tally.passes());
    for round in 1..=PATIENCE + 2 {
        let checks =
            vec![check("connect4", Family::V4, Some("x")), check("connect6", Family::V6, None)];
        tally.record(checks);
        assert_eq!(tally.fails(Family::V4), round >= PATIENCE, "round {round}");
        assert!(!tally.fails(Family::V6));
    }
    let condition = tally.conditions().next().unwrap();
    assert_eq!(condition.0, "canary connect4 IPv4");
    assert!(condition.1.starts_with("x: "), "{condition:?}");
    let scores: Vec<_> = tally.scores().collect();
    assert_eq!((scores.len(), scores[0].translated, scores[1].translated), (2, false, true));
    // A round without it: there is no such hook any more.
    tally.record(vec![check("connect6", Family::V6, None)]);
    assert!(tally.passes() && tally.conditions().next().is_none());
}

#[test]
fn no_service_can_have_the_canarys_addresses() {
    let addresses: [IpAddr; 4] = [
        rows::SOCKET_V4.into(),
        rows::SOCKET_V6.into(),
        rows::PACKET_V4.into(),
        rows::PACKET_V6.into(),
    ];
    for address in addresses {
        assert!(unusable(address).is_some(), "{address}");
    }
    assert!(rows::desired(Ports::default(), true).service.namespace.is_empty());
}

#[test]
fn what_cannot_listen_has_no_frontend() {
    let all = rows::desired(Ports { tcp4: 1, udp4: 1, tcp6: 1, udp6: 1 }, true);
    let counts = |desired: &crate::model::desired::Desired| {
        let of = |port: &crate::model::desired::DesiredPort| {
            (port.name.clone(), port.v4.frontends.len(), port.v6.frontends.len())
        };
        desired.ports.iter().map(of).collect::<Vec<_>>()
    };
    let row = |name: &str, v4, v6| (name.to_owned(), v4, v6);
    assert_eq!(counts(&all), [row("tcp", 1, 1), row("udp", 1, 1), row("packet", 1, 1)]);
    let v4 = rows::desired(Ports { tcp4: 1, udp4: 1, ..Ports::default() }, true);
    assert_eq!(counts(&v4), [row("tcp", 1, 0), row("udp", 1, 0), row("packet", 1, 1)]);
    assert_eq!(counts(&rows::desired(Ports::default(), true)), [row("packet", 1, 1)]);
}

#[test]
fn only_the_nodes_own_sockets_are_led_where_they_can_be_told() {
    for knows in [true, false] {
        let desired = rows::desired(Ports { tcp4: 1, udp4: 1, tcp6: 1, udp6: 1 }, knows);
        let sockets = desired.ports.iter().filter(|port| port.name != "packet");
        for port in sockets {
            let marks = [port.v4.frontends[0].flags, port.v6.frontends[0].flags];
            assert_eq!(marks.map(|marks| marks & flags::NODE_ONLY != 0), [knows; 2]);
        }
    }
}

#[test]
fn the_reserve_is_added_and_taken_off() {
    let asked = Capacity::default();
    assert_eq!(rows::without_reserve(rows::with_reserve(asked)), asked);
    let largest = Capacity { services: u32::MAX, ..asked };
    assert_eq!(rows::with_reserve(largest).services, u32::MAX);
}

/// Adds up to all ones: the checksum is right.
fn sum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap()
}

#[test]
fn frames_are_valid_and_differ_where_they_must() {
    for (family, ethertype, header) in
        [(Family::V4, [0x08, 0x00], 20), (Family::V6, [0x86, 0xdd], 40)]
    {
        for ethernet in [true, false] {
            let link = if ethernet { 14 } else { 0 };
            for case in packets::cases(family, ethernet) {
                assert_eq!(case.frame.len(), case.expected.len());
                assert_ne!(case.frame, case.expected);
                for frame in [&case.frame, &case.expected] {
                    let ip = &frame[link..];
                    // Only the request to come in must pass for IP without an Ethernet header.
                    if ethernet {
                        assert_eq!(frame[12..14], ethertype);
                    }
                    let addresses = if family == Family::V4 { &ip[12..20] } else { &ip[8..40] };
                    let udp = &ip[header..];
                    let length = u16::try_from(udp.len()).unwrap().to_be_bytes();
                    let pseudo = [addresses, &[0, Protocol::Udp as u8], &length, udp].concat();
                    assert_eq!(sum(&pseudo), 0xffff, "UDP checksum");
                    assert!(family == Family::V6 || sum(&ip[..20]) == 0xffff, "IPv4 checksum");
                }
            }
        }
    }
}
