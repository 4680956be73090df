//! The canary: an agent is ready when connections of its own are translated, says so when they are
//! not, and puts back what somebody takes away.

use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::sys;
use millrace_tests::hooks::{self, CONNECT4, Refuser};
use millrace_tests::http;
use millrace_tests::lab::{Family, Lab, Node};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{World, cluster_ip, reach};
use serde_json::Value;

/// What somebody removed is told to be back within this long. Where the machine does nothing else,
/// it is back within a second (`MENDED_WITHIN` in `agent/src/bpf/attach.rs` holds the agent to
/// that), and told within another.
const REPAIR_LIMIT: Duration = Duration::from_secs(4);
const SOCKET_HOOKS: [&str; 8] = [
    "connect4",
    "connect6",
    "getpeername4",
    "getpeername6",
    "recvmsg4",
    "recvmsg6",
    "sendmsg4",
    "sendmsg6",
];

fn served() -> Result<World> {
    let world = World::new(Lab::builder().pods("n1", &["client", "a"]))?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    Ok(world)
}

/// Waits until the status fits.
fn status(world: &mut World, what: &str, fits: impl Fn(&Value) -> bool) -> Result<Value> {
    wait::until(what, CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?;
        ensure!(fits(&status), "{status}");
        Ok(status)
    })
}

/// Waits until `/healthz` has a code, and returns the body.
fn healthz(world: &World, code: u16) -> Result<Value> {
    let address = world.lab.node("n1").address(Family::V4);
    wait::until(&format!("/healthz to say {code}"), CHANGE_TIMEOUT, || {
        let answer = http::get(world.lab.outside(), address, 10256, "/healthz")?;
        ensure!(answer.code == code, "{answer:?}");
        answer.json()
    })
}

fn scores(status: &Value) -> Vec<(String, String, bool)> {
    let scores = status["agent"]["canary"].as_array().cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let row =
        |score: &Value| (text(&score["hook"]), text(&score["family"]), score["translated"] == true);
    scores.iter().map(row).collect()
}

#[test]
fn ready_is_who_translates_through_every_hook() -> Result<()> {
    let mut world = served()?;
    let told = status(&mut world, "ready", |status| status["ready"] == true)?;
    let scores = scores(&told);
    for hook in SOCKET_HOOKS {
        let family = if hook.ends_with('4') { "IPv4" } else { "IPv6" };
        ensure!(scores.contains(&(hook.into(), family.into(), true)), "{hook}: {scores:?}");
    }
    for hook in ["packet_in", "packet_out"] {
        for family in ["IPv4", "IPv6"] {
            ensure!(scores.contains(&(hook.into(), family.into(), true)), "{hook}: {scores:?}");
        }
    }
    let text = world.agent("n1").operate(&["status"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    ensure!(text.contains("Canary:  translated by 12 of 12 hooks"), "{text}");
    // It is nobody's business besides.
    wait::until("both ports and nothing else to be served", CHANGE_TIMEOUT, || {
        let services = world.agent("n1").services_json()?;
        ensure!(services.as_array().map(Vec::len) == Some(2), "{services}");
        Ok(())
    })?;
    let told = world.agent("n1").status_json()?;
    let used = told["maps"].as_array().context("maps")?;
    let services = used.iter().find(|map| map["name"] == "services").context("services")?;
    ensure!(services["used"] == 2 && services["size"] == 2000, "{services}");
    let flows = world.agent("n1").operate(&["flows", "-o", "json"])?;
    let flows: Value = serde_json::from_slice(&flows.stdout)?;
    ensure!(flows["flows"] == serde_json::json!([]), "{flows}");
    Ok(())
}

#[test]
fn a_program_of_somebody_else_that_refuses_is_noticed() -> Result<()> {
    let mut world = served()?;
    healthz(&world, 200)?;
    let cgroup = world.lab.node("n1").cgroup_root().to_owned();
    let theirs = Refuser::attach(&cgroup, CONNECT4)?;
    let told = status(&mut world, "not ready", |status| status["ready"] == false)?;
    ensure!(told["agent"]["conditions"].to_string().contains("canary connect4 IPv4"), "{told}");
    let failed = scores(&told).into_iter().filter(|(_, _, translated)| !translated);
    ensure!(failed.map(|(hook, ..)| hook).eq(["connect4".to_owned()]), "{told}");
    let body = healthz(&world, 503)?;
    ensure!(body["healthy"] == false && body["nodeEligible"] == true, "{body}");
    ensure!(body["status"]["IPv4"]["healthy"] == false, "{body}");
    ensure!(body["status"]["IPv6"]["healthy"] == true, "{body}");
    let output = world.agent("n1").operate(&["status"])?;
    ensure!(output.status.code() == Some(3), "{output:?}");
    drop(theirs);
    status(&mut world, "ready again", |status| status["ready"] == true)?;
    healthz(&world, 200).map(drop)
}

/// A row that the packet path needs is gone, on one of several devices.
#[test]
fn packets_that_are_not_translated_are_noticed() -> Result<()> {
    let mut world = served()?;
    let node = world.lab.node("n1").clone();
    let index = hooks::index(&node, "veth0")?;
    let devices = std::fs::read_dir(node.bpffs().join("millrace"))?
        .flatten()
        .map(|entry| entry.path().join("devices"))
        .find(|path| path.exists())
        .context("the map of devices")?;
    let devices = sys::obj_get(&devices)?;
    ensure!(sys::map_delete(devices.as_fd(), &index.to_ne_bytes())?, "there was a row");
    let told = status(&mut world, "not ready", |status| status["ready"] == false)?;
    let conditions = told["agent"]["conditions"].to_string();
    ensure!(conditions.contains(&format!("device {index}: a packet to the canary")), "{told}");
    // A new start writes what is missing.
    world.agent("n1").kill()?;
    world.agent("n1").restart()?;
    reach(world.lab.pod("n1", "client"), cluster_ip(Family::V4, 1), &["a"])
}

fn link(node: &Node, hook: &str) -> PathBuf {
    node.bpffs().join("millrace/links").join(hook)
}

/// Each hook, taken away in each of the ways there are.
#[test]
fn sockets_hooks_that_somebody_removes_are_put_back() -> Result<()> {
    let mut world = served()?;
    let node = world.lab.node("n1").clone();
    let theirs = Refuser::load(CONNECT4)?;
    let (mut slowest_back, mut slowest_told) = (Duration::ZERO, Duration::ZERO);
    let mut lost = 0;
    for hook in SOCKET_HOOKS.into_iter().chain(["sock_release"]) {
        let pin = link(&node, hook);
        let ways = ["detached", "unpinned"].into_iter();
        for way in ways.chain((hook == "connect4").then_some("replaced")) {
            lost += 1;
            match way {
                "detached" => hooks::detach(&pin)?,
                "unpinned" => std::fs::remove_file(&pin)?,
                _ => theirs.put_behind(&pin)?,
            }
            let start = Instant::now();
            let mut back = None;
            // What is counted and whole was put there.
            wait::until(&format!("{hook}, {way}, to be back"), REPAIR_LIMIT, || {
                let status = world.agent("n1").status_json()?;
                let hooks = status["hooks"].as_array().context("hooks")?;
                let whole = hooks.iter().all(|hook| hook["state"] == "attached");
                if whole {
                    back.get_or_insert(start.elapsed());
                }
                let count = status["agent"]["repairedHooks"].as_u64();
                ensure!(count == Some(lost), "{count:?} of {lost}");
                ensure!(whole && hooks.len() == 9, "{status}");
                Ok(())
            })?;
            slowest_back = slowest_back.max(back.unwrap_or_default());
            slowest_told = slowest_told.max(start.elapsed());
        }
    }
    println!("{lost} repairs: the slowest after {slowest_back:?}, told after {slowest_told:?}");
    status(&mut world, "ready", |status| status["ready"] == true)?;
    reach(world.lab.pod("n1", "client"), cluster_ip(Family::V4, 1), &["a"])
}

fn helper(node: &Node) -> Result<Vec<u32>> {
    let path = node.cgroup_root().join("millrace-canary/cgroup.procs");
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| Ok(line.parse()?)).collect()
}

#[test]
fn the_helper_comes_back_and_goes_with_its_agent() -> Result<()> {
    let mut world = served()?;
    let node = world.lab.node("n1").clone();
    let first = helper(&node)?;
    ensure!(first.len() == 1, "{first:?}");
    // SAFETY: a process that was just seen in a cgroup of this lab; a signal takes no pointers.
    unsafe { libc::kill(first[0].cast_signed(), libc::SIGKILL) };
    wait::until("another helper", CHANGE_TIMEOUT, || {
        let now = helper(&node)?;
        ensure!(now.len() == 1 && now != first, "{now:?}");
        Ok(())
    })?;
    status(&mut world, "ready", |status| {
        status["ready"] == true && scores(status).iter().filter(|score| score.2).count() == 12
    })?;
    world.agent("n1").kill()?;
    wait::until("the helper to end", CHANGE_TIMEOUT, || {
        let left = helper(&node)?;
        ensure!(left.is_empty(), "{left:?}");
        Ok(())
    })?;
    let cgroup = node.cgroup_root().join("millrace-canary");
    world.agent("n1").restart()?;
    world.agent("n1").stop()?;
    ensure!(!cgroup.exists(), "an agent that ends removes the cgroup");
    world.agent("n1").restart()?;
    world.agent("n1").kill()?;
    wait::until("the helper to end", CHANGE_TIMEOUT, || {
        ensure!(helper(&node)?.is_empty(), "it runs");
        Ok(())
    })?;
    world.agent("n1").cleanup()?;
    ensure!(!cgroup.exists(), "cleanup removes what a killed one left");
    Ok(())
}
