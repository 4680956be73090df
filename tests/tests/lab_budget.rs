//! The verifier's work is budgeted: a program near the kernel's limit (a million instructions
//! walked through) loads on this kernel and not on the next one, and growth goes unnoticed.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use millrace::bpf::object::{
    FlowCapacity, GUARD_HOOK, Object, PACKET_PROGRAMS, PacketBuild, SOCKET_HOOKS, Settings,
};
use millrace::bpf::pins::Pins;
use millrace::bpf::sys;
use millrace::plan::op::Capacity;
use millrace_tests::lab::Lab;

/// Lines `PROGRAM INSTRUCTIONS`.
const BUDGET: &str = include_str!("../../ebpf/budget.txt");
/// Rows of every map: the verifier does not care how many.
const ROWS: u32 = 64;
/// What a new budget has over the count it was made from, in percent.
const HEADROOM: u32 = 15;
/// Any but "unknown".
const NETNS_COOKIE: u64 = 1;

/// What each program may cost.
fn budget() -> Result<BTreeMap<&'static str, u32>> {
    let lines = BUDGET.lines().map(|line| line.split('#').next().unwrap_or_default().trim());
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let parts = line.split_once(' ').map(|(n, count)| (n, count.trim().parse()));
            let (name, count) = parts.with_context(|| format!("ebpf/budget.txt: {line:?}"))?;
            Ok((name, count.with_context(|| format!("ebpf/budget.txt: {line:?}"))?))
        })
        .collect()
}

/// What each program costs on this kernel; not told by old ones.
fn verified(object: &Object) -> Result<BTreeMap<&'static str, Option<u32>>> {
    let sockets = SOCKET_HOOKS.into_iter().chain([GUARD_HOOK]).map(|(name, _)| name);
    sockets
        .chain(PACKET_PROGRAMS)
        .map(|name| {
            let program = object.program(name).with_context(|| format!("no program {name}"))?;
            Ok((name, sys::verified_instructions(program)?))
        })
        .collect()
}

#[test]
fn no_program_costs_the_verifier_more_than_its_budget() -> Result<()> {
    let lab = Lab::builder().pod("n1", "a").build()?;
    let rows =
        Capacity { services: ROWS, backends: ROWS, slots: ROWS, frontends: ROWS, sources: ROWS };
    let flows = FlowCapacity { established: ROWS, half_open: ROWS };
    let load = |packets| -> Result<_> {
        let settings = Settings { capacity: rows, flows, node_netns_cookie: NETNS_COOKIE, packets };
        let object = Object::load(&Pins::new(lab.node("n1").bpffs()), &settings)?;
        ensure!(object.refused.is_empty(), "the kernel refuses {:?}", object.refused);
        verified(&object)
    };
    let mut verified: BTreeMap<String, Option<u32>> = BTreeMap::new();
    for (name, count) in load(PacketBuild::Plain)? {
        let is_twice = PACKET_PROGRAMS.contains(&name);
        verified.insert(if is_twice { format!("{name}_plain") } else { name.into() }, count);
    }
    for (name, count) in load(PacketBuild::Swift)? {
        verified.insert(name.into(), count);
    }
    let budget = budget()?;
    let mut problems = Vec::new();
    for (name, count) in &verified {
        let Some(count) = *count else { continue };
        println!("{name} {count} of {:?}", budget.get(name.as_str()));
        let raised = count * (100 + HEADROOM) / 100;
        match budget.get(name.as_str()) {
            None => problems.push(format!("{name} has no budget: add `{name} {raised}`")),
            Some(limit) if count > *limit => problems.push(format!(
                "the verifier walks through {count} instructions of {name}, its budget is {limit}: \
                 make it smaller, or write `{name} {raised}`"
            )),
            Some(_) => {}
        }
    }
    let unknown = budget.keys().filter(|name| !verified.contains_key(**name));
    problems.extend(unknown.map(|name| format!("there is no program {name}: delete its line")));
    ensure!(problems.is_empty(), "ebpf/budget.txt:\n{}", problems.join("\n"));
    Ok(())
}
