//! `cargo xtask bench`: setup, build, then what a connection through a Service costs.

use std::process::ExitCode;

use anyhow::Result;

use crate::lab;

/// Everything after `bench` goes to the benchmark itself.
pub fn run(args: &[String]) -> Result<ExitCode> {
    lab::become_program("millrace-bench", args)
}
