//! From a file's documents to settings. Pure.
//!
//! A `KubeProxyConfiguration` is read as kube-proxy reads it: strictly, and if that fails for names
//! that it does not know or that come twice, leniently, with a warning. Our own document is read
//! strictly.

use std::collections::{BTreeMap, BTreeSet};

use super::catalogue::{self, Document, Field, Key};
use super::finding::Findings;
use super::tree::{self, Located, Node};
use super::value::Value;

/// Names less alike than this (Jaro-Winkler, 0 to 1) are not taken for each other.
const ALIKE: f64 = 0.8;
/// Names that stand in every document.
const TYPE_META: [&str; 2] = ["apiVersion", "kind"];
/// Fields that kube-proxy had once: what they are now.
const FORMER: &[(&str, &str)] = &[
    ("udpIdleTimeout", "kube-proxy has done without it since 1.26"),
    ("resourceContainer", "kube-proxy has done without it since 1.16"),
    ("conntrack.max", "kube-proxy has done without it since 1.18; conntrack.maxPerCore is left"),
];

/// What a file gives.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Decoded {
    /// Values and the lines they stand on; what is left open (null) as well.
    pub given: BTreeMap<Key, (Value, u64)>,
    /// The documents that were there.
    pub documents: BTreeSet<Document>,
}

/// Decode a file; `name` stands in what is said.
pub fn decode(name: &str, text: &str, findings: &mut Findings) -> Decoded {
    let mut decoded = Decoded::default();
    let documents = match tree::parse(text) {
        Ok(documents) => documents,
        Err(tree::Unreadable { line, message }) => {
            let place = line.map_or_else(|| name.to_owned(), |line| format!("{name}:{line}"));
            findings.error(place, format!("not YAML: {message}"));
            return decoded;
        }
    };
    if documents.is_empty() {
        let (api_version, kind) = Document::KubeProxy.type_meta();
        let message = format!("the file is empty: write at least {api_version} {kind}");
        findings.error(name, message);
    }
    for document in &documents {
        let mut reader = Reader { name, findings: &mut *findings, decoded: &mut decoded };
        reader.document(document);
    }
    decoded
}

struct Reader<'a> {
    name: &'a str,
    findings: &'a mut Findings,
    decoded: &'a mut Decoded,
}

impl Reader<'_> {
    fn document(&mut self, located: &Located) {
        let place = format!("{}:{}", self.name, located.line);
        let text = |name: &str| located.node.get(name).and_then(|part| part.node.scalar());
        let api_version = text("apiVersion").unwrap_or_default();
        let kind = text("kind").unwrap_or_default();
        let Some(document) = Document::of_type(&api_version, &kind) else {
            let known = [Document::KubeProxy, Document::Millrace].map(|document| {
                let (api_version, kind) = document.type_meta();
                format!("apiVersion: {api_version} with kind: {kind}")
            });
            let given = if api_version.is_empty() && kind.is_empty() {
                "no apiVersion and kind".to_owned()
            } else {
                format!("apiVersion {api_version:?} with kind {kind:?}")
            };
            let fix = format!("{given} is not known here; write {}", known.join(" or "));
            return self.findings.error(place, fix);
        };
        if !self.decoded.documents.insert(document) {
            let message = format!("a second {kind}: merge it into the first");
            return self.findings.error(place, message);
        }
        self.part(document, "", located);
    }

    fn part(&mut self, document: Document, prefix: &str, located: &Located) {
        let entries = match &located.node {
            Node::Map(entries) => entries,
            Node::Null => return,
            _ => {
                let place = self.place(located.line, prefix);
                return self.findings.error(place, "write names and values below it");
            }
        };
        let mut seen = BTreeSet::new();
        for (name, child) in entries {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            if !seen.insert(name) {
                let message = "it stands here twice; the last one counts".to_owned();
                self.strict(document, self.place(child.line, &path), message);
            }
            self.entry(document, &path, child);
        }
    }

    fn entry(&mut self, document: Document, path: &str, located: &Located) {
        if TYPE_META.contains(&path) {
            return;
        }
        if let Some(field) = catalogue::find(document, path) {
            return self.field(field, located);
        }
        let below = format!("{path}.");
        if catalogue::of(document).any(|field| field.path.starts_with(&below)) {
            return self.part(document, path, located);
        }
        let message = match FORMER.iter().find(|(former, _)| *former == path) {
            Some((_, now)) if document == Document::KubeProxy => format!("unknown field: {now}"),
            _ => format!("unknown field{}", did_you_mean(document, path)),
        };
        self.strict(document, self.place(located.line, path), message);
    }

    fn field(&mut self, field: &'static Field, located: &Located) {
        match field.shape.read_node(&located.node) {
            Ok(value) => {
                self.decoded.given.insert(field.key(), (value, located.line));
            }
            Err(fix) => {
                let shown = located.node.to_json();
                let place = self.place(located.line, field.path);
                self.findings.error(place, format!("{shown}: {fix}"));
            }
        }
    }

    /// What strict decoding refuses.
    fn strict(&mut self, document: Document, place: String, message: String) {
        if document == Document::KubeProxy {
            let message = format!("{message}; ignored, as by kube-proxy");
            self.findings.warn(place, message);
        } else {
            self.findings.error(place, message);
        }
    }

    fn place(&self, line: u64, path: &str) -> String {
        format!("{}:{line} {path}", self.name)
    }
}

/// The name that was probably meant.
fn did_you_mean(document: Document, path: &str) -> String {
    let mut known: Vec<(f64, &str)> = catalogue::of(document)
        .flat_map(|field| {
            // A section's own name is one, too.
            let section = field.path.rsplit_once('.').map(|(section, _)| section);
            section.into_iter().chain([field.path])
        })
        .map(|known| (likeness(path, known), known))
        .collect();
    known.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    match known.first() {
        Some((alike, known)) if *alike >= ALIKE => format!("; did you mean {known}?"),
        _ => String::new(),
    }
}

/// Whole paths are compared, and last names: a field is often right but in the wrong section.
fn likeness(given: &str, known: &str) -> f64 {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_lowercase();
    let whole = strsim::jaro_winkler(&given.to_lowercase(), &known.to_lowercase());
    let end = strsim::jaro_winkler(&last(given), &last(known));
    // The same last name elsewhere counts for nearly as much as a whole path that is alike.
    whole.max(end * 0.95)
}
