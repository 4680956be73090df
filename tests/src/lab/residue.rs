//! Teardown by name, and what must not be left.
//!
//! Everything a lab makes carries its id, so that teardown needs nothing but the id: it works for
//! the lab's own process, for `lab down`, and for what a killed test run left behind.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::system;
use crate::wait;

/// How long killed processes may take to leave their cgroup.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// Whether a signal has come that removes labs.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Everything on this machine that carries the lab's id. Empty after teardown.
pub fn residue(id: &str) -> Vec<String> {
    let mut left = Vec::new();
    for name in namespaces(id) {
        left.push(format!("namespace {name}"));
    }
    for directory in directories(id) {
        if directory.exists() {
            left.push(format!("directory {}", directory.display()));
        }
    }
    let prefix = format!("{id}-");
    for link in system::names_in(Path::new("/sys/class/net")) {
        if link.starts_with(&prefix) {
            left.push(format!("link {link}"));
        }
    }
    left
}

/// Removes everything that carries the id. Goes on after an error and reports the first.
pub fn teardown(id: &str) -> Result<()> {
    let mut first = Ok(());
    let mut note = |result: Result<()>| {
        if first.is_ok() {
            first = result;
        }
    };
    let cgroup = cgroup_of(id);
    note(kill_all(&cgroup));
    // Pins before cgroups: a link that is still pinned would outlive its cgroup's directory.
    note(remove_tree(&bpffs_of(id)));
    note(remove_cgroups(&cgroup));
    for name in namespaces(id) {
        note(remove_namespace(&Path::new(system::NETNS_DIR).join(name)));
    }
    note(remove_tree(&run_of(id)));
    first
}

/// Removes the labs of processes that are dead.
///
/// Labs that are meant to outlive their process (`lab up`, `demo --keep`) have no process id in
/// their name and are left alone.
pub fn clean_stale() -> Result<()> {
    ids(stale_id).iter().try_for_each(|id| teardown(id))
}

/// Removes the lab when this process is interrupted, then ends it.
///
/// For programs, before they start threads; tests rely on [`clean_stale`] instead.
pub fn teardown_on_signal(id: &str) {
    let id = id.to_owned();
    on_signal(move || teardown(&id).with_context(|| format!("remove lab {id}")));
}

/// The same for every lab that this process has made by then.
pub fn teardown_all_on_signal() {
    // Another thread may have been at it when the signal came: again, until none is left.
    on_signal(|| {
        wait::until("all labs to be removed", KILL_TIMEOUT, || {
            let results: Vec<_> = ids(own_id).iter().map(|id| teardown(id)).collect();
            results.into_iter().collect()
        })
    });
}

fn on_signal(work: impl FnOnce() -> Result<()> + Send + 'static) {
    // SAFETY: the set is initialised by sigemptyset before its first use, and only this thread
    // runs, so every later thread inherits the mask.
    let signals = unsafe {
        let mut signals: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut signals);
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            libc::sigaddset(&mut signals, signal);
        }
        libc::pthread_sigmask(libc::SIG_BLOCK, &signals, std::ptr::null_mut());
        signals
    };
    std::thread::spawn(move || {
        let mut signal = 0;
        // SAFETY: both pointers are to live values of this thread.
        unsafe { libc::sigwait(&signals, &mut signal) };
        INTERRUPTED.store(true, Ordering::SeqCst);
        if let Err(error) = work() {
            eprintln!("{error:#}");
        }
        std::process::exit(128 + signal);
    });
}

/// Leaves the removal to the thread that a signal woke, which then ends the process.
pub(super) fn leave_to_signal() {
    while INTERRUPTED.load(Ordering::SeqCst) {
        std::thread::park();
    }
}

/// Ids of labs, of those names that `id_of` finds one in.
fn ids(id_of: impl Fn(&str) -> Option<String>) -> BTreeSet<String> {
    all_names().iter().filter_map(|name| id_of(name)).collect()
}

fn all_names() -> Vec<String> {
    let mut names = system::names_in(Path::new(system::NETNS_DIR));
    names.extend(system::names_in(Path::new(system::RUN_DIR)));
    for parent in [system::cgroup2().ok(), Some(PathBuf::from(system::BPFFS))].into_iter().flatten()
    {
        let found = system::names_in(&parent);
        names.extend(found.iter().filter_map(|n| n.strip_prefix("millrace-").map(str::to_owned)));
    }
    names
}

/// `mr-<pid>-<counter>` at the start of a name, if that process is dead.
fn stale_id(name: &str) -> Option<String> {
    let (pid, id) = process_and_id(name)?;
    let alive = Path::new("/proc").join(pid.to_string()).exists();
    (!alive).then_some(id)
}

/// The same, if the process is this one.
fn own_id(name: &str) -> Option<String> {
    let (pid, id) = process_and_id(name)?;
    (pid == std::process::id()).then_some(id)
}

fn process_and_id(name: &str) -> Option<(u32, String)> {
    let mut parts = name.strip_prefix("mr-")?.split('-');
    let pid: u32 = parts.next()?.parse().ok()?;
    let counter: u32 = parts.next()?.parse().ok()?;
    Some((pid, format!("mr-{pid}-{counter}")))
}

fn namespaces(id: &str) -> Vec<String> {
    let prefix = format!("{id}-");
    let all = system::names_in(Path::new(system::NETNS_DIR));
    all.into_iter().filter(|name| name.starts_with(&prefix)).collect()
}

/// The lab's cgroup below cgroup2's mount.
pub fn cgroup_of(id: &str) -> PathBuf {
    system::cgroup2().unwrap_or_else(|_| "/sys/fs/cgroup".into()).join(format!("millrace-{id}"))
}

/// The lab's directory in bpffs.
pub fn bpffs_of(id: &str) -> PathBuf {
    Path::new(system::BPFFS).join(format!("millrace-{id}"))
}

/// The lab's directory of manifests, logs and state.
pub fn run_of(id: &str) -> PathBuf {
    Path::new(system::RUN_DIR).join(id)
}

fn directories(id: &str) -> [PathBuf; 3] {
    [cgroup_of(id), bpffs_of(id), run_of(id)]
}

/// Ends every process in the lab's cgroup tree; only the lab puts processes there.
fn kill_all(cgroup: &Path) -> Result<()> {
    if !cgroup.exists() {
        return Ok(());
    }
    let kill = cgroup.join("cgroup.kill");
    if kill.exists() {
        fs::write(kill, "1")?;
    } else {
        kill_one_by_one(cgroup)?;
    }
    let events = cgroup.join("cgroup.events");
    wait::until("the lab's processes to end", KILL_TIMEOUT, || {
        let text = fs::read_to_string(&events)?;
        ensure!(text.contains("populated 0"), "{} has processes", cgroup.display());
        Ok(())
    })
}

/// As `cgroup.kill`, for kernels below 5.14. The lab's own programs do not fork any more.
fn kill_one_by_one(cgroup: &Path) -> Result<()> {
    for id in fs::read_to_string(cgroup.join("cgroup.procs"))?.lines() {
        // SAFETY: takes numbers; the process is one that the lab put here.
        unsafe { libc::kill(id.parse()?, libc::SIGKILL) };
    }
    for entry in fs::read_dir(cgroup)?.flatten() {
        if entry.file_type()?.is_dir() {
            kill_one_by_one(&entry.path())?;
        }
    }
    Ok(())
}

/// A cgroup goes only from the leaves, and its files cannot be removed one by one.
fn remove_cgroups(cgroup: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(cgroup) else { return Ok(()) };
    for entry in entries.flatten() {
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    // A process that was just killed can hold the directory for a moment longer.
    wait::until("a cgroup to be removable", KILL_TIMEOUT, || Ok(fs::remove_dir(cgroup)?))
}

/// Removes one pod's processes, cgroup and namespace.
pub(super) fn remove_pod(cgroup: &Path, netns: &Path) -> Result<()> {
    kill_all(cgroup)?;
    remove_cgroups(cgroup)?;
    remove_namespace(netns)
}

fn remove_namespace(path: &Path) -> Result<()> {
    let c_path = CString::new(path.to_string_lossy().as_bytes())?;
    // SAFETY: the path is NUL-terminated; failure means it was not mounted, which is as good.
    unsafe { libc::umount2(c_path.as_ptr(), libc::MNT_DETACH) };
    Ok(fs::remove_file(path)?)
}

fn remove_tree(path: &Path) -> Result<()> {
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_labs_of_dead_processes_are_stale() {
        let own = std::process::id();
        assert_eq!(stale_id(&format!("mr-{own}-1-n1")), None);
        assert_eq!(stale_id("mr-4194304-7-n1-web"), Some("mr-4194304-7".into()));
        assert_eq!(stale_id("mr-up-n1"), None, "labs kept for a person are not stale");
        assert_eq!(stale_id("cni-1234"), None);
        assert_eq!(own_id(&format!("mr-{own}-1-n1")), Some(format!("mr-{own}-1")));
        assert_eq!(own_id("mr-4194304-7-n1-web"), None);
    }
}
