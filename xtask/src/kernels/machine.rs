//! QEMU: the one that is installed, or one unpacked beside the kernels; and the verdict.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::archive;
use crate::command::{self, Log};
use crate::packages::EMULATOR;

const PROGRAM: &str = "qemu-system-x86_64";
/// QEMU 7.2 damages the flags register on `cmpxchg16b`, and kernels crash (2 boots of 11); 10.0 is
/// known to be well. Between them nobody looked, so those go without the instruction, too.
const GOOD_MAJOR: u32 = 10;
/// Memory of a guest, which holds its file system as well.
const MEMORY_MIB: &str = "640";
/// An emulated processor is some 26 times slower than this machine; usual is a minute, and others
/// may be at work here.
const TIME_LIMIT: Duration = Duration::from_secs(900);
/// How often a machine is asked whether it has ended.
const POLL: Duration = Duration::from_millis(100);
/// What the kernel is told. It hands names it does not know to the first process' environment.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1 mitigations=off \
     MILLRACE_BIN=/bin/millrace MILLRACE_PROBE=/bin/millrace-probe MILLRACE_PATIENCE=10";

/// How a machine ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// The guest said that everything held.
    Success,
    /// The guest said that something did not.
    Failure,
    /// It ended by itself: power-off, panic, triple fault.
    NoVerdict,
    /// It was ended after the time limit.
    Timeout,
}

impl End {
    /// isa-debug-exit ends QEMU with `value << 1 | 1`; the guest writes 0 for success.
    fn of(code: Option<i32>) -> Self {
        match code {
            Some(1) => Self::Success,
            Some(code) if code & 1 == 1 => Self::Failure,
            _ => Self::NoVerdict,
        }
    }

    /// For people.
    pub fn describe(&self) -> String {
        match self {
            Self::Success => "success".to_owned(),
            Self::Failure => "the guest gave no reason".to_owned(),
            Self::NoVerdict => "the machine ended without a verdict (a panic?)".to_owned(),
            Self::Timeout => format!("no end after {}", command::seconds(TIME_LIMIT)),
        }
    }
}

/// An emulator that runs.
pub struct Qemu {
    program: PathBuf,
    /// Where it was unpacked to, unless it is installed.
    root: Option<PathBuf>,
    version: String,
    processor: &'static str,
}

impl Qemu {
    /// The installed one, the unpacked one, or one that is fetched now.
    pub fn find(log: &Log) -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "guests are x86-64, as this machine is not");
        if let Some(program) = command::find_program(PROGRAM) {
            return Self::of(program, None);
        }
        let root = super::cache_dir().join("qemu");
        let program = root.join("usr/bin").join(PROGRAM);
        if let Ok(qemu) = Self::of(program.clone(), Some(root.clone())) {
            return Ok(qemu);
        }
        archive::unpack_program(EMULATOR, &root, log)?;
        Self::of(program, Some(root))
    }

    fn of(program: PathBuf, root: Option<PathBuf>) -> Result<Self> {
        let mut qemu = Self { program, root, version: String::new(), processor: "max" };
        let said = command::output_of(qemu.command().arg("--version"));
        let said = said.with_context(|| format!("{} does not run", qemu.program.display()))?;
        let (version, major) = parse_version(&said).context("QEMU has an unreadable version")?;
        qemu.version = version.to_owned();
        if major < GOOD_MAJOR {
            qemu.processor = "max,-cx16";
        }
        Ok(qemu)
    }

    /// For messages.
    pub fn describe(&self) -> String {
        let place = if self.root.is_some() { "unpacked in target/kernels" } else { "installed" };
        format!("QEMU {} ({place}), emulated processor `{}`", self.version, self.processor)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        if let Some(root) = &self.root {
            let libraries = ["usr/lib", "lib"]
                .map(|dir| root.join(dir).join("x86_64-linux-gnu").display().to_string());
            command.env("LD_LIBRARY_PATH", libraries.join(":"));
            for data in ["usr/share/qemu", "usr/share/seabios"] {
                command.arg("-L").arg(root.join(data));
            }
        }
        command
    }

    /// Runs a guest to its end; what it prints goes to the file `serial`.
    pub fn boot(&self, vmlinuz: &Path, initrd: &Path, serial: &Path) -> Result<End> {
        let mut qemu = self.command();
        // TCG: /dev/kvm may be there and still not boot a stock kernel.
        qemu.args(["-accel", "tcg", "-cpu", self.processor, "-m", MEMORY_MIB, "-smp", "1"]);
        qemu.args(["-display", "none", "-monitor", "none", "-nodefaults", "-nic", "none"]);
        qemu.args(["-no-reboot", "-device", "isa-debug-exit,iobase=0x501,iosize=1"]);
        qemu.arg("-serial").arg(format!("file:{}", serial.display()));
        qemu.arg("-kernel").arg(vmlinuz).arg("-initrd").arg(initrd);
        qemu.args(["-append", COMMAND_LINE]).stdin(Stdio::null());
        let mut child = qemu.spawn().context("start QEMU")?;
        let start = Instant::now();
        loop {
            if let Some(status) = child.try_wait()? {
                return Ok(End::of(status.code()));
            }
            if start.elapsed() > TIME_LIMIT {
                child.kill()?;
                child.wait()?;
                return Ok(End::Timeout);
            }
            std::thread::sleep(POLL);
        }
    }
}

/// Version and its first number, from `QEMU emulator version 10.0.2 (Debian ...)`.
fn parse_version(said: &str) -> Option<(&str, u32)> {
    let version = said.split("version ").nth(1)?.split_whitespace().next()?;
    Some((version, version.split('.').next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_guests_own_word_is_success() {
        assert_eq!(End::of(Some(1)), End::Success);
        assert_eq!(End::of(Some(3)), End::Failure);
        // A panic and a power-off look like this.
        assert_eq!(End::of(Some(0)), End::NoVerdict);
        assert_eq!(End::of(None), End::NoVerdict);
    }

    #[test]
    fn reads_qemus_version() {
        let said = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright\n";
        assert_eq!(parse_version(said), Some(("10.0.2", 10)));
        assert_eq!(parse_version("something else"), None);
    }
}
