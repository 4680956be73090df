//! A real kube-proxy, for callers who have one ([`given`]): fed by a real API server, in clusters
//! of its own ([`kube_proxy`]), and Millrace beside it, fed by the same server.
//!
//! One cluster at a time: whatever else listened to the API server would take turns on the same
//! CPUs. The server moves from cluster to cluster with its objects. When everything is measured
//! that needs them, the server and kube-proxy end; the rules stay as kube-proxy made them, and are
//! lanes of the traffic.

pub mod given;
pub mod kube_proxy;
mod objects;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use millrace_tests::agent::{Agent, Source};
use millrace_tests::apiserver::real::{Programs, RealApi};
use millrace_tests::lab::Family;
use serde_json::json;

use crate::ENDPOINTS;
use crate::clock::{cpu_us, memory_mib, monotonic_us};
use crate::control::Changes;
use crate::lane::Lane;
use crate::options::{Options, Part};
use crate::result::{Real, RealChanges, Run};
use crate::services::{self, Shape};
use crate::site::{Client, Dataplane, Site};
use crate::statistics::{Quartiles, percentile, rounded};
use crate::tables::thousands;
use given::Given;
use kube_proxy::{KubeProxy, Mode};

/// Numbers of Services: of a quick run, and of a full one.
const SIZES: [&[u32]; 2] = [&[1, 1000], &[1, 1000, 10_000]];
/// Who serves, one after the other.
const DATAPLANES: [Dataplane; 3] = [
    Dataplane::KubeProxy(Mode::Iptables),
    Dataplane::KubeProxy(Mode::Nftables),
    Dataplane::Millrace,
];
/// Changes of one endpoint: of a quick run, and of a full one.
const CHANGES: [usize; 2] = [5, 10];
/// Pause before each: kube-proxy waits up to a second between two syncs.
const PAUSE: Duration = Duration::from_millis(2500);
/// How long it may take until everything is served: nftables needs 22 s for 10 000 Services.
const SYNC_TIMEOUT: Duration = Duration::from_secs(300);
/// How long a client dials until somebody looks whether the process is still there.
const LOOK: Duration = Duration::from_millis(500);

/// Measure every size and dataplane; the sites whose rules a kube-proxy has made.
pub fn measure(options: &Options, given: &Given, run: &mut Run) -> Result<Vec<Site>> {
    run.about.versions.extend(given.versions());
    let mut sites = Vec::new();
    if !options.wants(Part::Traffic) && !options.wants(Part::Control) {
        return Ok(sites);
    }
    let mut dataplanes = DATAPLANES.to_vec();
    if !given.has_nftables() {
        println!("{} has no nftables mode: left out", given.kube_proxy.display());
        dataplanes.retain(|dataplane| *dataplane != Dataplane::KubeProxy(Mode::Nftables));
    }
    for &services in SIZES[usize::from(!options.quick)] {
        let shape = Shape { services, endpoints_each: ENDPOINTS, dual: false };
        let mut api = None;
        for &dataplane in &dataplanes {
            let begun = Instant::now();
            let mut site = Site::build(dataplane, shape)?;
            let name = format!("{}, {} Services", dataplane.name(), thousands(services));
            let api = match &mut api {
                None => api.insert(start_api(&site, given)?),
                Some(api) => {
                    api.move_to(site.node())?;
                    objects::reset(api, shape)?;
                    api
                }
            };
            let real = one(&mut site, api, given, options).with_context(|| name.clone())?;
            run.real.push(real);
            api.end()?;
            println!("{name}, a real API server: {:.1} s", begun.elapsed().as_secs_f64());
            if dataplane != Dataplane::Millrace {
                sites.push(site);
            }
        }
    }
    Ok(sites)
}

/// An API server with everything that a site of this shape is to serve.
fn start_api(site: &Site, given: &Given) -> Result<RealApi> {
    let programs = Programs::new(given.etcd.clone(), given.kube_apiserver.clone());
    let ranges = [Family::V4, Family::V6].map(services::service_cidr);
    let api = RealApi::start_with_ranges(site.node(), programs, ranges)?;
    objects::make(&api, site.node(), site.shape)?;
    Ok(api)
}

/// Who serves.
enum Server {
    KubeProxy(KubeProxy),
    /// The site's own agent.
    Agent,
}

impl Server {
    fn start(site: &mut Site, api: &RealApi, given: &Given) -> Result<Self> {
        let node = site.node();
        if let Dataplane::KubeProxy(mode) = site.dataplane {
            let kubeconfig = api.proxy_kubeconfig();
            let started = KubeProxy::start(&given.kube_proxy, mode, node, &kubeconfig)?;
            return Ok(Self::KubeProxy(started));
        }
        let source = Source::Kubeconfig(api.kubeconfig());
        site.agent = Some(Agent::start_with(node, &source, &[])?.quiet());
        Ok(Self::Agent)
    }

    fn pid(&self, site: &Site) -> Result<u32> {
        match self {
            Self::KubeProxy(proxy) => Ok(proxy.pid()),
            Self::Agent => site.agent_pid(),
        }
    }

    /// CPU time so far; the agent starts nobody.
    fn cpu_us(&self, site: &Site) -> Result<f64> {
        match self {
            Self::KubeProxy(proxy) => proxy.cpu_us(),
            Self::Agent => cpu_us(site.agent_pid()?),
        }
    }

    /// Waits until everything is served, and returns when that was. kube-proxy makes all rules of
    /// a family at once, so that its last Service speaks for all; the agent says so besides.
    fn await_synced(&mut self, site: &Site, seed: u64) -> Result<f64> {
        let target = services::cluster_ip(Family::V4, site.shape.hot());
        let mut lane = Lane::start("first".into(), &site.place(Client::Pod), seed)?;
        let begun = Instant::now();
        let answered = loop {
            if let Self::KubeProxy(proxy) = self {
                proxy.check()?;
            }
            if let Some(answered) = lane.first_answer(target, LOOK)? {
                break answered;
            }
            let waited = begun.elapsed();
            ensure!(waited < SYNC_TIMEOUT, "{target} does not answer after {waited:?}; {}", {
                self.said(site)
            });
        };
        if matches!(self, Self::Agent) {
            site.await_agent()?;
            return monotonic_us();
        }
        Ok(answered)
    }

    fn said(&self, site: &Site) -> String {
        match self {
            Self::KubeProxy(proxy) => proxy.said(),
            Self::Agent => site.agent.as_ref().map(Agent::log_tail).unwrap_or_default(),
        }
    }
}

/// From the process' start to a changed endpoint.
fn one(site: &mut Site, api: &RealApi, given: &Given, options: &Options) -> Result<Real> {
    let begun = monotonic_us()?;
    let mut server = Server::start(site, api, given)?;
    let synced = server.await_synced(site, options.seed)?;
    let (cpu, pid) = (server.cpu_us(site)?, server.pid(site)?);
    let mut real = Real {
        what: site.dataplane.name().to_owned(),
        services: site.shape.services,
        endpoints: site.shape.endpoints(),
        start_wall_s: rounded((synced - begun) / 1e6),
        start_cpu_s: rounded(cpu / 1e6),
        memory_mib: rounded(memory_mib(pid, "VmRSS")?),
        peak_mib: rounded(memory_mib(pid, "VmHWM")?),
        changes: None,
    };
    if options.wants(Part::Control) {
        let count = CHANGES[usize::from(!options.quick)];
        let found = changes(site, api, &server, count, options.seed);
        real.changes = Some(found.with_context(|| server.said(site))?);
    }
    Ok(real)
}

/// One endpoint after the other takes the only place behind a Service, by a PATCH of its slice.
fn changes(
    site: &Site,
    api: &RealApi,
    server: &Server,
    count: usize,
    seed: u64,
) -> Result<RealChanges> {
    let mut changes = Changes::new(site, seed)?;
    let mut sent_ms = Vec::new();
    let before = server.cpu_us(site)?;
    for number in 0..count {
        std::thread::sleep(PAUSE);
        let mut request_ms = 0.0;
        changes.step(number, |_, new| {
            let slice = new.slice(Family::V4);
            let timed = api.patch(&slice, &json!({ "endpoints": slice["endpoints"] }))?;
            request_ms = (timed.ended - timed.begun).as_secs_f64() * 1e3;
            Ok(monotonic_us()? - timed.ended.elapsed().as_secs_f64() * 1e6)
        })?;
        sent_ms.push(changes.ms.last().copied().unwrap_or_default() + request_ms);
    }
    let cpu_ms = (server.cpu_us(site)? - before) / 1e3 / count as f64;
    Ok(RealChanges {
        count,
        p50_ms: percentile(&changes.ms, 50),
        worst_ms: percentile(&changes.ms, 100),
        sent_p50_ms: percentile(&sent_ms, 50),
        cpu_ms: rounded(cpu_ms),
        failed: changes.failed,
        ms: Quartiles::of(changes.ms),
    })
}
