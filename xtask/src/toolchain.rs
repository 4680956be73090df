//! How Rust becomes BPF on this machine.
//!
//! Two compilers can do it: rustup's nightly with `rust-src`, or Debian's rustc-web, a stable
//! compiler that `RUSTC_BOOTSTRAP` lets use `-Z build-std`. Both hand LLVM bitcode to bpf-linker,
//! which reads it only when it carries the same major version of LLVM.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::command;
use crate::linker::{self, Linker};

/// The workspace's `rust-version` is 1.95; a BPF compiler must not be older.
pub const RUST_MINOR: u32 = 95;

/// A compiler that can build `core` for BPF.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiler {
    /// For messages, with the version.
    pub name: String,
    /// The compiler itself, no rustup proxy.
    pub rustc: PathBuf,
    /// The cargo of the same version.
    pub cargo: PathBuf,
    /// The major version of its LLVM.
    pub llvm_major: u32,
}

/// What there is on this machine. A compiler that will not do says why.
pub struct Found {
    /// rustup's nightly.
    pub nightly: Result<Compiler, String>,
    /// Debian's rustc-web.
    pub debian: Result<Compiler, String>,
    /// Every bpf-linker that runs.
    pub linkers: Vec<Linker>,
}

/// A compiler and a linker that fit each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Toolchain {
    /// Compiles to bitcode.
    pub compiler: Compiler,
    /// Makes the object of it.
    pub linker: Linker,
}

impl Toolchain {
    /// For messages.
    pub fn describe(&self) -> String {
        let Compiler { name, llvm_major, .. } = &self.compiler;
        format!("{name} (LLVM {llvm_major}) with {}", self.linker.describe())
    }
}

/// Names the compiler to take, `nightly` or `debian`, where both would do and one is broken.
const CHOICE: &str = "MILLRACE_BPF_TOOLCHAIN";

/// Looks at the machine.
pub fn find() -> Found {
    let choice = env::var(CHOICE).ok();
    let unless_other = |name: &str, find: fn() -> Result<Compiler, String>| match &choice {
        Some(other) if other != name => Err(format!("{CHOICE} is `{other}`")),
        _ => find(),
    };
    Found {
        nightly: unless_other("nightly", find_nightly),
        debian: unless_other("debian", find_debian),
        linkers: linker::find_all(),
    }
}

impl Found {
    /// The compilers that will do, the preferred one first.
    pub fn compilers(&self) -> impl Iterator<Item = &Compiler> {
        self.nightly.iter().chain(self.debian.iter())
    }

    /// The first compiler, in order of preference, that has a linker with its LLVM.
    pub fn choose(&self) -> Result<Toolchain, String> {
        for compiler in self.compilers() {
            let fits = |linker: &&Linker| {
                linker.llvm_major.is_none_or(|major| major == compiler.llvm_major)
            };
            if let Some(linker) = self.linkers.iter().find(fits) {
                return Ok(Toolchain { compiler: compiler.clone(), linker: linker.clone() });
            }
        }
        Err(self.explain())
    }

    /// Why there is no toolchain.
    fn explain(&self) -> String {
        let line = |name: &str, found: &Result<Compiler, String>| match found {
            Ok(compiler) => format!("{} has LLVM {}", compiler.name, compiler.llvm_major),
            Err(reason) => format!("{name}: {reason}"),
        };
        let mut lines = vec![line("nightly", &self.nightly), line("Debian", &self.debian)];
        lines.extend(self.linkers.iter().map(Linker::describe));
        if self.linkers.is_empty() {
            lines.push("bpf-linker: none found that runs".to_owned());
        } else if self.compilers().next().is_some() {
            lines.push("compiler and linker must carry the same major version of LLVM".to_owned());
        }
        lines.join("\n    ")
    }
}

fn find_nightly() -> Result<Compiler, String> {
    let which = |program: &str| {
        let mut rustup = Command::new("rustup");
        rustup.args(["which", "--toolchain", "nightly", program]);
        // Looking must not download a toolchain.
        rustup.env("RUSTUP_AUTO_INSTALL", "0");
        command::output_of(&mut rustup).map(|path| PathBuf::from(path.trim()))
    };
    let (Some(rustc), Some(cargo)) = (which("rustc"), which("cargo")) else {
        return Err("no nightly toolchain of rustup's".to_owned());
    };
    let sysroot = rustc.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let sources = sysroot.join("lib/rustlib/src/rust/library/core");
    if !sources.is_dir() {
        return Err("the nightly toolchain lacks its rust-src component".to_owned());
    }
    describe_compiler("rustup's nightly", rustc, cargo)
}

fn find_debian() -> Result<Compiler, String> {
    let (rustc, cargo) = (PathBuf::from("/usr/bin/rustc"), PathBuf::from("/usr/bin/cargo"));
    if !rustc.is_file() || !cargo.is_file() {
        return Err("rustc-web and cargo-web are not installed".to_owned());
    }
    if !Path::new("/usr/lib/rustlib/src/rust/library/core").is_dir() {
        return Err("rust-web-src is not installed".to_owned());
    }
    describe_compiler("Debian's rustc-web", rustc, cargo)
}

/// Asks the compiler for its version and LLVM.
fn describe_compiler(name: &str, rustc: PathBuf, cargo: PathBuf) -> Result<Compiler, String> {
    let mut verbose = Command::new(&rustc);
    verbose.arg("-vV");
    // rustup's library path would give another rustc the wrong libraries.
    verbose.env_remove("LD_LIBRARY_PATH");
    let text = command::output_of(&mut verbose)
        .ok_or_else(|| format!("{} does not run", rustc.display()))?;
    let (release, llvm_major) = parse_version(&text)
        .ok_or_else(|| format!("cannot read the version of {}", rustc.display()))?;
    if minor_version(release) < Some(RUST_MINOR) {
        return Err(format!("{name} {release} is older than the 1.{RUST_MINOR} we need"));
    }
    Ok(Compiler { name: format!("{name} {release}"), rustc, cargo, llvm_major })
}

/// Release and LLVM's major version, from `rustc -vV`.
fn parse_version(text: &str) -> Option<(&str, u32)> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name));
    let llvm = field("LLVM version: ")?;
    Some((field("release: ")?, llvm.split('.').next()?.parse().ok()?))
}

/// The minor version of a Rust release, `95` of `1.95.0+dfsg1`.
pub fn minor_version(release: &str) -> Option<u32> {
    let mut parts = release.split(['.', '-', '+']);
    (parts.next() == Some("1")).then(|| parts.next()?.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiler(name: &str, llvm_major: u32) -> Compiler {
        Compiler { name: name.to_owned(), rustc: "rustc".into(), cargo: "cargo".into(), llvm_major }
    }

    fn linker(llvm_major: Option<u32>) -> Linker {
        let path = PathBuf::from(format!("/bin/bpf-linker-{llvm_major:?}"));
        Linker { path, version: "bpf-linker 0.13.0".to_owned(), llvm_major }
    }

    fn found(nightly: Option<u32>, debian: Option<u32>, linkers: &[Option<u32>]) -> Found {
        Found {
            nightly: nightly.map(|llvm| compiler("nightly", llvm)).ok_or("absent".to_owned()),
            debian: debian.map(|llvm| compiler("debian", llvm)).ok_or("absent".to_owned()),
            linkers: linkers.iter().map(|llvm| linker(*llvm)).collect(),
        }
    }

    #[test]
    fn nightly_comes_first_when_a_linker_fits_it() {
        let chosen = found(Some(22), Some(22), &[Some(22)]).choose().unwrap();
        assert_eq!(chosen.compiler.name, "nightly");
    }

    #[test]
    fn the_linker_decides_between_compilers() {
        let chosen = found(Some(23), Some(22), &[Some(21), Some(22)]).choose().unwrap();
        assert_eq!(chosen.compiler.name, "debian");
        assert_eq!(chosen.linker.llvm_major, Some(22));
    }

    #[test]
    fn a_linker_that_does_not_tell_is_trusted() {
        assert!(found(Some(23), None, &[None]).choose().is_ok());
    }

    #[test]
    fn unlike_llvms_are_explained() {
        let text = found(None, Some(22), &[Some(21)]).choose().unwrap_err();
        assert!(text.contains("debian has LLVM 22"), "{text}");
        assert!(text.contains("LLVM 21") && text.contains("same major version"), "{text}");
    }

    #[test]
    fn an_empty_machine_is_explained() {
        let text = found(None, None, &[]).choose().unwrap_err();
        assert!(text.contains("nightly: absent") && text.contains("none found"), "{text}");
    }

    #[test]
    fn reads_rustc_versions() {
        let text = "rustc 1.96.0\nrelease: 1.97.0-nightly\nLLVM version: 22.1.8\n";
        assert_eq!(parse_version(text), Some(("1.97.0-nightly", 22)));
        assert_eq!(minor_version("1.97.0-nightly"), Some(97));
        assert_eq!(minor_version("1.96.0+dfsg1-1~deb12u2"), Some(96));
        assert_eq!(minor_version("2.0.0"), None);
    }
}
