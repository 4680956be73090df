//! What is said about a configuration.

use std::fmt;

use serde::Serialize;

/// Of how much weight.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Weight {
    /// The configuration cannot be used.
    Error,
    /// It can, but probably not as its author meant it.
    Warning,
    /// Good to know.
    Note,
}

impl Weight {
    /// The word shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something to say.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Of how much weight.
    pub weight: Weight,
    /// A file, line and field, or a flag.
    pub place: String,
    /// What is wrong, and what to write instead.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.weight.name(), self.place, self.message)
    }
}

/// Everything that is said about one configuration.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings(pub Vec<Finding>);

impl Findings {
    /// It cannot be used.
    pub fn error(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.say(Weight::Error, place.into(), message.into());
    }
    /// It can, but.
    pub fn warn(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.say(Weight::Warning, place.into(), message.into());
    }
    /// Good to know.
    pub fn note(&mut self, place: impl Into<String>, message: impl Into<String>) {
        self.say(Weight::Note, place.into(), message.into());
    }

    fn say(&mut self, weight: Weight, place: String, message: String) {
        let finding = Finding { weight, place, message };
        if !self.0.contains(&finding) {
            self.0.push(finding);
        }
    }

    /// Whether there are errors.
    pub fn has_errors(&self) -> bool {
        self.of(Weight::Error).next().is_some()
    }

    /// Those of one weight.
    pub fn of(&self, weight: Weight) -> impl Iterator<Item = &Finding> {
        self.0.iter().filter(move |finding| finding.weight == weight)
    }

    /// The errors as one text, a line each.
    pub fn errors(&self) -> String {
        let errors = self.of(Weight::Error);
        let lines = errors.map(|finding| format!("{}: {}", finding.place, finding.message));
        lines.collect::<Vec<_>>().join("\n")
    }
}
