//! Sets of zones that endpoints are hinted for, each kept once.

use std::sync::Arc;

use crate::hash::HashMap;
use crate::source::slim::Hint;

/// A set of zones; 0 is the empty one: no hint.
pub(super) type ZoneSet = u16;

/// Sets that are kept. There are as many as a cluster has zones, and a few combinations.
const SETS_MAX: usize = 4096;
/// Zones of one set; the API allows 8.
const SET_ZONES_MAX: usize = 64;
/// Bytes of a zone's name: those of a label's value. No node is in a zone with a longer one.
const ZONE_BYTES_MAX: usize = 63;

/// All sets ever seen; they are never forgotten, hence the bounds.
pub(super) struct Zones {
    sets: Vec<Arc<[Box<str>]>>,
    index: HashMap<Arc<[Box<str>]>, ZoneSet>,
}

impl Zones {
    pub(super) fn new() -> Self {
        let none: Arc<[Box<str>]> = Arc::new([]);
        Self { sets: vec![Arc::clone(&none)], index: HashMap::from_iter([(none, 0)]) }
    }

    /// The set of these hints; nothing if there is no room for another.
    pub(super) fn intern(&mut self, hints: &[Hint]) -> Option<ZoneSet> {
        if hints.is_empty() {
            return Some(0);
        }
        let too_long = hints.iter().any(|hint| hint.name.len() > ZONE_BYTES_MAX);
        if hints.len() > SET_ZONES_MAX || too_long {
            return None;
        }
        let mut names: Vec<Box<str>> = hints.iter().map(|hint| hint.name.as_str().into()).collect();
        names.sort_unstable();
        names.dedup();
        if let Some(set) = self.index.get(names.as_slice()) {
            return Some(*set);
        }
        if self.sets.len() >= SETS_MAX {
            return None;
        }
        let set = ZoneSet::try_from(self.sets.len()).ok()?;
        let names: Arc<[Box<str>]> = names.into();
        self.sets.push(Arc::clone(&names));
        self.index.insert(names, set);
        Some(set)
    }

    /// Whether the zone is in the set.
    pub(super) fn contains(&self, set: ZoneSet, zone: &str) -> bool {
        let names = self.sets.get(usize::from(set));
        names.is_some_and(|names| names.iter().any(|name| **name == *zone))
    }
}
