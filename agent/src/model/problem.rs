//! What is wrong with an object, in words an operator can act on.

use std::fmt;

use crate::source::{Kind, SharedName};

/// Problems kept per object: one object full of garbage says enough with the first few.
pub const PROBLEMS_PER_OBJECT: usize = 16;

/// Characters of a bad value that are shown.
const VALUE_CHARS: usize = 64;

/// A field that is not used because of its value. The rest of the object is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Kind of the object.
    pub kind: Kind,
    /// Its name.
    pub object: SharedName,
    /// Path of the field, such as `spec.externalIPs[0]`.
    pub field: String,
    /// What stands there.
    pub value: String,
    /// What is wrong with it and how to mend it.
    pub fix: String,
}

impl Problem {
    /// What it is about; the same for the same field of the same object.
    pub fn key(&self) -> String {
        format!("{} {}: {}", self.kind, self.object, self.field)
    }
    /// What is wrong and how to mend it.
    pub fn message(&self) -> String {
        if self.value.is_empty() {
            return self.fix.clone();
        }
        format!("{:?} is {}", self.value, self.fix)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key(), self.message())
    }
}

/// Collects the problems of one object while it is read.
pub(super) struct Reading {
    kind: Kind,
    object: SharedName,
    problems: Vec<Problem>,
    left_out: usize,
}

impl Reading {
    pub(super) fn new(kind: Kind, object: SharedName) -> Self {
        Self { kind, object, problems: Vec::new(), left_out: 0 }
    }

    /// `field` is skipped.
    pub(super) fn skip(
        &mut self,
        field: impl Into<String>,
        value: impl fmt::Display,
        fix: impl Into<String>,
    ) {
        if self.problems.len() >= PROBLEMS_PER_OBJECT {
            self.left_out += 1;
            return;
        }
        let value = value.to_string().chars().take(VALUE_CHARS).collect();
        self.problems.push(Problem {
            kind: self.kind,
            object: self.object.clone(),
            field: field.into(),
            value,
            fix: fix.into(),
        });
    }

    /// Something about `field` is refused; said once, however often it is found.
    pub(super) fn skip_once(&mut self, field: String, fix: String) {
        if !self.problems.iter().any(|problem| problem.field == field && problem.fix == fix) {
            self.skip(field, "", fix);
        }
    }

    /// The problems, with the number of those left out.
    pub(super) fn finish(mut self) -> Box<[Problem]> {
        if self.left_out > 0 {
            self.problems.push(Problem {
                kind: self.kind,
                object: self.object,
                field: "other fields".into(),
                value: String::new(),
                fix: format!("{} more are skipped for reasons like those shown", self.left_out),
            });
        }
        self.problems.into()
    }
}
