//! Which file's word counts for which object. Pure: files' contents in, events out.
//!
//! The content of an object is remembered as a hash: enough to tell whether it changed, at a
//! fraction of its size. When a file that came first lets go of an object, the next file that has
//! it is read again.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use super::parse::{Parsed, Problem};
use crate::source::{Event, Kind, Object, ObjectName};

/// Problems of one file that are reported one by one.
const PROBLEMS_MAX_PER_FILE: usize = 100;

type Key = Arc<(Kind, ObjectName)>;

/// An object and the files that define it.
#[derive(Default)]
struct Entry {
    /// Files in the order of their names, and the hash of what they say. The first one counts.
    claims: Vec<(Arc<str>, u64)>,
    /// Hash of what was sent; none: nothing yet.
    sent: Option<u64>,
}

/// A file that was read at least once.
#[derive(Default)]
struct FileRecord {
    keys: HashSet<Key>,
    /// Keys of its conditions.
    conditions: BTreeSet<String>,
}

/// Everything known about the directory's objects.
#[derive(Default)]
pub(super) struct Store {
    files: BTreeMap<Arc<str>, FileRecord>,
    entries: HashMap<Key, Entry>,
    conditions: BTreeMap<String, String>,
    /// Events since the last [`Self::drain`]. Deletions come last.
    events: Vec<Event>,
    deletions: Vec<Event>,
    /// Files whose definition of an object counts from now on, and so has to be read again.
    reread: BTreeSet<Arc<str>>,
}

impl Store {
    /// Does this file define anything?
    pub fn defines_objects(&self, file: &str) -> bool {
        self.files.get(file).is_some_and(|record| !record.keys.is_empty())
    }

    /// Events since the last call, in an order in which they can be applied.
    pub fn drain(&mut self) -> Vec<Event> {
        let mut events = std::mem::take(&mut self.events);
        events.append(&mut self.deletions);
        events
    }

    /// A file that has to be read again though it did not change.
    pub fn next_reread(&mut self) -> Option<Arc<str>> {
        self.reread.pop_first()
    }

    /// A file could not be read or understood: what it said last stays in force.
    pub fn file_failed(&mut self, file: &str, problem: &Problem) {
        let place = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let message = format!(
            "{place}{}; the file's last good state stays in force; correct the file",
            problem.message
        );
        let key = format!("file {file}");
        let name = self.record(file);
        if let Some(record) = self.files.get_mut(&name) {
            record.conditions.insert(key.clone());
        }
        self.say(key, message);
    }

    /// A file says this.
    pub fn file_read(&mut self, file: &str, parsed: Parsed) {
        let name = self.record(file);
        let mut record = self.files.remove(&name).unwrap_or_default();
        let old_keys = std::mem::take(&mut record.keys);
        let old_conditions = std::mem::take(&mut record.conditions);
        let mut problems = parsed.problems;
        for (line, object) in parsed.objects {
            let key = self.key(&object);
            if !record.keys.insert(key.clone()) {
                let message = "defined twice in this file: the first one counts; remove one".into();
                let object = Some((*key).clone());
                problems.push(Problem { line: Some(line), object, message });
                continue;
            }
            self.claim(&name, &key, object);
        }
        // An object that cannot be read keeps its last good state. If it is not even known which
        // one it is, that may be any of those that are missing now.
        let nameless = problems.iter().any(|problem| problem.object.is_none());
        let bad: HashSet<_> = problems.iter().filter_map(|p| p.object.as_ref()).collect();
        let missing = old_keys.into_iter().filter(|key| !record.keys.contains(key));
        let (kept, gone): (Vec<_>, Vec<_>) =
            missing.partition(|key| nameless || bad.contains(&**key));
        record.keys.extend(kept);
        for key in gone {
            self.release(&name, &key);
        }
        self.report(&name, &problems, &mut record.conditions);
        for key in old_conditions.difference(&record.conditions) {
            self.unsay(key);
        }
        self.files.insert(name, record);
    }

    /// A file is gone.
    pub fn file_removed(&mut self, file: &str) {
        let Some((name, record)) = self.files.remove_entry(file) else { return };
        self.reread.remove(&name);
        for key in record.keys {
            self.release(&name, &key);
        }
        for key in record.conditions {
            self.unsay(&key);
        }
    }

    /// Something is wrong.
    pub fn say(&mut self, key: String, message: String) {
        if self.conditions.get(&key) == Some(&message) {
            return;
        }
        self.conditions.insert(key.clone(), message.clone());
        tracing::warn!("{key}: {message}");
        self.events.push(Event::Condition { key, message: Some(message) });
    }

    /// It no longer is.
    pub fn unsay(&mut self, key: &str) {
        if self.conditions.remove(key).is_some() {
            self.events.push(Event::Condition { key: key.to_owned(), message: None });
        }
    }

    fn record(&mut self, file: &str) -> Arc<str> {
        if let Some((name, _)) = self.files.get_key_value(file) {
            return name.clone();
        }
        let name: Arc<str> = file.into();
        self.files.insert(name.clone(), FileRecord::default());
        name
    }

    /// The object's key, shared with whoever has it already.
    fn key(&self, object: &Object) -> Key {
        let key = (object.kind(), object.name());
        match self.entries.get_key_value(&key) {
            Some((key, _)) => key.clone(),
            None => Arc::new(key),
        }
    }

    fn claim(&mut self, file: &Arc<str>, key: &Key, object: Object) {
        let hash = hash(&object);
        let entry = self.entries.entry(key.clone()).or_default();
        match entry.claims.binary_search_by(|(other, _)| other.cmp(file)) {
            Ok(at) => entry.claims[at].1 = hash,
            Err(at) => entry.claims.insert(at, (file.clone(), hash)),
        }
        if entry.claims[0].0 == *file && entry.sent != Some(hash) {
            entry.sent = Some(hash);
            self.events.push(Event::Apply(object));
        }
        self.report_duplicates(key);
    }

    fn release(&mut self, file: &Arc<str>, key: &Key) {
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.claims.retain(|(other, _)| other != file);
        if let Some((first, hash)) = entry.claims.first() {
            // Else it says what is in force already.
            if entry.sent != Some(*hash) {
                self.reread.insert(first.clone());
            }
            self.unsay(&duplicate_key(file, key));
            self.report_duplicates(key);
            return;
        }
        if entry.sent.is_some() {
            self.deletions.push(Event::Delete(key.0, key.1.clone()));
        }
        self.entries.remove(key);
    }

    fn report_duplicates(&mut self, key: &Key) {
        let Some(entry) = self.entries.get(key) else { return };
        if entry.claims.len() == 1 {
            // Most objects never had a rival: then this finds nothing, but costs a string.
            if !self.conditions.is_empty() {
                self.unsay(&duplicate_key(&entry.claims[0].0.clone(), key));
            }
            return;
        }
        let files: Vec<_> = entry.claims.iter().map(|(file, _)| file.clone()).collect();
        for (at, file) in files.iter().enumerate() {
            let condition = duplicate_key(file, key);
            if at == 0 {
                self.unsay(&condition);
                continue;
            }
            let message = format!(
                "also defined in {}, which comes first and counts; remove one of them",
                files[0]
            );
            self.say(condition, message);
        }
    }

    fn report(&mut self, file: &str, problems: &[Problem], conditions: &mut BTreeSet<String>) {
        for (at, problem) in problems.iter().take(PROBLEMS_MAX_PER_FILE).enumerate() {
            let line = problem.line.unwrap_or_default();
            let (key, mut message) = match &problem.object {
                Some((kind, name)) => (
                    format!("file {file}: {kind} {name}"),
                    format!(
                        "line {line}: {}; the object's last good state stays in force",
                        problem.message
                    ),
                ),
                None => (format!("file {file}"), format!("line {line}: {}", problem.message)),
            };
            let rest = problems.len().saturating_sub(PROBLEMS_MAX_PER_FILE);
            if at + 1 == PROBLEMS_MAX_PER_FILE && rest > 0 {
                message.push_str(&format!("; and {rest} more problems in this file"));
            }
            // Of several under the same key, the first is said.
            if conditions.insert(key.clone()) {
                self.say(key, message);
            }
        }
    }
}

fn duplicate_key(file: &str, key: &Key) -> String {
    format!("file {file}: {} {}: duplicate", key.0, key.1)
}

fn hash(object: &Object) -> u64 {
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::super::parse::{Format, parse};
    use super::*;

    fn read(store: &mut Store, file: &str, text: &str) -> Vec<String> {
        match parse(Format::Yaml, text.as_bytes()) {
            Ok(parsed) => store.file_read(file, parsed),
            Err(problem) => store.file_failed(file, &problem),
        }
        said(store)
    }

    fn said(store: &mut Store) -> Vec<String> {
        let short = |event| match event {
            Event::Apply(Object::Service(service)) => {
                format!("+{} {}", service.metadata.name, service.spec.cluster_ip)
            }
            Event::Delete(_, name) => format!("-{}", name.name),
            Event::Condition { key, message: Some(_) } => format!("! {key}"),
            Event::Condition { key, message: None } => format!("ok {key}"),
            other => format!("{other:?}"),
        };
        store.drain().into_iter().map(short).collect()
    }

    fn service(name: &str, ip: &str) -> String {
        format!("---\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: {ip}}}\n")
    }

    #[test]
    fn only_changes_are_told() {
        let mut store = Store::default();
        let (a, b) = (service("a", "1.1.1.1"), service("b", "1.1.1.2"));
        assert_eq!(read(&mut store, "f", &format!("{a}{b}")), ["+a 1.1.1.1", "+b 1.1.1.2"]);
        assert!(read(&mut store, "f", &format!("{b}{a}")).is_empty());
        let c = service("c", "1.1.1.3");
        assert_eq!(read(&mut store, "f", &format!("{c}{b}")), ["+c 1.1.1.3", "-a"]);
        store.file_removed("f");
        let mut events = said(&mut store);
        events.sort();
        assert_eq!(events, ["-b", "-c"]);
        assert!(store.entries.is_empty() && store.files.is_empty());
    }

    #[test]
    fn what_is_bad_keeps_its_last_good_state() {
        let mut store = Store::default();
        let (a, b) = (service("a", "1.1.1.1"), service("b", "1.1.1.2"));
        read(&mut store, "f", &format!("{a}{b}"));
        assert_eq!(read(&mut store, "f", "kind: ["), ["! file f"]);
        assert!(read(&mut store, "f", "kind: [").is_empty());
        let bad = service("b", "[]");
        let events = read(&mut store, "f", &format!("{}{bad}", service("a", "1.1.1.9")));
        assert_eq!(events, ["+a 1.1.1.9", "! file f: Service default/b", "ok file f"]);
        // Nobody knows what this was: it may be `a`.
        let events = read(&mut store, "f", &format!("{b}---\nspec: {{}}\n"));
        assert_eq!(events, ["! file f", "ok file f: Service default/b"]);
        assert_eq!(read(&mut store, "f", &b), ["ok file f", "-a"]);
        assert_eq!(read(&mut store, "f", ""), ["-b"]);
    }

    #[test]
    fn the_first_file_counts() {
        let mut store = Store::default();
        assert_eq!(read(&mut store, "m", &service("a", "1.1.1.1")), ["+a 1.1.1.1"]);
        let duplicate = |file| format!("file {file}: Service default/a: duplicate");
        let events = read(&mut store, "z", &service("a", "1.1.1.2"));
        assert_eq!(events, [format!("! {}", duplicate("z"))]);
        let events = read(&mut store, "b", &service("a", "1.1.1.3"));
        let expect = ["+a 1.1.1.3".into(), format!("! {}", duplicate("m"))];
        assert_eq!(events[..2], expect);
        store.file_removed("b");
        assert_eq!(&*store.next_reread().unwrap(), "m");
        assert!(store.next_reread().is_none());
        assert_eq!(said(&mut store)[0], format!("ok {}", duplicate("m")));
        assert_eq!(read(&mut store, "m", &service("a", "1.1.1.1")), ["+a 1.1.1.1"]);
        assert_eq!(read(&mut store, "m", ""), [format!("ok {}", duplicate("z"))]);
        assert_eq!(&*store.next_reread().unwrap(), "z");
        assert_eq!(read(&mut store, "z", &service("a", "1.1.1.2")), ["+a 1.1.1.2"]);
        store.file_removed("z");
        assert_eq!(said(&mut store), ["-a"]);
        assert!(store.conditions.is_empty());
    }
}
