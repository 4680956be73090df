//! Prints what is shown, and remembers whether all of it was true.

use std::io::IsTerminal as _;
use std::time::Duration;

use comfy_table::{Table, presets};

/// The demo's output so far.
pub struct Report {
    colour: bool,
    checks: usize,
    failed: Vec<String>,
}

impl Report {
    /// Colour only on a terminal.
    pub fn new() -> Self {
        Report { colour: std::io::stdout().is_terminal(), checks: 0, failed: Vec::new() }
    }

    fn painted(&self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A heading.
    pub fn scene(&self, title: &str) {
        println!("\n{}", self.painted("1", &format!("== {title}")));
    }

    /// A sentence that claims nothing.
    pub fn note(&self, text: &str) {
        println!("   {text}");
    }

    /// A claim and whether it is true.
    pub fn check(&mut self, holds: bool, claim: &str) {
        self.checks += 1;
        let mark = if holds { self.painted("32", "ok  ") } else { self.painted("31", "FAIL") };
        println!("{mark} {claim}");
        if !holds {
            self.failed.push(claim.to_owned());
        }
    }

    /// A table.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<String>>) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).set_header(header);
        table.add_rows(rows);
        println!("{table}");
    }

    /// What a command printed.
    pub fn output(&self, text: &str) {
        text.trim_end().lines().for_each(|line| println!("   {}", line.trim_end()));
    }

    /// The last line; whether everything held.
    pub fn finish(&self, took: Duration) -> bool {
        let (total, bad, took) = (self.checks, self.failed.len(), took.as_secs_f64());
        if bad == 0 {
            let text = format!("\nAll {total} claims held, in {took:.1} s.");
            println!("{}", self.painted("32", &text));
        } else {
            let text = format!("\n{bad} of {total} claims did not hold, in {took:.1} s:");
            println!("{}", self.painted("31", &text));
            self.failed.iter().for_each(|claim| println!("  {claim}"));
        }
        bad == 0
    }
}
