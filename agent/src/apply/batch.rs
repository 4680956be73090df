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
    /// By step; those of one step stay in the order in which they were planned.
    steps: [Vec<Op>; STEPS],
    count: usize,
}

/// How many steps there are.
const STEPS: usize = Step::Leaving as usize + 1;

/// The steps of a plan, in order.
#[derive(Clone, Copy)]
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
        self.count += ops.len();
        for op in ops {
            self.steps[step(&op) as usize].push(op);
        }
        if self.count >= BATCH_OPS {
            self.flush(store)?;
        }
        Ok(())
    }

    /// Carry out what was gathered.
    pub fn flush(&mut self, store: &mut dyn MapStore) -> Result<()> {
        self.count = 0;
        // Where one fails, the maps are read back: nothing later may be carried out.
        let mut steps = self.steps.iter().filter(|ops| !ops.is_empty());
        let written = steps.try_for_each(|ops| store.execute(ops));
        self.steps.iter_mut().for_each(Vec::clear);
        written
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
