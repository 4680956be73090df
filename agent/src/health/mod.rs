//! What load balancers, the kubelet and monitoring are told about this node, with kube-proxy's
//! addresses, paths and bodies.
//!
//! [`core`] decides (pure), [`pages`] words it, [`servers`] keeps the two servers of the node,
//! [`node_ports`] one for each Service with a healthCheckNodePort.

pub mod core;
pub mod node_ports;
pub mod notices;
pub mod pages;
pub mod servers;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use millrace_common::address::Family;

use self::core::{Core, Moment, Verdict};

/// Sync periods that a change may wait before that is unhealthy.
const PATIENCE_PERIODS: u32 = 2;

/// The [`Core`] with a clock, shared by the loop and the servers.
#[derive(Clone, Debug)]
pub struct Monitor {
    core: Arc<Mutex<Core>>,
    started: Instant,
}

impl Monitor {
    /// Of an agent that starts now: healthy, with both families.
    pub fn new(sync_period: std::time::Duration) -> Self {
        let core = Core::new(sync_period * PATIENCE_PERIODS);
        let monitor = Self { core: Arc::new(Mutex::new(core)), started: Instant::now() };
        monitor.updated();
        monitor
    }

    /// The operator wants another one.
    pub fn set_sync_period(&self, sync_period: std::time::Duration) {
        self.core().set_timeout(sync_period * PATIENCE_PERIODS);
    }

    fn now(&self) -> Moment {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        Moment { wall: wall.unwrap_or_default(), monotonic: self.started.elapsed() }
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // Nothing that holds it can panic half-way.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A change waits to be applied.
    pub fn queued(&self) {
        let now = self.now();
        let mut core = self.core();
        [Family::V4, Family::V6].into_iter().for_each(|family| core.queued(family, now));
    }

    /// What waited is applied.
    pub fn updated(&self) {
        let now = self.now();
        let mut core = self.core();
        [Family::V4, Family::V6].into_iter().for_each(|family| core.updated(family, now));
    }

    /// The loop turns; this is what it knows of the node and of the canary.
    pub fn turns(&self, node_eligible: bool, canary_fails: impl Fn(Family) -> bool) {
        let now = self.now();
        let mut core = self.core();
        core.turns(now);
        core.set_node_eligible(node_eligible);
        for family in [Family::V4, Family::V6] {
            core.set_canary(family, canary_fails(family));
        }
    }

    /// How things are.
    pub fn verdict(&self) -> Verdict {
        self.core().verdict(self.now())
    }
}
