//! From a bare kernel to a usable system, and the way to tell the world outside how it went.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Kernel modules, and the order they go in.
const MODULES: &str = "/modules";
/// What to mount: type and place.
const MOUNTS: [(&str, &str); 7] = [
    ("proc", "/proc"),
    ("sysfs", "/sys"),
    ("devtmpfs", "/dev"),
    ("tmpfs", "/run"),
    ("tmpfs", "/tmp"),
    ("bpf", "/sys/fs/bpf"),
    ("cgroup2", "/sys/fs/cgroup"),
];
/// Where QEMU's isa-debug-exit listens; it ends with twice what is written plus one.
#[cfg(target_arch = "x86_64")]
const EXIT_PORT: u16 = 0x501;

/// Soft limit of locked memory that agents start with: what a login gives.
const LOCKED_BYTES: u64 = 64 << 10;

/// Mounts, limits, modules, loopback.
pub fn set_up() -> Result<()> {
    for (kind, place) in MOUNTS {
        mount(kind, place).with_context(|| format!("mount {kind} on {place}"))?;
    }
    // The hard limit is a generous container runtime's; the soft one is for the agent to raise.
    limit_locked_memory(libc::RLIM_INFINITY).context("limit locked memory")?;
    let order = fs::read_to_string(Path::new(MODULES).join("order")).context("read the order")?;
    for name in order.lines() {
        insert(&Path::new(MODULES).join(name)).with_context(|| format!("insert {name}"))?;
    }
    let status = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("ip")?;
    ensure!(status.success(), "ip link set lo up: {status}");
    Ok(())
}

fn mount(kind: &str, place: &str) -> Result<()> {
    let (kind, place) = (CString::new(kind)?, CString::new(place)?);
    // SAFETY: NUL-terminated strings that outlive the call; these types take no data.
    let code =
        unsafe { libc::mount(kind.as_ptr(), place.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) };
    Ok(check(code.into())?)
}

/// Lets the command start with no more locked memory than what a login gives, for good: what a
/// container gets under a runtime that was started so.
pub fn lock_little(command: &mut Command) {
    // SAFETY: the hook runs between fork and exec and only makes a system call.
    unsafe { command.pre_exec(|| limit_locked_memory(LOCKED_BYTES)) };
}

fn limit_locked_memory(hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: LOCKED_BYTES, rlim_max: hard };
    // SAFETY: a live value of the right type.
    check(unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) }.into())
}

fn insert(module: &Path) -> Result<()> {
    let file = File::open(module)?;
    // SAFETY: an open descriptor and a NUL-terminated string of parameters.
    let code = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    Ok(check(code)?)
}

fn check(code: i64) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Ends the machine. Outside, success is QEMU's exit code 1; 0 would be an end without a verdict.
pub fn leave(success: bool) -> ! {
    #[cfg(target_arch = "x86_64")]
    {
        let value = u8::from(!success);
        // SAFETY: takes a number; a failure shows as a fault below, which is no success either.
        unsafe { libc::syscall(libc::SYS_iopl, 3) };
        // SAFETY: writes to a port that nothing but QEMU's exit device has.
        unsafe { std::arch::asm!("out dx, al", in("dx") EXIT_PORT, in("al") value) };
    }
    // Not reached in the machine that xtask makes. The first process' end is the kernel's panic.
    std::process::exit(i32::from(!success))
}
