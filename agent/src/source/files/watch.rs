//! Following the directory, on a thread of its own: files block, and big ones take seconds to read.
//!
//! inotify says that something happened and whether a file is still being written; a look at the
//! whole directory then says what. The same look, once in a while, finds what inotify cannot see:
//! edits behind symbolic links, network file systems, a directory replaced by another.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};
use std::{fs, io};

use anyhow::{Context, Result, anyhow};
use notify::event::{AccessKind, AccessMode, CreateKind, ModifyKind, RenameMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::{mpsc::Sender, oneshot};
use tracing::debug;

use super::parse::{Format, Problem, parse};
use super::scan::{self, Found, Signature};
use super::store::Store;
use crate::source::{Event, Kind};

/// Changes this close together are looked at together.
const COALESCE: Duration = Duration::from_millis(20);
/// The directory is looked at this often even if inotify says nothing.
const POLL: Duration = Duration::from_secs(2);
/// A file that is being written and not closed is read after so long without a write; a file that
/// became empty is believed after so long.
const SETTLE: Duration = Duration::from_secs(1);
/// A file that vanished is believed gone after so long: editors rename the old one away before they
/// write the new one.
const GONE: Duration = Duration::from_millis(100);
/// inotify's words that wait to be heard. More than that are dropped: the look at the directory
/// that is due then finds what they were about.
const NOTICES: usize = 4096;

/// Follow the manifests in `dir`. Fails at once if the directory cannot be read; whatever happens
/// later is reported in [`Event::Condition`]s. Returns when the receiver is gone.
pub async fn watch(dir: PathBuf, sender: Sender<Event>) -> Result<()> {
    fs::read_dir(&dir).with_context(|| {
        format!("read the directory of manifests {}: create it, or name another one", dir.display())
    })?;
    // Not tokio's blocking threads: the runtime would wait for them when the agent stops.
    let (done, end) = oneshot::channel();
    std::thread::Builder::new()
        .name("manifests".into())
        .spawn(move || {
            Follower::new(dir, sender).run(&done);
            // Fails if nobody waits any more.
            let _ = done.send(());
        })
        .context("start the thread that follows the directory of manifests")?;
    end.await.map_err(|_| anyhow!("the thread that follows the directory of manifests died"))
}

/// Nobody listens any more.
struct Closed;

/// What came of reading a file.
enum Reading {
    /// It was read, and understood or reported.
    Taken,
    /// It could not be read: try again.
    Failed,
    /// It changed while it was read: nothing of it was taken.
    Unfinished,
}

/// State of the thread.
struct Follower {
    dir: PathBuf,
    sender: Sender<Event>,
    store: Store,
    /// Files that were read, as they were then; none: it could not be read and is tried again.
    seen: BTreeMap<String, Option<Signature>>,
    /// Something happened during the last look.
    heard: bool,
    /// Files opened for writing and not closed yet, since the last write.
    writing: HashMap<String, Instant>,
    /// Files that defined something and are empty, since when.
    emptied: HashMap<String, Instant>,
    /// Files that are no longer there, since when.
    vanished: HashMap<String, Instant>,
    notices: Receiver<notify::Event>,
    notices_sender: SyncSender<notify::Event>,
    /// inotify's watch, and the directory it is on.
    inotify: Option<(RecommendedWatcher, (u64, u64))>,
}

impl Follower {
    fn new(dir: PathBuf, sender: Sender<Event>) -> Self {
        let (notices_sender, notices) = sync_channel(NOTICES);
        Self {
            dir,
            sender,
            store: Store::default(),
            seen: BTreeMap::new(),
            heard: false,
            writing: HashMap::new(),
            emptied: HashMap::new(),
            vanished: HashMap::new(),
            notices,
            notices_sender,
            inotify: None,
        }
    }

    /// Until the receiver, or whoever waits for the thread, is gone.
    fn run(mut self, done: &oneshot::Sender<()>) {
        let Ok(mut wake) = self.first_look() else { return };
        while !done.is_closed() && !self.sender.is_closed() {
            self.wait(wake);
            match self.look() {
                Ok(next) => wake = next,
                Err(Closed) => return,
            }
        }
    }

    fn first_look(&mut self) -> Result<Instant, Closed> {
        for kind in Kind::ALL {
            self.send(Event::Begin(kind))?;
        }
        let wake = self.look()?;
        for kind in Kind::ALL {
            self.send(Event::Complete(kind))?;
        }
        Ok(wake)
    }

    /// Wait until something happened and the burst it began is over, or until `wake`.
    fn wait(&mut self, wake: Instant) {
        let mut until = wake;
        let mut burst = std::mem::take(&mut self.heard);
        if burst {
            until = until.min(Instant::now() + COALESCE);
        }
        loop {
            let left = until.saturating_duration_since(Instant::now());
            // A stream of notices that never ends must not keep us from looking.
            if left.is_zero() {
                return;
            }
            // Disconnected cannot be: we hold a sender.
            let Ok(notice) = self.notices.recv_timeout(left) else { return };
            if self.note(&notice) && !burst {
                burst = true;
                until = until.min(Instant::now() + COALESCE);
            }
        }
    }

    /// Hear what has been said so far, without waiting.
    fn listen(&mut self) {
        for _ in 0..NOTICES {
            let Ok(notice) = self.notices.try_recv() else { return };
            self.heard |= self.note(&notice);
        }
    }

    /// Take one notice; whether it is a reason to look.
    fn note(&mut self, notice: &notify::Event) -> bool {
        let name = notice.paths.last().and_then(|path| path.file_name()?.to_str());
        let name = name.filter(|name| Format::of(name).is_some()).map(str::to_owned);
        match notice.kind {
            // Our own reading, among others.
            EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write) => {
                return false;
            }
            EventKind::Access(_) | EventKind::Modify(ModifyKind::Name(RenameMode::To)) => {
                name.map(|name| self.writing.remove(&name));
            }
            EventKind::Modify(ModifyKind::Data(_)) | EventKind::Create(CreateKind::File) => {
                // A link is complete as soon as it is there, and nobody writes to it.
                let file = name.filter(|name| !self.dir.join(name).is_symlink());
                file.map(|name| self.writing.insert(name, Instant::now()));
            }
            _ => {}
        }
        true
    }

    /// Look at the directory, read what changed, tell it. When to look again.
    fn look(&mut self) -> Result<Instant, Closed> {
        let now = Instant::now();
        let mut wake = now + POLL;
        self.attach();
        let key = format!("directory {}", self.dir.display());
        let found = match scan::manifests(&self.dir) {
            Ok(found) => found,
            Err(error) => {
                let message = format!(
                    "cannot be read: {error}; what its files said last stays in force; restore it"
                );
                self.store.say(key, message);
                self.flush()?;
                return Ok(wake);
            }
        };
        self.store.unsay(&key);
        self.forget(&found, now, &mut wake);
        // The last file may have gone.
        self.flush()?;
        for (name, found) in found {
            self.vanished.remove(&name);
            self.examine(name, found, now, &mut wake);
            self.flush()?;
        }
        while let Some(name) = self.store.next_reread() {
            self.read(&name);
            self.flush()?;
        }
        Ok(wake)
    }

    /// Let go of files that are no longer there.
    fn forget(&mut self, found: &BTreeMap<String, Found>, now: Instant, wake: &mut Instant) {
        self.writing.retain(|name, _| found.contains_key(name));
        self.emptied.retain(|name, _| found.contains_key(name));
        let missing = self.seen.keys().filter(|name| !found.contains_key(*name));
        for name in missing.cloned().collect::<Vec<_>>() {
            let due = *self.vanished.entry(name.clone()).or_insert(now) + GONE;
            if now < due {
                *wake = due.min(*wake);
                continue;
            }
            self.vanished.remove(&name);
            self.seen.remove(&name);
            self.store.file_removed(&name);
        }
    }

    /// Read the file if it changed and is complete, as far as one can tell.
    fn examine(&mut self, name: String, found: Found, now: Instant, wake: &mut Instant) {
        let signature = match found {
            Ok(signature) => signature,
            Err(error) => {
                self.seen.insert(name.clone(), None);
                return self.unreadable(&name, &error);
            }
        };
        if self.seen.get(&name) == Some(&Some(signature)) {
            // Written, but with nothing new; or emptied and restored in time.
            self.emptied.remove(&name);
            return;
        }
        if let Some(due) = self.too_early(&name, &signature, now) {
            *wake = due.min(*wake);
            return;
        }
        self.writing.remove(&name);
        self.emptied.remove(&name);
        let read = match self.read(&name) {
            Reading::Taken => Some(signature),
            Reading::Failed => None,
            // What is due next is the word that it is complete; if that is lost, this.
            Reading::Unfinished => {
                *wake = (now + SETTLE).min(*wake);
                return;
            }
        };
        self.seen.insert(name, read);
    }

    /// When to look at this file again, if it is not to be believed yet.
    fn too_early(&mut self, name: &str, signature: &Signature, now: Instant) -> Option<Instant> {
        let mut due = self.writing.get(name).map(|last_write| *last_write + SETTLE);
        if signature.size_bytes == 0 && self.store.defines_objects(name) {
            let since = *self.emptied.entry(name.to_owned()).or_insert(now);
            due = due.max(Some(since + SETTLE));
        }
        due.filter(|due| now < *due)
    }

    /// Read a file and take what it says.
    fn read(&mut self, name: &str) -> Reading {
        let path = self.dir.join(name);
        let before = Signature::of(&path);
        let bytes = match scan::read(&path) {
            Ok(bytes) => bytes,
            // Gone since: the next look says so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Reading::Unfinished,
            Err(error) => {
                self.unreadable(name, &error);
                return Reading::Failed;
            }
        };
        self.listen();
        let unchanged = matches!((&before, Signature::of(&path)), (Ok(a), Ok(b)) if *a == b);
        if !unchanged || self.writing.contains_key(name) {
            return Reading::Unfinished;
        }
        let Some(format) = Format::of(name) else { return Reading::Taken };
        match parse(format, &bytes) {
            Ok(parsed) => {
                let (objects, ignored) = (parsed.objects.len(), parsed.ignored_count);
                debug!(file = name, objects, ignored, problems = parsed.problems.len(), "read");
                self.store.file_read(name, parsed);
            }
            Err(problem) => self.store.file_failed(name, &problem),
        }
        Reading::Taken
    }

    fn unreadable(&mut self, name: &str, error: &io::Error) {
        let message = format!("cannot be read: {error}");
        self.store.file_failed(name, &Problem { line: None, object: None, message });
    }

    /// Put inotify on the directory, again if it is another one by now.
    fn attach(&mut self) {
        let Ok(identity) = scan::identity(&self.dir) else { return };
        if self.inotify.as_ref().is_some_and(|(_, watched)| *watched == identity) {
            return;
        }
        let key = format!("watch of {}", self.dir.display());
        self.inotify = None;
        match inotify(&self.dir, self.notices_sender.clone()) {
            Ok(watcher) => {
                self.inotify = Some((watcher, identity));
                self.store.unsay(&key);
            }
            Err(error) => {
                let message = format!(
                    "inotify does not work: {error}; changes are seen after up to {} s; raise \
                     fs.inotify.max_user_watches or max_user_instances",
                    POLL.as_secs()
                );
                self.store.say(key, message);
            }
        }
    }

    fn flush(&mut self) -> Result<(), Closed> {
        self.store.drain().into_iter().try_for_each(|event| self.send(event))
    }

    fn send(&self, event: Event) -> Result<(), Closed> {
        self.sender.blocking_send(event).map_err(|_| Closed)
    }
}

fn inotify(dir: &Path, notices: SyncSender<notify::Event>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |notice: notify::Result<notify::Event>| {
        // An error (a queue that overflowed, say) is a reason to look, too. If the queue is full,
        // there is one already.
        let _ = notices.try_send(notice.unwrap_or_else(|_| notify::Event::new(EventKind::Other)));
    })?;
    watcher.watch(dir, RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
