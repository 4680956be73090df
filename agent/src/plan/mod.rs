//! From the model to operations on maps. Pure: no I/O, no clock, no async.
//!
//! The [`Planner`] keeps a compact picture of the rows that are in the maps. Given what a Service
//! [should look like](crate::model::desired), it first settles which frontends the Service gets
//! ([`claim`]), then drafts the map writes that lead there ([`draft`]); if something does not fit,
//! nothing of it happens. Which addresses are ClusterIPs follows from the frontends
//! ([`cluster_ips`]). After a restart the picture is [recovered](recover) from the maps; maps of
//! other sizes get the rows of the old ones first ([`transfer`]).
//!
//! Between any two of the operations the maps are whole: every frontend leads to backends of its
//! own service, to the old set or to the new one. What a reader in the kernel may still hold is
//! given to somebody else only after [`GRACE`].

mod claim;
mod cluster_ips;
mod draft;
mod family;
mod grace;
mod ids;
pub mod occupancy;
pub mod op;
pub mod outcome;
mod recover;
mod rows;
mod slots;
#[cfg(test)]
pub(crate) mod tests;
mod transfer;

use std::time::Duration;

use millrace_common::address::{Family, V4, V6};
use millrace_common::frontend::FrontendKey;

use self::claim::{Claims, Tables};
use self::draft::Draft;
use self::family::PerFamily;
use self::grace::{Freed, Quarantine};
use self::ids::{BackendIds, Ids, Room};
use self::op::{Capacity, Op, Snapshot};
use self::outcome::{Map, Planned, Refused, Shortage};
use self::rows::{Installed, Port};
use self::slots::Slots;
use crate::hash::HashMap;
use crate::model::desired::Desired;
use crate::source::{ObjectName, SharedName};

pub use self::grace::GRACE;

/// What is in the maps, and how to change it.
pub struct Planner {
    capacity: Capacity,
    services: HashMap<SharedName, Installed>,
    /// Their ports, all told.
    ports: usize,
    pools: Pools,
    v4: Tables<V4>,
    v6: Tables<V6>,
    quarantine: Quarantine,
}

/// What is handed out to services.
struct Pools {
    services: Ids,
    /// Rows of their names.
    names: Room,
    slots: Slots,
    backends: BackendIds,
    sources_v4: Room,
    sources_v6: Room,
}

impl Pools {
    fn new(capacity: Capacity) -> Self {
        Self {
            services: Ids::new(capacity.services.saturating_add(1)),
            names: Room::new(capacity.services),
            slots: Slots::new(capacity.slots),
            backends: BackendIds::new(capacity.backends),
            sources_v4: Room::new(capacity.sources),
            sources_v6: Room::new(capacity.sources),
        }
    }

    /// Whoever read it has finished: it can be used again.
    fn put_back(&mut self, freed: Freed) {
        match freed {
            Freed::Service(id, rows) => {
                self.services.put_back(id);
                self.names.put_back(rows);
            }
            Freed::BackendV4(id) => self.backends.put_back(Family::V4, id),
            Freed::BackendV6(id) => self.backends.put_back(Family::V6, id),
            Freed::Slots(range) => self.slots.put_back(range),
            Freed::SourcesV4(rows) => self.sources_v4.put_back(rows),
            Freed::SourcesV6(rows) => self.sources_v6.put_back(rows),
        }
    }
}

impl Planner {
    /// A planner of empty maps.
    pub fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            services: HashMap::default(),
            ports: 0,
            pools: Pools::new(capacity),
            v4: Tables::default(),
            v6: Tables::default(),
            quarantine: Quarantine::default(),
        }
    }

    /// A planner of maps with rows in them, and the operations that repair rows which contradict
    /// each other. No frontend is left leading astray: it refuses until its Service is planned.
    pub fn recover(capacity: Capacity, snapshot: Snapshot) -> (Self, Vec<Op>) {
        recover::recover(capacity, snapshot)
    }

    /// Services that have rows, in the order of their names. Those that should not exist any more
    /// are to be planned too, as [absent](Desired::absent).
    pub fn services(&self) -> Vec<ObjectName> {
        let mut names: Vec<ObjectName> =
            self.services.keys().map(|name| ObjectName::clone(name)).collect();
        names.sort_unstable();
        names
    }

    /// The operations that bring a Service to its desired state, in an order that is safe at every
    /// step; none if it is there. From now on they are taken for done. `now` is a monotonic time.
    ///
    /// # Errors
    /// A map has no room: the Service stays as it was.
    pub fn plan(&mut self, desired: &Desired, now: Duration) -> Result<Planned, Refused> {
        for freed in self.quarantine.release(now) {
            self.pools.put_back(freed);
        }
        let known = self.services.get_key_value(&desired.service);
        let (name, old) = match known {
            Some((name, old)) => (name.clone(), Some(old)),
            None => (desired.service.clone(), None),
        };
        let claims = (
            Claims::settle(&self.v4, &name, &desired.ports),
            Claims::settle(&self.v6, &name, &desired.ports),
        );
        let is_known = old.is_some();
        let mut draft = Draft::new(&mut self.pools);
        let drafted = check_frontends(self.capacity, &self.v4, &claims.0)
            .and_then(|()| check_frontends(self.capacity, &self.v6, &claims.1))
            .and_then(|()| draft.service(old, desired, &claims));
        match drafted {
            Ok(ports) => {
                let (ops, freed) = draft.finish();
                freed.into_iter().for_each(|freed| self.quarantine.hold(freed, now));
                let old = is_known.then(|| self.services.remove(&name)).flatten();
                Ok(self.commit(&name, old.unwrap_or_default(), ports, claims, ops, now))
            }
            Err(shortage) => {
                draft.undo();
                Err(self.refuse(desired.service.clone(), shortage))
            }
        }
    }

    /// The operations that say which addresses are ClusterIPs as such, as far as plans have changed
    /// that since they were last asked for: a row is of many Services. From now on they are taken
    /// for done. Until then a ClusterIP is refused, or not, as it was before.
    pub fn plan_cluster_ips(&mut self) -> Vec<Op> {
        let v4 = self.v4.cluster_ips.changes().into_iter();
        let v4 = v4.map(|(key, row)| Op::FrontendV4(key, row));
        let v6 = self.v6.cluster_ips.changes().into_iter();
        v4.chain(v6.map(|(key, row)| Op::FrontendV6(key, row))).collect()
    }

    /// The service has these ports from now on.
    fn commit(
        &mut self,
        name: &SharedName,
        old: Installed,
        ports: Vec<Port>,
        claims: (Claims<V4>, Claims<V6>),
        ops: Vec<Op>,
        now: Duration,
    ) -> Planned {
        self.ports = self.ports + ports.len() - old.ports.len();
        let mut planned = Planned { ops, ..Planned::default() };
        let waits_v4 = self.hand_over(name, &old, claims.0, &mut planned, now);
        let waits_v6 = self.hand_over(name, &old, claims.1, &mut planned, now);
        if !ports.is_empty() {
            self.services.insert(name.clone(), Installed { ports, waits_v4, waits_v6 });
        }
        planned.retry.sort_unstable();
        planned.retry.dedup();
        planned
    }

    /// Frontends change owners as claimed. Returns the keys that the service goes on waiting for.
    fn hand_over<A: PerFamily>(
        &mut self,
        name: &SharedName,
        old: &Installed,
        claims: Claims<A>,
        planned: &mut Planned,
        now: Duration,
    ) -> Vec<FrontendKey<A>> {
        for (key, loser) in &claims.evicted {
            let Some(installed) = self.services.get_mut(loser) else { continue };
            for freed in installed.evict(key) {
                self.quarantine.hold(freed, now);
            }
            planned.retry.push(loser.clone());
        }
        let waiters = A::tables(self).hand_over(name, old, &claims).into_iter();
        let others = waiters.filter(|waiter| waiter != name);
        planned.retry.extend(others);
        planned.conflicts.extend(claims.conflicts);
        claims.waits
    }

    fn refuse(&self, service: SharedName, shortage: Shortage) -> Refused {
        Refused {
            service,
            map: shortage.map,
            needed: shortage.needed,
            free: shortage.free,
            held: self.quarantine.held(shortage.map),
            capacity: match shortage.map {
                Map::Services => self.capacity.services,
                Map::Backends => self.capacity.backends,
                Map::Slots => self.capacity.slots,
                Map::SourcesV4 | Map::SourcesV6 => self.capacity.sources,
                Map::FrontendsV4 | Map::FrontendsV6 => self.capacity.frontends,
            },
        }
    }
}

/// Whether the rows to be added fit beside all there are: deletes come later.
fn check_frontends<A: PerFamily>(
    capacity: Capacity,
    tables: &Tables<A>,
    claims: &Claims<A>,
) -> Result<(), Shortage> {
    let used = u32::try_from(tables.rows()).unwrap_or(u32::MAX);
    let free = capacity.frontends.saturating_sub(used);
    let needed = tables.new_rows(claims);
    if needed <= free {
        return Ok(());
    }
    Err(Shortage { map: A::FRONTENDS, needed, free })
}
