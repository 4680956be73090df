//! What becomes of a packet: rows, packet and hook in; verdict, packet, counters and rows out.
//!
//! Each story is a chain of hooks of one or two nodes. It is told in both families, natively and,
//! as root, by the loaded programs, which must agree byte by byte (`millrace_tests::packet::pair`).

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use millrace_common::address::{V4, V6};
use millrace_common::counters::Counter;
use millrace_common::packet::frame::Verdict;
use millrace_tests::packet::build::{Error, Packet, Payload, Ports, Udp, extension, sctp, tcp};
use millrace_tests::packet::checksum::{are_valid, check_frame, check_packet};
use millrace_tests::packet::cluster::{self as at, Host, POD, TUNNEL, UPLINK, UPLINK_2};
use millrace_tests::packet::kernel::Program;
use millrace_tests::packet::pair::Pair;

use Counter::{
    AffinityHit, AnswerRedirected, DroppedBroken, DroppedNoPort, DroppedPolicy, DroppedSctpPort,
    DroppedSource, DroppedUnallocated, EgressError, EgressFragment, EgressFromFrontend,
    EgressMasqueraded, EgressPassed, FlowEstablished, FlowOpened, IngressError, IngressFragment,
    IngressPassed, IngressToBackend, IngressToClient, PassedFragment, PassedHeaders,
    PassedMalformed, PassedNotIp, PortRemapped, PortRetried, RejectedNoBackend, RejectedNoPort,
};

/// A story: what it shows, and how it goes.
struct Story {
    name: &'static str,
    steps: Vec<Step>,
}

/// A packet under a hook.
struct Step {
    node: char,
    program: Program,
    device: u32,
    /// None: what came out of the step before.
    packet: Option<Vec<u8>>,
    verdict: Verdict,
    expected: Expected,
    counters: Vec<Counter>,
    /// Entries of established and of half-open flows at the node afterwards.
    entries: Option<(usize, usize)>,
}

/// What the packet is to become.
enum Expected {
    Same,
    Frame(Vec<u8>),
    /// An answer: from whom, to whom, beginning with these transport bytes.
    Answer(IpAddr, IpAddr, Vec<u8>),
}

fn story(name: &'static str, steps: Vec<Step>) -> Story {
    Story { name, steps }
}

fn step(node: char, program: Program, device: u32, packet: Option<Vec<u8>>) -> Step {
    Step {
        node,
        program,
        device,
        packet,
        verdict: Verdict::NEXT,
        expected: Expected::Same,
        counters: Vec::new(),
        entries: None,
    }
}

/// A packet comes in at a node.
fn enters(node: char, device: u32, packet: &Packet) -> Step {
    step(node, Program::In, device, Some(packet.frame()))
}

/// A packet leaves a node.
fn leaves(node: char, device: u32, packet: &Packet) -> Step {
    step(node, Program::Out, device, Some(packet.frame()))
}

/// The packet of the step before comes in at a node.
fn comes_in(node: char, device: u32) -> Step {
    step(node, Program::In, device, None)
}

/// The packet of the step before leaves a node.
fn goes_out(node: char, device: u32) -> Step {
    step(node, Program::Out, device, None)
}

impl Step {
    fn becomes(self, packet: &Packet) -> Self {
        Self { expected: Expected::Frame(packet.frame()), ..self }
    }
    fn becomes_frame(self, frame: Vec<u8>) -> Self {
        Self { expected: Expected::Frame(frame), ..self }
    }
    fn counts(self, counters: &[Counter]) -> Self {
        Self { counters: counters.to_vec(), ..self }
    }
    /// Entries of established and of half-open flows.
    fn leaves_entries(self, established: usize, half_open: usize) -> Self {
        Self { entries: Some((established, half_open)), ..self }
    }
    fn dropped(self, counter: Counter) -> Self {
        Self { verdict: Verdict::DROP, counters: vec![counter], ..self }
    }
    /// Turned into its answer.
    fn rejected<A: Host>(self, from: Ipv4Addr, to: Ipv4Addr, start: &[u8], why: Counter) -> Self {
        let answer = Expected::Answer(A::of(from).into(), A::of(to).into(), start.to_vec());
        Self { verdict: Verdict::RETURN, expected: answer, counters: vec![why], ..self }
    }
}

/// A packet between two hosts.
fn packet<A: Host>(source: Ipv4Addr, destination: Ipv4Addr, payload: Payload) -> Packet {
    Packet::new(A::of(source), A::of(destination), payload)
}

/// A TCP segment of a connection that a client opens: `from` and `to` with their ports.
fn segment<A: Host>(
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    flags: u8,
    numbers: (u32, u32),
) -> Packet {
    packet::<A>(from.0, to.0, Payload::segment(from.1, to.1, flags, numbers.0, numbers.1))
}

const SYN: (u8, (u32, u32)) = (tcp::SYN, (1000, 0));
const SYN_ACK: (u8, (u32, u32)) = (tcp::SYN | tcp::ACK, (5000, 1001));
const ACK: (u8, (u32, u32)) = (tcp::ACK, (1001, 5001));
const DATA: (u8, (u32, u32)) = (tcp::ACK, (5001, 1001));
const FIN: (u8, (u32, u32)) = (tcp::FIN | tcp::ACK, (1013, 5001));

fn tcp_of<A: Host>(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), what: (u8, (u32, u32))) -> Packet {
    segment::<A>(from, to, what.0, what.1)
}

fn udp_of<A: Host>(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Packet {
    packet::<A>(from.0, to.0, Payload::udp(from.1, to.1))
}

const CLIENT: (Ipv4Addr, u16) = (at::CLIENT, 4000);
const OUTSIDE: (Ipv4Addr, u16) = (at::OUTSIDE, 4000);
const WEB: (Ipv4Addr, u16) = (at::CLUSTER_IP, 80);
const FAR_WEB: (Ipv4Addr, u16) = (at::FAR, 8080);
const NODE_PORT: (Ipv4Addr, u16) = (at::NODE_A, 30_080);
const MASQUERADED: (Ipv4Addr, u16) = (at::TUNNEL_ADDRESS, at::MASQUERADE_PORT);

fn stories<A: Host>() -> Vec<Story> {
    let mut all = cluster_ips::<A>();
    all.extend(external::<A>());
    all.extend(verdicts::<A>());
    all.extend(shapes::<A>());
    all.extend(errors::<A>());
    all
}

fn cluster_ips<A: Host>() -> Vec<Story> {
    let tcp = tcp_of::<A>;
    let udp = udp_of::<A>;
    let dns = (at::CLUSTER_IP, 53);
    let dns_2 = (at::CLUSTER_IP, 54);
    let far_dns = (at::FAR, 5353);
    let hairpin = (at::CLIENT, 8083);
    let as_node = (at::NODE_A, at::MASQUERADE_PORT);
    vec![
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
                goes_out('a', POD)
                    .becomes(&tcp(WEB, CLIENT, SYN_ACK))
                    .counts(&[EgressFromFrontend]),
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
        ),
        story(
            "no handshake, no established flow",
            vec![
                enters('a', POD, &tcp(CLIENT, WEB, SYN)).becomes(&tcp(CLIENT, FAR_WEB, SYN)),
                enters('a', POD, &tcp(CLIENT, WEB, ACK))
                    .becomes(&tcp(CLIENT, FAR_WEB, ACK))
                    .counts(&[IngressToBackend])
                    .leaves_entries(0, 2),
                leaves('a', POD, &tcp(FAR_WEB, CLIENT, SYN_ACK))
                    .becomes(&tcp(WEB, CLIENT, SYN_ACK)),
                enters('a', POD, &segment::<A>(CLIENT, WEB, tcp::ACK, (1001, 4999)))
                    .becomes(&segment::<A>(CLIENT, FAR_WEB, tcp::ACK, (1001, 4999)))
                    .leaves_entries(0, 2),
            ],
        ),
        story(
            "datagrams, and a second service with the same backend",
            vec![
                enters('a', POD, &udp(CLIENT, dns))
                    .becomes(&udp(CLIENT, far_dns))
                    .counts(&[FlowOpened, IngressToBackend]),
                enters('a', POD, &udp(CLIENT, dns_2))
                    .becomes(&udp((at::CLIENT, at::MASQUERADE_PORT), far_dns))
                    .counts(&[FlowOpened, IngressToBackend, PortRemapped])
                    .leaves_entries(0, 4),
                leaves('a', POD, &udp(far_dns, CLIENT))
                    .becomes(&udp(dns, CLIENT))
                    .counts(&[EgressFromFrontend]),
                leaves('a', POD, &udp(far_dns, (at::CLIENT, at::MASQUERADE_PORT)))
                    .becomes(&udp(dns_2, CLIENT))
                    .counts(&[EgressFromFrontend]),
                enters('a', POD, &udp(CLIENT, dns))
                    .becomes(&udp(CLIENT, far_dns))
                    .counts(&[FlowEstablished, IngressToBackend])
                    .leaves_entries(2, 2),
            ],
        ),
        story(
            "a pod that reaches itself",
            vec![
                enters('a', POD, &tcp(CLIENT, (at::CLUSTER_IP, 83), SYN))
                    .becomes(&tcp(CLIENT, hairpin, SYN))
                    .counts(&[FlowOpened, IngressToBackend])
                    .leaves_entries(0, 3),
                goes_out('a', POD)
                    .becomes(&tcp(as_node, hairpin, SYN))
                    .counts(&[EgressMasqueraded])
                    .leaves_entries(0, 4),
                enters('a', POD, &tcp(hairpin, as_node, SYN_ACK))
                    .becomes(&tcp(hairpin, CLIENT, SYN_ACK))
                    .counts(&[IngressToClient]),
                goes_out('a', POD)
                    .becomes(&tcp((at::CLUSTER_IP, 83), CLIENT, SYN_ACK))
                    .counts(&[EgressFromFrontend]),
            ],
        ),
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
        ),
    ]
}

fn external<A: Host>() -> Vec<Story> {
    let tcp = tcp_of::<A>;
    let other = (at::OUTSIDE, 4001);
    let local = (at::NODE_A, 30_081);
    let near = (at::NEAR, 8081);
    let affinity = (at::EXTERNAL, 8000);
    let as_node = (at::NODE_A, at::MASQUERADE_PORT);
    vec![
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
                enters('a', UPLINK, &tcp(OUTSIDE, NODE_PORT, FIN))
                    .becomes(&tcp(OUTSIDE, FAR_WEB, FIN)),
                enters('a', UPLINK, &tcp(OUTSIDE, NODE_PORT, SYN))
                    .becomes(&tcp(OUTSIDE, FAR_WEB, SYN))
                    .counts(&[FlowOpened, IngressToBackend])
                    .leaves_entries(0, 3),
            ],
        ),
        story(
            "no port is left to masquerade with",
            vec![
                enters('a', UPLINK, &tcp(OUTSIDE, NODE_PORT, SYN))
                    .becomes(&tcp(OUTSIDE, FAR_WEB, SYN)),
                goes_out('a', TUNNEL).becomes(&tcp(MASQUERADED, FAR_WEB, SYN)),
                enters('a', UPLINK, &tcp(other, NODE_PORT, SYN)).becomes(&tcp(other, FAR_WEB, SYN)),
                Step {
                    counters: [vec![DroppedNoPort], vec![PortRetried; 12]].concat(),
                    ..goes_out('a', TUNNEL).dropped(DroppedNoPort)
                },
            ],
        ),
        story(
            "Local policy keeps the client's address",
            vec![
                enters('a', UPLINK, &tcp(OUTSIDE, local, SYN))
                    .becomes(&tcp(OUTSIDE, near, SYN))
                    .counts(&[FlowOpened, IngressToBackend])
                    .leaves_entries(0, 2),
                goes_out('a', POD).counts(&[EgressPassed]),
                enters('a', POD, &tcp(near, OUTSIDE, SYN_ACK)).counts(&[IngressPassed]),
                goes_out('a', UPLINK)
                    .becomes(&tcp(local, OUTSIDE, SYN_ACK))
                    .counts(&[EgressFromFrontend]),
            ],
        ),
        story(
            "Local policy without a local backend",
            vec![
                enters('a', UPLINK, &tcp(OUTSIDE, (at::EXTERNAL, 80), SYN)).dropped(DroppedPolicy),
                enters('a', POD, &tcp(CLIENT, (at::EXTERNAL, 80), SYN))
                    .becomes(&tcp(CLIENT, FAR_WEB, SYN))
                    .counts(&[FlowOpened, IngressToBackend]),
            ],
        ),
        story(
            "source ranges",
            vec![
                enters('a', UPLINK, &tcp((at::STRANGER, 1), (at::EXTERNAL, 443), SYN))
                    .dropped(DroppedSource),
                enters('a', UPLINK, &tcp(OUTSIDE, (at::EXTERNAL, 443), SYN))
                    .becomes(&tcp(OUTSIDE, (at::NEAR, 8443), SYN))
                    .counts(&[FlowOpened, IngressToBackend]),
                goes_out('a', POD).becomes(&tcp(as_node, (at::NEAR, 8443), SYN)),
            ],
        ),
        story(
            "affinity",
            vec![
                enters('a', UPLINK, &tcp(OUTSIDE, affinity, SYN))
                    .becomes(&tcp(OUTSIDE, (at::NEAR, 8000), SYN))
                    .counts(&[FlowOpened, IngressToBackend]),
                enters('a', UPLINK, &tcp(other, affinity, SYN))
                    .becomes(&tcp(other, (at::NEAR, 8000), SYN))
                    .counts(&[AffinityHit, FlowOpened, IngressToBackend]),
            ],
        ),
    ]
}

fn verdicts<A: Host>() -> Vec<Story> {
    let tcp = tcp_of::<A>;
    let reset = [0, 81, 0x0f, 0xa0, 0, 0, 0, 0, 0, 0, 0x03, 0xe9, 0x50, tcp::RST | tcp::ACK];
    let no_port = [0, 99, 0x0f, 0xa0, 0, 0, 0, 0, 0, 0, 0x03, 0xe9, 0x50, tcp::RST | tcp::ACK];
    let is_v4 = A::of(WEB.0).into().is_ipv4();
    let unreachable: &[u8] = if is_v4 { &[3, 3] } else { &[1, 4] };
    let echo = packet::<A>(CLIENT.0, WEB.0, Payload::Echo(1));
    let other = packet::<A>(CLIENT.0, WEB.0, Payload::Raw(47, vec![0; 40]));
    let from = |destination| packet::<A>(CLIENT.0, destination, Payload::Echo(1));
    vec![
        story(
            "no backend",
            vec![
                enters('a', POD, &tcp(CLIENT, (WEB.0, 81), SYN))
                    .rejected::<A>(WEB.0, CLIENT.0, &reset, RejectedNoBackend)
                    .leaves_entries(0, 0),
                enters('a', POD, &udp_of::<A>(CLIENT, (WEB.0, 82))).rejected::<A>(
                    WEB.0,
                    CLIENT.0,
                    unreachable,
                    RejectedNoBackend,
                ),
            ],
        ),
        story(
            "a ClusterIP, but none of its ports",
            vec![
                enters('a', POD, &tcp(CLIENT, (WEB.0, 99), SYN)).rejected::<A>(
                    WEB.0,
                    CLIENT.0,
                    &no_port,
                    RejectedNoPort,
                ),
                enters('a', POD, &udp_of::<A>(CLIENT, (WEB.0, 99))).rejected::<A>(
                    WEB.0,
                    CLIENT.0,
                    unreachable,
                    RejectedNoPort,
                ),
                enters('a', POD, &echo).rejected::<A>(WEB.0, CLIENT.0, unreachable, RejectedNoPort),
                enters('a', POD, &other).rejected::<A>(
                    WEB.0,
                    CLIENT.0,
                    unreachable,
                    RejectedNoPort,
                ),
            ],
        ),
        story(
            "an address nobody has",
            vec![
                enters('a', POD, &tcp(CLIENT, (at::UNALLOCATED, 80), SYN))
                    .dropped(DroppedUnallocated),
                enters('a', POD, &from(at::UNALLOCATED)).dropped(DroppedUnallocated),
            ],
        ),
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
        ),
        story(
            "a row that belongs to another service",
            vec![enters('a', POD, &tcp(CLIENT, (WEB.0, 84), SYN)).dropped(DroppedBroken)],
        ),
    ]
}

/// Packets that are not of the simplest form.
fn shapes<A: Host>() -> Vec<Story> {
    let big = |from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)| {
        packet::<A>(from.0, to.0, Payload::udp_of(from.1, to.1, 1000))
    };
    let (dns, far_dns) = ((at::CLUSTER_IP, 53), (at::FAR, 5353));
    let (to_dns, to_far) = (big(CLIENT, dns), big(CLIENT, far_dns));
    let (back_far, back_dns) = (big(far_dns, CLIENT), big(dns, CLIENT));
    let framed = |packet: &Packet, index: usize| packet.framed(&packet.fragments(77, 400)[index]);
    let fragment = |hook: Step, from: &Packet, to: &Packet, index: usize, counter: Counter| Step {
        packet: Some(framed(from, index)),
        expected: Expected::Frame(framed(to, index)),
        counters: vec![counter],
        ..hook
    };
    let with = |to: (Ipv4Addr, u16), change: &dyn Fn(&mut Packet)| {
        let mut packet = tcp_of::<A>(CLIENT, to, SYN);
        change(&mut packet);
        packet
    };
    let options = |packet: &mut Packet| {
        packet.options = vec![1; 12];
        packet.extensions = vec![extension::HOP_BY_HOP, extension::DESTINATION, extension::ROUTING];
    };
    let too_many = |packet: &mut Packet| packet.extensions = vec![extension::DESTINATION; 7];
    let many = if A::of(WEB.0).into().is_ipv4() {
        enters('a', POD, &with(WEB, &options)).becomes(&with(FAR_WEB, &options))
    } else {
        enters('a', POD, &with(WEB, &too_many)).counts(&[PassedHeaders])
    };
    let vlan = |packet: &mut Packet| packet.vlan = Some(7);
    let mut cut = tcp_of::<A>(CLIENT, WEB, SYN).frame();
    cut.truncate(cut.len() - 1);
    let mut plain = udp_of::<A>(CLIENT, dns);
    plain.payload = Payload::Udp(Ports(4000, 53), Udp { has_checksum: false, data: vec![7; 9] });
    let mut plain_far = udp_of::<A>(CLIENT, far_dns);
    plain_far.payload =
        Payload::Udp(Ports(4000, 5353), Udp { has_checksum: false, data: vec![7; 9] });
    let mut padded = tcp_of::<A>(CLIENT, WEB, SYN).frame();
    padded.extend([0xee; 6]);
    let mut padded_far = tcp_of::<A>(CLIENT, FAR_WEB, SYN).frame();
    padded_far.extend([0xee; 6]);
    let inside = || step('a', Program::In, POD, None);
    let outside = || step('a', Program::Out, POD, None);
    vec![
        story(
            "fragments follow their first one",
            vec![
                fragment(inside(), &to_dns, &to_dns, 1, PassedFragment),
                Step {
                    counters: vec![FlowOpened, IngressToBackend],
                    ..fragment(inside(), &to_dns, &to_far, 0, IngressToBackend)
                },
                fragment(inside(), &to_dns, &to_far, 2, IngressFragment),
                fragment(inside(), &to_dns, &to_far, 1, IngressFragment),
                fragment(outside(), &back_far, &back_dns, 0, EgressFromFrontend),
                fragment(outside(), &back_far, &back_dns, 1, EgressFragment),
                fragment(outside(), &back_far, &back_dns, 2, EgressFragment),
            ],
        ),
        story(
            "options and extension headers",
            vec![
                enters('a', POD, &with(WEB, &options))
                    .becomes(&with(FAR_WEB, &options))
                    .counts(&[FlowOpened, IngressToBackend]),
                many,
            ],
        ),
        story(
            "a frame with padding",
            vec![Step {
                packet: Some(padded),
                ..enters('a', POD, &plain).becomes_frame(padded_far)
            }],
        ),
        story(
            "no UDP checksum stays none",
            vec![
                enters('a', POD, &plain)
                    .becomes(&plain_far)
                    .counts(&[FlowOpened, IngressToBackend]),
            ],
        ),
        story(
            "what cannot be read is left alone",
            vec![
                enters('a', POD, &with(WEB, &vlan)).counts(&[PassedNotIp]),
                leaves('a', POD, &with(WEB, &vlan)).counts(&[PassedNotIp]),
                Step { packet: Some(cut), ..inside().counts(&[PassedMalformed]) },
            ],
        ),
    ]
}

fn errors<A: Host>() -> Vec<Story> {
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
    let nobodys = about(tcp((at::STRANGER, 1), (at::NEAR, 2), ACK), Error::TooBig, 1000);
    vec![
        story("ICMP errors about translated packets", steps),
        story(
            "ICMP errors about other packets",
            vec![
                enters('a', UPLINK, &nobodys).counts(&[IngressPassed]),
                leaves('a', POD, &nobodys).counts(&[EgressPassed]),
            ],
        ),
    ]
}

/// Devices without a link layer: packets begin with the IP header.
fn raw<A: Host>() -> Vec<Story> {
    let outside = (at::RAW_OUTSIDE, 4000);
    let (frontend, backend) = ((at::EXTERNAL, 8008), (at::RAW, 8080));
    let empty = (at::CLUSTER_IP, 81);
    let reset = [0, 81, 0x0f, 0xa0, 0, 0, 0, 0, 0, 0, 0x03, 0xe9, 0x50, tcp::RST | tcp::ACK];
    let with = |program, from, to, what| {
        step('a', program, UPLINK, Some(tcp_of::<A>(from, to, what).packet()))
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
                &reset,
                RejectedNoBackend,
            ),
        ],
    )]
}

/// Both nodes.
struct Stage {
    a: Pair,
    b: Pair,
}

impl Stage {
    fn pair(&self, name: char) -> &Pair {
        if name == 'a' { &self.a } else { &self.b }
    }

    fn play(&mut self, story: &Story, entries: impl Fn(&Pair) -> (usize, usize)) -> Result<()> {
        self.a.forget()?;
        self.b.forget()?;
        let mut last = Vec::new();
        for (index, step) in story.steps.iter().enumerate() {
            last = self.step(step, last, &entries).with_context(|| {
                format!(
                    "{:?}, step {} ({:?} at {})",
                    story.name,
                    index + 1,
                    step.program,
                    step.node
                )
            })?;
        }
        Ok(())
    }

    fn step(
        &self,
        step: &Step,
        last: Vec<u8>,
        entries: impl Fn(&Pair) -> (usize, usize),
    ) -> Result<Vec<u8>> {
        let pair = self.pair(step.node);
        let frame = step.packet.clone().unwrap_or(last);
        let before = pair.node.counted();
        let outcome = pair.run(step.program, step.device, &frame)?;
        ensure!(outcome.verdict == step.verdict, "verdict {:?}", outcome.verdict);
        let is_raw = matches!(step.program, Program::InRaw | Program::OutRaw);
        let check = if is_raw { check_packet } else { check_frame };
        if check(&frame).is_ok() {
            check(&outcome.frame).context("a checksum is wrong")?;
        }
        match &step.expected {
            Expected::Same => ensure!(outcome.frame == frame, "it was changed"),
            Expected::Frame(expected) => ensure!(
                outcome.frame == *expected,
                "the packet is\n  {:02x?}, expected\n  {expected:02x?}",
                outcome.frame
            ),
            Expected::Answer(from, to, start) => {
                is_answer(&outcome.frame[if is_raw { 0 } else { 14 }..], *from, *to, start)?;
            }
        }
        let mut counted = Vec::new();
        for (counter, count) in pair.node.counted() {
            let known = before.iter().find(|(of, _)| *of == counter).map_or(0, |(_, count)| *count);
            counted.extend(vec![counter; usize::try_from(count - known)?]);
        }
        let mut wanted = step.counters.clone();
        wanted.sort_by_key(|counter| *counter as u32);
        ensure!(wanted.is_empty() || counted == wanted, "counted {counted:?}");
        let outcomes = counted.iter().filter(|counter| counter.is_packet_outcome()).count();
        ensure!(outcomes == 1, "{outcomes} outcomes of one packet: {counted:?}");
        let left = entries(pair);
        ensure!(step.entries.is_none_or(|wanted| left == wanted), "entries: {left:?}");
        pair.agree()?;
        Ok(outcome.frame)
    }
}

/// Whether an IP packet goes from one to the other and its transport begins so.
fn is_answer(packet: &[u8], from: IpAddr, to: IpAddr, start: &[u8]) -> Result<()> {
    let bytes = |address: IpAddr| match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    let header = if from.is_ipv4() { 20 } else { 40 };
    let addresses = [bytes(from), bytes(to)].concat();
    ensure!(packet[header - addresses.len()..header] == addresses, "addresses of {packet:02x?}");
    ensure!(packet[header..].starts_with(start), "{packet:02x?}, expected {start:02x?}");
    Ok(())
}

fn tell(mut stage: Stage) -> Result<()> {
    for story in stories::<V4>().into_iter().chain(raw::<V4>().into_iter()) {
        let entries = |pair: &Pair| (pair.node.v4.flows.len(), pair.node.v4.half_open.len());
        stage.play(&story, entries).context("IPv4")?;
    }
    for story in stories::<V6>().into_iter().chain(raw::<V6>().into_iter()) {
        let entries = |pair: &Pair| (pair.node.v6.flows.len(), pair.node.v6.half_open.len());
        stage.play(&story, entries).context("IPv6")?;
    }
    Ok(())
}

#[test]
fn every_story_ends_as_it_should_natively() -> Result<()> {
    let (a, b) = (Pair::native(at::node(at::NODE_A)), Pair::native(at::node(at::NODE_B)));
    tell(Stage { a, b })
}

#[test]
fn every_story_goes_the_same_way_in_the_kernel() -> Result<()> {
    let (a, b) = (Pair::load(at::node(at::NODE_A))?, Pair::load(at::node(at::NODE_B))?);
    tell(Stage { a, b })
}

#[test]
fn the_stories_would_notice_a_wrong_checksum() {
    let mut frame = tcp_of::<V4>(CLIENT, WEB, SYN).frame();
    assert!(are_valid(&frame));
    frame[24] ^= 1;
    assert!(!are_valid(&frame));
}
