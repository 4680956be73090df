//! Names of objects: those that an API server would let pass, and what becomes of others.
//!
//! Manifests can hold any text where a name belongs: a megabyte of it, or what a terminal takes for
//! a command. Such a name never gets further than here; the object is kept, unserved, under a
//! harmless one, so that what is said about it can be said and withdrawn.

use std::hash::{DefaultHasher, Hash, Hasher};

use crate::source::{Kind, ObjectName};

/// What manifests that leave out the namespace mean.
const DEFAULT_NAMESPACE: &str = "default";
/// Characters of the longest name (a DNS subdomain, RFC 1123).
const NAME_CHARS_MAX: usize = 253;
/// Characters of an unusable name that are shown.
const SHOWN_CHARS: usize = 32;
/// What the names of such objects begin with. No usable name contains it.
const UNUSABLE: &str = "(unusable name) ";

/// The name as the model knows it: in the namespace that is meant (none, if the kind has none), and
/// harmless.
pub(super) fn canonical(kind: Kind, mut name: ObjectName) -> ObjectName {
    if !kind.is_namespaced() {
        name.namespace.clear();
    } else if name.namespace.is_empty() {
        name.namespace.push_str(DEFAULT_NAMESPACE);
    }
    harmless(&mut name.namespace);
    harmless(&mut name.name);
    name
}

/// Whether the name had to be made harmless.
pub(super) fn is_unusable(name: &ObjectName) -> bool {
    name.name.starts_with(UNUSABLE) || name.namespace.starts_with(UNUSABLE)
}

/// Whether a port's name can be shown as it is.
pub(super) fn is_plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn harmless(text: &mut String) {
    let is_usable = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    if text.len() <= NAME_CHARS_MAX && text.bytes().all(is_usable) {
        return;
    }
    // Two of them must stay two.
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    let shown: String = text.chars().take(SHOWN_CHARS).flat_map(char::escape_default).collect();
    *text = format!("{UNUSABLE}{shown} {:016x}", hasher.finish());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(namespace: &str, name: &str) -> ObjectName {
        canonical(Kind::Service, ObjectName::new(namespace, name))
    }

    #[test]
    fn usable_names_stay_and_others_become_harmless_and_distinct() {
        let name = of("", "kube-dns.v1_2");
        assert_eq!(name, ObjectName::new("default", "kube-dns.v1_2"));
        assert!(!is_unusable(&name));
        let long = "x".repeat(1_000_000);
        for bad in ["a b", "a/b", "\u{1b}[2J", "a\nb", "ü", long.as_str(), UNUSABLE] {
            let name = of("ns", bad);
            assert!(is_unusable(&name), "{bad:?}");
            assert!(name.name.len() < 512 && name.name.bytes().all(|b| !b.is_ascii_control()));
            assert_eq!(name, of("ns", bad), "the same each time");
            assert!(is_unusable(&of(bad, "a")));
        }
        assert_ne!(of("ns", &format!("{long}1")), of("ns", &format!("{long}2")));
        let node = canonical(Kind::Node, ObjectName::new("ignored", "n1"));
        assert_eq!(node, ObjectName::new("", "n1"));
    }
}
