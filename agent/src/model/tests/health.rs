//! What load balancers ask: eligible nodes, healthCheckNodePorts and where they are.

use millrace_common::address::Family;
use serde_json::json;

use super::*;
use crate::model::desired::HealthCheck;
use crate::settings::NodePortAddresses;

fn node_with(metadata: Value, spec: Value) -> Event {
    let mut object = json!({"metadata": {"name": HERE}, "spec": spec});
    for (field, value) in metadata.as_object().unwrap() {
        object["metadata"][field] = value.clone();
    }
    Event::Apply(Object::Node(serde_json::from_value(object).unwrap()))
}

#[test]
fn nodes_that_go_are_not_sent_to() {
    let taint = |key: &str| json!({"taints": [{"key": key, "effect": "NoSchedule"}]});
    let leaving = "ToBeDeletedByClusterAutoscaler";
    let deleted = json!({"deletionTimestamp": "2023-11-14T12:00:00Z"});
    let rows = [
        ("plain", json!({}), json!({}), true),
        ("null taints", json!({}), json!({"taints": null}), true),
        ("to be deleted", json!({}), taint(leaving), false),
        ("another taint", json!({}), taint("node.kubernetes.io/not-ready"), true),
        ("cordoned", json!({}), json!({"unschedulable": true}), true),
        ("being deleted", deleted.clone(), json!({}), false),
        ("both", deleted, taint(leaving), false),
    ];
    for (what, metadata, spec, eligible) in rows {
        let mut model = model();
        assert!(!model.is_node_eligible(), "not known");
        model.apply(node_with(metadata, spec));
        assert_eq!(model.is_node_eligible(), eligible, "{what}");
        model.apply(node_with(json!({}), json!({})));
        assert!(model.is_node_eligible(), "{what}: it stays after all");
    }
}

#[test]
fn a_node_that_is_gone_is_not_sent_to() {
    let mut model = model();
    model.apply(node("a", &["192.0.2.1"]));
    model.apply(Event::Delete(Kind::Node, ObjectName::new("", "another")));
    assert!(model.is_node_eligible());
    model.apply(Event::Delete(Kind::Node, ObjectName::new("", HERE)));
    assert!(!model.is_node_eligible() && model.node_facts().is_some(), "its addresses are kept");
    let list = [Event::Begin(Kind::Node), node("a", &[]), Event::Complete(Kind::Node)];
    apply(&mut model, list);
    assert!(model.is_node_eligible());
    let kept = Event::Keep(Kind::Node, ObjectName::new("", HERE));
    apply(&mut model, [Event::Begin(Kind::Node), kept, Event::Complete(Kind::Node)]);
    assert!(model.is_node_eligible());
    apply(&mut model, [Event::Begin(Kind::Node), Event::Complete(Kind::Node)]);
    assert!(!model.is_node_eligible(), "it was not in the list");
}

fn balancer(spec: Value) -> Event {
    let mut whole = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 32000,
        "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
    });
    for (field, value) in spec.as_object().unwrap() {
        whole[field] = value.clone();
    }
    service("svc", whole)
}

fn here(address: &str, conditions: Value) -> Value {
    json!({"addresses": [address], "nodeName": HERE, "conditions": conditions})
}

#[test]
fn only_balancers_that_stay_local_have_a_port() {
    let rows = [
        (json!({}), Some(32000)),
        (json!({"externalTrafficPolicy": "Cluster"}), None),
        (json!({"type": "NodePort"}), None),
        (json!({"healthCheckNodePort": 0}), None),
        (json!({"healthCheckNodePort": 70000}), None),
    ];
    for (spec, port) in rows {
        let mut model = model();
        model.apply(balancer(spec.clone()));
        let health = desired(&model).health;
        assert_eq!(health.map(|health| health.port), port, "{spec}");
    }
    let mut model = model();
    model.apply(balancer(json!({"healthCheckNodePort": 0})));
    let problems = format!("{:?}", desired(&model).problems);
    assert!(problems.contains("spec.healthCheckNodePort"), "{problems}");
}

#[test]
fn ready_addresses_on_this_node_are_counted_once() {
    let ready = json!({"ready": true});
    let terminating = json!({"ready": false, "serving": true, "terminating": true});
    let elsewhere = json!({"addresses": ["10.0.0.9"], "nodeName": "there"});
    let rows = [
        ("none", json!([]), 0),
        ("elsewhere", json!([elsewhere]), 0),
        ("one", json!([here("10.0.0.1", ready.clone()), elsewhere]), 1),
        ("unready", json!([here("10.0.0.1", json!({"ready": false}))]), 0),
        ("terminating", json!([here("10.0.0.1", terminating.clone())]), 0),
        ("one of two", json!([here("10.0.0.1", terminating), here("10.0.0.2", ready.clone())]), 1),
        ("nothing said", json!([here("10.0.0.1", json!({})), here("10.0.0.2", json!({}))]), 2),
    ];
    for (what, endpoints, count) in rows {
        let mut model = model();
        let ports = json!([{"name": "a", "port": 8080}, {"name": "b", "port": 9090}]);
        let fields = json!({"endpoints": endpoints, "ports": ports});
        apply(&mut model, [balancer(json!({})), slice_with("one", fields.clone())]);
        // The same endpoints once more, as another slice's.
        model.apply(slice_with("two", fields));
        let wanted = HealthCheck { port: 32000, v4: Some(count), v6: Some(0) };
        assert_eq!(desired(&model).health, Some(wanted), "{what}");
    }
    let mut model = model();
    let fields = json!({"endpoints": [here("10.0.0.1", ready)], "ports": []});
    let only_v4 = json!({"clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4"]});
    apply(&mut model, [balancer(only_v4), slice_with("one", fields)]);
    let wanted = HealthCheck { port: 32000, v4: Some(0), v6: None };
    assert_eq!(desired(&model).health, Some(wanted), "no ports, and no IPv6");
}

#[test]
fn health_checks_are_where_node_ports_are() {
    use NodePortAddresses::{All, Networks, Primary};
    let networks = |texts: &[&str]| Networks(texts.iter().map(|t| t.parse().unwrap()).collect());
    let one = |text: &str| Some(vec![text.to_owned()]);
    let rows = [
        (Primary, one("192.0.2.7"), one("2001:db8::5")),
        (All, None, None),
        (networks(&["10.1.0.0/16"]), one("10.1.0.1"), None),
        (networks(&["0.0.0.0/0", "2001:db8::/64"]), None, one("2001:db8::5")),
        (networks(&["203.0.113.0/24"]), Some(vec![]), None),
    ];
    for (which, v4, v6) in rows {
        let policy = Policy { node_port_addresses: which.clone(), ..Policy::default() };
        let mut model = Model::new(HERE, policy);
        model.apply(node("", &["192.0.2.7", "2001:db8::5"]));
        let interfaces = ["127.0.0.1", "192.0.2.7", "10.1.0.1", "::1", "2001:db8::5"];
        model.set_node_addresses(interfaces.map(|address| address.parse().unwrap()).to_vec());
        let found = |family| {
            let addresses = model.health_check_addresses(family);
            addresses.map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>())
        };
        assert_eq!((found(Family::V4), found(Family::V6)), (v4, v6), "{which:?}");
    }
}
