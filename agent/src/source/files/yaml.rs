//! YAML manifests: any number of documents, each object an own value with its line.
//!
//! Scalars are typed by YAML, not by what a field would like to have, as the API server does it: a
//! label `version: 1.10` without quotes is a number, and wrong.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::{Map, Value};
use serde_saphyr::Spanned;

use super::parse::{Body, Head, LenientHead, Meaning, Outcome, Parsed, Problem};
use super::parse::{decode, item, meaning, not_ours};

/// A document: a list's items apart from the rest, since there may be very many of them.
struct Document {
    rest: Map<String, Value>,
    items: Vec<Item>,
}

/// An item of a list, decoded as soon as it is read if it says what it is.
enum Item {
    Done(Outcome),
    /// The kind is the list's, which may come after the items.
    Kindless(u64, Head, Value),
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(DocumentVisitor)
    }
}

struct DocumentVisitor;

impl<'de> Visitor<'de> for DocumentVisitor {
    type Value = Document;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a Kubernetes object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
        let mut document = Document { rest: Map::new(), items: Vec::new() };
        while let Some(key) = map.next_key::<String>()? {
            if key == "items" {
                document.items = map.next_value::<Option<_>>()?.unwrap_or_default();
            } else {
                document.rest.insert(key, map.next_value()?);
            }
        }
        Ok(document)
    }
}

impl<'de> Deserialize<'de> for Item {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Spanned::<Value>::deserialize(deserializer)?;
        let line = value.referenced.line();
        let value = value.value;
        let Some(head) = head(&value) else {
            let message = "this item is not a Kubernetes object";
            return Ok(Self::Done(Outcome::Problem(Problem::at(line, message))));
        };
        Ok(match meaning(head.api_version.as_deref(), head.kind.as_deref()) {
            Meaning::Missing => Self::Kindless(line, head, value),
            _ => Self::Done(item(None, line, head, Body::Value(value))),
        })
    }
}

/// Parse YAML.
pub(super) fn parse(bytes: &[u8]) -> Result<Parsed, Problem> {
    let mut parsed = Parsed::default();
    let mut reader = bytes;
    for document in serde_saphyr::read_with_options(&mut reader, options()) {
        let document: Spanned<Document> = document.map_err(|error| {
            let line = error.location().map(|location| location.line());
            Problem { line, object: None, message: error.without_snippet().to_string() }
        })?;
        let line = document.referenced.line();
        take(document.value, line, &mut parsed);
    }
    Ok(parsed)
}

/// Sizes are bounded by the file's; what remains bounded here is what a small file can blow up:
/// nesting, and aliases (serde-saphyr's own limits).
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_reader_input_bytes: None,
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_documents: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
        // YAML 1.1 would make booleans of a namespace `n` and a label `on`; nothing here is a
        // boolean often enough to want that.
        strict_booleans: true,
        with_snippet: false,
    }
}

fn take(document: Document, line: u64, parsed: &mut Parsed) {
    let Document { rest, items } = document;
    let rest = Value::Object(rest);
    let Some(head) = head(&rest) else { return };
    match meaning(head.api_version.as_deref(), head.kind.as_deref()) {
        Meaning::List(kind) => {
            for entry in items {
                parsed.push(match entry {
                    Item::Done(outcome) => outcome,
                    Item::Kindless(line, head, value) => item(kind, line, head, Body::Value(value)),
                });
            }
        }
        Meaning::One(kind) => parsed.push(decode(kind, line, head.name, Body::Value(rest))),
        other => parsed.push(not_ours(other, line, &head)),
    }
}

fn head(value: &Value) -> Option<Head> {
    LenientHead::deserialize(value).ok().map(Head::from)
}
