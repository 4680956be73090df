//! Source ranges: who may use load balancer addresses, and whether the node may.

use millrace_common::frontend::flags;
use serde_json::{Value, json};

use super::*;

/// A Service with a load balancer address and every other kind, and these source ranges.
fn balanced(ranges: Value) -> Event {
    let spec = json!({
        "type": "LoadBalancer", "loadBalancerSourceRanges": ranges,
        "externalIPs": ["203.0.113.1"], "ports": [{"port": 80, "nodePort": 30080}],
    });
    let ingress = json!([{"ip": "198.51.100.1"}, {"ip": "198.51.100.2"}]);
    service_with("svc", spec, json!({"loadBalancer": {"ingress": ingress}}), json!({}))
}

/// Ranges as text.
fn sources(model: &Model) -> Vec<String> {
    let family = only_v4(model);
    family.sources.iter().map(|range| format!("{:?}/{}", range.address, range.length)).collect()
}

/// Whether the node may use the load balancer address; nothing if everybody may.
fn node_may(model: &Model) -> Option<bool> {
    let balancer = frontend(&only_v4(model), FrontendKind::LoadBalancer);
    has(&balancer, flags::SOURCE_RANGES).then(|| has(&balancer, flags::NODE_ALLOWED))
}

#[test]
fn ranges_are_normalised_sorted_and_of_their_family() {
    let mut model = model();
    let ranges = json!(["172.16.9.9/12", "10.1.0.0/16", "010.1.2.3/16", "fd00::/8", "bad"]);
    model.apply(balanced(ranges));
    assert_eq!(sources(&model), ["10.1.0.0/16", "172.16.0.0/12"]);
    for open in [json!([]), json!(["10.0.0.0/8", "0.0.0.0/0"]), json!(["fd00::/8"])] {
        model.apply(balanced(open));
        assert!(sources(&model).is_empty());
        assert_eq!(node_may(&model), None);
    }
}

#[test]
fn ranges_are_for_load_balancer_addresses_alone() {
    let mut model = model();
    model.apply(balanced(json!(["10.1.0.0/16"])));
    for frontend in only_v4(&model).frontends {
        let expected = frontend.kind == FrontendKind::LoadBalancer;
        assert_eq!(has(&frontend, flags::SOURCE_RANGES), expected, "{:?}", frontend.kind);
        assert!(!has(&frontend, flags::NODE_ALLOWED));
    }
    let spec = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.1.0.0/16"]});
    model.apply(service("svc", spec));
    assert!(sources(&model).is_empty(), "no address they could be for");
}

#[test]
fn a_node_inside_a_range_may_and_so_may_the_addresses_it_may_have_taken() {
    let mut model = model();
    model.apply(balanced(json!(["192.0.2.0/24"])));
    assert_eq!(node_may(&model), Some(false));
    model.take_dirty();
    // Without a Node object, the interfaces count.
    model.set_node_addresses(vec!["192.0.2.7".parse().unwrap(), "10.0.0.1".parse().unwrap()]);
    assert_eq!(model.take_dirty(), [name("svc")]);
    assert_eq!(node_may(&model), Some(true));
    assert_eq!(sources(&model), ["192.0.2.0/24", "198.51.100.1/32", "198.51.100.2/32"]);
    // With one, its addresses do, at once.
    model.apply(node("", &["10.0.0.1"]));
    assert_eq!(model.take_dirty(), [name("svc")]);
    assert_eq!(node_may(&model), Some(false));
    assert_eq!(sources(&model), ["192.0.2.0/24"]);
    model.apply(node("", &["192.0.2.7", "2001:db8::1"]));
    assert_eq!(node_may(&model), Some(true));
    model.apply(balanced(json!(["2001:db8::/64", "10.0.0.0/8"])));
    assert_eq!(node_may(&model), Some(false), "the other family's range says nothing");
}

#[test]
fn a_service_with_ranges_alone_depends_on_the_node_too() {
    let mut model = model();
    let spec = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["192.0.2.0/24"]});
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}});
    let events = [service_with("svc", spec, status, json!({})), service("plain", json!({}))];
    apply(&mut model, events);
    model.take_dirty();
    model.apply(node("", &["192.0.2.7"]));
    assert_eq!(model.take_dirty(), [name("svc")]);
    assert_eq!(node_may(&model), Some(true));
}
