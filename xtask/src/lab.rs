//! `cargo xtask lab`: setup, build, then the namespace lab for a person.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::{Result, bail};

use crate::{build, command, setup};

const PROGRAM: &str = "millrace-lab";

/// Everything after `lab` goes to the lab itself.
pub fn run(args: &[String]) -> Result<ExitCode> {
    if looks_at_running(args) && command::release_binary(PROGRAM).is_file() {
        require_root()?;
        return replace_process(PROGRAM, args, command::release_binary);
    }
    become_program(PROGRAM, args)
}

/// Whether the command is for a lab that runs: it gets the programs that lab was made with, not
/// new ones, and its output starts at once.
fn looks_at_running(args: &[String]) -> bool {
    let commands = ["up", "exec", "status", "down"];
    let command = args.iter().find(|arg| commands.contains(&arg.as_str()));
    command.is_some_and(|name| name != "up")
}

/// Sets up and builds, then replaces this process by a program of package `millrace-tests`:
/// signals, the terminal and the exit code are that program's.
pub fn become_program(name: &str, args: &[String]) -> Result<ExitCode> {
    require_root()?;
    setup::ensure()?;
    build::run(&[])?;
    replace_process(name, args, command::release_binary)
}

/// The same with the agent and the program as they are shipped.
pub fn become_shipped_program(name: &str, args: &[String]) -> Result<ExitCode> {
    require_root()?;
    setup::ensure()?;
    build::shipped(&["millrace", name])?;
    replace_process(name, args, command::shipped_binary)
}

fn require_root() -> Result<()> {
    if !command::is_root() {
        bail!(
            "namespaces and BPF need root; run the same command as root, for example with \
             `sudo -E env \"PATH=$PATH\"` before it"
        );
    }
    Ok(())
}

fn replace_process(name: &str, args: &[String], binary: fn(&str) -> PathBuf) -> Result<ExitCode> {
    let program = binary(name);
    if !program.is_file() {
        bail!("package millrace-tests has no binary {name} ({} is not there)", program.display());
    }
    let mut run = Command::new(&program);
    run.args(args).env("MILLRACE_BIN", binary("millrace"));
    Err(anyhow::Error::from(run.exec()).context(format!("start {}", program.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_lab_is_built() {
        let looks = |line: &str| {
            let args: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
            looks_at_running(&args)
        };
        assert!(looks("exec n1 echo up") && looks("--name mr-demo status") && looks("down"));
        assert!(!looks("up --nodes 2") && !looks("--help") && !looks(""));
    }
}
