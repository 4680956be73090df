//! `cargo xtask bench`: setup, build, then what a connection through a Service costs. What is
//! measured is what the image has.

use std::process::ExitCode;

use anyhow::Result;

use crate::lab;

const PROGRAM: &str = "millrace-bench";

/// Everything after `bench` goes to the benchmark itself.
pub fn run(args: &[String]) -> Result<ExitCode> {
    // To make documents of a result nothing is measured.
    if args.iter().any(|arg| arg.starts_with("--report")) {
        return lab::become_program(PROGRAM, args);
    }
    lab::become_shipped_program(PROGRAM, args)
}
