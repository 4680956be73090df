//! Is what was asked for in force? kube-proxy's answer, and two questions it does not ask.
//!
//! A family is healthy unless a change has waited for too long to be applied; while the agent
//! starts, nothing waits. Besides, the canary must get through ([`crate::canary`]), and the loop
//! that applies changes must turn. Pure: whoever asks brings the time.

use std::time::Duration;

use millrace_common::address::Family;

/// A point in time, on both of the machine's clocks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    /// Since the epoch: to be shown.
    pub wall: Duration,
    /// Monotonic: to be reckoned with.
    pub monotonic: Duration,
}

/// What is known of one family.
#[derive(Clone, Copy, Debug, Default)]
struct Side {
    /// When its rows were last brought up to date; none: it takes no part.
    last_updated: Option<Moment>,
    /// Since when a change waits.
    pending_since: Option<Duration>,
    /// The canary does not get through.
    canary_fails: bool,
}

/// What is known.
#[derive(Clone, Debug)]
pub struct Core {
    /// How long a change may wait.
    timeout: Duration,
    v4: Side,
    v6: Side,
    node_eligible: bool,
    /// When the loop last said that it turns.
    alive: Duration,
}

/// One family's part of a [`Verdict`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FamilyVerdict {
    /// The family.
    pub family: Family,
    /// When its rows were last brought up to date.
    pub last_updated: Moment,
    /// Nothing waits for too long.
    pub healthy: bool,
}

/// How things are.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Verdict {
    /// Now.
    pub now: Moment,
    /// Of the families that take part, the last update; the unhealthy one's, if one is.
    pub last_updated: Moment,
    /// Every family is healthy.
    pub healthy: bool,
    /// Load balancers may send to this node.
    pub node_eligible: bool,
    /// Families that take part.
    pub families: Vec<FamilyVerdict>,
}

impl Core {
    /// Nothing is known; a change may wait that long.
    pub fn new(timeout: Duration) -> Self {
        let (v4, v6) = (Side::default(), Side::default());
        Self { timeout, v4, v6, node_eligible: false, alive: Duration::ZERO }
    }

    /// A change may wait for another while from now on.
    pub const fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    fn side_mut(&mut self, family: Family) -> &mut Side {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// A change of a family waits from now on, if none did before.
    pub fn queued(&mut self, family: Family, now: Moment) {
        self.side_mut(family).pending_since.get_or_insert(now.monotonic);
    }

    /// A family is up to date; with the first time it takes part.
    pub fn updated(&mut self, family: Family, now: Moment) {
        let side = self.side_mut(family);
        side.pending_since = None;
        side.last_updated = Some(now);
        self.turns(now);
    }

    /// The loop turns.
    pub const fn turns(&mut self, now: Moment) {
        self.alive = now.monotonic;
    }

    /// Whether a family's canary does not get through.
    pub fn set_canary(&mut self, family: Family, fails: bool) {
        self.side_mut(family).canary_fails = fails;
    }

    /// Whether load balancers may send to this node.
    pub const fn set_node_eligible(&mut self, eligible: bool) {
        self.node_eligible = eligible;
    }

    /// How things are.
    pub fn verdict(&self, now: Moment) -> Verdict {
        let is_stuck = now.monotonic.saturating_sub(self.alive) >= self.timeout;
        let sides = [(Family::V4, &self.v4), (Family::V6, &self.v6)];
        let families: Vec<FamilyVerdict> = sides
            .into_iter()
            .filter_map(|(family, side)| {
                let last_updated = side.last_updated?;
                let healthy = !is_stuck && self.is_healthy(side, now);
                Some(FamilyVerdict { family, last_updated, healthy })
            })
            .collect();
        let newest = families.iter().map(|of| of.last_updated).max_by_key(|m| m.monotonic);
        let unhealthy = families.iter().find(|of| !of.healthy).map(|of| of.last_updated);
        Verdict {
            now,
            last_updated: unhealthy.or(newest).unwrap_or(now),
            healthy: unhealthy.is_none(),
            node_eligible: self.node_eligible,
            families,
        }
    }

    fn is_healthy(&self, side: &Side, now: Moment) -> bool {
        let waits = side.pending_since.map_or(Duration::ZERO, |s| now.monotonic.saturating_sub(s));
        waits < self.timeout && !side.canary_fails
    }
}
