//! Reading a planner's picture back from the maps, after a restart or a crash at any point.
//!
//! Rows that contradict each other are repaired in the order that helps readers first: a frontend
//! that leads astray is emptied (it refuses, and the plan of its Service fills it) or, if nobody
//! knows whose it is, deleted; then source ranges of nobody are deleted and backends of nobody are
//! marked gone, then names of nobody go.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::address::{Family, Protocol};
use millrace_common::backend::{Backend, state};
use millrace_common::frontend::{Frontend, FrontendKey, Kind, SlotRange, flags};
use millrace_common::node::{SERVICE_BITS, SourceKey};
use millrace_common::service::ServiceRow;

use super::Planner;
use super::family::PerFamily;
use super::grace::Freed;
use super::ids::{BackendIds, Ids};
use super::op::{Capacity, Op, Snapshot};
use super::rows::{BackendRow, Port, Rows};
use crate::hash::HashMap;
use crate::model::desired::{BackendAddress, List};
use crate::model::sources::Range;
use crate::source::{ObjectName, SharedName};

/// See [`Planner::recover`].
pub(super) fn recover(capacity: Capacity, snapshot: Snapshot) -> (Planner, Vec<Op>) {
    let mut recovery = Recovery {
        planner: Planner::new(capacity),
        slots: snapshot.slots,
        ports: BTreeMap::new(),
        blocks: HashMap::default(),
        frontend_repairs: Vec::new(),
        source_repairs: Vec::new(),
        backend_repairs: Vec::new(),
        service_repairs: Vec::new(),
    };
    recovery.services(snapshot.services);
    let v4 = recovery.backends(snapshot.backends_v4, capacity.backends);
    let v6 = recovery.backends(snapshot.backends_v6, capacity.backends);
    recovery.planner.pools.backends = BackendIds::with(capacity.backends, &v4, &v6);
    recovery.frontends(snapshot.frontends_v4);
    recovery.frontends(snapshot.frontends_v6);
    recovery.sources(snapshot.sources_v4);
    recovery.sources(snapshot.sources_v6);
    recovery.finish()
}

struct Recovery {
    planner: Planner,
    /// The slots array.
    slots: Vec<u32>,
    /// Ports by service id.
    ports: BTreeMap<u32, (SharedName, Port)>,
    /// Blocks by first slot.
    blocks: HashMap<u32, Block>,
    frontend_repairs: Vec<Op>,
    source_repairs: Vec<Op>,
    backend_repairs: Vec<Op>,
    service_repairs: Vec<Op>,
}

/// A block that some frontend names.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Block {
    count: u32,
    service: u32,
    family: Family,
}

impl Recovery {
    /// Names: each id once, each port once.
    fn services(&mut self, mut rows: Vec<(u32, ServiceRow)>) {
        rows.sort_unstable_by_key(|(id, _)| *id);
        let end = self.planner.capacity.services.saturating_add(1);
        let mut names: BTreeMap<ObjectName, SharedName> = BTreeMap::new();
        let mut known = BTreeSet::new();
        let mut taken = BTreeSet::new();
        for (id, row) in rows {
            let name = ObjectName::new(row.namespace(), row.name());
            // The canary's namespace is empty; a damaged one reads as if it were.
            let has_namespace = !name.namespace.is_empty() || !row.has_namespace();
            let readable = has_namespace && !name.name.is_empty();
            let protocol = Protocol::from_number(row.protocol()).filter(|_| readable);
            let port_name: Box<str> = row.port_name().into();
            let usable = protocol
                .filter(|_| (1..end).contains(&id))
                .filter(|protocol| known.insert((name.clone(), port_name.clone(), *protocol)));
            if (1..end).contains(&id) {
                taken.insert(id);
                self.planner.pools.names.take(row.parts());
            }
            let Some(protocol) = usable else {
                self.service_repairs.push(Op::Service(id, None));
                if taken.contains(&id) {
                    self.planner.quarantine.hold_recovered(Freed::Service(id, row.parts()));
                }
                continue;
            };
            let name = names.entry(name.clone()).or_insert_with(|| SharedName::new(name));
            let (v4, v6) = (Rows::default(), Rows::default());
            let rows = row.parts();
            let port = Port { id, rows, name: port_name, protocol, v4, v6 };
            self.ports.insert(id, (name.clone(), port));
        }
        self.planner.pools.services = Ids::without(end, &taken);
    }

    /// Backends go to their ports; those of nobody are gone.
    /// Returns the ids that were ever given out, in their order, with their generations.
    fn backends<A: PerFamily>(
        &mut self,
        rows: Vec<(u32, Backend<A>)>,
        end: u32,
    ) -> Vec<(u32, u32)> {
        let rows: BTreeMap<u32, Backend<A>> = rows.into_iter().collect();
        let mut found: HashMap<u32, Vec<BackendRow<A>>> = HashMap::default();
        let mut used = Vec::with_capacity(rows.len());
        for (id, row) in rows.range(1..end.max(1)) {
            used.push((*id, row.generation));
            if row.state == state::GONE {
                self.planner.quarantine.hold_recovered(A::freed_backend(*id));
            } else if row.generation != 0 && self.ports.contains_key(&row.service) {
                let place = BackendAddress { address: row.address, port: row.port };
                let backend = BackendRow { place, id: *id, state: row.state };
                found.entry(row.service).or_default().push(backend);
            } else {
                let gone = Backend { state: state::GONE, ..*row };
                self.backend_repairs.push(A::backend_op(*id, gone));
                self.planner.quarantine.hold_recovered(A::freed_backend(*id));
            }
        }
        for (service, mut backends) in found {
            backends.sort_unstable_by_key(|row| (row.place, row.id));
            if let Some((_, port)) = self.ports.get_mut(&service) {
                A::rows_mut(port).backends = backends.into();
            }
        }
        used
    }

    /// Frontends go to their ports, with the blocks they name.
    fn frontends<A: PerFamily>(&mut self, mut rows: Vec<(FrontendKey<A>, Frontend)>) {
        rows.sort_unstable_by_key(|(key, _)| *key);
        let live: HashMap<u32, u32> = self
            .ports
            .values()
            .flat_map(|(_, port)| A::rows(port).backends.iter().map(|row| (row.id, port.id)))
            .collect();
        let (blocks, rows): (Vec<_>, Vec<_>) =
            rows.into_iter().partition(|(key, _)| key.is_block());
        for (key, mut row) in rows {
            let owner = self.ports.get(&row.service);
            let fits = owner.is_some_and(|(_, port)| {
                key.pad == 0
                    && row.kind().is_some_and(|kind| kind != Kind::ClusterIps)
                    && port.protocol as u8 == key.protocol
            });
            if !fits {
                self.frontend_repairs.push(A::frontend_op(key, None));
                continue;
            }
            let given = row;
            for range in [&mut row.near, &mut row.far] {
                if !self.block_is_whole::<A>(*range, given.service, &live) {
                    *range = SlotRange::default();
                }
            }
            if row != given {
                self.frontend_repairs.push(A::frontend_op(key, Some(row)));
            }
            let Some((name, port)) = self.ports.get_mut(&row.service) else { continue };
            A::rows_mut(port).frontends.push((key, row));
            if let Some(kind) = row.kind() {
                A::tables(&mut self.planner).adopt(key, name, kind);
            }
        }
        self.recognise_blocks::<A>();
        let cluster_ips = &mut A::tables(&mut self.planner).cluster_ips;
        let repairs = cluster_ips.recover(blocks).into_iter();
        self.frontend_repairs.extend(repairs.map(|(key, row)| A::frontend_op(key, row)));
    }

    /// Source ranges go to their ports.
    fn sources<A: PerFamily>(&mut self, keys: Vec<SourceKey<A>>) {
        let mut found: HashMap<u32, Vec<Range<A>>> = HashMap::default();
        for key in keys {
            let service = u32::from_be_bytes(key.net.service);
            let length =
                key.bits.checked_sub(SERVICE_BITS).and_then(|bits| u8::try_from(bits).ok());
            match length {
                Some(length) if self.ports.contains_key(&service) => {
                    let range = Range { address: key.net.address, length };
                    found.entry(service).or_default().push(range);
                }
                _ => self.source_repairs.push(A::source_op(key, false)),
            }
        }
        for (service, mut ranges) in found {
            ranges.sort_unstable();
            ranges.dedup();
            let rows = u32::try_from(ranges.len()).unwrap_or(u32::MAX);
            A::source_room(&mut self.planner.pools).take(rows);
            if let Some((_, port)) = self.ports.get_mut(&service) {
                A::rows_mut(port).sources = ranges.into();
            }
        }
    }

    /// Whether the block holds live backends of this service only, and is nobody else's.
    fn block_is_whole<A: PerFamily>(
        &mut self,
        range: SlotRange,
        service: u32,
        live: &HashMap<u32, u32>,
    ) -> bool {
        if range.count == 0 {
            return true;
        }
        let block = Block { count: range.count, service, family: A::FAMILY };
        if let Some(known) = self.blocks.get(&range.first) {
            return *known == block;
        }
        let belongs = |id: &u32| live.get(id) == Some(&service);
        let whole = slots_of(&self.slots, range).is_some_and(|ids| ids.iter().all(belongs))
            && self.planner.pools.slots.reserve(range);
        if whole {
            self.blocks.insert(range.first, block);
        }
        whole
    }

    /// Find the block that is exactly the list which the backends' states say there is. Without
    /// one (a crash came between), the next plan writes a new block.
    fn recognise_blocks<A: PerFamily>(&mut self) {
        for (_, port) in self.ports.values_mut() {
            let rows = A::rows_mut(port);
            rows.cluster = recognise(&self.slots, rows, List::Cluster);
            rows.local = recognise(&self.slots, rows, List::Local);
        }
    }

    fn finish(self) -> (Planner, Vec<Op>) {
        let mut planner = self.planner;
        planner.ports = self.ports.len();
        for (name, port) in self.ports.into_values() {
            planner.services.entry(name).or_default().ports.push(port);
        }
        let repairs = [
            self.frontend_repairs,
            self.source_repairs,
            self.backend_repairs,
            self.service_repairs,
        ];
        (planner, repairs.into_iter().flatten().collect())
    }
}

fn slots_of(slots: &[u32], range: SlotRange) -> Option<&[u32]> {
    let first = usize::try_from(range.first).ok()?;
    slots.get(first..first.checked_add(usize::try_from(range.count).ok()?)?)
}

fn recognise<A: PerFamily>(slots: &[u32], rows: &Rows<A>, list: List) -> SlotRange {
    let (bit, near, far) = match list {
        List::Nobody => return SlotRange::default(),
        List::Cluster => (state::CLUSTER, 0, 0),
        List::Local => (state::LOCAL, flags::NEAR_LOCAL, flags::FAR_LOCAL),
    };
    let mut expected: Vec<u32> =
        rows.backends.iter().filter(|row| row.state & bit != 0).map(|row| row.id).collect();
    expected.sort_unstable();
    let candidates: BTreeSet<(u32, u32)> = rows
        .frontends
        .iter()
        .flat_map(|(_, row)| {
            let is_near = row.flags & flags::NEAR_LOCAL == near;
            let is_far = row.flags & flags::FAR_LOCAL == far;
            [is_near.then_some(row.near), is_far.then_some(row.far)]
        })
        .flatten()
        .filter(|range| range.count > 0)
        .map(|range| (range.first, range.count))
        .collect();
    let found =
        candidates.into_iter().map(|(first, count)| SlotRange { first, count }).find(|range| {
            let mut ids = slots_of(slots, *range).map(<[u32]>::to_vec).unwrap_or_default();
            ids.sort_unstable();
            ids == expected
        });
    found.unwrap_or_default()
}
