//! `cargo xtask tidy`: the house rules that can be read off the source text.
//!
//! [`mask`] tells code from comments and strings, [`rules`] are the rules, each a function from a
//! file's text to findings, [`layers`] are those about who may know whom, [`allow`] holds the
//! exceptions.

mod allow;
mod layers;
mod mask;
mod rules;

use std::fmt;
use std::fs;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;
use allow::AllowList;

/// Where exceptions are written down, with the reason for each.
const ALLOW_FILE: &str = "xtask/tidy.allow";

/// A place that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    path: String,
    /// Counted from 1.
    line: usize,
    rule: &'static str,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.message)
    }
}

/// Reads every file git knows or would know, and fails if one of them breaks a rule.
pub fn run() -> Result<()> {
    let root = command::root();
    let allow_text = fs::read_to_string(root.join(ALLOW_FILE)).unwrap_or_default();
    let mut allow = AllowList::parse(&allow_text)?;
    let paths = files()?;
    let mut findings = Vec::new();
    for path in &paths {
        // Binary files have no lines, and a deleted file is listed until the deletion is committed.
        let Ok(text) = fs::read_to_string(root.join(path)) else { continue };
        findings.extend(check(path, &text));
    }
    findings.retain(|finding| !allow.covers(finding));
    for finding in &findings {
        eprintln!("{finding}");
    }
    for entry in allow.unused() {
        eprintln!("{ALLOW_FILE}: nothing needs `{entry}` any more");
    }
    let problems = findings.len() + allow.unused().count();
    if problems > 0 {
        bail!("{problems} problems; exceptions go to {ALLOW_FILE} as `path: rule: reason`");
    }
    eprintln!("tidy: {} files, nothing to complain about", paths.len());
    Ok(())
}

/// Tracked files and those not yet added, without the ignored ones.
fn files() -> Result<Vec<String>> {
    let mut git = Command::new("git");
    // Root may look at a clone that another user made.
    git.args(["-c", "safe.directory=*", "ls-files", "-z", "--cached", "--others"]);
    git.arg("--exclude-standard").current_dir(command::root());
    let list = command::output_of(&mut git).context("git ls-files failed: is this a clone?")?;
    Ok(list.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}

/// All rules that apply to one file.
fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut found: Vec<(&'static str, usize, String)> = rules::any_file(path, text);
    if path.ends_with(".rs") {
        let masked = mask::mask(text);
        found.extend(rules::rust_file(text, &masked));
        found.extend(layers::check(path, &masked.code));
    }
    let finding = |(rule, line, message)| Finding { path: path.to_owned(), line, rule, message };
    found.into_iter().map(finding).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_points_at_its_place() {
        let found = check("agent/src/plan/op.rs", "//! Doc.\nuse tokio::sync;\n");
        assert_eq!(found.len(), 1);
        assert!(found[0].to_string().starts_with("agent/src/plan/op.rs:2: import: "));
    }

    #[test]
    fn only_rust_is_held_to_the_rules_of_rust() {
        assert_eq!(check("README.md", &"x".repeat(300)), []);
    }
}
