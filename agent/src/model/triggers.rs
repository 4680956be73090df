//! When what is asked for was caused: the times that the EndpointSlice controller writes on slices.
//!
//! From such a time to the round that serves the endpoints is kube-proxy's network programming
//! latency. What was caused before the agent started is not its doing and is left out, and so is a
//! slice that goes: its time is that of the change before.

use std::time::Duration;

use jiff::Timestamp;
use millrace_common::address::Family;

use super::Model;
use super::problem::Reading;
use crate::hash::HashMap;
use crate::source::{SharedName, slim};

/// Times kept until their endpoints are served, at most. Rounds come many times a second; only
/// while none succeeds do they pile up, and then these say enough.
pub const TRIGGERS_MAX: usize = 65_536;

/// How the field is named in a message.
const FIELD: &str = "metadata.annotations[endpoints.kubernetes.io/last-change-trigger-time]";

/// A change that waits for its endpoints to be served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trigger {
    /// The Service whose endpoints changed.
    pub service: SharedName,
    /// Their family.
    pub family: Family,
    /// When it was caused, since the epoch.
    pub at: Duration,
}

/// Changes that wait for a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pending {
    /// Of Services.
    pub services: usize,
    /// Of EndpointSlices.
    pub slices: usize,
}

/// Triggers by the slice that bears them.
#[derive(Default)]
pub(super) struct Triggers {
    /// What was caused before is of no interest; none: nothing is.
    since: Option<Duration>,
    waiting: HashMap<SharedName, Vec<Trigger>>,
    count: usize,
}

impl Model {
    /// Changes since the dirty Services were last taken.
    pub const fn pending(&self) -> Pending {
        self.pending
    }

    /// Keep the times at which changes were caused, if that was not before this one (since the
    /// epoch).
    pub const fn measure_from(&mut self, since: Duration) {
        self.triggers.since = Some(since);
    }

    /// When the changes were caused that no round has served yet; to be taken when one has.
    pub fn take_triggers(&mut self) -> Vec<Trigger> {
        self.triggers.take()
    }
}

impl Triggers {
    /// The slice changed, and this was the cause.
    pub(super) fn add(&mut self, slice: &SharedName, trigger: Trigger) {
        let is_ours = self.since.is_some_and(|since| trigger.at >= since);
        if is_ours && self.count < TRIGGERS_MAX {
            self.waiting.entry(slice.clone()).or_default().push(trigger);
            self.count += 1;
        }
    }

    /// The slice is gone.
    pub(super) fn drop_of(&mut self, slice: &SharedName) {
        let dropped = self.waiting.remove(slice);
        self.count -= dropped.map_or(0, |dropped| dropped.len());
    }

    /// All that wait; none does any more.
    pub(super) fn take(&mut self) -> Vec<Trigger> {
        self.count = 0;
        std::mem::take(&mut self.waiting).into_values().flatten().collect()
    }
}

/// The time that the slice bears, since the epoch.
pub(super) fn time_of(object: &slim::EndpointSlice, reading: &mut Reading) -> Option<Duration> {
    let text = object.metadata.annotations.last_change_trigger_time.as_deref()?;
    match text.parse::<Timestamp>() {
        Ok(time) => Duration::try_from(time.as_duration()).ok(),
        Err(_) => {
            let fix = "not a time: how long the change took is not measured; it is written by the \
                       EndpointSlice controller, as RFC 3339";
            reading.skip(FIELD, text, fix);
            None
        }
    }
}

/// The family of the slice's endpoints; none: of none that is served.
pub(super) fn family_of(object: &slim::EndpointSlice) -> Option<Family> {
    match object.address_type.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    }
}
