//! Where a process runs: a network namespace and, for managed ones, a cgroup.

use std::ffi::{CStr, CString, OsStr};
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};

use super::address::Family;

/// A network namespace and a cgroup to run processes in.
#[derive(Clone, Debug)]
pub struct Place {
    name: String,
    netns: PathBuf,
    cgroup: PathBuf,
}

impl Place {
    /// A place that exists already.
    pub(super) fn new(name: String, netns: PathBuf, cgroup: PathBuf) -> Self {
        Place { name, netns, cgroup }
    }

    /// The machine itself: the network this process is in, the root of cgroup2.
    pub fn machine() -> Result<Self> {
        let name = "machine".to_owned();
        Ok(Place::new(name, "/proc/self/ns/net".into(), super::system::cgroup2()?))
    }

    /// Its name, as people say it: `n1`, `n1/web-0`, `outside`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The bind-mounted network namespace.
    pub fn netns(&self) -> &Path {
        &self.netns
    }

    /// The cgroup its processes run in.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The same place under another name.
    pub(super) fn named(self, name: String) -> Place {
        Place { name, ..self }
    }

    /// The same namespace with another cgroup.
    pub fn in_cgroup(&self, cgroup: PathBuf) -> Place {
        Place { cgroup, ..self.clone() }
    }

    /// A command whose process enters the namespace and the cgroup before it executes.
    ///
    /// Not `ip netns exec`: that mounts a fresh /sys, which hides bpffs and the cgroup tree.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let netns = c_path(&self.netns);
        let procs = c_path(&self.cgroup.join("cgroup.procs"));
        // SAFETY: the hook runs between fork and exec and only makes system calls that are
        // async-signal-safe, on strings made before the fork.
        unsafe { command.pre_exec(move || enter(&netns, &procs)) };
        command
    }

    /// Runs lines of `ip` in the namespace, e.g. `route add 203.0.113.0/24 via 192.168.50.11`.
    pub fn ip(&self, lines: &[String]) -> Result<()> {
        self.batch("ip", &[], lines)
    }

    /// The same for lines that do not tell their family: `rule add`.
    pub fn ip_of(&self, family: Family, lines: &[String]) -> Result<()> {
        let flag = match family {
            Family::V4 => "-4",
            Family::V6 => "-6",
        };
        self.batch("ip", &[flag], lines)
    }

    /// Runs lines of `bridge` in the namespace.
    pub fn bridge(&self, lines: &[String]) -> Result<()> {
        self.batch("bridge", &[], lines)
    }

    /// Loads nftables rules in the namespace.
    pub fn nft(&self, rules: &str) -> Result<()> {
        if rules.is_empty() {
            return Ok(());
        }
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        feed(command, rules).with_context(|| format!("nft in {}", self.name))
    }

    fn batch(&self, tool: &str, flags: &[&str], lines: &[String]) -> Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let context = || format!("{tool} in {}", self.name);
        let mut command = self.command(tool);
        command.args(flags);
        run_batch(command, &lines.join("\n")).with_context(context)
    }

    /// Runs a closure on a thread that has entered the network namespace.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let netns = fs::File::open(&self.netns)
            .with_context(|| format!("open namespace {}", self.netns.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                // SAFETY: setns with an open namespace fd changes only this thread.
                let code = unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) };
                if code != 0 { Err(io::Error::last_os_error()) } else { Ok(work()) }
            });
            match thread.join() {
                Ok(result) => result.with_context(|| format!("enter {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// Writes settings below /proc/sys/net, as (path, value).
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.within(|| {
            for (path, value) in settings {
                fs::write(Path::new("/proc/sys/net").join(path), value)
                    .with_context(|| format!("set net/{path} to {value}"))?;
            }
            Ok(())
        })?
    }
}

/// Feeds lines to `ip -batch -` or `bridge -batch -`; fails with what the tool said.
pub(super) fn run_batch(mut command: Command, lines: &str) -> Result<()> {
    command.args(["-batch", "-"]);
    feed(command, lines)
}

/// Gives a tool its input; fails with what it said.
fn feed(mut command: Command, lines: &str) -> Result<()> {
    command.stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.stderr(Stdio::piped()).spawn().context("start the tool")?;
    let Some(mut stdin) = child.stdin.take() else { bail!("no stdin") };
    stdin.write_all(lines.as_bytes()).context("write the batch")?;
    drop(stdin);
    let output = child.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{lines}", said.trim());
    Ok(())
}

fn c_path(path: &Path) -> CString {
    CString::new(path.as_os_str().as_bytes()).expect("lab paths hold no NUL")
}

/// Moves the calling process into a namespace and a cgroup. Async-signal-safe.
fn enter(netns: &CStr, procs: &CStr) -> io::Result<()> {
    let fd = open(netns, libc::O_RDONLY)?;
    // SAFETY: fd was just opened; setns and close take no pointers.
    let code = unsafe { libc::setns(fd, libc::CLONE_NEWNET) };
    check(code as isize)?;
    // SAFETY: fd is ours and not used afterwards.
    unsafe { libc::close(fd) };
    let fd = open(procs, libc::O_WRONLY)?;
    // SAFETY: the buffer is one static byte; "0" means the writing process.
    check(unsafe { libc::write(fd, c"0".as_ptr().cast(), 1) })?;
    // SAFETY: as above.
    unsafe { libc::close(fd) };
    // Programs that wait for their signals in a thread block them; their children must not.
    // SAFETY: the set is initialised by sigemptyset before it is read.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::pthread_sigmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
    }
    Ok(())
}

fn open(path: &CStr, flags: libc::c_int) -> io::Result<libc::c_int> {
    // SAFETY: the path is NUL-terminated.
    let fd = unsafe { libc::open(path.as_ptr(), flags | libc::O_CLOEXEC) };
    check(fd as isize)?;
    Ok(fd)
}

fn check(code: isize) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
