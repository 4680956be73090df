//! What the kernel holds for an agent: maps by their memory, programs by their size.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use millrace::bpf::inventory;
use serde_json::Value;

use crate::result::ProgramSize;

/// Beginnings of the names of maps that traffic fills: their size is not the Services'.
const OF_TRAFFIC: [&str; 8] =
    ["flow", "half_open", "fragments", "parked", "peer", "udp_peers", "affinity", "scratch"];

/// Memory of an agent's maps without those that traffic fills, in MiB.
pub fn configured_mib(agent: u32) -> Result<f64> {
    let bytes: f64 = maps(agent)?
        .iter()
        .filter(|(name, _)| !OF_TRAFFIC.iter().any(|start| name.starts_with(start)))
        .map(|(_, bytes)| bytes)
        .sum();
    Ok(bytes / (1024.0 * 1024.0))
}

/// Names and bytes of the maps that a process holds.
fn maps(process: u32) -> Result<Vec<(String, f64)>> {
    let names: BTreeMap<u64, String> = bpftool(&["map", "show"])?
        .iter()
        .filter_map(|map| Some((map["id"].as_u64()?, map["name"].as_str()?.to_owned())))
        .collect();
    let mut found = BTreeMap::new();
    let directory = format!("/proc/{process}/fdinfo");
    for file in std::fs::read_dir(&directory).with_context(|| directory.clone())? {
        // A descriptor may be closed meanwhile.
        let Ok(text) = std::fs::read_to_string(file?.path()) else { continue };
        let field = |name: &str| -> Option<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_start_matches(':').trim().parse().ok()
        };
        if let (Some(id), Some(bytes)) = (field("map_id"), field("memlock")) {
            found.insert(id, bytes as f64);
        }
    }
    ensure!(!found.is_empty(), "process {process} holds no maps");
    let named = |(id, bytes)| Some((names.get(&id)?.clone(), bytes));
    Ok(found.into_iter().filter_map(named).collect())
}

/// Sizes of the programs with these names, as the kernel cuts them.
pub fn sizes(wanted: &[(String, u64)]) -> Result<Vec<ProgramSize>> {
    let verified: BTreeMap<String, u64> = inventory::programs()
        .context("list the programs")?
        .into_iter()
        .map(|program| (program.name, u64::from(program.verified_instructions.unwrap_or(0))))
        .collect();
    let all = bpftool(&["prog", "show"])?;
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let of = |id: u64| all.iter().find(|program| number(&program["id"]) == id);
    let size = |(name, id): &(String, u64)| {
        let program = of(*id)?;
        let kernel_name = program["name"].as_str().unwrap_or_default();
        // The kernel keeps 15 characters of a name.
        let cut = kernel_name.get(..15).unwrap_or(kernel_name);
        Some(ProgramSize {
            program: name.clone(),
            jitted_bytes: number(&program["bytes_jited"]),
            instructions: number(&program["bytes_xlated"]) / 8,
            verified: verified.get(cut).copied().unwrap_or_default(),
        })
    };
    Ok(wanted.iter().filter_map(size).collect())
}

/// Nanoseconds and runs of programs, by name.
pub type Totals<'a> = BTreeMap<&'a str, (u64, u64)>;

/// Nanoseconds and runs of each program so far, given its name and id.
pub fn totals(programs: &[(String, u64)]) -> Result<Totals<'_>> {
    let all = bpftool(&["prog", "show"])?;
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

fn bpftool(words: &[&str]) -> Result<Vec<Value>> {
    let output = Command::new("bpftool").arg("-j").args(words).output();
    let output = output.context("run bpftool (cargo xtask setup installs it)")?;
    ensure!(output.status.success(), "bpftool: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("read what bpftool says")
}
