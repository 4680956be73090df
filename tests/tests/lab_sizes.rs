//! The maps get other sizes, or another layout, from one start to the next: nothing that was
//! remembered begins anew.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::pins::Pins;
use millrace_common::ABI_VERSION;
use millrace_tests::agent::{Agent, Source};
use millrace_tests::lab::{Builder, Lab, Place};
use millrace_tests::load::{EVERY_KIND, Loads};
use millrace_tests::probe::{self, Held, Outcome};
use millrace_tests::world::{SMALL_MAPS, World, cluster_ip, reach};

/// Seconds of session affinity.
const AFFINITY_SECS: u32 = 600;
/// Flows of each kind that are held, in each family: by chance alone all would find their backend
/// of two in one try of 65 536.
const HELD: usize = 4;
/// Connections that show where affinity leads.
const STICKY_DIALS: usize = 8;

fn one_node() -> Builder {
    Lab::builder().pods("n1", &["client", "guest", "a", "b"])
}

/// A Service with two backends, and one with affinity.
fn world() -> Result<World> {
    let world = World::without_agents(one_node(), &[])?;
    world.service("web", 1, &["n1/a", "n1/b"], |service| service)?;
    world.service("sticky", 2, &["n1/a", "n1/b"], |service| service.affinity(AFFINITY_SECS))?;
    Ok(world)
}

/// An agent with maps of these sizes.
fn start(world: &World, sizes: &[&str]) -> Result<Agent> {
    let mut agent = Agent::start_with(world.lab.node("n1"), &Source::Manifests, sizes)?;
    agent.wait_ready()?;
    Ok(agent)
}

/// A pod whose sockets are seen, and one as a virtual machine, of which only packets are. (Not the
/// same pod: a port that its sockets have just used towards a backend would not do for packets that
/// are led there.)
fn clients(world: &World) -> [Place; 2] {
    [Place::clone(world.lab.pod("n1", "client")), world.lab.pod("n1", "guest").as_vm()]
}

/// Every kind of client dials the first Service.
fn loads(world: &World) -> Result<Loads> {
    let mut loads = Loads::new();
    for &family in world.lab.families() {
        for place in clients(world) {
            loads.add(&place, &EVERY_KIND, cluster_ip(family, 1))?;
        }
    }
    Ok(loads)
}

/// What must not be forgotten.
struct Remembered {
    flows: Vec<(Held, Outcome, SocketAddr)>,
    /// Where the sticky Service leads, by client and address.
    sticky: Vec<(Place, SocketAddr, String)>,
}

impl Remembered {
    fn of(world: &World) -> Result<Self> {
        let (mut flows, mut sticky) = (Vec::new(), Vec::new());
        for &family in world.lab.families() {
            for place in clients(world) {
                let to = cluster_ip(family, 1);
                reach(&place, to, &["a", "b"])?;
                for kind in ["tcp", "udp"] {
                    for _ in 0..HELD {
                        let (mut held, _) = Held::open(&place, kind, to)?;
                        held.send()?;
                        let before = held.send()?;
                        ensure!(before.ok, "{kind} to {to}: {before:?}");
                        flows.push((held, before, to));
                    }
                }
                let to = cluster_ip(family, 2);
                let chosen = servers(&place, to, 1)?.pop_first().context("nobody answers")?;
                sticky.push((place, to, chosen));
            }
        }
        Ok(Self { flows, sticky })
    }

    fn is_kept(&mut self) -> Result<()> {
        for (held, before, to) in &mut self.flows {
            let after = held.send()?;
            let same = after.ok && (&before.server, before.seen) == (&after.server, after.seen);
            ensure!(same, "a flow to {to}: {before:?}, then {after:?}");
            let peer = held.tell("peer")?.peer;
            ensure!(peer == Some(*to), "a flow to {to} has the peer {peer:?}");
        }
        for (place, to, chosen) in &self.sticky {
            let now = servers(place, *to, STICKY_DIALS)?;
            ensure!(now == [chosen.clone()].into(), "affinity to {to}: {chosen}, then {now:?}");
        }
        Ok(())
    }
}

/// Who answers so many connections.
fn servers(place: &Place, to: SocketAddr, count: usize) -> Result<BTreeSet<String>> {
    let outcomes = probe::tcp(place, to, count)?;
    outcomes
        .into_iter()
        .map(|outcome| outcome.server.clone().with_context(|| format!("{outcome:?}")))
        .collect()
}

/// The size of a map, as the agent tells it.
fn size(agent: &Agent, name: &str) -> Result<u64> {
    let status = agent.status_json()?;
    let maps = status["maps"].as_array().context("maps")?;
    let map = maps.iter().find(|map| map["name"] == name).context("no such map")?;
    map["size"].as_u64().with_context(|| format!("{map}"))
}

/// Flags for the sizes of some maps, slots first.
type Sizes = [&'static str; 3];

const MANY: Sizes = ["--max-slots=9000", "--max-frontends=3000", "--max-services=3000"];
const FEW_SLOTS: Sizes = ["--max-slots=100", "--max-frontends=2000", "--max-services=2000"];
const FEW_SERVICES: Sizes = ["--max-slots=9000", "--max-frontends=300", "--max-services=30"];

/// Started with these sizes one after the other, the second time after a kill, while every kind of
/// client dials; `meanwhile` comes before each start.
fn started_again_under_traffic(
    sizes: [Sizes; 3],
    meanwhile: impl Fn(&World) -> Result<()>,
) -> Result<()> {
    let world = world()?;
    let same = ["--max-backends=2000", "--max-flows=200000", "--max-half-open=20000"];
    let sources = ["--max-source-ranges=100"];
    let mut agent = start(&world, &[&same[..], &sources].concat())?;
    let mut remembered = Remembered::of(&world)?;
    let loads = loads(&world)?;
    for (index, flags) in (3..).zip(sizes) {
        if index == 4 {
            agent.kill()?;
        } else {
            agent.stop()?;
        }
        meanwhile(&world)?;
        agent = start(&world, &[&flags[..], &same].concat())?;
        let log = agent.run_log()?;
        ensure!(log.contains("took over what is in the pinned maps"), "{log}");
        let slots = format!("--max-slots={}", size(&agent, "slots")?);
        ensure!(flags.contains(&slots.as_str()), "{slots}, not {flags:?}");
        remembered.is_kept().with_context(|| format!("{flags:?}"))?;
        // What comes now is written to the new maps.
        world.service(&format!("new-{index}"), index, &["n1/b"], |service| service)?;
        for &family in world.lab.families() {
            for place in clients(&world) {
                reach(&place, cluster_ip(family, 1), &["a", "b"])?;
                reach(&place, cluster_ip(family, index), &["b"])?;
            }
        }
    }
    loads.stop(&world.lab)?;
    old_maps_are_gone(&world)
}

fn old_maps_are_gone(world: &World) -> Result<()> {
    let left = world.lab.node("n1").bpffs().join("millrace");
    let names: BTreeSet<_> = std::fs::read_dir(left)?.flatten().map(|e| e.file_name()).collect();
    ensure!(names.len() == 2, "old maps are gone: {names:?}");
    Ok(())
}

/// What is pinned passes for what an earlier version of the layout has left.
fn grow_older(world: &World, version: u32) -> Result<()> {
    let pins = Pins::new(world.lab.node("n1").bpffs());
    std::fs::rename(pins.maps(), pins.maps_of(version)).context("rename the maps' directory")
}

#[test]
fn the_maps_change_their_sizes_under_traffic() -> Result<()> {
    started_again_under_traffic([FEW_SLOTS, FEW_SERVICES, MANY], |_| Ok(()))
}

/// To the same sizes and to others. (Of the rows that the version before has differently, none is
/// looked at.)
#[test]
fn an_upgrade_takes_over_what_the_version_before_has_left() -> Result<()> {
    let older = |world: &World| grow_older(world, ABI_VERSION - 1);
    started_again_under_traffic([MANY, MANY, FEW_SERVICES], older)
}

/// Raised because they were nearly full, or lowered again: flows move to the new tables.
#[test]
fn the_tables_of_flows_change_their_sizes() -> Result<()> {
    let world = world()?;
    let mut agent = start(&world, SMALL_MAPS)?;
    let mut remembered = Remembered::of(&world)?;
    for flows in [9000, 3000] {
        let flags = [
            format!("--max-flows={flows}"),
            format!("--max-half-open={flows}"),
            "--max-backends=2000".to_owned(),
        ];
        agent.stop()?;
        agent = start(&world, &flags.each_ref().map(String::as_str))?;
        ensure!(size(&agent, "flows_v4")? == flows, "{flags:?}");
        remembered.is_kept().with_context(|| format!("{flags:?}"))?;
    }
    Ok(())
}

/// What cannot be taken over is numbered anew, as in a first start, and served as before.
fn made_anew(sizes: &[&str], meanwhile: impl Fn(&World) -> Result<()>, reason: &str) -> Result<()> {
    let world = World::without_agents(one_node(), &[])?;
    let mut agent = start(&world, SMALL_MAPS)?;
    let early: Vec<_> = (2..12_u16)
        .map(|index| world.service(&format!("early-{index}"), index, &["n1/a"], |service| service))
        .collect::<Result<_>>()?;
    for &family in world.lab.families() {
        reach(world.lab.pod("n1", "client"), cluster_ip(family, 11), &["a"])?;
    }
    world.service("web", 1, &["n1/a", "n1/b"], |service| service)?;
    early.iter().try_for_each(|service| world.delete(service))?;
    let mut loads = Loads::new();
    for &family in world.lab.families() {
        let client = world.lab.pod("n1", "client");
        reach(client, cluster_ip(family, 1), &["a", "b"])?;
        loads.add(client, &EVERY_KIND, cluster_ip(family, 1))?;
    }
    agent.stop()?;
    meanwhile(&world)?;
    let agent = start(&world, sizes)?;
    let log = agent.run_log()?;
    ensure!(log.contains(reason), "{log}");
    for &family in world.lab.families() {
        for place in clients(&world) {
            reach(&place, cluster_ip(family, 1), &["a", "b"])?;
        }
    }
    loads.stop(&world.lab)
}

#[test]
fn maps_too_small_for_the_ids_in_use_are_made_anew() -> Result<()> {
    let sizes = ["--max-services=12", "--max-backends=2000"];
    made_anew(&sizes, |_| Ok(()), "the services in use would need a size of")
}

#[test]
fn another_number_of_backends_numbers_them_anew() -> Result<()> {
    let reason = "the ids of backends depend on how many there may be";
    made_anew(&["--max-backends=4000"], |_| Ok(()), reason)
}

/// The names of service ports were written otherwise then.
#[test]
fn an_upgrade_from_long_ago_begins_anew() -> Result<()> {
    let reason = "the rows of services are others than they were";
    made_anew(SMALL_MAPS, |world| grow_older(world, 5), reason)
}
