//! Where a test is, by its name: `file::test` is an integration test, `crate::path::test` a unit
//! test, as test binaries print it.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::command;

/// Crates with unit tests, by their names in code: package and source directory.
const CRATES: &[(&str, &str, &str)] =
    &[("millrace", "millrace", "agent/src"), ("millrace_common", "millrace-common", "common/src")];
/// Where integration tests are, and of which package.
const INTEGRATION: &[(&str, &str)] =
    &[("millrace-tests", "tests/tests"), ("millrace-common", "common/tests")];

/// A test binary.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Binary {
    /// The unit tests of a package's library.
    Library(&'static str),
    /// An integration test of a package.
    Integration(&'static str, String),
}

/// A test that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Where it runs.
    pub binary: Binary,
    /// Its name there.
    pub name: String,
    /// Its file, from the repository's root.
    pub file: String,
}

/// Finds a test that would run.
pub fn find(test: &str) -> Result<Found> {
    let (first, rest) = test.split_once("::").context("not file::test or crate::path::test")?;
    let name = rest.rsplit("::").next().unwrap_or(rest);
    let (binary, file) = match CRATES.iter().find(|(krate, ..)| *krate == first) {
        Some((_, package, directory)) => {
            (Binary::Library(package), module_file(directory, rest).context("no such module")?)
        }
        None => integration(first)?,
    };
    let text = fs::read_to_string(command::root().join(&file)).with_context(|| file.clone())?;
    check(&text, name)?;
    Ok(Found { binary, name: rest.to_owned(), file })
}

fn integration(file: &str) -> Result<(Binary, String)> {
    for (package, directory) in INTEGRATION {
        let path = format!("{directory}/{file}.rs");
        if command::root().join(&path).is_file() {
            return Ok((Binary::Integration(package, file.to_owned()), path));
        }
    }
    bail!("no such test file")
}

/// The file of a test's module: modules that are written in their parent's file are part of that.
fn module_file(directory: &str, test: &str) -> Option<String> {
    let mut modules: Vec<&str> = test.split("::").collect();
    while modules.pop().is_some() {
        let path = [&[directory], &modules[..]].concat().join("/");
        let files = [format!("{path}.rs"), format!("{path}/mod.rs"), format!("{path}/lib.rs")];
        let is_there = |file: &String| command::root().join(Path::new(file)).is_file();
        if let Some(file) = files.into_iter().find(is_there) {
            return Some(file);
        }
    }
    None
}

/// Whether the text has a test of that name that is not ignored.
fn check(text: &str, name: &str) -> Result<()> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = format!("fn {name}(");
    let is_it = |line: &&str| line.trim_start_matches("async ").starts_with(&begins);
    let at = lines.iter().position(is_it).context("no such function")?;
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with(['#', '/']));
    let attributes: Vec<&&str> = above.filter(|line| line.starts_with('#')).collect();
    if !attributes.iter().any(|line| line.starts_with("#[test]")) {
        bail!("is no test");
    }
    if attributes.iter().any(|line| line.starts_with("#[ignore")) {
        bail!("is ignored");
    }
    Ok(())
}

/// The file of a test, for a link; none if it is not there.
pub fn file_of(test: &str) -> Option<PathBuf> {
    find(test).ok().map(|found| PathBuf::from(found.file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_are_found_where_they_are() {
        let unit =
            find("millrace::flows::rules::tests::timeouts_are_those_of_the_contract").unwrap();
        assert_eq!(unit.binary, Binary::Library("millrace"));
        assert_eq!(unit.file, "agent/src/flows/rules.rs");
        assert_eq!(unit.name, "flows::rules::tests::timeouts_are_those_of_the_contract");
        let lab = find("lab_restart::no_connection_fails_when_the_agent_restarts").unwrap();
        assert_eq!(lab.binary, Binary::Integration("millrace-tests", "lab_restart".to_owned()));
        for none in ["lab_restart::no", "lab_none::x", "millrace::none::x", "word"] {
            assert!(find(none).is_err(), "{none}");
        }
    }

    #[test]
    fn what_is_no_test_or_is_ignored_does_not_count() {
        let text = "#[test]\nfn runs() {}\n\n/// Doc.\n#[test]\n#[ignore]\nfn waits() {}\n\
                    \nfn helps() {}\n#[test]\n/// Doc.\nfn runs_too() {}\n";
        assert!(check(text, "runs").is_ok() && check(text, "runs_too").is_ok());
        for name in ["waits", "helps", "run", "none"] {
            assert!(check(text, name).is_err(), "{name}");
        }
    }
}
