//! What the packet path's programs cost per run, told apart by what the packet is to them.
//!
//! On its way between the outside client and a pod a packet meets each program once, on the uplink
//! or on the pod's device, and its answer once more. One of the two is translated, the other is
//! none of ours. The kernel counts both alike, so the second is measured by itself, where there is
//! no Service, and taken off.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use millrace_tests::hooks::{self, Empty, Reference};
use millrace_tests::lab::{Family, Node};

use crate::lane::{Dialogue, Lane, Target};
use crate::maps::{Totals, totals};
use crate::programs::{EMPTY, REFERENCE};
use crate::result::ProgramCost;
use crate::services::{self, Extra};
use crate::site::{Client, Site};
use crate::statistics::{Quartiles, rounded};

/// Times that everything is measured.
pub const REPEATS: usize = 7;
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
/// Names of the programs, in the order of [`Cost`].
const NAMES: [&str; 2] = ["packet_in", "packet_out"];

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

/// What the reference program does.
pub const HELPERS: &str = "look-up, write, checksums";

/// What one repeat found.
type Sample = [Cost; KINDS.len()];

/// A lane that exchanges datagrams, and what it dials.
struct Dialler {
    lane: Lane,
    target: SocketAddr,
    server: u32,
}

/// Everybody who dials here.
struct Diallers {
    bare: Dialler,
    miss: Dialler,
    node_port: Dialler,
    masqueraded: Dialler,
}

/// Both programs' costs for all kinds of packets, at a site of ours, beside one without an agent.
/// Statistics must be on.
pub fn measure(site: &Site, bare: &Site, seed: u64) -> Result<Vec<ProgramCost>> {
    let mut diallers = diallers(site, bare, seed)?;
    let programs = programs(site.node())?;
    let empty = Empty::attach(bare.node(), UPLINK)?;
    let reference = Reference::attach(bare.node(), UPLINK)?;
    let others = [(EMPTY, empty.program_id), (REFERENCE, reference.program_id)];
    let others = others.map(|(name, id)| (name.to_owned(), u64::from(id)));
    let (mut samples, mut floor, mut helpers) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..REPEATS {
        samples.push(sample(&mut diallers, &programs)?);
        let before = totals(&others)?;
        diallers.bare.exchange(EXCHANGES, EXCHANGES)?;
        let after = totals(&others)?;
        floor.push(per_run(EMPTY, &before, &after)?);
        helpers.push(per_run(REFERENCE, &before, &after)?);
    }
    let floor = Quartiles::of(floor);
    let services = site.shape.services;
    let cost = |program: &str, what: &str, ns: Quartiles| ProgramCost {
        program: program.into(),
        what: what.into(),
        services,
        ns,
        net_ns: Some(rounded(ns.median - floor.median)),
    };
    let mut costs =
        vec![cost(EMPTY, "any", floor), cost(REFERENCE, HELPERS, Quartiles::of(helpers))];
    for (program, name) in NAMES.iter().enumerate() {
        for (kind, packet) in KINDS.iter().enumerate() {
            let ns = Quartiles::of(samples.iter().map(|sample| sample[kind][program]).collect());
            costs.push(cost(name, packet, ns));
        }
    }
    Ok(costs)
}

/// Nanoseconds of a run of one program, between two readings.
fn per_run(name: &str, before: &Totals, after: &Totals) -> Result<f64> {
    let read = |totals: &Totals| totals.get(name).copied().context("a program is gone");
    let ((ns_before, runs_before), (ns, runs)) = (read(before)?, read(after)?);
    ensure!(runs > runs_before, "{name} did not run");
    Ok((ns - ns_before) as f64 / (runs - runs_before) as f64)
}

fn diallers(site: &Site, bare: &Site, seed: u64) -> Result<Diallers> {
    let dialler = |name: &str, at: &Site, target| -> Result<Dialler> {
        let lane = Lane::start(name.into(), &at.place(Client::Outside), seed)?;
        Ok(Dialler { lane, target, server: at.server(1)? })
    };
    let port = |extra: Extra| -> Result<SocketAddr> {
        Ok(site.node_port(Family::V4, extra.node_port().context("a NodePort")?))
    };
    // Not a backend's address: a flow of the path keeps its client's port for itself towards its
    // backend, for as long as it is remembered.
    let direct = services::server(Family::V4, 1, 5);
    Ok(Diallers {
        bare: dialler("no agent", bare, direct)?,
        miss: dialler("no Service", site, direct)?,
        node_port: dialler("NodePort", site, port(Extra::LocalPort)?)?,
        masqueraded: dialler("NodePort, masqueraded", site, port(Extra::ClusterPort)?)?,
    })
}

/// One repeat: what an exchange costs of each kind, and from that what a run does.
fn sample(diallers: &mut Diallers, programs: &[(String, u64)]) -> Result<Sample> {
    let miss = diallers.miss.cost(programs, EXCHANGES, EXCHANGES)?;
    let established = diallers.node_port.cost(programs, EXCHANGES, EXCHANGES)?;
    let masqueraded = diallers.masqueraded.cost(programs, EXCHANGES, EXCHANGES)?;
    let first = diallers.node_port.cost(programs, FLOWS, 1)?;
    // Of one exchange; a flow has two.
    let two = diallers.node_port.cost(programs, 2 * FLOWS, 2)?;
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

impl Dialler {
    /// Nanoseconds of both programs per exchange.
    fn cost(&mut self, programs: &[(String, u64)], count: u32, per_socket: u32) -> Result<Cost> {
        let before = totals(programs)?;
        self.exchange(count, per_socket)?;
        let after = totals(programs)?;
        let mut cost = [0.0; 2];
        for (cost, name) in cost.iter_mut().zip(NAMES) {
            let (ns_before, runs_before) = *before.get(name).context("a program is gone")?;
            let (ns, runs) = *after.get(name).context("a program is gone")?;
            let (ns, runs) = ((ns - ns_before) as f64, (runs - runs_before) as f64);
            let wanted = f64::from(count) * RUNS;
            let target = self.target;
            ensure!(
                (wanted..=wanted * STRAY_RUNS).contains(&runs),
                "{name} ran {runs} times in {count} exchanges with {target}"
            );
            *cost = ns / runs * RUNS;
        }
        Ok(cost)
    }

    fn exchange(&mut self, count: u32, per_socket: u32) -> Result<()> {
        let dialogue = Dialogue::Datagrams { per_socket };
        self.lane.block(dialogue, Target::One(self.target), count, self.server).map(drop)
    }
}

/// Names and ids of the programs on the node's uplink.
pub fn programs(node: &Node) -> Result<Vec<(String, u64)>> {
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
