//! The rows of the pinned maps: written in batches, read back whole.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use millrace_common::ABI_VERSION;
use millrace_common::address::{Family, Protocol, V4, V6};
use millrace_common::backend::{Backend, BackendPair, InPair, state};
use millrace_common::counters::Counter;
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::node::SourceKey;
use millrace_common::peer::{Connected, Peer};
use millrace_common::row::{Pair, Row};
use millrace_common::service::{REPORT_BYTES, ServiceRow};
use millrace_common::traffic::Traffic;

use super::flows::FlowStore;
use super::frontend_filter::{Bits, FrontendFilterMemory};
use super::map::Map;
pub use super::map::{Cursor, MapError};
use super::names::NameStore;
use super::sys;
use crate::apply::MapStore;
use crate::plan::op::{Capacity, Op, Snapshot};

/// Every map of the object that is pinned, and the first version of the rows' layout
/// ([`ABI_VERSION`]) from which on its rows are and mean what they do: an upgrade keeps those that
/// did not change.
pub const MAPS: [(&str, u32); 28] = [
    ("frontends_v4", 8),
    ("frontends_v6", 8),
    ("frontend_filter", 4),
    ("slots", 3),
    ("backends", 3),
    ("services", 6),
    ("affinity", 3),
    ("peer_owners", 5),
    ("peers", 5),
    ("peers_overflow", 3),
    ("udp_peers", 3),
    ("flow_filter", 4),
    ("flow_room", 7),
    ("flows_v4", 3),
    ("flows_v6", 3),
    ("half_open_v4", 3),
    ("half_open_v6", 3),
    ("fragments_v4", 3),
    ("fragments_v6", 3),
    ("parked", 3),
    ("scratch", 3),
    ("source_ranges_v4", 3),
    ("source_ranges_v6", 3),
    ("devices", 3),
    ("node", 3),
    ("traffic", 3),
    ("counters", 3),
    ("report", 3),
];

const _: () = {
    let (mut newest, mut at) = (0, 0);
    while at < MAPS.len() {
        newest = if MAPS[at].1 > newest { MAPS[at].1 } else { newest };
        at += 1;
    }
    assert!(newest == ABI_VERSION, "which map's rows does the version's change concern?");
};

/// Frontends that are gone, at most, before the filter of frontends is made anew.
const FRONTENDS_GONE_MAX: usize = 16_384;

/// Value of every row of `source_ranges_*`.
const ALLOWED: u32 = 1;

/// Backends by id.
type BackendRows<A> = Vec<(u32, Backend<A>)>;
/// Frontends by what is dialled.
type FrontendRows<A> = Vec<(FrontendKey<A>, Frontend)>;

/// The maps the agent writes and the tools read.
pub struct Store {
    frontends_v4: Map,
    frontends_v6: Map,
    frontend_filter: FrontendFilterMemory,
    /// Frontends that went since the filter was made.
    frontends_gone: usize,
    slots: Map,
    backends: Map,
    names: NameStore,
    sources_v4: Map,
    sources_v6: Map,
    traffic: Map,
    peer_owners: Map,
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
            frontend_filter: FrontendFilterMemory::of(&open("frontend_filter")?)?,
            frontends_gone: 0,
            slots: open("slots")?,
            backends: open("backends")?,
            names: NameStore::open(directory)?,
            sources_v4: open("source_ranges_v4")?,
            sources_v6: open("source_ranges_v6")?,
            traffic: open("traffic")?,
            peer_owners: open("peer_owners")?,
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
            services: store.traffic.size()?.saturating_sub(1),
            backends: store.backends.size()?.saturating_mul(2),
            slots: store.slots.size()?.saturating_mul(2),
            frontends: store.frontends_v4.size()?,
            sources: store.sources_v4.size()?,
        };
        Ok(store)
    }

    /// Operations of one kind.
    fn execute_run(&self, run: &[Op]) -> Result<(), MapError> {
        let mut names = Vec::new();
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
                Op::Service(id, Some(row)) => names.push((*id, &**row)),
                Op::Service(id, None) => self.names.delete(*id)?,
                Op::BackendV4(id, row) => backends_v4.push((*id, *row)),
                Op::BackendV6(id, row) => {
                    backends_v6.push((BackendPair::row_of(*id), BackendPair::from(*row)))
                }
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
        self.traffic.put_array(&traffic)?;
        self.names.put(names)?;
        self.backends.put_pairs(&backends_v4)?;
        self.backends.put_array(&backends_v6)?;
        self.slots.put_pairs(&slots)?;
        self.sources_v4.put_each(&sources_v4)?;
        self.sources_v6.put_each(&sources_v6)?;
        self.frontend_filter.admit(frontends_v4.iter().map(|(key, _)| key.address));
        self.frontend_filter.admit(frontends_v6.iter().map(|(key, _)| key.address));
        self.frontends_v4.put(&frontends_v4)?;
        self.frontends_v6.put(&frontends_v6)
    }

    /// Make the filter of frontends anew, of all that there are.
    fn refill_filter(&mut self, v4: &FrontendRows<V4>, v6: &FrontendRows<V6>) {
        let bits = Bits::new().with(v4.iter().map(|(key, _)| key.address));
        let bits = bits.with(v6.iter().map(|(key, _)| key.address));
        self.frontend_filter.rule_out_all_but(&bits);
        self.frontends_gone = 0;
    }

    /// Every frontend.
    fn frontends(&self) -> Result<(FrontendRows<V4>, FrontendRows<V6>), MapError> {
        Ok((self.frontends_v4.read(|_, _| true)?, self.frontends_v6.read(|_, _| true)?))
    }

    /// The name of every service port.
    pub fn services(&self) -> Result<Vec<(u32, ServiceRow)>, MapError> {
        self.names.all()
    }

    /// The name of one.
    pub fn service(&self, id: u32) -> Result<Option<ServiceRow>, MapError> {
        self.names.get(id)
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
        self.traffic.read_array(|row: &Traffic| *row != Traffic::default())
    }

    /// Write such rows, as far as there are places for them.
    pub(super) fn set_traffic(&self, rows: &[(u32, Traffic)]) -> Result<(), MapError> {
        let size = self.traffic.size()?;
        let rows: Vec<_> = rows.iter().filter(|(id, _)| *id < size).copied().collect();
        self.traffic.put_array(&rows)
    }

    /// What the sockets are connected to that have a place in the `peers` map.
    pub fn connected(&self) -> Result<Vec<Connected>, MapError> {
        let owned = self.peer_owners.read_array(|owner: &u64| *owner != 0)?;
        let mut owned = owned.into_iter().map(|(place, _)| place).peekable();
        let mut records = Vec::new();
        if owned.peek().is_some() {
            self.peers.scan_array(|place, record: Connected| {
                records.extend(owned.next_if_eq(&place).map(|_| record));
            })?;
        }
        Ok(records)
    }

    /// Whether a connected UDP socket has to be told to dial again: its backend is gone, or it
    /// dialled where nothing served. Every place of the `peers` map is looked at.
    pub fn has_stale_udp(&self) -> Result<bool, MapError> {
        let udp = Protocol::Udp as u8;
        for Connected { peer, .. } in self.connected()?.iter().filter(|row| row.protocol == udp) {
            let stale = match peer.backend.unmapped() {
                Some(_) => self.is_gone::<V4>(peer)?,
                None => self.is_gone::<V6>(peer)?,
            };
            if stale {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn is_gone<A: InPair>(&self, peer: &Peer) -> Result<bool, MapError> {
        let row = self.backends.backend::<A>(peer.id)?.filter(|_| peer.id != 0);
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
        self.frontends_gone += ops.iter().filter(|op| is_frontend_gone(op)).count();
        if self.frontends_gone > FRONTENDS_GONE_MAX {
            let (v4, v6) = self.frontends()?;
            self.refill_filter(&v4, &v6);
        }
        Ok(())
    }

    fn adopt(&mut self, rows: &Snapshot) -> anyhow::Result<()> {
        self.refill_filter(&rows.frontends_v4, &rows.frontends_v6);
        Ok(())
    }

    fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let mut slots = Vec::with_capacity(self.capacity.slots as usize + 1);
        self.slots.scan_array(|_, pair: Pair<u32>| slots.extend(pair.0))?;
        slots.truncate(self.capacity.slots as usize);
        let (backends_v4, backends_v6) = read_backends(&self.backends)?;
        let (frontends_v4, frontends_v6) = self.frontends()?;
        Ok(Snapshot {
            services: self.services()?,
            backends_v4,
            backends_v6,
            slots,
            frontends_v4,
            frontends_v6,
            sources_v4: self.sources_v4.keys::<SourceKey<V4>>()?,
            sources_v6: self.sources_v6.keys::<SourceKey<V6>>()?,
        })
    }

    fn capacity(&self) -> Capacity {
        self.capacity
    }
}

/// Backends that were ever there, by family and in the order of their ids.
pub(super) fn read_backends(map: &Map) -> Result<(BackendRows<V4>, BackendRows<V6>), MapError> {
    let (mut v4, mut v6) = (Vec::new(), Vec::new());
    map.scan_array(|index, pair: BackendPair| {
        let id = index * 2;
        if pair.get(id).family == Family::V6 as u8 {
            v6.push((id, *pair.as_v6()));
        } else {
            let both = [id, id + 1].map(|id| (id, pair.get(id)));
            v4.extend(both.into_iter().filter(|(_, row)| row.generation > 0));
        }
    })?;
    Ok((v4, v6))
}

const fn is_frontend_gone(op: &Op) -> bool {
    matches!(op, Op::FrontendV4(_, None) | Op::FrontendV6(_, None))
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
