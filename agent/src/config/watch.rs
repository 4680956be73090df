//! Following the configuration file, on a thread of its own.
//!
//! inotify on the file's directory says when to look: a ConfigMap's mount replaces the link
//! `..data` there, editors rename. What counts is what the file then says; it is also read once in
//! a while, since inotify does not see what happens behind links, or on network file systems.

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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// How long a change may take to be heard of: [`POLL`] and [`SETTLE`], on a busy machine.
    const HEARD: Duration = Duration::from_secs(20);
    const HEAD: &str =
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";

    fn next(reloads: &mut tokio::sync::mpsc::Receiver<Reloaded>) -> Reloaded {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let next = runtime.block_on(async { tokio::time::timeout(HEARD, reloads.recv()).await });
        next.expect("a change is heard of").expect("the file is followed")
    }

    fn masquerades(reloaded: Reloaded) -> bool {
        match reloaded {
            Reloaded::Good(effective, _) => effective.policy.masquerade_all,
            Reloaded::Bad(why) => panic!("{why}"),
        }
    }

    fn why(reloaded: Reloaded) -> String {
        match reloaded {
            Reloaded::Good(effective, _) => panic!("{effective:?}"),
            Reloaded::Bad(why) => why,
        }
    }

    #[test]
    fn every_way_to_change_a_file_is_seen() {
        let directory = std::env::temp_dir().join(format!("millrace-watch-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let file = directory.join("config.conf");
        let all = |yes: bool| format!("{HEAD}iptables:\n  masqueradeAll: {yes}\n");
        fs::write(&file, all(false)).unwrap();
        let recipe = Recipe { path: Some(file.clone()), flags: Vec::new() };
        let (sender, mut reloads) = tokio::sync::mpsc::channel(1);
        follow(recipe.clone(), recipe.read().unwrap(), sender).unwrap();
        // Written over; renamed over; replaced by a link whose target is replaced.
        fs::write(&file, all(true)).unwrap();
        assert!(masquerades(next(&mut reloads)));
        fs::write(directory.join("new"), all(false)).unwrap();
        fs::rename(directory.join("new"), &file).unwrap();
        assert!(!masquerades(next(&mut reloads)));
        for (version, yes) in [("..1", true), ("..2", false)] {
            fs::create_dir_all(directory.join(version)).unwrap();
            fs::write(directory.join(version).join("config.conf"), all(yes)).unwrap();
            symlink(version, directory.join("..data_tmp")).unwrap();
            fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
            if yes {
                symlink("..data/config.conf", directory.join("link")).unwrap();
                fs::rename(directory.join("link"), &file).unwrap();
            }
            assert_eq!(masquerades(next(&mut reloads)), yes);
        }
        // Broken, gone, and as it was.
        fs::remove_file(&file).unwrap();
        assert!(why(next(&mut reloads)).contains("read the configuration"));
        fs::write(&file, "mode: [").unwrap();
        assert!(why(next(&mut reloads)).contains("not YAML"));
        fs::write(&file, all(false)).unwrap();
        assert!(!masquerades(next(&mut reloads)));
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn a_file_that_is_too_large_is_refused() {
        let name = format!("millrace-large-{}", std::process::id());
        let file = std::env::temp_dir().join(name);
        fs::write(&file, vec![b'#'; (1 << 20) + 1]).unwrap();
        let recipe = Recipe { path: Some(file.clone()), flags: Vec::new() };
        let error = recipe.read().unwrap_err().to_string();
        fs::remove_file(&file).unwrap();
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }
}
