//! Services that are to be looked at again, each once.
//!
//! That a Service is among them stands in its own entry, which whoever changes it has at hand: a
//! list of 100 000 Services and their slices marks each of them twice.

use super::Entry;
use super::identity::Age;
use crate::hash::{HashMap, HashSet};
use crate::source::SharedName;

/// Services of which something may have changed since they were last taken.
pub(super) struct Dirty {
    /// Counts the times they were taken, from 1: an entry that was marked at this one is known.
    turn: u64,
    /// Those with an entry, and their age when they were marked.
    known: Vec<(Age, SharedName)>,
    /// Those without.
    others: HashSet<SharedName>,
    /// An age has changed since it was noted, or an entry is gone.
    is_stale: bool,
}

impl Default for Dirty {
    fn default() -> Self {
        Self { turn: 1, known: Vec::new(), others: HashSet::default(), is_stale: false }
    }
}

impl Dirty {
    /// The Service that has this entry is one of them.
    pub(super) fn mark(&mut self, name: &SharedName, entry: &mut Entry) {
        if entry.marked != self.turn {
            entry.marked = self.turn;
            self.known.push((entry.age, name.clone()));
        }
    }

    /// A Service is one of them that may have no entry.
    pub(super) fn mark_by_name(
        &mut self,
        name: SharedName,
        services: &mut HashMap<SharedName, Entry>,
    ) {
        match services.get_mut(&name) {
            Some(entry) => self.mark(&name, entry),
            None => drop(self.others.insert(name)),
        }
    }

    /// The entry gets another age, or goes.
    pub(super) const fn ages(&mut self, entry: &Entry) {
        self.is_stale |= entry.marked == self.turn;
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.known.is_empty() && self.others.is_empty()
    }

    /// All of them, the oldest first, and by their names where ages are the same. None is marked
    /// from now on.
    pub(super) fn take(&mut self, services: &HashMap<SharedName, Entry>) -> Vec<SharedName> {
        let mut aged = std::mem::take(&mut self.known);
        if self.is_stale {
            aged.iter_mut().for_each(|(age, name)| *age = age_of(name, services));
        }
        let others = std::mem::take(&mut self.others).into_iter();
        aged.extend(others.map(|name| (age_of(&name, services), name)));
        *self = Self { turn: self.turn + 1, ..Self::default() };
        aged.sort_unstable();
        aged.dedup();
        aged.into_iter().map(|(_, name)| name).collect()
    }
}

/// The age of a Service; unknown ones are the youngest.
pub(super) fn age_of(name: &SharedName, services: &HashMap<SharedName, Entry>) -> Age {
    services.get(name).map(|entry| entry.age).unwrap_or_default()
}
