//! What becomes of packets that go to a backend itself, from a port from which a flow leads there:
//! stories as those of `packet_table.rs`.

use std::net::Ipv4Addr;

use anyhow::Result;
use millrace::bpf::object::PacketBuild;
use millrace_common::address::{V4, V6};
use millrace_common::counters::Counter::*;
use millrace_tests::packet::cluster::{self as at, Host, POD, TUNNEL, UPLINK};
use millrace_tests::packet::story::*;

/// A DNS Service, and its backend.
const DNS: (Ipv4Addr, u16) = (at::CLUSTER_IP, 53);
const FAR_DNS: (Ipv4Addr, u16) = (at::FAR, 5353);

fn stories<A: Host>() -> Vec<Story> {
    vec![
        direct_after::<A>(),
        direct_beside::<A>(),
        datagrams_beside::<A>(),
        datagrams_of_peers::<A>(),
    ]
}

/// A client's port serves again, for a connection that goes to the backend itself.
fn direct_after<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    let mut steps = established::<A>();
    steps.extend([
        enters('a', POD, &tcp(CLIENT, WEB, FIN)).becomes(&tcp(CLIENT, FAR_WEB, FIN)),
        leaves('a', POD, &tcp(FAR_WEB, CLIENT, FIN)).becomes(&tcp(WEB, CLIENT, FIN)),
        enters('a', POD, &tcp(CLIENT, FAR_WEB, SYN)).counts(&[IngressPassed]).leaves_entries(0, 0),
        leaves('a', POD, &tcp(FAR_WEB, CLIENT, SYN_ACK)).counts(&[EgressPassed]),
    ]);
    story("a direct connection from the port of a flow that is over", steps)
}

/// A connection to a ClusterIP.
fn established<A: Host>() -> Vec<Step> {
    let tcp = tcp_of::<A>;
    vec![
        enters('a', POD, &tcp(CLIENT, WEB, SYN)).becomes(&tcp(CLIENT, FAR_WEB, SYN)),
        leaves('a', POD, &tcp(FAR_WEB, CLIENT, SYN_ACK)).becomes(&tcp(WEB, CLIENT, SYN_ACK)),
        enters('a', POD, &tcp(CLIENT, WEB, ACK)).becomes(&tcp(CLIENT, FAR_WEB, ACK)),
    ]
}

/// A client has one port for a Service and for one of its backends, at the same time, as it may:
/// these are two connections. The backend must see two as well.
fn direct_beside<A: Host>() -> Story {
    let tcp = tcp_of::<A>;
    let other = (at::CLIENT, at::MASQUERADE_PORT);
    let mut steps = vec![
        enters('a', POD, &tcp(CLIENT, WEB, SYN)).becomes(&tcp(CLIENT, FAR_WEB, SYN)),
        // A hook further on sees what this one has made of it.
        enters('a', POD, &tcp(CLIENT, FAR_WEB, SYN)).counts(&[IngressPassed]).leaves_entries(0, 2),
    ];
    steps.extend(established::<A>().into_iter().skip(1));
    steps.extend([
        enters('a', UPLINK, &tcp(CLIENT, FAR_WEB, SYN)).counts(&[IngressPassed]),
        enters('a', POD, &tcp(CLIENT, FAR_WEB, SYN))
            .becomes(&tcp(other, FAR_WEB, SYN))
            .counts(&[FlowOpened, IngressToBackend, PortRemapped])
            .leaves_entries(2, 2),
        leaves('a', POD, &tcp(FAR_WEB, other, SYN_ACK)).becomes(&tcp(FAR_WEB, CLIENT, SYN_ACK)),
        enters('a', POD, &tcp(CLIENT, FAR_WEB, ACK))
            .becomes(&tcp(other, FAR_WEB, ACK))
            .leaves_entries(4, 0),
        enters('a', POD, &tcp(CLIENT, WEB, FIN)).becomes(&tcp(CLIENT, FAR_WEB, FIN)),
        leaves('a', POD, &tcp(FAR_WEB, CLIENT, FIN)).becomes(&tcp(WEB, CLIENT, FIN)),
        enters('a', POD, &tcp(CLIENT, FAR_WEB, DATA)).becomes(&tcp(other, FAR_WEB, DATA)),
        leaves('a', POD, &tcp(FAR_WEB, other, DATA)).becomes(&tcp(FAR_WEB, CLIENT, DATA)),
    ]);
    story("a direct connection from the port of a flow that lives", steps)
}

/// The same of datagrams, by which members of a group meet that found each other by a Service.
fn datagrams_beside<A: Host>() -> Story {
    let udp = udp_of::<A>;
    let other = (at::CLIENT, at::MASQUERADE_PORT);
    story(
        "direct datagrams from the port of a flow",
        vec![
            enters('a', POD, &udp(CLIENT, DNS)).becomes(&udp(CLIENT, FAR_DNS)),
            enters('a', POD, &udp(CLIENT, FAR_DNS)).counts(&[IngressPassed]).leaves_entries(0, 2),
            leaves('a', POD, &udp(FAR_DNS, CLIENT)).becomes(&udp(DNS, CLIENT)),
            enters('a', POD, &udp(CLIENT, FAR_DNS))
                .becomes(&udp(other, FAR_DNS))
                .counts(&[FlowOpened, IngressToBackend, PortRemapped])
                .leaves_entries(0, 4),
            leaves('a', POD, &udp(FAR_DNS, other)).becomes(&udp(FAR_DNS, CLIENT)),
            leaves('a', POD, &udp(FAR_DNS, CLIENT)).becomes(&udp(DNS, CLIENT)),
            enters('a', POD, &udp(CLIENT, DNS)).becomes(&udp(CLIENT, FAR_DNS)),
            enters('a', POD, &udp(CLIENT, FAR_DNS))
                .becomes(&udp(other, FAR_DNS))
                .counts(&[FlowEstablished, IngressToBackend])
                .leaves_entries(4, 0),
            // The backend's answers, on their way in.
            enters('a', TUNNEL, &udp(FAR_DNS, CLIENT)).counts(&[IngressPassed]),
        ],
    )
}

/// Two that are clients and backends of each other, by one port each: an answer stays one, though
/// it might as well be a datagram of its own beside the flow the other way round.
fn datagrams_of_peers<A: Host>() -> Story {
    let udp = udp_of::<A>;
    let near = (at::NEAR, 5353);
    let dialled = (at::EXTERNAL, 53);
    story(
        "datagrams of two that are each other's backends",
        vec![
            enters('a', TUNNEL, &udp(FAR_DNS, dialled)).becomes(&udp(FAR_DNS, near)),
            enters('a', POD, &udp(near, DNS)).becomes(&udp(near, FAR_DNS)),
            leaves('a', POD, &udp(FAR_DNS, near)).becomes(&udp(DNS, near)),
            enters('a', POD, &udp(near, FAR_DNS)).counts(&[IngressPassed]).leaves_entries(0, 4),
            leaves('a', TUNNEL, &udp(near, FAR_DNS)).becomes(&udp(dialled, FAR_DNS)),
        ],
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
