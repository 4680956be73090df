//! `cargo xtask conformance`: kube-proxy's own scenarios, and the tests that show what we do.
//!
//! [`scenarios`] are the rows, [`scenario`] is what a row is made of; [`find`] looks a test up in
//! the source, [`page`] writes CONFORMANCE.md, [`run`](self::run()) runs every test that a row
//! names and prints the same table with results.

mod find;
mod page;
mod results;
mod scenario;
mod scenarios;

use std::collections::BTreeSet;
use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::args::one_of;
use crate::{build, command, setup};
use results::Results;
use scenario::Section;
use scenarios::SECTIONS;

/// The committed page.
const PAGE: &str = "CONFORMANCE.md";

/// What the command line asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    /// Only compare the committed page.
    check: bool,
    /// Only write the page.
    write: bool,
    /// Sections to run; none means all.
    sections: Vec<String>,
}

/// Runs the scenarios; exits with success only if none failed.
pub fn run(args: &[String]) -> Result<ExitCode> {
    let options = parse(args)?;
    if options.check {
        check()?;
        eprintln!("conformance: {PAGE} is what the scenarios say, and every test is there");
        return Ok(ExitCode::SUCCESS);
    }
    if options.write {
        fs::write(command::root().join(PAGE), page::page())
            .with_context(|| format!("write {PAGE}"))?;
        return check().map(|()| ExitCode::SUCCESS);
    }
    check()?;
    if !command::is_root() {
        bail!("namespaces and BPF need root: run it as root, or `conformance --check` without");
    }
    setup::ensure()?;
    build::run(&[])?;
    let wanted = |section: &&Section| {
        options.sections.is_empty() || options.sections.iter().any(|s| s == section.number)
    };
    let sections: Vec<&Section> = SECTIONS.iter().filter(wanted).collect();
    let results = Results::of(&tests_of(&sections))?;
    let (text, failed) = page::with_results(&sections, &results);
    print!("{text}");
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Reads `--check`, `--write`, and `--section NUMBER` as often as it comes.
fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--check" => options.check = true,
            "--write" => options.write = true,
            "--section" => {
                let numbers: Vec<_> = SECTIONS.iter().map(|section| section.number).collect();
                options.sections.push(one_of(&mut args, arg, &numbers)?);
            }
            _ => bail!("conformance takes --check, --write and `--section NUMBER`, not `{arg}`"),
        }
    }
    Ok(options)
}

/// Fails unless the committed page is what the scenarios make, and every test that they name is
/// there and is not ignored.
fn check() -> Result<()> {
    let all: Vec<&Section> = SECTIONS.iter().collect();
    let problems: Vec<String> = tests_of(&all)
        .into_iter()
        .filter_map(|test| find::find(test).err().map(|error| format!("{test}: {error:#}")))
        .collect();
    if !problems.is_empty() {
        bail!("tests that scenarios name:\n  {}", problems.join("\n  "));
    }
    let committed = fs::read_to_string(command::root().join(PAGE)).unwrap_or_default();
    if committed != page::page() {
        bail!(
            "{PAGE} is not what the scenarios say; `cargo xtask conformance --write` makes it so"
        );
    }
    Ok(())
}

/// Every test that these sections name, once.
fn tests_of(sections: &[&Section]) -> BTreeSet<&'static str> {
    let rows = sections.iter().flat_map(|section| section.rows);
    rows.flat_map(|row| row.tests.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::scenario::Ours;
    use super::*;

    #[test]
    fn the_committed_page_is_what_the_scenarios_say_and_every_test_is_there() {
        check().unwrap();
    }

    #[test]
    fn every_row_says_what_and_shows_it_or_says_why_not() {
        for section in SECTIONS {
            let mut names = BTreeSet::new();
            for row in section.rows {
                let place = format!("{} {}", section.number, row.name);
                assert!(names.insert(row.name), "{place} is there twice");
                assert!(!row.name.is_empty() && !row.expected.is_empty(), "{place}");
                let is_missing = matches!(row.ours, Ours::Missing(_));
                assert_eq!(
                    row.tests.is_empty(),
                    is_missing,
                    "{place}: tests, or why there is none"
                );
                if let Ours::Better(why) | Ours::Differs(why) | Ours::Missing(why) = row.ours {
                    assert!(why.len() > 10, "{place}: {why:?} is no reason");
                }
            }
        }
    }

    #[test]
    fn the_command_line_is_read() {
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
        let options = parse(&words("--section 7.1 --section 8.2")).unwrap();
        assert_eq!(options.sections, ["7.1", "8.2"]);
        assert!(parse(&words("--check")).unwrap().check);
        assert!(parse(&words("--section 7")).is_err() && parse(&words("all")).is_err());
    }
}
