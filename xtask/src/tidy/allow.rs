//! The exceptions: `path: rule: reason`, one a line. One that nothing needs is itself an error.

use anyhow::{Result, bail};

use super::Finding;

/// The exceptions, and which of them were needed.
pub struct AllowList {
    entries: Vec<Entry>,
}

struct Entry {
    path: String,
    rule: String,
    used: bool,
}

impl AllowList {
    /// Reads the list; blank lines and those that begin with `#` do not count.
    pub fn parse(text: &str) -> Result<Self> {
        let mut entries = Vec::new();
        for line in text.lines().map(str::trim) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let parts: Vec<&str> = line.splitn(3, ':').map(str::trim).collect();
            let [path, rule, reason] = parts[..] else {
                bail!("tidy.allow: `{line}` is not `path: rule: reason`");
            };
            if reason.is_empty() {
                bail!("tidy.allow: `{line}` gives no reason");
            }
            entries.push(Entry { path: path.to_owned(), rule: rule.to_owned(), used: false });
        }
        Ok(Self { entries })
    }

    /// Whether there is an exception for this finding.
    pub fn covers(&mut self, finding: &Finding) -> bool {
        let mut fitting = self
            .entries
            .iter_mut()
            .filter(|entry| entry.path == finding.path && entry.rule == finding.rule);
        fitting.next().map(|entry| entry.used = true).is_some()
    }

    /// Exceptions that no finding needed.
    pub fn unused(&self) -> impl Iterator<Item = String> {
        let unused = self.entries.iter().filter(|entry| !entry.used);
        unused.map(|entry| format!("{}: {}", entry.path, entry.rule))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(path: &str, rule: &'static str) -> Finding {
        Finding { path: path.to_owned(), line: 1, rule, message: String::new() }
    }

    #[test]
    fn covers_one_rule_in_one_file() {
        let text = "# why\n\na.rs: file-length: a table: long by nature\nb.rs: import: old\n";
        let mut allow = AllowList::parse(text).unwrap();
        assert!(allow.covers(&finding("a.rs", "file-length")));
        assert!(!allow.covers(&finding("a.rs", "import")));
        assert!(!allow.covers(&finding("c.rs", "file-length")));
        assert_eq!(allow.unused().collect::<Vec<_>>(), ["b.rs: import"]);
    }

    #[test]
    fn wants_a_reason() {
        assert!(AllowList::parse("a.rs: file-length").is_err());
        assert!(AllowList::parse("a.rs: file-length: ").is_err());
    }
}
