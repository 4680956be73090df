//! `cargo xtask demo`: setup, build, then a small cluster at work.

use std::process::ExitCode;

use anyhow::Result;

use crate::lab;

/// Everything after `demo` goes to the demo itself.
pub fn run(args: &[String]) -> Result<ExitCode> {
    lab::become_program("millrace-demo", args)
}
