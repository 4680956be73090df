//! `cargo xtask test`: every check there is, in stages, with one last line that sums them up.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::args::one_of;
use crate::libtest::{Reader, Tally};
use crate::{build, command, kernels, setup, tidy};

/// Lab tests each own a small cluster; more of them at once than this crowd two cores, and their
/// time limits begin to mean something else.
pub const LAB_TEST_THREADS: &str = "--test-threads=2";

/// One stage of the whole.
struct Stage {
    name: &'static str,
    /// Whether it makes no sense without the BPF object and the binaries.
    needs_build: bool,
    run: fn(&Options) -> Result<Tally>,
}

const STAGES: &[Stage] = &[
    Stage {
        name: "setup",
        needs_build: false,
        run: |_| setup::run().map(|()| Tally::one_passed()),
    },
    Stage { name: "fmt", needs_build: false, run: fmt },
    Stage { name: "tidy", needs_build: false, run: |_| tidy::run().map(|()| Tally::one_passed()) },
    Stage {
        name: "build",
        needs_build: false,
        run: |_| build::run(&[]).map(|()| Tally::one_passed()),
    },
    Stage { name: "clippy", needs_build: true, run: clippy },
    Stage { name: "unit", needs_build: true, run: unit },
    Stage { name: "lab", needs_build: true, run: lab },
    Stage { name: "kernels", needs_build: true, run: |_| kernels::stage() },
    Stage { name: "deny", needs_build: false, run: deny },
];

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// Names of the stages to run; none means all.
    stages: Vec<String>,
    /// Goes to the test binaries: filters, `--nocapture`.
    test_args: Vec<String>,
    /// Programs that tests use if they have them, by the variable that names them.
    programs: Vec<(&'static str, PathBuf)>,
}

/// Flags that name programs, and the variables by which tests learn of them.
const PROGRAMS: [(&str, &str); 2] =
    [("--kube-apiserver", "MILLRACE_KUBE_APISERVER"), ("--etcd", "MILLRACE_ETCD")];

/// The test that wants them.
const REAL_API_TEST: &str = "what_is_served_follows_a_real_api_server";

/// What a stage came to.
struct Report {
    name: &'static str,
    tally: Tally,
    elapsed: Duration,
}

/// Runs the stages; exits with success only if nothing failed.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let options = parse(args)?;
    let start = Instant::now();
    let mut reports: Vec<Report> = Vec::new();
    for stage in STAGES.iter().filter(|stage| is_wanted(stage, &options.stages)) {
        eprintln!("\n==== {} ====", stage.name);
        let began = Instant::now();
        let no_build =
            reports.iter().any(|report| report.name == "build" && report.tally.failed > 0);
        let tally = if stage.needs_build && no_build {
            Tally::one_skipped("the build failed".to_owned())
        } else {
            (stage.run)(&options).unwrap_or_else(|error| {
                eprintln!("{}: {error:#}", stage.name);
                Tally::one_failed("see above".to_owned())
            })
        };
        reports.push(Report { name: stage.name, tally, elapsed: began.elapsed() });
    }
    let (page, failed) = summary(&reports, start.elapsed());
    print!("{page}");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Reads `--stage NAME` as often as it comes, then `-- ARG...` for the test binaries.
fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--" => options.test_args = args.by_ref().cloned().collect(),
            "--stage" => {
                let names: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
                options.stages.push(one_of(&mut args, arg, &names)?);
            }
            _ => match PROGRAMS.iter().find(|(flag, _)| flag == arg) {
                Some((flag, variable)) => {
                    let path = args.next().with_context(|| format!("{flag} wants a path"))?;
                    let path =
                        std::fs::canonicalize(path).with_context(|| format!("{flag} {path}"))?;
                    options.programs.push((variable, path));
                }
                None => bail!(
                    "test takes `--stage NAME`, `--kube-apiserver PATH --etcd PATH` and \
                     `-- TEST-ARG...`, not `{arg}`"
                ),
            },
        }
    }
    // Either alone is of no use, and would be passed over in silence.
    ensure!(
        options.programs.is_empty() || options.programs.len() == PROGRAMS.len(),
        "--kube-apiserver and --etcd belong together"
    );
    Ok(options)
}

/// All stages, or the named ones and the build they stand on.
fn is_wanted(stage: &Stage, names: &[String]) -> bool {
    let named = |other: &Stage| names.iter().any(|name| name == other.name);
    let stands_on_build = || STAGES.iter().any(|other| other.needs_build && named(other));
    names.is_empty() || named(stage) || (stage.name == "build" && stands_on_build())
}

fn fmt(_: &Options) -> Result<Tally> {
    if let Some(skip) = missing_component("fmt", "rustfmt") {
        return Ok(skip);
    }
    command::run(command::cargo().args(["fmt", "--all", "--check"]))?;
    Ok(Tally::one_passed())
}

/// In the release profile, so that the dependencies' build scripts and macros are those of the
/// build.
fn clippy(_: &Options) -> Result<Tally> {
    if let Some(skip) = missing_component("clippy", "clippy") {
        return Ok(skip);
    }
    let mut cargo = command::cargo();
    cargo.args(["clippy", "--locked", "--release", "--workspace", "--exclude", "millrace-ebpf"]);
    command::run(cargo.args(["--all-targets", "--", "-D", "warnings"]))?;
    Ok(Tally::one_passed())
}

/// rustup's minimal profile comes without rustfmt and clippy: adds them, or says why it is skipped.
fn missing_component(subcommand: &str, component: &str) -> Option<Tally> {
    let here = || command::output_of(command::cargo().args([subcommand, "--version"])).is_some();
    if here() {
        return None;
    }
    eprintln!("{subcommand}: adding rustup's component {component}");
    let added = Command::new("rustup").args(["component", "add", component]).status();
    if added.is_ok_and(|status| status.success()) && here() {
        return None;
    }
    Some(Tally::one_skipped(format!("cargo {subcommand} is not installed and cannot be added")))
}

/// Unit and property tests: no root, no kernel.
fn unit(options: &Options) -> Result<Tally> {
    let mut cargo = cargo_test();
    cargo.args(["--workspace", "--exclude", "millrace-ebpf", "--lib", "--bins"]);
    let mut tally = tests(&mut cargo, &options.test_args)?;
    for (directory, package) in [("common", "millrace-common"), ("agent", "millrace")] {
        if has_test_files(directory) {
            let mut cargo = cargo_test();
            cargo.args(["-p", package, "--test", "*"]);
            tally.add(tests(&mut cargo, &options.test_args)?);
        }
    }
    Ok(tally)
}

/// Real sockets in namespaces.
fn lab(options: &Options) -> Result<Tally> {
    if !has_test_files("tests") {
        return Ok(Tally::one_skipped("tests/tests has no test files yet".to_owned()));
    }
    if !command::is_root() {
        return Ok(Tally::one_skipped("namespaces and BPF need root".to_owned()));
    }
    let mut cargo = cargo_test();
    cargo.args(["-p", "millrace-tests", "--test", "*"]);
    cargo.env("MILLRACE_BIN", command::release_binary("millrace"));
    cargo.envs(options.programs.iter().map(|(name, path)| (name, path)));
    let mut test_args = vec![LAB_TEST_THREADS.to_owned()];
    test_args.extend(options.test_args.iter().cloned());
    if !options.programs.is_empty() {
        return tests(&mut cargo, &test_args);
    }
    test_args.extend(["--skip", REAL_API_TEST].map(str::to_owned));
    let mut tally = tests(&mut cargo, &test_args)?;
    tally.add(Tally::one_skipped(format!(
        "{REAL_API_TEST}: no kube-apiserver given (--kube-apiserver PATH --etcd PATH)"
    )));
    Ok(tally)
}

/// Licences and origins of the dependencies.
fn deny(_: &Options) -> Result<Tally> {
    if command::output_of(command::cargo().args(["deny", "--version"])).is_none() {
        let reason = "cargo-deny is not installed (`cargo install --locked cargo-deny` brings it)";
        return Ok(Tally::one_skipped(reason.to_owned()));
    }
    let mut cargo = command::cargo();
    // The advisories' database lies on a server of its own, which not every machine may reach.
    command::run(cargo.args(["deny", "--offline", "check", "licenses", "bans", "sources"]))?;
    Ok(Tally::one_passed())
}

/// Goes on after a failing binary: one run shows everything that is wrong.
pub fn cargo_test() -> Command {
    let mut cargo = command::cargo();
    cargo.args(["test", "--locked", "--release", "--no-fail-fast"]);
    cargo
}

/// Whether a package has test files of its own; cargo refuses to look for any when there are none.
fn has_test_files(directory: &str) -> bool {
    let entries = std::fs::read_dir(command::root().join(directory).join("tests"));
    entries.is_ok_and(|mut entries| {
        entries.any(|entry| {
            entry.is_ok_and(|entry| entry.path().extension().is_some_and(|ext| ext == "rs"))
        })
    })
}

/// Runs test binaries with their output passed on line by line, and counts.
fn tests(cargo: &mut Command, test_args: &[String]) -> Result<Tally> {
    cargo.arg("--").args(test_args);
    count(cargo, std::io::stdout(), std::io::stderr())
}

/// Runs a command, copies its two output streams, and counts the tests in them.
pub fn count(cargo: &mut Command, out: impl Write + Send, err: impl Write + Send) -> Result<Tally> {
    let mut child = cargo
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", command::describe(cargo)))?;
    let reader = Mutex::new(Reader::default());
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    std::thread::scope(|scope| {
        scope.spawn(|| stdout.map(|stream| pass_on(stream, out, &reader)));
        scope.spawn(|| stderr.map(|stream| pass_on(stream, err, &reader)));
    });
    let status = child.wait()?;
    let reader = reader.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(reader.finish(status.success()))
}

/// Copies a stream, showing each line to the reader. Bytes that are no text are copied as they are.
fn pass_on(stream: impl Read, mut terminal: impl Write, reader: &Mutex<Reader>) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
        // A closed terminal is no reason to stop counting.
        let _ = terminal.write_all(&line).and_then(|()| terminal.flush());
        let text = String::from_utf8_lossy(&line);
        reader.lock().unwrap_or_else(PoisonError::into_inner).line(text.trim_end());
        line.clear();
    }
}

/// The last page, and whether anything failed.
fn summary(reports: &[Report], elapsed: Duration) -> (String, bool) {
    let mut page = "\n==== summary ====\nstage    passed  failed  skipped  time\n".to_owned();
    let mut total = Tally::default();
    for Report { name, tally, elapsed } in reports {
        let Tally { passed, failed, skipped, .. } = tally;
        let time = command::seconds(*elapsed);
        page += &format!("{name:<8} {passed:>6}  {failed:>6}  {skipped:>7}  {time}\n");
        let mut named = tally.clone();
        let prefix = |text: &mut String| *text = format!("{name}: {text}");
        named.failures.iter_mut().for_each(prefix);
        named.skips.iter_mut().for_each(prefix);
        total.add(named);
    }
    page += &format!("{:<33} {}\n", "total", command::seconds(elapsed));
    for (title, names) in [("failed", &total.failures), ("skipped", &total.skips)] {
        if !names.is_empty() {
            page += &format!("\n{title}:\n  {}\n", names.join("\n  "));
        }
    }
    let Tally { passed, failed, skipped, .. } = total;
    page += &format!("\n{passed} passed, {failed} failed, {skipped} skipped\n");
    (page, failed > 0)
}

#[cfg(test)]
mod unit_tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn wanted(line: &str) -> Vec<&'static str> {
        let options = parse(&words(line)).unwrap();
        let stages = STAGES.iter().filter(|stage| is_wanted(stage, &options.stages));
        stages.map(|stage| stage.name).collect()
    }

    #[test]
    fn all_stages_unless_some_are_named() {
        assert_eq!(wanted("").len(), STAGES.len());
        assert_eq!(wanted("--stage fmt --stage tidy"), ["fmt", "tidy"]);
    }

    #[test]
    fn a_stage_that_stands_on_the_build_brings_it() {
        assert_eq!(wanted("--stage lab"), ["build", "lab"]);
        assert_eq!(wanted("--stage deny"), ["deny"]);
    }

    #[test]
    fn the_rest_goes_to_the_test_binaries() {
        let options = parse(&words("--stage lab -- udp --nocapture")).unwrap();
        assert_eq!(options.test_args, ["udp", "--nocapture"]);
    }

    #[test]
    fn unknown_words_are_refused() {
        assert!(parse(&words("--stage nothing")).is_err());
        assert!(parse(&words("--stage")).is_err());
        assert!(parse(&words("lab")).is_err());
    }

    #[test]
    fn counts_what_a_program_prints_on_either_stream() {
        let script = "echo 'test a ... FAILED'; echo 'skipped: b: no root' >&2; \
                      echo 'test result: FAILED. 2 passed; 1 failed; 0 ignored'; exit 101";
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let tally = count(Command::new("sh").args(["-c", script]), &mut out, &mut err).unwrap();
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 1));
        assert_eq!(tally.failures, ["a"]);
        assert_eq!(err, b"skipped: b: no root\n");
    }

    #[test]
    fn the_last_line_sums_up() {
        let report = |tally| Report { name: "unit", tally, elapsed: Duration::ZERO };
        let passed = report(Tally::one_passed());
        let failed = report(Tally::one_failed("x".to_owned()));
        let (page, bad) = summary(&[passed, failed], Duration::from_secs(3));
        assert!(bad && page.contains("failed:\n  unit: x\n"), "{page}");
        assert_eq!(page.lines().last(), Some("1 passed, 1 failed, 0 skipped"));
        let skipped = report(Tally::one_skipped("no reason".to_owned()));
        let (page, bad) = summary(&[skipped], Duration::ZERO);
        assert!(!bad && page.ends_with("\n0 passed, 0 failed, 1 skipped\n"), "{page}");
    }

    fn parsed(line: &str) -> Result<Options> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse(&words)
    }

    #[test]
    fn programs_are_named_together_and_exist() {
        let both = parsed("--stage lab --kube-apiserver /bin/sh --etcd /bin/sh").unwrap();
        let names: Vec<_> = both.programs.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["MILLRACE_KUBE_APISERVER", "MILLRACE_ETCD"]);
        assert!(parsed("--etcd /bin/sh").is_err());
        assert!(parsed("--etcd /nowhere --kube-apiserver /bin/sh").is_err());
        assert!(parsed("--etcd").is_err());
        assert!(parsed("").unwrap().programs.is_empty());
    }
}
