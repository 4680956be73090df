//! A source's events folded into what they say: mark and sweep, nothing more.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use millrace::source::{Event, Kind, Object, ObjectName};
use tokio::sync::mpsc::Receiver;
use tokio::time::{Instant, timeout_at};

/// Events that are remembered word by word.
const LOG_EVENTS: usize = 100_000;

/// What a listener believes, and how it came to that.
pub struct Fold {
    receiver: Receiver<Event>,
    /// Objects.
    pub objects: BTreeMap<(Kind, ObjectName), Object>,
    /// Conditions in force.
    pub conditions: BTreeMap<String, String>,
    /// Kinds whose first list is complete.
    pub complete: BTreeSet<Kind>,
    /// Events in short: `begin Service`, `apply Service n/a`, `delete ...`, `complete ...`.
    pub log: Vec<String>,
    /// What a list under way has not named yet.
    marked: BTreeMap<Kind, BTreeSet<ObjectName>>,
}

impl Fold {
    /// Listen to a source.
    pub fn new(receiver: Receiver<Event>) -> Self {
        Self {
            receiver,
            objects: BTreeMap::new(),
            conditions: BTreeMap::new(),
            complete: BTreeSet::new(),
            log: Vec::new(),
            marked: BTreeMap::new(),
        }
    }

    /// Take events until `done` holds; an error after `limit`.
    pub async fn until(
        &mut self,
        what: &str,
        limit: Duration,
        done: impl Fn(&Self) -> bool,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        while !done(self) {
            let next = timeout_at(deadline, self.receiver.recv()).await;
            match next.with_context(|| format!("{what}: not within {limit:?}: {self:#?}"))? {
                Some(event) => self.take(event),
                None => bail!("{what}: the source ended"),
            }
        }
        Ok(())
    }

    /// Take what comes within `time`.
    pub async fn during(&mut self, time: Duration) {
        let deadline = Instant::now() + time;
        while let Ok(Some(event)) = timeout_at(deadline, self.receiver.recv()).await {
            self.take(event);
        }
    }

    /// Names of all objects of a kind.
    pub fn names(&self, kind: Kind) -> Vec<String> {
        let of_kind = self.objects.keys().filter(|(other, _)| *other == kind);
        of_kind.map(|(_, name)| name.to_string()).collect()
    }

    /// Events in the log that begin with these words.
    pub fn count(&self, words: &str) -> usize {
        let begins = |line: &&String| {
            let rest = line.strip_prefix(words);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
        };
        self.log.iter().filter(begins).count()
    }

    fn take(&mut self, event: Event) {
        let line = match event {
            Event::Begin(kind) => {
                let known = self.objects.keys().filter(|(other, _)| *other == kind);
                let names = known.map(|(_, name)| name.clone()).collect();
                self.marked.insert(kind, names);
                format!("begin {kind}")
            }
            Event::Apply(object) => {
                let (kind, name) = (object.kind(), object.name());
                if let Some(marked) = self.marked.get_mut(&kind) {
                    marked.remove(&name);
                }
                let line = format!("apply {kind} {name}");
                self.objects.insert((kind, name), object);
                line
            }
            Event::Delete(kind, name) => {
                let line = format!("delete {kind} {name}");
                self.objects.remove(&(kind, name));
                line
            }
            Event::Keep(kind, name) => {
                if let Some(marked) = self.marked.get_mut(&kind) {
                    marked.remove(&name);
                }
                format!("keep {kind} {name}")
            }
            Event::Complete(kind) => {
                for name in self.marked.remove(&kind).unwrap_or_default() {
                    self.objects.remove(&(kind, name));
                }
                self.complete.insert(kind);
                format!("complete {kind}")
            }
            Event::Condition { key, message: Some(message) } => {
                let line = format!("condition {key}: {message}");
                self.conditions.insert(key, message);
                line
            }
            Event::Condition { key, message: None } => {
                self.conditions.remove(&key);
                format!("clear {key}")
            }
        };
        if self.log.len() < LOG_EVENTS {
            self.log.push(line);
        }
    }
}

impl std::fmt::Debug for Fold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let recent = &self.log[self.log.len().saturating_sub(20)..];
        f.debug_struct("Fold")
            .field("objects", &self.objects.len())
            .field("conditions", &self.conditions)
            .field("recent events", &recent)
            .finish_non_exhaustive()
    }
}
