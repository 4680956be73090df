//! What becomes of a packet: rows, packet and hook in; verdict, packet, counters and rows out.
//!
//! Each story is a chain of hooks of one or two nodes. It is told in both families, natively and,
//! as root, by the loaded programs, which must agree byte by byte (`millrace_tests::packet::pair`).
//! `packet_shapes.rs` has those about packets that are not of the simplest form, `packet_direct.rs`
//! those about dialogues with backends themselves.

use std::net::Ipv4Addr;

use anyhow::Result;
use millrace::bpf::object::PacketBuild;
use millrace_common::address::{V4, V6};
use millrace_common::packet::frame::Verdict;
use millrace_common::packet::masquerade::CLAIMS;
use millrace_tests::packet::build::{Payload, Ports, sctp, tcp};
use millrace_tests::packet::checksum::are_valid;
use millrace_tests::packet::cluster::{self as at, Host, POD, TUNNEL, UPLINK, UPLINK_2};
use millrace_tests::packet::story::*;

use millrace_common::counters::Counter::*;

/// A DNS Service, another one with the same backend, and that backend.
const DNS: (Ipv4Addr, u16) = (at::CLUSTER_IP, 53);
const DNS_2: (Ipv4Addr, u16) = (at::CLUSTER_IP, 54);
const FAR_DNS: (Ipv4Addr, u16) = (at::FAR, 5353);
/// The client as a backend.
const HAIRPIN: (Ipv4Addr, u16) = (at::CLIENT, 8083);
/// The node in a client's place.
const AS_NODE: (Ipv4Addr, u16) = (at::NODE_A, at::MASQUERADE_PORT);
/// A second client outside.
const OTHER: (Ipv4Addr, u16) = (at::OUTSIDE, 4001);
/// A NodePort with policy Local, and its backend.
const LOCAL: (Ipv4Addr, u16) = (at::NODE_A, 30_081);
const NEAR: (Ipv4Addr, u16) = (at::NEAR, 8081);
/// A load balancer's port with affinity.
const AFFINITY: (Ipv4Addr, u16) = (at::EXTERNAL, 8000);

fn stories<A: Host>() -> Vec<Story> {
    vec![
        connection::<A>(),
        handshake::<A>(),
        datagrams::<A>(),
        hairpin::<A>(),
        association::<A>(),
        node_port::<A>(),
        exhaustion::<A>(),
        local_policy::<A>(),
        local_policy_empty::<A>(),
        source_ranges::<A>(),
        affinity::<A>(),
        no_backend::<A>(),
        no_port::<A>(),
        unallocated::<A>(),
        not_ours::<A>(),
        broken_row::<A>(),
        recycled_row::<A>(),
    ]
}

fn connection<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "a pod's connection to a ClusterIP",
        vec![
            enters('a', POD, &tcp(CLIENT, WEB, SYN))
                .becomes(&tcp(CLIENT, FAR_WEB, SYN))
                .counts(&[FlowOpened, IngressToBackend])
                .leaves_entries(0, 2),
            goes_out('a', TUNNEL).counts(&[EgressPassed]),
            comes_in('b', TUNNEL).counts(&[IngressPassed]),
            goes_out('b', POD).counts(&[EgressPassed]).leaves_entries(0, 0),
            enters('b', POD, &tcp(FAR_WEB, CLIENT, SYN_ACK)).counts(&[IngressPassed]),
            goes_out('b', TUNNEL).counts(&[EgressPassed]),
            comes_in('a', TUNNEL).counts(&[IngressPassed]),
            goes_out('a', POD).becomes(&tcp(WEB, CLIENT, SYN_ACK)).counts(&[EgressFromFrontend]),
            enters('a', POD, &tcp(CLIENT, WEB, ACK))
                .becomes(&tcp(CLIENT, FAR_WEB, ACK))
                .counts(&[FlowEstablished, IngressToBackend])
                .leaves_entries(2, 0),
            enters('a', POD, &tcp(CLIENT, WEB, FIN))
                .becomes(&tcp(CLIENT, FAR_WEB, FIN))
                .counts(&[IngressToBackend]),
            enters('a', POD, &tcp(CLIENT, WEB, SYN))
                .becomes(&tcp(CLIENT, FAR_WEB, SYN))
                .counts(&[FlowOpened, IngressToBackend])
                .leaves_entries(0, 2),
        ],
    )
}

fn handshake<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "no handshake, no established flow",
        vec![
            enters('a', POD, &tcp(CLIENT, WEB, SYN)).becomes(&tcp(CLIENT, FAR_WEB, SYN)),
            enters('a', POD, &tcp(CLIENT, WEB, ACK))
                .becomes(&tcp(CLIENT, FAR_WEB, ACK))
                .counts(&[IngressToBackend])
                .leaves_entries(0, 2),
            leaves('a', POD, &tcp(FAR_WEB, CLIENT, SYN_ACK)).becomes(&tcp(WEB, CLIENT, SYN_ACK)),
            enters('a', POD, &segment::<A>(CLIENT, WEB, tcp::ACK, (1001, 4999)))
                .becomes(&segment::<A>(CLIENT, FAR_WEB, tcp::ACK, (1001, 4999)))
                .leaves_entries(0, 2),
        ],
    )
}

fn datagrams<A: Host>() -> Story {
    let udp = udp_of::<A>;
    story(
        "datagrams, and a second service with the same backend",
        vec![
            enters('a', POD, &udp(CLIENT, DNS))
                .becomes(&udp(CLIENT, FAR_DNS))
                .counts(&[FlowOpened, IngressToBackend]),
            enters('a', POD, &udp(CLIENT, DNS_2))
                .becomes(&udp((at::CLIENT, at::MASQUERADE_PORT), FAR_DNS))
                .counts(&[FlowOpened, IngressToBackend, PortRemapped])
                .leaves_entries(0, 4),
            leaves('a', POD, &udp(FAR_DNS, CLIENT))
                .becomes(&udp(DNS, CLIENT))
                .counts(&[EgressFromFrontend]),
            leaves('a', POD, &udp(FAR_DNS, (at::CLIENT, at::MASQUERADE_PORT)))
                .becomes(&udp(DNS_2, CLIENT))
                .counts(&[EgressFromFrontend]),
            enters('a', POD, &udp(CLIENT, DNS))
                .becomes(&udp(CLIENT, FAR_DNS))
                .counts(&[FlowEstablished, IngressToBackend])
                .leaves_entries(2, 2),
        ],
    )
}

fn hairpin<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "a pod that reaches itself",
        vec![
            enters('a', POD, &tcp(CLIENT, (at::CLUSTER_IP, 83), SYN))
                .becomes(&tcp(CLIENT, HAIRPIN, SYN))
                .counts(&[FlowOpened, IngressToBackend])
                .leaves_entries(0, 3),
            goes_out('a', POD)
                .becomes(&tcp(AS_NODE, HAIRPIN, SYN))
                .counts(&[EgressMasqueraded])
                .leaves_entries(0, 4),
            enters('a', POD, &tcp(HAIRPIN, AS_NODE, SYN_ACK))
                .becomes(&tcp(HAIRPIN, CLIENT, SYN_ACK))
                .counts(&[IngressToClient]),
            goes_out('a', POD)
                .becomes(&tcp((at::CLUSTER_IP, 83), CLIENT, SYN_ACK))
                .counts(&[EgressFromFrontend]),
        ],
    )
}

fn association<A: Host>() -> Story {
    story(
        "an association",
        vec![
            enters(
                'a',
                POD,
                &packet::<A>(CLIENT.0, WEB.0, Payload::Sctp(Ports(9, 132), sctp::INIT)),
            )
            .becomes(&packet::<A>(CLIENT.0, at::FAR, Payload::Sctp(Ports(9, 132), sctp::INIT)))
            .counts(&[FlowOpened, IngressToBackend]),
            leaves('a', POD, &packet::<A>(at::FAR, CLIENT.0, Payload::Sctp(Ports(132, 9), 2)))
                .becomes(&packet::<A>(WEB.0, CLIENT.0, Payload::Sctp(Ports(132, 9), 2)))
                .counts(&[EgressFromFrontend]),
            enters(
                'a',
                POD,
                &packet::<A>(CLIENT.0, WEB.0, Payload::Sctp(Ports(9, 133), sctp::INIT)),
            )
            .dropped(DroppedSctpPort),
        ],
    )
}

fn node_port<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "a NodePort whose backend is on another node",
        vec![
            enters('a', UPLINK, &tcp(OUTSIDE, NODE_PORT, SYN))
                .becomes(&tcp(OUTSIDE, FAR_WEB, SYN))
                .counts(&[FlowOpened, IngressToBackend])
                .leaves_entries(0, 3),
            goes_out('a', TUNNEL)
                .becomes(&tcp(MASQUERADED, FAR_WEB, SYN))
                .counts(&[EgressMasqueraded])
                .leaves_entries(0, 4),
            comes_in('b', TUNNEL).counts(&[IngressPassed]),
            goes_out('b', POD).counts(&[EgressPassed]),
            enters('b', POD, &tcp(FAR_WEB, MASQUERADED, SYN_ACK)).counts(&[IngressPassed]),
            goes_out('b', TUNNEL).counts(&[EgressPassed]),
            comes_in('a', TUNNEL)
                .becomes(&tcp(FAR_WEB, OUTSIDE, SYN_ACK))
                .counts(&[IngressToClient]),
            goes_out('a', UPLINK)
                .becomes(&tcp(NODE_PORT, OUTSIDE, SYN_ACK))
                .counts(&[EgressFromFrontend]),
            enters('a', UPLINK, &tcp(OUTSIDE, NODE_PORT, ACK))
                .becomes(&tcp(OUTSIDE, FAR_WEB, ACK))
                .counts(&[FlowEstablished, IngressToBackend])
                .leaves_entries(4, 0),
            goes_out('a', TUNNEL)
                .becomes(&tcp(MASQUERADED, FAR_WEB, ACK))
                .counts(&[EgressMasqueraded]),
            enters('a', TUNNEL, &tcp(FAR_WEB, MASQUERADED, DATA))
                .becomes(&tcp(FAR_WEB, OUTSIDE, DATA))
                .counts(&[IngressToClient]),
            Step {
                verdict: Verdict::redirect(UPLINK),
                ..goes_out('a', UPLINK_2)
                    .becomes(&tcp(NODE_PORT, OUTSIDE, DATA))
                    .counts(&[EgressFromFrontend, AnswerRedirected])
            },
            enters('a', UPLINK, &tcp(OUTSIDE, NODE_PORT, FIN)).becomes(&tcp(OUTSIDE, FAR_WEB, FIN)),
            enters('a', UPLINK, &tcp(OUTSIDE, NODE_PORT, SYN))
                .becomes(&tcp(OUTSIDE, FAR_WEB, SYN))
                .counts(&[FlowOpened, IngressToBackend])
                .leaves_entries(0, 3),
        ],
    )
}

fn exhaustion<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "no port is left to masquerade with",
        vec![
            enters('a', UPLINK, &tcp(OUTSIDE, NODE_PORT, SYN)).becomes(&tcp(OUTSIDE, FAR_WEB, SYN)),
            goes_out('a', TUNNEL).becomes(&tcp(MASQUERADED, FAR_WEB, SYN)),
            enters('a', UPLINK, &tcp(OTHER, NODE_PORT, SYN)).becomes(&tcp(OTHER, FAR_WEB, SYN)),
            Step {
                counters: [vec![DroppedNoPort], vec![PortRetried; CLAIMS as usize]].concat(),
                ..goes_out('a', TUNNEL).dropped(DroppedNoPort)
            },
        ],
    )
}

fn local_policy<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "Local policy keeps the client's address",
        vec![
            enters('a', UPLINK, &tcp(OUTSIDE, LOCAL, SYN))
                .becomes(&tcp(OUTSIDE, NEAR, SYN))
                .counts(&[FlowOpened, IngressToBackend])
                .leaves_entries(0, 2),
            goes_out('a', POD).counts(&[EgressPassed]),
            enters('a', POD, &tcp(NEAR, OUTSIDE, SYN_ACK)).counts(&[IngressPassed]),
            goes_out('a', UPLINK)
                .becomes(&tcp(LOCAL, OUTSIDE, SYN_ACK))
                .counts(&[EgressFromFrontend]),
        ],
    )
}

fn local_policy_empty<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "Local policy without a local backend",
        vec![
            enters('a', UPLINK, &tcp(OUTSIDE, (at::EXTERNAL, 80), SYN)).dropped(DroppedPolicy),
            enters('a', POD, &tcp(CLIENT, (at::EXTERNAL, 80), SYN))
                .becomes(&tcp(CLIENT, FAR_WEB, SYN))
                .counts(&[FlowOpened, IngressToBackend]),
        ],
    )
}

fn source_ranges<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "source ranges",
        vec![
            enters('a', UPLINK, &tcp((at::STRANGER, 1), (at::EXTERNAL, 443), SYN))
                .dropped(DroppedSource),
            enters('a', UPLINK, &tcp(OUTSIDE, (at::EXTERNAL, 443), SYN))
                .becomes(&tcp(OUTSIDE, (at::NEAR, 8443), SYN))
                .counts(&[FlowOpened, IngressToBackend]),
            goes_out('a', POD).becomes(&tcp(AS_NODE, (at::NEAR, 8443), SYN)),
        ],
    )
}

fn affinity<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "affinity",
        vec![
            enters('a', UPLINK, &tcp(OUTSIDE, AFFINITY, SYN))
                .becomes(&tcp(OUTSIDE, (at::NEAR, 8000), SYN))
                .counts(&[FlowOpened, IngressToBackend]),
            enters('a', UPLINK, &tcp(OTHER, AFFINITY, SYN))
                .becomes(&tcp(OTHER, (at::NEAR, 8000), SYN))
                .counts(&[AffinityHit, FlowOpened, IngressToBackend]),
        ],
    )
}

/// Port unreachable.
fn unreachable<A: Host>() -> &'static [u8] {
    if A::of(WEB.0).into().is_ipv4() { &[3, 3] } else { &[1, 4] }
}

fn no_backend<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    let unreachable = unreachable::<A>();
    story(
        "no backend",
        vec![
            enters('a', POD, &tcp(CLIENT, (WEB.0, 81), SYN))
                .rejected::<A>(WEB.0, CLIENT.0, &reset_from(81), RejectedNoBackend)
                .leaves_entries(0, 0),
            enters('a', POD, &udp_of::<A>(CLIENT, (WEB.0, 82))).rejected::<A>(
                WEB.0,
                CLIENT.0,
                unreachable,
                RejectedNoBackend,
            ),
        ],
    )
}

fn no_port<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    let unreachable = unreachable::<A>();
    let echo = packet::<A>(CLIENT.0, WEB.0, Payload::Echo(1));
    let other = packet::<A>(CLIENT.0, WEB.0, Payload::Raw(47, vec![0; 40]));
    story(
        "a ClusterIP, but none of its ports",
        vec![
            enters('a', POD, &tcp(CLIENT, (WEB.0, 99), SYN)).rejected::<A>(
                WEB.0,
                CLIENT.0,
                &reset_from(99),
                RejectedNoPort,
            ),
            enters('a', POD, &udp_of::<A>(CLIENT, (WEB.0, 99))).rejected::<A>(
                WEB.0,
                CLIENT.0,
                unreachable,
                RejectedNoPort,
            ),
            enters('a', POD, &echo).rejected::<A>(WEB.0, CLIENT.0, unreachable, RejectedNoPort),
            enters('a', POD, &other).rejected::<A>(WEB.0, CLIENT.0, unreachable, RejectedNoPort),
        ],
    )
}

fn unallocated<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    let from = |destination| packet::<A>(CLIENT.0, destination, Payload::Echo(1));
    story(
        "an address nobody has",
        vec![
            enters('a', POD, &tcp(CLIENT, (at::UNALLOCATED, 80), SYN)).dropped(DroppedUnallocated),
            enters('a', POD, &from(at::UNALLOCATED)).dropped(DroppedUnallocated),
        ],
    )
}

fn not_ours<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    let from = |destination| packet::<A>(CLIENT.0, destination, Payload::Echo(1));
    story(
        "what is none of ours",
        vec![
            enters('a', POD, &from(at::STRANGER)).counts(&[IngressPassed]),
            enters('a', POD, &tcp(CLIENT, (at::STRANGER, 80), SYN)).counts(&[IngressPassed]),
            enters('a', POD, &tcp(CLIENT, WEB, ACK)).counts(&[IngressPassed]),
            enters('a', POD, &tcp(CLIENT, (at::NODE_A, 30_090), SYN)).counts(&[IngressPassed]),
            leaves('a', POD, &tcp((at::STRANGER, 80), CLIENT, DATA)).counts(&[EgressPassed]),
            leaves('a', POD, &from(at::STRANGER)).counts(&[EgressPassed]),
        ],
    )
}

fn broken_row<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    story(
        "a row that belongs to another service",
        vec![enters('a', POD, &tcp(CLIENT, (WEB.0, 84), SYN)).dropped(DroppedBroken)],
    )
}

fn recycled_row<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    let dialled = (at::EXTERNAL, 8085);
    story(
        "a row that has become another key's",
        vec![enters('a', POD, &tcp(CLIENT, dialled, SYN)).counts(&[IngressPassed])],
    )
}

#[test]
fn every_story_ends_as_it_should_natively() -> Result<()> {
    Stage::native().tell(&stories::<V4>(), &stories::<V6>())
}

#[test]
fn every_story_goes_the_same_way_in_the_kernel() -> Result<()> {
    Stage::load(PacketBuild::of_this_kernel())?.tell(&stories::<V4>(), &stories::<V6>())
}

#[test]
fn every_story_goes_the_same_way_in_the_plain_programs() -> Result<()> {
    Stage::load(PacketBuild::Plain)?.tell(&stories::<V4>(), &stories::<V6>())
}

#[test]
fn the_stories_would_notice_a_wrong_checksum() {
    let mut frame = tcp_of::<V4>(CLIENT, WEB, SYN).frame();
    assert!(are_valid(&frame));
    frame[24] ^= 1;
    assert!(!are_valid(&frame));
}

/// A story that ends otherwise.
#[test]
fn the_stories_would_notice_another_packet() {
    let wrong = story(
        "wrong",
        vec![enters('a', POD, &tcp_of::<V4>(CLIENT, WEB, SYN)).becomes(&tcp_of::<V4>(
            CLIENT,
            (at::FAR, 8081),
            SYN,
        ))],
    );
    let told = Stage::native().tell(&[wrong], &[]);
    assert!(format!("{:#}", told.unwrap_err()).contains("the packet is"));
}
