//! What the packet path's programs cost per run, told apart by what the packet is to them.
//!
//! On its way between the outside client and a pod a packet meets each program once, on the uplink
//! or on the pod's device, and its answer once more. One of the two is translated, the other is
//! none of ours. The kernel counts both alike, so the second is measured by itself, where there is
//! no Service, and taken off.

use anyhow::{Context, Result, ensure};
use millrace_tests::hooks::{self, Empty};
use millrace_tests::lab::Node;
use serde::Serialize;

use crate::lane::{Dialogue, Lane};
use crate::packets::Routed;
use crate::programs::{Statistics, totals};
use crate::statistics::Quartiles;

/// Times that everything is measured.
const REPEATS: usize = 7;
/// Exchanges of datagrams each time.
const EXCHANGES: u32 = 2000;
/// New flows each time: few, so that ports that were used before are rare.
const FLOWS: u32 = 400;
/// Runs of each program for one exchange: on the uplink and on the pod's device.
const RUNS: f64 = 2.0;
/// How many more runs may be somebody else's (address resolution), as a ratio.
const STRAY_RUNS: f64 = 1.05;
/// The device that has all programs.
const UPLINK: &str = "eth0";
/// Lanes of [`Routed::outside`]: without an agent, without a Service, by NodePort, masqueraded.
const BARE: usize = 0;
const MISS: usize = 2;
const NODE_PORT: usize = 3;
const MASQUERADED: usize = 4;
/// Names of the programs, in the order of [`Cost`].
const NAMES: [&str; 2] = ["packet_in", "packet_out"];

/// What a program costs for one kind of packet.
#[derive(Serialize)]
pub struct HookCost {
    /// Its name.
    pub program: &'static str,
    /// What the packet is to it.
    pub packet: &'static str,
    /// Nanoseconds per run.
    pub ns: Quartiles,
    /// The median, less that of a program that does nothing.
    pub net_ns: f64,
}

/// Nanoseconds of `packet_in` and `packet_out`.
type Cost = [f64; 2];

/// Kinds of packets, in the order of [`Sample`].
const KINDS: [&str; 5] = [
    "none of ours",
    "established",
    "established, masqueraded",
    "a flow's first, and its answer",
    "a flow's second, and its answer",
];

/// What one repeat found.
type Sample = [Cost; KINDS.len()];

/// Both programs' costs for all kinds of packets.
pub fn measure(routed: &Routed) -> Result<Vec<HookCost>> {
    ensure!(routed.agent().pid().is_some(), "the agent has ended");
    let mut lanes = routed.outside()?;
    let programs = programs(routed.served())?;
    let empty = Empty::attach(routed.bare(), UPLINK)?;
    let nothing = vec![("empty".to_owned(), u64::from(empty.program_id))];
    let _on = Statistics::on()?;
    let (mut samples, mut floor) = (Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        samples.push(sample(&mut lanes, &programs)?);
        let total = |(ns, runs): (u64, u64)| (ns as f64, runs as f64);
        let before = totals(&nothing)?.get("empty").copied().context("the empty program")?;
        exchange(&mut lanes[BARE], EXCHANGES, EXCHANGES)?;
        let after = totals(&nothing)?.get("empty").copied().context("the empty program")?;
        let (before, after) = (total(before), total(after));
        floor.push((after.0 - before.0) / (after.1 - before.1));
    }
    let floor = Quartiles::of(floor);
    let mut costs = vec![HookCost { program: "empty", packet: "any", ns: floor, net_ns: 0.0 }];
    for (program, name) in NAMES.iter().enumerate() {
        for (kind, packet) in KINDS.iter().enumerate() {
            let ns = Quartiles::of(samples.iter().map(|sample| sample[kind][program]).collect());
            let net_ns = ns.median - floor.median;
            costs.push(HookCost { program: name, packet, ns, net_ns });
        }
    }
    Ok(costs)
}

/// One repeat: what an exchange costs of each kind, and from that what a run does.
fn sample(lanes: &mut [Lane], programs: &[(String, u64)]) -> Result<Sample> {
    let mut cost =
        |lane: usize, count, per_socket| cost_of(&mut lanes[lane], programs, count, per_socket);
    let miss = cost(MISS, EXCHANGES, EXCHANGES)?;
    let established = cost(NODE_PORT, EXCHANGES, EXCHANGES)?;
    let masqueraded = cost(MASQUERADED, EXCHANGES, EXCHANGES)?;
    let first = cost(NODE_PORT, FLOWS, 1)?;
    // Of one exchange; a flow has two.
    let two = cost(NODE_PORT, 2 * FLOWS, 2)?;
    let each = |derive: fn(&[f64; 5]) -> f64| {
        [0, 1].map(|i| derive(&[miss[i], established[i], masqueraded[i], first[i], two[i]]))
    };
    Ok([
        each(|[miss, ..]| miss / RUNS),
        each(|[miss, established, ..]| established - miss / RUNS),
        // Both of its packets are translated on either device.
        each(|[_, _, masqueraded, ..]| masqueraded / RUNS),
        each(|[miss, _, _, first, _]| first - miss / RUNS),
        each(|[miss, _, _, first, two]| 2.0 * two - first - miss / RUNS),
    ])
}

/// Nanoseconds of both programs per exchange.
fn cost_of(
    lane: &mut Lane,
    programs: &[(String, u64)],
    count: u32,
    per_socket: u32,
) -> Result<Cost> {
    let before = totals(programs)?;
    exchange(lane, count, per_socket)?;
    let after = totals(programs)?;
    let mut cost = [0.0; 2];
    for (cost, name) in cost.iter_mut().zip(NAMES) {
        let (ns_before, runs_before) = *before.get(name).context("a program is gone")?;
        let (ns, runs) = *after.get(name).context("a program is gone")?;
        let (ns, runs) = ((ns - ns_before) as f64, (runs - runs_before) as f64);
        let wanted = f64::from(count) * RUNS;
        ensure!(
            (wanted..=wanted * STRAY_RUNS).contains(&runs),
            "{name} ran {runs} times in {count} exchanges of lane {}",
            lane.name
        );
        *cost = ns / runs * RUNS;
    }
    Ok(cost)
}

fn exchange(lane: &mut Lane, count: u32, per_socket: u32) -> Result<()> {
    lane.dialogue = Dialogue::Datagrams { per_socket };
    lane.block(count).map(drop)
}

/// Names and ids of the programs on the node's uplink.
fn programs(node: &Node) -> Result<Vec<(String, u64)>> {
    let hooks = hooks::on(node, UPLINK)?;
    NAMES
        .iter()
        .zip([&hooks.ingress, &hooks.egress])
        .map(|(name, hook)| {
            let id = hook.first().with_context(|| format!("{name} is not on {UPLINK}"))?.program_id;
            Ok(((*name).to_owned(), u64::from(id)))
        })
        .collect()
}
