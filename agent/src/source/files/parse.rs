//! One file's bytes into objects, and problems with their lines. Pure.

use serde::Deserialize;
use serde_json::Value;

use super::{json, yaml};
use crate::source::{Kind, Object, ObjectName, slim};

/// The namespace of namespaced objects that name none.
const NAMESPACE_DEFAULT: &str = "default";

/// How a file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// YAML, one or more documents.
    Yaml,
    /// JSON, one or more values.
    Json,
}

impl Format {
    /// By the name; none for files that are not manifests, hidden files and editors' leavings
    /// (`.x.yaml.swp`, `x.yaml~`, `#x.yaml#`) among them.
    pub fn of(name: &str) -> Option<Self> {
        if name.starts_with(['.', '#']) {
            return None;
        }
        match name.rsplit_once('.')?.1 {
            "yaml" | "yml" => Some(Self::Yaml),
            "json" => Some(Self::Json),
            _ => None,
        }
    }
}

/// Something that is wrong in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Line, counted from 1; where the object begins, if no closer place is known.
    pub line: Option<u64>,
    /// The object, if it is known which.
    pub object: Option<(Kind, ObjectName)>,
    /// What is wrong.
    pub message: String,
}

impl Problem {
    /// A problem that no object can be blamed for.
    pub(super) fn at(line: u64, message: impl Into<String>) -> Self {
        Self { line: Some(line), object: None, message: message.into() }
    }
}

/// What a file says.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Parsed {
    /// Objects, in order, with the lines they begin at.
    pub objects: Vec<(u64, Object)>,
    /// What is wrong with others.
    pub problems: Vec<Problem>,
    /// Objects of kinds that are none of our business.
    pub ignored_count: usize,
}

/// Parse a file. `Err`: nothing can be said about what is in it.
pub fn parse(format: Format, bytes: &[u8]) -> Result<Parsed, Problem> {
    match format {
        Format::Yaml => yaml::parse(bytes),
        Format::Json => json::parse(bytes),
    }
}

impl Parsed {
    pub(super) fn push(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Object(line, object) => self.objects.push((line, *object)),
            Outcome::Problem(problem) => self.problems.push(problem),
            Outcome::Ignored => self.ignored_count += 1,
        }
    }
}

/// What became of one object.
#[derive(Debug)]
pub(super) enum Outcome {
    Object(u64, Box<Object>),
    Problem(Problem),
    Ignored,
}

/// What an object says it is.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub api_version: Option<String>,
    pub kind: Option<String>,
    pub name: ObjectName,
}

/// [`Head`], leniently: whatever is odd about it is left out, so that the rest can name the object.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LenientHead {
    api_version: Option<Value>,
    kind: Option<Value>,
    metadata: Option<Value>,
}

impl From<LenientHead> for Head {
    fn from(head: LenientHead) -> Self {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let metadata = |key| text(head.metadata.as_ref().and_then(|metadata| metadata.get(key)));
        Self {
            api_version: text(head.api_version.as_ref()),
            kind: text(head.kind.as_ref()),
            name: ObjectName::new(
                metadata("namespace").unwrap_or_default(),
                metadata("name").unwrap_or_default(),
            ),
        }
    }
}

/// What a kind and API version mean to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meaning {
    /// An object we use.
    One(Kind),
    /// A list; the kind of its items, if it gives one.
    List(Option<Kind>),
    /// A kind we use, of a version that we do not know.
    UnknownVersion(Kind),
    /// Something else.
    Other,
    /// It does not say.
    Missing,
}

/// What this kind of this API version is.
pub(super) fn meaning(api_version: Option<&str>, kind: Option<&str>) -> Meaning {
    let (kind, list) = match kind {
        None | Some("") => return Meaning::Missing,
        Some("List") => return Meaning::List(None),
        Some("Service") => (Kind::Service, false),
        Some("EndpointSlice") => (Kind::EndpointSlice, false),
        Some("Node") => (Kind::Node, false),
        Some("ServiceCIDR") => (Kind::ServiceCidr, false),
        Some("ServiceList") => (Kind::Service, true),
        Some("EndpointSliceList") => (Kind::EndpointSlice, true),
        Some("NodeList") => (Kind::Node, true),
        Some("ServiceCIDRList") => (Kind::ServiceCidr, true),
        Some(_) => return Meaning::Other,
    };
    let (group, expected) = match kind {
        Kind::Service | Kind::Node => ("", "v1"),
        Kind::EndpointSlice => ("discovery.k8s.io", "discovery.k8s.io/v1"),
        Kind::ServiceCidr => ("networking.k8s.io", "networking.k8s.io/v1"),
    };
    let version = api_version.unwrap_or(expected);
    if version == expected {
        return if list { Meaning::List(Some(kind)) } else { Meaning::One(kind) };
    }
    // Knative and others have kinds of the same names.
    let found_group = version.rsplit_once('/').map_or("", |(group, _)| group);
    if found_group == group { Meaning::UnknownVersion(kind) } else { Meaning::Other }
}

/// Where an object's text is.
pub(super) enum Body<'a> {
    Text(&'a str),
    Value(Value),
}

impl Body<'_> {
    /// Decode it; an error comes with the lines between the body's first and the mistake.
    fn decode<T: for<'a> Deserialize<'a>>(self) -> Result<T, (u64, String)> {
        match self {
            Body::Text(text) => {
                let mut reader = serde_json::Deserializer::from_str(text);
                serde_path_to_error::deserialize(&mut reader).map_err(|error| {
                    let path = error.path().to_string();
                    let error = error.into_inner();
                    let lines = (error.line() as u64).saturating_sub(1);
                    let text = error.to_string();
                    // "... at line 3 column 7" would count from the object's first line.
                    let message = text.rsplit_once(" at line ").map_or(&*text, |(text, _)| text);
                    (lines, format!("{path}: {message}"))
                })
            }
            Body::Value(value) => serde_path_to_error::deserialize(value)
                .map_err(|error| (0, format!("{}: {}", error.path(), error.inner()))),
        }
    }
}

/// Decode one object of a kind that is ours.
pub(super) fn decode(kind: Kind, line: u64, mut name: ObjectName, body: Body<'_>) -> Outcome {
    set_namespace(kind, &mut name.namespace);
    let object = (!name.name.is_empty()).then(|| (kind, name.clone()));
    if object.is_none() {
        let message = format!("this {kind} has no metadata.name");
        return Outcome::Problem(Problem { line: Some(line), object, message });
    }
    let decoded = match kind {
        Kind::Service => body.decode().map(|mut object: slim::Service| {
            set_namespace(kind, &mut object.metadata.namespace);
            Object::Service(object)
        }),
        Kind::EndpointSlice => body.decode().map(|mut object: slim::EndpointSlice| {
            set_namespace(kind, &mut object.metadata.namespace);
            Object::EndpointSlice(object)
        }),
        Kind::Node => body.decode().map(|mut object: slim::Node| {
            set_namespace(kind, &mut object.metadata.namespace);
            Object::Node(object)
        }),
        Kind::ServiceCidr => body.decode().map(|mut object: slim::ServiceCidr| {
            set_namespace(kind, &mut object.metadata.namespace);
            Object::ServiceCidr(object)
        }),
    };
    match decoded {
        Ok(decoded) => Outcome::Object(line, Box::new(decoded)),
        Err((lines, message)) => {
            Outcome::Problem(Problem { line: Some(line + lines), object, message })
        }
    }
}

fn set_namespace(kind: Kind, namespace: &mut String) {
    if !kind.is_namespaced() {
        namespace.clear();
    } else if namespace.is_empty() {
        namespace.push_str(NAMESPACE_DEFAULT);
    }
}

/// What is neither a list nor ours.
pub(super) fn not_ours(meaning: Meaning, line: u64, head: &Head) -> Outcome {
    match meaning {
        Meaning::Missing => Outcome::Problem(Problem::at(
            line,
            "no kind: this is not a Kubernetes object (Service, EndpointSlice, Node, ServiceCIDR \
             or a List)",
        )),
        Meaning::UnknownVersion(kind) => {
            let version = head.api_version.as_deref().unwrap_or_default();
            let mut name = head.name.clone();
            set_namespace(kind, &mut name.namespace);
            let object = (!name.name.is_empty()).then_some((kind, name));
            let message = format!("apiVersion {version} of {kind} is not known: convert it");
            Outcome::Problem(Problem { line: Some(line), object, message })
        }
        Meaning::List(_) => {
            Outcome::Problem(Problem::at(line, "a list inside a list is not read: flatten it"))
        }
        Meaning::One(_) | Meaning::Other => Outcome::Ignored,
    }
}

/// An object inside a list, whose kind is its own or else the list's.
pub(super) fn item(list: Option<Kind>, line: u64, head: Head, body: Body<'_>) -> Outcome {
    let own = meaning(head.api_version.as_deref(), head.kind.as_deref());
    match (own, list) {
        (Meaning::One(kind), _) => decode(kind, line, head.name, body),
        (Meaning::Missing, Some(kind)) => decode(kind, line, head.name, body),
        (other, _) => not_ours(other, line, &head),
    }
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
