//! What only the kernel's maps know, read when somebody asks.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Result;
use millrace_common::address::{Family as IpFamily, Protocol};
use millrace_common::counters::{Counter, Group};
use millrace_common::peer::PEER_SLOTS;
use millrace_common::service::ServiceRow;
use millrace_common::traffic::Traffic;
use prometheus::proto::MetricFamily;

use super::IP_FAMILIES;
pub use super::backends::{BACKENDS_MAX, BackendKey};
use super::backends::{Load, Loads};
use super::family::Family;
use super::ledger::Ledger;
pub use super::ledger::SERVICE_PORTS_MAX;
use super::usage::{self, Totals};
use crate::canary::rows::is_canary;
use crate::flows::{FamilyPass, Pass};
use crate::plan::occupancy::MapRoom;

/// For so long a reading is given to everybody who asks: a flood of scrapes costs no more than one
/// reading in this time.
pub const REUSE: Duration = Duration::from_secs(1);

/// What stands for all that have no series of their own; no Kubernetes name is like it.
pub(super) const OTHER: &str = "_other";
/// Labels of a service port. Not `namespace` and `service`: Prometheus gives these to what it
/// scrapes.
const PORT_LABELS: &[&str] = &["service_namespace", "service_name", "service_port", "protocol"];
pub(super) const BACKEND_LABELS: &[&str] =
    &["service_namespace", "service_name", "service_port", "protocol", "backend", "path"];

/// The kernel's maps, as far as they are read for a scrape.
pub trait Readings: Send {
    /// Each outcome's count.
    fn counters(&self) -> Result<Vec<(Counter, u64)>>;
    /// What service ports with ids below `end` have had to do, those left out that had nothing.
    fn traffic(&self, end: u32) -> Result<Vec<(u32, Traffic)>>;
    /// A service port's name.
    fn service(&self, id: u32) -> Result<Option<ServiceRow>>;
    /// Connected sockets.
    fn sockets(&self) -> Result<Sockets>;
    /// Where a backend is; nothing: it is gone, or its id is another's.
    fn backend(&self, key: BackendKey) -> Result<Option<BackendPlace>>;
    /// How full the other maps are that programs fill and nobody counts.
    fn rooms(&self) -> Result<Vec<MapRoom>>;
}

/// Connected sockets that have a place in the `peers` map.
#[derive(Clone, Debug, Default)]
pub struct Sockets {
    /// By the backend they are connected to.
    pub by_backend: HashMap<BackendKey, u64>,
    /// Places that are taken.
    pub places: u32,
}

/// A backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendPlace {
    /// The service port it serves.
    pub service: u32,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Reads the maps and remembers what it must between two scrapes.
#[derive(Default)]
pub(super) struct Scraper {
    maps: Option<Box<dyn Readings>>,
    ledger: Ledger,
    last: Option<(Instant, Scrape)>,
    failures: u64,
}

/// What a scrape found.
#[derive(Clone, Default)]
pub(super) struct Scrape {
    pub(super) families: Vec<MetricFamily>,
    /// For the metrics about all maps.
    pub(super) rooms: Vec<MapRoom>,
}

impl Scraper {
    pub(super) fn set_maps(&mut self, maps: Box<dyn Readings>) {
        self.maps = Some(maps);
    }

    /// What the maps say now, or said a moment ago.
    pub(super) fn scrape(
        &mut self,
        pass: &Pass,
        totals: &Mutex<Totals>,
        service_ids_end: u32,
    ) -> Scrape {
        if let Some((at, scrape)) = &self.last
            && at.elapsed() < REUSE
        {
            return scrape.clone();
        }
        let Some(maps) = self.maps.take() else {
            return Scrape::default();
        };
        let begun = Instant::now();
        let ids_end = if service_ids_end == 0 { u32::MAX } else { service_ids_end };
        let mut scrape = self.read(maps.as_ref(), pass, totals, ids_end).unwrap_or_else(|error| {
            // Said once, counted always.
            if self.failures == 0 {
                tracing::warn!("cannot read the maps for metrics: {error:#}");
            }
            self.failures += 1;
            Scrape::default()
        });
        self.maps = Some(maps);
        let took = begun.elapsed();
        let mut seconds =
            Family::gauge("millrace_scrape_seconds", "How long reading the maps took", &[]);
        seconds.add_f64(&[], took.as_secs_f64());
        let mut failures = Family::counter(
            "millrace_scrape_failures_total",
            "Scrapes that could not read the maps and lack what they say",
            &[],
        );
        failures.add(&[], self.failures);
        scrape.families.extend([seconds, failures].into_iter().filter_map(Family::finish));
        self.last = Some((Instant::now(), scrape.clone()));
        scrape
    }

    fn read(
        &mut self,
        maps: &dyn Readings,
        pass: &Pass,
        totals: &Mutex<Totals>,
        ids_end: u32,
    ) -> Result<Scrape> {
        let sockets = maps.sockets()?;
        let mut families = Vec::from(outcomes(&maps.counters()?));
        self.ledger.update(maps.traffic(ids_end)?, |id| maps.service(id))?;
        families.extend(ports(&self.ledger));
        families.extend(flows(pass, sockets.places));
        let loads = Loads::resolve(loads(&sockets, pass), |key| maps.backend(key))?;
        families.extend(backends(maps, &loads)?);
        families.extend(usage::families(maps, totals)?);
        let families = families.into_iter().filter_map(Family::finish).collect();
        let mut rooms = maps.rooms()?;
        rooms.push(MapRoom { name: "peers", used: sockets.places, size: PEER_SLOTS });
        Ok(Scrape { families, rooms })
    }
}

/// Verdicts by reason.
fn outcomes(counters: &[(Counter, u64)]) -> [Family; 3] {
    let mut sockets = Family::counter(
        "millrace_socket_outcomes_total",
        "What became of the connects and sends of sockets to Services",
        &["outcome"],
    );
    let mut packets = Family::counter(
        "millrace_packet_outcomes_total",
        "What became of packets under the packet path's hooks: exactly one for each and hook",
        &["outcome"],
    );
    let mut events =
        Family::counter("millrace_packet_events_total", "What happened besides", &["event"]);
    for (counter, count) in counters {
        let family = match counter.group() {
            Group::Sockets => &mut sockets,
            Group::Packets => &mut packets,
            Group::Events => &mut events,
        };
        family.add(&[counter.name()], *count);
    }
    [sockets, packets, events]
}

fn ports(ledger: &Ledger) -> [Family; 2] {
    let mut opened = Family::counter(
        "millrace_service_connections_total",
        "New connections and UDP flows led to a backend, by service port",
        PORT_LABELS,
    );
    let mut failed = Family::counter(
        "millrace_service_failures_total",
        "New connections and UDP flows refused or dropped, by service port",
        PORT_LABELS,
    );
    let mut add = |labels: [&str; 4], traffic: Traffic| {
        opened.add(&labels, traffic.opened);
        failed.add(&labels, traffic.failed);
    };
    for (row, traffic) in ledger.own().filter(|(row, _)| !is_canary(row)) {
        add(port_labels(row), *traffic);
    }
    if let Some(rest) = ledger.rest() {
        add([OTHER; 4], rest);
    }
    [opened, failed]
}

pub(super) fn port_labels(row: &ServiceRow) -> [&str; 4] {
    let protocol = Protocol::from_number(row.protocol()).map_or("?", Protocol::name);
    [row.namespace(), row.name(), row.port_name(), protocol]
}

fn flows(pass: &Pass, sockets: u32) -> [Family; 2] {
    let mut flows = Family::gauge(
        "millrace_flows",
        "Flows of packets at the last pass over the tables",
        &["ip_family", "state"],
    );
    for (family, found) in IP_FAMILIES.into_iter().zip([&pass.v4, &pass.v6]) {
        flows.add(&[family, "established"], found.established.counts.flows);
        flows.add(&[family, "half_open"], found.half_open.counts.flows);
    }
    let help = "Sockets that are connected through a Service, as far as the agent can see them";
    let mut connected = Family::gauge("millrace_sockets", help, &[]);
    connected.add(&[], sockets.into());
    [flows, connected]
}

/// Sockets and flows of each backend.
fn loads(sockets: &Sockets, pass: &Pass) -> HashMap<BackendKey, Load> {
    let mut loads: HashMap<BackendKey, Load> = HashMap::new();
    for (key, count) in &sockets.by_backend {
        loads.entry(*key).or_default().sockets += count;
    }
    let mut add = |family: IpFamily, found: &FamilyPass| {
        for (&(id, generation), count) in &found.by_backend {
            loads.entry(BackendKey { family, id, generation }).or_default().flows += count;
        }
    };
    add(IpFamily::V4, &pass.v4);
    add(IpFamily::V6, &pass.v6);
    loads
}

fn backends(maps: &dyn Readings, loads: &Loads) -> Result<[Family; 2]> {
    let mut connections = Family::gauge(
        "millrace_backend_connections",
        "Connected sockets and flows of packets that a backend has now",
        BACKEND_LABELS,
    );
    let mut add = |port: [&str; 4], backend: &str, load: Load| {
        for (path, count) in [("socket", load.sockets), ("packet", load.flows)] {
            if count > 0 {
                let [namespace, name, port, protocol] = port;
                connections.add(&[namespace, name, port, protocol, backend, path], count);
            }
        }
    };
    let mut names: HashMap<u32, Option<ServiceRow>> = HashMap::new();
    for ((service, address), load) in &loads.own {
        if !names.contains_key(service) {
            names.insert(*service, maps.service(*service)?);
        }
        // A service that went this very moment.
        let Some(Some(row)) = names.get(service) else { continue };
        if !is_canary(row) {
            add(port_labels(row), &address.to_string(), *load);
        }
    }
    add([OTHER; 4], OTHER, loads.rest);
    let help = "Connected sockets and flows of packets whose backend is gone: TCP connections are \
                left alone, UDP ones go with their next packet";
    let mut stale = Family::gauge("millrace_stale_connections", help, &["path"]);
    stale.add(&["socket"], loads.stale.sockets);
    stale.add(&["packet"], loads.stale.flows);
    Ok([connections, stale])
}
