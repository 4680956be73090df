//! The guest's file system: a cpio archive that the kernel unpacks into memory.
//!
//! The programs in it are those that all other tests run, with the shared libraries of this
//! machine beside them: nothing is compiled for the guest alone.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

/// Programs of this repository, and where the guest has them.
const OURS: [(&str, &str); 3] = [
    ("millrace-guest", "/init"),
    ("millrace", "/bin/millrace"),
    ("millrace-probe", "/bin/millrace-probe"),
];
/// Programs of this machine that the lab uses.
const SYSTEM: [&str; 2] = ["ip", "bridge"];
/// Where file systems are mounted, and what programs take for granted.
const DIRECTORIES: [&str; 7] = ["/proc", "/sys", "/dev", "/run", "/tmp", "/etc", "/root"];

/// File type bits of a mode (cpio's are stat's).
const FILE: u32 = 0o100_000;
/// As above.
const DIRECTORY: u32 = 0o040_000;
/// As above.
const CHARACTER_DEVICE: u32 = 0o020_000;
/// Major and minor number of the console, which the first process writes to.
const CONSOLE: (u32, u32) = (5, 1);
/// Alignment of headers and contents in the archive.
const ALIGNMENT: usize = 4;

/// The base of every guest: directories, console, programs, libraries.
pub fn programs() -> Result<Archive> {
    let mut archive = Archive::default();
    for directory in DIRECTORIES {
        archive.directory(directory);
    }
    archive.entry("/dev/console", CHARACTER_DEVICE | 0o600, CONSOLE, &[]);
    let mut libraries = BTreeSet::new();
    for (name, place) in OURS {
        let program = command::release_binary(name);
        libraries.extend(libraries_of(&program)?);
        archive.file(place, 0o755, &stripped(&program)?);
    }
    for name in SYSTEM {
        let program = command::find_program(name).with_context(|| format!("{name} is not here"))?;
        libraries.extend(libraries_of(&program)?);
        archive.file(&format!("/bin/{name}"), 0o755, &read(&program)?);
    }
    for library in libraries {
        archive.file(&library, 0o755, &read(Path::new(&library))?);
    }
    Ok(archive)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("read {}", path.display()))
}

/// A program without its debug information, which is nine tenths of it.
fn stripped(program: &Path) -> Result<Vec<u8>> {
    let name = program.file_name().unwrap_or_default();
    let copy = super::cache_dir().join(name);
    let mut strip = Command::new("strip");
    command::run(strip.arg("-o").arg(&copy).arg(program))?;
    let content = read(&copy)?;
    fs::remove_file(&copy).with_context(|| format!("remove {}", copy.display()))?;
    Ok(content)
}

/// Paths of the shared libraries a program loads, its loader included.
fn libraries_of(program: &Path) -> Result<Vec<String>> {
    let mode = fs::metadata(program).with_context(|| format!("find {}", program.display()))?;
    if mode.permissions().mode() & 0o111 == 0 {
        bail!("{} is no program", program.display());
    }
    // It fails for a static program, which needs none.
    Ok(parse_ldd(&command::output_of(Command::new("ldd").arg(program)).unwrap_or_default()))
}

/// Reads lines such as `libc.so.6 => /lib/libc.so.6 (0x7f)` and `/lib64/ld.so (0x7f)`.
fn parse_ldd(text: &str) -> Vec<String> {
    let path = |line: &str| {
        let place = line.rsplit_once(" (")?.0.trim();
        let path = place.split_once(" => ").map_or(place, |(_, path)| path);
        path.starts_with('/').then(|| path.to_owned())
    };
    text.lines().filter_map(path).collect()
}

/// A cpio archive in the making ("newc", Documentation/driver-api/early-userspace in Linux).
#[derive(Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Archive {
    /// Adds a file, and the directories above it.
    pub fn file(&mut self, path: &str, mode: u32, content: &[u8]) {
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
        self.entry(path, FILE | mode, (0, 0), content);
    }

    /// Adds a directory, and those above it, once.
    pub fn directory(&mut self, path: &str) {
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.directory(above);
        }
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// The whole of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inode += 1;
        let name = path.trim_start_matches('/');
        let size = u32::try_from(content.len()).expect("no file of the guest has 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("paths are short");
        let (owner, links, time, own_device, check) = (0, 1, 0, 0, 0);
        self.bytes.extend_from_slice(b"070701");
        for field in [
            self.inode, mode, owner, owner, links, time, size, own_device, own_device, device.0,
            device.1, name_size, check,
        ] {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_and_the_loader_are_found() {
        let text = "\tlinux-vdso.so.1 (0x7ffc)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f5d)\n\
                    \t/lib64/ld-linux.so.2 (0x7f5e)\n\tstatically linked\n";
        assert_eq!(parse_ldd(text), ["/lib/libc.so.6", "/lib64/ld-linux.so.2"]);
    }

    #[test]
    fn directories_come_once_and_before_what_is_in_them() {
        let mut archive = Archive::default();
        archive.file("/a/b/c", 0o644, b"hello");
        archive.file("/a/b/d", 0o644, b"");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(name).unwrap();
        assert!(at("a\0") < at("a/b\0") && at("a/b\0") < at("a/b/c\0"));
        assert_eq!(text.matches("070701").count(), 5);
        assert!(text.contains("hello") && text.contains("TRAILER!!!"));
        // Inode, mode, owner, group, links, time, size.
        assert!(text.contains("00000003000081a4000000000000000000000001000000000000000500"));
    }
}
