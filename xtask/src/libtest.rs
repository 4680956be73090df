//! Reads what Rust's test binaries print: results, failures, and what was skipped and why.

use std::collections::BTreeMap;

/// What was counted, with the names behind the counts.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Tests and checks that ran and held.
    pub passed: usize,
    /// Tests and checks that ran and did not.
    pub failed: usize,
    /// Tests and checks that did not run.
    pub skipped: usize,
    /// Names of those whose binary says that they held; those that skipped themselves are among
    /// them.
    pub passes: Vec<String>,
    /// Names of those that failed.
    pub failures: Vec<String>,
    /// Those that did not run: `name: reason`.
    pub skips: Vec<String>,
}

impl Tally {
    /// One check that held.
    pub fn one_passed() -> Self {
        Self { passed: 1, ..Self::default() }
    }

    /// One check that did not hold.
    pub fn one_failed(why: String) -> Self {
        Self { failed: 1, failures: vec![why], ..Self::default() }
    }

    /// One check that did not run.
    pub fn one_skipped(reason: String) -> Self {
        Self { skipped: 1, skips: vec![reason], ..Self::default() }
    }

    /// Adds another tally to this one.
    pub fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.passes.extend(other.passes);
        self.failures.extend(other.failures);
        self.skips.extend(other.skips);
    }
}

/// Takes the output of one `cargo test`, line by line.
#[derive(Debug, Default)]
pub struct Reader {
    tally: Tally,
    /// Tests of the binary at work that skipped themselves, and why.
    runtime_skips: BTreeMap<String, String>,
    results: usize,
}

impl Reader {
    /// Takes one line. Lines of the two output streams may come in any order, but a test binary's
    /// own stay in theirs.
    pub fn line(&mut self, line: &str) {
        // A test's own line may follow `test NAME ... ` on the same line, when one thread runs.
        if let Some((_, skip)) = line.split_once("skipped: ")
            && let Some((name, reason)) = skip.split_once(": ")
            && !name.contains(' ')
        {
            self.runtime_skips.insert(name.to_owned(), reason.trim().to_owned());
        } else if let Some(result) = line.strip_prefix("test result: ") {
            self.result(result);
        } else if let Some(test) = line.strip_prefix("test ") {
            self.test(test);
        }
    }

    /// A single test's line: `NAME ... ok`, `NAME ... ignored, REASON`, `NAME ... FAILED`.
    fn test(&mut self, test: &str) {
        let Some((name, outcome)) = test.split_once(" ... ") else { return };
        if outcome.starts_with("ok") {
            self.tally.passes.push(name.to_owned());
        } else if outcome.starts_with("FAILED") {
            self.tally.failures.push(name.to_owned());
        } else if let Some(reason) = outcome.strip_prefix("ignored") {
            let reason = reason.trim_start_matches([',', ' ']);
            let reason = if reason.is_empty() { "ignored without a reason" } else { reason };
            self.tally.skips.push(format!("{name}: {reason}"));
        }
    }

    /// A binary's last line: `ok. 3 passed; 0 failed; 1 ignored; 0 measured; ...`.
    fn result(&mut self, result: &str) {
        let count = |what: &str| -> usize {
            let counts = result.split(['.', ';']).map(str::trim);
            let mut of_kind = counts.filter_map(|part| part.strip_suffix(what));
            of_kind.next().and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        self.tally.passed += count("passed");
        self.tally.failed += count("failed");
        self.tally.skipped += count("ignored");
        self.results += 1;
        self.take_runtime_skips();
    }

    /// libtest calls a test that skipped itself passed; we do not.
    fn take_runtime_skips(&mut self) {
        let skips = std::mem::take(&mut self.runtime_skips);
        self.tally.passed = self.tally.passed.saturating_sub(skips.len());
        self.tally.skipped += skips.len();
        self.tally.skips.extend(skips.iter().map(|(name, reason)| format!("{name}: {reason}")));
    }

    /// The sum, once cargo has ended. `success` is cargo's own verdict: a binary that crashed or
    /// did not compile prints no result and must not pass for silence.
    pub fn finish(mut self, success: bool) -> Tally {
        // A skip told on the other stream may arrive after the binary's result.
        self.take_runtime_skips();
        if !success && self.tally.failed == 0 {
            let why = if self.results == 0 { "cargo test did not run" } else { "a test crashed" };
            self.tally.add(Tally::one_failed(format!("{why}; see above")));
        }
        self.tally
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(output: &str, success: bool) -> Tally {
        let mut reader = Reader::default();
        output.lines().for_each(|line| reader.line(line));
        reader.finish(success)
    }

    #[test]
    fn sums_all_binaries() {
        let output = "\
running 3 tests
test a::one ... ok
test a::two ... ignored, needs a cluster
test a::three ... FAILED

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s
test b::four ... ok
test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out; finished in 1.25s
";
        let expected = Tally {
            passed: 13,
            failed: 1,
            skipped: 1,
            passes: vec!["a::one".to_owned(), "b::four".to_owned()],
            failures: vec!["a::three".to_owned()],
            skips: vec!["a::two: needs a cluster".to_owned()],
        };
        assert_eq!(read(output, false), expected);
    }

    #[test]
    fn a_test_that_skips_itself_has_not_passed() {
        let output = "\
test tcx ... skipped: tcx: kernel 5.15 has no tcx: 6.6 has
skipped: tcx: said twice
test other ... ok
test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s
";
        let tally = read(output, true);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 0, 1));
        assert_eq!(tally.skips, ["tcx: said twice"]);
    }

    #[test]
    fn an_ignored_test_without_reason_says_so() {
        let output =
            "test a ... ignored\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured";
        assert_eq!(read(output, true).skips, ["a: ignored without a reason"]);
    }

    #[test]
    fn a_crash_is_a_failure() {
        assert_eq!(read("error: could not compile", false).failed, 1);
        let crashed = read("test result: ok. 4 passed; 0 failed; 0 ignored\nSIGSEGV", false);
        assert_eq!((crashed.passed, crashed.failed), (4, 1));
    }
}
