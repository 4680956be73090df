//! `cargo xtask demo`: setup, build, then a small cluster at work.

use std::process::ExitCode;

use anyhow::Result;

use crate::{lab, setup};

/// Everything after `demo` goes to the demo itself.
pub fn run(args: &[String]) -> Result<ExitCode> {
    setup::run()?;
    lab::build_and_become("millrace-demo", args)
}
