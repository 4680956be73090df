//! Packets that are not plain: fragments, options, ICMP errors, narrow paths, strays.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::lab::{Builder, Family, InterNode, Lab, Place, PodNetwork, address};
use millrace_tests::manifest::Slice;
use millrace_tests::probe::{self, Held, Outcome};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::wire::{
    ACK, Draft, ICMP, ICMPV6, PSH, RST, Seen, Segment, TCP, UDP, Wire, hardware_address,
};
use millrace_tests::world::{SMALL_MAPS, TARGET_PORT, World, cluster_ip, reach, seen_as};

/// NodePorts on n1: of the pod there, of the pod on n2, of the pod there with the client's address.
const NEAR: u16 = 30080;
const FAR: u16 = 30081;
const LOCAL: u16 = 30082;
const ALL: [u16; 3] = [NEAR, FAR, LOCAL];
/// A port that no socket of the client has.
const RAW_PORT: u16 = 7;
/// A port that no pod's server has.
const CLOSED_PORT: u16 = 9;
/// Enough for several windows of segments, each way.
const BULK_BYTES: &str = "1000000";
/// The smallest MTU that IPv6 allows.
const HOP_MTU: u32 = 1280;
/// Far from every sequence number in use: they start anywhere, so any window is missed nearly
/// always by half the space.
const OUT_OF_WINDOW: u32 = 1 << 31;

/// How long a change may take to be noticed by a pod's own refusal.
const PATIENCE: Duration = CHANGE_TIMEOUT;
/// Lengths of headers, in bytes.
const UDP_HEADER: usize = 8;
const TCP_HEADER: usize = 20;
/// Where IPv6 says what follows.
const IPV6_NEXT_AT: usize = 6;

fn two_nodes() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b")
}

/// The pod behind one of the NodePorts.
fn behind(port: u16) -> &'static str {
    if port == FAR { "n2/b" } else { "n1/a" }
}

fn serve(world: &World) -> Result<()> {
    for (index, port) in (1..).zip(ALL) {
        world.service(&format!("s{port}"), index, &[behind(port)], |service| {
            let service = service.node_port_for_all(port);
            if port == LOCAL { service.external_local() } else { service }
        })?;
    }
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        for port in ALL {
            reach(outside, frontend(world, family, port), &[name(port)])?;
        }
    }
    Ok(())
}

fn served(builder: Builder) -> Result<World> {
    let world = World::new(builder)?;
    serve(&world)?;
    Ok(world)
}

fn name(port: u16) -> &'static str {
    if port == FAR { "b" } else { "a" }
}

fn frontend(world: &World, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(world.lab.node("n1").address(family), port)
}

/// Where the client's raw packets come from.
fn raw_source(family: Family) -> SocketAddr {
    SocketAddr::new(address::outside(family), RAW_PORT)
}

/// A cable of the pod behind a NodePort.
fn cable(world: &World, port: u16) -> Result<Wire> {
    let (node, pod) = behind(port).split_once('/').context("node/pod")?;
    Wire::open(world.lab.pod(node, pod), "eth0")
}

fn backend(world: &World, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(world.pod_address(behind(port), family), TARGET_PORT)
}

/// ICMP's type and code for "port unreachable" and for "too big".
fn unreachable(family: Family) -> Option<(u8, u8)> {
    Some(if family == Family::V4 { (3, 3) } else { (1, 4) })
}

fn too_big(family: Family) -> Option<(u8, u8)> {
    Some(if family == Family::V4 { (3, 4) } else { (2, 0) })
}

fn succeeds(client: &Place, arguments: &[&str]) -> Result<()> {
    let outcomes: Vec<Outcome> = probe::run(client, arguments)?;
    let from = client.name();
    ensure!(outcomes.iter().all(|o| o.ok), "{from}: {arguments:?}: {outcomes:?}");
    Ok(())
}

/// Waits for the answer to a raw question, which must come from where it was sent.
fn answered(wire: &mut Wire, to: SocketAddr, server: &str) -> Result<()> {
    let mine = |seen: &Seen| seen.protocol == UDP && seen.to().port() == RAW_PORT && !seen.outgoing;
    let answer = wire.expect("an answer", mine)?;
    let text = String::from_utf8_lossy(&answer.payload).into_owned();
    ensure!(answer.from() == to && text.starts_with(server), "{text}: {answer:?}");
    ensure!(answer.sound != Some(false), "a wrong checksum: {answer:?}");
    wire.forget()
}

/// "handle large requests": more than a frame, both ways. The first may be lost to the discovery
/// that the pods' devices take less than the client's.
#[test]
fn large_datagrams_are_answered() -> Result<()> {
    for inter in [InterNode::Direct, InterNode::Vxlan] {
        let world = served(two_nodes().inter_node(inter))?;
        let vm = world.lab.pod("n1", "client").as_vm();
        for &family in world.lab.families() {
            for size in ["2000", "8000"] {
                let ask = |client: &Place, to: SocketAddr| {
                    let to = to.to_string();
                    let arguments = ["udp-unconnected", &to, "--echo", size];
                    let arguments = [&arguments[..], &["--timeout-ms", "500"]].concat();
                    wait::until(&format!("{size} bytes from {to}"), PATIENCE, || {
                        succeeds(client, &arguments)
                    })
                };
                for (index, port) in (1..).zip(ALL) {
                    ask(world.lab.outside(), frontend(&world, family, port))?;
                    ask(&vm, cluster_ip(family, index))?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn fragments_find_their_backend_in_any_order() -> Result<()> {
    let world = served(two_nodes())?;
    let mut wire = Wire::open(world.lab.outside(), "eth0")?;
    let node = hardware_address(world.lab.node("n1"), "eth0")?;
    let padded = [&b"who"[..], &[b' '; 3997]].concat();
    let mut identification = 0;
    for &family in world.lab.families() {
        for port in ALL {
            let to = frontend(&world, family, port);
            for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
                identification += 1;
                let draft = Draft::udp(raw_source(family), to, &padded);
                let mut draft = draft.identification(identification);
                if family == Family::V6 && order[0] == 0 {
                    draft = draft.extension_headers();
                }
                let fragments = draft.fragments(1400);
                for at in order {
                    wire.send(node, &fragments[at])?;
                }
                answered(&mut wire, to, name(port))
                    .with_context(|| format!("fragments {order:?} to {to}"))?;
            }
        }
    }
    Ok(())
}

#[test]
fn ipv4_options_and_ipv6_extension_headers_are_passed_over() -> Result<()> {
    /// No operation; router alert.
    const OPTIONS: [&[u8]; 2] = [&[1, 1, 1, 1], &[148, 4, 0, 0]];
    let world = served(two_nodes())?;
    let mut wire = Wire::open(world.lab.outside(), "eth0")?;
    let node = hardware_address(world.lab.node("n1"), "eth0")?;
    for &family in world.lab.families() {
        for port in ALL {
            let to = frontend(&world, family, port);
            let plain = Draft::udp(raw_source(family), to, b"who");
            let drafts = match family {
                Family::V4 => OPTIONS.map(|bytes| plain.clone().options(bytes)).to_vec(),
                Family::V6 => vec![plain.extension_headers()],
            };
            for draft in drafts {
                wire.send(node, &draft.packet())?;
                answered(&mut wire, to, name(port)).with_context(|| format!("{draft:?}"))?;
            }
        }
    }
    Ok(())
}

/// Both ends must learn of the hop between them: the client from the router on its side, the pod
/// from the router on the node's side, whose message names the frontend.
#[test]
fn bulk_passes_a_narrow_hop() -> Result<()> {
    let world = served(two_nodes().distant_client(HOP_MTU))?;
    let distant = world.lab.distant();
    for &family in world.lab.families() {
        for port in ALL {
            // What it knows of the path would make it ask for small segments from the start.
            distant.ip_of(family, &["route flush cache".into()])?;
            let to = frontend(&world, family, port);
            let mut inside = cable(&world, port)?;
            succeeds(distant, &["connect", &to.to_string(), "--echo", BULK_BYTES])?;
            let own = backend(&world, family, port);
            inside.expect("too big", |seen| {
                let quoted = seen.quoted().is_some_and(|quoted| quoted.from() == own);
                seen.icmp_kind() == too_big(family) && quoted && seen.sound != Some(false)
            })?;
        }
    }
    Ok(())
}

/// Segments that devices cut, through every kind of device.
#[test]
fn bulk_passes_bundled_segments() -> Result<()> {
    for network in [PodNetwork::Bridge, PodNetwork::PointToPoint] {
        let world = served(two_nodes().pod_network(network).inter_node(InterNode::Vxlan))?;
        let vm = world.lab.pod("n1", "client").as_vm();
        for &family in world.lab.families() {
            for (index, port) in (1..).zip(ALL) {
                let node_port = frontend(&world, family, port).to_string();
                succeeds(world.lab.outside(), &["connect", &node_port, "--echo", BULK_BYTES])?;
                let cluster_ip = cluster_ip(family, index).to_string();
                succeeds(&vm, &["connect", &cluster_ip, "--echo", BULK_BYTES])?;
            }
        }
    }
    Ok(())
}

/// A backend's refusal reaches the client as the frontend's.
#[test]
fn errors_of_backends_are_translated() -> Result<()> {
    let world = served(two_nodes())?;
    let outside = world.lab.outside();
    let mut wire = Wire::open(outside, "eth0")?;
    for &family in world.lab.families() {
        for port in ALL {
            let service = format!("s{port}");
            let slice = Slice::new(&format!("{service}-closed"), &service, family);
            let pods = world.ready(&[behind(port)], family);
            world.apply(&slice.port("main", "UDP", CLOSED_PORT).endpoints(pods))?;
            world.apply(&world.empty_slice(&service, family))?;
            let (to, mut inside) = (frontend(&world, family, port), cable(&world, port)?);
            wire.forget()?;
            let refused = |seen: &Seen| seen.icmp_kind() == unreachable(family);
            // Until the pod itself has refused, it may have been the node.
            wait::until("the pod to refuse", PATIENCE, || {
                wire.forget()?;
                let outcome = &probe::udp_connected(outside, to, 1)?[0];
                ensure!(outcome.error.as_deref() == Some("ECONNREFUSED"), "{outcome:?}");
                let own = inside.seen()?.iter().any(|seen| seen.outgoing && refused(seen));
                ensure!(own, "not the pod");
                Ok(())
            })?;
            let error = wire.expect("the refusal", |seen| refused(seen) && !seen.outgoing)?;
            let quoted = error.quoted().map(Seen::to);
            ensure!(error.source == to.ip() && quoted == Some(to), "{error:?}");
            ensure!(error.sound != Some(false), "a wrong checksum: {error:?}");
        }
    }
    Ok(())
}

/// A client's refusal reaches the backend as if it had sent the refused packet itself.
#[test]
fn errors_of_clients_are_translated() -> Result<()> {
    let world = served(two_nodes())?;
    let mut wire = Wire::open(world.lab.outside(), "eth0")?;
    let node = hardware_address(world.lab.node("n1"), "eth0")?;
    for &family in world.lab.families() {
        for port in ALL {
            let (to, mut inside) = (frontend(&world, family, port), cable(&world, port)?);
            // The client's kernel refuses the answer, for no socket waits for it.
            wire.send(node, &Draft::udp(raw_source(family), to, b"who").packet())?;
            answered(&mut wire, to, name(port))?;
            let own = backend(&world, family, port);
            inside.expect("the client's refusal", |seen| {
                let quoted = seen.quoted().is_some_and(|quoted| quoted.from() == own);
                let refused = seen.icmp_kind() == unreachable(family) && !seen.outgoing;
                refused && quoted && seen.target == own.ip() && seen.sound != Some(false)
            })?;
        }
    }
    Ok(())
}

/// "not vulnerable to the invalid conntrack state bug": what the client cannot place must look as
/// if the frontend had sent it, or it would reset the connection.
#[test]
fn out_of_window_segments_do_not_reach_the_client_as_they_are() -> Result<()> {
    let world = served(two_nodes().drop_invalid())?;
    let outside = world.lab.outside();
    let mut wire = Wire::open(outside, "eth0")?;
    for &family in world.lab.families() {
        for port in [NEAR, LOCAL] {
            let (mut held, _) = Held::open(outside, "tcp", frontend(&world, family, port))?;
            let seen = held.send()?.seen.context("the server saw the client")?;
            let (pod, own) = (world.lab.pod("n1", "a"), backend(&world, family, port));
            let inside = Wire::open(pod, "eth0")?;
            let gateway = world.lab.gateway_device(pod);
            let gateway = hardware_address(world.lab.node("n1"), &gateway)?;
            for sequence in [0, OUT_OF_WINDOW] {
                let flags = ACK | PSH;
                let segment = Segment { flags, sequence, acknowledged: OUT_OF_WINDOW };
                let packet = Draft::tcp(own, seen, segment, b"out of window").packet();
                inside.send(gateway, &packet)?;
            }
            let after = held.send()?;
            ensure!(after.who() == "a", "{after:?}");
            wire.expect_none("an answer as the pod sent it", |s| s.source == own.ip())?;
            wire.expect_none("a reset", |s| s.has(RST))?;
            drop(held);
            wire.forget()?;
        }
    }
    Ok(())
}

/// What is not for a frontend is none of our business, mid-flow or not.
#[test]
fn what_is_not_ours_passes_as_it_is() -> Result<()> {
    let mut world = World::without_agents(two_nodes(), &[])?;
    let outside = world.lab.outside().clone();
    let direct = |family| SocketAddr::new(world.pod_address("n1/a", family), TARGET_PORT);
    let targets: Vec<_> = world.lab.families().iter().map(|&family| direct(family)).collect();
    let mut helds = Vec::new();
    for &to in &targets {
        let (mut held, _) = Held::open(&outside, "tcp", to)?;
        let before = held.send()?.seen;
        helds.push((held, before));
    }
    // It was there before the agents, and goes to what becomes a backend.
    world.start_agents(SMALL_MAPS)?;
    serve(&world)?;
    for (held, before) in &mut helds {
        let after = held.send()?;
        ensure!(after.ok && after.seen == *before, "{after:?}");
    }
    let mut wire = Wire::open(&outside, "eth0")?;
    let mut inside = cable(&world, LOCAL)?;
    let node = hardware_address(world.lab.node("n1"), "eth0")?;
    for (&family, to) in world.lab.families().iter().zip(targets) {
        seen_as(&outside, to, &[address::outside(family)])?;
        let from = raw_source(family);
        let stray = Segment { flags: ACK, sequence: 1, acknowledged: 1 };
        wire.send(node, &Draft::tcp(from, to, stray, b"stray").packet())?;
        inside.expect("the stray segment", |seen| {
            seen.from() == from && seen.to() == to && seen.payload == b"stray"
        })?;
        wire.expect("the pod's reset", |seen| seen.from() == to && seen.has(RST))?;
        // The node still answers for itself: a ping, and a port that is no NodePort.
        let (request, reply) = if family == Family::V4 { (8, 0) } else { (128, 129) };
        let own = world.lab.node("n1").address(family);
        let ping = Draft::icmp_error(from.ip(), own, (request, 0), 1, b"ping");
        wire.send(node, &ping.packet())?;
        wire.expect("the node's reply", |seen| {
            seen.icmp_kind() == Some((reply, 0)) && seen.source == own
        })?;
        let closed = Draft::udp(from, SocketAddr::new(own, CLOSED_PORT), b"who").packet();
        // Again and again, for the kernel sends few refusals per second to one client.
        wait::until("the node's refusal", PATIENCE, || {
            wire.send(node, &closed)?;
            let refused = |seen: &Seen| seen.icmp_kind() == unreachable(family);
            ensure!(wire.seen()?.iter().any(refused), "none");
            Ok(())
        })?;
    }
    Ok(())
}

/// Nothing is made of them, and what follows is served.
#[test]
fn truncated_packets_lead_nowhere() -> Result<()> {
    let world = served(two_nodes())?;
    let mut wire = Wire::open(world.lab.outside(), "eth0")?;
    let mut inside = cable(&world, LOCAL)?;
    let node = hardware_address(world.lab.node("n1"), "eth0")?;
    let opening = Segment { flags: PSH, sequence: 1, acknowledged: 1 };
    for &family in world.lab.families() {
        let (from, to) = (raw_source(family), frontend(&world, family, LOCAL));
        let error = |quoted: &[u8]| {
            let (kind, code) = unreachable(family).unwrap_or_default();
            Draft::icmp_error(from.ip(), to.ip(), (kind, code), 0, quoted)
        };
        let answer = Draft::udp(to, from, b"who").packet();
        for bytes in 0..UDP_HEADER {
            wire.send(node, &Draft::udp(from, to, b"who").truncated(bytes).packet())?;
            wire.send(node, &error(&answer[..bytes * 4]).packet())?;
        }
        for bytes in 0..TCP_HEADER {
            wire.send(node, &Draft::tcp(from, to, opening, b"").truncated(bytes).packet())?;
        }
        // Headers that lie about their own length, and packets that end before they said.
        let whole = Draft::udp(from, to, b"who").packet();
        for length in 1..whole.len() - 3 {
            wire.send(node, &whole[..length])?;
        }
        let mut lies = whole.clone();
        lies[0] = lies[0] & 0xf0 | if family == Family::V4 { 4 } else { 0 };
        lies[IPV6_NEXT_AT] = if family == Family::V6 { 0 } else { lies[IPV6_NEXT_AT] };
        wire.send(node, &lies)?;
        wire.forget()?;
        wire.send(node, &whole)?;
        answered(&mut wire, to, "a")?;
        let ours = |seen: &Seen| {
            let known = [TCP, UDP, ICMP, ICMPV6].contains(&seen.protocol);
            !seen.outgoing && known && seen.source == from.ip()
        };
        let made: Vec<_> = inside.seen()?.iter().filter(|seen| ours(seen)).cloned().collect();
        let whole = made.iter().filter(|seen| seen.payload == b"who").count();
        // The whole question, and the client's refusal of the answer.
        ensure!(whole == 1, "{made:#?}");
        let half = made.iter().find(|seen| seen.protocol == TCP || seen.sound == Some(false));
        ensure!(half.is_none(), "{half:#?}");
        inside.forget()?;
    }
    Ok(())
}
