//! `millrace status`: is it serving, and if not, what is wrong.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use millrace_common::backend::V6_PLACES;
use millrace_common::packet::tables::Table;
use serde::Serialize;

use super::{Output, devices};
use crate::apply::MapStore;
use crate::bpf::attach::{self, HookState};
use crate::canary::rows;
use crate::flows::FlowRows;
use crate::plan::op::Snapshot;
use crate::report::{Report, Severity};

/// Exit code when something is wrong that the output names.
const EXIT_UNHEALTHY: u8 = 3;

/// All that `status` shows.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    /// A process owns the pins.
    agent_running: bool,
    /// The agent is running, has applied its first plan, every hook has our program, and the canary
    /// is translated.
    ready: bool,
    hooks: Vec<Hook>,
    /// The program that drops and refuses packets is attached: there is something to guard.
    guard_attached: bool,
    /// What the packet path knows of the node.
    node: devices::Node,
    /// Devices that the packet path serves.
    devices: Vec<devices::Device>,
    maps: Vec<Map>,
    counters: Vec<Count>,
    /// What the agent last said.
    agent: Report,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    program: &'static str,
    state: &'static str,
    program_id: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Map {
    name: &'static str,
    used: usize,
    size: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Count {
    name: &'static str,
    /// What it is a count of: `sockets`, `packets` (each is counted once per hook), `events`.
    of: &'static str,
    count: u64,
}

/// Print the status; the exit code says whether all is well.
pub fn status(bpffs: Option<&Path>, output: Output) -> Result<ExitCode> {
    let status = gather(bpffs)?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Text => print(&status),
    }
    let refused = status.agent.conditions.iter().any(|c| c.severity == Severity::Refused);
    if status.ready && !refused { Ok(ExitCode::SUCCESS) } else { Ok(EXIT_UNHEALTHY.into()) }
}

fn gather(bpffs: Option<&Path>) -> Result<Status> {
    let pins = super::pins(bpffs)?;
    let store = super::store(&pins)?;
    let text = store.report()?;
    let agent: Report = match text.as_str() {
        "" => Report::default(),
        text => serde_json::from_str(text).context("read the agent's report")?,
    };
    let mut hooks: Vec<Hook> =
        attach::hooks(&pins).context("look at the hooks")?.into_iter().map(hook).collect();
    if agent.sockets_off {
        // None is wanted; one that is there still is worth showing.
        hooks.retain(|hook| hook.program_id.is_some());
    }
    let (node, devices) = devices::gather(&pins)?;
    let agent_running = pins.is_owned().context("look at the lock")?;
    let attached = hooks.iter().all(|hook| hook.program_id.is_some())
        && devices.iter().all(devices::Device::is_attached);
    let capacity = rows::without_reserve(store.capacity());
    let map = |name, used, size| Map { name, used, size };
    let mut snapshot = store.snapshot()?;
    rows::hide(&mut snapshot);
    let used = Used::of(&snapshot);
    let flows = &store.flows;
    Ok(Status {
        agent_running,
        ready: agent_running && agent.ready && attached,
        hooks,
        guard_attached: attach::guard_is_attached(&pins).context("look at the guard")?,
        node,
        devices,
        maps: vec![
            map("services", used.services, capacity.services),
            map("frontends_v4", used.frontends_v4, capacity.frontends),
            map("frontends_v6", used.frontends_v6, capacity.frontends),
            map("backends", used.backends, capacity.backends),
            map("slots", used.slots, capacity.slots),
            flow_map("flows_v4", &flows.v4, Table::Established)?,
            flow_map("flows_v6", &flows.v6, Table::Established)?,
            flow_map("half_open_v4", &flows.v4, Table::HalfOpen)?,
            flow_map("half_open_v6", &flows.v6, Table::HalfOpen)?,
        ],
        counters: store
            .counters()?
            .into_iter()
            .map(|(counter, count)| Count {
                name: counter.name(),
                of: counter.group().name(),
                count,
            })
            .collect(),
        agent,
    })
}

/// Entries of a table of flows, counted one by one.
fn flow_map<A, R: FlowRows<A>>(name: &'static str, rows: &R, table: Table) -> Result<Map> {
    let mut cursor = R::Cursor::default();
    let mut used = 0;
    while !rows.step(table, &mut cursor, |_, _| used += 1)? {}
    Ok(Map { name, used, size: rows.size(table)? })
}

fn hook((program, state): (&'static str, HookState)) -> Hook {
    let (state, program_id) = match state {
        HookState::Attached(info) => ("attached", Some(info.program_id)),
        HookState::Severed => ("severed", None),
        HookState::Missing => ("missing", None),
    };
    Hook { program, state, program_id }
}

/// Rows in use.
struct Used {
    services: usize,
    frontends_v4: usize,
    frontends_v6: usize,
    backends: usize,
    slots: usize,
}

impl Used {
    fn of(snapshot: &Snapshot) -> Self {
        let v4 = snapshot.frontends_v4.iter().map(|(_, row)| row);
        let v6 = snapshot.frontends_v6.iter().map(|(_, row)| row);
        // Frontends of one service share blocks: count each slot once.
        let mut blocks: Vec<(u32, u32)> = v4
            .chain(v6)
            .flat_map(|row| [(row.near.first, row.near.count), (row.far.first, row.far.count)])
            .collect();
        blocks.sort_unstable();
        blocks.dedup();
        let v4_backends = snapshot.backends_v4.iter().filter(|(_, row)| row.state != 0);
        let v6_backends = snapshot.backends_v6.iter().filter(|(_, row)| row.state != 0);
        Self {
            services: snapshot.services.iter().map(|(_, row)| row.parts() as usize).sum(),
            frontends_v4: snapshot.frontends_v4.len(),
            frontends_v6: snapshot.frontends_v6.len(),
            backends: v4_backends.count() + v6_backends.count() * V6_PLACES as usize,
            slots: blocks.iter().map(|(_, count)| *count as usize).sum(),
        }
    }
}

fn print(status: &Status) {
    let agent = &status.agent;
    let ready = if status.ready { "yes" } else { "NO" };
    let running = if status.agent_running {
        format!("running (pid {}), version {}", agent.pid, agent.version)
    } else {
        "NOT RUNNING; the kernel goes on with the last known Services".to_owned()
    };
    println!("Ready:   {ready}");
    println!("Agent:   {running}");
    println!("Node:    {}", agent.node_name);
    println!("Source:  {}", agent.source);
    print_hooks(status);
    print_canary(agent);
    devices::print_node(&status.node);
    println!();
    devices::print_devices(&status.devices);
    let mut maps = super::table(&["MAP", "USED", "SIZE"]);
    for map in &status.maps {
        maps.add_row([map.name.to_owned(), map.used.to_string(), map.size.to_string()]);
    }
    println!("{maps}\n");
    print_counters(&status.counters);
    print_conditions(agent);
}

/// One column of names and counts per group, a group under the other.
fn print_counters(counters: &[Count]) {
    let titles = [("sockets", "SOCKETS"), ("packets", "PACKETS"), ("events", "EVENTS")];
    let mut table = super::table(&["OUTCOME", "COUNT"]);
    for (of, title) in titles {
        table.add_row([title, ""]);
        for counter in counters.iter().filter(|counter| counter.of == of) {
            table.add_row([format!("  {}", counter.name), counter.count.to_string()]);
        }
    }
    println!("{table}");
}

fn print_hooks(status: &Status) {
    let agent = &status.agent;
    let attached = status.hooks.iter().filter(|hook| hook.program_id.is_some()).count();
    if agent.sockets_off {
        println!("Sockets: off: processes of the node itself are not served");
    } else {
        println!("Hooks:   {attached} of {} on {}", status.hooks.len(), agent.cgroup_root);
    }
    if status.guard_attached {
        println!("Guard:   attached: packets have to be dropped or refused");
    }
    for hook in status.hooks.iter().filter(|hook| hook.program_id.is_none()) {
        println!("         {} is {}", hook.program, hook.state);
    }
    let attached = status.devices.iter().filter(|device| device.is_attached()).count();
    println!("Devices: {attached} of {} attached by {}", status.devices.len(), agent.device_hooks);
}

/// One line while all is well, else one for each hook that does not translate.
fn print_canary(agent: &Report) {
    let passed = agent.canary.iter().filter(|score| score.translated).count();
    println!("Canary:  translated by {passed} of {} hooks", agent.canary.len());
    for score in agent.canary.iter().filter(|score| !score.translated) {
        let error = score.error.as_deref().unwrap_or_default();
        println!("         {} ({}): {error}", score.hook, score.family);
    }
}

fn print_conditions(agent: &Report) {
    if agent.conditions.is_empty() {
        println!("\nNo conditions: everything the source holds is served as asked.");
        return;
    }
    println!("\nConditions:");
    for condition in &agent.conditions {
        let severity = match condition.severity {
            Severity::Refused => "REFUSED",
            Severity::Warning => "warning",
        };
        println!("  {severity}  {}: {}", condition.about, condition.message);
    }
    if agent.conditions_omitted > 0 {
        println!("  ... and {} more", agent.conditions_omitted);
    }
}
