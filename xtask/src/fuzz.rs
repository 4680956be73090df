//! `cargo xtask fuzz`: random frames through kernel and native build, for as long as one likes.

use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::{build, command, setup};

/// How long, in seconds, if nothing is said.
const SECONDS_DEFAULT: u64 = 60;

/// Reads `--seconds N` and `--seed N`, then runs the tests of `tests/tests/packet_fuzz.rs`.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let (seconds, seed) = parse(args)?;
    if !command::is_root() {
        bail!("running packets through BPF programs needs root");
    }
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()) ^ now_ns());
    setup::ensure()?;
    build::run(&[])?;
    let mut cargo = command::cargo();
    cargo.args(["test", "--locked", "--release", "-p", "millrace-tests", "--test", "packet_fuzz"]);
    cargo.args(["--", "--nocapture"]);
    cargo.env("MILLRACE_FUZZ_SECONDS", seconds.to_string());
    cargo.env("MILLRACE_FUZZ_SEED", seed.to_string());
    eprintln!("fuzz: {seconds} s, `--seed {seed}` for the same frames again");
    command::run(&mut cargo)?;
    Ok(ExitCode::SUCCESS)
}

fn parse(args: &[String]) -> Result<(u64, Option<u64>)> {
    let (mut seconds, mut seed) = (SECONDS_DEFAULT, None);
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        let mut number = || -> Result<u64> {
            let text = args.next().with_context(|| format!("{arg} wants a number"))?;
            text.parse().with_context(|| format!("{arg} {text}"))
        };
        match arg.as_str() {
            "--seconds" => seconds = number()?,
            "--seed" => seed = Some(number()?),
            _ => bail!("fuzz takes `--seconds N` and `--seed N`, not `{arg}`"),
        }
    }
    Ok((seconds, seed))
}

/// Different in every run.
fn now_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_nanos() as u64)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    #[test]
    fn numbers_are_read_and_other_words_refused() {
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(parse(&[]).unwrap(), (SECONDS_DEFAULT, None));
        assert_eq!(parse(&words("--seed 7 --seconds 5")).unwrap(), (5, Some(7)));
        assert!(parse(&words("--seconds")).is_err() && parse(&words("--hours 1")).is_err());
    }
}
