//! The tables of a simulated node: what the reconcile loop writes, the packet path reads.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use millrace::apply::MapStore;
use millrace::plan::op::{Capacity, Op, Snapshot};
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::service::ServiceRow;

use crate::packet::node::{InNode, Node};

/// Room for what tests put in, and little to look through.
const CAPACITY: Capacity =
    Capacity { services: 1000, backends: 1000, slots: 4000, frontends: 4000, sources: 1000 };

/// The tables.
#[derive(Default)]
pub struct Store {
    /// Those that packets need.
    pub node: Node,
    services: BTreeMap<u32, ServiceRow>,
    /// So many of the next writes fail.
    pub failing: usize,
}

impl Store {
    /// How many rows there are.
    pub fn rows(&self) -> usize {
        fn of<A: InNode>(node: &Node) -> usize {
            let rows = A::rows(node);
            rows.frontends.len() + rows.source_ranges.len()
        }
        use millrace_common::address::{V4, V6};
        self.services.len() + of::<V4>(&self.node) + of::<V6>(&self.node)
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::NoTraffic(id) => drop(self.node.traffic.borrow_mut().remove(id)),
            Op::Service(id, Some(row)) => drop(self.services.insert(*id, **row)),
            Op::Service(id, None) => drop(self.services.remove(id)),
            Op::BackendV4(id, row) => drop(self.node.v4.backends.insert(*id, *row)),
            Op::BackendV6(id, row) => drop(self.node.v6.backends.insert(*id, *row)),
            Op::Slots(first, ids) => self.node.slots.extend((*first..).zip(ids.iter().copied())),
            Op::FrontendV4(key, row) => set(&mut self.node, *key, *row),
            Op::FrontendV6(key, row) => set(&mut self.node, *key, *row),
            Op::SourceV4(key, true) => drop(self.node.v4.source_ranges.insert(*key)),
            Op::SourceV4(key, false) => drop(self.node.v4.source_ranges.remove(key)),
            Op::SourceV6(key, true) => drop(self.node.v6.source_ranges.insert(*key)),
            Op::SourceV6(key, false) => drop(self.node.v6.source_ranges.remove(key)),
        }
    }
}

fn set<A: InNode>(node: &mut Node, key: FrontendKey<A>, row: Option<Frontend>) {
    let frontends = &mut A::rows_mut(node).frontends;
    match row {
        Some(row) => drop(frontends.insert(key, row)),
        None => drop(frontends.remove(&key)),
    }
}

impl MapStore for Store {
    fn execute(&mut self, ops: &[Op]) -> Result<()> {
        for op in ops {
            if self.failing > 0 {
                self.failing -= 1;
                bail!("no memory");
            }
            self.apply(op);
        }
        Ok(())
    }

    fn snapshot(&self) -> Result<Snapshot> {
        let Node { v4, v6, slots, .. } = &self.node;
        let slot = |index| slots.get(&index).copied().unwrap_or(0);
        Ok(Snapshot {
            services: self.services.iter().map(|(id, row)| (*id, *row)).collect(),
            backends_v4: v4.backends.iter().map(|(id, row)| (*id, *row)).collect(),
            backends_v6: v6.backends.iter().map(|(id, row)| (*id, *row)).collect(),
            slots: (0..CAPACITY.slots).map(slot).collect(),
            frontends_v4: v4.frontends.iter().map(|(key, row)| (*key, *row)).collect(),
            frontends_v6: v6.frontends.iter().map(|(key, row)| (*key, *row)).collect(),
            sources_v4: v4.source_ranges.iter().copied().collect(),
            sources_v6: v6.source_ranges.iter().copied().collect(),
        })
    }

    fn adopt(&mut self, _: &Snapshot) -> Result<()> {
        // It has no filter.
        Ok(())
    }

    fn capacity(&self) -> Capacity {
        CAPACITY
    }
}
