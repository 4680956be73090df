//! The three capabilities that the README names are enough, and each of them is needed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::agent::{Agent, Source};
use millrace_tests::lab::{Family, Lab};
use millrace_tests::manifest::Endpoint;
use millrace_tests::privileges::{CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{SMALL_MAPS, World, cluster_ip, reach};

/// All that the agent asks for.
const THREE: u64 = CAP_BPF | CAP_NET_ADMIN | CAP_PERFMON;
/// A refusal is a look at /proc; the rest is for a busy machine to start a process.
const REFUSAL_LIMIT: Duration = Duration::from_secs(2);

fn world() -> Result<World> {
    World::without_agents(Lab::builder().pods("n1", &["client", "a", "b"]), &[])
}

fn limited(world: &World, bits: u64) -> Agent {
    let mut agent = Agent::prepare(world.lab.node("n1"), &Source::Manifests, SMALL_MAPS);
    agent.limit_capabilities(bits);
    agent
}

/// Capability sets of a process: (permitted, effective, bounding).
fn capabilities(pid: u32) -> Result<[u64; 3]> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let set = |name: &str| {
        let hex = field(&status, name)?;
        Ok::<_, anyhow::Error>(u64::from_str_radix(hex, 16)?)
    };
    Ok([set("CapPrm:")?, set("CapEff:")?, set("CapBnd:")?])
}

/// A line of a process' status.
fn field<'a>(status: &'a str, name: &str) -> Result<&'a str> {
    let value = status.lines().find_map(|line| line.strip_prefix(name));
    value.map(str::trim).with_context(|| format!("no {name} in {status}"))
}

#[test]
fn three_capabilities_are_enough_to_serve_guard_and_restart() -> Result<()> {
    let world = world()?;
    world.service("web", 1, &["n1/a", "n1/b"], |service| service)?;
    let mut agent = limited(&world, THREE);
    agent.restart()?;
    let pid = agent.pid().context("it runs")?;
    ensure!(capabilities(pid)? == [THREE; 3], "{:x?}", capabilities(pid)?);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    ensure!(field(&status, "THP_enabled:")? == "0", "the agent may take huge pages: {status}");
    let canary = agent.status_json()?["agent"]["canary"].clone();
    let scores = canary.as_array().context("the canary's scores")?;
    let all = scores.len() == 12 && scores.iter().all(|score| score["translated"] == true);
    ensure!(all, "the canary is sent through every hook: {canary}");
    let client = world.lab.pod("n1", "client");
    let serves = |index| {
        let mut families = world.lab.families().iter();
        families.try_for_each(|&family| reach(client, cluster_ip(family, index), &["a", "b"]))
    };
    serves(1)?;
    // Something to guard: a Local policy without a local endpoint.
    world.service("local", 2, &[], |service| service.internal_local())?;
    let elsewhere = Endpoint::ready([10, 244, 9, 9].into(), "n9");
    world.apply(&world.empty_slice("local", Family::V4).endpoint(elsewhere))?;
    wait::until("the guard to be attached", CHANGE_TIMEOUT, || {
        let status = agent.status_json()?;
        ensure!(status["guardAttached"] == true, "{status}");
        Ok(())
    })?;
    agent.kill()?;
    agent.restart()?;
    ensure!(agent.run_log()?.contains("adopted"), "{}", agent.log_tail());
    serves(1)?;
    world.service("new", 3, &["n1/a", "n1/b"], |service| service)?;
    serves(3)?;
    world.service("local", 2, &["n1/a"], |service| service.internal_local())?;
    wait::until("the guard to be detached", CHANGE_TIMEOUT, || {
        let status = agent.status_json()?;
        ensure!(status["guardAttached"] == false, "{status}");
        Ok(())
    })?;
    agent.stop()
}

/// New sizes mean new maps beside the old, renamed in the end: with the three alone, too.
#[test]
fn three_capabilities_are_enough_to_change_the_maps() -> Result<()> {
    let world = world()?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    let mut agent = limited(&world, THREE);
    agent.restart()?;
    agent.stop()?;
    let sizes = ["--max-services=3000", "--max-backends=2000", "--max-slots=5000"];
    agent = Agent::prepare(world.lab.node("n1"), &Source::Manifests, &sizes);
    agent.limit_capabilities(THREE);
    agent.restart()?;
    reach(world.lab.pod("n1", "client"), cluster_ip(Family::V4, 1), &["a"])
}

#[test]
fn each_capability_that_is_missing_is_named() -> Result<()> {
    let world = world()?;
    let all =
        [("CAP_BPF", CAP_BPF), ("CAP_NET_ADMIN", CAP_NET_ADMIN), ("CAP_PERFMON", CAP_PERFMON)];
    for (name, bit) in all {
        let refusal = limited(&world, THREE & !bit).refuses(REFUSAL_LIMIT)?;
        ensure!(refusal.code == Some(1), "without {name}: {refusal:?}");
        let named = format!("missing {name}: run as root, or grant");
        ensure!(refusal.said.contains(&named), "without {name}: {refusal:?}");
    }
    let refusal = limited(&world, 0).refuses(REFUSAL_LIMIT)?;
    let named = "missing CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON: ";
    ensure!(refusal.code == Some(1) && refusal.said.contains(named), "{refusal:?}");
    let bpffs = world.lab.node("n1").bpffs();
    let left: Vec<_> = std::fs::read_dir(bpffs)?.flatten().map(|entry| entry.path()).collect();
    ensure!(left.is_empty(), "left behind: {left:?}");
    Ok(())
}
