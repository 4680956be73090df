//! The agent of one node, started and stopped as an operator would.
//!
//! Its process runs in the node's network but in a cgroup that no agent manages, like a service
//! manager's: what it dials is not translated.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::lab::{Node, Place};
use crate::{privileges, wait};

/// How long an agent may take from its start to its first complete state in the kernel.
pub const READY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it may take to end after SIGTERM: the grace period that kubelet gives.
///
/// The agent itself needs milliseconds, but on a busy two-core machine the kernel was seen to take
/// more than 10 s to release an inotify descriptor (fsnotify_destroy_group in __flush_work).
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// How much of a log a failed test shows.
const SHOWN_LINES: usize = 40;

/// The agent's program: `MILLRACE_BIN`, else the workspace's release build.
pub fn program() -> Result<PathBuf> {
    let path = match std::env::var_os("MILLRACE_BIN") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/release/millrace"),
    };
    ensure!(
        path.exists(),
        "no agent at {}: run `cargo xtask build`, or set MILLRACE_BIN",
        path.display()
    );
    Ok(path)
}

/// Where an agent gets its objects from.
#[derive(Clone, Debug)]
pub enum Source {
    /// The node's own manifest directory.
    Manifests,
    /// An API server without authentication.
    ApiServer(String),
    /// A kubeconfig.
    Kubeconfig(PathBuf),
}

/// One node's agent.
#[derive(Debug)]
pub struct Agent {
    name: String,
    place: Place,
    bpffs: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    /// Where the log of the current run begins.
    log_start: u64,
    child: Option<Child>,
    show_log: bool,
    /// Bits of the only capabilities it gets; none: all of ours.
    capabilities: Option<u64>,
}

/// How an agent that would not run ended.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// Its exit code; none: a signal.
    pub code: Option<i32>,
    /// What it wrote.
    pub said: String,
    /// How long it took.
    pub took: Duration,
}

impl Agent {
    /// Starts the agent of a node that reads manifests; does not wait.
    pub fn start(node: &Node) -> Result<Agent> {
        Self::start_with(node, &Source::Manifests, &[])
    }

    /// Starts it with a source and further arguments.
    pub fn start_with(node: &Node, source: &Source, more: &[&str]) -> Result<Agent> {
        let mut agent = Self::prepare(node, source, more);
        agent.start_again()?;
        Ok(agent)
    }

    /// Everything but the start.
    pub fn prepare(node: &Node, source: &Source, more: &[&str]) -> Agent {
        let text = |path: &Path| path.display().to_string();
        let (flag, value) = match source {
            Source::Manifests => ("--manifests", text(&node.manifests())),
            Source::ApiServer(url) => ("--api-server", url.clone()),
            Source::Kubeconfig(path) => ("--kubeconfig", text(path)),
        };
        let (cgroup, bpffs) = (text(node.cgroup_root()), text(node.bpffs()));
        let mut arguments = vec![flag, &value, "--node-name", node.name()];
        arguments.extend(["--cgroup-root", &cgroup, "--bpffs", &bpffs]);
        arguments.extend(more);
        Self::prepare_bare(node, &arguments)
    }

    /// An agent that is given these arguments after `run` and no others; not started.
    pub fn prepare_bare(node: &Node, arguments: &[&str]) -> Agent {
        let mut agent = Self::of(node);
        agent.arguments =
            std::iter::once(&"run").chain(arguments).map(ToString::to_string).collect();
        agent.show_log = true;
        agent
    }

    /// Handles a node's agent that another process started, or none: for the commands below.
    pub fn of(node: &Node) -> Agent {
        Agent {
            name: node.name().to_owned(),
            place: node.agent_place().clone(),
            bpffs: node.bpffs().to_owned(),
            arguments: Vec::new(),
            log: node.run_dir().join("agent.log"),
            log_start: 0,
            child: None,
            show_log: false,
            capabilities: None,
        }
    }

    /// Gives it these capabilities and no others, from its next start on.
    pub fn limit_capabilities(&mut self, bits: u64) {
        self.capabilities = Some(bits);
    }

    fn spawn(&mut self) -> Result<()> {
        let open = || fs::OpenOptions::new().create(true).append(true).open(&self.log);
        let log = open().with_context(|| format!("open {}", self.log.display()))?;
        self.log_start = log.metadata()?.len();
        let mut command = self.place.command(program()?);
        command.args(&self.arguments).stdin(Stdio::null());
        // Its own process group: a Ctrl-C at the demo must not take the agents with it.
        command.process_group(0).stdout(log.try_clone()?).stderr(log);
        if let Some(bits) = self.capabilities {
            privileges::limit(&mut command, bits);
        }
        let child = command.spawn().with_context(|| format!("start the agent of {}", self.name))?;
        self.child = Some(child);
        Ok(())
    }

    /// Waits until it says that its first state is in the kernel.
    pub fn wait_ready(&mut self) -> Result<()> {
        let what = format!("the agent of {} to be ready", self.name);
        let (log, start) = (self.log.clone(), self.log_start);
        let mut child = self.child.take();
        let result = wait::until(&what, READY_TIMEOUT, || {
            let text = read_from(&log, start)?;
            if text.lines().any(says_ready) {
                return Ok(true);
            }
            match child.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => bail!("it has not said so"),
                // Waiting longer would not help.
                _ => Ok(false),
            }
        });
        self.child = child;
        if let (Err(_), Some(pid)) = (&result, self.pid()) {
            println!("threads of the agent of {}:\n{}", self.name, threads(pid));
        }
        ensure!(result?, "the agent of {} ended:\n{}", self.name, self.log_tail());
        Ok(())
    }

    /// Asks it to end, and waits until it did. What it pinned stays.
    pub fn stop(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        // SAFETY: the process is our child and not yet reaped, so the id is still its own.
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let start = std::time::Instant::now();
        let ended = wait::until("the agent to end", STOP_TIMEOUT, || {
            child.try_wait()?.context("it still runs")
        });
        let took = start.elapsed();
        println!("the agent of {} ended after {took:?}", self.name);
        if ended.is_err() {
            println!("threads of the agent of {}:\n{}", self.name, threads(child.id()));
            child.kill()?;
            child.wait()?;
        }
        let status = ended.with_context(|| format!("stop the agent of {}", self.name))?;
        ensure!(status.success(), "the agent of {} ended with {status}", self.name);
        Ok(())
    }

    /// Kills it without warning (SIGKILL).
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts it again with the same arguments and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        self.start_again()?;
        self.wait_ready()
    }

    /// Starts it again; does not wait.
    pub fn start_again(&mut self) -> Result<()> {
        ensure!(self.child.is_none(), "stop or kill the agent of {} first", self.name);
        self.spawn()
    }

    /// Starts it and waits until it has ended by itself.
    pub fn refuses(&mut self, limit: Duration) -> Result<Refusal> {
        let start = std::time::Instant::now();
        self.start_again()?;
        let child = self.child.as_mut().context("it was just started")?;
        let status =
            wait::until("the agent to refuse", limit, || child.try_wait()?.context("it runs"))?;
        let took = start.elapsed();
        self.child = None;
        Ok(Refusal { code: status.code(), said: self.run_log()?, took })
    }

    /// What the present run has logged so far.
    pub fn run_log(&self) -> Result<String> {
        read_from(&self.log, self.log_start)
    }

    /// Its process, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Adds arguments for the next start.
    pub fn add_arguments(&mut self, more: &[&str]) {
        self.arguments.extend(more.iter().map(|&argument| argument.to_owned()));
    }

    /// Changes the argument that begins so, for the next start.
    pub fn replace_argument(&mut self, beginning: &str, value: &str) {
        let arguments = self.arguments.iter_mut();
        for argument in arguments.filter(|argument| argument.starts_with(beginning)) {
            *argument = format!("{beginning}{value}");
        }
    }

    /// An operator's command on this node, e.g. `status -o json`.
    pub fn operate(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.operator(arguments)?.output();
        output.with_context(|| format!("millrace {arguments:?} on {}", self.name))
    }

    /// The same as a command to be run.
    pub fn operator(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = self.place.command(program()?);
        command.args(arguments).arg("--bpffs").arg(&self.bpffs);
        Ok(command)
    }

    fn json(&self, command: &str) -> Result<Value> {
        let output = self.operate(&[command, "-o", "json"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout)
            .with_context(|| format!("millrace {command} -o json on {} said {said:?}", self.name))
    }

    /// `millrace status -o json`.
    pub fn status_json(&self) -> Result<Value> {
        self.json("status")
    }

    /// `millrace services -o json`.
    pub fn services_json(&self) -> Result<Value> {
        self.json("services")
    }

    /// The same without the counts of traffic, which go on while nothing else changes.
    pub fn services_without_counts(&self) -> Result<Value> {
        let mut services = self.services_json()?;
        for service in services.as_array_mut().context("a list")? {
            let service = service.as_object_mut().context("an object")?;
            for count in ["opened", "failed"] {
                service.remove(count).with_context(|| format!("{count} is told"))?;
            }
        }
        Ok(services)
    }

    /// `millrace cleanup`: detaches and unpins everything of this node.
    pub fn cleanup(&self) -> Result<()> {
        let output = self.operate(&["cleanup"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "millrace cleanup on {}: {said}", self.name);
        Ok(())
    }

    /// The end of its log.
    pub fn log_tail(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
    }

    /// Does not print the log when dropped: for programs that are not tests.
    pub fn quiet(mut self) -> Self {
        self.show_log = false;
        self
    }

    /// Leaves it running after this value is gone; returns its process.
    pub fn detach(mut self) -> Option<u32> {
        self.show_log = false;
        let child = self.child.take()?;
        Some(child.id())
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Failure means it is gone already.
        let _ = self.kill();
        if self.show_log {
            // The test harness shows this only when the test failed.
            println!("--- agent of {}\n{}", self.name, self.log_tail());
        }
    }
}

/// What the threads of a process that does not end wait for.
fn threads(pid: u32) -> String {
    let tasks = PathBuf::from(format!("/proc/{pid}/task"));
    let read = |path: PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let names = crate::lab::system::names_in(&tasks).into_iter();
    let line = |id: String| {
        let task = tasks.join(&id);
        let [name, at, stack] = ["comm", "syscall", "stack"].map(|file| read(task.join(file)));
        format!("{id} {name}: system call {at}\n{stack}")
    };
    names.map(line).collect::<Vec<_>>().join("\n")
}

/// Whether a log line says that the agent is ready, not that it is not.
fn says_ready(line: &str) -> bool {
    let line = line.to_lowercase();
    let mut words = line.split(|c: char| !c.is_ascii_alphanumeric());
    words.any(|word| word == "ready") && !line.contains("not ready")
}

fn read_from(path: &Path, start: u64) -> Result<String> {
    let mut file = fs::File::open(path)?;
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::says_ready;

    #[test]
    fn readiness_is_a_word_of_its_own() {
        assert!(says_ready("INFO millrace: ready services=3"));
        assert!(says_ready("Ready."));
        assert!(!says_ready("already attached"));
        assert!(!says_ready("not ready yet"));
    }
}
