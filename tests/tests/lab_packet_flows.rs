//! Flows of packets over time: backends that come and go under them, agents that die, floods.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use millrace::bpf::flows::FlowStore;
use millrace::bpf::pins::Pins;
use millrace::bpf::store::Cursor;
use millrace::flows::FlowRows;
use millrace::flows::filter::FilterRow as _;
use millrace_common::address::Address;
use millrace_common::flow::{Flow, bits, role};
use millrace_common::packet::tables::Table;
use millrace_tests::lab::{Builder, Family, Lab, Place, address};
use millrace_tests::load::{EVERY_KIND, Loads};
use millrace_tests::manifest::{Service, Slice};
use millrace_tests::probe::{Held, Outcome, Server};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::wire::{Draft, SYN, Segment, Wire, hardware_address};
use millrace_tests::world::{
    Client, SMALL_MAPS, TARGET_PORT, World, cluster_ip, reach, reach_by, rejected,
};

const NODE_PORT: u16 = 30080;
/// The NodePort of a Service whose pods refuse, and the port they refuse at.
const SINK_PORT: u16 = 30099;
const CLOSED_PORT: u16 = 9;
/// Room for every flow of a load, also while no agent is there to remove those that are over.
const LARGE_MAPS: &[&str] = &["--max-services=2000", "--max-flows=200000", "--max-half-open=65536"];
/// The source port that clients keep.
const SOURCE_PORT: u16 = 5555;
/// Load before, between and after the steps of a restart.
const PAUSE: Duration = Duration::from_millis(200);
/// Fillings of the flow filter: the first, and each half once more.
const FILLINGS: usize = 3;
/// How long one may take: passes begin ten seconds apart.
const FILLED_WITHIN: Duration = Duration::from_secs(30);
/// Spoofed packets of a flood: several times the rows there are for flows.
const FLOOD: u32 = 20_000;
/// Flows that are not answered, at most, among the established ones: a sixteenth of the rows that
/// [`SMALL_MAPS`] has for these, and one for each of some CPUs that all saw the last one left.
const UNANSWERED_MAX: usize = 4000 / 16 + 8;

fn two_nodes() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a", "c"]).pod("n2", "b")
}

/// A world with a Service in front of these pods, NodePort and all.
fn served(pods: &[&str]) -> Result<World> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, pods, |service| service.node_port_for_all(NODE_PORT))?;
    Ok(world)
}

/// Clients whose packets are translated, each with its own address and the frontend it dials.
fn dialled(world: &World, family: Family) -> [(Place, IpAddr, SocketAddr); 2] {
    let pod = world.lab.pod("n1", "client");
    let node = SocketAddr::new(world.lab.node("n1").address(family), NODE_PORT);
    [
        (pod.as_vm(), pod.address(family), cluster_ip(family, 1)),
        (world.lab.outside().clone(), address::outside(family), node),
    ]
}

/// Waits until the held socket is answered by this server.
fn moves_to(held: &mut Held, server: &str, to: SocketAddr) -> Result<()> {
    wait::until(&format!("{to} to answer as {server}"), CHANGE_TIMEOUT, || {
        let outcome = held.send()?;
        ensure!(outcome.who() == server, "{outcome:?}");
        ensure!(outcome.source == Some(to), "the answer came from elsewhere: {outcome:?}");
        Ok(())
    })
}

/// "preserve UDP when server pod cycles": NodePort, ClusterIP; same node and other node.
#[test]
fn udp_from_a_fixed_port_follows_the_endpoints() -> Result<()> {
    let world = served(&["n1/a"])?;
    for &family in world.lab.families() {
        for (place, ip, to) in dialled(&world, family) {
            for kind in ["udp-unconnected", "udp"] {
                world.apply(&world.slice("web", &["n1/a"], family))?;
                reach_by(Client::Udp, &place, to, &["a"])?;
                let from = SocketAddr::new(ip, SOURCE_PORT);
                let (mut held, _) = Held::open_from(&place, kind, to, from)?;
                moves_to(&mut held, "a", to)?;
                for (pod, server) in [("n2/b", "b"), ("n1/c", "c"), ("n1/a", "a")] {
                    world.apply(&world.slice("web", &[pod], family))?;
                    reach_by(Client::Udp, &place, to, &[server])?;
                    // The change is in the kernel: the very next datagram notices.
                    let next = held.send()?;
                    ensure!(next.who() == server && next.source == Some(to), "{next:?}");
                }
            }
        }
    }
    Ok(())
}

/// A client's port serves for a Service and, at the same time, for the Service's backend itself:
/// two dialogues, which nf_conntrack keeps apart for kube-proxy.
#[test]
fn one_port_serves_for_a_service_and_for_its_backend() -> Result<()> {
    let world = served(&["n1/a"])?;
    for &family in world.lab.families() {
        let direct = SocketAddr::new(world.lab.pod("n1", "a").address(family), TARGET_PORT);
        for (place, ip, to) in dialled(&world, family) {
            reach_by(Client::Udp, &place, to, &["a"])?;
            let from = SocketAddr::new(ip, SOURCE_PORT);
            let (mut held, _) = Held::open_from(&place, "udp-unconnected", to, from)?;
            for target in [direct, to, direct, to] {
                let outcome = held.tell(&format!("send {target}"))?;
                ensure!(outcome.source == Some(target), "{target}: {outcome:?}");
            }
            let (mut by_service, _) = Held::open_from(&place, "tcp", to, from)?;
            let (mut directly, opened) = Held::open_from(&place, "tcp", direct, from)?;
            ensure!(opened.ok, "{direct} beside {to}: {opened:?}");
            for (target, held) in [(to, &mut by_service), (direct, &mut directly)] {
                let outcome = held.send()?;
                ensure!(outcome.who() == "a", "{target}: {outcome:?}");
            }
        }
    }
    Ok(())
}

/// The same with the pod really gone: nobody is left who could refuse.
#[test]
fn udp_from_a_fixed_port_survives_its_servers_pod() -> Result<()> {
    let mut world = served(&["n1/a"])?;
    let mut helds = Vec::new();
    for &family in world.lab.families() {
        for (place, ip, to) in dialled(&world, family) {
            reach_by(Client::Udp, &place, to, &["a"])?;
            let from = SocketAddr::new(ip, SOURCE_PORT);
            let (mut held, _) = Held::open_from(&place, "udp", to, from)?;
            moves_to(&mut held, "a", to)?;
            helds.push((held, to));
        }
    }
    world.lab.remove_pod("n1", "a")?;
    world.end_server("a")?;
    for &family in world.lab.families() {
        world.apply(&world.slice("web", &["n2/b"], family))?;
    }
    helds.iter_mut().try_for_each(|(held, to)| moves_to(held, "b", *to))
}

/// "preserve UDP when initial unready endpoints get ready"
#[test]
fn udp_that_began_without_endpoints_is_served_once_there_are_some() -> Result<()> {
    let world = served(&[])?;
    for &family in world.lab.families() {
        for (place, ip, to) in dialled(&world, family) {
            world.apply(&world.empty_slice("web", family))?;
            rejected(&place, to)?;
            let from = SocketAddr::new(ip, SOURCE_PORT);
            let (mut held, _) = Held::open_from(&place, "udp-unconnected", to, from)?;
            let early = held.send()?;
            ensure!(!early.ok, "{early:?}");
            world.apply(&world.slice("web", &["n2/b"], family))?;
            moves_to(&mut held, "b", to)?;
        }
    }
    Ok(())
}

/// "cleanup when UDP target port changes (NodePort)"
#[test]
fn udp_follows_a_change_of_the_target_port() -> Result<()> {
    const OTHER_PORT: u16 = 9090;
    let mut world = served(&["n1/a"])?;
    let a = world.lab.pod("n1", "a").clone();
    world.serve(&a, "other", OTHER_PORT)?;
    for &family in world.lab.families() {
        for (place, ip, to) in dialled(&world, family) {
            world.apply(&world.slice("web", &["n1/a"], family))?;
            reach_by(Client::Udp, &place, to, &["a"])?;
            let from = SocketAddr::new(ip, SOURCE_PORT);
            let (mut held, _) = Held::open_from(&place, "udp", to, from)?;
            moves_to(&mut held, "a", to)?;
            let name = world.slice("web", &[], family).0["metadata"]["name"].clone();
            let slice = Slice::new(name.as_str().unwrap_or_default(), "web", family);
            let slice = slice.port("main", "UDP", OTHER_PORT);
            world.apply(&slice.endpoints(world.ready(&["n1/a"], family)))?;
            moves_to(&mut held, "other", to)?;
        }
    }
    Ok(())
}

/// A connection stays with its backend when that leaves the slices, as with kube-proxy.
#[test]
fn tcp_drains_when_its_backend_leaves() -> Result<()> {
    let world = served(&["n1/a"])?;
    for &family in world.lab.families() {
        for (place, _, to) in dialled(&world, family) {
            world.apply(&world.slice("web", &["n1/a"], family))?;
            reach(&place, to, &["a"])?;
            let (mut held, _) = Held::open(&place, "tcp", to)?;
            ensure!(held.send()?.who() == "a");
            world.apply(&world.slice("web", &["n2/b"], family))?;
            reach(&place, to, &["b"])?;
            let drained = held.send()?;
            ensure!(drained.who() == "a", "{drained:?}");
            // And without any endpoint the refusal is for newcomers.
            world.apply(&world.empty_slice("web", family))?;
            rejected(&place, to)?;
            let drained = held.send()?;
            ensure!(drained.who() == "a", "{drained:?}");
        }
    }
    Ok(())
}

/// What rules out flows is filled anew all the time: never so that it rules out one that lives,
/// even one that says nothing meanwhile.
#[test]
fn flows_outlive_the_fillings_of_the_filter() -> Result<()> {
    let world = served(&["n2/b"])?;
    let mut helds = Vec::new();
    for &family in world.lab.families() {
        for (place, _, to) in dialled(&world, family) {
            reach(&place, to, &["b"])?;
            helds.push(Held::open(&place, "tcp", to)?.0);
            helds.push(Held::open(&place, "udp", to)?.0);
        }
    }
    let maps = Pins::new(world.lab.node("n1").bpffs()).maps();
    let filter = FlowStore::open(&maps)?.filter()?;
    for _ in 0..FILLINGS {
        let before = filter.in_force();
        wait::until_true("the filter to be filled anew", FILLED_WITHIN, || {
            filter.in_force() != before
        })?;
        for held in &mut helds {
            let outcome = held.send()?;
            ensure!(outcome.who() == "b", "{outcome:?}");
        }
    }
    Ok(())
}

/// One client port to two frontends with one backend: two connections that differ in nothing but
/// what was dialled.
#[test]
fn one_client_port_to_two_frontends_of_one_backend() -> Result<()> {
    let world = served(&["n1/a"])?;
    world.service("twin", 2, &["n1/a"], |service| service.node_port_for_all(NODE_PORT + 1))?;
    for &family in world.lab.families() {
        for (place, ip, first) in dialled(&world, family) {
            let mut twin = cluster_ip(family, 2);
            if first.port() == NODE_PORT {
                twin = SocketAddr::new(first.ip(), NODE_PORT + 1);
            }
            for to in [first, twin] {
                reach(&place, to, &["a"])?;
            }
            for kind in ["tcp", "udp"] {
                let from = SocketAddr::new(ip, SOURCE_PORT);
                let mut helds = Vec::new();
                for to in [first, twin] {
                    let (held, opened) = Held::open_from(&place, kind, to, from)?;
                    ensure!(opened.ok, "{kind} to {to}: {opened:?}");
                    helds.push((held, to));
                    // Each of them, and again after the next has come.
                    for (held, to) in &mut helds {
                        let outcome = held.send()?;
                        ensure!(outcome.who() == "a", "{kind} to {to}: {outcome:?}");
                        ensure!(held.tell("peer")?.peer == Some(*to), "{kind} to {to}");
                    }
                }
            }
        }
    }
    Ok(())
}

/// Whether the server is the same and sees the client at the same address and port.
fn same_flow(before: &Outcome, after: &Outcome) -> bool {
    (&before.server, before.seen) == (&after.server, after.seen)
}

/// A flow that has lasted: a question that follows an answer is what tells it from a flood's.
fn established(place: &Place, kind: &str, to: SocketAddr) -> Result<(Held, Outcome)> {
    let (mut held, _) = Held::open(place, kind, to)?;
    let first = held.send()?;
    let before = held.send()?;
    ensure!(before.ok && same_flow(&first, &before), "{first:?}, then {before:?}");
    Ok((held, before))
}

/// Runs `steps` while clients of every kind dial, and one flow of each kind lives through it.
fn under_load(world: &mut World, steps: impl FnOnce(&mut World) -> Result<()>) -> Result<()> {
    let (mut loads, mut helds) = (Loads::new(), Vec::new());
    for &family in world.lab.families() {
        for (place, _, to) in dialled(world, family) {
            for kind in ["tcp", "udp"] {
                helds.push(established(&place, kind, to)?);
            }
        }
    }
    for &family in world.lab.families() {
        for (place, _, to) in dialled(world, family) {
            loads.add(&place, &EVERY_KIND, to)?;
        }
    }
    std::thread::sleep(PAUSE);
    steps(world)?;
    std::thread::sleep(PAUSE);
    for (held, before) in &mut helds {
        let after = held.send()?;
        // A UDP flow may have been idle for longer than it is remembered.
        let kept = before.source.is_some() || same_flow(before, &after);
        ensure!(after.ok && kept, "{before:?}, then {after:?}");
    }
    loads.stop(&world.lab)
}

fn ready_for_load(maps: &[&str]) -> Result<World> {
    let mut world = World::without_agents(two_nodes(), &[])?;
    world.start_agents(maps)?;
    let pods = ["n1/a", "n2/b"];
    world.service("web", 1, &pods, |service| service.node_port_for_all(NODE_PORT))?;
    for &family in world.lab.families() {
        for (place, _, to) in dialled(&world, family) {
            reach(&place, to, &["a", "b"])?;
        }
    }
    Ok(world)
}

/// "work after restarting kube-proxy", per packet: killed, restarted; then stopped, restarted.
#[test]
fn no_packet_is_lost_when_agents_die_and_return() -> Result<()> {
    let mut world = ready_for_load(LARGE_MAPS)?;
    under_load(&mut world, |world| {
        for node in ["n1", "n2"] {
            world.agent(node).kill()?;
            std::thread::sleep(PAUSE);
            world.agent(node).restart()?;
        }
        Ok(())
    })?;
    under_load(&mut world, |world| {
        world.agent("n1").stop()?;
        std::thread::sleep(PAUSE);
        world.agent("n1").restart()
    })?;
    // It still learns.
    world.service("new", 3, &["n2/b"], |service| service)?;
    let vm = world.lab.pod("n1", "client").as_vm();
    reach(&vm, cluster_ip(Family::V4, 3), &["b"])
}

#[test]
fn packets_are_translated_while_the_agent_is_dead() -> Result<()> {
    let mut world = ready_for_load(SMALL_MAPS)?;
    world.service("none", 2, &[], Service::external_local)?;
    let vm = world.lab.pod("n1", "client").as_vm();
    rejected(&vm, cluster_ip(Family::V4, 2))?;
    world.agent("n1").kill()?;
    for &family in world.lab.families() {
        for (place, _, to) in dialled(&world, family) {
            reach(&place, to, &["a", "b"])?;
        }
        rejected(&vm, cluster_ip(family, 2))?;
    }
    Ok(())
}

/// After `cleanup` nothing is attached any more: packets go as they came.
#[test]
fn cleanup_leaves_packets_alone() -> Result<()> {
    let mut world = ready_for_load(SMALL_MAPS)?;
    world.agent("n1").stop()?;
    world.agent("n1").cleanup()?;
    let n1 = world.lab.node("n1");
    let _server = Server::start(n1, "host", &[NODE_PORT], &[NODE_PORT])?;
    for &family in world.lab.families() {
        let at = SocketAddr::new(n1.address(family), NODE_PORT);
        reach(world.lab.outside(), at, &["host"])?;
    }
    Ok(())
}

/// Pods that come later have devices that come later.
#[test]
fn pods_that_come_later_are_served() -> Result<()> {
    let mut world = ready_for_load(SMALL_MAPS)?;
    let late = world.lab.add_pod("n1", "late")?;
    for &family in world.lab.families() {
        reach(&late.as_vm(), cluster_ip(family, 1), &["a", "b"])?;
    }
    world.serve(&late, "late", TARGET_PORT)?;
    for &family in world.lab.families() {
        world.apply(&world.slice("web", &["n1/late"], family))?;
        for (place, _, to) in dialled(&world, family) {
            reach(&place, to, &["late"])?;
        }
    }
    Ok(())
}

/// Flows among the established ones that are not answered.
fn unanswered<A: Address>(rows: &impl FlowRows<A, Cursor = Cursor>) -> Result<usize> {
    let (mut count, mut cursor) = (0, Cursor::default());
    let is_one = |flow: &Flow<A>| flow.role == role::OPEN && flow.bits & bits::HALF_OPEN != 0;
    let mut show = |_, flow| count += usize::from(is_one(&flow));
    while !rows.step(Table::Established, &mut cursor, &mut show)? {}
    Ok(count)
}

/// Spoofed newcomers, many times what there is room for, cost no established flow and do not fill
/// their table; and who comes afterwards is served.
#[test]
fn floods_do_not_break_established_flows() -> Result<()> {
    let mut world = ready_for_load(SMALL_MAPS)?;
    let node = hardware_address(world.lab.node("n1"), "eth0")?;
    let wire = Wire::open(world.lab.outside(), "eth0")?;
    let spoofed = |family: Family, index: u32| {
        let low = (index % 250) as u8;
        SocketAddr::new(address::external(family, low), 1024 + (index / 250) as u16)
    };
    let opening = Segment { flags: SYN, sequence: 1, acknowledged: 0 };
    // Where the datagrams go, nobody listens: they are never answered.
    world.service("sink", 2, &[], |service| service.node_port_for_all(SINK_PORT))?;
    let mut helds = Vec::new();
    for &family in world.lab.families() {
        let slice = Slice::new("sink-closed", "sink", family).port("main", "UDP", CLOSED_PORT);
        world.apply(&slice.endpoints(world.ready(&["n1/a"], family)))?;
        for (place, _, to) in dialled(&world, family) {
            for kind in ["tcp", "udp"] {
                helds.push(established(&place, kind, to)?);
            }
        }
    }
    let flows = FlowStore::open(&Pins::new(world.lab.node("n1").bpffs()).maps())?;
    wait::until("room among the established flows", CHANGE_TIMEOUT, || {
        let room = flows.room()?;
        ensure!(room.iter().all(|left| *left > 0), "{room:?}");
        Ok(())
    })?;
    for &family in world.lab.families() {
        let at = |port| SocketAddr::new(world.lab.node("n1").address(family), port);
        wire.flood(node, FLOOD, |index| {
            Draft::tcp(spoofed(family, index), at(NODE_PORT), opening, b"").packet()
        })?;
        wire.flood(node, FLOOD, |index| {
            Draft::udp(spoofed(family, index), at(SINK_PORT), b"x").packet()
        })?;
        for (held, before) in &mut helds {
            // The node's queues are full of the flood; a datagram in it may be lost.
            wait::until("an answer in the flow of before", CHANGE_TIMEOUT, || {
                let after = held.send()?;
                ensure!(same_flow(before, &after), "{before:?}, then {after:?}");
                Ok(())
            })?;
        }
    }
    for &family in world.lab.families() {
        for (place, _, to) in dialled(&world, family) {
            reach(&place, to, &["a", "b"])?;
        }
    }
    let unanswered = [unanswered(&flows.v4)?, unanswered(&flows.v6)?];
    let has_bound = |count: &usize| (1..=UNANSWERED_MAX).contains(count);
    ensure!(unanswered.iter().all(has_bound), "{unanswered:?} of {UNANSWERED_MAX}");
    // Nor does the agent mind.
    let status = world.agent("n1").status_json()?;
    ensure!(status["ready"] == true, "{status}");
    Ok(())
}
