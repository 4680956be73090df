//! `cargo xtask lab`: setup, build, then the namespace lab for a person.

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{build, command, setup};

/// Everything after `lab` goes to the lab itself.
pub fn run(args: &[String]) -> Result<ExitCode> {
    become_program("millrace-lab", args)
}

/// Sets up and builds, then replaces this process by a program of package `millrace-tests`:
/// signals, the terminal and the exit code are that program's.
pub fn become_program(name: &str, args: &[String]) -> Result<ExitCode> {
    if !command::is_root() {
        bail!(
            "namespaces and BPF need root; run the same command as root, for example with \
             `sudo -E env \"PATH=$PATH\"` before it"
        );
    }
    setup::ensure()?;
    build::run(&[])?;
    let program = command::release_binary(name);
    if !program.is_file() {
        bail!("package millrace-tests has no binary {name} ({} is not there)", program.display());
    }
    let mut run = Command::new(&program);
    run.args(args).env("MILLRACE_BIN", command::release_binary("millrace"));
    Err(anyhow::Error::from(run.exec()).context(format!("start {}", program.display())))
}
