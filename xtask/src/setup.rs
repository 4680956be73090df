//! `cargo xtask setup`: finds what is missing on this machine and installs it.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::command::{self, Log};
use crate::packages::{BPF_COMPILER, COMPILE, KERNELS, LAB, LINKER_BUILD, LLVM_MAJOR, Package};
use crate::toolchain::{self, Found};
use crate::{apt, linker};

/// Installs what is missing; says what there is.
pub fn run() -> Result<()> {
    let start = Instant::now();
    let outcome = if install_missing(Purpose::Everything)? {
        "everything is in place now"
    } else {
        "nothing is missing"
    };
    report(outcome, start)
}

/// Installs what is missing; keeps quiet when nothing is, for commands that have more to say.
pub fn ensure() -> Result<()> {
    let start = Instant::now();
    if install_missing(Purpose::Everything)? {
        report("everything is in place now", start)
    } else {
        Ok(())
    }
}

/// Installs what building alone takes: an image is built where no lab ever runs.
pub fn for_build() -> Result<()> {
    let start = Instant::now();
    install_missing(Purpose::Build)?;
    report("everything that building takes is in place", start)
}

/// What the machine is for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Everything,
    Build,
}

/// Tells whether there was anything to install.
fn install_missing(purpose: Purpose) -> Result<bool> {
    let needs = Needs::of(&toolchain::find(), purpose);
    let missing = apt::missing(&needs.packages);
    if missing.is_empty() && !needs.linker {
        return Ok(false);
    }
    tell(&missing, needs.linker);
    if !missing.is_empty() {
        check_may_install(&missing)?;
    }
    let log = Log::create("setup", command::root().join("target/setup.log"))?;
    if !missing.is_empty() {
        apt::install(&missing, &log)?;
    }
    if needs.linker {
        linker::install(&log)?;
    }
    Ok(true)
}

/// What the machine must have for what was found on it.
struct Needs {
    packages: Vec<Package>,
    linker: bool,
}

impl Needs {
    fn of(found: &Found, purpose: Purpose) -> Self {
        let mut packages = match purpose {
            Purpose::Everything => [COMPILE, LAB, KERNELS].concat(),
            Purpose::Build => COMPILE.to_vec(),
        };
        if found.choose().is_ok() {
            return Self { packages, linker: false };
        }
        // A compiler with Debian's LLVM needs only the linker built; any other none we can build.
        if !found.compilers().any(|compiler| compiler.llvm_major == LLVM_MAJOR) {
            packages.extend(BPF_COMPILER);
        }
        let linker = !found.linkers.iter().any(|linker| linker.llvm_major == Some(LLVM_MAJOR));
        if linker {
            packages.extend(LINKER_BUILD);
        }
        Self { packages, linker }
    }
}

fn tell(missing: &[Package], linker: bool) {
    for package in missing {
        eprintln!("setup: missing {:<16} {}", package.name, package.why);
    }
    if linker {
        eprintln!("setup: missing {:<16} links the BPF object; built from crates.io", "bpf-linker");
    }
}

/// Installing takes Debian's tools and root; without them, says what to run.
fn check_may_install(missing: &[Package]) -> Result<()> {
    if !apt::available() {
        let wanted: Vec<_> = missing.iter().map(|p| p.program.unwrap_or(p.name)).collect();
        bail!(
            "this machine has no apt-get: install {} with its own tools. For BPF, a nightly \
             toolchain with rust-src and a bpf-linker will do",
            wanted.join(", ")
        );
    }
    if !command::is_root() {
        bail!(
            "not root, so nothing was installed. Run this as root, then the same command again:\n\
             \n    {}\n\n\
             (nginx and redis-server start when installed like this; as root, `cargo xtask setup` \
             installs them without starting them)",
            apt::install_line(missing)
        );
    }
    Ok(())
}

/// Looks again, and ends with one line that says which tools will be used.
fn report(outcome: &str, start: Instant) -> Result<()> {
    let found = toolchain::find();
    match found.choose() {
        Ok(chosen) => {
            eprintln!("setup: {outcome} ({})", command::seconds(start.elapsed()));
            eprintln!("setup: Rust to BPF by {}", chosen.describe());
            if let Err(reason) = &found.nightly {
                eprintln!("setup: nightly not taken: {reason}");
            }
            Ok(())
        }
        Err(reasons) => bail!("no way from Rust to BPF:\n    {reasons}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::linker::Linker;
    use crate::toolchain::Compiler;

    fn found(nightly: Option<u32>, debian: Option<u32>, linker: Option<u32>) -> Found {
        let compiler = |llvm_major| Compiler {
            name: "test".to_owned(),
            rustc: "rustc".into(),
            cargo: "cargo".into(),
            llvm_major,
        };
        let linkers = linker.map(|major| Linker {
            path: "bpf-linker".into(),
            version: "0".to_owned(),
            llvm_major: Some(major),
        });
        Found {
            nightly: nightly.map(compiler).ok_or_else(String::new),
            debian: debian.map(compiler).ok_or_else(String::new),
            linkers: linkers.into_iter().collect(),
        }
    }

    fn check(found: &Found, compiler_wanted: bool, linker_wanted: bool) {
        let needs = Needs::of(found, Purpose::Everything);
        let has = |list: &[Package]| list.iter().all(|package| needs.packages.contains(package));
        assert_eq!(has(BPF_COMPILER), compiler_wanted);
        assert_eq!(has(LINKER_BUILD), linker_wanted);
        assert_eq!(needs.linker, linker_wanted);
        assert!(has(LAB) && has(COMPILE) && has(KERNELS));
    }

    #[test]
    fn needs_follow_what_is_there() {
        check(&found(None, None, None), true, true);
        check(&found(None, Some(22), None), false, true);
        check(&found(None, None, Some(22)), true, false);
        check(&found(None, Some(22), Some(22)), false, false);
        check(&found(Some(23), None, Some(23)), false, false);
    }

    #[test]
    fn a_nightly_we_can_build_a_linker_for_needs_only_that() {
        check(&found(Some(22), None, None), false, true);
        check(&found(Some(23), None, None), true, true);
    }
}
