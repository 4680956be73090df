//! Objects that ask for what is somebody else's (docs/HOSTILE.md).

use serde_json::{Value, json};

use super::*;
use crate::settings::DetectLocal;
use crate::source::SharedName;

const OTHERS: &str = "203.0.113.77";

/// A Node with addresses of both types and a network of pods.
fn here() -> Event {
    let object = json!({
        "metadata": {"name": HERE},
        "spec": {"podCIDRs": ["10.244.1.0/24", "fd00:244:1::/64"]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": "192.0.2.1"},
            {"type": "ExternalIP", "address": "198.51.100.7"},
            {"type": "Hostname", "address": "here"},
        ]},
    });
    Event::Apply(Object::Node(serde_json::from_value(object).unwrap()))
}

fn cidr(networks: Value) -> Event {
    let object = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": networks}});
    Event::Apply(Object::ServiceCidr(serde_json::from_value(object).unwrap()))
}

/// A Service of that name and ClusterIP with these fields of its spec.
fn named(name: &str, cluster_ip: &str, mut spec: Value) -> Event {
    spec["clusterIP"] = json!(cluster_ip);
    spec["clusterIPs"] = json!([cluster_ip]);
    service(name, spec)
}

fn balanced(name: &str, cluster_ip: &str, ips: &[&str]) -> Event {
    let spec = json!({"type": "LoadBalancer", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip]});
    let ingress: Vec<Value> = ips.iter().map(|ip| json!({"ip": ip})).collect();
    service_with(name, spec, json!({"loadBalancer": {"ingress": ingress}}), json!({}))
}

/// A slice of a Service with these endpoints at port 80.
fn slice_of(service: &str, addresses: &[&str]) -> Event {
    let endpoints: Vec<Value> = addresses.iter().map(|ip| json!({"addresses": [ip]})).collect();
    let labels = json!({"kubernetes.io/service-name": service});
    let metadata = json!({"name": format!("{service}-x"), "labels": labels});
    let ports = json!([{"name": "", "port": 80}]);
    slice_with("", json!({"metadata": metadata, "endpoints": endpoints, "ports": ports}))
}

/// A cluster with an API server at 192.0.2.250 and pods, where `svc` asks for nothing yet.
fn cluster() -> Model {
    let policy = Policy {
        detect_local: DetectLocal::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]),
        ..Policy::default()
    };
    let mut model = Model::new(HERE, policy);
    let events = [
        here(),
        cidr(json!(["10.96.0.0/16"])),
        named("kubernetes", "10.96.0.1", json!({})),
        slice_of("kubernetes", &["192.0.2.250"]),
        named("web", "172.30.0.9", json!({})),
        slice_of("web", &["10.9.9.9"]),
    ];
    apply(&mut model, events);
    model.set_api_servers(vec!["192.0.2.251".parse().unwrap()]);
    model.take_dirty();
    model
}

/// The addresses of a kind that a Service gets.
fn gets(model: &Model, service: &str, kind: FrontendKind) -> Vec<String> {
    let ports = model.desired(&name(service)).ports;
    let all = ports.iter().flat_map(|port| &port.v4.frontends);
    let of_kind = all.filter(|frontend| frontend.kind == kind);
    let mut texts: Vec<String> = of_kind.map(|f| format!("{:?}", f.key.address)).collect();
    texts.sort_unstable();
    texts
}

fn clashes(model: &Model, service: &str) -> Vec<String> {
    model.desired(&name(service)).clashes.iter().map(ToString::to_string).collect()
}

fn backends(model: &Model, service: &str) -> Vec<String> {
    let ports = model.desired(&name(service)).ports;
    ports.iter().flat_map(|port| &port.v4.cluster).map(ToString::to_string).collect()
}

/// What an address is, and whether an externalIP and a load balancer's IP may be that.
const CLAIMS: [(&str, &str, bool, bool); 11] = [
    ("192.0.2.1", "an address of this node", false, false),
    ("198.51.100.7", "an address of this node", false, false),
    ("192.0.2.250", "an address of the API server", false, false),
    ("192.0.2.251", "an address of the API server", false, false),
    ("10.96.0.1", "the ClusterIP of a Service", false, false),
    ("172.30.0.9", "the ClusterIP of a Service", false, false),
    ("10.96.77.7", "in a ServiceCIDR", false, false),
    ("10.244.1.5", "in this node's network of pods", false, false),
    ("10.244.9.5", "in the network of pods", false, true),
    ("10.9.9.9", "the address of an endpoint", false, true),
    (OTHERS, "", true, true),
];

#[test]
fn external_ips_and_load_balancer_ips_of_others_are_refused_one_by_one() {
    let all: Vec<&str> = CLAIMS.iter().map(|claim| claim.0).collect();
    let mut model = cluster();
    model.apply(named("svc", "10.96.0.50", json!({"externalIPs": all})));
    assert_eq!(gets(&model, "svc", FrontendKind::ExternalIp), [OTHERS]);
    assert_eq!(gets(&model, "svc", FrontendKind::ClusterIp), ["10.96.0.50"], "the rest is served");
    for (ip, what, as_external, _) in CLAIMS {
        let told = clashes(&model, "svc");
        let start = format!("Service default/svc: spec.externalIPs {ip}: {what}");
        let found =
            told.iter().any(|text| text.starts_with(&start) && text.contains("use another"));
        assert_eq!(found, !as_external, "{ip}: {told:#?}");
    }

    let mut model = cluster();
    model.apply(balanced("svc", "10.96.0.50", &all));
    let expected: Vec<&str> = CLAIMS.iter().filter(|claim| claim.3).map(|claim| claim.0).collect();
    let mut given = gets(&model, "svc", FrontendKind::LoadBalancer);
    given.sort_by_key(|ip| CLAIMS.iter().position(|claim| claim.0 == ip));
    assert_eq!(given, expected);
    assert_eq!(clashes(&model, "svc").len(), CLAIMS.len() - expected.len());
}

/// An address can become somebody's after it was asked for, and be free again.
#[test]
fn a_claim_is_judged_again_when_the_address_changes_hands() {
    type Step = (&'static str, Event, Event);
    let wide = cidr(json!(["10.96.0.0/16", "203.0.113.0/24"]));
    let gone = |kind, object: &str| delete(kind, object);
    let node_with = |address: &str| node("", &[address]);
    let steps: [Step; 4] = [
        ("a ClusterIP", named("late", OTHERS, json!({})), gone(Kind::Service, "late")),
        ("an endpoint", slice_of("web", &[OTHERS]), slice_of("web", &["10.9.9.9"])),
        ("a ServiceCIDR", wide, cidr(json!(["10.96.0.0/16"]))),
        ("the node", node_with(OTHERS), here()),
    ];
    for (what, comes, goes) in steps {
        let mut model = cluster();
        model.apply(named("svc", "10.96.0.50", json!({"externalIPs": [OTHERS]})));
        model.take_dirty();
        assert_eq!(gets(&model, "svc", FrontendKind::ExternalIp), [OTHERS]);
        model.apply(comes);
        assert!(model.take_dirty().contains(&name("svc").into()), "{what} comes");
        assert!(gets(&model, "svc", FrontendKind::ExternalIp).is_empty(), "{what} comes");
        assert_eq!(clashes(&model, "svc").len(), 1, "{what}");
        model.apply(goes);
        assert!(model.take_dirty().contains(&name("svc").into()), "{what} goes");
        assert_eq!(gets(&model, "svc", FrontendKind::ExternalIp), [OTHERS], "{what} goes");
        assert!(clashes(&model, "svc").is_empty(), "{what}");
    }
    let mut model = cluster();
    model.apply(balanced("svc", "10.96.0.50", &[OTHERS]));
    model.take_dirty();
    model.apply(slice_of("kubernetes", &["192.0.2.250", OTHERS]));
    assert!(model.take_dirty().contains(&name("svc").into()));
    assert!(gets(&model, "svc", FrontendKind::LoadBalancer).is_empty());
    model.apply(slice_of("kubernetes", &["192.0.2.250"]));
    assert_eq!(gets(&model, "svc", FrontendKind::LoadBalancer), [OTHERS]);
}

/// A load balancer's address on an interface of the node that announces it stays one.
#[test]
fn interfaces_count_as_the_node_only_when_no_node_names_addresses() {
    let external = || named("svc", "10.96.0.50", json!({"externalIPs": [OTHERS]}));
    let mut model = cluster();
    model.set_node_addresses(vec![OTHERS.parse().unwrap()]);
    model.apply(external());
    assert_eq!(gets(&model, "svc", FrontendKind::ExternalIp), [OTHERS]);

    let mut model = super::model();
    model.set_node_addresses(vec![OTHERS.parse().unwrap()]);
    model.apply(external());
    assert_eq!(gets(&model, "svc", FrontendKind::ExternalIp), [OTHERS], "not known yet");
    model.take_dirty();
    apply(&mut model, [Event::Begin(Kind::Node), Event::Complete(Kind::Node)]);
    assert_eq!(model.take_dirty(), [name("svc")]);
    assert!(gets(&model, "svc", FrontendKind::ExternalIp).is_empty(), "there is no Node");
}

#[test]
fn endpoints_on_frontends_get_no_traffic_and_the_others_do() {
    let mut model = cluster();
    model.apply(balanced("lb", "10.96.0.60", &[OTHERS, "192.0.2.250"]));
    model.apply(named("svc", "10.96.0.50", json!({})));
    let endpoints =
        ["10.0.0.1", "10.96.0.50", "172.30.0.9", "10.96.200.1", OTHERS, "192.0.2.250", "192.0.2.1"];
    model.apply(slice_of("svc", &endpoints));
    // The API server's address and the node's own are no frontends, whatever a status claims.
    assert_eq!(backends(&model, "svc"), ["10.0.0.1:80", "192.0.2.1:80", "192.0.2.250:80"]);
    let told = clashes(&model, "svc");
    assert_eq!(told.len(), 4, "{told:#?}");
    let expected =
        "EndpointSlice default/svc-x: endpoints 10.96.0.50: the ClusterIP of a Service: ";
    assert!(told.iter().any(|text| text.starts_with(expected)), "{told:#?}");
    assert_eq!(backends(&model, "kubernetes"), ["192.0.2.250:80"]);

    // The frontend's port alone, and only while it is there.
    let mut model = cluster();
    let other_port = json!({"type": "LoadBalancer", "ports": [{"port": 443}]});
    let status = json!({"loadBalancer": {"ingress": [{"ip": OTHERS}]}});
    apply(&mut model, [named("svc", "10.96.0.50", json!({})), slice_of("svc", &[OTHERS])]);
    model.apply(service_with("lb", other_port, status, json!({})));
    assert_eq!(backends(&model, "svc"), [format!("{OTHERS}:80")]);
    model.take_dirty();
    model.apply(balanced("lb", "10.96.0.60", &[OTHERS]));
    assert!(model.take_dirty().contains(&name("svc").into()));
    assert!(backends(&model, "svc").is_empty());
    model.apply(delete(Kind::Service, "lb"));
    assert!(model.take_dirty().contains(&name("svc").into()));
    assert_eq!(backends(&model, "svc"), [format!("{OTHERS}:80")]);
}

/// Services whose endpoints are each other's addresses: nothing is led in a circle.
#[test]
fn a_circle_of_services_is_cut() {
    let mut model = cluster();
    for (this, next) in [(1, 2), (2, 3), (3, 1)] {
        model.apply(named(&format!("s{this}"), &format!("10.96.9.{this}"), json!({})));
        model.apply(slice_of(&format!("s{this}"), &[&format!("10.96.9.{next}")]));
    }
    for service in ["s1", "s2", "s3"] {
        assert!(backends(&model, service).is_empty() && clashes(&model, service).len() == 1);
    }
}

/// Pods of the host's network behind a balancer whose addresses are the nodes'.
#[test]
fn a_load_balancer_address_that_is_an_own_endpoint_is_left_to_it() {
    let mut model = cluster();
    model.apply(balanced("svc", "10.96.0.50", &["192.0.2.8", "192.0.2.9"]));
    model.apply(slice_of("svc", &["192.0.2.9", "10.0.0.1"]));
    assert_eq!(backends(&model, "svc"), ["10.0.0.1:80", "192.0.2.9:80"]);
    assert_eq!(gets(&model, "svc", FrontendKind::LoadBalancer), ["192.0.2.8"]);
    assert_eq!(clashes(&model, "svc").len(), 1);
}

#[test]
fn special_addresses_are_neither_frontends_nor_endpoints() {
    // IANA's special-purpose registries (RFC 6890) that no pod or balancer can have.
    let special = [
        "0.0.0.0",
        "0.255.0.1",
        "127.0.0.1",
        "127.255.255.254",
        "169.254.0.1",
        "169.254.169.254",
        "224.0.0.1",
        "239.255.255.255",
        "255.255.255.255",
    ];
    let six = ["::", "::1", "fe80::1", "febf::1", "ff02::1", "ff0e::1", "::ffff:10.0.0.1"];
    let mut model = cluster();
    let all: Vec<&str> = special.iter().chain(&six).copied().collect();
    let spec = json!({"type": "LoadBalancer", "externalIPs": all,
        "clusterIPs": ["10.96.0.50", "fd00::50"], "ipFamilies": ["IPv4", "IPv6"],
        "clusterIP": "10.96.0.50"});
    let ingress: Vec<Value> = all.iter().map(|ip| json!({"ip": ip})).collect();
    let status = json!({"loadBalancer": {"ingress": ingress}});
    model.apply(service_with("svc", spec, status, json!({})));
    model.apply(slice_of("svc", &special));
    let port = &model.desired(&name("svc")).ports[0];
    let is_other = |kind| kind != FrontendKind::ClusterIp;
    assert!(!port.v4.frontends.iter().any(|frontend| is_other(frontend.kind)));
    assert!(!port.v6.frontends.iter().any(|frontend| is_other(frontend.kind)));
    assert!(port.v4.cluster.is_empty() && port.v6.cluster.is_empty());
    assert!(!model.conditions().is_empty());
}

#[test]
fn of_several_that_come_together_the_oldest_is_first() {
    let aged = |name: &str, created: &str| {
        let object = json!({"metadata": {"name": name, "creationTimestamp": created},
            "spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}]}});
        Event::Apply(Object::Service(serde_json::from_value(object).unwrap()))
    };
    let mut model = model();
    apply(
        &mut model,
        [
            aged("a", "2026-03-01T00:00:00Z"),
            aged("b", "2026-01-01T00:00:00Z"),
            service("aa", json!({})),
            aged("c", "2026-02-01T00:00:00Z"),
        ],
    );
    assert_eq!(model.take_dirty(), ["b", "c", "a", "aa"].map(name));
    let names = ["c", "gone", "b"].map(name).map(SharedName::new);
    assert_eq!(model.oldest_first(names), ["b", "c", "gone"].map(name));
}

#[test]
fn what_is_wrong_can_change_its_kind() {
    let mut model = cluster();
    let both = |model: &Model| -> Vec<String> {
        let known = model.conditions();
        let own = known.keys().filter(|key| key.contains("svc")).cloned();
        own.chain(clashes(model, "svc")).collect()
    };
    let stages = [
        (json!({"externalIPs": ["127.0.0.1"]}), "spec.externalIPs[0]"),
        (json!({"externalIPs": ["192.0.2.1"]}), "spec.externalIPs 192.0.2.1: an address of this"),
        (json!({"externalIPs": ["10.9.9.9"]}), "spec.externalIPs 10.9.9.9: the address of an"),
        (json!({"ports": [{"port": 0}]}), "spec.ports[0].port"),
    ];
    for (spec, expected) in stages {
        model.apply(named("svc", "10.96.0.50", spec));
        let told = both(&model);
        assert!(told.len() == 1 && told[0].contains(expected), "{expected}: {told:?}");
    }
    model.apply(named("svc", "10.96.0.50", json!({})));
    assert!(both(&model).is_empty());
}
