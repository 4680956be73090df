//! The kernel works without the agent: SIGTERM, SIGKILL and restarts, under load.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millrace_tests::agent::Agent;
use millrace_tests::lab::{Builder, Family, Lab};
use millrace_tests::load::{EVERY_KIND, Loads};
use millrace_tests::probe::Held;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{World, cluster_ip, reach, refused};

/// Load before, between and after the steps of a restart.
const PAUSE: Duration = Duration::from_millis(200);

fn one_node() -> Builder {
    Lab::builder().pods("n1", &["client", "a", "b"])
}

/// Runs `steps` while every kind of client dials; not one dialogue may fail.
fn under_load(world: &mut World, steps: impl FnOnce(&mut Agent) -> Result<()>) -> Result<()> {
    let client = world.lab.pod("n1", "client").clone();
    let mut loads = Loads::new();
    for &family in world.lab.families() {
        loads.add(&client, &EVERY_KIND, cluster_ip(family, 1))?;
    }
    std::thread::sleep(PAUSE);
    steps(world.agent("n1"))?;
    std::thread::sleep(PAUSE);
    loads.stop(&world.lab)
}

fn served(builder: Builder) -> Result<World> {
    let world = World::new(builder)?;
    world.service("web", 1, &["n1/a", "n1/b"], |service| service)?;
    world.service("none", 2, &[], |service| service)?;
    for &family in world.lab.families() {
        reach(world.lab.pod("n1", "client"), cluster_ip(family, 1), &["a", "b"])?;
    }
    Ok(world)
}

/// "work after restarting kube-proxy"
#[test]
fn no_connection_fails_when_the_agent_restarts() -> Result<()> {
    let mut world = served(one_node())?;
    under_load(&mut world, |agent| {
        agent.stop()?;
        std::thread::sleep(PAUSE);
        agent.restart()
    })?;
    under_load(&mut world, |agent| {
        agent.kill()?;
        std::thread::sleep(PAUSE);
        agent.restart()
    })?;
    world.service("new", 3, &["n1/a"], |service| service)?;
    for &family in world.lab.families() {
        reach(world.lab.pod("n1", "client"), cluster_ip(family, 3), &["a"])?;
    }
    Ok(())
}

#[test]
fn everything_keeps_working_while_the_agent_is_dead() -> Result<()> {
    let mut world = served(one_node())?;
    let client = world.lab.pod("n1", "client").clone();
    let to = cluster_ip(Family::V4, 1);
    let (mut held, _) = Held::open(&client, "tcp", to)?;
    let (mut udp, _) = Held::open(&client, "udp", to)?;
    world.agent("n1").kill()?;
    for &family in world.lab.families() {
        reach(&client, cluster_ip(family, 1), &["a", "b"])?;
        refused(&client, cluster_ip(family, 2))?;
    }
    for held in [&mut held, &mut udp] {
        ensure!(held.send()?.ok);
        ensure!(held.tell("peer")?.peer == Some(to));
    }
    // The operator's commands read the pinned maps.
    let status = world.agent("n1").operate(&["status"])?;
    ensure!(!status.stdout.is_empty(), "{status:?}");
    let services = world.agent("n1").services_json()?.to_string();
    ensure!(services.contains("web"), "{services}");
    Ok(())
}

#[test]
fn changes_made_while_the_agent_was_dead_are_caught_up() -> Result<()> {
    let mut world = served(one_node())?;
    let client = world.lab.pod("n1", "client").clone();
    let to = cluster_ip(Family::V4, 1);
    world.agent("n1").kill()?;
    world.apply(&world.slice("web", &["n1/b"], Family::V4))?;
    world.service("new", 3, &["n1/a"], |service| service)?;
    let none = world.service("none", 2, &[], |service| service)?;
    world.delete(&none)?;
    world.agent("n1").restart()?;
    reach(&client, to, &["b"])?;
    reach(&client, cluster_ip(Family::V4, 3), &["a"])?;
    millrace_tests::world::unreachable(&client, cluster_ip(Family::V4, 2))
}

#[test]
fn status_tells_whether_the_agent_is_ready() -> Result<()> {
    let mut world = served(one_node())?;
    let status = world.agent("n1").status_json()?;
    ensure!(status["ready"] == true, "{status}");
    world.agent("n1").kill()?;
    wait::until("the status to tell that the agent is dead", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?;
        ensure!(status["ready"] != true, "{status}");
        Ok(())
    })
}

#[test]
fn cleanup_leaves_nothing_translated_and_nothing_pinned() -> Result<()> {
    let mut world = served(one_node())?;
    let client = world.lab.pod("n1", "client").clone();
    world.agent("n1").stop()?;
    world.agent("n1").cleanup()?;
    let bpffs = world.lab.node("n1").bpffs().to_owned();
    let left: Vec<_> = std::fs::read_dir(&bpffs)?.flatten().map(|entry| entry.path()).collect();
    ensure!(left.is_empty(), "pinned: {left:?}");
    for &family in world.lab.families() {
        millrace_tests::world::unreachable(&client, cluster_ip(family, 1))?;
    }
    // And it starts again on the clean node.
    world.agent("n1").restart()?;
    reach(&client, cluster_ip(Family::V4, 1), &["a", "b"])
}

/// Two nodes share this kernel; one node's agent must not touch the other's.
#[test]
fn agents_of_two_nodes_do_not_meet() -> Result<()> {
    let builder = Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b");
    let mut world = World::new(builder)?;
    world.service("web", 1, &["n1/a", "n2/b"], |service| service)?;
    let to = cluster_ip(Family::V4, 1);
    reach(world.lab.pod("n1", "client"), to, &["a", "b"])?;
    reach(world.lab.pod("n2", "b"), to, &["a", "b"])?;
    world.agent("n2").stop()?;
    world.agent("n2").cleanup()?;
    reach(world.lab.pod("n1", "client"), to, &["a", "b"])?;
    millrace_tests::world::unreachable(world.lab.pod("n2", "b"), to)
}

#[test]
fn an_endpoint_change_reaches_the_kernel_quickly() -> Result<()> {
    let world = served(one_node())?;
    let client = world.lab.pod("n1", "client");
    let start = Instant::now();
    world.apply(&world.slice("web", &["n1/b"], Family::V4))?;
    reach(client, cluster_ip(Family::V4, 1), &["b"])?;
    let took = start.elapsed();
    // kube-proxy's tests allow 30 s; a file that changed on this machine needs no tenth of it.
    ensure!(took < Duration::from_secs(3), "it took {took:?}");
    Ok(())
}
