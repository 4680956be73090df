//! The reconcile loop's step: take what is dirty, plan it, carry the plan out.
//!
//! Watchers only mark services dirty; this runs at its own pace. One service that cannot be planned
//! is set aside with its reason, and the others go on.

pub mod batch;
pub mod no_local;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use millrace_common::address::Protocol;
use millrace_common::backend::state;
use millrace_common::frontend::flags;

use crate::model::Model;
use crate::model::desired::{Desired, HealthCheck};
use crate::model::problem::Problem;
use crate::plan::Planner;
use crate::plan::occupancy::Occupancy;
use crate::plan::op::{Capacity, Op, Snapshot};
use crate::plan::outcome::Conflict;
use crate::source::{ObjectName, SharedName};
use batch::Batch;
use no_local::{NoLocal, Tally};

/// Frontends a service does not get that are logged one by one; `status` has more.
const LOGGED_CONFLICTS: usize = 16;

/// Where rows are kept: the kernel's maps, or a test's.
pub trait MapStore {
    /// Carry out operations in their order.
    fn execute(&mut self, ops: &[Op]) -> Result<()>;
    /// Read every row back.
    fn snapshot(&self) -> Result<Snapshot>;
    /// Be the only one who writes rows from now on; there are these.
    fn adopt(&mut self, rows: &Snapshot) -> Result<()>;
    /// How many rows there may be.
    fn capacity(&self) -> Capacity;
}

/// What one round did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Round {
    /// Services looked at.
    pub services: usize,
    /// Map writes.
    pub ops: usize,
}

/// Keeps the maps as the model wants them.
pub struct Reconciler {
    planner: Planner,
    /// Services that do not fit, and why.
    refused: BTreeMap<SharedName, String>,
    /// Those of them that are larger than any may be.
    too_large: BTreeSet<SharedName>,
    /// Frontends that a service does not get, because others have them.
    conflicts: BTreeMap<SharedName, Vec<Conflict>>,
    /// What of a service is not used because of other objects.
    clashes: BTreeMap<SharedName, Vec<Problem>>,
    /// Services with a frontend that drops clients on this node silently.
    dropping: BTreeSet<SharedName>,
    /// Service ports without a local endpoint that need one.
    no_local: Tally,
    /// Services whose health load balancers ask for.
    health: BTreeMap<SharedName, HealthCheck>,
    /// A UDP backend is gone since somebody asked.
    udp_gone: bool,
    /// What was said in the log about a service, to say it once.
    logged: BTreeMap<SharedName, Vec<String>>,
    /// The maps are not what the planner thinks: an operation failed.
    lost: bool,
}

impl Reconciler {
    /// Start from what the maps hold, mending what an interrupted writer left.
    pub fn recover(store: &mut dyn MapStore) -> Result<Self> {
        let snapshot = store.snapshot().context("read the maps")?;
        store.adopt(&snapshot).context("take the maps over")?;
        let (planner, repairs) = Planner::recover(store.capacity(), snapshot);
        if !repairs.is_empty() {
            tracing::warn!(ops = repairs.len(), "mending rows that an interrupted writer left");
            store.execute(&repairs).context("mend the maps")?;
        }
        Ok(Self {
            planner,
            refused: BTreeMap::new(),
            too_large: BTreeSet::new(),
            conflicts: BTreeMap::new(),
            clashes: BTreeMap::new(),
            dropping: BTreeSet::new(),
            no_local: Tally::default(),
            health: BTreeMap::new(),
            udp_gone: false,
            logged: BTreeMap::new(),
            lost: false,
        })
    }

    /// Mark every service that the maps know, so that those the source no longer has are removed.
    pub fn mark_known(&self, model: &mut Model) {
        for name in self.planner.services() {
            model.mark_dirty(name);
        }
    }

    /// Mark the services that did not fit: there may be room now.
    pub fn retry_refused(&self, model: &mut Model) {
        for name in self.refused.keys() {
            model.mark_dirty(name.clone());
        }
    }

    /// Bring every dirty service up to date. After an error, the next round begins by reading the
    /// maps back.
    pub fn round(
        &mut self,
        model: &mut Model,
        store: &mut dyn MapStore,
        now: Duration,
    ) -> Result<Round> {
        if self.lost {
            *self = Self::recover(store)?;
            self.mark_known(model);
            model.mark_all_dirty();
        }
        let result = self.plan_and_execute(model, store, now);
        self.lost = result.is_err();
        result
    }

    fn plan_and_execute(
        &mut self,
        model: &mut Model,
        store: &mut dyn MapStore,
        now: Duration,
    ) -> Result<Round> {
        let mut round = Round::default();
        let mut batch = Batch::default();
        let mut waiting = model.take_dirty();
        while !waiting.is_empty() {
            let mut retry = Vec::new();
            for name in waiting {
                round.services += 1;
                let (ops, waited) = self.plan(model, name, now);
                round.ops += ops.len();
                retry.extend(waited);
                batch.add(ops, store)?;
            }
            // A service that waited for another's address waits at most once more per release, so
            // this ends.
            waiting = model.oldest_first(retry);
        }
        batch.flush(store)?;
        let cluster_ips = self.planner.plan_cluster_ips();
        if !cluster_ips.is_empty() {
            round.ops += cluster_ips.len();
            store.execute(&cluster_ips)?;
        }
        Ok(round)
    }

    /// The operations for one service, and who can go on because of them.
    fn plan(
        &mut self,
        model: &Model,
        name: SharedName,
        now: Duration,
    ) -> (Vec<Op>, Vec<SharedName>) {
        if model.is_unreadable(&name) {
            return (Vec::new(), Vec::new());
        }
        let mut desired = model.desired(&name);
        let clashes = std::mem::take(&mut desired.clashes);
        let problems = desired.problems.iter().chain(&clashes);
        let mut texts: Vec<String> = problems.map(ToString::to_string).collect();
        keep(&mut self.clashes, &name, clashes);
        self.refused.remove(&name);
        self.too_large.remove(&name);
        if let Some(why) = &desired.too_large {
            let text = format!("Service {name} is not updated: {why}");
            texts.push(text.clone());
            self.refused.insert(name.clone(), text);
            self.too_large.insert(name.clone());
            self.log(name, texts);
            return (Vec::new(), Vec::new());
        }
        self.conflicts.remove(&name);
        self.no_local.update(&desired);
        if drops(&desired) {
            self.dropping.insert(name.clone());
        } else {
            self.dropping.remove(&name);
        }
        let mut health = desired.health;
        let (ops, retry) = match self.planner.plan(&desired, now) {
            Ok(planned) => {
                let told = planned.conflicts.iter().take(LOGGED_CONFLICTS);
                texts.extend(told.map(|conflict| format!("Service {name}: {conflict}")));
                keep(&mut self.conflicts, &name, planned.conflicts);
                self.udp_gone |= is_udp(&desired) && planned.ops.iter().any(is_gone);
                (planned.ops, planned.retry)
            }
            Err(refused) => {
                texts.push(refused.to_string());
                self.refused.insert(name.clone(), refused.to_string());
                health = health.map(HealthCheck::without_endpoints);
                (Vec::new(), Vec::new())
            }
        };
        match health {
            Some(health) => drop(self.health.insert(name.clone(), health)),
            None => drop(self.health.remove(&name)),
        }
        self.log(name, texts);
        (ops, retry)
    }

    /// Say what is new about a service.
    fn log(&mut self, name: SharedName, texts: Vec<String>) {
        let known = self.logged.get(&name);
        for text in texts.iter().filter(|text| !known.is_some_and(|known| known.contains(text))) {
            tracing::warn!("{text}");
        }
        if texts.is_empty() {
            self.logged.remove(&name);
        } else {
            self.logged.insert(name, texts);
        }
    }

    /// Whether a frontend drops clients on this node silently: its policy is Local and nothing is
    /// here, or its source ranges do not let the node in.
    pub fn drops(&self) -> bool {
        !self.dropping.is_empty()
    }

    /// Services whose health load balancers ask for.
    pub const fn health(&self) -> &BTreeMap<SharedName, HealthCheck> {
        &self.health
    }

    /// Whether a UDP backend is gone since the last time this was asked.
    pub const fn take_udp_gone(&mut self) -> bool {
        std::mem::replace(&mut self.udp_gone, false)
    }

    /// Whether one has gone since it was last taken.
    pub const fn is_udp_gone(&self) -> bool {
        self.udp_gone
    }

    /// How full the maps are.
    pub fn occupancy(&self) -> Occupancy {
        self.planner.occupancy()
    }

    /// Service ports that have endpoints on other nodes only, and a Local policy.
    pub const fn no_local(&self) -> NoLocal {
        self.no_local.total()
    }

    /// Whether the Service does not fit.
    pub fn is_refused(&self, name: &ObjectName) -> bool {
        self.refused.contains_key(name)
    }

    /// Services that do not fit, and why.
    pub fn refused(&self) -> impl Iterator<Item = (&ObjectName, &str)> {
        self.refused.iter().map(|(name, text)| (&**name, text.as_str()))
    }

    /// Whether a Service is refused for being larger than any may be.
    pub fn is_too_large(&self, name: &ObjectName) -> bool {
        self.too_large.contains(name)
    }

    /// Frontends that services do not get, and who has them.
    pub fn conflicts(&self) -> impl Iterator<Item = (&ObjectName, &Conflict)> {
        self.conflicts.iter().flat_map(|(name, all)| all.iter().map(move |c| (&**name, c)))
    }

    /// What of services is not used because of other objects.
    pub fn clashes(&self) -> impl Iterator<Item = (&ObjectName, &Problem)> {
        self.clashes.iter().flat_map(|(name, all)| all.iter().map(move |p| (&**name, p)))
    }
}

/// Remember what there is to say about a service; nothing is not kept.
fn keep<T>(all: &mut BTreeMap<SharedName, Vec<T>>, name: &SharedName, new: Vec<T>) {
    if new.is_empty() {
        all.remove(name);
    } else {
        all.insert(name.clone(), new);
    }
}

/// Whether a frontend of the Service drops clients on this node. Sockets of pods that source ranges
/// do not let in are the packet path's.
fn drops(desired: &Desired) -> bool {
    let shut_out = |flags| flags & (flags::SOURCE_RANGES | flags::NODE_ALLOWED);
    let flag = |set: u32| set & flags::NEAR_DROP != 0 || shut_out(set) == flags::SOURCE_RANGES;
    desired.ports.iter().any(|port| {
        port.v4.frontends.iter().any(|frontend| flag(frontend.flags))
            || port.v6.frontends.iter().any(|frontend| flag(frontend.flags))
    })
}

/// Whether the Service has UDP ports, or had any: one that is gone may have had.
fn is_udp(desired: &Desired) -> bool {
    desired.ports.is_empty() || desired.ports.iter().any(|port| port.protocol == Protocol::Udp)
}

/// Whether the operation is the end of a backend.
const fn is_gone(op: &Op) -> bool {
    match op {
        Op::BackendV4(_, row) => row.state == state::GONE,
        Op::BackendV6(_, row) => row.state == state::GONE,
        _ => false,
    }
}
