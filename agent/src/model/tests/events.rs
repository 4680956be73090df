//! Events: what makes a Service dirty, lists as mark and sweep, conditions.

use serde_json::{Value, json};

use super::*;

fn endpoints(count: usize) -> Value {
    (1..=count).map(|n| json!({"addresses": [format!("10.0.0.{n}")]})).collect()
}

#[test]
fn what_is_not_used_changes_nothing() {
    let mut model = model();
    apply(&mut model, [service("svc", json!({})), slice("a", endpoints(2))]);
    assert_eq!(model.take_dirty(), [name("svc")]);
    assert!(!model.has_dirty());
    let metadata = json!({"name": "a", "resourceVersion": "9",
                          "labels": {"kubernetes.io/service-name": "svc", "app": "x"}});
    let remote =
        json!([{"addresses": ["10.0.0.1"], "nodeName": "moved"}, {"addresses": ["10.0.0.2"]}]);
    let unused = [
        service_with("svc", json!({}), json!({}), json!({"app": "web"})),
        service("svc", json!({"healthCheckNodePort": 0})),
        slice("a", endpoints(2)),
        slice_with("a", json!({"metadata": metadata, "endpoints": endpoints(2)})),
        slice("a", remote),
        node("", &["192.0.2.1"]),
    ];
    for event in unused {
        let text = format!("{event:?}");
        model.apply(event);
        assert!(!model.has_dirty(), "{text}");
    }
    model.apply(slice("a", endpoints(3)));
    assert_eq!(model.take_dirty(), [name("svc")]);
    model.mark_dirty(name("other"));
    assert_eq!(model.take_dirty(), [name("other")]);
}

#[test]
fn order_of_arrival_does_not_matter() {
    let events = [service("svc", json!({})), slice("a", endpoints(1)), slice("b", endpoints(3))];
    let mut results = Vec::new();
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0], [1, 0, 2]] {
        let mut model = model();
        for index in order {
            model.apply(events[index].clone());
        }
        assert_eq!(model.take_dirty(), [name("svc")]);
        results.push(desired(&model));
    }
    assert_eq!(results[0].ports[0].v4.cluster.len(), 3);
    assert!(results.iter().all(|result| *result == results[0]));
}

/// Service `default/NAME`, created in this year.
fn aged(name: &str, year: u16) -> Event {
    let Event::Apply(Object::Service(mut object)) = service(name, json!({})) else {
        unreachable!("`service` makes Services")
    };
    object.metadata.creation_timestamp = format!("{year}-01-01T00:00:00Z");
    Event::Apply(Object::Service(object))
}

#[test]
fn dirty_services_come_once_and_the_oldest_first_whatever_was_known_when_they_were_marked() {
    let mut model = model();
    // A slice comes before its Service, whose age is not known yet; another is not known at all.
    apply(&mut model, [slice("a", endpoints(1)), aged("younger", 2020), aged("svc", 2010)]);
    model.mark_dirty(name("stranger"));
    model.mark_dirty(name("svc"));
    assert_eq!(model.take_dirty(), [name("svc"), name("younger"), name("stranger")]);
    // Gone and created anew between two looks: it is young now. Its slices never went.
    apply(&mut model, [delete(Kind::Service, "svc"), aged("younger", 2020), aged("svc", 2030)]);
    apply(&mut model, [delete(Kind::Service, "younger"), aged("younger", 2021)]);
    assert_eq!(model.take_dirty(), [name("younger"), name("svc")]);
    // Likewise without slices: nothing was left of it in between.
    apply(&mut model, [aged("old", 2000), aged("middle", 2005)]);
    apply(&mut model, [delete(Kind::Service, "old"), aged("old", 2009)]);
    assert_eq!(model.take_dirty(), [name("middle"), name("old")]);
    assert!(!model.has_dirty() && model.take_dirty().is_empty());
    model.apply(delete(Kind::Service, "middle"));
    assert_eq!(model.take_dirty(), [name("middle")]);
}

#[test]
fn a_slice_that_changes_its_service_dirties_both() {
    let mut model = model();
    apply(
        &mut model,
        [service("svc", json!({})), service("two", json!({})), slice("a", endpoints(1))],
    );
    model.take_dirty();
    let metadata = json!({"name": "a", "labels": {"kubernetes.io/service-name": "two"}});
    model.apply(slice_with("a", json!({"metadata": metadata, "endpoints": endpoints(1)})));
    assert_eq!(model.take_dirty(), [name("svc"), name("two")]);
    assert_eq!(only_v4(&model).cluster.len(), 0);
    assert_eq!(model.desired(&name("two")).ports[0].v4.cluster.len(), 1);
}

#[test]
fn a_complete_list_sweeps_what_it_did_not_name() {
    let mut model = model();
    assert!(!model.is_synced());
    apply(
        &mut model,
        [
            Event::Begin(Kind::Service),
            service("svc", json!({})),
            service("old", json!({})),
            Event::Complete(Kind::Service),
        ],
    );
    assert!(!model.is_synced(), "slices are not known yet");
    apply(
        &mut model,
        [
            Event::Begin(Kind::EndpointSlice),
            slice("a", endpoints(1)),
            slice("b", endpoints(2)),
            Event::Complete(Kind::EndpointSlice),
        ],
    );
    assert!(!model.is_node_listed(), "it is not known whether there is a Node");
    apply(&mut model, [Event::Begin(Kind::Node), Event::Complete(Kind::Node)]);
    assert!(model.is_synced() && model.is_node_listed());
    model.take_dirty();

    // A list that broke off and began again.
    apply(
        &mut model,
        [Event::Begin(Kind::Service), service("old", json!({})), Event::Begin(Kind::Service)],
    );
    assert!(!model.has_dirty(), "nothing is gone before the list is complete");
    apply(&mut model, [service("svc", json!({})), Event::Complete(Kind::Service)]);
    assert_eq!(model.take_dirty(), [name("old")]);
    assert!(model.desired(&name("old")).ports.is_empty());

    apply(
        &mut model,
        [
            Event::Begin(Kind::EndpointSlice),
            slice("a", endpoints(1)),
            Event::Complete(Kind::EndpointSlice),
        ],
    );
    assert_eq!(model.take_dirty(), [name("svc")]);
    assert_eq!(only_v4(&model).cluster.len(), 1);
    apply(&mut model, [Event::Begin(Kind::EndpointSlice), Event::Complete(Kind::EndpointSlice)]);
    assert_eq!(only_v4(&model).cluster.len(), 0);
    assert!(model.is_synced());
}

#[test]
fn slices_outlive_their_service() {
    let mut model = model();
    apply(&mut model, [service("svc", json!({})), slice("a", endpoints(1))]);
    apply(&mut model, [Event::Begin(Kind::Service), Event::Complete(Kind::Service)]);
    assert!(desired(&model).ports.is_empty());
    model.apply(service("svc", json!({})));
    assert_eq!(only_v4(&model).cluster.len(), 1);
}

#[test]
fn the_zone_of_this_node_dirties_everything_once() {
    let mut model = model();
    apply(&mut model, [service("svc", json!({})), service("two", json!({}))]);
    model.take_dirty();
    model.apply(node("a", &[]));
    assert_eq!(model.take_dirty(), [name("svc"), name("two")]);
    model.apply(node("a", &[]));
    model.apply(Event::Delete(Kind::Node, ObjectName::new("", HERE)));
    apply(&mut model, [Event::Begin(Kind::Node), Event::Complete(Kind::Node)]);
    let mut other = node("b", &["192.0.2.9"]);
    if let Event::Apply(Object::Node(node)) = &mut other {
        node.metadata.name = "another".into();
    }
    model.apply(other);
    assert!(!model.has_dirty());
    model.apply(node("", &[]));
    assert_eq!(model.take_dirty().len(), 2, "the label was removed");
}

#[test]
fn no_namespace_is_the_default_one() {
    let mut model = model();
    apply(&mut model, [service("svc", json!({})), slice("a", endpoints(1))]);
    assert_eq!(model.desired(&ObjectName::new("default", "svc")).ports.len(), 1);
    model.apply(Event::Delete(Kind::Service, ObjectName::new("", "svc")));
    assert!(desired(&model).ports.is_empty());
}

#[test]
fn conditions_come_and_go_with_what_they_are_about() {
    let mut model = model();
    let say = |message: Option<&str>| Event::Condition {
        key: "file a.yaml".into(),
        message: message.map(Into::into),
    };
    apply(&mut model, [say(Some("line 3: bad")), service("svc", json!({"externalIPs": ["x"]}))]);
    let keys: Vec<String> = model.conditions().into_keys().collect();
    assert_eq!(keys, ["Service default/svc: spec.externalIPs[0]", "file a.yaml"]);
    model.apply(say(None));
    model.apply(service("svc", json!({"clusterIP": "", "clusterIPs": []})));
    let keys: Vec<String> = model.conditions().into_keys().collect();
    assert_eq!(keys, ["Service default/svc: spec.clusterIP"]);
    apply(&mut model, [Event::Begin(Kind::Service), Event::Complete(Kind::Service)]);
    assert!(model.conditions().is_empty());
}

#[test]
fn endpoints_are_kept_small() {
    use crate::model::slice::{Endpoint, Slice};
    use millrace_common::address::V6;
    assert_eq!(size_of::<Endpoint<V4>>(), 8);
    assert_eq!(size_of::<Endpoint<V6>>(), 20);
    assert!(size_of::<Slice>() <= 48);
}

#[test]
fn the_model_can_move_to_another_thread() {
    const fn is_send<T: Send>() {}
    is_send::<Model>();
    is_send::<crate::plan::Planner>();
}

#[test]
fn what_a_list_names_but_cannot_show_keeps_its_last_good_state() {
    let mut model = model();
    let object = service("svc", json!({"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}));
    apply(&mut model, [Event::Begin(Kind::Service), object, Event::Complete(Kind::Service)]);
    let before = desired(&model);
    assert_eq!(before.ports.len(), 1);
    let name = name("svc");
    apply(
        &mut model,
        [
            Event::Begin(Kind::Service),
            Event::Keep(Kind::Service, name.clone()),
            Event::Complete(Kind::Service),
        ],
    );
    assert_eq!(model.desired(&name), before);
    apply(&mut model, [Event::Begin(Kind::Service), Event::Complete(Kind::Service)]);
    assert!(model.desired(&name).ports.is_empty());
}

#[test]
fn a_node_that_nobody_knows_is_a_condition() {
    let mut model = model();
    model.apply(Event::Begin(Kind::Node));
    assert!(model.conditions().is_empty(), "the list is not complete");
    model.apply(Event::Complete(Kind::Node));
    let conditions = model.conditions();
    assert!(conditions[&format!("Node {HERE}")].contains("--node-name"), "{conditions:?}");
    model.apply(node("", &[]));
    assert!(model.conditions().is_empty());
}
