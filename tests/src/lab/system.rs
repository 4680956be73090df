//! What the lab needs from the machine: root, cgroup2, bpffs, a directory for its state.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

/// Where named network namespaces are mounted (iproute2's convention).
pub const NETNS_DIR: &str = "/run/netns";
/// Manifests, logs and state files of labs.
pub const RUN_DIR: &str = "/run/millrace-lab";
/// The bpf filesystem.
pub const BPFFS: &str = "/sys/fs/bpf";

/// Fails with one sentence when the process is not root.
pub fn require_root() -> Result<()> {
    // SAFETY: geteuid has no preconditions.
    let user = unsafe { libc::geteuid() };
    ensure!(user == 0, "the lab makes namespaces and cgroups and needs root: run it with sudo");
    Ok(())
}

/// Where cgroup2 is mounted: alone, or beside version 1 in hybrid layouts.
pub fn cgroup2() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mount table")?;
    match mount_point(&mounts, "cgroup2") {
        Some(path) => Ok(path),
        None => bail!("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified"),
    }
}

/// The bpf filesystem, mounted now if it was not.
pub fn bpffs() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read the mount table")?;
    if let Some(path) = mount_point(&mounts, "bpf") {
        return Ok(path);
    }
    // SAFETY: all arguments are static NUL-terminated strings, the data pointer may be null.
    let code = unsafe {
        libc::mount(c"bpf".as_ptr(), c"/sys/fs/bpf".as_ptr(), c"bpf".as_ptr(), 0, std::ptr::null())
    };
    let error = io::Error::last_os_error();
    ensure!(code == 0, "bpffs is not mounted and cannot be mounted at {BPFFS}: {error}");
    Ok(PathBuf::from(BPFFS))
}

fn mount_point(mounts: &str, kind: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ');
        let (_, path, found) = (fields.next()?, fields.next()?, fields.next()?);
        (found == kind).then(|| PathBuf::from(path))
    })
}

/// The names in a directory; empty when it is not there.
pub fn names_in(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_found_by_filesystem_type() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(mount_point(mounts, "cgroup2"), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(mount_point(mounts, "bpf"), None);
    }
}
