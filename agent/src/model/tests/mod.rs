//! Tables from the specification, section 8, and what the model promises around them.

mod endpoints;
mod events;
mod frontends;
mod guard;
mod health;
mod hostile;
mod limits;
mod networks;
mod policy;
mod selection;
mod services;
mod sources;

use millrace_common::address::V4;
use millrace_common::frontend::{Frontend, Kind as FrontendKind};
use serde_json::{Value, json};

use super::Model;
use super::desired::{Desired, DesiredFamily, DesiredFrontend, List};
use crate::settings::Policy;
use crate::source::{Event, Kind, Object, ObjectName};

/// The node the model is of.
const HERE: &str = "here";

fn model() -> Model {
    Model::new(HERE, Policy::default())
}

/// Service `default/NAME` with this spec over an ordinary one, as an event.
fn service(name: &str, spec: Value) -> Event {
    service_with(name, spec, json!({}), json!({}))
}

fn service_with(name: &str, spec: Value, status: Value, labels: Value) -> Event {
    let mut object = json!({
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1"],
            "ipFamilies": ["IPv4"],
            "ports": [{"port": 80, "protocol": "TCP"}],
        },
        "status": status,
    });
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    Event::Apply(Object::Service(serde_json::from_value(object).unwrap()))
}

/// IPv4 slice `default/NAME` of Service `svc` with the unnamed port 8080, as an event.
fn slice(name: &str, endpoints: Value) -> Event {
    slice_with(name, json!({"endpoints": endpoints}))
}

/// As [`slice`], with these fields over the ordinary ones.
fn slice_with(name: &str, fields: Value) -> Event {
    let mut object = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": "svc"}},
        "addressType": "IPv4",
        "endpoints": [],
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
    });
    for (field, value) in fields.as_object().unwrap() {
        object[field] = value.clone();
    }
    Event::Apply(Object::EndpointSlice(serde_json::from_value(object).unwrap()))
}

fn node(zone: &str, addresses: &[&str]) -> Event {
    let addresses: Vec<Value> =
        addresses.iter().map(|address| json!({"type": "InternalIP", "address": address})).collect();
    let object = json!({
        "metadata": {"name": HERE, "labels": {"topology.kubernetes.io/zone": zone}},
        "status": {"addresses": addresses},
    });
    Event::Apply(Object::Node(serde_json::from_value(object).unwrap()))
}

fn apply(model: &mut Model, events: impl IntoIterator<Item = Event>) {
    events.into_iter().for_each(|event| model.apply(event));
}

fn name(name: &str) -> ObjectName {
    ObjectName::new("default", name)
}

fn delete(kind: Kind, object: &str) -> Event {
    Event::Delete(kind, name(object))
}

fn desired(model: &Model) -> Desired {
    model.desired(&name("svc"))
}

/// The IPv4 side of the only port of Service `svc`.
fn only_v4(model: &Model) -> DesiredFamily<V4> {
    let desired = desired(model);
    assert!(desired.ports.len() <= 1, "{desired:?}");
    desired.ports.into_iter().next().map(|port| port.v4).unwrap_or_default()
}

/// A list as text.
fn addresses(family: &DesiredFamily<V4>, list: List) -> Vec<String> {
    family.list(list).iter().map(ToString::to_string).collect()
}

/// The frontends as `KIND ADDRESS:PORT`, in the order of the text.
fn frontends(family: &DesiredFamily<V4>) -> Vec<String> {
    let text = |frontend: &DesiredFrontend<V4>| {
        let (address, port) = (frontend.key.address, frontend.key.port);
        format!("{} {address:?}:{port:?}", frontend.kind.name())
    };
    let mut texts: Vec<String> = family.frontends.iter().map(text).collect();
    texts.sort_unstable();
    texts
}

/// The frontend of that kind; the first if there are several.
fn frontend(family: &DesiredFamily<V4>, kind: FrontendKind) -> DesiredFrontend<V4> {
    *family.frontends.iter().find(|frontend| frontend.kind == kind).unwrap()
}

fn has(frontend: &DesiredFrontend<V4>, flag: u32) -> bool {
    Frontend { flags: frontend.flags, ..Frontend::default() }.has(flag)
}
