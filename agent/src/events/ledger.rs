//! What was said about which object, and what to say next. Pure: times come in.
//!
//! One entry per object and reason. Several notices of one entry become one note.

use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::time::Duration;

use super::object::NOTE_BYTES_MAX;
use super::{Notice, Scope};
use crate::source::{Kind, ObjectName};

/// About one object, for one reason, at most one write in so long.
pub const OBJECT_PAUSE: Duration = Duration::from_secs(600);
/// What goes on for so long is said again: Events are forgotten after an hour.
pub const REPEAT_AFTER: Duration = Duration::from_secs(1_800);
/// Writes that may come at once.
pub const BURST_WRITES: u32 = 32;
/// After that, one in so long.
pub const WRITE_INTERVAL: Duration = Duration::from_secs(2);
/// What every node sees alike is said by each at a time of its own within this: the first one says
/// it for all.
pub const SPREAD: Duration = Duration::from_secs(4);
/// Entries kept. What was mended is forgotten first.
pub const ENTRIES_MAX: usize = 2048;
/// Mended entries are remembered for so long, to tell a recurrence from something new.
pub const FORGET_AFTER: Duration = Duration::from_secs(3_600);

/// What an entry is about.
pub type Key = (Kind, ObjectName, &'static str);

/// Everything said and to be said.
pub struct Ledger {
    entries: BTreeMap<Key, Entry>,
    /// Single occurrences, in their order.
    once: VecDeque<Notice>,
    tokens: u32,
    refilled: Duration,
    /// When within [`SPREAD`] this node's turn is.
    turn: Duration,
}

struct Entry {
    notice: Notice,
    is_standing: bool,
    /// Not before this time.
    due: Duration,
    /// It was mended since it was said last.
    recurs: bool,
    said: Option<Said>,
    changed: Duration,
}

struct Said {
    note: String,
    /// The Event's name, if it is ours to repeat.
    event: Option<String>,
    count: u32,
    at: Duration,
}

/// Something to write.
#[derive(Clone, PartialEq, Debug)]
pub enum Say {
    /// A new Event.
    New(Notice, Option<Key>),
    /// The Event of that name was seen again, so many times in all.
    Again(Notice, Key, String, u32),
}

/// What became of it.
#[derive(Clone, PartialEq, Debug)]
pub enum Outcome {
    /// It is written; the Event's name.
    Written(String),
    /// Somebody else wrote it, or it will never be taken: no more about it.
    Settled,
    /// The Event that was to be repeated is gone.
    Forgotten,
}

impl Ledger {
    /// An empty one, for the node of that number.
    pub fn new(node: u64, now: Duration) -> Self {
        let spread = u64::try_from(SPREAD.as_millis()).unwrap_or(1).max(1);
        Self {
            entries: BTreeMap::new(),
            once: VecDeque::new(),
            tokens: BURST_WRITES,
            refilled: now,
            turn: Duration::from_millis(node % spread),
        }
    }

    /// Something happened. It is said as soon as there is a token.
    pub fn happened(&mut self, notice: Notice) {
        self.once.push_back(Notice { note: cut(notice.note, NOTE_BYTES_MAX), ..notice });
    }

    /// This and nothing else is wrong.
    pub fn stands(&mut self, notices: Vec<Notice>, now: Duration) {
        let mut merged: BTreeMap<Key, Vec<Notice>> = BTreeMap::new();
        for notice in notices {
            let object = &notice.regarding;
            let key = (object.kind, object.name.clone(), notice.reason);
            merged.entry(key).or_default().push(notice);
        }
        for (key, entry) in &mut self.entries {
            if entry.is_standing && !merged.contains_key(key) {
                entry.is_standing = false;
                entry.recurs = entry.said.is_some();
                entry.changed = now;
            }
        }
        self.forget(now);
        for (key, notices) in merged {
            self.stand(key, notices, now);
        }
    }

    fn stand(&mut self, key: Key, notices: Vec<Notice>, now: Duration) {
        let Some(notice) = merge(notices) else { return };
        if let Some(entry) = self.entries.get_mut(&key) {
            entry.is_standing = true;
            entry.notice = notice;
            return;
        }
        if self.entries.len() >= ENTRIES_MAX {
            // It is tried again with the next state.
            return;
        }
        let turn = if notice.scope == Scope::Cluster { self.turn } else { Duration::ZERO };
        let entry = Entry {
            notice,
            is_standing: true,
            due: now + turn,
            recurs: false,
            said: None,
            changed: now,
        };
        self.entries.insert(key, entry);
    }

    fn forget(&mut self, now: Duration) {
        let is_full = self.entries.len() >= ENTRIES_MAX;
        let old = |entry: &Entry| now.saturating_sub(entry.changed) >= FORGET_AFTER;
        self.entries.retain(|_, e| e.is_standing || (e.said.is_some() && !is_full && !old(e)));
    }

    /// What to say now; else how long there is nothing to say, if nothing changes.
    pub fn next(&mut self, now: Duration) -> Result<Say, Option<Duration>> {
        self.refill(now);
        let soonest = self.entries.values().filter_map(Entry::due).min();
        let due = if self.once.is_empty() { soonest } else { Some(now) };
        let Some(due) = due else { return Err(None) };
        if due > now {
            return Err(Some(due - now));
        }
        if self.tokens == 0 {
            return Err(Some((self.refilled + WRITE_INTERVAL).saturating_sub(now)));
        }
        self.tokens -= 1;
        if let Some(notice) = self.once.pop_front() {
            return Ok(Say::New(notice, None));
        }
        let found = self.entries.iter().find(|(_, entry)| entry.due() == soonest);
        found.map(|(key, entry)| entry.say(key)).ok_or(None)
    }

    fn refill(&mut self, now: Duration) {
        while self.tokens < BURST_WRITES && now.saturating_sub(self.refilled) >= WRITE_INTERVAL {
            self.tokens += 1;
            self.refilled += WRITE_INTERVAL;
        }
        if self.tokens == BURST_WRITES {
            self.refilled = now;
        }
    }

    /// What became of what [`next`](Self::next) gave.
    pub fn done(&mut self, say: Say, outcome: Outcome, now: Duration) {
        let (notice, key, count) = match say {
            Say::New(_, None) => return,
            Say::New(notice, Some(key)) => (notice, key, 1),
            Say::Again(notice, key, _, count) => (notice, key, count),
        };
        let Some(entry) = self.entries.get_mut(&key) else { return };
        entry.recurs = false;
        entry.due = now + OBJECT_PAUSE;
        entry.said = match outcome {
            Outcome::Written(event) => {
                Some(Said { note: notice.note, event: Some(event), count, at: now })
            }
            Outcome::Settled => Some(Said { note: notice.note, event: None, count, at: now }),
            Outcome::Forgotten => {
                entry.due = now;
                None
            }
        };
    }

    /// What [`next`](Self::next) gave could not be written now.
    pub fn failed(&mut self, say: Say, now: Duration, pause: Duration) {
        match say {
            Say::New(notice, None) => self.once.push_front(notice),
            Say::New(_, Some(key)) | Say::Again(_, key, ..) => {
                if let Some(entry) = self.entries.get_mut(&key) {
                    entry.due = now + pause;
                }
            }
        }
    }
}

impl Entry {
    /// When something is to be said about it, if at all.
    fn due(&self) -> Option<Duration> {
        if !self.is_standing {
            return None;
        }
        match &self.said {
            None => Some(self.due),
            Some(said) if self.recurs || said.note != self.notice.note => Some(self.due),
            // Another node's word, which that one repeats.
            Some(Said { event: None, .. }) => None,
            Some(said) => Some(self.due.max(said.at + REPEAT_AFTER)),
        }
    }

    fn say(&self, key: &Key) -> Say {
        match &self.said {
            Some(Said { note, event: Some(event), count, .. }) if *note == self.notice.note => {
                Say::Again(self.notice.clone(), key.clone(), event.clone(), count + 1)
            }
            _ => Say::New(self.notice.clone(), Some(key.clone())),
        }
    }
}

/// One notice that says what all of them say, as far as there is room.
fn merge(notices: Vec<Notice>) -> Option<Notice> {
    let count = notices.len();
    let mut notices = notices.into_iter();
    let mut merged = notices.next()?;
    let mut told = 1;
    for notice in notices {
        // Room for "; and 12345 more".
        if merged.note.len() + notice.note.len() + 24 > NOTE_BYTES_MAX {
            break;
        }
        merged.note.push_str("; ");
        merged.note.push_str(&notice.note);
        told += 1;
    }
    merged.note = cut(merged.note, NOTE_BYTES_MAX - 24);
    if count > told {
        let _ = write!(merged.note, "; and {} more", count - told);
    }
    Some(merged)
}

/// The text, cut to so many bytes.
fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes - 3));
        text.push_str("...");
    }
    text
}
