//! Other programs' work, by its cost: `iptables-restore`, `nft`.

use std::fs::File;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::clock::memory_mib;

/// Pause between two looks at a program that runs.
const POLL: Duration = Duration::from_millis(2);

/// What a program took.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// CPU seconds, user and system.
    pub cpu_s: f64,
    /// Seconds.
    pub wall_s: f64,
    /// MiB of its memory at most.
    pub peak_mib: f64,
}

/// Input of a program: a file without a name, so that no pipe's size matters.
pub struct Input(File);

impl Input {
    /// Keep a text.
    pub fn new(text: &str) -> Result<Self> {
        // SAFETY: a NUL-terminated name; the descriptor is new and nobody else's.
        let descriptor = unsafe { libc::memfd_create(c"rules".as_ptr(), libc::MFD_CLOEXEC) };
        ensure!(descriptor >= 0, "memfd_create: {}", std::io::Error::last_os_error());
        // SAFETY: as above.
        let owned = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(descriptor) };
        let mut file = File::from(owned);
        file.write_all(text.as_bytes())?;
        Ok(Self(file))
    }

    /// Run a program on it; fails with what it said.
    pub fn feed(&mut self, mut command: Command) -> Result<Cost> {
        self.0.rewind()?;
        let program = command.get_program().to_string_lossy().into_owned();
        let mut said = Self::new("")?;
        let stderr = said.0.try_clone()?;
        command.stdin(self.0.try_clone()?).stdout(Stdio::null()).stderr(stderr);
        let begun = Instant::now();
        let child = command
            .spawn()
            .with_context(|| format!("start {program} (cargo xtask setup installs it)"))?;
        let mut peak_mib = 0.0;
        // The kernel's own account of the peak begins with that of the process that forked.
        let (status, usage) = loop {
            if let Ok(mib) = memory_mib(child.id(), "VmHWM") {
                peak_mib = mib;
            }
            if let Some(ended) = ended(child.id())? {
                break ended;
            }
            std::thread::sleep(POLL);
        };
        let wall_s = begun.elapsed().as_secs_f64();
        let mut text = String::new();
        said.0.rewind()?;
        said.0.read_to_string(&mut text)?;
        ensure!(status == 0, "{program}: {}", text.lines().take(5).collect::<Vec<_>>().join("\n"));
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Ok(Cost { cpu_s: seconds(usage.ru_utime) + seconds(usage.ru_stime), wall_s, peak_mib })
    }
}

/// Status and cost of a child that has ended; std's own wait would not tell the cost.
fn ended(child: u32) -> Result<Option<(i32, libc::rusage)>> {
    let mut status = 0;
    // SAFETY: rusage is plain data.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    let (to, cost) = (&raw mut status, &raw mut usage);
    // SAFETY: two valid places for results; the child is ours and was not waited for.
    let ended = unsafe { libc::wait4(child.cast_signed(), to, libc::WNOHANG, cost) };
    ensure!(ended >= 0, "wait for process {child}: {}", std::io::Error::last_os_error());
    Ok((ended > 0).then_some((status, usage)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_gets_its_input_and_its_failure_is_told() {
        let mut input = Input::new("hello\n").unwrap();
        let mut grep = Command::new("sh");
        grep.args(["-c", "sleep 0.1; grep hello"]);
        let cost = input.feed(grep).unwrap();
        assert!(cost.wall_s >= 0.1 && cost.peak_mib > 0.0, "{cost:?}");
        let mut shell = Command::new("sh");
        shell.args(["-c", "echo no >&2; exit 3"]);
        assert!(input.feed(shell).unwrap_err().to_string().contains("no"));
    }
}
