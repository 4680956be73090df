//! Frontends: which there are, which list they lead to, and what an empty list means.

use millrace_common::frontend::flags;
use serde_json::{Value, json};

use super::*;

const ALL_KINDS: [FrontendKind; 4] = [
    FrontendKind::ClusterIp,
    FrontendKind::ExternalIp,
    FrontendKind::LoadBalancer,
    FrontendKind::NodePort,
];

/// A Service with every kind of frontend, two endpoints elsewhere and `local` ones here.
fn everywhere(internal: &str, external: &str, endpoints: Value) -> DesiredFamily<V4> {
    let mut model = model();
    let spec = json!({
        "type": "LoadBalancer",
        "internalTrafficPolicy": internal,
        "externalTrafficPolicy": external,
        "externalIPs": ["203.0.113.1"],
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}});
    let events = [
        node("", &["192.0.2.1"]),
        service_with("svc", spec, status, json!({})),
        slice("a", endpoints),
    ];
    apply(&mut model, events);
    only_v4(&model)
}

fn at(node: &str, addresses: &[u8], serving_only: bool) -> Vec<Value> {
    let endpoint = |n: &u8| {
        json!({"addresses": [format!("10.0.0.{n}")], "nodeName": node,
               "conditions": {"ready": !serving_only, "terminating": serving_only}})
    };
    addresses.iter().map(endpoint).collect()
}

/// What a client sees: how many backends, or `DROP`, or `REJECT`.
fn answer(family: &DesiredFamily<V4>, kind: FrontendKind, near: bool) -> String {
    let frontend = frontend(family, kind);
    let list = family.list(if near { frontend.near } else { frontend.far });
    let drops = has(&frontend, if near { flags::NEAR_DROP } else { flags::FAR_DROP });
    match list.len() {
        0 if drops => "DROP".into(),
        0 => "REJECT".into(),
        count => count.to_string(),
    }
}

#[test]
fn policies_choose_the_list_of_each_frontend() {
    let (local, remote) = (at(HERE, &[1], false), at("elsewhere", &[2, 3], false));
    let mixed: Value = local.iter().chain(&remote).cloned().collect();
    let away: Value = remote.into();
    let going_away: Value = at("elsewhere", &[2, 3], true).into();
    let going_here: Value =
        at(HERE, &[1], true).into_iter().chain(at("elsewhere", &[2], true)).collect();
    // A pod that runs here or there, beside ones that terminate or are not ready.
    let with = |more: [Vec<Value>; 2]| -> Value { more.into_iter().flatten().collect() };
    let ready_and_going = with([at(HERE, &[1], false), at(HERE, &[4, 5], true)]);
    let going_here_ready_away = with([at(HERE, &[4], true), at("elsewhere", &[2, 3], false)]);
    let unready = json!({"addresses": ["10.0.0.6"], "nodeName": HERE,
                         "conditions": {"ready": false, "serving": true}});
    let unready_here_ready_away = with([vec![unready], at("elsewhere", &[2, 3], false)]);
    let dead = json!([{"addresses": ["10.0.0.1"], "nodeName": HERE,
                       "conditions": {"ready": false, "serving": false}}]);
    let none = json!([]);
    // iTP, eTP, endpoints; then ClusterIP near and far, external near and far.
    let rows = [
        ("Cluster", "Cluster", &mixed, ["3", "3", "3", "3"]),
        ("Cluster", "Local", &mixed, ["3", "3", "3", "1"]),
        ("Local", "Cluster", &mixed, ["1", "1", "3", "3"]),
        ("Local", "Local", &mixed, ["1", "1", "3", "1"]),
        ("Cluster", "Local", &away, ["2", "2", "2", "DROP"]),
        ("Local", "Cluster", &away, ["DROP", "DROP", "2", "2"]),
        ("Local", "Local", &away, ["DROP", "DROP", "2", "DROP"]),
        // Terminating ones only.
        ("Cluster", "Cluster", &going_away, ["2", "2", "2", "2"]),
        ("Cluster", "Local", &going_away, ["2", "2", "2", "DROP"]),
        ("Cluster", "Local", &going_here, ["2", "2", "2", "1"]),
        ("Local", "Local", &going_here, ["1", "1", "2", "1"]),
        // Terminating or unready ones beside ready ones.
        ("Cluster", "Cluster", &ready_and_going, ["1", "1", "1", "1"]),
        ("Cluster", "Local", &ready_and_going, ["1", "1", "1", "1"]),
        ("Local", "Local", &ready_and_going, ["1", "1", "1", "1"]),
        ("Cluster", "Cluster", &going_here_ready_away, ["2", "2", "2", "2"]),
        ("Cluster", "Local", &going_here_ready_away, ["2", "2", "2", "1"]),
        ("Local", "Cluster", &going_here_ready_away, ["1", "1", "2", "2"]),
        ("Local", "Local", &going_here_ready_away, ["1", "1", "2", "1"]),
        ("Cluster", "Local", &unready_here_ready_away, ["2", "2", "2", "DROP"]),
        ("Local", "Cluster", &unready_here_ready_away, ["DROP", "DROP", "2", "2"]),
        // Nothing usable, nothing at all.
        ("Cluster", "Local", &dead, ["REJECT"; 4]),
        ("Cluster", "Cluster", &dead, ["REJECT"; 4]),
        ("Local", "Local", &dead, ["REJECT"; 4]),
        ("Cluster", "Local", &none, ["REJECT"; 4]),
        ("Local", "Local", &none, ["REJECT"; 4]),
    ];
    for (internal, external, endpoints, expected) in rows {
        let family = everywhere(internal, external, endpoints.clone());
        for kind in ALL_KINDS {
            let [near, far] = if kind == FrontendKind::ClusterIp {
                [expected[0], expected[1]]
            } else {
                [expected[2], expected[3]]
            };
            let name = format!("iTP {internal} eTP {external} {} {endpoints}", kind.name());
            assert_eq!(answer(&family, kind, true), near, "{name}: near");
            assert_eq!(answer(&family, kind, false), far, "{name}: far");
        }
    }
}

#[test]
fn flags_name_the_lists() {
    let family = everywhere("Local", "Local", json!(at(HERE, &[1], false)));
    let cluster_ip = frontend(&family, FrontendKind::ClusterIp);
    assert!(has(&cluster_ip, flags::NEAR_LOCAL) && has(&cluster_ip, flags::FAR_LOCAL));
    let balancer = frontend(&family, FrontendKind::LoadBalancer);
    assert!(!has(&balancer, flags::NEAR_LOCAL) && has(&balancer, flags::FAR_LOCAL));
    for kind in ALL_KINDS {
        assert_eq!(frontend(&family, kind).flags >> flags::KIND_SHIFT, kind as u32);
    }
}

#[test]
fn an_internal_only_local_service_with_no_endpoints_rejects() {
    let mut model = model();
    model.apply(service("svc", json!({"internalTrafficPolicy": "Local"})));
    assert_eq!(answer(&only_v4(&model), FrontendKind::ClusterIp, true), "REJECT");
    model.apply(slice("a", json!(at("elsewhere", &[1], false))));
    assert_eq!(answer(&only_v4(&model), FrontendKind::ClusterIp, true), "DROP");
    model.apply(delete(Kind::EndpointSlice, "a"));
    assert_eq!(answer(&only_v4(&model), FrontendKind::ClusterIp, true), "REJECT");
}

#[test]
fn the_external_policy_counts_only_for_types_that_have_one() {
    let endpoints = json!([at(HERE, &[1], false)[0], at("elsewhere", &[2], false)[0]]);
    for (type_, external_ips, far) in [
        ("ClusterIP", json!(["203.0.113.1"]), "1"),
        ("", json!(["203.0.113.1"]), "1"),
        ("NodePort", json!(["203.0.113.1"]), "1"),
        ("SomethingNew", json!(["203.0.113.1"]), "2"),
    ] {
        let mut model = model();
        let spec =
            json!({"type": type_, "externalTrafficPolicy": "Local", "externalIPs": external_ips});
        apply(&mut model, [service("svc", spec), slice("a", endpoints.clone())]);
        assert_eq!(answer(&only_v4(&model), FrontendKind::ExternalIp, false), far, "{type_}");
    }
}

#[test]
fn an_external_ip_under_policy_local_drops_and_then_rejects() {
    let mut model = model();
    let spec = json!({"type": "ClusterIP", "externalTrafficPolicy": "Local",
                      "externalIPs": ["203.0.113.1"]});
    apply(&mut model, [service("svc", spec), slice("a", json!(at("elsewhere", &[1], false)))]);
    let answers = |model: &Model| {
        let family = only_v4(model);
        [(FrontendKind::ClusterIp, true), (FrontendKind::ExternalIp, true)]
            .into_iter()
            .chain([(FrontendKind::ClusterIp, false), (FrontendKind::ExternalIp, false)])
            .map(|(kind, near)| answer(&family, kind, near))
            .collect::<Vec<_>>()
    };
    assert_eq!(answers(&model), ["1", "1", "1", "DROP"]);
    model.apply(delete(Kind::EndpointSlice, "a"));
    assert_eq!(answers(&model), ["REJECT"; 4]);
}

#[test]
fn one_port_number_of_three_protocols_is_three_ports() {
    let mut model = model();
    let ports: Vec<Value> = ["TCP", "UDP", "SCTP"]
        .map(|protocol| json!({"name": protocol.to_lowercase(), "protocol": protocol, "port": 53}))
        .into();
    model.apply(service("svc", json!({"ports": ports})));
    for (n, protocol) in [(1, "TCP"), (2, "UDP"), (3, "SCTP")] {
        let port = json!([{"name": protocol.to_lowercase(), "protocol": protocol, "port": 5353}]);
        let endpoint = json!([{"addresses": [format!("10.0.0.{n}")]}]);
        model.apply(slice_with(protocol, json!({"ports": port, "endpoints": endpoint})));
    }
    let ports = desired(&model).ports;
    for (port, expected) in ports.iter().zip(["10.0.0.1:5353", "10.0.0.2:5353", "10.0.0.3:5353"]) {
        assert_eq!(addresses(&port.v4, List::Cluster), [expected]);
        let own = frontend(&port.v4, FrontendKind::ClusterIp);
        assert_eq!((own.key.port.get(), own.key.protocol), (53, port.protocol as u8));
    }
    assert_eq!(ports.len(), 3);
}

fn node_ports(model: &Model) -> Vec<String> {
    let all = frontends(&only_v4(model));
    all.iter().filter_map(|text| text.strip_prefix("NodePort ").map(str::to_owned)).collect()
}

#[test]
fn node_ports_are_on_the_primary_addresses_or_the_interfaces_and_on_loopback() {
    const LOOPBACK: [&str; 2] = ["0.0.0.0:30080", "127.0.0.1:30080"];
    let mut model = model();
    let with_port = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]});
    apply(&mut model, [service("svc", with_port), service("plain", json!({}))]);
    assert_eq!(node_ports(&model), LOOPBACK);
    model.take_dirty();

    let interfaces = ["127.0.0.1", "169.254.0.1", "192.0.2.7", "10.1.0.1", "fe80::1", "224.0.0.1"];
    model.set_node_addresses(interfaces.map(|address| address.parse().unwrap()).to_vec());
    assert_eq!(model.take_dirty(), [name("svc")], "the one with a node port");
    assert_eq!(node_ports(&model), [LOOPBACK[0], "10.1.0.1:30080", LOOPBACK[1], "192.0.2.7:30080"]);

    model.apply(node("", &["192.0.2.7", "2001:db8::1", "bogus"]));
    assert_eq!(model.take_dirty(), [name("svc")]);
    assert_eq!(node_ports(&model), [LOOPBACK[0], LOOPBACK[1], "192.0.2.7:30080"]);
    assert!(model.conditions()["Node here: status.addresses[2].address"].contains("--node-ip"));

    model.apply(Event::Delete(Kind::Node, ObjectName::new("", HERE)));
    assert_eq!(node_ports(&model).len(), 3, "a deleted Node forgets nothing");
    for frontend in only_v4(&model).frontends {
        let loopback = [0, 127].contains(&frontend.key.address.raw().to_ne_bytes()[0]);
        assert_eq!(has(&frontend, flags::NODE_ONLY), loopback, "{:?}", frontend.key);
    }
}

#[test]
fn ipv6_node_ports_fall_back_by_family() {
    let mut model = model();
    let spec = json!({"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv6"],
                      "ports": [{"port": 80, "nodePort": 30080}]});
    apply(&mut model, [node("", &["192.0.2.7"]), service("svc", spec)]);
    model.set_node_addresses(vec!["2001:db8::5".parse().unwrap(), "10.1.0.1".parse().unwrap()]);
    let port = desired(&model).ports.remove(0);
    let mut keys: Vec<String> =
        port.v6.frontends.iter().map(|frontend| format!("{:?}", frontend.key.address)).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys, ["2001:db8::5", "::", "::1", "fd00::1"]);
    assert!(port.v4.frontends.is_empty());
}

#[test]
fn one_address_of_several_kinds_is_one_frontend() {
    let mut model = model();
    let spec = json!({"type": "LoadBalancer",
                      "externalIPs": ["10.96.0.1", "198.51.100.1", "192.0.2.1"],
                      "ports": [{"port": 80, "nodePort": 80}]});
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}});
    apply(&mut model, [node("", &["192.0.2.1"]), service_with("svc", spec, status, json!({}))]);
    let expected = [
        "ClusterIP 10.96.0.1:80",
        "LoadBalancer 198.51.100.1:80",
        "NodePort 0.0.0.0:80",
        "NodePort 127.0.0.1:80",
        // Nobody may ask for the node's own address.
        "NodePort 192.0.2.1:80",
    ];
    assert_eq!(frontends(&only_v4(&model)), expected);
}
