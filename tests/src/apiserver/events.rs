//! Events (`events.k8s.io/v1`), written and judged as the API server judges them. Pure.

use std::collections::BTreeMap;

use serde_json::{Value, json};

/// Bytes of a note.
const NOTE_BYTES_MAX: usize = 1024;
/// Characters of other texts.
const TEXT_CHARS_MAX: usize = 128;

/// What a path names: a namespace, and an Event in it.
pub(super) struct Place {
    namespace: String,
    name: Option<String>,
}

impl Place {
    pub fn of_path(path: &str) -> Option<Self> {
        let rest = path.strip_prefix("/apis/events.k8s.io/v1/namespaces/")?;
        let mut parts = rest.split('/');
        let (namespace, events) = (parts.next()?, parts.next()?);
        (events == "events")
            .then(|| Self { namespace: namespace.into(), name: parts.next().map(Into::into) })
    }
}

/// Status, reason and message of a refusal.
type Refusal = (u16, &'static str, String);

/// All Events.
#[derive(Default)]
pub(super) struct Events {
    objects: BTreeMap<(String, String), Value>,
    writes: usize,
}

impl Events {
    pub fn all(&self) -> Vec<Value> {
        self.objects.values().cloned().collect()
    }

    pub fn writes(&self) -> usize {
        self.writes
    }

    /// Carry a request out.
    pub fn write(
        &mut self,
        method: &str,
        place: &Place,
        object: Value,
    ) -> Result<(u16, Value), Refusal> {
        self.writes += 1;
        match (method, &place.name) {
            ("POST", None) => self.create(&place.namespace, object),
            ("PATCH", Some(name)) => self.patch(&place.namespace, name, &object),
            // The role of a proxy allows no more.
            _ => Err((403, "Forbidden", format!("{method} of events"))),
        }
    }

    fn create(&mut self, namespace: &str, mut object: Value) -> Result<(u16, Value), Refusal> {
        if let Some(what) = invalid(namespace, &object) {
            return Err((422, "Invalid", what));
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let key = (namespace.to_owned(), name.clone());
        if self.objects.contains_key(&key) {
            return Err((409, "AlreadyExists", format!("events {name:?} already exists")));
        }
        object["metadata"]["uid"] = json!("00000000-0000-4000-8000-00000000e0e0");
        self.objects.insert(key, object.clone());
        Ok((201, object))
    }

    fn patch(
        &mut self,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<(u16, Value), Refusal> {
        let key = (namespace.to_owned(), name.to_owned());
        let not_found = || (404, "NotFound", format!("events {name:?} not found"));
        let object = self.objects.get_mut(&key).ok_or_else(not_found)?;
        let fields: Vec<&String> = patch.as_object().into_iter().flatten().map(|f| f.0).collect();
        let count = patch["series"]["count"].as_u64().unwrap_or_default();
        let observed = patch["series"]["lastObservedTime"].is_string();
        if fields != ["series"] || count < 2 || !observed {
            return Err((422, "Invalid", format!("only a series can be patched: {patch}")));
        }
        object["series"] = patch["series"].clone();
        Ok((200, object.clone()))
    }
}

/// What the API server would not take.
fn invalid(namespace: &str, object: &Value) -> Option<String> {
    let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    for field in ["/reportingController", "/reportingInstance", "/action", "/reason"] {
        let length = text(field).chars().count();
        if length == 0 || length > TEXT_CHARS_MAX {
            return Some(format!("{field}: {length} characters"));
        }
    }
    let name = text("/metadata/name");
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-.".contains(c);
    let regarding = match text("/regarding/namespace") {
        "" => "default",
        regarding => regarding,
    };
    let rules = [
        (name.len() <= 253 && !name.is_empty() && name.chars().all(plain), "metadata.name"),
        (text("/metadata/namespace") == namespace, "metadata.namespace"),
        (regarding == namespace, "involvedObject.namespace: does not match event.namespace"),
        (text("/eventTime").ends_with('Z'), "eventTime"),
        (["Normal", "Warning"].contains(&text("/type")), "type"),
        (text("/note").len() <= NOTE_BYTES_MAX, "note: can have at most 1024 bytes"),
        (!text("/regarding/kind").is_empty() && !text("/regarding/name").is_empty(), "regarding"),
        (object["kind"] == "Event" && object["apiVersion"] == "events.k8s.io/v1", "kind"),
        (object.get("series").is_none_or(Value::is_null), "series"),
    ];
    rules.iter().find(|(holds, _)| !holds).map(|(_, what)| (*what).to_owned())
}
