//! What changes of Services cost: everything loaded, one endpoint changed, many changed, an agent
//! started again. CPU time where it can be; time only for what somebody waits for.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace_tests::lab::Family;
use serde_json::Value;

use crate::clock::{cpu_us, memory_mib, monotonic_us};
use crate::lane::Lane;
use crate::options::Options;
use crate::result::{Churn, Load, Restart, Run, Update};
use crate::rules::{iptables, nftables};
use crate::services::{self, Entry, Extra, Shape};
use crate::site::{Client, Dataplane, Site};
use crate::statistics::{Quartiles, percentile, rounded};
use crate::tool::{Cost, Input};

/// Changes of one endpoint, by an agent; for a 99th percentile that is not the worst, 200.
const CHANGES: [usize; 2] = [30, 200];
/// By the tools, which need seconds at 10 000 Services.
const TOOL_CHANGES: [usize; 2] = [4, 7];
/// Seconds of changes without an end.
const CHURN_SECS: [u64; 2] = [4, 15];
/// Slices changed per second: a cluster of 5000 nodes that replaces 100 000 endpoints in minutes.
const CHURN_PER_SEC: u32 = 300;
/// Services of the site where that happens; in a quick run the nearest there is.
const CHURN_SERVICES: u32 = 10_000;
/// How long connections are made over a restart.
const RESTART_TIME: Duration = Duration::from_secs(4);
/// How often objects are brought into new maps.
const FILLINGS: [usize; 2] = [3, 5];
/// Pause between two changes, so that none waits for the one before it.
const PAUSE: Duration = Duration::from_millis(20);

/// Everything; the numbers of changes are those of a quick run or of a full one.
pub fn measure(sites: &[Site], options: &Options, run: &mut Run) -> Result<()> {
    let full = usize::from(!options.quick);
    for site in sites {
        let updates = match site.dataplane {
            Dataplane::Millrace => vec![agent_updates(site, CHANGES[full], options.seed)?],
            Dataplane::Iptables | Dataplane::Nftables => {
                tool_updates(site, TOOL_CHANGES[full], options.seed)?
            }
            Dataplane::Direct | Dataplane::Conntrack | Dataplane::KubeProxy(_) => Vec::new(),
        };
        run.updates.extend(updates);
        if site.dataplane == Dataplane::Millrace {
            run.loads.push(objects_to_maps(site.shape, FILLINGS[full])?);
        }
    }
    // As many as kube-proxy's rules have, whatever our own sites have.
    let theirs = sites.iter().filter(|site| site.dataplane == Dataplane::Iptables);
    let theirs = theirs.map(|site| site.shape).filter(|shape| shape.services > 1);
    for shape in theirs.map(|shape| Shape { dual: false, ..shape }) {
        if run.loads.iter().all(|load| !is_maps_of(load, shape)) {
            run.loads.push(objects_to_maps(shape, FILLINGS[full])?);
        }
    }
    let ours = || sites.iter().filter(|site| site.dataplane == Dataplane::Millrace);
    let near = |site: &&Site| site.shape.services.abs_diff(CHURN_SERVICES);
    let busy = ours().min_by_key(near).context("a site of ours")?;
    run.churn.push(churn(busy, CHURN_SECS[full])?);
    Ok(())
}

fn is_maps_of(load: &Load, shape: Shape) -> bool {
    load.what.starts_with("Millrace (objects")
        && (load.services, load.endpoints) == (shape.services, shape.endpoints())
}

/// Kills and starts the agents of our sites; the last thing to be done to them.
pub fn restarts(sites: &mut [Site], options: &Options, run: &mut Run) -> Result<()> {
    for site in sites.iter_mut().filter(|site| site.dataplane == Dataplane::Millrace) {
        run.restarts.push(restart(site, options.seed)?);
    }
    Ok(())
}

/// One endpoint after the other takes the only place behind a Service.
pub struct Changes {
    lane: Lane,
    shape: Shape,
    /// How long each took.
    pub ms: Vec<f64>,
    /// Connections that failed meanwhile.
    pub failed: u32,
}

impl Changes {
    /// None so far.
    pub fn new(site: &Site, seed: u64) -> Result<Self> {
        let lane = Lane::start("changes".into(), &site.place(Client::Pod), seed)?;
        Ok(Self { lane, shape: site.shape, ms: Vec::new(), failed: 0 })
    }

    /// One change; `carry_out` makes the second entry out of the first, and says since when, by the
    /// monotonic clock in microseconds.
    pub fn step(
        &mut self,
        number: usize,
        carry_out: impl FnOnce(&Entry, &Entry) -> Result<f64>,
    ) -> Result<()> {
        let [old, new] = [number % 2, (number + 1) % 2].map(|server| server as u8);
        let entry = |server| self.shape.extra_entry(Extra::Changing, server);
        let (before, after) = (entry(old), entry(new));
        let target = services::cluster_ip(Family::V4, self.shape.extra(Extra::Changing));
        self.lane.begin_await(target, old)?;
        let begun = carry_out(&before, &after)?;
        let seen = self.lane.seen()?;
        self.ms.push((seen.changed_us - begun) / 1e3);
        self.failed += seen.failed;
        std::thread::sleep(PAUSE);
        Ok(())
    }

    fn result(self, what: &str, cpu_ms: f64) -> Update {
        let changes = self.ms.len();
        Update {
            what: what.to_owned(),
            services: self.shape.services,
            changes,
            p50_ms: percentile(&self.ms, 50),
            p99_ms: percentile(&self.ms, 99),
            ms: Quartiles::of(self.ms),
            cpu_ms: rounded(cpu_ms / changes as f64),
            failed: self.failed,
        }
    }
}

/// From the API server's event, when its connection took it to be sent, to a connection that obeys
/// it.
fn agent_updates(site: &Site, count: usize, seed: u64) -> Result<Update> {
    let api = site.api.as_ref().context("a site with an API server")?;
    let pid = site.agent_pid()?;
    let mut changes = Changes::new(site, seed)?;
    let before = cpu_us(pid)?;
    for number in 0..count {
        changes.step(number, |_, new| {
            let sent = api.put_and_send(new.slice(Family::V4))?;
            Ok(monotonic_us()? - sent.elapsed().as_secs_f64() * 1e6)
        })?;
    }
    let cpu_ms = (cpu_us(pid)? - before) / 1e3;
    Ok(changes.result("Millrace", cpu_ms))
}

/// From the tool's start to a connection that obeys it. kube-proxy's own work is not in it.
fn tool_updates(site: &Site, count: usize, seed: u64) -> Result<Vec<Update>> {
    let name = site.dataplane.name();
    // kube-proxy 1.36 lists the table before each change.
    let kinds: &[(&str, bool)] = match site.dataplane {
        Dataplane::Nftables => &[("", false), (", table listed first", true)],
        _ => &[("", false)],
    };
    let mut updates = Vec::new();
    let mut number = 0;
    for (suffix, lists) in kinds {
        let mut changes = Changes::new(site, seed)?;
        let mut cpu_ms = 0.0;
        for _ in 0..count {
            changes.step(number, |old, new| {
                let mut input = Input::new(&change(site, old, new))?;
                let begun = monotonic_us()?;
                if *lists {
                    cpu_ms += list(site)?.cpu_s * 1e3;
                }
                cpu_ms += input.feed(change_command(site))?.cpu_s * 1e3;
                Ok(begun)
            })?;
            number += 1;
        }
        updates.push(changes.result(&format!("{name}{suffix}"), cpu_ms));
    }
    Ok(updates)
}

fn change(site: &Site, old: &Entry, new: &Entry) -> String {
    match site.dataplane {
        Dataplane::Nftables => nftables::change(Family::V4, old, new),
        _ => iptables::change(site.shape, Family::V4, old, new),
    }
}

fn change_command(site: &Site) -> Command {
    let (tool, words): (_, &[&str]) = match site.dataplane {
        Dataplane::Nftables => ("nft", &["-f", "-"]),
        _ => ("iptables-legacy-restore", &["--noflush", "--counters", "-w", "5"]),
    };
    let mut command = site.node().command(tool);
    command.args(words);
    command
}

fn list(site: &Site) -> Result<Cost> {
    let mut command = site.node().command("nft");
    command.args(["--json", "--terse", "list", "table", "ip", "kube-proxy"]);
    Input::new("")?.feed(command)
}

/// Many slices lose and get back their last endpoint, evenly spread over time.
fn churn(site: &Site, seconds: u64) -> Result<Churn> {
    let api = site.api.as_ref().context("a site with an API server")?;
    let pid = site.agent_pid()?;
    let all = u64::from(CHURN_PER_SEC) * seconds;
    let many = site.shape.entries().skip(services::EXTRAS as usize);
    let fewer = many.take(all.min(u64::from(site.shape.services)) as usize / 2).map(|entry| {
        let mut fewer = entry.clone();
        fewer.endpoints.pop();
        [fewer.slice(Family::V4), entry.slice(Family::V4)]
    });
    let changes: Vec<[Value; 2]> = fewer.collect();
    let before = cpu_us(pid)?;
    let begun = Instant::now();
    let mut count: u32 = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        let due = begun + Duration::from_secs(1) * count / CHURN_PER_SEC;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let at = count as usize;
        let turn = at / changes.len() % 2;
        api.put(changes[at % changes.len()][turn].clone());
        count += 1;
    }
    let took = begun.elapsed().as_secs_f64();
    let cpu = cpu_us(pid)? - before;
    Ok(Churn {
        services: site.shape.services,
        endpoints: site.shape.endpoints(),
        events_per_s: rounded(f64::from(count) / took),
        cpu_percent: rounded(cpu / 1e4 / took),
        memory_mib: rounded(memory_mib(pid, "VmRSS")?),
    })
}

/// Kill the agent, start it again; meanwhile connections are made.
fn restart(site: &mut Site, seed: u64) -> Result<Restart> {
    let target = services::cluster_ip(Family::V4, site.shape.hot());
    let mut lane = Lane::start("restart".into(), &site.place(Client::Pod), seed)?;
    lane.begin_dial(target, RESTART_TIME)?;
    let begun = Instant::now();
    let agent = site.agent.as_mut().context("a site with an agent")?;
    agent.kill()?;
    agent.start_again()?;
    let cpu_s = site.await_agent()? / 1e6;
    let wall_s = begun.elapsed().as_secs_f64();
    let seen = lane.seen()?;
    let agent = site.agent.as_ref().context("a site with an agent")?;
    let status = agent.status_json()?;
    Ok(Restart {
        services: site.shape.services,
        cpu_s: rounded(cpu_s),
        wall_s: rounded(wall_s),
        ops: status["agent"]["ops"].as_u64().context("the agent's count of writes")?,
        connections: seen.connections,
        failed: seen.failed,
    })
}

/// Objects are brought into new maps so often; what the one in the middle took.
fn objects_to_maps(shape: Shape, times: usize) -> Result<Load> {
    let fillings = (0..times).map(|_| fill(shape)).collect::<Result<Vec<_>>>()?;
    middle(fillings).context("no filling was asked for")
}

/// The load with the median of all CPU times, and their range.
fn middle(mut loads: Vec<Load>) -> Option<Load> {
    loads.sort_by(|one, other| one.cpu_s.total_cmp(&other.cpu_s));
    let range = [loads.first()?.cpu_s, loads.last()?.cpu_s];
    let middle = loads.swap_remove(loads.len() / 2);
    Some(Load { cpu_s_range: Some(range), ..middle })
}

/// A child of this program that does the agent's work from decoded objects to maps, and no more.
fn fill(shape: Shape) -> Result<Load> {
    let mut command = Command::new(std::env::current_exe()?);
    let (services, each) = (shape.services.to_string(), shape.endpoints_each.to_string());
    let output = command.args(["maps", &services, &each]).output().context("fill maps")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "fill maps: {said}");
    serde_json::from_slice(&output.stdout).context("what filling maps cost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_three_loads_says_how_far_the_others_are() {
        let load = |cpu_s, peak_mib| Load { cpu_s, peak_mib, ..Load::default() };
        let found = middle(vec![load(3.0, 30.0), load(1.0, 10.0), load(2.0, 20.0)]).unwrap();
        assert_eq!((found.cpu_s, found.peak_mib), (2.0, 20.0));
        assert_eq!(found.cpu_s_range, Some([1.0, 3.0]));
        assert!(middle(Vec::new()).is_none());
    }
}
