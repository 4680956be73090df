//! A configuration file as a tree that knows its lines. Pure.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value as Json;
use serde_saphyr::Spanned;

/// Documents in one file, at most.
const DOCUMENTS_MAX: usize = 16;

/// A part of a document.
#[derive(Clone, PartialEq, Debug)]
pub enum Node {
    /// Nothing.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Another number.
    Float(f64),
    /// A text.
    Text(String),
    /// A list.
    List(Vec<Located>),
    /// Names and what they stand for, in the order of the file; a name may come twice.
    Map(Vec<(String, Located)>),
}

/// A part and the line it begins on, counted from 1.
#[derive(Clone, PartialEq, Debug)]
pub struct Located {
    /// The line.
    pub line: u64,
    /// What stands there.
    pub node: Node,
}

impl Node {
    /// The text of something that is neither a list nor a map.
    pub fn scalar(&self) -> Option<String> {
        match self {
            Self::Bool(value) => Some(value.to_string()),
            Self::Int(value) => Some(value.to_string()),
            Self::Float(value) => Some(value.to_string()),
            Self::Text(text) => Some(text.clone()),
            Self::Null | Self::List(_) | Self::Map(_) => None,
        }
    }

    /// Without lines.
    pub fn to_json(&self) -> Json {
        match self {
            Self::Null => Json::Null,
            Self::Bool(value) => Json::from(*value),
            Self::Int(value) => Json::from(*value),
            Self::Float(value) => Json::from(*value),
            Self::Text(text) => Json::from(text.as_str()),
            Self::List(items) => items.iter().map(|item| item.node.to_json()).collect(),
            Self::Map(entries) => {
                entries.iter().map(|(name, part)| (name.clone(), part.node.to_json())).collect()
            }
        }
    }

    /// What a name of a map stands for; the last, if it comes twice.
    pub fn get(&self, name: &str) -> Option<&Located> {
        match self {
            Self::Map(entries) => {
                entries.iter().rev().find(|(known, _)| known == name).map(|(_, part)| part)
            }
            _ => None,
        }
    }
}

/// What is wrong with a file as such.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unreadable {
    /// Where, if that is known.
    pub line: Option<u64>,
    /// What.
    pub message: String,
}

/// The documents of a YAML (or JSON) text; empty ones are left out.
pub fn parse(text: &str) -> Result<Vec<Located>, Unreadable> {
    let mut reader = text.as_bytes();
    let mut documents = Vec::new();
    for document in serde_saphyr::read_with_options::<_, Located>(&mut reader, options()) {
        let document = document.map_err(|error| Unreadable {
            line: error.location().map(|location| location.line()),
            message: error.without_snippet().to_string(),
        })?;
        if document.node == Node::Null {
            continue;
        }
        if documents.len() == DOCUMENTS_MAX {
            let message = format!("more than {DOCUMENTS_MAX} documents: take out what is not ours");
            return Err(Unreadable { line: Some(document.line), message });
        }
        documents.push(document);
    }
    Ok(documents)
}

/// Names that come twice are told by whoever reads the map, which can go on.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        duplicate_keys: serde_saphyr::options::DuplicateKeyPolicy::LastWins,
        strict_booleans: true,
        with_snippet: false,
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Node>::deserialize(deserializer)?;
        Ok(Self { line: spanned.referenced.line(), node: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a configuration")
    }
    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_none<E>(self) -> Result<Node, E> {
        Ok(Node::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Node, D::Error> {
        Node::deserialize(deserializer)
    }
    fn visit_bool<E>(self, value: bool) -> Result<Node, E> {
        Ok(Node::Bool(value))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Node, E> {
        Ok(Node::Int(value))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Node, E> {
        Ok(i64::try_from(value).map_or(Node::Float(value as f64), Node::Int))
    }
    fn visit_f64<E>(self, value: f64) -> Result<Node, E> {
        Ok(Node::Float(value))
    }
    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        Ok(Node::Text(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element()? {
            list.push(item);
        }
        Ok(Node::List(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut entries = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            entries.push((name, map.next_value()?));
        }
        Ok(Node::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_knows_its_line() {
        let text = "a: 1\nb:\n  c: x\n  d: [1.5, null, \"7\"]\n---\n---\ne: yes\n";
        let documents = parse(text).unwrap();
        assert_eq!(documents.len(), 2, "{documents:?}");
        let c = documents[0].node.get("b").unwrap().node.get("c").unwrap();
        assert_eq!((c.line, &c.node), (3, &Node::Text("x".into())));
        let d = documents[0].node.get("b").unwrap().node.get("d").unwrap();
        assert_eq!(d.node.to_json(), serde_json::json!([1.5, null, "7"]));
        let e = documents[1].node.get("e").unwrap();
        assert_eq!((e.line, &e.node), (7, &Node::Text("yes".into())));
    }

    #[test]
    fn names_that_come_twice_are_both_there() {
        let documents = parse("a: 1\na: 2\n").unwrap();
        assert!(matches!(&documents[0].node, Node::Map(entries) if entries.len() == 2));
        assert_eq!(documents[0].node.get("a").unwrap().node, Node::Int(2));
    }

    #[test]
    fn json_is_read_and_what_is_neither_names_a_line() {
        let documents = parse(r#"{"a": {"b": [true, -3]}}"#).unwrap();
        assert_eq!(documents[0].node.to_json(), serde_json::json!({"a": {"b": [true, -3]}}));
        let error = parse("a: 1\nb: [1,\n").unwrap_err();
        assert!(error.line.is_some(), "{error:?}");
        let many = "a: 1\n---\n".repeat(DOCUMENTS_MAX + 1);
        assert!(parse(&many).unwrap_err().message.contains("documents"));
    }
}
