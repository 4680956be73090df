//! The hull around ClusterIPs, and ServiceCIDRs.

use millrace_common::node::{Prefix, SERVICE_CIDRS};
use serde_json::{Value, json};

use super::*;
use crate::model::networks::{FamilyNetworks, ServiceNetworks};

fn at(name: &str, address: &str) -> Event {
    service(name, json!({"clusterIP": address, "clusterIPs": [address]}))
}

fn cidr(name: &str, cidrs: Value) -> Event {
    let object = json!({"metadata": {"name": name}, "spec": {"cidrs": cidrs}});
    Event::Apply(Object::ServiceCidr(serde_json::from_value(object).unwrap()))
}

/// A network as text; nothing if it contains nothing.
fn text<A: millrace_common::address::Address>(prefix: Prefix<A>) -> Option<String> {
    let ones: u32 = prefix.mask.as_bytes().iter().map(|byte| byte.count_ones()).sum();
    (prefix != Prefix::NONE).then(|| format!("{:?}/{ones}", prefix.address))
}

fn cidrs<A: millrace_common::address::Address>(networks: &FamilyNetworks<A>) -> Vec<String> {
    networks.cidrs.iter().filter_map(|prefix| text(*prefix)).collect()
}

fn networks(model: &Model) -> ServiceNetworks {
    model.service_networks().unwrap()
}

fn hull(model: &Model) -> Option<String> {
    text(networks(model).v4.hull)
}

/// A model that knows of all Services that there are none.
fn synced() -> Model {
    let mut model = model();
    for kind in [Kind::Service, Kind::EndpointSlice, Kind::Node] {
        apply(&mut model, [Event::Begin(kind), Event::Complete(kind)]);
    }
    model.apply(node("", &[]));
    model
}

#[test]
fn the_hull_grows_with_services_and_shrinks_with_a_full_list() {
    let mut model = synced();
    assert_eq!(hull(&model), None);
    for (name, address, expected) in [
        ("a", "10.96.0.1", "10.96.0.1/32"),
        ("b", "10.96.0.2", "10.96.0.0/30"),
        ("c", "10.96.0.9", "10.96.0.0/28"),
        ("d", "10.97.0.1", "10.96.0.0/15"),
        ("e", "10.96.7.7", "10.96.0.0/15"),
        ("f", "192.168.0.1", "0.0.0.0/0"),
    ] {
        model.apply(at(name, address));
        assert_eq!(hull(&model).as_deref(), Some(expected), "{name}");
    }
    model.apply(delete(Kind::Service, "f"));
    assert_eq!(hull(&model).as_deref(), Some("0.0.0.0/0"), "not before a full list");
    model.apply(Event::Begin(Kind::Service));
    apply(&mut model, [at("a", "10.96.0.1"), at("b", "10.96.0.2")]);
    model.apply(Event::Keep(Kind::Service, name("c")));
    model.apply(Event::Complete(Kind::Service));
    assert_eq!(hull(&model).as_deref(), Some("10.96.0.0/28"));
    let headless = json!({"clusterIP": "None", "clusterIPs": ["None"]});
    apply(&mut model, [service("g", headless), service("a", json!({"type": "ExternalName"}))]);
    assert_eq!(hull(&model).as_deref(), Some("10.96.0.0/28"));
    assert_eq!(text(networks(&model).v6.hull), None);
    let six = json!({"clusterIPs": ["fd00::1:5"], "ipFamilies": ["IPv6"]});
    apply(&mut model, [service("six", six.clone()), service("seven", six)]);
    assert_eq!(text(networks(&model).v6.hull).as_deref(), Some("fd00::1:5/128"));
}

#[test]
fn service_cidrs_come_change_and_go_at_once_and_gate_nothing() {
    let mut model = model();
    model.apply(cidr("kubernetes", json!(["10.96.0.0/16"])));
    assert_eq!(model.service_networks(), None, "Services are not known yet");
    let mut model = synced();
    assert!(model.is_synced(), "without them");
    let v4 = |model: &Model| cidrs(&networks(model).v4);
    model.apply(Event::Begin(Kind::ServiceCidr));
    model.apply(cidr("kubernetes", json!(["10.96.0.0/16", "fd00:96::/112"])));
    assert_eq!(v4(&model), ["10.96.0.0/16"]);
    assert_eq!(cidrs(&networks(&model).v6), ["fd00:96::/112"]);
    model.apply(cidr("more", json!([" 172.20.0.5/20", "10.96.7.0/24", "10.0.0.0/8"])));
    assert_eq!(v4(&model), ["10.0.0.0/8", "172.20.0.0/20"], "without those inside others");
    model.apply(Event::Complete(Kind::ServiceCidr));

    apply(
        &mut model,
        [Event::Begin(Kind::ServiceCidr), cidr("kubernetes", json!(["10.96.0.0/16"]))],
    );
    model.apply(Event::Keep(Kind::ServiceCidr, ObjectName::new("", "more")));
    model.apply(Event::Complete(Kind::ServiceCidr));
    assert_eq!(v4(&model), ["10.0.0.0/8", "172.20.0.0/20"], "unreadable: as it was");
    model.apply(Event::Delete(Kind::ServiceCidr, ObjectName::new("", "more")));
    assert_eq!(v4(&model), ["10.96.0.0/16"]);
    apply(&mut model, [Event::Begin(Kind::ServiceCidr), Event::Complete(Kind::ServiceCidr)]);
    assert!(v4(&model).is_empty());
    assert!(!model.has_dirty() && model.is_synced());
}

#[test]
fn garbage_in_service_cidrs_is_skipped_and_too_many_are_told() {
    let mut model = synced();
    let name = |object: &str| ObjectName::new("", object);
    let garbage = json!(["10.96.0.0/16", "10.96.0.0", "0.0.0.0/0", "127.0.0.0/8", "::/0", "x/8"]);
    model.apply(cidr("bad", garbage));
    assert_eq!(cidrs(&networks(&model).v4), ["10.96.0.0/16"]);
    let keys: Vec<String> = model.conditions().into_keys().collect();
    let fields = [1, 2, 3, 4, 5].map(|index| format!("ServiceCIDR bad: spec.cidrs[{index}]"));
    assert_eq!(keys, fields);
    model.apply(Event::Delete(Kind::ServiceCidr, name("bad")));
    assert!(model.conditions().is_empty());

    let many: Vec<String> = (1..=SERVICE_CIDRS + 2).map(|n| format!("10.{n}.0.0/16")).collect();
    model.apply(cidr("many", json!(many)));
    assert_eq!(cidrs(&networks(&model).v4), many[..SERVICE_CIDRS]);
    let told = &model.conditions()["ServiceCIDRs"];
    assert!(told.contains("10.5.0.0/16, 10.6.0.0/16"), "{told}");
    model.apply(Event::Delete(Kind::ServiceCidr, name("many")));
    assert!(model.conditions().is_empty());
}
