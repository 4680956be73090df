//! What each program costs per run, by the kernel's own statistics, in the traffic of each site of
//! ours: sockets that dial the hot Service, one at random, and none.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use millrace_tests::agent::Agent;
use millrace_tests::lab::Family;

use crate::hooks;
use crate::lane::{Dialogue, Lane, Target};
use crate::maps::{self, totals};
use crate::options::Options;
use crate::result::{ProgramCost, Run};
use crate::runs;
use crate::services;
use crate::site::{Client, Dataplane, Site};
use crate::statistics::{Quartiles, rounded};

/// Turns the statistics on; costs every program some 50 ns a run while it is on.
const STATISTICS: &str = "/proc/sys/kernel/bpf_stats_enabled";
/// Blocks per lane and target.
pub const REPEATS: usize = 9;
/// Connections per block.
const CONNECTIONS: u32 = 1000;
/// What the row of a program that does nothing is called.
pub const EMPTY: &str = "empty";
/// The name of the one that only does what translating a datagram takes.
pub const REFERENCE: &str = "reference";

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
        // It was written a moment ago; and there is nobody to tell.
        let _ = std::fs::write(STATISTICS, &self.before);
    }
}

/// All that is to be known about programs. The first site must be a direct one.
pub fn measure(sites: &[Site], options: &Options, run: &mut Run) -> Result<()> {
    let (bare, ours): (Vec<_>, Vec<_>) =
        sites.iter().partition(|site| site.dataplane == Dataplane::Direct);
    let ours = ours.into_iter().filter(|site| site.dataplane == Dataplane::Millrace);
    let bare = bare.first().context("a direct site")?;
    let statistics = Statistics::on()?;
    let (mut packets, mut sockets) = (Vec::new(), Vec::new());
    for site in ours {
        let costs = hooks::measure(site, bare, options.seed)?;
        let floor = costs.iter().find(|cost| cost.program == EMPTY).map(|cost| cost.ns.median);
        let floor = floor.context("a program that does nothing")?;
        sockets.push(Sockets::of(site, floor, options.seed)?);
        if run.sizes.is_empty() {
            let packets = hooks::programs(site.node())?;
            run.sizes = maps::sizes(&[programs(agent(site)?)?, packets].concat())?;
        }
        packets.push(costs);
    }
    // In turn: what disturbs the machine for a second disturbs one block of each.
    for _ in 0..REPEATS {
        sockets.iter_mut().try_for_each(Sockets::measure)?;
    }
    for (packets, sockets) in packets.into_iter().zip(sockets) {
        run.programs.extend(packets);
        run.programs.extend(sockets.costs());
    }
    drop(statistics);
    run.runs = std::thread::spawn(runs::measure).join().ok().context("measure runs")??;
    Ok(())
}

fn agent(site: &Site) -> Result<&Agent> {
    site.agent.as_ref().context("a site of ours has an agent")
}

/// A site whose sockets' hooks are measured.
struct Sockets {
    services: u32,
    /// What a program costs that does nothing.
    floor: f64,
    programs: Vec<(String, u64)>,
    lane: Lane,
    server: u32,
    targets: [(&'static str, Target); 3],
    /// Nanoseconds of each run, by what was dialled and by program.
    samples: BTreeMap<(&'static str, String), Vec<f64>>,
}

impl Sockets {
    fn of(site: &Site, floor: f64, seed: u64) -> Result<Self> {
        let services = site.shape.services;
        Ok(Self {
            services,
            floor,
            programs: programs(agent(site)?)?,
            lane: Lane::start("programs".into(), &site.place(Client::Pod), seed)?,
            server: site.server(1)?,
            targets: [
                (
                    "socket path, hot",
                    Target::One(services::cluster_ip(Family::V4, site.shape.hot())),
                ),
                ("socket path, random", Target::AnyService { services }),
                ("socket path, not a Service", Target::One(services::server(Family::V4, 1, 5))),
            ],
            samples: BTreeMap::new(),
        })
    }

    /// One block of connections to each target.
    fn measure(&mut self) -> Result<()> {
        for (what, target) in self.targets {
            let before = totals(&self.programs)?;
            self.lane.block(Dialogue::Connections, target, CONNECTIONS, self.server)?;
            for (name, (ns, runs)) in totals(&self.programs)? {
                let (ns_before, runs_before) = before.get(name).copied().unwrap_or_default();
                // A few runs belong to the lab's own sockets.
                if runs - runs_before >= u64::from(CONNECTIONS) {
                    let cost = (ns - ns_before) as f64 / (runs - runs_before) as f64;
                    self.samples.entry((what, name.to_owned())).or_default().push(cost);
                }
            }
        }
        Ok(())
    }

    /// Every hook's cost in every lane in which it runs.
    fn costs(self) -> impl Iterator<Item = ProgramCost> {
        self.samples.into_iter().map(move |((what, program), samples)| {
            let ns = Quartiles::of(samples);
            let net_ns = Some(rounded(ns.median - self.floor));
            ProgramCost { program, what: what.to_owned(), services: self.services, ns, net_ns }
        })
    }
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
