//! The rows of the pinned maps: written in batches, read back whole.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use millrace_common::address::{Address, Protocol, V4, V6};
use millrace_common::backend::{Backend, state};
use millrace_common::counters::Counter;
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::node::SourceKey;
use millrace_common::peer::{Peer, PeerSlot};
use millrace_common::row::Row;
use millrace_common::service::{REPORT_BYTES, ServiceRow};
use millrace_common::traffic::Traffic;

use super::flows::FlowStore;
use super::map::Map;
pub use super::map::{Cursor, MapError};
use super::sys;
use crate::apply::MapStore;
use crate::plan::op::{Capacity, Op, Snapshot};

/// Every map of the object that is pinned.
pub const MAP_NAMES: [&str; 26] = [
    "frontends_v4",
    "frontends_v6",
    "slots",
    "backends_v4",
    "backends_v6",
    "services",
    "affinity",
    "peers",
    "peers_overflow",
    "udp_peers",
    "flow_filter",
    "flows_v4",
    "flows_v6",
    "half_open_v4",
    "half_open_v6",
    "fragments_v4",
    "fragments_v6",
    "parked",
    "scratch",
    "source_ranges_v4",
    "source_ranges_v6",
    "devices",
    "node",
    "traffic",
    "counters",
    "report",
];

/// Value of every row of `source_ranges_*`.
const ALLOWED: u32 = 1;

/// The maps the agent writes and the tools read.
pub struct Store {
    frontends_v4: Map,
    frontends_v6: Map,
    slots: Map,
    backends_v4: Map,
    backends_v6: Map,
    services: Map,
    sources_v4: Map,
    sources_v6: Map,
    traffic: Map,
    peers: Map,
    counters: Map,
    report: Map,
    capacity: Capacity,
    /// What packets fill.
    pub flows: FlowStore,
}

impl Store {
    /// Open the maps pinned in `directory`.
    pub fn open(directory: &Path, capacity: Capacity) -> Result<Self, MapError> {
        let open = |name| Map::open(directory, name);
        Ok(Self {
            frontends_v4: open("frontends_v4")?,
            frontends_v6: open("frontends_v6")?,
            slots: open("slots")?,
            backends_v4: open("backends_v4")?,
            backends_v6: open("backends_v6")?,
            services: open("services")?,
            sources_v4: open("source_ranges_v4")?,
            sources_v6: open("source_ranges_v6")?,
            traffic: open("traffic")?,
            peers: open("peers")?,
            counters: open("counters")?,
            report: open("report")?,
            capacity,
            flows: FlowStore::open(directory)?,
        })
    }

    /// As [`Store::open`], taking the maps' sizes from the maps themselves.
    pub fn open_as_is(directory: &Path) -> Result<Self, MapError> {
        let mut store = Self::open(directory, Capacity::default())?;
        store.capacity = Capacity {
            services: store.services.size()?,
            backends: store.backends_v4.size()?,
            slots: store.slots.size()?,
            frontends: store.frontends_v4.size()?,
            sources: store.sources_v4.size()?,
        };
        Ok(store)
    }

    /// Operations of one kind.
    fn execute_run(&self, run: &[Op]) -> Result<(), MapError> {
        let mut services = Vec::new();
        let mut backends_v4 = Vec::new();
        let mut backends_v6 = Vec::new();
        let mut slots = Vec::new();
        let mut frontends_v4 = Vec::new();
        let mut frontends_v6 = Vec::new();
        let mut sources_v4 = Vec::new();
        let mut sources_v6 = Vec::new();
        let mut traffic = Vec::new();
        for op in run {
            match op {
                Op::NoTraffic(id) => traffic.push((*id, Traffic::default())),
                Op::Service(id, Some(row)) => services.push((*id, **row)),
                Op::Service(id, None) => self.services.delete(id)?,
                Op::BackendV4(id, row) => backends_v4.push((*id, *row)),
                Op::BackendV6(id, row) => backends_v6.push((*id, *row)),
                Op::Slots(first, ids) => slots.extend((*first..).zip(ids.iter().copied())),
                Op::FrontendV4(key, Some(row)) => frontends_v4.push((*key, *row)),
                Op::FrontendV4(key, None) => self.frontends_v4.delete(key)?,
                Op::FrontendV6(key, Some(row)) => frontends_v6.push((*key, *row)),
                Op::FrontendV6(key, None) => self.frontends_v6.delete(key)?,
                Op::SourceV4(key, true) => sources_v4.push((*key, ALLOWED)),
                Op::SourceV4(key, false) => self.sources_v4.delete(key)?,
                Op::SourceV6(key, true) => sources_v6.push((*key, ALLOWED)),
                Op::SourceV6(key, false) => self.sources_v6.delete(key)?,
            }
        }
        self.traffic.put(&traffic)?;
        self.services.put(&services)?;
        self.backends_v4.put_array(&backends_v4)?;
        self.backends_v6.put_array(&backends_v6)?;
        self.slots.put_array(&slots)?;
        self.sources_v4.put_each(&sources_v4)?;
        self.sources_v6.put_each(&sources_v6)?;
        self.frontends_v4.put(&frontends_v4)?;
        self.frontends_v6.put(&frontends_v6)
    }

    /// The name of every service port.
    pub fn services(&self) -> Result<Vec<(u32, ServiceRow)>, MapError> {
        self.services.read(|_: &u32, _: &ServiceRow| true)
    }

    /// Each outcome's count, summed over the CPUs.
    pub fn counters(&self) -> Result<Vec<(Counter, u64)>, MapError> {
        let cpus = possible_cpus().map_err(self.counters.error("size"))?;
        let mut counts = Vec::new();
        for counter in Counter::ALL {
            let mut values = vec![0; cpus * size_of::<u64>()];
            let key = (counter as u32).to_ne_bytes();
            sys::map_lookup(self.counters.fd.as_fd(), &key, &mut values)
                .map_err(self.counters.error("read"))?;
            let sum = values.chunks(size_of::<u64>()).filter_map(u64::from_bytes).sum();
            counts.push((counter, sum));
        }
        Ok(counts)
    }

    /// What each service port has had to do; ports that nobody dialled are left out.
    pub fn traffic(&self) -> Result<Vec<(u32, Traffic)>, MapError> {
        self.traffic.read(|_: &u32, row: &Traffic| *row != Traffic::default())
    }

    /// Whether a connected UDP socket has to be told to dial again: its backend is gone, or it
    /// dialled where nothing served. Every place of the `peers` map is looked at.
    pub fn has_stale_udp(&self) -> Result<bool, MapError> {
        let udp = Protocol::Udp as u8;
        let of_udp = |slot: &PeerSlot| slot.owner != 0 && slot.protocol == udp;
        let records = self.peers.read_array(of_udp)?;
        for (_, slot) in records {
            let stale = match slot.peer.backend.unmapped() {
                Some(_) => self.is_gone::<V4>(&self.backends_v4, &slot.peer)?,
                None => self.is_gone::<V6>(&self.backends_v6, &slot.peer)?,
            };
            if stale {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_gone<A: Address>(&self, backends: &Map, peer: &Peer) -> Result<bool, MapError>
    where
        Backend<A>: Row,
    {
        let row = backends.get::<u32, Backend<A>>(&peer.id)?.filter(|_| peer.id != 0);
        let kept = state::CLUSTER | state::LOCAL | state::SERVING;
        Ok(!row.is_some_and(|row| row.is_usable(peer.generation, kept)))
    }

    /// Leave the agent's report for tools to find. What does not fit is cut by the caller.
    pub fn set_report(&self, json: &str) -> Result<(), MapError> {
        let mut row = vec![0; REPORT_BYTES];
        let bytes = json.as_bytes();
        let length = bytes.len().min(REPORT_BYTES);
        row[..length].copy_from_slice(&bytes[..length]);
        sys::map_update(self.report.fd.as_fd(), &0_u32.to_ne_bytes(), &row)
            .map_err(self.report.error("write"))
    }

    /// The agent's last report; empty if there never was one.
    pub fn report(&self) -> Result<String, MapError> {
        let mut row = vec![0; REPORT_BYTES];
        sys::map_lookup(self.report.fd.as_fd(), &0_u32.to_ne_bytes(), &mut row)
            .map_err(self.report.error("read"))?;
        let end = row.iter().position(|byte| *byte == 0).unwrap_or(row.len());
        row.truncate(end);
        Ok(String::from_utf8_lossy(&row).into_owned())
    }
}

impl MapStore for Store {
    /// Neighbours of one kind go in one batch.
    fn execute(&mut self, ops: &[Op]) -> anyhow::Result<()> {
        let mut rest = ops;
        while let Some(first) = rest.first() {
            let same = |op: &&Op| kind(op) == kind(first);
            let run = rest.iter().take_while(same).count();
            let (now, later) = rest.split_at(run);
            self.execute_run(now)?;
            rest = later;
        }
        Ok(())
    }

    fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let mut slots = vec![0; self.capacity.slots as usize];
        self.slots.scan_array(|index: u32, id: u32| {
            if let Some(slot) = slots.get_mut(index as usize) {
                *slot = id;
            }
        })?;
        Ok(Snapshot {
            services: self.services()?,
            backends_v4: self.backends_v4.read_array(|row: &Backend<V4>| row.generation > 0)?,
            backends_v6: self.backends_v6.read_array(|row: &Backend<V6>| row.generation > 0)?,
            slots,
            frontends_v4: self.frontends_v4.read(|_: &FrontendKey<V4>, _: &Frontend| true)?,
            frontends_v6: self.frontends_v6.read(|_: &FrontendKey<V6>, _: &Frontend| true)?,
            sources_v4: self.sources_v4.keys::<SourceKey<V4>>()?,
            sources_v6: self.sources_v6.keys::<SourceKey<V6>>()?,
        })
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// What operations may share a batch.
const fn kind(op: &Op) -> u8 {
    match op {
        Op::Service(_, Some(_)) => 0,
        Op::Service(_, None) => 1,
        Op::BackendV4(..) => 2,
        Op::BackendV6(..) => 3,
        Op::Slots(..) => 4,
        Op::FrontendV4(_, Some(_)) => 5,
        Op::FrontendV4(_, None) => 6,
        Op::FrontendV6(_, Some(_)) => 7,
        Op::FrontendV6(_, None) => 8,
        Op::SourceV4(_, true) => 9,
        Op::SourceV4(_, false) => 10,
        Op::SourceV6(_, true) => 11,
        Op::SourceV6(_, false) => 12,
        Op::NoTraffic(_) => 13,
    }
}

/// Values a per-CPU row has: one per CPU that could ever be there.
fn possible_cpus() -> io::Result<usize> {
    let ranges = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
    let last = ranges.trim().rsplit([',', '-']).next().and_then(|cpu| cpu.parse::<usize>().ok());
    last.map(|cpu| cpu + 1).ok_or_else(|| io::Error::other(format!("unexpected {ranges:?}")))
}
