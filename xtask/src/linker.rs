//! bpf-linker: finding one, reading which LLVM it carries, building our own.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::command::{self, Log};
use crate::packages::LLVM_MAJOR;

/// The version tried with the workspace's aya.
const VERSION: &str = "0.13.0";

/// A bpf-linker that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Linker {
    /// The program.
    pub path: PathBuf,
    /// What it calls itself.
    pub version: String,
    /// The major version of its LLVM; none when LLVM is linked into it and cannot be told.
    pub llvm_major: Option<u32>,
}

impl Linker {
    /// For messages: version, LLVM, place.
    pub fn describe(&self) -> String {
        let llvm = self.llvm_major.map_or("built in".to_owned(), |major| major.to_string());
        format!("{} (LLVM {llvm}, {})", self.version, self.path.display())
    }
}

/// Our own copy lives below `target`, so that nothing outside the clone changes and no later
/// process needs `~/.cargo/bin` in its `PATH`.
fn tools_dir() -> PathBuf {
    command::root().join("target/tools")
}

/// Every bpf-linker that runs: ours, cargo's, those in `PATH`.
pub fn find_all() -> Vec<Linker> {
    let cargo_home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo"));
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs = vec![tools_dir().join("bin")];
    dirs.extend([cargo_home, home].into_iter().flatten().map(|dir| dir.join("bin")));
    dirs.extend(env::split_paths(&path));
    let mut linkers: Vec<Linker> = Vec::new();
    for file in dirs.iter().map(|dir| dir.join("bpf-linker")) {
        if !linkers.iter().any(|known| known.path == file) {
            linkers.extend(inspect(&file));
        }
    }
    linkers
}

/// Runs the program: one whose LLVM library has gone does not count.
fn inspect(path: &Path) -> Option<Linker> {
    if !path.is_file() {
        return None;
    }
    let version = command::output_of(Command::new(path).arg("--version"))?.trim().to_owned();
    let llvm_major = llvm_major(&fs::read(path).ok()?);
    Some(Linker { path: path.to_path_buf(), version, llvm_major })
}

/// Reads the name of the LLVM library among the program's strings: `libLLVM.so.22.1`, or
/// `libLLVM-21.so` as it was called before.
fn llvm_major(binary: &[u8]) -> Option<u32> {
    const NAME: &[u8] = b"libLLVM";
    let starts = binary.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    starts.map(|(start, _)| &binary[start + NAME.len()..]).find_map(|rest| {
        let digits = rest.strip_prefix(b".so.").or_else(|| rest.strip_prefix(b"-"))?;
        let count = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        std::str::from_utf8(&digits[..count]).ok()?.parse().ok()
    })
}

/// Builds bpf-linker against Debian's LLVM.
pub fn install(log: &Log) -> Result<()> {
    let build = tools_dir().join("build");
    let mut cargo = command::cargo();
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{LLVM_MAJOR}")]);
    cargo.arg("--root").arg(tools_dir()).arg("--target-dir").arg(&build);
    cargo.env("LLVM_PREFIX", format!("/usr/lib/llvm-{LLVM_MAJOR}"));
    cargo.env("CARGO_TERM_COLOR", "never");
    log.run(&format!("building bpf-linker {VERSION} (1-2 minutes)"), &mut cargo)?;
    // A few hundred megabytes nobody needs again; failing to remove them harms nothing.
    let _ = fs::remove_dir_all(build);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_llvm_of_dynamic_linkers() {
        assert_eq!(llvm_major(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_major(b"\0libLLVM-21.so\0"), Some(21));
        assert_eq!(llvm_major(b"a static build names no libLLVM library"), None);
    }

    #[test]
    fn a_file_that_does_not_run_is_no_linker() {
        assert_eq!(inspect(Path::new("/nonexistent/bpf-linker")), None);
        assert_eq!(inspect(Path::new("/etc/hostname")), None);
    }
}
