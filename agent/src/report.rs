//! What the agent says about itself, left in the `report` map: all that `status` cannot read off
//! the other maps.

use serde::{Deserialize, Serialize};

use millrace_common::service::REPORT_BYTES;

use crate::canary::tally::Score;

/// The report, as JSON in the map and in `status -o json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// The agent's version.
    pub version: String,
    /// Its process id, as its own pid namespace numbers it.
    pub pid: u32,
    /// The node it serves.
    pub node_name: String,
    /// Where its objects come from.
    pub source: String,
    /// Where the programs are attached.
    pub cgroup_root: String,
    /// Seconds since the epoch.
    pub started_at: u64,
    /// The initial lists are complete.
    pub synced: bool,
    /// The first plan is carried out, every program is attached, and the canary is translated.
    pub ready: bool,
    /// Map writes since the start.
    pub ops: u64,
    /// Rounds that failed since the start.
    pub failed_rounds: u64,
    /// Sockets are not translated: the operator said so.
    pub sockets_off: bool,
    /// By what means programs are attached to devices.
    pub device_hooks: String,
    /// Hooks that were found without our program, and mended.
    pub repaired_hooks: u64,
    /// The same for hooks of devices.
    pub repaired_device_hooks: u64,
    /// The canary's score, hook by hook.
    pub canary: Vec<Score>,
    /// Services that are not served as asked, or not at all.
    pub conditions: Vec<Condition>,
    /// Conditions that did not fit in here.
    pub conditions_omitted: usize,
}

/// Something a person should know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Condition {
    /// Of how much weight.
    pub severity: Severity,
    /// An object, a file, a watch.
    pub about: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Weight of a condition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Not served as asked.
    Refused,
    /// Served, but something is off.
    Warning,
}

impl Report {
    /// The report as JSON that fits in the map; conditions that do not are counted instead.
    pub fn to_json(&self) -> String {
        let mut report = self.clone();
        report.conditions.sort_by(|a, b| (a.severity, &a.about).cmp(&(b.severity, &b.about)));
        loop {
            // Serialising plain structs of strings and numbers cannot fail.
            let json = serde_json::to_string(&report).unwrap_or_default();
            if json.len() <= REPORT_BYTES || report.conditions.is_empty() {
                return json;
            }
            let keep = report.conditions.len() * 3 / 4;
            report.conditions_omitted += report.conditions.len() - keep;
            report.conditions.truncate(keep);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_report_keeps_the_refusals_and_says_how_much_is_left_out() {
        let condition = |index: usize, severity| Condition {
            severity,
            about: format!("Service shop/s{index}"),
            message: "x".repeat(500),
        };
        let mut report = Report::default();
        report.conditions.extend((0..1000).map(|index| condition(index, Severity::Warning)));
        report.conditions.push(condition(5000, Severity::Refused));
        let json = report.to_json();
        assert!(json.len() <= REPORT_BYTES);
        let back: Report = serde_json::from_str(&json).unwrap();
        assert_eq!(back.conditions[0].severity, Severity::Refused);
        assert_eq!(back.conditions.len() + back.conditions_omitted, 1001);
    }
}
