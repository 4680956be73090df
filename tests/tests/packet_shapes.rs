//! Packets that are not of the simplest form: fragments, options, padding, ICMP errors, devices
//! without a link layer. Told as those of `packet_table.rs` are.

use std::net::Ipv4Addr;

use anyhow::Result;
use millrace::bpf::object::PacketBuild;
use millrace_common::address::{V4, V6};
use millrace_common::packet::frame::Verdict;
use millrace_tests::packet::build::{Error, Packet, Payload, Ports, Udp, extension};
use millrace_tests::packet::cluster::{self as at, Host, POD, TUNNEL, UPLINK};
use millrace_tests::packet::kernel::Program;
use millrace_tests::packet::story::*;

use millrace_common::counters::Counter::{self, *};

/// A DNS Service and its backend.
const DNS: (Ipv4Addr, u16) = (at::CLUSTER_IP, 53);
const FAR_DNS: (Ipv4Addr, u16) = (at::FAR, 5353);

fn stories<A: Host>() -> Vec<Story> {
    let mut all = vec![
        fragments::<A>(),
        options::<A>(),
        padding::<A>(),
        no_checksum::<A>(),
        unreadable::<A>(),
    ];
    all.extend([errors::<A>(), errors_of_others::<A>()]);
    all.extend(raw::<A>());
    all
}

fn fragments<A: Host>() -> Story {
    let big = |from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)| {
        packet::<A>(from.0, to.0, Payload::udp_of(from.1, to.1, 1000))
    };
    let (to_dns, to_far) = (big(CLIENT, DNS), big(CLIENT, FAR_DNS));
    let (back_far, back_dns) = (big(FAR_DNS, CLIENT), big(DNS, CLIENT));
    let framed = |packet: &Packet, index: usize| packet.framed(&packet.fragments(77, 400)[index]);
    let fragment = |program, from: &Packet, to: &Packet, index: usize, counter: Counter| Step {
        expected: Expected::Frame(framed(to, index)),
        counters: vec![counter],
        ..step('a', program, POD, Some(framed(from, index)))
    };
    let (inside, outside) = (Program::In, Program::Out);
    story(
        "fragments follow their first one",
        vec![
            fragment(outside, &back_far, &back_far, 1, PassedFragment),
            Step {
                verdict: Verdict::DROP,
                ..fragment(inside, &to_dns, &to_dns, 1, FragmentParked)
            },
            Step {
                counters: vec![FlowOpened, IngressToBackend],
                ..fragment(inside, &to_dns, &to_far, 0, IngressToBackend)
            },
            fragment(inside, &to_dns, &to_far, 2, IngressFragment),
            fragment(inside, &to_dns, &to_far, 1, IngressFragment),
            fragment(outside, &back_far, &back_dns, 0, EgressFromFrontend),
            fragment(outside, &back_far, &back_dns, 1, EgressFragment),
            fragment(outside, &back_far, &back_dns, 2, EgressFragment),
        ],
    )
}

/// A SYN with something special.
fn special<A: Host>(to: (Ipv4Addr, u16), change: impl Fn(&mut Packet)) -> Packet {
    let mut packet = tcp_of::<A>(CLIENT, to, SYN);
    change(&mut packet);
    packet
}

fn options<A: Host>() -> Story {
    let some = |packet: &mut Packet| {
        packet.options = vec![1; 12];
        packet.extensions = vec![extension::HOP_BY_HOP, extension::DESTINATION, extension::ROUTING];
    };
    let many = |packet: &mut Packet| packet.extensions = vec![extension::DESTINATION; 7];
    let too_many = if A::of(WEB.0).into().is_ipv4() {
        enters('a', POD, &special::<A>(WEB, some)).becomes(&special::<A>(FAR_WEB, some))
    } else {
        enters('a', POD, &special::<A>(WEB, many)).counts(&[PassedHeaders])
    };
    story(
        "options and extension headers",
        vec![
            enters('a', POD, &special::<A>(WEB, some))
                .becomes(&special::<A>(FAR_WEB, some))
                .counts(&[FlowOpened, IngressToBackend]),
            too_many,
        ],
    )
}

fn padding<A: Host>() -> Story {
    let padded = |to| {
        let mut frame = tcp_of::<A>(CLIENT, to, SYN).frame();
        frame.extend([0xee; 6]);
        frame
    };
    let enters = step('a', Program::In, POD, Some(padded(WEB)));
    story("a frame with padding", vec![enters.becomes_frame(padded(FAR_WEB))])
}

fn no_checksum<A: Host>() -> Story {
    let plain = |to: (Ipv4Addr, u16)| {
        let udp = Udp { has_checksum: false, data: vec![7; 9] };
        packet::<A>(CLIENT.0, to.0, Payload::Udp(Ports(CLIENT.1, to.1), udp))
    };
    story(
        "no UDP checksum stays none",
        vec![
            enters('a', POD, &plain(DNS))
                .becomes(&plain(FAR_DNS))
                .counts(&[FlowOpened, IngressToBackend]),
        ],
    )
}

fn unreadable<A: Host>() -> Story {
    let tagged = special::<A>(WEB, |packet| packet.vlan = Some(7));
    let mut cut = tcp_of::<A>(CLIENT, WEB, SYN).frame();
    cut.truncate(cut.len() - 1);
    story(
        "what cannot be read is left alone",
        vec![
            enters('a', POD, &tagged).counts(&[PassedNotIp]),
            leaves('a', POD, &tagged).counts(&[PassedNotIp]),
            step('a', Program::In, POD, Some(cut)).counts(&[PassedMalformed]),
        ],
    )
}

fn errors<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    let about = |packet: Packet, error: Error, bytes: usize| {
        packet.error(A::of(at::ROUTER).into(), error, bytes)
    };
    // The router between tunnel and backend complains about what it saw; the client is told of what
    // it sent, by the frontend it sent it to.
    let seen = |error, bytes| about(tcp(MASQUERADED, FAR_WEB, ACK), error, bytes);
    let inside = |error, bytes| {
        let mut packet = about(tcp(OUTSIDE, FAR_WEB, ACK), error, bytes);
        packet.destination = A::of(OUTSIDE.0).into();
        packet
    };
    let told = |error, bytes| {
        let mut packet = about(tcp(OUTSIDE, NODE_PORT, ACK), error, bytes);
        packet.source = A::of(NODE_PORT.0).into();
        packet
    };
    let way = |error, bytes| {
        vec![
            enters('a', TUNNEL, &seen(error, bytes))
                .becomes(&inside(error, bytes))
                .counts(&[IngressError]),
            goes_out('a', UPLINK).becomes(&told(error, bytes)).counts(&[EgressError]),
        ]
    };
    let mut steps = vec![
        enters('a', UPLINK, &tcp(OUTSIDE, NODE_PORT, SYN)).becomes(&tcp(OUTSIDE, FAR_WEB, SYN)),
        goes_out('a', TUNNEL).becomes(&tcp(MASQUERADED, FAR_WEB, SYN)),
    ];
    let header = if A::of(WEB.0).into().is_ipv4() { 20 } else { 40 };
    for error in [Error::TooBig, Error::Host, Error::Port, Error::Time] {
        for bytes in [header + 8, header + 20, 1000] {
            steps.extend(way(error, bytes));
        }
    }
    // What follows an error in its frame is not quoted, though it stands where a checksum would,
    // or the ports.
    let padded = |packet: &Packet| [packet.frame(), vec![0xee; 20]].concat();
    let enters_padded =
        |bytes| step('a', Program::In, TUNNEL, Some(padded(&seen(Error::Host, bytes))));
    steps.push(
        enters_padded(header + 8)
            .becomes_frame(padded(&inside(Error::Host, header + 8)))
            .counts(&[IngressError]),
    );
    steps.push(enters_padded(header + 3).counts(&[IngressPassed]));
    // The client complains about an answer: the backend is told of what it sent.
    let mut complaint =
        tcp(NODE_PORT, OUTSIDE, DATA).error(A::of(OUTSIDE.0).into(), Error::Port, 1000);
    complaint.source = A::of(OUTSIDE.0).into();
    let mut to_backend =
        tcp(FAR_WEB, OUTSIDE, DATA).error(A::of(OUTSIDE.0).into(), Error::Port, 1000);
    to_backend.destination = A::of(FAR_WEB.0).into();
    let mut as_node =
        tcp(FAR_WEB, MASQUERADED, DATA).error(A::of(OUTSIDE.0).into(), Error::Port, 1000);
    as_node.source = A::of(MASQUERADED.0).into();
    steps.push(enters('a', UPLINK, &complaint).becomes(&to_backend).counts(&[IngressError]));
    steps.push(goes_out('a', TUNNEL).becomes(&as_node).counts(&[EgressError]));
    story("ICMP errors about translated packets", steps)
}

fn errors_of_others<A: Host>() -> Story {
    let nobodys = tcp_of::<A>((at::STRANGER, 1), (at::NEAR, 2), ACK);
    let nobodys = nobodys.error(A::of(at::ROUTER).into(), Error::TooBig, 1000);
    story(
        "ICMP errors about other packets",
        vec![
            enters('a', UPLINK, &nobodys).counts(&[IngressPassed]),
            leaves('a', POD, &nobodys).counts(&[EgressPassed]),
        ],
    )
}

/// Devices without a link layer: packets begin with the IP header.
fn raw<A: Host>() -> Vec<Story> {
    let outside = (at::RAW_OUTSIDE, 4000);
    let (frontend, backend) = ((at::EXTERNAL, 8008), (at::RAW, 8080));
    let empty = (at::CLUSTER_IP, 81);
    let with = |program, from, to, what| {
        step('a', program, TUNNEL, Some(tcp_of::<A>(from, to, what).packet()))
    };
    let becomes = |step: Step, from, to, what| Step {
        expected: Expected::Frame(tcp_of::<A>(from, to, what).packet()),
        ..step
    };
    vec![story(
        "a device without a link layer",
        vec![
            becomes(with(Program::InRaw, outside, frontend, SYN), outside, backend, SYN)
                .counts(&[FlowOpened, IngressToBackend]),
            becomes(with(Program::OutRaw, backend, outside, SYN_ACK), frontend, outside, SYN_ACK)
                .counts(&[EgressFromFrontend]),
            becomes(with(Program::InRaw, outside, frontend, ACK), outside, backend, ACK)
                .counts(&[FlowEstablished, IngressToBackend])
                .leaves_entries(2, 0),
            with(Program::InRaw, outside, empty, SYN).rejected::<A>(
                empty.0,
                outside.0,
                &reset_from(81),
                RejectedNoBackend,
            ),
        ],
    )]
}

#[test]
fn every_shape_ends_as_it_should_natively() -> Result<()> {
    Stage::native().tell(&stories::<V4>(), &stories::<V6>())
}

#[test]
fn every_shape_goes_the_same_way_in_the_kernel() -> Result<()> {
    Stage::load(PacketBuild::of_this_kernel())?.tell(&stories::<V4>(), &stories::<V6>())
}

#[test]
fn every_shape_goes_the_same_way_in_the_plain_programs() -> Result<()> {
    Stage::load(PacketBuild::Plain)?.tell(&stories::<V4>(), &stories::<V6>())
}
