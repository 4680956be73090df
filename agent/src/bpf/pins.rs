//! What lies where under bpffs, and who owns it. (bpffs refuses names with a dot.)
//!
//! ```text
//! <bpffs>/millrace/             owned by one agent at a time (flock)
//!   v<ABI>/<map>                maps; their layout is part of the path
//!   v<ABI>-new/<map>            maps being filled for another size or layout, then renamed
//!   links/<program>             links; they outlive every change of programs and maps
//!   links/tcx-<in|out>-<index>  links to devices
//! ```

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use millrace_common::ABI_VERSION;

use super::sys;

/// Paths below one bpffs directory.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Below `bpffs`.
    pub fn new(bpffs: &Path) -> Self {
        Self { root: bpffs.join("millrace") }
    }

    /// The directory of everything.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The maps in force.
    pub fn maps(&self) -> PathBuf {
        self.maps_of(ABI_VERSION)
    }

    /// The maps of another version of the layout.
    pub fn maps_of(&self, version: u32) -> PathBuf {
        self.root.join(format!("v{version}"))
    }

    /// The latest version before ours that has left maps.
    pub fn predecessor(&self) -> io::Result<Option<u32>> {
        let mut versions = Vec::new();
        for entry in fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            let version = name.to_string_lossy().strip_prefix('v').map(str::parse::<u32>);
            versions.extend(version.into_iter().flatten());
        }
        Ok(versions.into_iter().filter(|version| *version < ABI_VERSION).max())
    }

    /// Maps that are being filled.
    pub fn new_maps(&self) -> PathBuf {
        self.root.join(format!("v{ABI_VERSION}-new"))
    }

    /// The links.
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Open a map in force; nothing if it is not there.
    pub fn open_map(&self, name: &str) -> io::Result<Option<OwnedFd>> {
        self.open_map_of(ABI_VERSION, name)
    }

    /// The same of another version.
    pub fn open_map_of(&self, version: u32, name: &str) -> io::Result<Option<OwnedFd>> {
        open(&self.maps_of(version).join(name))
    }

    /// Open a program's link; nothing if it is not there.
    pub fn open_link(&self, program: &str) -> io::Result<Option<OwnedFd>> {
        open(&self.links().join(program))
    }

    /// Make the directories and forget what an interrupted start left half-filled.
    pub fn prepare(&self) -> io::Result<()> {
        remove(&self.new_maps())?;
        fs::create_dir_all(self.maps())?;
        fs::create_dir_all(self.links())
    }

    /// Remove what a start that failed has made: its maps, and the directories if nothing else is
    /// in them. Fails quietly: there is an error to report already.
    pub fn forget(&self, maps: &Path) {
        let _ = remove(maps);
        for directory in [self.links(), self.maps(), self.root.clone()] {
            let _ = fs::remove_dir(directory);
        }
    }

    /// Put the newly filled maps in force. Programs already use them: only their names move.
    pub fn promote_new_maps(&self) -> io::Result<()> {
        remove(&self.maps())?;
        fs::rename(self.new_maps(), self.maps())
    }

    /// Remove the maps of other layouts: no program uses them any more.
    pub fn forget_other_layouts(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.root)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let is_layout = name.strip_prefix('v').is_some_and(|rest| {
                let number = rest.strip_suffix("-new").unwrap_or(rest);
                !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
            });
            if is_layout && path != self.maps() && path != self.new_maps() {
                remove(&path)?;
            }
        }
        Ok(())
    }

    /// Remove every pin: maps and links vanish with their last user.
    pub fn remove_all(&self) -> io::Result<()> {
        remove(&self.root)
    }

    /// Become the owner until the value is dropped; nothing if another process is.
    pub fn lock(&self) -> io::Result<Option<Lock>> {
        self.flock(libc::LOCK_EX)
    }

    /// Whether a process owns the pins.
    pub fn is_owned(&self) -> io::Result<bool> {
        Ok(self.flock(libc::LOCK_SH)?.is_none())
    }

    fn flock(&self, how: i32) -> io::Result<Option<Lock>> {
        let directory = File::open(&self.root)?;
        // SAFETY: an open descriptor and valid flags.
        if unsafe { libc::flock(directory.as_raw_fd(), how | libc::LOCK_NB) } == 0 {
            return Ok(Some(Lock { directory }));
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EWOULDBLOCK) => Ok(None),
            error => Err(error),
        }
    }
}

impl Lock {
    /// Let the next owner in, without waiting for the rest of this process to end.
    pub fn release(&self) {
        // SAFETY: an open descriptor and a valid flag. Unlocking what one holds does not fail.
        unsafe { libc::flock(self.directory.as_raw_fd(), libc::LOCK_UN) };
    }
}

/// Ownership of the pins; the kernel releases it with the process, however that ends.
#[derive(Debug)]
pub struct Lock {
    directory: File,
}

fn open(path: &Path) -> io::Result<Option<OwnedFd>> {
    match sys::obj_get(path) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_version_before_ours_is_the_predecessor() {
        let place = std::env::temp_dir().join(format!("millrace-older-{}", std::process::id()));
        let pins = Pins::new(&place);
        fs::create_dir_all(pins.links()).unwrap();
        assert_eq!(pins.predecessor().unwrap(), None);
        let newer = format!("v{}", ABI_VERSION + 1);
        for name in ["v2", "v3", "v4-new", "v", "vx", &newer] {
            fs::create_dir_all(pins.root().join(name)).unwrap();
        }
        fs::create_dir_all(pins.maps()).unwrap();
        assert_eq!(pins.predecessor().unwrap(), Some(3));
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn maps_of_other_layouts_go_and_nothing_else_does() {
        let place = std::env::temp_dir().join(format!("millrace-pins-{}", std::process::id()));
        let pins = Pins::new(&place);
        let [ours, new] = [pins.maps(), pins.new_maps()];
        let others = ["v1", "v1-new", "v999"].map(|name| pins.root().join(name));
        let kept = [ours, new, pins.links(), pins.root().join("various")];
        for directory in others.iter().chain(&kept) {
            fs::create_dir_all(directory.join("map")).unwrap();
        }
        pins.forget_other_layouts().unwrap();
        assert!(others.iter().all(|directory| !directory.exists()));
        assert!(kept.iter().all(|directory| directory.exists()));
        fs::remove_dir_all(&place).unwrap();
    }
}
