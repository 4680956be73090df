//! `cargo xtask build`: the BPF object, then the binaries that embed it.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, anyhow, bail};

use crate::command;
use crate::toolchain::{self, Toolchain};

/// Where the object goes, below the repository's root; `agent/build.rs` takes it from there.
const OBJECT: &str = "target/bpf/millrace-ebpf.o";

/// The cargo profile of the BPF object (Cargo.toml says why it has its own).
const PROFILE: &str = "bpf";

/// The cargo profile of what is shipped and measured.
pub const SHIPPED: &str = "dist";

/// Builds the object, then the binaries.
pub fn run(args: &[String]) -> Result<()> {
    let features = parse_features(args)?;
    build_object(&find_toolchain()?, features.as_deref())?;
    build_binaries(features.as_deref())
}

/// Builds the object, then these binaries as they are shipped: optimized as a whole, which takes
/// minutes.
pub fn shipped(binaries: &[&str]) -> Result<()> {
    build_object(&find_toolchain()?, None)?;
    let start = Instant::now();
    eprintln!("build: {}, as shipped (minutes, the first time)", binaries.join(" and "));
    let mut cargo = command::cargo();
    cargo.args([
        "build",
        "--locked",
        "--profile",
        SHIPPED,
        "-p",
        "millrace",
        "-p",
        "millrace-tests",
    ]);
    cargo.args(binaries.iter().flat_map(|name| ["--bin", name]));
    command::run(&mut cargo)?;
    let place = command::target_dir().join(SHIPPED);
    eprintln!("build: shipped in {}, {}", place.display(), command::seconds(start.elapsed()));
    Ok(())
}

fn find_toolchain() -> Result<Toolchain> {
    toolchain::find().choose().map_err(|reasons| {
        anyhow!("no way from Rust to BPF; run `cargo xtask setup`:\n    {reasons}")
    })
}

/// Reads `--features LIST` or `--features=LIST`.
fn parse_features(args: &[String]) -> Result<Option<String>> {
    match args {
        [] => Ok(None),
        [flag, list] if flag == "--features" => Ok(Some(list.clone())),
        [arg] if arg.starts_with("--features=") => {
            Ok(arg.split_once('=').map(|(_, list)| list.to_owned()))
        }
        _ => bail!("build takes only `--features LIST`, not `{}`", args.join(" ")),
    }
}

/// Compiles the eBPF crate and puts the object in its place. Cargo itself finds out whether there
/// is anything to do.
fn build_object(toolchain: &Toolchain, features: Option<&str>) -> Result<()> {
    let start = Instant::now();
    eprintln!("build: BPF object by {}", toolchain.describe());
    command::run(&mut cargo_for_bpf(toolchain, features)?)?;
    let target_dir = command::root().join("target/bpf");
    let built = target_dir.join(target()).join(PROFILE).join("millrace-ebpf");
    let object = fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let place = object_path();
    let changed = fs::read(&place).map_or(true, |old| old != object);
    if changed {
        // A new time stamp makes cargo compile the agent again, so an equal object stays as it is.
        fs::write(&place, &object).with_context(|| format!("write {}", place.display()))?;
    }
    let note = if changed { "" } else { ", unchanged" };
    let kib = object.len().div_ceil(1024);
    eprintln!("build: {OBJECT}: {kib} KiB{note}, {}", command::seconds(start.elapsed()));
    Ok(())
}

/// The object's absolute path.
pub fn object_path() -> PathBuf {
    command::root().join(OBJECT)
}

/// BPF programs run on the machine's own byte order.
fn target() -> &'static str {
    if cfg!(target_endian = "little") { "bpfel-unknown-none" } else { "bpfeb-unknown-none" }
}

/// The cargo command, free of everything that the user-space toolchain left in the environment.
fn cargo_for_bpf(toolchain: &Toolchain, features: Option<&str>) -> Result<Command> {
    let root = command::root();
    let mut cargo = Command::new(&toolchain.compiler.cargo);
    command::remove_variables(&mut cargo, is_toolchain_variable);
    cargo.current_dir(&root);
    cargo.args(["build", "--locked", "--package", "millrace-ebpf", "--profile", PROFILE]);
    cargo.args(["-Z", "build-std=core", "--target", target(), "--target-dir", "target/bpf"]);
    if let Some(list) = features {
        cargo.args(["--features", list]);
    }
    cargo.env("RUSTC", &toolchain.compiler.rustc);
    // Lets a stable compiler use -Z; a nightly one does not mind.
    cargo.env("RUSTC_BOOTSTRAP", "1");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Clink-arg=--btf".to_owned(),
        // The object's line table is shown in verifier logs; it should not depend on the place.
        format!("--remap-path-prefix={}=.", root.display()),
    ];
    // Parted by this byte, a path may have blanks in it.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    cargo.env("PATH", path_with_linker(toolchain)?);
    Ok(cargo)
}

/// rustc knows the linker by its name only, so its directory goes to the front of `PATH`.
fn path_with_linker(toolchain: &Toolchain) -> Result<std::ffi::OsString> {
    let linker_dir = toolchain.linker.path.parent().context("the linker has no directory")?;
    let path = env::var_os("PATH").unwrap_or_default();
    let dirs = std::iter::once(linker_dir.to_path_buf()).chain(env::split_paths(&path));
    env::join_paths(dirs).context("a directory in PATH has a colon in its name")
}

/// Whether a variable steers cargo or rustc and was meant for user space. Where crates come from
/// and how cargo speaks to the network and the terminal is left alone.
fn is_toolchain_variable(name: &str) -> bool {
    const KEPT: &[&str] = &["CARGO_HOME", "CARGO_BUILD_JOBS", "RUSTUP_HOME", "RUST_BACKTRACE"];
    const KEPT_PREFIXES: &[&str] = &["CARGO_NET_", "CARGO_HTTP_", "CARGO_REGISTR", "CARGO_TERM_"];
    let ours = name == "LD_LIBRARY_PATH" || name == "OUT_DIR";
    let steers = name.starts_with("CARGO") || name.starts_with("RUST");
    let kept = KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    ours || (steers && !kept)
}

/// Compiles the agent, and the lab and the demo with it, so that dependencies are compiled once.
fn build_binaries(features: Option<&str>) -> Result<()> {
    let start = Instant::now();
    eprintln!("build: binaries");
    let mut cargo = command::cargo();
    cargo.args(["build", "--locked", "--release", "-p", "millrace", "-p", "millrace-tests"]);
    if let Some(list) = features {
        let of_agent: Vec<_> = list.split(',').map(|name| format!("millrace/{name}")).collect();
        cargo.args(["--features", &of_agent.join(",")]);
    }
    command::run(&mut cargo)?;
    let place = command::target_dir().join("release");
    eprintln!("build: binaries in {}, {}", place.display(), command::seconds(start.elapsed()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn features_come_in_two_spellings() {
        assert_eq!(parse_features(&[]).unwrap(), None);
        let expected = Some("bpf-log".to_owned());
        assert_eq!(parse_features(&words("--features bpf-log")).unwrap(), expected);
        assert_eq!(parse_features(&words("--features=bpf-log")).unwrap(), expected);
        assert!(parse_features(&words("--release")).is_err());
    }

    #[test]
    fn the_user_space_toolchain_leaves_nothing_behind() {
        let gone = "CARGO RUSTC RUSTC_WORKSPACE_WRAPPER RUSTUP_TOOLCHAIN RUSTFLAGS \
                    CARGO_ENCODED_RUSTFLAGS CARGO_TARGET_DIR CARGO_BUILD_TARGET \
                    CARGO_PROFILE_RELEASE_DEBUG LD_LIBRARY_PATH";
        assert!(gone.split_whitespace().all(is_toolchain_variable));
        let kept = "PATH HOME CARGO_HOME RUSTUP_HOME CARGO_NET_OFFLINE CARGO_TERM_COLOR \
                    CARGO_REGISTRIES_CRATES_IO_PROTOCOL HTTPS_PROXY";
        assert!(!kept.split_whitespace().any(is_toolchain_variable));
    }
}
