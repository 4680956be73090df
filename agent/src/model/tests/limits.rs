//! Objects that are absurd: huge, full of words nobody knows, or named like a terminal's commands.

use serde_json::{Value, json};

use super::*;
use crate::model::desired::{SERVICE_BACKENDS_MAX, SERVICE_FRONTENDS_MAX};
use crate::source::{labels, slim};

/// Endpoints of the largest Service that is promised to work.
const MANY: u32 = 100_000;
/// Endpoints that one slice may have.
const PER_SLICE: u32 = 1_000;
fn slice_number(index: u32, ports: u16) -> Event {
    let mut object = slim::EndpointSlice { address_type: "IPv4".into(), ..Default::default() };
    object.metadata.name = format!("svc-{index}");
    object.metadata.labels.insert(labels::SERVICE_NAME, "svc");
    let port = |number| slim::EndpointPort {
        name: Some(format!("p{number}")),
        port: Some(number),
        protocol: None,
    };
    object.ports = (1..=i32::from(ports)).map(port).collect();
    let first = index * PER_SLICE;
    let endpoint = |n: u32| slim::Endpoint {
        addresses: vec![std::net::Ipv4Addr::from(0x0b00_0000 + n).to_string()],
        ..Default::default()
    };
    object.endpoints = (first..first + PER_SLICE).map(endpoint).collect();
    Event::Apply(Object::EndpointSlice(object))
}

fn ports(count: u16) -> Value {
    (1..=count).map(|number| json!({"name": format!("p{number}"), "port": number})).collect()
}

#[test]
fn a_hundred_thousand_endpoints_are_one_service_like_any_other() {
    let mut model = model();
    model.apply(service("svc", json!({"ports": ports(1)})));
    for index in 0..MANY / PER_SLICE {
        model.apply(slice_number(index, 1));
    }
    let desired = desired(&model);
    assert_eq!(desired.ports[0].v4.cluster.len() as u32, MANY);
    assert_eq!((desired.too_large, desired.problems.len()), (None, 0));
    model.take_dirty();
    model.apply(service("other", json!({"clusterIP": "10.96.0.2", "clusterIPs": ["10.96.0.2"]})));
    assert_eq!(model.take_dirty(), [name("other")], "nobody else is looked at again");
}

#[test]
fn products_of_ports_and_endpoints_or_addresses_are_refused_before_they_are_built() {
    let mut model = model();
    // 1200 ports with 1000 endpoints each.
    apply(&mut model, [service("svc", json!({"ports": ports(1200)})), slice_number(0, 1200)]);
    let answer = desired(&model);
    let told = answer.too_large.expect("more than a Service may have");
    assert!(told.contains("1200000 backends") && told.contains("several Services"), "{told}");
    assert!(answer.ports.is_empty() && 1_200_000 > SERVICE_BACKENDS_MAX);

    let external: Vec<String> =
        (0..60_000_u32).map(|n| std::net::Ipv4Addr::from(0xcb00_0000 + n).to_string()).collect();
    let spec = json!({"ports": ports(60_000), "externalIPs": external});
    model.apply(service("svc", spec));
    let told = desired(&model).too_large.expect("more than a Service may have");
    assert!(told.contains("frontends") && told.contains(&SERVICE_FRONTENDS_MAX.to_string()));

    model.apply(service("svc", json!({"ports": ports(2)})));
    let answer = desired(&model);
    assert_eq!((answer.ports.len(), answer.too_large), (2, None));
}

#[test]
fn unknown_words_are_told_and_the_rest_is_served() {
    let cases = [
        ("spec.type", json!({"type": "Ingress"}), 1),
        ("spec.ipFamilies[1]", json!({"ipFamilies": ["IPv4", "IPv7"]}), 1),
        ("spec.ipFamilies[0]", json!({"ipFamilies": ["ipv4"]}), 0),
        ("spec.internalTrafficPolicy", json!({"internalTrafficPolicy": "Near"}), 1),
        ("spec.externalTrafficPolicy", json!({"externalTrafficPolicy": "local"}), 1),
        ("spec.sessionAffinity", json!({"sessionAffinity": "Cookie"}), 1),
        ("spec.ports[0].protocol", json!({"ports": [{"port": 80, "protocol": "QUIC"}]}), 0),
    ];
    for (field, spec, served) in cases {
        let mut model = model();
        model.apply(service("svc", spec));
        assert_eq!(desired(&model).ports.len(), served, "{field}");
        let keys: Vec<String> = model.conditions().into_keys().collect();
        assert_eq!(keys, [format!("Service default/svc: {field}")]);
    }
}

#[test]
fn absurd_names_go_nowhere_and_can_be_withdrawn() {
    let long = "n".repeat(100_000);
    for bad in ["\u{1b}]0;owned\u{7}", "a b", long.as_str()] {
        let mut model = model();
        model.apply(Event::Begin(Kind::Service));
        apply(&mut model, [service("good", json!({})), service(bad, json!({}))]);
        let conditions = model.conditions();
        assert_eq!(conditions.len(), 1, "{conditions:?}");
        let (about, message) = conditions.iter().next().unwrap();
        assert!(about.len() < 300 && !about.contains('\u{1b}'), "{about}");
        assert!(about.ends_with("metadata.name") && message.contains("hyphens"), "{message}");
        for dirty in model.take_dirty() {
            let served = !model.desired(&dirty).ports.is_empty();
            assert_eq!(served, dirty == name("good"), "{dirty}");
        }
        let mut deleted = model;
        deleted.apply(delete(Kind::Service, bad));
        assert!(deleted.conditions().is_empty());
        assert_eq!(deleted.take_dirty().len(), 1);
    }
    // A slice of such a name, or of such a Service, harms nobody.
    let mut model = model();
    let metadata = json!({"name": long, "labels": {"kubernetes.io/service-name": long}});
    model.apply(slice_with("", json!({"metadata": metadata})));
    assert!(model.take_dirty().iter().all(|name| name.name.len() < 300));
}

#[test]
fn hints_beyond_reason_are_told_and_forgotten() {
    let mut model = model();
    model.apply(service("svc", json!({})));
    let many: Vec<Value> = (0..1000).map(|n| json!({"name": format!("z{n}")})).collect();
    let endpoints = json!([
        {"addresses": ["10.0.0.1"], "hints": {"forZones": many}},
        {"addresses": ["10.0.0.2"], "hints": {"forZones": [{"name": "z".repeat(64)}]}},
        {"addresses": ["10.0.0.3"], "hints": {"forZones": [{"name": "a"}]}},
    ]);
    model.apply(slice("a", endpoints));
    assert_eq!(only_v4(&model).cluster.len(), 3, "hints never take an endpoint away");
    assert_eq!(model.conditions().len(), 2);
}
