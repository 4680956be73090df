//! Following the configuration file, on a thread of its own.
//!
//! inotify on the file's directory says when to look: a ConfigMap's mount replaces the link
//! `..data` there, editors rename. What counts is what the file then says; it is also read once in a
//! while, since inotify does not see what happens behind links, or on network file systems.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context, Result};
use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc::Sender;

use super::effective::Effective;
use super::file::Recipe;
use super::finding::Findings;

/// The file is read this often even if inotify says nothing.
const POLL: Duration = Duration::from_secs(2);
/// A file is believed when it has said the same for so long: it may be in the middle of being
/// written.
const SETTLE: Duration = Duration::from_millis(100);
/// Looks at a file that changes all the time, before it is believed all the same.
const SETTLE_LOOKS: usize = 20;
/// inotify's words that wait to be heard; one is a reason to look.
const NOTICES: usize = 16;

/// The file says something else.
#[derive(Debug)]
pub enum Reloaded {
    /// A configuration that can be used, and what is to be said about it.
    Good(Box<Effective>, Findings),
    /// None: why.
    Bad(String),
}

/// What the file says, or why it cannot be read.
type Text = std::result::Result<String, String>;

/// Follow the file of a recipe, which said `text` at the start, until nobody listens. Without a
/// file there is nothing to follow.
pub fn follow(recipe: Recipe, text: Option<String>, sender: Sender<Reloaded>) -> Result<()> {
    let (Some(path), Some(text)) = (recipe.path.clone(), text) else { return Ok(()) };
    let follower = Follower { recipe, path, said: Ok(text), sender };
    std::thread::Builder::new()
        .name("configuration".into())
        .spawn(move || follower.run())
        .context("start the thread that follows the configuration")?;
    Ok(())
}

struct Follower {
    recipe: Recipe,
    path: PathBuf,
    said: Text,
    sender: Sender<Reloaded>,
}

impl Follower {
    fn run(mut self) {
        let (notices_sender, notices) = sync_channel(NOTICES);
        // Held for as long as we look.
        let mut watcher = None;
        while !self.sender.is_closed() {
            if watcher.is_none() {
                watcher = inotify(&self.path, notices_sender.clone())
                    .inspect_err(|error| tracing::debug!("inotify on the configuration: {error}"))
                    .ok();
            }
            wait(&notices);
            let text = self.settled();
            if text == self.said {
                continue;
            }
            self.said = text;
            let reloaded = self.reload();
            if self.sender.blocking_send(reloaded).is_err() {
                return;
            }
        }
    }

    fn read(&self) -> Text {
        match self.recipe.read() {
            Ok(text) => Ok(text.unwrap_or_default()),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// What the file says when it has stopped changing.
    fn settled(&self) -> Text {
        let mut text = self.read();
        if text == self.said {
            return text;
        }
        for _ in 0..SETTLE_LOOKS {
            std::thread::sleep(SETTLE);
            let again = self.read();
            if again == text {
                break;
            }
            text = again;
        }
        text
    }

    fn reload(&self) -> Reloaded {
        let text = match &self.said {
            Ok(text) => text,
            Err(why) => return Reloaded::Bad(why.clone()),
        };
        match self.recipe.resolve(Some(text)) {
            Ok((Some(effective), findings)) => Reloaded::Good(Box::new(effective), findings),
            Ok((None, findings)) => Reloaded::Bad(findings.errors()),
            Err(error) => Reloaded::Bad(format!("{error:#}")),
        }
    }
}

/// Until something happened, or it is time to look anyway.
fn wait(notices: &Receiver<()>) {
    // Disconnected cannot be: the follower holds a sender.
    if notices.recv_timeout(POLL).is_ok() {
        // One look answers all that was said so far.
        while notices.try_recv().is_ok() {}
    }
}

fn inotify(path: &Path, notices: SyncSender<()>) -> notify::Result<RecommendedWatcher> {
    let mut watcher = notify::recommended_watcher(move |notice: notify::Result<notify::Event>| {
        let is_ours = matches!(&notice, Ok(notice) if notice.kind.is_access());
        if !is_ours {
            // If the queue is full, there is a reason to look already.
            let _ = notices.try_send(());
        }
    })?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    watcher.watch(directory.unwrap_or(Path::new(".")), RecursiveMode::NonRecursive)?;
    Ok(watcher)
}
