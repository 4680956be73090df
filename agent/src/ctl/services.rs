//! `millrace services`: every frontend on this node and where it leads from here, read off the
//! maps.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use millrace_common::address::{Address, Protocol};
use millrace_common::backend::{Backend, state};
use millrace_common::frontend::{Frontend, FrontendKey, Kind, SlotRange, flags};
use millrace_common::service::ServiceRow;
use millrace_common::traffic::Traffic;
use serde::Serialize;

use super::Output;
use crate::apply::MapStore;
use crate::canary::rows;
use crate::plan::op::Snapshot;

/// Backends named in a line of text; the rest is counted.
const BACKENDS_SHOWN: usize = 3;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Service {
    namespace: String,
    name: String,
    port_name: String,
    protocol: String,
    /// New connections and UDP flows led to a backend, since the service port is known.
    opened: u64,
    /// New ones refused or dropped.
    failed: u64,
    frontends: Vec<Shown>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    kind: &'static str,
    address: SocketAddr,
    /// Backends for clients on this node.
    near: List,
    /// Backends for clients outside.
    far: List,
    #[serde(skip_serializing_if = "Option::is_none")]
    affinity_seconds: Option<u32>,
    /// Only processes of the node itself may use it.
    node_only: bool,
    /// Only some source addresses may use it.
    source_ranges: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List {
    /// `Cluster` or `Local`.
    policy: &'static str,
    /// What happens to a new connection: `forward`, `reject` or `drop`.
    action: &'static str,
    backends: Vec<SocketAddr>,
}

/// Print the services whose name is, or whose `namespace/name` is, `filter`; all without one.
pub fn services(bpffs: Option<&Path>, filter: Option<&str>, output: Output) -> Result<()> {
    let store = super::store(&super::pins(bpffs)?)?;
    let mut snapshot = store.snapshot()?;
    rows::hide(&mut snapshot);
    let services = gather(&snapshot, &store.traffic()?, filter);
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&services)?),
        Output::Text => print(&services),
    }
    Ok(())
}

fn gather(snapshot: &Snapshot, traffic: &[(u32, Traffic)], filter: Option<&str>) -> Vec<Service> {
    let wanted = |row: &ServiceRow| filter.is_none_or(|name| super::is_named(row, name));
    let rows = snapshot.services.iter().filter(|(_, row)| wanted(row));
    let mut services: BTreeMap<u32, Service> =
        rows.map(|(id, row)| (*id, Service::new(row))).collect();
    for (id, counts) in traffic {
        if let Some(service) = services.get_mut(id) {
            (service.opened, service.failed) = (counts.opened, counts.failed);
        }
    }
    collect(&mut services, &snapshot.frontends_v4, &snapshot.backends_v4, &snapshot.slots);
    collect(&mut services, &snapshot.frontends_v6, &snapshot.backends_v6, &snapshot.slots);
    let mut services: Vec<Service> = services.into_values().collect();
    for service in &mut services {
        service.frontends.sort_by_key(|frontend| (frontend.node_only, frontend.address));
    }
    services.sort_by(|a, b| a.key().cmp(&b.key()));
    services
}

fn collect<A: Address>(
    services: &mut BTreeMap<u32, Service>,
    frontends: &[(FrontendKey<A>, Frontend)],
    backends: &[(u32, Backend<A>)],
    slots: &[u32],
) {
    let backends: HashMap<u32, &Backend<A>> = backends.iter().map(|(id, row)| (*id, row)).collect();
    let list = |range: SlotRange, local: bool, drop: bool| {
        let first = range.first as usize;
        let ids = slots.get(first..first + range.count as usize).unwrap_or_default();
        let addresses = ids.iter().filter_map(|id| {
            let row = backends.get(id).filter(|row| row.state != state::GONE)?;
            Some(SocketAddr::new(row.address.into(), row.port.get()))
        });
        List {
            policy: if local { "Local" } else { "Cluster" },
            action: match (range.count, drop) {
                (0, false) => "reject",
                (0, true) => "drop",
                _ => "forward",
            },
            backends: addresses.collect(),
        }
    };
    for (key, row) in frontends.iter().filter(|(_, row)| row.kind() != Some(Kind::ClusterIps)) {
        let Some(service) = services.get_mut(&row.service) else {
            continue;
        };
        service.frontends.push(Shown {
            kind: row.kind().map_or("?", |kind| kind.name()),
            address: SocketAddr::new(key.address.into(), key.port.get()),
            near: list(row.near, row.has(flags::NEAR_LOCAL), row.has(flags::NEAR_DROP)),
            far: list(row.far, row.has(flags::FAR_LOCAL), row.has(flags::FAR_DROP)),
            affinity_seconds: row.has(flags::AFFINITY).then_some(row.affinity_secs),
            node_only: row.has(flags::NODE_ONLY),
            source_ranges: row.has(flags::SOURCE_RANGES),
        });
    }
}

impl Service {
    fn new(row: &ServiceRow) -> Self {
        Self {
            namespace: row.namespace().to_owned(),
            name: row.name().to_owned(),
            port_name: row.port_name().to_owned(),
            protocol: Protocol::from_number(row.protocol()).map_or("?", Protocol::name).to_owned(),
            opened: 0,
            failed: 0,
            frontends: Vec::new(),
        }
    }

    fn key(&self) -> (&str, &str, &str, &str) {
        (&self.namespace, &self.name, &self.port_name, &self.protocol)
    }
}

fn print(services: &[Service]) {
    let header =
        ["SERVICE", "PORT", "OPENED", "FAILED", "KIND", "FRONTEND", "FROM HERE", "FROM OUTSIDE"];
    let mut table = super::table(&header);
    for service in services {
        for (index, frontend) in service.frontends.iter().enumerate() {
            // They are the port's, whatever address was dialled: said once.
            let once = |count: u64| if index == 0 { count.to_string() } else { String::new() };
            table.add_row([
                format!("{}/{}", service.namespace, service.name),
                port(service),
                once(service.opened),
                once(service.failed),
                kind(frontend),
                frontend.address.to_string(),
                leads_to(&frontend.near),
                if frontend.node_only { "-".to_owned() } else { leads_to(&frontend.far) },
            ]);
        }
    }
    println!("{table}");
}

fn port(service: &Service) -> String {
    match service.port_name.as_str() {
        "" => service.protocol.clone(),
        name => format!("{name}/{}", service.protocol),
    }
}

fn kind(frontend: &Shown) -> String {
    let mut text = frontend.kind.to_owned();
    if frontend.node_only {
        text.push_str(" (node only)");
    }
    if let Some(seconds) = frontend.affinity_seconds {
        text.push_str(&format!(", affinity {seconds}s"));
    }
    if frontend.source_ranges {
        text.push_str(", source ranges");
    }
    text
}

fn leads_to(list: &List) -> String {
    if list.backends.is_empty() {
        return format!("{} ({})", list.action, list.policy);
    }
    let shown: Vec<String> =
        list.backends.iter().take(BACKENDS_SHOWN).map(ToString::to_string).collect();
    let more = list.backends.len().saturating_sub(BACKENDS_SHOWN);
    let more = if more > 0 { format!(" +{more}") } else { String::new() };
    format!("{}{more} ({})", shown.join(" "), list.policy)
}
