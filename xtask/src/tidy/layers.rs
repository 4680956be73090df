//! Who may know whom: dependencies point inwards, and each outside world has one door.

use super::rules::{has_word, numbered};

/// A rule's name, the line it is broken on, what to say.
type Found = (&'static str, usize, String);

/// Directories whose code is pure: the same input gives the same output, in a test as in the
/// kernel.
const PURE: &[&str] = &[
    "common/src/",
    "agent/src/model",
    "agent/src/plan",
    "agent/src/devices",
    "agent/src/settings",
    "agent/src/canary/packets",
    "agent/src/canary/rows",
    "agent/src/canary/tally",
    "agent/src/events/ledger",
    "agent/src/events/object",
    "agent/src/health/core",
    "agent/src/health/pages",
    "agent/src/config/catalogue",
    "agent/src/config/decode",
    "agent/src/config/effective",
    "agent/src/config/finding",
    "agent/src/config/merge",
    "agent/src/config/print",
    "agent/src/config/resolve",
    "agent/src/config/tree",
    "agent/src/config/value",
];

/// Names that bring in the outside world, asynchrony or a clock.
const IMPURE: &[&str] = &[
    "tokio",
    "aya",
    "aya_obj",
    "kube::",
    "Instant",
    "SystemTime",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "async fn",
    ".await",
];

/// Modules of `std` that do.
const IMPURE_STD: &[&str] = &["fs", "env", "process", "thread"];

/// The only place that may name aya, and those that must ask it.
const BPF_DOOR: &str = "agent/src/bpf";
const BEHIND_BPF_DOOR: &[&str] = &["agent/src/", "tests/"];
const AYA: &[&str] = &["aya", "aya_obj", "aya_log"];

/// Finds names in code that its directory must not know.
pub fn check(path: &str, code: &str) -> Vec<Found> {
    let mut found = Vec::new();
    if is_below(path, PURE) {
        for (number, line) in numbered(code) {
            for name in IMPURE.iter().filter(|name| has_word(line, name)) {
                found.push(("import", number, format!("`{name}` has no place in pure code")));
            }
        }
        for name in IMPURE_STD {
            for number in uses_of_std(code, name) {
                let message = format!("`std::{name}` has no place in pure code");
                found.push(("import", number, message));
            }
        }
    } else if is_below(path, BEHIND_BPF_DOOR) && !path.starts_with(BPF_DOOR) {
        for (number, line) in numbered(code) {
            for name in AYA.iter().filter(|name| has_word(line, name)) {
                let message = format!("`{name}` may be named only in {BPF_DOOR}");
                found.push(("import", number, message));
            }
        }
    }
    found
}

fn is_below(path: &str, directories: &[&str]) -> bool {
    directories.iter().any(|directory| path.starts_with(directory))
}

/// Lines that name a module of `std`, alone (`std::fs`) or in a group (`std::{fs, net}`).
fn uses_of_std(code: &str, module: &str) -> Vec<usize> {
    let names = |rest: &str| match rest.strip_prefix('{') {
        Some(group) => {
            let end = group.find('}').unwrap_or(group.len());
            group[..end].split(',').any(|item| is_module(item.trim(), module))
        }
        None => is_module(rest, module),
    };
    let uses =
        code.match_indices("std::").filter(|(start, found)| names(&code[start + found.len()..]));
    uses.map(|(start, _)| code[..start].matches('\n').count() + 1).collect()
}

/// Whether a path begins with this module.
fn is_module(path: &str, module: &str) -> bool {
    let after = path.strip_prefix(module);
    after.is_some_and(|rest| !rest.starts_with(super::mask::is_word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, code: &str) -> Vec<usize> {
        check(path, code).into_iter().map(|(_, line, _)| line).collect()
    }

    #[test]
    fn pure_code_knows_no_outside() {
        let path = "agent/src/plan/mod.rs";
        assert_eq!(lines(path, "use tokio::sync::mpsc;\nlet t = Instant::now();\n"), [1, 2]);
        assert_eq!(lines(path, "use std::{\n    collections::BTreeMap,\n    fs,\n};"), [1]);
        assert_eq!(lines(path, "let text = std::fs::read(path);"), [1]);
        assert_eq!(lines(path, "use std::net::IpAddr;\nuse std::time::Duration;"), [0; 0]);
        assert_eq!(lines("common/src/lib.rs", "async fn f() {}"), [1]);
    }

    #[test]
    fn longer_names_are_other_names() {
        assert_eq!(lines("common/src/lib.rs", "use crate::instant::InstantLike;"), [0; 0]);
        assert_eq!(lines("common/src/lib.rs", "let fs = std::fsx::f();"), [0; 0]);
    }

    #[test]
    fn only_the_door_names_aya() {
        assert_eq!(lines("agent/src/apply/mod.rs", "use aya::maps::MapData;"), [1]);
        assert_eq!(lines("agent/src/bpf/mod.rs", "use aya::maps::MapData;"), [0; 0]);
        assert_eq!(lines("ebpf/src/main.rs", "use aya_ebpf::macros::map;"), [0; 0]);
        assert_eq!(lines("tests/src/lib.rs", "use aya_obj::Object;"), [1]);
    }
}
