//! `millrace flows`: what the packet path translates at this moment, read off the maps.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use millrace_common::address::{Address, Protocol};
use millrace_common::flow::{Flow, FlowKey, bits, role};
use millrace_common::packet::tables::Table;
use millrace_common::service::ServiceRow;
use serde::Serialize;

use super::Output;
use crate::canary::rows;
use crate::flows::rules::{State, idle_secs};
use crate::flows::{FlowRows, monotonic_secs};

/// Flows that are shown unless `--limit` says otherwise.
pub const LIMIT_DEFAULT: usize = 1000;

/// Which flows are shown: all that fit everything that is given.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// `NAME` or `NAMESPACE/NAME` of the Service.
    pub service: Option<String>,
    /// The client's address.
    pub client: Option<IpAddr>,
    /// The backend's address, with or without its port.
    pub backend: Option<String>,
    /// The protocol.
    pub protocol: Option<String>,
    /// How many at most; 0: all.
    pub limit: usize,
}

/// What is shown of one.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    service: String,
    protocol: String,
    client: SocketAddr,
    frontend: SocketAddr,
    backend: SocketAddr,
    /// What the backend sees as the client, if it is not the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    masqueraded_as: Option<SocketAddr>,
    state: &'static str,
    age_seconds: u32,
    idle_seconds: u32,
    bytes_to_backend: u64,
    bytes_to_client: u64,
}

/// What `-o json` prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Listing {
    flows: Vec<Shown>,
    /// Flows that fit but are not shown.
    omitted: usize,
}

/// Print the flows that fit.
pub fn flows(bpffs: Option<&Path>, filter: &Filter, output: Output) -> Result<()> {
    let listing = gather(bpffs, filter)?;
    match output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&listing)?),
        Output::Text => print(&listing),
    }
    Ok(())
}

fn gather(bpffs: Option<&Path>, filter: &Filter) -> Result<Listing> {
    let store = super::store(&super::pins(bpffs)?)?;
    let names: HashMap<u32, ServiceRow> = store.services()?.into_iter().collect();
    let wanted = Wanted::new(filter, &names)?;
    let now_secs = monotonic_secs().context("read the clock")?;
    let v4 = opened(&store.flows.v4, &wanted)?;
    let v6 = opened(&store.flows.v6, &wanted)?;
    let mut flows = shown(&store.flows.v4, v4, &names, now_secs)?;
    flows.extend(shown(&store.flows.v6, v6, &names, now_secs)?);
    flows.sort_by(|a, b| a.key().cmp(&b.key()));
    let limit = if filter.limit == 0 { flows.len() } else { filter.limit };
    let omitted = flows.len().saturating_sub(limit);
    flows.truncate(limit);
    Ok(Listing { flows, omitted })
}

/// The filter, in the terms of entries.
struct Wanted {
    /// The canary's, which nobody asked for.
    hidden: Vec<u32>,
    services: Option<Vec<u32>>,
    client: Option<IpAddr>,
    backend: Option<IpAddr>,
    backend_port: Option<u16>,
    protocol: Option<u8>,
}

impl Wanted {
    fn new(filter: &Filter, names: &HashMap<u32, ServiceRow>) -> Result<Self> {
        let services = filter.service.as_deref().map(|name| {
            let fits = |row: &&ServiceRow| super::is_named(row, name);
            let rows = names.iter().filter(|(_, row)| fits(row));
            rows.map(|(id, _)| *id).collect()
        });
        let hidden = names.iter().filter(|(_, row)| rows::is_canary(row)).map(|(id, _)| *id);
        let backend = filter.backend.as_deref().map(parse_backend).transpose()?;
        let protocol = filter.protocol.as_deref().map(parse_protocol).transpose()?;
        Ok(Self {
            hidden: hidden.collect(),
            services,
            client: filter.client,
            backend: backend.map(|(address, _)| address),
            backend_port: backend.and_then(|(_, port)| port),
            protocol,
        })
    }

    fn fits<A: Address>(&self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let client: IpAddr = key.source.into();
        let backend: IpAddr = flow.address.into();
        !self.hidden.contains(&flow.service)
            && self.services.as_ref().is_none_or(|services| services.contains(&flow.service))
            && self.client.is_none_or(|wanted| wanted == client)
            && self.backend.is_none_or(|wanted| wanted == backend)
            && self.backend_port.is_none_or(|wanted| wanted == flow.port.get())
            && self.protocol.is_none_or(|wanted| wanted == key.protocol)
    }
}

/// `10.244.1.7:8080`, `[fd00::7]:8080`, or without the port.
fn parse_backend(text: &str) -> Result<(IpAddr, Option<u16>)> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok((address.ip(), Some(address.port())));
    }
    let address = text.parse().with_context(|| {
        format!("--backend {text}: give an address, or an address and a port (IP:PORT, [IP]:PORT)")
    })?;
    Ok((address, None))
}

fn parse_protocol(text: &str) -> Result<u8> {
    let all = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
    let found = all.into_iter().find(|protocol| protocol.name().eq_ignore_ascii_case(text));
    let protocol = found.with_context(|| format!("--protocol {text}: tcp, udp or sctp"))?;
    Ok(protocol as u8)
}

/// OPEN entries and where they are.
type Opened<A> = HashMap<FlowKey<A>, (Table, Flow<A>)>;

/// OPEN entries that are wanted, and the table each is in. One that is just being moved is in both:
/// the answered one counts.
fn opened<A: Address, R: FlowRows<A>>(rows: &R, wanted: &Wanted) -> Result<Opened<A>> {
    let mut found = HashMap::new();
    for table in [Table::HalfOpen, Table::Established] {
        let mut cursor = R::Cursor::default();
        let mut show = |key: FlowKey<A>, flow: Flow<A>| {
            if flow.role == role::OPEN && wanted.fits(&key, &flow) {
                found.insert(key, (table, flow));
            }
        };
        while !rows.step(table, &mut cursor, &mut show)? {}
    }
    Ok(found)
}

fn shown<A: Address, R: FlowRows<A>>(
    rows: &R,
    opened: Opened<A>,
    names: &HashMap<u32, ServiceRow>,
    now_secs: u32,
) -> Result<Vec<Shown>> {
    let find = |key: &FlowKey<A>| -> Result<Option<Flow<A>>> {
        match rows.flow(Table::Established, key)? {
            None => rows.flow(Table::HalfOpen, key),
            found => Ok(found),
        }
    };
    let mut shown = Vec::with_capacity(opened.len());
    for (key, (table, open)) in opened {
        let reply = find(&open.reply_key(&key))?.filter(|reply| reply.role == role::REPLY);
        let is_masqueraded = open.bits & bits::MASQUERADE != 0;
        let masq = if is_masqueraded { find(&open.masq_key(&key))? } else { None };
        let masq = masq.filter(|masq| masq.role == role::MASQ && masq.port.get() != 0);
        let answered = reply.map_or(0, |reply| reply.seen);
        let last_used = reply.map_or(0, |reply| reply.last_used_secs).max(open.last_used_secs);
        shown.push(Shown {
            service: names.get(&open.service).map_or_else(|| "-".to_owned(), super::service_name),
            protocol: Protocol::from_number(key.protocol).map_or("?", Protocol::name).to_owned(),
            client: SocketAddr::new(key.source.into(), key.source_port.get()),
            frontend: SocketAddr::new(key.destination.into(), key.destination_port.get()),
            backend: SocketAddr::new(open.address.into(), open.port.get()),
            masqueraded_as: masq
                .map(|masq| SocketAddr::new(masq.address.into(), masq.port.get()))
                .or_else(|| remapped(&key, &open)),
            state: State::of(key.protocol, table.by_state(open.bits), open.seen, answered).name(),
            age_seconds: idle_secs(now_secs, open.since_secs),
            idle_seconds: idle_secs(now_secs, last_used),
            bytes_to_backend: open.bytes.get(),
            bytes_to_client: reply.map_or(0, |reply| reply.bytes.get()),
        });
    }
    Ok(shown)
}

/// The client under another port, if two flows would have been one without.
fn remapped<A: Address>(key: &FlowKey<A>, open: &Flow<A>) -> Option<SocketAddr> {
    let changed = open.other_port != key.source_port;
    changed.then(|| SocketAddr::new(key.source.into(), open.other_port.get()))
}

impl Shown {
    fn key(&self) -> (&str, &str, SocketAddr, SocketAddr) {
        (&self.service, &self.protocol, self.frontend, self.client)
    }
}

fn print(listing: &Listing) {
    let header = [
        "SERVICE",
        "PROTOCOL",
        "CLIENT",
        "FRONTEND",
        "BACKEND",
        "MASQUERADED AS",
        "STATE",
        "AGE",
        "IDLE",
        "TO BACKEND",
        "TO CLIENT",
    ];
    let mut table = super::table(&header);
    for flow in &listing.flows {
        table.add_row([
            flow.service.clone(),
            flow.protocol.clone(),
            flow.client.to_string(),
            flow.frontend.to_string(),
            flow.backend.to_string(),
            flow.masqueraded_as.map_or_else(|| "-".to_owned(), |address| address.to_string()),
            flow.state.to_owned(),
            duration(flow.age_seconds),
            duration(flow.idle_seconds),
            bytes(flow.bytes_to_backend),
            bytes(flow.bytes_to_client),
        ]);
    }
    println!("{table}");
    if listing.omitted > 0 {
        println!(
            "... and {} more: narrow it down with --service, --client, --backend, --protocol, or \
             give --limit",
            listing.omitted
        );
    }
}

/// `7s`, `3m20s`, `2h5m`.
fn duration(seconds: u32) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

/// `900 B`, `3.2 MB`: four digits at most.
fn bytes(count: u64) -> String {
    if count < 1000 {
        return format!("{count} B");
    }
    // In tenths of the unit.
    let (mut tenths, mut unit) = (count / 100, 'k');
    for larger in "MGTPE".chars() {
        if tenths >= 10_000 {
            (tenths, unit) = (tenths / 1000, larger);
        }
    }
    format!("{}.{} {unit}B", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backends_are_given_with_or_without_a_port() {
        let v4: IpAddr = [10, 244, 1, 7].into();
        assert_eq!(parse_backend("10.244.1.7:8080").unwrap(), (v4, Some(8080)));
        assert_eq!(parse_backend("10.244.1.7").unwrap(), (v4, None));
        assert_eq!(parse_backend("[fd00::7]:80").unwrap().1, Some(80));
        assert!(parse_backend("fd00::7").is_ok() && parse_backend("pod-7").is_err());
    }

    #[test]
    fn protocols_are_named_in_any_case() {
        assert_eq!(parse_protocol("tcp").unwrap(), 6);
        assert_eq!(parse_protocol("UDP").unwrap(), 17);
        assert!(parse_protocol("icmp").is_err());
    }

    #[test]
    fn bytes_have_four_digits_at_most() {
        let shown = [0, 999, 1000, 64_123, 999_999, 1_000_000, 7_654_321_000, u64::MAX].map(bytes);
        let wanted =
            ["0 B", "999 B", "1.0 kB", "64.1 kB", "999.9 kB", "1.0 MB", "7.6 GB", "18.4 EB"];
        assert_eq!(shown, wanted);
    }

    #[test]
    fn durations_have_two_units_at_most() {
        assert_eq!([7, 200, 7500].map(duration), ["7s", "3m20s", "2h5m"]);
    }
}
