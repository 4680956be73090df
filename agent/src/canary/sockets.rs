//! Drives the helper: a thread that keeps one in the cgroup that is served, asks it to dial once a
//! second, and tells the loop what came of it.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use millrace_common::address::Family;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::CHECK_EVERY;
use super::helper::{Answer, Listening};
use super::rows::Ports;
use super::tally::{Check, Tally};
use crate::bpf::environment;
use crate::metrics::Metrics;

/// How long the helper may take to start, and to answer: it limits each of its steps itself.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How long to wait before another helper is started.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// How long an agent that stops waits for the helper to end.
const STOP_WAIT: Duration = Duration::from_millis(500);
/// How often it looks whether it has.
const STOP_POLL: Duration = Duration::from_millis(2);
/// Bytes of one of its lines.
const LINE_BYTES_MAX: u64 = 16 * 1024;
/// The helper's cgroup, below the one that is served.
const CGROUP: &str = "millrace-canary";
/// Id of cgroup2's root, which every process is below.
const ROOT_CGROUP_ID: u64 = 1;

/// What is known of the helper and of what it dialled.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct News {
    /// Where it listens; nothing: there is none yet.
    pub ports: Option<Ports>,
    /// Checks were made.
    pub checked: bool,
    /// What came of them.
    pub tally: Tally,
    /// Why there is no helper.
    pub trouble: Option<String>,
}

/// The thread.
pub struct Sockets {
    orders: Option<Sender<()>>,
    news: watch::Receiver<News>,
    thread: Option<JoinHandle<()>>,
    cgroup: PathBuf,
}

impl Sockets {
    /// Start a helper; it dials nothing before [`begin`](Self::begin).
    pub fn start(cgroup_root: &Path, metrics: Metrics) -> Result<Self> {
        let (orders, received) = channel();
        let (sender, news) = watch::channel(News::default());
        let cgroup = cgroup_root.join(CGROUP);
        let root = cgroup_root.to_owned();
        let thread = std::thread::Builder::new().name("canary".to_owned());
        let thread = thread
            .spawn(move || Driver { root, news: sender, metrics }.run(&received))
            .context("start the canary's thread")?;
        Ok(Self { orders: Some(orders), news, thread: Some(thread), cgroup })
    }

    /// Its rows are written and the programs attached: dial, now and again and again.
    pub fn begin(&self) {
        if let Some(orders) = &self.orders {
            // It ends only when we drop our end.
            let _ = orders.send(());
        }
    }

    /// Tells when something is new.
    pub fn news(&self) -> watch::Receiver<News> {
        self.news.clone()
    }

    /// End the helper and remove its cgroup.
    pub fn stop(&mut self) {
        self.orders = None;
        let Some(thread) = self.thread.take() else { return };
        let begun = Instant::now();
        // A helper that is in the middle of a check that fails would keep us; it ends with us.
        while !thread.is_finished() && begun.elapsed() < STOP_WAIT {
            std::thread::sleep(STOP_POLL);
        }
        let _ = fs::remove_dir(&self.cgroup);
    }
}

/// Remove what a helper of an agent that was killed has left.
pub fn remove_cgroup(cgroup_root: &Path) {
    // It is not there, mostly.
    let _ = fs::remove_dir(cgroup_root.join(CGROUP));
}

/// The thread's own.
struct Driver {
    root: PathBuf,
    news: watch::Sender<News>,
    metrics: Metrics,
}

/// A helper and our end of the line to it. It ends with the value.
struct Helper {
    child: Child,
    line: BufReader<UnixStream>,
    ports: Ports,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Gone already is as well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Driver {
    fn run(self, orders: &Receiver<()>) {
        let mut begun = false;
        loop {
            let trouble = match Helper::start(&self.root) {
                Ok(mut helper) => match self.drive(&mut helper, orders, &mut begun) {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            self.news.send_if_modified(|news| {
                let text = Some(format!("{trouble:#}"));
                let changed = news.trouble != text;
                // What nobody checks, nobody vouches for.
                (news.trouble, news.checked, news.tally) = (text, begun, Tally::default());
                changed
            });
            match orders.recv_timeout(RESTART_PAUSE) {
                Ok(()) => begun = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Ask again and again. Ends when the agent does; an error is the helper's.
    fn drive(&self, helper: &mut Helper, orders: &Receiver<()>, begun: &mut bool) -> Result<()> {
        self.news.send_if_modified(|news| {
            let changed = news.ports != Some(helper.ports) || news.trouble.is_some();
            news.ports = Some(helper.ports);
            news.trouble = None;
            changed
        });
        loop {
            match orders.recv_timeout(CHECK_EVERY) {
                Ok(()) => *begun = true,
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
            if !*begun {
                continue;
            }
            let checks = helper.check()?;
            self.metrics.canary_checked(&checks);
            self.news.send_if_modified(|news| {
                let before = (news.checked, news.tally.clone());
                news.checked = true;
                news.tally.record(checks);
                before != (true, news.tally.clone())
            });
        }
    }
}

impl Helper {
    /// Start it where its sockets are served. They are made when it is there: a socket belongs to
    /// the cgroup of whoever made it.
    fn start(root: &Path) -> Result<Self> {
        let (ours, theirs) = UnixStream::pair().context("make a pair of sockets")?;
        ours.set_read_timeout(Some(ANSWER_WAIT)).context("set a time limit")?;
        ours.set_write_timeout(Some(ANSWER_WAIT)).context("set a time limit")?;
        let output = theirs.try_clone().context("duplicate a socket")?;
        let child = Command::new("/proc/self/exe")
            .arg("canary")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::from(OwnedFd::from(output)))
            .spawn()
            .context("start the canary's helper")?;
        let mut helper = Self { child, line: BufReader::new(ours), ports: Ports::default() };
        enter(root, helper.child.id())
            .with_context(|| format!("put the canary's helper below {}", root.display()))?;
        helper.line.get_mut().write_all(b"\n").context("tell the canary's helper to begin")?;
        helper.ports = helper.answer::<Listening>()?.into();
        Ok(helper)
    }

    fn answer<T: DeserializeOwned>(&mut self) -> Result<T> {
        let mut line = String::new();
        let read = self.line.by_ref().take(LINE_BYTES_MAX).read_line(&mut line);
        let bytes = read.context("the canary's helper does not answer")?;
        ensure!(bytes > 0, "the canary's helper has ended");
        serde_json::from_str(&line).context("the canary's helper says nonsense")
    }

    /// Have it dial.
    fn check(&mut self) -> Result<Vec<Check>> {
        self.line.get_mut().write_all(b"\n").context("ask the canary's helper")?;
        let answer: Answer = self.answer()?;
        let family = |hook: &str| if hook.ends_with('6') { Family::V6 } else { Family::V4 };
        let checks = answer.into_iter();
        Ok(checks.map(|(hook, error)| Check { family: family(&hook), hook, error }).collect())
    }
}

/// Move a process below the cgroup that is served, unless it is there anyway.
fn enter(root: &Path, process: u32) -> io::Result<()> {
    let id = environment::cgroup_id(root).map_err(io::Error::other)?;
    if id == ROOT_CGROUP_ID {
        return Ok(());
    }
    let cgroup = root.join(CGROUP);
    match fs::create_dir(&cgroup) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    fs::write(cgroup.join("cgroup.procs"), process.to_string())
}
