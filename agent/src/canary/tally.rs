//! The score of the canary, hook by hook. Pure.

use std::collections::BTreeMap;

use millrace_common::address::Family;
use serde::{Deserialize, Serialize};

use crate::model::family_name;

/// Checks that may fail one after the other, [a second](super::CHECK_EVERY) between them, before it
/// counts: a single one may be a busy machine's doing.
pub const PATIENCE: u32 = 3;

/// What one check of one hook brought.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// The hook's program.
    pub hook: String,
    /// Of whose connections.
    pub family: Family,
    /// Why it failed; nothing: it was translated.
    pub error: Option<String>,
}

/// A hook's score.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Score {
    /// The hook's program.
    pub hook: String,
    /// `IPv4` or `IPv6`.
    pub family: String,
    /// The last check passed.
    pub translated: bool,
    /// Why not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// The scores of some hooks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    hooks: BTreeMap<(String, u8), Entry>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    family: Family,
    error: Option<String>,
    /// Failures one after the other, up to [`PATIENCE`]; whatever was never translated has used it
    /// up.
    failures: u32,
}

impl Tally {
    /// Take in a whole round: hooks that are not in it are checked no more.
    pub fn record(&mut self, checks: Vec<Check>) {
        let mut hooks = BTreeMap::new();
        for Check { hook, family, error } in checks {
            let key = (hook, family as u8);
            let before = self.hooks.get(&key).map_or(PATIENCE, |entry| entry.failures);
            let failures = if error.is_none() { 0 } else { (before + 1).min(PATIENCE) };
            hooks.insert(key, Entry { family, error, failures });
        }
        self.hooks = hooks;
    }

    /// Whether anything of a family fails, and not for once.
    pub fn fails(&self, family: Family) -> bool {
        self.hooks.values().any(|entry| entry.family == family && entry.failures >= PATIENCE)
    }

    /// Whether nothing fails in either family, but for once.
    pub fn passes(&self) -> bool {
        !self.fails(Family::V4) && !self.fails(Family::V6)
    }

    /// To be shown.
    pub fn scores(&self) -> impl Iterator<Item = Score> {
        self.hooks.iter().map(|((hook, _), entry)| Score {
            hook: hook.clone(),
            family: family_name(entry.family).to_owned(),
            translated: entry.error.is_none(),
            error: entry.error.clone(),
        })
    }

    /// What a person should know: what it is about, and what is wrong.
    pub fn conditions(&self) -> impl Iterator<Item = (String, String)> {
        let failing = self.hooks.iter().filter(|(_, entry)| entry.failures >= PATIENCE);
        failing.map(|((hook, _), entry)| {
            let about = format!("canary {hook} {}", family_name(entry.family));
            let error = entry.error.as_deref().unwrap_or_default();
            let message = format!(
                "{error}: Services may not be reached through this hook; look for programs of \
                 others on it (bpftool cgroup tree, bpftool net)"
            );
            (about, message)
        })
    }
}
