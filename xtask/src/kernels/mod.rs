//! `cargo xtask kernels`: Millrace on the kernels of Debian's releases, each in a virtual machine.
//!
//! [`archive`] fetches kernels (and QEMU, where it is not installed) into `target/kernels` and
//! installs nothing; [`modules`] picks what the guest inserts; [`initramfs`] packs that with the
//! programs that `cargo xtask build` made; [`machine`] boots it, emulated, and takes the verdict.
//! What runs inside is `tests/src/bin/millrace-guest`: a new scenario is a function there.

mod archive;
mod initramfs;
mod machine;
mod modules;

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::args::one_of;
use crate::command::{self, Log};
use crate::libtest::Tally;
use crate::{build, setup};

use archive::Kernel;
use initramfs::Archive;
use machine::{End, Qemu};

/// A kernel by the name it has here, and the Debian release whose cloud kernel it is.
struct Series {
    name: &'static str,
    suite: &'static str,
}

const SERIES: &[Series] = &[
    Series { name: "5.10", suite: "bullseye" },
    Series { name: "6.1", suite: "bookworm" },
    Series { name: "6.12", suite: "trixie" },
    Series { name: "newest", suite: "sid" },
];

/// The one that `cargo xtask test` boots: the oldest with everything but tcx (6.6), so that what
/// is put in its place is tried.
const STAGE_SERIES: &str = "6.1";

/// Machines at work at the same time. Each has one processor.
const MACHINES: usize = 2;

/// What the guest begins its lines with.
const MARK: &str = "guest: ";

/// Lines of the guest's console shown when it failed.
const SHOWN_LINES: usize = 60;

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// Names of kernels; none means all.
    kernels: Vec<String>,
    /// Ask the archive for newer ones.
    update: bool,
}

/// What became of one kernel.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// A kernel's line.
struct Report {
    /// `uname -r`, or the name here while that is unknown.
    kernel: String,
    outcome: Outcome,
    elapsed: Duration,
    /// Scenarios that passed.
    passed: Vec<String>,
}

/// Sets up, builds, boots. A person who asks for kernels wants them: one that is skipped is no
/// success.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let options = parse(args)?;
    setup::ensure()?;
    build::run(&[])?;
    let chosen = |series: &&Series| {
        options.kernels.is_empty() || options.kernels.iter().any(|name| name == series.name)
    };
    let reports = boot_all(SERIES.iter().filter(chosen).collect(), options.update)?;
    let tally = sum(&reports);
    let Tally { passed, failed, skipped, .. } = tally;
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(if failed + skipped == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// One kernel, for `cargo xtask test`, with the binaries that its build stage made.
pub fn stage() -> Result<Tally> {
    let chosen = SERIES.iter().filter(|series| series.name == STAGE_SERIES).collect();
    Ok(sum(&boot_all(chosen, false)?))
}

/// Reads `--kernel NAME` as often as it comes, and `--update`.
fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--update" => options.update = true,
            "--kernel" => {
                let names: Vec<_> = SERIES.iter().map(|series| series.name).collect();
                options.kernels.push(one_of(&mut args, arg, &names)?);
            }
            _ => bail!("kernels takes `--kernel NAME` and `--update`, not `{arg}`"),
        }
    }
    Ok(options)
}

/// Where everything of this command lies.
fn cache_dir() -> PathBuf {
    command::target_dir().join("kernels")
}

/// Fetches one after the other, then boots two at a time.
fn boot_all(chosen: Vec<&'static Series>, update: bool) -> Result<Vec<Report>> {
    let log = Log::create("kernels", cache_dir().join("fetch.log"))?;
    let qemu = match Qemu::find(&log) {
        Ok(qemu) => qemu,
        Err(error) => {
            let reason = format!("no QEMU: {error:#}");
            return Ok(chosen.into_iter().map(|series| skip(series, reason.clone())).collect());
        }
    };
    eprintln!("kernels: {}", qemu.describe());
    let programs = initramfs::programs().context("pack the programs")?;
    let mut reports = Vec::new();
    let mut waiting = VecDeque::new();
    for (index, series) in chosen.into_iter().enumerate() {
        match archive::kernel(series.name, series.suite, update, &log) {
            Ok(kernel) => waiting.push_back((index, series, kernel)),
            Err(error) => reports.push((index, skip(series, format!("{error:#}")))),
        }
    }
    let waiting = Mutex::new(waiting);
    let finished = Mutex::new(reports);
    // A function of its own: the lock must not be held while the machine runs.
    let next = || lock(&waiting).pop_front();
    std::thread::scope(|scope| {
        for _ in 0..MACHINES {
            scope.spawn(|| {
                while let Some((index, series, kernel)) = next() {
                    let report = boot(series, &kernel, &qemu, programs.clone());
                    lock(&finished).push((index, report));
                }
            });
        }
    });
    let mut reports = finished.into_inner().unwrap_or_else(PoisonError::into_inner);
    reports.sort_by_key(|(index, _)| *index);
    Ok(reports.into_iter().map(|(_, report)| report).collect())
}

fn skip(series: &Series, reason: String) -> Report {
    let report = Report {
        kernel: series.name.to_owned(),
        outcome: Outcome::Skipped(reason),
        elapsed: Duration::ZERO,
        passed: Vec::new(),
    };
    eprint!("{}", line(&report));
    report
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Boots one kernel and says at once how it went.
fn boot(series: &Series, kernel: &Kernel, qemu: &Qemu, programs: Archive) -> Report {
    let start = Instant::now();
    eprintln!("kernels: {} boots", kernel.release);
    let dir = cache_dir().join(series.name);
    let (outcome, console) = match try_boot(&dir, kernel, qemu, programs) {
        Ok((End::Success, console)) => (Outcome::Passed, console),
        Ok((end, console)) => {
            eprintln!("kernels: {}: the console's end:", kernel.release);
            let lines: Vec<&str> = console.lines().collect();
            for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
                eprintln!("    {line}");
            }
            let why = failures(&console).unwrap_or_else(|| end.describe());
            (Outcome::Failed(why), console)
        }
        Err(error) => (Outcome::Failed(format!("{error:#}")), String::new()),
    };
    let passed = marked(&console, "passed ").map(|text| first_word(text).to_owned()).collect();
    let elapsed = start.elapsed();
    let report = Report { kernel: kernel.release.clone(), outcome, elapsed, passed };
    eprint!("{}", line(&report));
    report
}

/// Packs, boots, keeps the console's text and the verifier's counts beside the kernel.
fn try_boot(
    dir: &std::path::Path,
    kernel: &Kernel,
    qemu: &Qemu,
    mut image: Archive,
) -> Result<(End, String)> {
    modules::add_to(&mut image, kernel).context("pack the kernel's modules")?;
    let initrd = dir.join("initramfs");
    fs::write(&initrd, image.finish()).with_context(|| format!("write {}", initrd.display()))?;
    let serial = dir.join("console.log");
    let end = qemu.boot(&kernel.vmlinuz, &initrd, &serial)?;
    let console = String::from_utf8_lossy(&fs::read(&serial).unwrap_or_default()).into_owned();
    let verified: Vec<_> = marked(&console, "verified ").collect();
    fs::write(dir.join("verified.txt"), verified.join("\n") + "\n")?;
    Ok((end, console))
}

/// What the guest said after a word of its own.
fn marked<'a>(console: &'a str, word: &'a str) -> impl Iterator<Item = &'a str> {
    let lines = console.lines().filter_map(|line| line.trim().strip_prefix(MARK));
    lines.filter_map(move |line| line.strip_prefix(word))
}

fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// Names of the scenarios that failed, if the guest named any.
fn failures(console: &str) -> Option<String> {
    let names: Vec<_> = marked(console, "failed ").map(first_word).collect();
    (!names.is_empty()).then(|| names.join(", "))
}

fn sum(reports: &[Report]) -> Tally {
    let mut tally = Tally::default();
    for Report { kernel, outcome, .. } in reports {
        tally.add(match outcome {
            Outcome::Passed => Tally::one_passed(),
            Outcome::Failed(why) => Tally::one_failed(format!("{kernel}: {why}")),
            Outcome::Skipped(reason) => Tally::one_skipped(format!("{kernel}: {reason}")),
        });
    }
    tally
}

fn line(report: &Report) -> String {
    let Report { kernel, outcome, elapsed, passed } = report;
    let time = command::seconds(*elapsed);
    match outcome {
        Outcome::Passed => format!("{kernel:<30} passed  {time:>8}  {}\n", passed.join(" ")),
        Outcome::Failed(why) => {
            format!("{kernel:<30} FAILED  {time:>8}  {why}; passed: {}\n", passed.join(" "))
        }
        Outcome::Skipped(reason) => format!("{kernel:<30} skipped           {reason}\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn kernels_are_named() {
        let options = parse(&words("--kernel 5.10 --kernel newest --update")).unwrap();
        assert_eq!(options.kernels, ["5.10", "newest"]);
        assert!(options.update);
        assert!(parse(&words("--kernel 4.19")).is_err());
        assert!(parse(&words("--kernel")).is_err());
        assert!(SERIES.iter().any(|series| series.name == STAGE_SERIES));
    }

    #[test]
    fn the_guests_lines_are_found_among_the_kernels() {
        let console = "[    1.2] booting\r\nguest: passed cluster-ip (1.2 s)\r\n\
                       guest: failed node-port (0.3 s): no answer\r\nguest: passed many (2 s)\r\n";
        let passed: Vec<_> = marked(console, "passed ").map(first_word).collect();
        assert_eq!(passed, ["cluster-ip", "many"]);
        assert_eq!(failures(console).as_deref(), Some("node-port"));
        assert_eq!(failures("guest: passed x"), None);
    }

    #[test]
    fn what_did_not_run_is_counted_with_its_reason() {
        let report = |outcome| Report {
            kernel: "6.1".to_owned(),
            outcome,
            elapsed: Duration::ZERO,
            passed: vec![],
        };
        let reports =
            [report(Outcome::Passed), report(Outcome::Skipped("cannot fetch".to_owned()))];
        let tally = sum(&reports);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 0, 1));
        assert_eq!(tally.skips, ["6.1: cannot fetch"]);
    }
}
