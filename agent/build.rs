//! Embeds the BPF object and the version.
//!
//! `cargo xtask build` makes the object; this only copies it to a place whose path goes to the code
//! as `MILLRACE_EBPF_OBJ`. `MILLRACE_BPF_OBJECT` names another object to embed.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    let Some(manifest_dir) = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from) else {
        return fail("this build script runs under cargo");
    };
    let root = manifest_dir.parent().unwrap_or(&manifest_dir);
    embed_object(root);
    embed_version(root);
}

fn embed_object(root: &Path) {
    println!("cargo::rerun-if-env-changed=MILLRACE_BPF_OBJECT");
    let object = env::var_os("MILLRACE_BPF_OBJECT")
        .map_or_else(|| root.join("target/bpf/millrace-ebpf.o"), PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    let Some(out_dir) = env::var_os("OUT_DIR") else { return fail("OUT_DIR is not set") };
    let copy = Path::new(&out_dir).join("millrace-ebpf.o");
    match fs::read(&object).and_then(|bytes| fs::write(&copy, bytes)) {
        Ok(()) => println!("cargo::rustc-env=MILLRACE_EBPF_OBJ={}", copy.display()),
        Err(error) => fail(&format!(
            "the BPF object {} cannot be embedded ({error}): run `cargo xtask build`",
            object.display()
        )),
    }
}

/// The package's version, and the commit when this is a clone.
fn embed_version(root: &Path) {
    let version = env::var("CARGO_PKG_VERSION").unwrap_or_default();
    let version = match commit(root) {
        Some(commit) => format!("{version}+g{commit}"),
        None => version,
    };
    println!("cargo::rustc-env=MILLRACE_VERSION={version}");
}

/// The commit that is checked out; none in an unpacked archive, also not when the archive was
/// unpacked inside somebody else's clone.
fn commit(root: &Path) -> Option<String> {
    let top = git(root, &["rev-parse", "--show-toplevel"])?;
    if fs::canonicalize(top).ok()? != fs::canonicalize(root).ok()? {
        return None;
    }
    // HEAD's own log changes with every commit and every checkout.
    let log = git(root, &["rev-parse", "--git-path", "logs/HEAD"])?;
    let log = root.join(log);
    if log.is_file() {
        println!("cargo::rerun-if-changed={}", log.display());
    }
    git(root, &["rev-parse", "--short=12", "HEAD"])
}

fn git(root: &Path, args: &[impl AsRef<OsStr>]) -> Option<String> {
    // Root may build a clone that another user made.
    let mut command = Command::new("git");
    let output = command.args(["-c", "safe.directory=*"]).args(args).current_dir(root).output();
    let output = output.ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// Makes cargo stop with this sentence.
fn fail(message: &str) {
    println!("cargo::error={message}");
}
