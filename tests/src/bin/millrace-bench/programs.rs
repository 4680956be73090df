//! What each program costs per run, by the kernel's own statistics.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::Agent;
use serde::Serialize;
use serde_json::Value;

use crate::lane::Lane;
use crate::statistics::Quartiles;

/// Turns the statistics on; costs every program some 50 ns a run while it is on.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// Blocks per lane.
const REPEATS: usize = 5;
/// Connections per block.
const CONNECTIONS: u32 = 1000;

/// A program's cost in one lane.
#[derive(Serialize)]
pub struct ProgramCost {
    /// Its name.
    pub program: String,
    /// What the clients did.
    pub lane: &'static str,
    /// Nanoseconds per run.
    pub ns: Quartiles,
}

/// Statistics on while this lives.
pub struct Statistics {
    before: String,
}

impl Statistics {
    /// Turns them on.
    pub fn on() -> Result<Self> {
        let before = std::fs::read_to_string(STATISTICS).context("read bpf_stats_enabled")?;
        std::fs::write(STATISTICS, "1").context("turn BPF statistics on")?;
        Ok(Self { before })
    }
}

impl Drop for Statistics {
    fn drop(&mut self) {
        let _ = std::fs::write(STATISTICS, &self.before);
    }
}

/// Every program's cost in every lane in which it runs.
pub fn measure(agent: &Agent, lanes: &mut [Lane]) -> Result<Vec<ProgramCost>> {
    let programs = programs(agent)?;
    let _on = Statistics::on()?;
    let mut costs = Vec::new();
    // The direct lanes do not run our programs.
    for lane in lanes.iter_mut().skip(2) {
        let mut samples: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for _ in 0..REPEATS {
            let before = totals(&programs)?;
            lane.block(CONNECTIONS)?;
            for (name, (ns, runs)) in totals(&programs)? {
                let (ns_before, runs_before) = before.get(name).copied().unwrap_or_default();
                // A few runs belong to the lab's own sockets.
                if runs - runs_before >= u64::from(CONNECTIONS) {
                    let cost = (ns - ns_before) as f64 / (runs - runs_before) as f64;
                    samples.entry(name).or_default().push(cost);
                }
            }
        }
        costs.extend(samples.into_iter().map(|(program, samples)| ProgramCost {
            program: program.to_owned(),
            lane: lane.name,
            ns: Quartiles::of(samples),
        }));
    }
    Ok(costs)
}

/// Names and ids of the attached programs.
fn programs(agent: &Agent) -> Result<Vec<(String, u64)>> {
    let status = agent.status_json()?;
    let hooks = status["hooks"].as_array().context("status has no hooks")?;
    hooks
        .iter()
        .map(|hook| {
            let name = hook["program"].as_str().context("a hook without a program")?;
            Ok((name.to_owned(), hook["programId"].as_u64().context("a hook without an id")?))
        })
        .collect()
}

/// Nanoseconds and runs of each program so far, given its name and id.
pub fn totals(programs: &[(String, u64)]) -> Result<BTreeMap<&str, (u64, u64)>> {
    let output = Command::new("bpftool").args(["-j", "prog", "show"]).output();
    let output = output.context("run bpftool (cargo xtask setup installs it)")?;
    ensure!(output.status.success(), "bpftool: {}", String::from_utf8_lossy(&output.stderr));
    let all: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let of = |id: u64| all.iter().find(|program| number(&program["id"]) == id);
    Ok(programs
        .iter()
        .filter_map(|(name, id)| {
            let program = of(*id)?;
            Some((name.as_str(), (number(&program["run_time_ns"]), number(&program["run_cnt"]))))
        })
        .collect())
}
