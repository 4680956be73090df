//! Filters instead of links (kernels below 6.6; asked for here with `--device-hooks=clsact`): ours
//! are found again and replaced in place, those of others are left alone.

use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_tests::hooks::{self, tc};
use millrace_tests::lab::{Lab, Node};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{SMALL_MAPS, World};

/// What somebody removed is back within this long; one look is a second.
const REPAIR_LIMIT: Duration = Duration::from_secs(4);
const BOTH: [&str; 2] = ["ingress", "egress"];

fn world() -> Result<World> {
    let mut world = World::without_agents(Lab::builder().pods("n1", &["a", "b"]), &[])?;
    // Somebody has a filter on veth0 already.
    let node = world.lab.node("n1");
    tc(node, "qdisc add dev veth0 clsact")?;
    tc(node, "filter add dev veth0 ingress prio 7 protocol ip u32 match u32 0 0 flowid 1:1")?;
    world.start_agents(&[SMALL_MAPS, &["--device-hooks=clsact"]].concat())?;
    Ok(world)
}

fn filters(node: &Node, device: &str, side: &str) -> Result<String> {
    tc(node, &format!("filter show dev {device} {side}"))
}

fn attached(node: &Node, device: &str) -> Result<()> {
    for side in BOTH {
        let found = filters(node, device, side)?;
        let count = found.matches("millrace_packet_").count();
        ensure!(count == 1 && found.contains("direct-action"), "{device} {side}: {found}");
    }
    Ok(())
}

fn wait_attached(node: &Node, device: &str) -> Result<()> {
    wait::until(&format!("{device} to be attached"), CHANGE_TIMEOUT, || attached(node, device))
}

#[test]
fn filters_serve_where_links_cannot() -> Result<()> {
    let mut world = world()?;
    let node = world.lab.node("n1").clone();
    for device in ["eth0", "veth0", "veth1"] {
        wait_attached(&node, device)?;
        ensure!(hooks::on(&node, device)?.ingress.is_empty(), "no links");
    }
    let status = world.agent("n1").status_json()?;
    ensure!(status["ready"] == true && status["agent"]["deviceHooks"] == "clsact", "{status}");
    node.ip(&["link add new0 type veth peer name new1".into()])?;
    wait_attached(&node, "new0")?;
    node.ip(&["link del new0".into()])?;

    // Another program in the same place.
    let before = filters(&node, "eth0", "ingress")?;
    world.agent("n1").kill()?;
    world.agent("n1").restart()?;
    wait_attached(&node, "eth0")?;
    let after = filters(&node, "eth0", "ingress")?;
    ensure!(before != after, "a new program has a new id: {after}");
    ensure!(filters(&node, "veth0", "ingress")?.contains(" u32 "), "theirs is still there");
    Ok(())
}

#[test]
fn removed_filters_are_put_back() -> Result<()> {
    let world = world()?;
    let node = world.lab.node("n1");
    wait_attached(node, "eth0")?;
    for removal in ["filter del dev eth0 ingress", "qdisc del dev eth0 clsact"] {
        tc(node, removal)?;
        wait::until(removal, REPAIR_LIMIT, || attached(node, "eth0"))?;
    }
    Ok(())
}

#[test]
fn cleanup_leaves_what_others_made() -> Result<()> {
    let mut world = world()?;
    let node = world.lab.node("n1").clone();
    wait_attached(&node, "veth0")?;
    wait_attached(&node, "eth0")?;
    world.agent("n1").stop()?;
    world.agent("n1").cleanup()?;
    let left = filters(&node, "veth0", "ingress")?;
    ensure!(left.contains(" u32 ") && !left.contains("millrace"), "{left}");
    let disciplines = tc(&node, "qdisc show")?;
    let clsact: Vec<&str> = disciplines.lines().filter(|line| line.contains("clsact")).collect();
    ensure!(clsact.len() == 1 && clsact[0].contains("veth0"), "{disciplines}");
    Ok(())
}

/// A kernel that learnt links between two starts, or an operator who changed his mind.
#[test]
fn the_means_may_change_between_two_starts() -> Result<()> {
    let mut world = world()?;
    let node = world.lab.node("n1").clone();
    wait_attached(&node, "eth0")?;
    for (means, filters_wanted) in [("tcx", false), ("clsact", true)] {
        let agent = world.agent("n1");
        agent.stop()?;
        agent.replace_argument("--device-hooks=", means);
        agent.restart()?;
        wait::until(&format!("{means} alone"), CHANGE_TIMEOUT, || {
            let links = hooks::on(&node, "eth0")?.ingress.len();
            let by_filter = filters(&node, "eth0", "ingress")?.contains("millrace");
            ensure!((links == 0, by_filter) == (filters_wanted, filters_wanted), "{links}");
            Ok(())
        })?;
    }
    Ok(())
}

/// What stands in our place but is not ours is not replaced; the device is named.
#[test]
fn a_filter_of_somebody_else_in_our_place_is_not_touched() -> Result<()> {
    let mut world = world()?;
    let node = world.lab.node("n1").clone();
    world.agent("n1").stop()?;
    world.agent("n1").cleanup()?;
    tc(&node, "qdisc add dev eth0 clsact")?;
    // One that lets everything through.
    let program = node.run_dir().join("theirs");
    std::fs::write(&program, "1,6 0 0 4294967295,")?;
    let place = "prio 2 handle 0x6d696c6c protocol all";
    let theirs = format!("bpf bytecode-file {}", program.display());
    tc(&node, &format!("filter add dev eth0 egress {place} {theirs}"))?;
    world.agent("n1").restart()?;
    wait::until("the device to be named", CHANGE_TIMEOUT, || {
        let status = world.agent("n1").status_json()?;
        let conditions = status["agent"]["conditions"].to_string();
        ensure!(conditions.contains("device eth0"), "{conditions}");
        ensure!(conditions.contains("not ours"), "{conditions}");
        ensure!(status["ready"] == false, "{status}");
        Ok(())
    })?;
    let left = filters(&node, "eth0", "egress")?;
    ensure!(left.contains("bytecode") && !left.contains("millrace"), "{left}");
    Ok(())
}
