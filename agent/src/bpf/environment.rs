//! What the node must offer, found or named as missing.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
/// `CGROUP2_SUPER_MAGIC` (linux/magic.h).
const CGROUP2_MAGIC: i64 = 0x6367_7270;
/// The oldest kernel we aim at: cgroup links 5.7, `sk_storage` in these hooks 5.8, batches 5.6.
const KERNEL_FLOOR: (u32, u32) = (5, 10);
/// From here on BPF memory counts to the cgroup's, below it as locked memory.
const COUNTED_BY_CGROUP: (u32, u32) = (5, 11);
/// Capabilities we need, by name and bit (linux/capability.h).
const CAPABILITIES: [(&str, u32); 3] =
    [("CAP_BPF", 39), ("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38)];
/// Holds every privilege that the three give, on any kernel.
const CAP_SYS_ADMIN: u32 = 21;

/// What is missing on this node, and what to do about it.
#[derive(Debug, Error)]
pub enum Missing {
    /// Not enough privileges.
    #[error(
        "missing {missing}: run as root, or grant CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (in a \
         DaemonSet: securityContext.capabilities.add)"
    )]
    Capabilities {
        /// Names of those missing.
        missing: String,
    },
    /// Old kernel.
    #[error("Linux {release} is too old: 5.10 or newer is needed")]
    Kernel {
        /// `uname -r`.
        release: String,
    },
    /// No cgroup2 mount.
    #[error(
        "no cgroup2 file system is mounted: mount one (mount -t cgroup2 none /sys/fs/cgroup) or \
         name it with --cgroup-root"
    )]
    NoCgroup2,
    /// Not cgroup2.
    #[error(
        "--cgroup-root {path}: not a cgroup2 directory; on hybrid hosts it is often \
         /sys/fs/cgroup/unified (see: grep cgroup2 /proc/mounts)"
    )]
    NotCgroup2 {
        /// What was given.
        path: PathBuf,
    },
    /// No bpffs mount.
    #[error(
        "no BPF file system is mounted: mount one (mount -t bpf bpf /sys/fs/bpf) or name it with \
         --bpffs; in a DaemonSet, mount the host's /sys/fs/bpf"
    )]
    NoBpffs,
    /// Not bpffs.
    #[error(
        "--bpffs {path}: not on a BPF file system; mount one (mount -t bpf bpf {path}) or name a \
         directory below /sys/fs/bpf"
    )]
    NotBpffs {
        /// What was given.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("{what} {path}: {error}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        error: io::Error,
    },
}

/// Check kernel and privileges.
pub fn check() -> Result<(), Missing> {
    let release = kernel_release()?;
    if parse_release(&release).is_some_and(|version| version < KERNEL_FLOOR) {
        return Err(Missing::Kernel { release });
    }
    let path = PathBuf::from("/proc/self/status");
    let status =
        fs::read_to_string(&path).map_err(|error| Missing::Io { what: "read", path, error })?;
    match missing_capabilities(&status) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(Missing::Capabilities { missing: missing.join(", ") }),
    }
}

/// Have memory in pages of the ordinary size. The allocator would ask for huge ones, each of which
/// a few bytes in use keep whole: with 1 000 Services 62 MiB instead of 51, and no faster.
pub fn use_small_pages() {
    // SAFETY: takes numbers. It fails only where there are no huge pages.
    let _ = unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Let this process lock as much memory as it may: below Linux 5.11, maps and programs count as
/// locked, and the usual limit is 64 KiB.
pub fn lift_memory_limit() -> Result<(), Missing> {
    let release = kernel_release()?;
    if parse_release(&release).is_none_or(|version| version >= COUNTED_BY_CGROUP) {
        return Ok(());
    }
    let all = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: a live value of the right type.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const all) } == 0 {
        return Ok(());
    }
    // Only CAP_SYS_RESOURCE passes the hard limit; up to there anybody may go.
    let mut limit = all;
    // SAFETY: a live value of the right type, which the kernel fills in.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: as the first.
    unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
    if limit.rlim_max != libc::RLIM_INFINITY {
        tracing::warn!(
            bytes = limit.rlim_max,
            "Linux {release} counts BPF maps as locked memory, of which this process may have \
             little: if loading fails, raise the limit (systemd: LimitMEMLOCK=infinity) or grant \
             CAP_SYS_RESOURCE"
        );
    }
    Ok(())
}

/// `uname -r`.
pub fn kernel_release() -> Result<String, Missing> {
    let path = PathBuf::from("/proc/sys/kernel/osrelease");
    match fs::read_to_string(&path) {
        Ok(release) => Ok(release.trim().to_owned()),
        Err(error) => Err(Missing::Io { what: "read", path, error }),
    }
}

/// Major and minor of a kernel release.
pub fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Which of our capabilities `/proc/self/status` does not list as effective.
fn missing_capabilities(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        // Unreadable: let the kernel be the judge.
        .unwrap_or(u64::MAX);
    let has = |bit: u32| effective & (1 << bit) != 0;
    let all = has(CAP_SYS_ADMIN);
    CAPABILITIES
        .iter()
        .filter(|(name, bit)| !has(*bit) && (!all || *name == "CAP_NET_ADMIN"))
        .map(|(name, _)| *name)
        .collect()
}

/// The cgroup2 directory to attach to: the one given, or where cgroup2 is mounted.
pub fn cgroup_root(given: Option<&Path>) -> Result<PathBuf, Missing> {
    match given {
        Some(path) if file_system("--cgroup-root", path)? == CGROUP2_MAGIC && path.is_dir() => {
            Ok(path.to_owned())
        }
        Some(path) => Err(Missing::NotCgroup2 { path: path.to_owned() }),
        None => mounted("cgroup2")?.ok_or(Missing::NoCgroup2),
    }
}

/// The directory to pin in: the one given, made if need be, or where bpffs is mounted.
pub fn bpffs(given: Option<&Path>) -> Result<PathBuf, Missing> {
    let Some(path) = given else {
        return mounted("bpf")?.ok_or(Missing::NoBpffs);
    };
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(path);
    if file_system("--bpffs", existing)? != BPF_FS_MAGIC {
        return Err(Missing::NotBpffs { path: path.to_owned() });
    }
    fs::create_dir_all(path).map_err(|error| Missing::Io {
        what: "create directory",
        path: path.to_owned(),
        error,
    })?;
    Ok(path.to_owned())
}

/// As [`bpffs`], for commands that only read: nothing is made.
pub fn bpffs_to_read(given: Option<&Path>) -> Result<PathBuf, Missing> {
    match given {
        Some(path) if file_system("--bpffs", path)? == BPF_FS_MAGIC => Ok(path.to_owned()),
        Some(path) => Err(Missing::NotBpffs { path: path.to_owned() }),
        None => mounted("bpf")?.ok_or(Missing::NoBpffs),
    }
}

/// Id of a cgroup, as link info shows it: the inode of its directory.
pub fn cgroup_id(path: &Path) -> Result<u64, Missing> {
    match fs::metadata(path) {
        Ok(metadata) => Ok(metadata.ino()),
        Err(error) => Err(Missing::Io { what: "stat", path: path.to_owned(), error }),
    }
}

/// Magic number of the file system that a flag's path is on.
fn file_system(flag: &'static str, path: &Path) -> Result<i64, Missing> {
    let io = |error| Missing::Io { what: flag, path: path.to_owned(), error };
    let c_path =
        CString::new(path.as_os_str().as_bytes()).map_err(|error| io(io::Error::other(error)))?;
    // SAFETY: plain integers; zero is valid.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: a valid path and a buffer of the right type.
    if unsafe { libc::statfs(c_path.as_ptr(), &raw mut stat) } != 0 {
        return Err(io(io::Error::last_os_error()));
    }
    Ok(stat.f_type)
}

fn mounted(file_system: &str) -> Result<Option<PathBuf>, Missing> {
    let path = PathBuf::from("/proc/self/mountinfo");
    match fs::read_to_string(&path) {
        Ok(mounts) => Ok(find_mount(&mounts, file_system)),
        Err(error) => Err(Missing::Io { what: "read", path, error }),
    }
}

/// The first mount point of a file system type in `/proc/self/mountinfo` (proc(5)).
fn find_mount(mountinfo: &str, file_system: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, super_block) = line.split_once(" - ")?;
        let is_it = super_block.split(' ').next() == Some(file_system);
        is_it.then(|| mount.split(' ').nth(4)).flatten().map(PathBuf::from)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_on_hybrid_hosts() {
        let mountinfo = "\
            25 30 0:23 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro\n\
            26 25 0:24 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n\
            27 30 0:25 / /sys/fs/bpf rw - bpf bpf rw,mode=700\n";
        let cgroup = find_mount(mountinfo, "cgroup2");
        assert_eq!(cgroup, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(find_mount(mountinfo, "bpf"), Some(PathBuf::from("/sys/fs/bpf")));
        assert_eq!(find_mount(mountinfo, "xfs"), None);
    }

    #[test]
    fn kernel_releases_are_compared_by_number() {
        assert_eq!(parse_release("6.18.44-fc-v595"), Some((6, 18)));
        assert_eq!(parse_release("5.4.0-generic"), Some((5, 4)));
        assert!(parse_release("5.4.0").is_some_and(|version| version < KERNEL_FLOOR));
        assert!(parse_release("5.15.0").is_some_and(|version| version >= KERNEL_FLOOR));
        assert_eq!(parse_release("next"), None);
    }

    #[test]
    fn missing_capabilities_are_named() {
        let none = "CapEff:\t0000000000000000\n";
        assert_eq!(missing_capabilities(none), ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"]);
        let three = format!("CapEff:\t{:016x}\n", 1_u64 << 39 | 1 << 12 | 1 << 38);
        assert!(missing_capabilities(&three).is_empty());
        let admin = format!("CapEff:\t{:016x}\n", 1_u64 << 21);
        assert_eq!(missing_capabilities(&admin), ["CAP_NET_ADMIN"]);
    }

    #[test]
    fn a_directory_that_is_no_bpffs_is_named() {
        let error = bpffs(Some(Path::new("/proc"))).unwrap_err();
        assert!(error.to_string().contains("--bpffs /proc: not on a BPF file system"), "{error}");
        let error = cgroup_root(Some(Path::new("/proc"))).unwrap_err();
        assert!(error.to_string().contains("--cgroup-root /proc: not a cgroup2"), "{error}");
    }
}
