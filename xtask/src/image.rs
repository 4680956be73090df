//! `cargo xtask image`: the container image, or the directory that becomes it.
//!
//! The directory holds the agent and the shared libraries that the dynamic linker names, so that
//! what runs in a container can be tried without one: `chroot DIR /usr/bin/millrace version`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{build, command};

/// What can build an image, the first that is there.
const BUILDERS: [&str; 3] = ["docker", "podman", "buildah"];
/// Where the agent lies in the image: `kubectl exec` finds it by its name.
const AGENT: &str = "usr/bin/millrace";

/// Builds the image, or lays out its root.
pub fn run(args: &[String]) -> Result<()> {
    match args {
        [] => build(&default_tag()),
        [flag, tag] if flag == "--tag" => build(tag),
        [flag, directory] if flag == "--root" => lay_out(Path::new(directory)),
        _ => bail!("image takes `--tag NAME` or `--root DIR`, not `{}`", args.join(" ")),
    }
}

/// The tag that deploy/manifests/install.yaml names.
fn default_tag() -> String {
    format!("millrace:{}", env!("CARGO_PKG_VERSION"))
}

fn build(tag: &str) -> Result<()> {
    let Some(builder) = BUILDERS.into_iter().find(|name| command::find_program(name).is_some())
    else {
        bail!(
            "no {} here: install one of them, or lay the image's root out with `cargo xtask image \
             --root DIR`",
            BUILDERS.join(", ")
        );
    };
    let mut build = Command::new(builder);
    // `buildah build` takes the same arguments.
    build.args(["build", "-f", "deploy/Dockerfile", "-t", tag, "."]).current_dir(command::root());
    command::run(&mut build).with_context(|| {
        format!("build the image with {builder} (docker also needs its daemon to run)")
    })?;
    eprintln!(
        "image: {tag}; a registry is yours to choose: tag it, push it, name it in install.yaml"
    );
    Ok(())
}

/// The agent, stripped of what only debuggers read, and its libraries.
fn lay_out(root: &Path) -> Result<()> {
    build::shipped(&["millrace"])?;
    let agent = command::shipped_binary("millrace");
    let place = root.join(AGENT);
    copy(&agent, &place)?;
    command::run(Command::new("strip").arg("--strip-debug").arg(&place))?;
    let listed = command::output_of(Command::new("ldd").arg(&agent));
    let listed = listed.with_context(|| format!("ldd {}", agent.display()))?;
    for library in libraries(&listed) {
        copy(&library, &root.join(library.strip_prefix("/").unwrap_or(&library)))?;
    }
    // Mount points: the root is read-only in a container.
    for directory in ["etc/millrace", "host/bpf", "host/cgroup", "proc", "sys", "dev", "tmp"] {
        fs::create_dir_all(root.join(directory))?;
    }
    eprintln!("image: laid out in {}", root.display());
    Ok(())
}

/// The files that `ldd` names: `NAME => PATH (ADDRESS)`, or `PATH (ADDRESS)` for the loader.
fn libraries(listed: &str) -> Vec<PathBuf> {
    let paths = listed
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    paths.map(PathBuf::from).collect()
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let parent = to.parent().unwrap_or(to);
    fs::create_dir_all(parent).with_context(|| format!("create {}", parent.display()))?;
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_off_ldd() {
        let listed = "\tlinux-vdso.so.1 (0x00007f)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found = libraries(listed);
        let expected = ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/ld-linux-x86-64.so.2"];
        assert_eq!(found, expected.map(PathBuf::from));
        assert!(libraries("\tstatically linked\n").is_empty());
    }
}
