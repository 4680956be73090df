//! What traffic costs: groups of lanes, measured in turn. The first two lanes of a group are the
//! same thing twice; while they differ, no other difference means anything.

use std::time::Duration;

use anyhow::{Context, Result};
use millrace_tests::lab::Family;
use millrace_tests::wait;

use crate::lane::{Block, Dialogue, Lane, Target};
use crate::result::{Group, Row};
use crate::services::{self, Extra};
use crate::site::{Client, Dataplane, Site};
use crate::statistics::Quartiles;

/// Connections of one lane before it is another one's turn.
const CONNECTIONS: u32 = 200;
/// Requests, or datagrams, of one lane likewise.
const REQUESTS: u32 = 1000;
/// New UDP flows likewise: few, so that ports that were used before are rare.
const FLOWS: u32 = 100;
/// Times a group is measured until the noise is small enough.
const ATTEMPTS_MAX: u32 = 3;
/// How much the two lanes that are the same may differ in time, as a part of it.
const NOISE_TIME: f64 = 0.04;
/// And in CPU time.
pub const NOISE_CPU: f64 = 0.03;
/// How long a lane may take until its first connection.
const FIRST_TIMEOUT: Duration = Duration::from_secs(30);
/// Services of the sites for IPv6 and NodePorts, and for what is established.
pub const MANY: u32 = 1000;

/// One lane of a group.
#[derive(Clone, Debug)]
pub struct Spec {
    site: usize,
    client: Client,
    target: Target,
    node: u8,
    dataplane: String,
    services: u32,
    what: String,
}

/// A group that is to be measured.
pub struct Plan {
    key: &'static str,
    title: &'static str,
    time: &'static str,
    dialogue: Dialogue,
    count: u32,
    specs: Vec<Spec>,
}

/// All groups for these sites. The first two sites must be direct ones.
pub fn plans(sites: &[Site]) -> Vec<Plan> {
    let long = Dialogue::Datagrams { per_socket: REQUESTS };
    let short = Dialogue::Datagrams { per_socket: 1 };
    let exchange = "request and answer";
    let plan = |key, title, time, (dialogue, count), specs| Plan {
        key,
        title,
        time,
        dialogue,
        count,
        specs,
    };
    let connects = |key, title, specs| {
        plan(key, title, "connect()", (Dialogue::Connections, CONNECTIONS), specs)
    };
    let hot = hot_of_many(sites, Family::V4);
    vec![
        connects("tcp-connect", "A new TCP connection to a ClusterIP, IPv4", cluster_ips(sites)),
        plan(
            "tcp-requests",
            "A request over an established TCP connection, IPv4",
            exchange,
            (Dialogue::Requests, REQUESTS),
            hot.clone(),
        ),
        plan(
            "udp-first",
            "A UDP flow's first datagram and its answer, IPv4",
            "socket, connect(), request and answer",
            (short, FLOWS),
            hot.clone(),
        ),
        plan(
            "udp-requests",
            "A datagram and its answer in an established UDP flow, IPv4",
            exchange,
            (long, REQUESTS),
            hot,
        ),
        connects(
            "tcp-connect-v6",
            "A new TCP connection to a ClusterIP, IPv6",
            hot_of_many(sites, Family::V6),
        ),
        connects(
            "node-port",
            "A new TCP connection from outside to a NodePort, IPv4",
            node_ports(sites, Family::V4),
        ),
        connects(
            "node-port-v6",
            "A new TCP connection from outside to a NodePort, IPv6",
            node_ports(sites, Family::V6),
        ),
    ]
}

/// The lanes that no Service is in: direct, direct again, direct with conntrack.
fn bare(sites: &[Site], client: Client, family: Family) -> Vec<Spec> {
    let is_bare = |site: &&Site| matches!(site.dataplane, Dataplane::Direct | Dataplane::Conntrack);
    let count = sites.iter().filter(is_bare).map(|site| site.shape.endpoints_each).max();
    let spec = |(index, site): (usize, &Site)| Spec {
        site: index,
        client,
        target: Target::AnyOf { first: services::server(family, 1, 0), count: count.unwrap_or(1) },
        node: 1,
        dataplane: site.dataplane.name().to_owned(),
        services: 0,
        what: if index == 1 { "again: noise".into() } else { String::new() },
    };
    sites.iter().enumerate().filter(|(_, site)| is_bare(site)).map(spec).collect()
}

/// Every site's Services: the last one, and one at random.
fn cluster_ips(sites: &[Site]) -> Vec<Spec> {
    let mut specs = bare(sites, Client::Pod, Family::V4);
    for (index, site) in sites.iter().enumerate() {
        let services = site.shape.services;
        let targets = [("hot", hot(site, Family::V4)), ("random", Target::AnyService { services })];
        let targets = &targets[..if services == 1 { 1 } else { 2 }];
        for (client, name) in paths(site) {
            for (what, target) in targets {
                let what = (*what).to_owned();
                specs.push(spec(index, site, client, *target, 1, name.clone(), what));
            }
        }
        if site.dataplane == Dataplane::Millrace && services == MANY {
            // What the hooks cost those who dial no Service.
            let (target, name) =
                (Target::One(crate::services::server(Family::V4, 1, 5)), "Millrace");
            let what = "not a Service".into();
            specs.push(spec(index, site, Client::Pod, target, 1, name.into(), what));
        }
    }
    specs
}

fn spec(
    site_index: usize,
    site: &Site,
    client: Client,
    target: Target,
    node: u8,
    dataplane: String,
    what: String,
) -> Spec {
    let services = site.shape.services;
    Spec { site: site_index, client, target, node, dataplane, services, what }
}

fn hot(site: &Site, family: Family) -> Target {
    Target::One(services::cluster_ip(family, site.shape.hot()))
}

/// How a site's clients reach its Services, by name; none where there are none.
fn paths(site: &Site) -> Vec<(Client, String)> {
    match site.dataplane {
        Dataplane::Direct | Dataplane::Conntrack => Vec::new(),
        Dataplane::Millrace => vec![
            (Client::Pod, "Millrace socket path".into()),
            (Client::Packets, "Millrace packet path".into()),
        ],
        other => vec![(Client::Pod, other.name().to_owned())],
    }
}

/// The hot Service of the sites with [`MANY`].
fn hot_of_many(sites: &[Site], family: Family) -> Vec<Spec> {
    let mut specs = bare(sites, Client::Pod, family);
    for (index, site) in many(sites) {
        for (client, name) in paths(site) {
            specs.push(spec(index, site, client, hot(site, family), 1, name, "hot".into()));
        }
    }
    specs
}

/// A real kube-proxy's sites are not among them: one group compares its rules with ours.
fn many(sites: &[Site]) -> impl Iterator<Item = (usize, &Site)> {
    let is_real = |site: &Site| matches!(site.dataplane, Dataplane::KubeProxy(_));
    let is_wanted = move |site: &Site| site.shape.services == MANY && !is_real(site);
    sites.iter().enumerate().filter(move |(_, site)| is_wanted(site))
}

/// NodePorts of the sites with [`MANY`]: Local policy, Cluster policy, and a backend elsewhere.
fn node_ports(sites: &[Site], family: Family) -> Vec<Spec> {
    let mut specs = bare(sites, Client::Outside, family);
    let kinds = [
        (Extra::LocalPort, 1, "local backend, Local policy"),
        (Extra::ClusterPort, 1, "local backend"),
        (Extra::RemotePort, 2, "remote backend"),
    ];
    for (index, site) in many(sites).filter(|(_, site)| !paths(site).is_empty()) {
        for (extra, node, what) in kinds {
            let Some(port) = extra.node_port() else { continue };
            let target = Target::One(site.node_port(family, port));
            let name = site.dataplane.name().to_owned();
            specs.push(spec(index, site, Client::Outside, target, node, name, what.into()));
        }
    }
    specs
}

impl Plan {
    /// Measure it until the two lanes that are the same are, or three times.
    pub fn run(&self, sites: &[Site], rounds: u32, seed: u64) -> Result<Group> {
        let mut lanes = Vec::new();
        for (index, spec) in self.specs.iter().enumerate() {
            let name = format!("{} {} {}", spec.dataplane, spec.services, spec.what);
            let place = sites[spec.site].place(spec.client);
            lanes.push(Lane::start(name, &place, seed + index as u64)?);
        }
        self.warm_up(sites, &mut lanes)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            let rows = self.measure(sites, &mut lanes, rounds)?;
            let conclusive = is_quiet(&rows);
            if conclusive || attempts == ATTEMPTS_MAX {
                return Ok(Group {
                    key: self.key.to_owned(),
                    title: self.title.to_owned(),
                    time: self.time.to_owned(),
                    attempts,
                    conclusive,
                    lanes: rows,
                });
            }
        }
    }

    fn warm_up(&self, sites: &[Site], lanes: &mut [Lane]) -> Result<()> {
        for (spec, lane) in self.specs.iter().zip(lanes) {
            let server = sites[spec.site].server(spec.node)?;
            let what = format!("{}: {}", self.key, spec.dataplane);
            wait::until(&what, FIRST_TIMEOUT, || {
                lane.block(self.dialogue, spec.target, 3, server).map(drop)
            })?;
        }
        Ok(())
    }

    /// Blocks of all lanes in turn; the order changes every round.
    fn measure(&self, sites: &[Site], lanes: &mut [Lane], rounds: u32) -> Result<Vec<Row>> {
        let count = lanes.len();
        let mut blocks: Vec<Vec<Block>> = vec![Vec::new(); count];
        for round in 0..rounds as usize {
            for step in 0..count {
                let index = (round + step) % count;
                let spec = &self.specs[index];
                let server = sites[spec.site].server(spec.node)?;
                let block = lanes[index].block(self.dialogue, spec.target, self.count, server);
                blocks[index].push(block.with_context(|| self.key)?);
            }
        }
        Ok(self.specs.iter().zip(&blocks).map(|(spec, own)| row(spec, own, &blocks[0])).collect())
    }
}

fn row(spec: &Spec, blocks: &[Block], direct: &[Block]) -> Row {
    let paired = |figure: fn(&Block, &Block) -> f64| {
        Quartiles::of(blocks.iter().zip(direct).map(|(own, direct)| figure(own, direct)).collect())
    };
    Row {
        dataplane: spec.dataplane.clone(),
        services: spec.services,
        target: spec.what.clone(),
        time_us: paired(|own, _| own.time_us),
        added_us: paired(|own, direct| own.time_us - direct.time_us),
        cpu_us: paired(|own, _| own.cpu_us),
        cpu_ratio: paired(|own, direct| direct.cpu_us / own.cpu_us),
    }
}

/// Whether the two lanes that are the same differ by no more than a run may.
pub fn is_quiet(rows: &[Row]) -> bool {
    let [direct, again, ..] = rows else { return false };
    let time = again.added_us.median.abs() / direct.time_us.median;
    let cpu = (again.cpu_ratio.median - 1.0).abs();
    time <= NOISE_TIME && cpu <= NOISE_CPU
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row_of(time: f64, added: f64, ratio: f64) -> Row {
        let at = |median| Quartiles { low: median, median, high: median };
        Row { time_us: at(time), added_us: at(added), cpu_ratio: at(ratio), ..Row::default() }
    }

    #[test]
    fn a_run_is_as_good_as_its_two_equal_lanes() {
        let direct = row_of(20.0, 0.0, 1.0);
        assert!(is_quiet(&[direct.clone(), row_of(20.5, 0.5, 0.98)]));
        assert!(!is_quiet(&[direct.clone(), row_of(21.0, 1.0, 1.0)]), "5 % in time");
        assert!(!is_quiet(&[direct.clone(), row_of(20.0, -1.0, 1.0)]), "5 % the other way");
        assert!(!is_quiet(&[direct.clone(), row_of(20.0, 0.0, 1.05)]), "5 % in CPU");
        assert!(!is_quiet(&[direct]), "without its twin");
    }

    #[test]
    fn figures_are_paired_within_a_round() {
        let block = |time_us, cpu_us| Block { time_us, cpu_us };
        let direct = [block(10.0, 50.0), block(20.0, 100.0), block(30.0, 150.0)];
        let own = [block(11.0, 100.0), block(21.0, 200.0), block(31.0, 300.0)];
        let spec = Spec {
            site: 0,
            client: Client::Pod,
            target: Target::AnyService { services: 1 },
            node: 1,
            dataplane: "x".into(),
            services: 1,
            what: "hot".into(),
        };
        let row = row(&spec, &own, &direct);
        assert_eq!(row.added_us, Quartiles { low: 1.0, median: 1.0, high: 1.0 });
        assert_eq!(row.cpu_ratio.median, 0.5);
        assert_eq!(row.time_us.median, 21.0);
    }
}
