//! Services: which are ours, and what of them is used.

use millrace_common::frontend::flags;
use serde_json::{Value, json};

use super::*;

fn is_served(event: Event) -> bool {
    let mut model = model();
    model.apply(event);
    !desired(&model).ports.is_empty()
}

#[test]
fn services_that_are_not_ours_are_ignored() {
    let cases: [(&str, Value, bool); 7] = [
        ("ordinary", json!({}), true),
        ("headless", json!({"clusterIP": "None", "clusterIPs": ["None"]}), false),
        (
            "without an address",
            json!({"clusterIP": "", "clusterIPs": [], "externalIPs": ["203.0.113.1"]}),
            false,
        ),
        ("ExternalName, even with an address", json!({"type": "ExternalName"}), false),
        ("no families given: the address's own", json!({"ipFamilies": []}), true),
        ("address in clusterIP only", json!({"clusterIPs": []}), true),
        ("families and addresses disagree", json!({"ipFamilies": ["IPv6"]}), false),
    ];
    for (name, spec, expected) in cases {
        assert_eq!(is_served(service("svc", spec)), expected, "{name}");
    }
    let labels = json!({"service.kubernetes.io/service-proxy-name": ""});
    assert!(!is_served(service_with("svc", json!({}), json!({}), labels)), "another proxy's");
}

#[test]
fn a_family_without_a_cluster_ip_gets_nothing_at_all() {
    let mut model = model();
    let spec = json!({
        "externalIPs": ["203.0.113.1", "2001:db8::1"],
        "ports": [{"port": 80, "nodePort": 30080}],
    });
    apply(&mut model, [node("", &["192.0.2.1", "2001:db8::9"]), service("svc", spec.clone())]);
    let port = desired(&model).ports.remove(0);
    assert_eq!((port.v4.frontends.len(), port.v6.frontends.len()), (5, 0));
    let mut dual = spec;
    dual["clusterIPs"] = json!(["fd00::1", "10.96.0.1"]);
    dual["ipFamilies"] = json!(["IPv6", "IPv4"]);
    model.apply(service("svc", dual));
    let port = desired(&model).ports.remove(0);
    assert_eq!((port.v4.frontends.len(), port.v6.frontends.len()), (5, 5));
    assert_eq!(port.v6.frontends.iter().filter(|f| f.kind == FrontendKind::ClusterIp).count(), 1);
}

#[test]
fn bad_ports_do_not_block_good_ones() {
    let mut model = model();
    let ports = json!([
        {"name": "zero", "port": 0}, {"name": "big", "port": 65536}, {"name": "neg", "port": -80},
        {"name": "icmp", "protocol": "ICMP", "port": 1}, {"name": "good", "port": 80},
        {"name": "good", "port": 81}, {"name": "twin", "port": 80},
        {"name": "udp", "protocol": "UDP", "port": 80},
        {"name": "sctp", "protocol": "SCTP", "port": 80},
        {"name": "np", "port": 90, "nodePort": 70000}, {"name": "x".repeat(64), "port": 91},
    ]);
    model.apply(service("svc", json!({"ports": ports})));
    let desired = desired(&model);
    let names: Vec<&str> = desired.ports.iter().map(|port| port.name.as_str()).collect();
    assert_eq!(names, ["good", "udp", "sctp", "np"]);
    assert_eq!(desired.ports[3].v4.frontends.len(), 1, "no node port");
    assert_eq!(model.conditions().len(), 8, "{:#?}", model.conditions());
    let text = desired.problems[0].to_string();
    let expected = "Service default/svc: spec.ports[0].port: \"0\" is not a port number; use 1 to \
                    65535: this port is not served, the others are";
    assert_eq!(text, expected);
}

#[test]
fn bad_ips_are_read_leniently_or_skipped() {
    let mut model = model();
    let spec = json!({
        "type": "LoadBalancer",
        "clusterIP": "010.096.000.001", "clusterIPs": ["010.096.000.001"],
        "externalIPs": [
            "203.000.113.001", " ", "", "nonsense", "127.0.0.1", "224.0.0.1", "203.0.113.2",
        ],
        "loadBalancerSourceRanges": [" 010.0.0.0/8 ", "garbage", "1.2.3.4", "fd00::/8"],
    });
    let status = json!({"loadBalancer": {"ingress": [
        {"ip": "198.051.100.001"}, {"ip": "198.51.100"}, {"hostname": "lb.example"},
        {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"ip": "198.51.100.3", "ipMode": "VIP"},
        {"ip": "198.51.100.4", "ipMode": "proxy"}, {"ip": "", "ipMode": "garbage"},
        {"ip": "127.0.0.1", "ipMode": "VIP"}, {"ip": "garbage", "ipMode": "Proxy"},
    ]}});
    model.apply(service_with("svc", spec, status, json!({})));
    let expected = [
        "ClusterIP 10.96.0.1:80",
        "ExternalIP 203.0.113.1:80",
        "ExternalIP 203.0.113.2:80",
        "LoadBalancer 198.51.100.1:80",
        "LoadBalancer 198.51.100.3:80",
    ];
    assert_eq!(frontends(&only_v4(&model)), expected);
    let keys: Vec<String> = model.conditions().into_keys().collect();
    let bad = [
        "spec.externalIPs[3]",
        "spec.externalIPs[4]",
        "spec.externalIPs[5]",
        "spec.loadBalancerSourceRanges[1]",
        "spec.loadBalancerSourceRanges[2]",
        "status.loadBalancer.ingress[1].ip",
        "status.loadBalancer.ingress[5].ipMode",
        "status.loadBalancer.ingress[7].ip",
    ];
    assert_eq!(keys, bad.map(|field| format!("Service default/svc: {field}")));
    let ranges: Vec<_> = only_v4(&model).sources.iter().map(|range| range.length).collect();
    assert_eq!(ranges, [8]);
}

#[test]
fn a_range_of_length_zero_lets_everybody_in() {
    let status = json!({"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}});
    for (ranges, closed) in [
        (json!([]), false),
        (json!(["10.0.0.0/8"]), true),
        (json!(["10.0.0.0/8", "0.0.0.0/0"]), false),
        (json!(["10.0.0.0/8", "::/0"]), true),
        (json!(["fd00::/8"]), false),
    ] {
        let mut model = model();
        let spec = json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ranges,
                          "externalIPs": ["203.0.113.1"],
                          "ports": [{"port": 80, "nodePort": 30080}]});
        model.apply(service_with("svc", spec, status.clone(), json!({})));
        for frontend in only_v4(&model).frontends {
            let flag = has(&frontend, flags::SOURCE_RANGES);
            let expected = closed && frontend.kind == FrontendKind::LoadBalancer;
            assert_eq!(flag, expected, "{ranges} {:?}", frontend.kind);
        }
    }
}

#[test]
fn affinity_has_the_timeout_given_or_the_default() {
    let config = |secs: i32| json!({"clientIP": {"timeoutSeconds": secs}});
    for (spec, secs, problems) in [
        (json!({}), 0, 0),
        (json!({"sessionAffinity": "None", "sessionAffinityConfig": config(5)}), 0, 0),
        (json!({"sessionAffinity": "ClientIP"}), 10_800, 0),
        (json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config(7)}), 7, 0),
        (json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config(0)}), 10_800, 1),
        (
            json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": config(86_401)}),
            10_800,
            1,
        ),
        (json!({"sessionAffinity": "Cookie"}), 0, 1),
    ] {
        let mut model = model();
        model.apply(service("svc", spec.clone()));
        let frontend = frontend(&only_v4(&model), FrontendKind::ClusterIp);
        assert_eq!(frontend.affinity_secs, secs, "{spec}");
        assert_eq!(has(&frontend, flags::AFFINITY), secs != 0, "{spec}");
        assert_eq!(model.conditions().len(), problems, "{spec}");
    }
}

#[test]
fn names_longer_than_kubernetes_allows_are_reported() {
    let mut model = model();
    let long = "n".repeat(64);
    model.apply(service(&long, json!({})));
    assert!(model.desired(&name(&long)).ports.is_empty());
    assert_eq!(model.conditions().len(), 1);
}

#[test]
fn service_map_updates() {
    let ports = json!([{"name": "a", "port": 80}, {"name": "b", "port": 81}]);
    let steps: [(&str, Event, usize); 6] = [
        ("add with two ports", service("svc", json!({"ports": ports})), 2),
        ("remove one", service("svc", json!({})), 1),
        ("becomes headless", service("svc", json!({"clusterIP": "None"})), 0),
        ("and back", service("svc", json!({"ports": ports})), 2),
        ("becomes ExternalName", service("svc", json!({"type": "ExternalName"})), 0),
        ("is deleted", delete(Kind::Service, "svc"), 0),
    ];
    let mut model = model();
    for (name, event, expected) in steps {
        model.apply(event);
        assert_eq!(desired(&model).ports.len(), expected, "{name}");
    }
}
