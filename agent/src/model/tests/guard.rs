//! The API server's own Service keeps its last good backends; policies that change while running.

use serde_json::json;

use super::*;
use crate::settings::{ExternalIps, NodePortAddresses};

fn guarded() -> Model {
    let mut model = model();
    model.guard_api_server(true);
    let slices = [Event::Begin(Kind::EndpointSlice), api_slice("kubernetes", &["192.0.2.1"])];
    apply(&mut model, [Event::Begin(Kind::Service), service("kubernetes", json!({}))]);
    apply(&mut model, slices);
    apply(&mut model, [Event::Complete(Kind::Service), Event::Complete(Kind::EndpointSlice)]);
    model.take_dirty();
    model
}

fn api_slice(slice: &str, addresses: &[&str]) -> Event {
    let endpoints: Vec<Value> =
        addresses.iter().map(|address| json!({"addresses": [address]})).collect();
    let labels = json!({"kubernetes.io/service-name": "kubernetes"});
    let metadata = json!({"name": slice, "labels": labels});
    slice_with(slice, json!({"metadata": metadata, "endpoints": endpoints}))
}

fn backends(model: &Model) -> Vec<String> {
    let desired = model.desired(&name("kubernetes"));
    let ports = desired.ports.into_iter();
    ports.flat_map(|port| addresses(&port.v4, List::Cluster)).collect()
}

const ABOUT: &str = "Service default/kubernetes";

#[test]
fn an_update_to_no_endpoints_is_not_carried_out() {
    let bad: [&[Event]; 4] = [
        &[api_slice("kubernetes", &[])],
        &[delete(Kind::EndpointSlice, "kubernetes")],
        &[Event::Begin(Kind::EndpointSlice), Event::Complete(Kind::EndpointSlice)],
        &[delete(Kind::EndpointSlice, "kubernetes"), delete(Kind::Service, "kubernetes")],
    ];
    for events in bad {
        let mut model = guarded();
        assert!(model.conditions().is_empty(), "{:?}", model.conditions());
        apply(&mut model, events.iter().cloned());
        assert_eq!(backends(&model), ["192.0.2.1:8080"], "{events:?}");
        assert!(model.conditions()[ABOUT].contains("last good backends"), "{events:?}");
        // Good news is believed at once, and the old backends go.
        apply(&mut model, [service("kubernetes", json!({})), api_slice("new", &["192.0.2.2"])]);
        let mut found = backends(&model);
        found.sort_unstable();
        assert_eq!(found, ["192.0.2.2:8080"], "{events:?}");
        assert!(model.conditions().is_empty(), "{:?}", model.conditions());
    }
}

#[test]
fn a_bad_list_of_services_does_not_take_its_address_out_of_the_networks() {
    let mut model = guarded();
    let before = model.service_networks();
    apply(&mut model, [Event::Begin(Kind::Service), Event::Complete(Kind::Service)]);
    assert_eq!(model.service_networks(), before);
    assert_eq!(backends(&model), ["192.0.2.1:8080"]);
}

#[test]
fn what_an_earlier_run_left_is_kept_until_there_is_something_good() {
    let kinds = [Kind::Service, Kind::EndpointSlice];
    let mut model = model();
    model.guard_api_server(true);
    kinds.into_iter().for_each(|kind| model.apply(Event::Begin(kind)));
    kinds.into_iter().for_each(|kind| model.apply(Event::Complete(kind)));
    assert!(model.conditions().is_empty(), "a cluster without it, and no rows of it");
    model.mark_dirty(name("kubernetes"));
    assert!(model.is_unreadable(&name("kubernetes")), "its rows are left as they are");
    assert!(!model.is_unreadable(&name("svc")));
    assert!(model.conditions().contains_key(ABOUT));
    apply(&mut model, [service("kubernetes", json!({})), api_slice("k", &["192.0.2.1"])]);
    assert!(!model.is_unreadable(&name("kubernetes")) && model.conditions().is_empty());
}

#[test]
fn only_with_an_api_and_only_that_service() {
    let mut model = guarded();
    model.guard_api_server(false);
    apply(&mut model, [api_slice("kubernetes", &[])]);
    assert!(backends(&model).is_empty() && model.conditions().is_empty());
    let mut model = guarded();
    let endpoints = json!([{"addresses": ["10.0.0.1"]}]);
    apply(&mut model, [service("svc", json!({})), slice("a", endpoints)]);
    assert!(!only_v4(&model).cluster.is_empty());
    apply(&mut model, [slice("a", json!([]))]);
    assert!(only_v4(&model).cluster.is_empty());
}

#[test]
fn a_changed_policy_makes_dirty_what_it_changes() {
    let mut model = model();
    let node_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    let seen = [node("", &["192.0.2.7"]), service("plain", json!({})), service("svc", node_port)];
    apply(&mut model, seen);
    model.set_node_addresses(vec!["192.0.2.7".parse().unwrap(), "10.1.0.1".parse().unwrap()]);
    model.take_dirty();
    let policy = Policy::default();
    assert!(!model.set_policy(policy.clone()) && !model.has_dirty(), "the same one");
    assert!(!model.set_policy(Policy { masquerade_all: true, ..policy.clone() }));
    assert!(!model.has_dirty(), "the packet path's alone");
    let all = Policy { node_port_addresses: NodePortAddresses::All, ..policy.clone() };
    assert!(!model.set_policy(all));
    assert_eq!(model.take_dirty(), [name("svc")]);
    let found = frontends(&only_v4(&model));
    let node_ports = found.iter().filter(|text| text.contains("30080"));
    assert_eq!(node_ports.count(), 4, "two addresses, loopback, and 0.0.0.0");
    let own = Policy {
        localhost_node_ports: false,
        bind_address: Some("10.1.0.1".parse().unwrap()),
        ..policy.clone()
    };
    assert!(!model.set_policy(own));
    assert_eq!(model.take_dirty(), [name("svc")]);
    let found = frontends(&only_v4(&model));
    let node_ports: Vec<&String> = found.iter().filter(|text| text.contains("30080")).collect();
    assert_eq!(node_ports, [&format!("{} 10.1.0.1:30080", FrontendKind::NodePort.name())]);
    let first = model.node_facts().unwrap().internal[0];
    assert_eq!(first.to_string(), "10.1.0.1", "the packet path's primary address, too");
    assert!(model.set_policy(Policy { external_ips: ExternalIps::Off, ..policy }), "list anew");
}
