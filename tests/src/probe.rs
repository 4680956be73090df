//! Servers that say who they are, and clients that report what their sockets saw.
//!
//! Both are subcommands of one small program, `millrace-probe`, so that they run in a pod's
//! namespace and cgroup as any program would. This module starts it and reads its answers.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::lab::Place;

/// One dialogue with a server, as the client's socket saw it. Printed as one line of JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Outcome {
    /// What was tried: a subcommand's name, or a step of it.
    pub step: String,
    /// Whether an answer came.
    pub ok: bool,
    /// The server's name for itself.
    pub server: Option<String>,
    /// The client's address as the server saw it.
    pub seen: Option<SocketAddr>,
    /// What getpeername said.
    pub peer: Option<SocketAddr>,
    /// What getsockname said.
    pub local: Option<SocketAddr>,
    /// The source address recvfrom reported.
    pub source: Option<SocketAddr>,
    /// The errno's name, when something failed.
    pub error: Option<String>,
    /// Microseconds from the first system call to the answer or the failure.
    pub micros: u64,
}

impl Outcome {
    /// The server's name, or the failure, as one word.
    pub fn who(&self) -> &str {
        self.server.as_deref().or(self.error.as_deref()).unwrap_or("nothing")
    }
}

/// Totals of a run under load.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Load {
    /// Dialogues that were tried.
    pub count: u64,
    /// Dialogues without an answer.
    pub failed: u64,
    /// The first few failures.
    pub failures: Vec<Outcome>,
    /// The longest that an answer took, in microseconds: a second and more means that TCP sent a
    /// packet twice, or that somebody waited so long for a CPU.
    pub slowest_micros: u64,
}

/// Connect times in microseconds.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Fastest.
    pub min: f64,
    /// Median.
    pub median: f64,
    /// Slowest.
    pub max: f64,
    /// Connections that failed.
    pub failed: u64,
}

/// The probe program: `MILLRACE_PROBE`, or beside this one, or one directory up (test binaries).
pub fn program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MILLRACE_PROBE") {
        return Ok(path.into());
    }
    let own = std::env::current_exe().context("find this program")?;
    let beside = own.ancestors().skip(1).take(2).map(|dir| dir.join("millrace-probe"));
    let found = beside.into_iter().find(|path| path.exists());
    found.context("millrace-probe is not built: cargo build -p millrace-tests")
}

fn command(place: &Place, arguments: &[&str]) -> Result<Command> {
    let mut command = place.command(program()?);
    command.args(arguments);
    Ok(command)
}

/// Runs a client to its end and returns what it printed, line by line.
pub fn run<T: for<'a> Deserialize<'a>>(place: &Place, arguments: &[&str]) -> Result<Vec<T>> {
    let output = command(place, arguments)?.stderr(Stdio::piped()).output();
    let output = output.with_context(|| format!("start the probe in {}", place.name()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "probe {arguments:?} in {}: {said}", place.name());
    let text = String::from_utf8(output.stdout)?;
    text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

/// Runs a client that prints one dialogue.
pub fn one(place: &Place, arguments: &[&str]) -> Result<Outcome> {
    run(place, arguments)?.pop().context("the probe printed nothing")
}

/// `count` fresh TCP connections.
pub fn tcp(place: &Place, to: SocketAddr, count: usize) -> Result<Vec<Outcome>> {
    run(place, &["connect", &to.to_string(), "--count", &count.to_string()])
}

/// `count` fresh UDP sockets, each sending with sendto and reading with recvfrom.
pub fn udp(place: &Place, to: SocketAddr, count: usize) -> Result<Vec<Outcome>> {
    run(place, &["udp-unconnected", &to.to_string(), "--count", &count.to_string()])
}

/// `count` fresh connected UDP sockets.
pub fn udp_connected(place: &Place, to: SocketAddr, count: usize) -> Result<Vec<Outcome>> {
    run(place, &["udp-connected", &to.to_string(), "--count", &count.to_string()])
}

/// Connect times over `count` connections.
pub fn latency(place: &Place, to: SocketAddr, count: usize) -> Result<Latency> {
    let arguments = ["latency", &to.to_string(), "--count", &count.to_string()];
    run(place, &arguments)?.pop().context("the probe printed nothing")
}

/// A running server. Killed when dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts a server that answers with `name` on these ports, and waits until it listens.
    pub fn start(place: &Place, name: &str, tcp: &[u16], udp: &[u16]) -> Result<Server> {
        Self::start_with(place, name, tcp, udp, &[])
    }

    /// The same with further arguments, e.g. `--address`.
    pub fn start_with(
        place: &Place,
        name: &str,
        tcp: &[u16],
        udp: &[u16],
        more: &[&str],
    ) -> Result<Server> {
        let mut command = command(place, &["serve", "--name", name])?;
        for port in tcp {
            command.args(["--tcp", &port.to_string()]);
        }
        for port in udp {
            command.args(["--udp", &port.to_string()]);
        }
        // Not the caller's own stderr: a server that is left running would keep `| less` waiting.
        command.args(more).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start server {name}"))?;
        let mut line = String::new();
        let stdout = child.stdout.as_mut().context("no stdout")?;
        BufReader::new(stdout).read_line(&mut line)?;
        let server = Server { child };
        ensure!(line.contains("ready"), "server {name} in {} did not start", place.name());
        Ok(server)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Leaves it running after this value is gone.
    pub fn detach(self) {
        std::mem::forget(self);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Failure means it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr
            && stderr.read_to_string(&mut said).is_ok()
            && !said.is_empty()
        {
            eprintln!("--- server {}\n{said}", self.child.id());
        }
    }
}

/// A socket that stays open between steps of a test. Closed when dropped.
#[derive(Debug)]
pub struct Held {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Held {
    /// Opens a socket of `kind` (`tcp`, `udp`, `udp-unconnected`) towards `to`.
    ///
    /// Returns it with the outcome of the first connect.
    pub fn open(place: &Place, kind: &str, to: SocketAddr) -> Result<(Held, Outcome)> {
        Self::start(place, &["hold", kind, &to.to_string()])
    }

    /// The same from a fixed local address.
    pub fn open_from(
        place: &Place,
        kind: &str,
        to: SocketAddr,
        from: SocketAddr,
    ) -> Result<(Held, Outcome)> {
        Self::start(place, &["hold", kind, &to.to_string(), "--bind", &from.to_string()])
    }

    fn start(place: &Place, arguments: &[&str]) -> Result<(Held, Outcome)> {
        let mut command = command(place, arguments)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            bail!("the probe has no pipes")
        };
        let mut held = Held { child, stdin, stdout: BufReader::new(stdout) };
        let first = held.read()?;
        Ok((held, first))
    }

    /// Asks the server who it is over the held socket.
    pub fn send(&mut self) -> Result<Outcome> {
        self.tell("send")
    }

    /// Any command of `millrace-probe hold`: `send`, `send ADDRESS` (from now on), `peer`, `connect
    /// ADDRESS`.
    pub fn tell(&mut self, line: &str) -> Result<Outcome> {
        writeln!(self.stdin, "{line}").context("the held socket's process is gone")?;
        self.read()
    }

    fn read(&mut self) -> Result<Outcome> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("the probe said {line:?}"))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // Failure means it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How long the answer to a datagram may take in [`Pressure`], in milliseconds. It is sent but
/// once, so whoever waits so long for a CPU that is busy with many labs has lost nothing. (What TCP
/// loses it sends again after a second, and is given the probe's two.)
const DATAGRAM_LIMIT_MS: &str = "10000";

/// Fresh dialogues one after the other until stopped.
#[derive(Debug)]
pub struct Pressure {
    child: Child,
}

impl Pressure {
    /// Starts dialling `to`; `kind` is `tcp`, `udp`, `udp-connected`, or `dial` (connect only).
    pub fn start(place: &Place, kind: &str, to: SocketAddr) -> Result<Pressure> {
        let mut command = command(place, &["load", kind, &to.to_string()])?;
        if kind.starts_with("udp") {
            command.args(["--timeout-ms", DATAGRAM_LIMIT_MS]);
        }
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Pressure { child })
    }

    /// Stops and returns the totals.
    pub fn stop(mut self) -> Result<Load> {
        drop(self.child.stdin.take());
        let stdout = self.child.stdout.take().context("no stdout")?;
        let text = std::io::read_to_string(stdout)?;
        serde_json::from_str(&text).with_context(|| format!("the probe said {text:?}"))
    }
}

impl Drop for Pressure {
    fn drop(&mut self) {
        // Failure means it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
