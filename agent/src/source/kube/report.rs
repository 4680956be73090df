//! What people are told about a watch: its own state, and the objects it could not read.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use tracing::{debug, info, warn};

use super::decode::Undecodable;
use super::failure::Failure;
use crate::source::{Event, Kind, ObjectName};

/// The same trouble is logged this often at most; in between it is a condition and a debug line.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// Undecodable objects named one by one, of each kind. A schema change can make all of them
/// undecodable, and a hundred names say as much as a hundred thousand.
const UNDECODABLE_MAX_OBJECTS: usize = 100;

/// Conditions of one watch.
pub(super) struct Report {
    kind: Kind,
    key: String,
    message: Option<String>,
    logged: Option<Instant>,
    /// Objects that cannot be read, and whether the list under way named them again.
    undecodable: BTreeMap<ObjectName, bool>,
}

impl Report {
    /// Nothing to report yet.
    pub fn new(kind: Kind) -> Self {
        let key = format!("watch {kind}s");
        Self { kind, key, message: None, logged: None, undecodable: BTreeMap::new() }
    }

    /// A list or watch failed.
    pub fn failed(&mut self, what: &str, failure: &Failure) -> Option<Event> {
        let message = format!(
            "cannot {what} {}s: {}; what was known last stays in force and new changes are not \
             seen; {}",
            self.kind,
            failure.describe(),
            failure.remedy()
        );
        let overdue = self.logged.is_none_or(|at| at.elapsed() >= LOG_INTERVAL);
        if overdue {
            self.logged = Some(Instant::now());
            warn!(watch = %self.key, "{message}");
        } else {
            debug!(watch = %self.key, "{message}");
        }
        if self.message.as_ref() == Some(&message) {
            return None;
        }
        self.message = Some(message.clone());
        Some(Event::Condition { key: self.key.clone(), message: Some(message) })
    }

    /// It works (again).
    pub fn works(&mut self) -> Option<Event> {
        self.message.take()?;
        info!(watch = %self.key, "works again");
        Some(Event::Condition { key: self.key.clone(), message: None })
    }

    /// An object could not be read.
    pub fn bad_object(&mut self, object: Undecodable) -> Option<Event> {
        let Undecodable { name, error } = object;
        let known = self.undecodable.contains_key(&name);
        if !known && self.undecodable.len() >= UNDECODABLE_MAX_OBJECTS {
            debug!(kind = %self.kind, object = %name, %error, "undecodable object, one of many");
            return None;
        }
        if !known {
            warn!(kind = %self.kind, object = %name, %error, "undecodable object");
        }
        self.undecodable.insert(name.clone(), true);
        let message = format!(
            "cannot be read, so this change of it is not in force: {error}; correct the object, or \
             use an agent that knows this API version"
        );
        Some(Event::Condition { key: self.object_key(&name), message: Some(message) })
    }

    /// An object is readable, or gone.
    pub fn good_object(&mut self, name: &ObjectName) -> Option<Event> {
        // Almost always empty: then no look-up, no key.
        if self.undecodable.is_empty() {
            return None;
        }
        self.undecodable.remove(name)?;
        Some(Event::Condition { key: self.object_key(name), message: None })
    }

    /// A full list begins.
    pub fn list_begins(&mut self) {
        for seen in self.undecodable.values_mut() {
            *seen = false;
        }
    }

    /// A full list is complete: undecodable objects that it did not name are gone.
    pub fn list_complete(&mut self) -> Vec<Event> {
        let gone: Vec<_> = self.undecodable.extract_if(.., |_, seen| !*seen).collect();
        let clear = |(name, _)| Event::Condition { key: self.object_key(&name), message: None };
        gone.into_iter().map(clear).collect()
    }

    fn object_key(&self, name: &ObjectName) -> String {
        if name.name.is_empty() {
            return format!("{} without a name", self.kind);
        }
        format!("{} {name}", self.kind)
    }
}
