//! What a row of the scoreboard is made of.

/// Rows that belong together: one part of kube-proxy's own tests.
pub struct Section {
    /// Number in the specification.
    pub number: &'static str,
    /// What it is about, and where upstream has it.
    pub title: &'static str,
    /// Its rows, in upstream's order.
    pub rows: &'static [Scenario],
}

/// One scenario.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// Upstream's name for it, short; `C` marks the conformance suite's.
    pub name: &'static str,
    /// What kube-proxy does, and its test asserts.
    pub expected: &'static str,
    /// What we do.
    pub ours: Ours,
    /// The tests that show it, as `file::test` of an integration test and `crate::path::test` of a
    /// unit test.
    pub tests: &'static [&'static str],
}

/// What we do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ours {
    /// As kube-proxy.
    Same,
    /// More than kube-proxy, and what.
    Better(&'static str),
    /// Something else, what and why.
    Differs(&'static str),
    /// Nothing that a test would show, and why.
    Missing(&'static str),
}

/// We do as kube-proxy does.
pub const fn same(
    name: &'static str,
    expected: &'static str,
    tests: &'static [&'static str],
) -> Scenario {
    Scenario { name, expected, ours: Ours::Same, tests }
}

/// No test shows it.
pub const fn missing(name: &'static str, expected: &'static str, why: &'static str) -> Scenario {
    Scenario { name, expected, ours: Ours::Missing(why), tests: &[] }
}

impl Scenario {
    /// We do better.
    pub const fn better(self, what: &'static str) -> Self {
        Self { ours: Ours::Better(what), ..self }
    }

    /// We do something else.
    pub const fn differs(self, what: &'static str) -> Self {
        Self { ours: Ours::Differs(what), ..self }
    }
}

impl Ours {
    /// In words.
    pub fn text(self) -> String {
        match self {
            Self::Same => "the same".to_owned(),
            Self::Better(what) => format!("**better**: {what}"),
            Self::Differs(what) => format!("**differs**: {what}"),
            Self::Missing(why) => format!("**missing**: {why}"),
        }
    }
}
