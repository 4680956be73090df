//! The packet path on devices: they come, are renamed, go down, move away and go; somebody removes
//! our programs or has his own; and the agent starts anew.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use millrace_tests::hooks::{self, Dropper, Hooks};
use millrace_tests::lab::{Builder, Family, InterNode, Lab, Node};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{SMALL_MAPS, World, cluster_ip, reach, unreachable};
use serde_json::Value;

/// A new device is served within this long; the bar is 50 ms on a machine that does nothing else.
const SERVED_LIMIT: Duration = Duration::from_millis(500);
/// What somebody removed is back within this long; the bar is 1 s, and one look is a second.
const REPAIR_LIMIT: Duration = Duration::from_secs(4);
/// Devices that come and go.
const CHURN: u32 = 20;

fn one_node() -> Builder {
    Lab::builder().pods("n1", &["client", "a"])
}

fn served() -> Result<World> {
    let world = World::new(one_node())?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    Ok(world)
}

/// The device with one program, ours, on each hook.
fn attached(node: &Node, device: &str) -> Result<Hooks> {
    let found = hooks::on(node, device)?;
    let [inward, outward] = hooks::pins(node, hooks::index(node, device)?);
    let ours = (hooks::link_id(&inward)?, hooks::link_id(&outward)?);
    let only = found.ingress.len() == 1 && found.egress.len() == 1;
    ensure!(only && (found.ingress[0].link_id, found.egress[0].link_id) == ours, "{found:?}");
    Ok(found)
}

fn wait_attached(node: &Node, device: &str) -> Result<Hooks> {
    let what = format!("{device} to be attached");
    wait::until(&what, CHANGE_TIMEOUT, || attached(node, device))
}

/// Links of both hooks.
fn link_ids(hooks: &Hooks) -> [u32; 2] {
    [hooks.ingress[0].link_id, hooks.egress[0].link_id]
}

/// A device in `status`, by name.
fn told<'a>(status: &'a Value, name: &str) -> Option<&'a Value> {
    status["devices"].as_array()?.iter().find(|device| device["name"] == name)
}

#[test]
fn every_device_has_its_role() -> Result<()> {
    let builder = one_node().nodes(2).inter_node(InterNode::Vxlan);
    let mut world = World::new(builder)?;
    let node = world.lab.node("n1").clone();
    for device in ["eth0", "flannel.1", "veth0", "veth1"] {
        wait_attached(&node, device)?;
    }
    // Its ports cover it.
    let bridge = hooks::on(&node, "cni0")?;
    ensure!(bridge.ingress.is_empty() && bridge.egress.is_empty(), "{bridge:?}");
    let status = world.agent("n1").status_json()?;
    for (device, role) in [("eth0", "uplink"), ("flannel.1", "tunnel"), ("veth0", "pod")] {
        let told = told(&status, device).with_context(|| format!("no {device} in {status}"))?;
        ensure!(told["role"] == role && told["ingress"]["state"] == "attached", "{told}");
        ensure!(told["fromPods"] == (role == "pod"), "{told}");
    }
    ensure!(told(&status, "cni0").is_none() && told(&status, "lo").is_none(), "{status}");
    ensure!(status["node"]["masqueradePorts"] == serde_json::json!([10240, 29999]), "{status}");
    ensure!(status["node"]["detector"] == "device", "{status}");
    let addresses = status["node"]["addresses"].to_string();
    ensure!(addresses.contains(&node.address(Family::V4).to_string()), "{addresses}");
    let text = world.agent("n1").operate(&["status"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    for words in ["Devices: 4 of 4 attached by tcx", "10240-29999", "flannel.1", "uplink"] {
        ensure!(text.contains(words), "no {words:?} in\n{text}");
    }
    Ok(())
}

#[test]
fn devices_are_served_from_their_first_moment_to_their_last() -> Result<()> {
    let mut world = served()?;
    let node = world.lab.node("n1").clone();
    let before = hooks::all_pins(&node).len();
    let mut took = Vec::new();
    // As pods' devices are made: the other end is elsewhere.
    let elsewhere = world.lab.pod("n1", "client").netns().to_owned();
    let elsewhere = elsewhere.file_name().context("a name")?.to_string_lossy().into_owned();
    for number in 0..CHURN {
        let device = format!("new{number}");
        let peer = format!("peer name {device}p netns {elsewhere}");
        node.ip(&[format!("link add {device} type veth {peer}")])?;
        let start = Instant::now();
        wait_attached(&node, &device)?;
        took.push(start.elapsed());
    }
    took.sort();
    println!("served after {:?} (median), {:?} (last)", took[took.len() / 2], took.last());
    ensure!(took[took.len() / 2] < SERVED_LIMIT, "{took:?}");

    let first = wait_attached(&node, "new0")?;
    node.ip(&["link set new0 name other".into(), "link set other up".into()])?;
    ensure!(link_ids(&wait_attached(&node, "other")?) == link_ids(&first), "renamed");
    node.ip(&["link set other down".into(), "link set other mtu 1400 up".into()])?;
    ensure!(link_ids(&wait_attached(&node, "other")?) == link_ids(&first), "down and up");
    wait::until("the new name", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?;
        told(&status, "other").map(drop).with_context(|| status.to_string())
    })?;

    let index = hooks::index(&node, "other")?;
    node.ip(&["link del other".into()])?;
    for number in 1..CHURN {
        node.ip(&[format!("link del new{number}")])?;
    }
    wait::until("the pins to go", CHANGE_TIMEOUT, || {
        let pins = hooks::all_pins(&node);
        ensure!(pins.len() == before, "{pins:?}");
        Ok(())
    })?;
    wait::until("the row to go", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?;
        let devices = status["devices"].as_array().context("no devices")?;
        ensure!(devices.iter().all(|device| device["index"] != index), "{status}");
        Ok(())
    })
}

/// A pod's end of a device is made in the node and moved: the program must not go with it.
#[test]
fn a_device_that_moves_away_leaves_the_program_behind() -> Result<()> {
    let world = served()?;
    let (node, pod) = (world.lab.node("n1"), world.lab.pod("n1", "client"));
    node.ip(&["link add stays type veth peer name moves".into()])?;
    wait_attached(node, "moves")?;
    let netns = pod.netns().file_name().context("a name")?.to_string_lossy().into_owned();
    node.ip(&[format!("link set moves netns {netns}")])?;
    wait::until("the program to be gone from the pod", CHANGE_TIMEOUT, || {
        let found = hooks::on(pod, "moves")?;
        ensure!(found.ingress.is_empty() && found.egress.is_empty(), "{found:?}");
        Ok(())
    })?;
    wait_attached(node, "stays").map(drop)
}

#[test]
fn a_restart_puts_new_programs_behind_the_same_links() -> Result<()> {
    let mut world = served()?;
    let node = world.lab.node("n1").clone();
    let devices = ["eth0", "veth0", "veth1"];
    let look = || devices.map(|device| wait_attached(&node, device));
    let before: Vec<Hooks> = look().into_iter().collect::<Result<_>>()?;
    node.ip(&["link add goes type veth peer name goesp".into()])?;
    wait_attached(&node, "goes")?;
    wait_attached(&node, "goesp")?;
    let pins = hooks::all_pins(&node).len();
    world.agent("n1").kill()?;
    let dead: Vec<Hooks> = look().into_iter().collect::<Result<_>>()?;
    ensure!(dead == before, "the kernel goes on with {dead:?}, it was {before:?}");
    // While no agent runs, a device goes and another comes.
    node.ip(&["link del goes".into(), "link add comes type veth peer name comesp".into()])?;
    world.agent("n1").restart()?;
    for (device, before) in devices.iter().zip(&before) {
        let after = wait_attached(&node, device)?;
        ensure!(link_ids(&after) == link_ids(before), "{device}: {before:?}, then {after:?}");
        let programs = (before.ingress[0].program_id, after.ingress[0].program_id);
        ensure!(programs.0 != programs.1, "{device} has the old program {programs:?}");
    }
    wait_attached(&node, "comes")?;
    wait_attached(&node, "comesp")?;
    ensure!(hooks::all_pins(&node).len() == pins, "{:?}", hooks::all_pins(&node));
    let log = world.agent("n1").run_log()?;
    ensure!(!log.contains("removed our programs"), "nothing was to be repaired:\n{log}");
    reach(world.lab.pod("n1", "client"), cluster_ip(Family::V4, 1), &["a"])
}

#[test]
fn programs_of_others_stay_and_run() -> Result<()> {
    let mut world = World::without_agents(one_node(), &[])?;
    let node = world.lab.node("n1").clone();
    let pod = world.lab.pod("n1", "a").clone();
    let theirs = Dropper::attach(&node, "veth1")?;
    world.start_agents(SMALL_MAPS)?;
    wait::until("our program before theirs", CHANGE_TIMEOUT, || {
        let found = hooks::on(&node, "veth1")?;
        let last = found.ingress.last().map(|program| program.link_id);
        ensure!(found.ingress.len() == 2 && last == Some(theirs.link_id), "{found:?}");
        Ok(())
    })?;
    let server = world_address(&world, "a");
    unreachable(&node, server).context("theirs runs after ours")?;
    let first = Dropper::attach(&node, "veth1")?;
    let found = hooks::on(&node, "veth1")?;
    ensure!(found.ingress[0].link_id == first.link_id, "{found:?}");
    world.agent("n1").kill()?;
    world.agent("n1").restart()?;
    ensure!(hooks::on(&node, "veth1")?.ingress.len() == 3, "a restart keeps them");
    world.agent("n1").stop()?;
    world.agent("n1").cleanup()?;
    let left: Vec<u32> = hooks::on(&node, "veth1")?.ingress.iter().map(|p| p.link_id).collect();
    ensure!(left == [first.link_id, theirs.link_id], "cleanup leaves theirs: {left:?}");
    drop((theirs, first));
    reach(&node, server, &["a"]).with_context(|| format!("{} again", pod.name()))
}

/// Where a pod's server listens.
fn world_address(world: &World, pod: &str) -> std::net::SocketAddr {
    let ip = world.pod_address(&format!("n1/{pod}"), Family::V4);
    std::net::SocketAddr::new(ip, millrace_tests::world::TARGET_PORT)
}

#[test]
fn what_somebody_removes_is_put_back() -> Result<()> {
    let mut world = served()?;
    let node = world.lab.node("n1").clone();
    for device in ["eth0", "veth0"] {
        wait_attached(&node, device)?;
        let [inward, outward] = hooks::pins(&node, hooks::index(&node, device)?);
        let repaired = || -> Result<()> {
            let start = Instant::now();
            wait::until("a repair", REPAIR_LIMIT, || attached(&node, device))?;
            println!("{device} repaired after {:?}", start.elapsed());
            Ok(())
        };
        hooks::detach(&inward)?;
        repaired().context("the link for what comes in was detached")?;
        hooks::detach(&outward)?;
        repaired().context("the link for what goes out was detached")?;
        std::fs::remove_file(&inward)?;
        repaired().context("a pin was removed")?;
        hooks::detach(&inward)?;
        std::fs::remove_file(&inward)?;
        repaired().context("a link was detached and its pin removed")?;
    }
    wait::until("the repairs to be told", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?;
        let count = status["agent"]["repairedDeviceHooks"].as_u64();
        ensure!(count >= Some(8), "{count:?}");
        Ok(())
    })
}

#[test]
fn cleanup_leaves_no_program_on_any_device() -> Result<()> {
    let mut world = served()?;
    let node = world.lab.node("n1").clone();
    let devices = ["eth0", "veth0", "veth1"];
    for device in devices {
        wait_attached(&node, device)?;
    }
    world.agent("n1").stop()?;
    world.agent("n1").cleanup()?;
    for device in devices {
        let found = hooks::on(&node, device)?;
        ensure!(found.ingress.is_empty() && found.egress.is_empty(), "{device}: {found:?}");
    }
    let left: Vec<_> = std::fs::read_dir(node.bpffs())?.flatten().map(|e| e.path()).collect();
    ensure!(left.is_empty(), "{left:?}");
    Ok(())
}

/// `--socket-lb=off`: what an earlier run has attached to sockets goes, packets are translated
/// still, and status says what is not served.
#[test]
fn sockets_are_left_alone_when_the_operator_says_so() -> Result<()> {
    let mut world = served()?;
    let client = world.lab.pod("n1", "client").clone();
    let to = cluster_ip(Family::V4, 1);
    reach(&client, to, &["a"])?;
    let agent = world.agent("n1");
    agent.stop()?;
    agent.add_arguments(&["--socket-lb=off"]);
    agent.restart()?;
    let status = agent.status_json()?;
    ensure!(status["ready"] == true && status["hooks"] == serde_json::json!([]), "{status}");
    let text = agent.operate(&["status"])?;
    let text = String::from_utf8_lossy(&text.stdout).into_owned();
    let words = "Sockets: off: processes of the node itself are not served";
    ensure!(text.contains(words), "no {words:?} in\n{text}");
    reach(&client, to, &["a"]).context("packets are translated")?;
    // And on again; a device that the operator takes out is left as well.
    agent.stop()?;
    agent.replace_argument("--socket-lb=", "on");
    agent.add_arguments(&["--device-role=eth0=off"]);
    agent.restart()?;
    ensure!(agent.status_json()?["hooks"][0]["state"] == "attached", "sockets are on again");
    let node = world.lab.node("n1").clone();
    let found = hooks::on(&node, "eth0")?;
    ensure!(found.ingress.is_empty() && found.egress.is_empty(), "eth0 is off: {found:?}");
    Ok(())
}
