//! Events as the API wants them (`events.k8s.io/v1`). Pure.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;

use super::{Notice, Object, Scope, Weight};
use crate::source::Kind;

/// `reportingController`, and the component that `kubectl` shows.
pub const CONTROLLER: &str = "millrace";
/// Bytes of a note; the API allows no more.
pub const NOTE_BYTES_MAX: usize = 1024;
/// Characters of `reportingInstance`, likewise.
const INSTANCE_CHARS_MAX: usize = 128;
/// Characters of the object's name that an Event's name begins with.
const NAME_CHARS_MAX: usize = 200;
/// Where Events about objects without a namespace are.
const CLUSTER_NAMESPACE: &str = "default";

/// The namespace an Event about this object belongs in.
pub fn namespace(object: &Object) -> &str {
    match object.name.namespace.as_str() {
        "" => CLUSTER_NAMESPACE,
        namespace => namespace,
    }
}

/// The name of the Event. The same for the same notice: whoever says it again, another node or the
/// agent after a restart, is told that it exists, and that is all there is to do.
pub fn name(notice: &Notice, node_name: &str, now: Timestamp) -> String {
    let mut hasher = DefaultHasher::new();
    let object = &notice.regarding;
    (&object.kind.to_string(), &object.name.namespace, &object.name.name).hash(&mut hasher);
    (&object.uid, notice.reason, &notice.note).hash(&mut hasher);
    match notice.scope {
        Scope::Cluster => {}
        Scope::Node => node_name.hash(&mut hasher),
        Scope::Moment => (node_name, now.as_microsecond()).hash(&mut hasher),
    }
    let is_plain = |c: &char| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-';
    let lower = object.name.name.to_ascii_lowercase();
    let start: String = lower.chars().filter(is_plain).take(NAME_CHARS_MAX).collect();
    let start = match start.trim_matches('-') {
        "" => CONTROLLER,
        start => start,
    };
    format!("{start}.{:016x}", hasher.finish())
}

/// The Event of that name.
pub fn event(notice: &Notice, name: String, node_name: &str, now: Timestamp) -> Event {
    Event {
        metadata: ObjectMeta {
            name: Some(name),
            namespace: Some(namespace(&notice.regarding).to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(now)),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(node_name.chars().take(INSTANCE_CHARS_MAX).collect()),
        action: Some(notice.action.to_owned()),
        reason: Some(notice.reason.to_owned()),
        regarding: Some(reference(&notice.regarding)),
        related: notice.related.as_ref().map(reference),
        note: Some(notice.note.clone()),
        type_: Some(
            match notice.weight {
                Weight::Normal => "Normal",
                Weight::Warning => "Warning",
            }
            .to_owned(),
        ),
        ..Event::default()
    }
}

/// A merge patch that says that it was seen again, `count` times in all.
pub fn seen_again(count: u32, now: Timestamp) -> serde_json::Value {
    let series = serde_json::json!({"count": count, "lastObservedTime": MicroTime(now)});
    serde_json::json!({"series": series})
}

fn reference(object: &Object) -> ObjectReference {
    let api_version = match object.kind {
        Kind::Service | Kind::Node => "v1",
        Kind::EndpointSlice => "discovery.k8s.io/v1",
        Kind::ServiceCidr => "networking.k8s.io/v1",
    };
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    ObjectReference {
        api_version: Some(api_version.to_owned()),
        kind: Some(object.kind.to_string()),
        namespace: given(&object.name.namespace),
        name: given(&object.name.name),
        uid: object.uid.clone(),
        ..ObjectReference::default()
    }
}
