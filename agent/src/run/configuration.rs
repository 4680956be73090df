//! The configuration as the loop sees it: what it was at the start, what is in force, and what the
//! file says that is not.

use crate::config::effective::{Effective, applied, needs_restart};
use crate::config::finding::{Findings, Weight};
use crate::config::watch::Reloaded;
use crate::report::{Condition, Severity};

/// The configuration while running.
pub(super) struct Configuration {
    started: Effective,
    in_force: Effective,
    /// About the file that is in force.
    warnings: Vec<Condition>,
    /// What the file says and a restart is needed for.
    waiting: Vec<Condition>,
    /// The file cannot be used.
    bad: Option<Condition>,
}

fn condition(about: String, message: String) -> Condition {
    Condition { severity: Severity::Warning, about, message }
}

fn warnings(findings: &Findings) -> Vec<Condition> {
    let warnings = findings.of(Weight::Warning);
    warnings
        .map(|finding| {
            condition(format!("configuration {}", finding.place), finding.message.clone())
        })
        .collect()
}

impl Configuration {
    pub(super) fn new(started: Effective, findings: &Findings) -> Self {
        Self {
            in_force: started.clone(),
            started,
            warnings: warnings(findings),
            waiting: Vec::new(),
            bad: None,
        }
    }

    /// What is in force.
    pub(super) const fn in_force(&self) -> &Effective {
        &self.in_force
    }

    /// The file says something else. True: something else is in force from now on.
    pub(super) fn take(&mut self, reloaded: Reloaded) -> bool {
        let (changed, findings) = match reloaded {
            Reloaded::Good(changed, findings) => (*changed, findings),
            Reloaded::Bad(why) => {
                tracing::error!("the configuration cannot be used; what was in force stays: {why}");
                self.bad = Some(self.cannot_be_used(&why));
                return false;
            }
        };
        self.bad = None;
        self.warnings = warnings(&findings);
        for warning in &self.warnings {
            tracing::warn!("{}: {}", warning.about, warning.message);
        }
        self.waiting = needs_restart(&self.started, &changed)
            .into_iter()
            .map(|field| {
                let message = format!(
                    "the file says {}, in force is {}: restart the agent to have it",
                    field.wanted, field.in_force
                );
                condition(format!("configuration {}", field.path), message)
            })
            .collect();
        for waiting in &self.waiting {
            tracing::warn!("{}: {}", waiting.about, waiting.message);
        }
        let after = Effective::after(&self.started, changed);
        for (path, before, now) in applied(&self.in_force, &after) {
            tracing::info!("configuration: {path} is {now} from now on (was {before})");
        }
        let differs = self.in_force != after;
        self.in_force = after;
        differs
    }

    fn cannot_be_used(&self, why: &str) -> Condition {
        let file = self.started.file.clone().unwrap_or_default();
        let message = format!("cannot be used; what was in force stays in force: {why}");
        condition(format!("configuration {file}"), message)
    }

    /// Something of it could not be carried out.
    pub(super) fn failed(&mut self, why: &str) {
        tracing::error!("the configuration could not be carried out: {why}");
        self.bad = Some(self.cannot_be_used(why));
    }

    /// What a person should know.
    pub(super) fn conditions(&self) -> impl Iterator<Item = Condition> {
        let all = self.bad.iter().chain(&self.waiting).chain(&self.warnings);
        all.cloned().collect::<Vec<_>>().into_iter()
    }
}
