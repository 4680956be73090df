//! Runs the tests that scenarios name, each once, one test binary after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::time::Instant;

use anyhow::{Context, Result};

use super::find::{Binary, find};
use super::scenario::Scenario;
use crate::libtest::Tally;
use crate::{command, test};

/// What a test came to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Outcome {
    /// It held.
    Pass,
    /// It did not run.
    Skip,
    /// It did not hold, or its binary did not say.
    Fail,
}

impl Outcome {
    /// For the table.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Skip => "skip",
            Self::Fail => "FAIL",
        }
    }
}

/// What every test came to.
pub struct Results(BTreeMap<&'static str, Outcome>);

impl Results {
    /// Runs them.
    pub fn of(tests: &BTreeSet<&'static str>) -> Result<Self> {
        let mut binaries: BTreeMap<Binary, Vec<(&'static str, String)>> = BTreeMap::new();
        for test in tests {
            let found = find(test)?;
            binaries.entry(found.binary).or_default().push((test, found.name));
        }
        let path = command::target_dir().join("conformance.log");
        let log = File::create(&path).with_context(|| format!("create {}", path.display()))?;
        let mut outcomes = BTreeMap::new();
        for (binary, tests) in &binaries {
            let began = Instant::now();
            let tally = run(binary, tests, &log)?;
            for (test, name) in tests {
                outcomes.insert(*test, outcome(&tally, name));
            }
            let passed = tests.iter().filter(|(test, _)| outcomes[test] == Outcome::Pass).count();
            let took = command::seconds(began.elapsed());
            eprintln!("conformance: {}: {passed} of {} in {took}", title(binary), tests.len());
        }
        eprintln!("conformance: the tests' own output is in {}", path.display());
        Ok(Self(outcomes))
    }

    /// What a scenario came to: its worst test; nothing if it has none.
    pub fn of_scenario(&self, scenario: &Scenario) -> Option<Outcome> {
        let of = |test: &&'static str| self.0.get(*test).copied().unwrap_or(Outcome::Fail);
        scenario.tests.iter().map(of).max()
    }
}

fn title(binary: &Binary) -> &str {
    match binary {
        Binary::Library(package) => package,
        Binary::Integration(_, file) => file,
    }
}

fn run(binary: &Binary, tests: &[(&str, String)], log: &File) -> Result<Tally> {
    let mut cargo = test::cargo_test();
    match binary {
        Binary::Library(package) => cargo.args(["-p", package, "--lib"]),
        Binary::Integration(package, file) => cargo.args(["-p", package, "--test", file]),
    };
    cargo.env("MILLRACE_BIN", command::release_binary("millrace"));
    cargo.args(["--", "--exact", test::LAB_TEST_THREADS]);
    cargo.args(tests.iter().map(|(_, name)| name));
    test::count(&mut cargo, log.try_clone()?, log.try_clone()?)
}

/// By the binary's own words; what it does not name did not run, and is a failure.
fn outcome(tally: &Tally, name: &str) -> Outcome {
    let is_it = |line: &String| line.split(": ").next() == Some(name);
    if tally.failures.iter().any(|failure| failure == name) {
        Outcome::Fail
    } else if tally.skips.iter().any(is_it) {
        Outcome::Skip
    } else if tally.passes.iter().any(|pass| pass == name) {
        Outcome::Pass
    } else {
        Outcome::Fail
    }
}

#[cfg(test)]
mod tests {
    use super::super::scenario::same;
    use super::*;

    #[test]
    fn a_scenario_is_as_good_as_its_worst_test() {
        let outcomes = [("a::a", Outcome::Pass), ("a::b", Outcome::Skip), ("a::c", Outcome::Fail)];
        let results = Results(BTreeMap::from(outcomes));
        let of = |tests| results.of_scenario(&same("name", "expected", tests));
        assert_eq!(of(&["a::a"]), Some(Outcome::Pass));
        assert_eq!(of(&["a::a", "a::b"]), Some(Outcome::Skip));
        assert_eq!(of(&["a::c", "a::b"]), Some(Outcome::Fail));
        assert_eq!(of(&["a::unheard"]), Some(Outcome::Fail));
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn what_a_binary_does_not_name_has_failed() {
        let tally = Tally {
            passed: 1,
            failed: 1,
            skipped: 1,
            passes: vec!["fine".to_owned(), "self".to_owned()],
            failures: vec!["bad".to_owned()],
            skips: vec!["self: needs root".to_owned()],
        };
        let found = ["fine", "self", "bad", "unheard"].map(|name| outcome(&tally, name));
        assert_eq!(found, [Outcome::Pass, Outcome::Skip, Outcome::Fail, Outcome::Fail]);
    }
}
