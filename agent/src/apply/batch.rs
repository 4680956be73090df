//! Operations of many services, carried out together without breaking any one's order.

use anyhow::Result;

use super::MapStore;
use crate::plan::op::Op;
use millrace_common::backend::state;

/// Operations gathered before they are carried out.
const BATCH_OPS: usize = 16_384;

/// Plans of services that only add or change rows, merged step by step: all services' backends,
/// then all their slots, then all their frontends. Each service keeps its own order; the kernel
/// sees long runs of one map.
#[derive(Default)]
pub struct Batch {
    ops: Vec<Op>,
}

/// The steps of a plan, in order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Traffic,
    Service,
    Backends,
    Slots,
    Sources,
    Frontends,
    Leaving,
}

impl Batch {
    /// Add one service's plan. One that deletes is carried out on its own: another service may be
    /// waiting for the very key it gives up.
    pub fn add(&mut self, ops: Vec<Op>, store: &mut dyn MapStore) -> Result<()> {
        if ops.iter().any(is_delete) {
            self.flush(store)?;
            return store.execute(&ops);
        }
        self.ops.extend(ops);
        if self.ops.len() >= BATCH_OPS {
            self.flush(store)?;
        }
        Ok(())
    }

    /// Carry out what was gathered.
    pub fn flush(&mut self, store: &mut dyn MapStore) -> Result<()> {
        let mut ops = std::mem::take(&mut self.ops);
        if ops.is_empty() {
            return Ok(());
        }
        // Stable: operations of one step stay in the order in which they were planned.
        ops.sort_by_key(step);
        store.execute(&ops)
    }
}

const fn is_delete(op: &Op) -> bool {
    matches!(
        op,
        Op::Service(_, None)
            | Op::FrontendV4(_, None)
            | Op::FrontendV6(_, None)
            | Op::SourceV4(_, false)
            | Op::SourceV6(_, false)
    )
}

const fn step(op: &Op) -> Step {
    match op {
        Op::NoTraffic(_) => Step::Traffic,
        Op::Service(..) => Step::Service,
        Op::BackendV4(_, row) => backend_step(row.state),
        Op::BackendV6(_, row) => backend_step(row.state),
        Op::Slots(..) => Step::Slots,
        Op::SourceV4(..) | Op::SourceV6(..) => Step::Sources,
        Op::FrontendV4(..) | Op::FrontendV6(..) => Step::Frontends,
    }
}

/// A backend that takes new connections must be there before the slots that name it; one that no
/// longer does may change only once no frontend leads to it.
const fn backend_step(backend: u8) -> Step {
    if backend & (state::CLUSTER | state::LOCAL) != 0 { Step::Backends } else { Step::Leaving }
}
