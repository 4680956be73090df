//! Slices: what of them is used, and how several make one set.

use serde_json::{Value, json};

use super::*;

fn ready(addresses: &[&str]) -> Value {
    addresses.iter().map(|address| json!({"addresses": [address]})).collect()
}

fn cluster(model: &Model) -> Vec<String> {
    addresses(&only_v4(model), List::Cluster)
}

#[test]
fn slices_of_a_service_are_one_set_joined_by_port_name_and_protocol() {
    let mut model = model();
    let ports = json!([{"name": "dns", "protocol": "UDP", "port": 53},
                       {"name": "dns-tcp", "port": 53}, {"name": "web", "port": 80}]);
    apply(&mut model, [service("svc", json!({"ports": ports}))]);
    let slices = [
        (
            "a",
            json!([{"name": "dns", "protocol": "UDP", "port": 5353},
                   {"name": "dns-tcp", "port": 5354}]),
            "10.0.0.1",
        ),
        ("b", json!([{"name": "dns", "protocol": "UDP", "port": 5355}]), "10.0.0.2"),
        // The right name with the wrong protocol, and the right number with the wrong name.
        (
            "c",
            json!([{"name": "web", "protocol": "UDP", "port": 80}, {"name": "x", "port": 80}]),
            "10.0.0.3",
        ),
    ];
    for (name, ports, address) in slices {
        model.apply(slice_with(name, json!({"ports": ports, "endpoints": ready(&[address])})));
    }
    let ports = desired(&model).ports;
    let lists: Vec<Vec<String>> =
        ports.iter().map(|port| addresses(&port.v4, List::Cluster)).collect();
    let expected: [&[&str]; 3] = [&["10.0.0.1:5353", "10.0.0.2:5355"], &["10.0.0.1:5354"], &[]];
    assert_eq!(lists, expected);
    model.apply(delete(Kind::EndpointSlice, "a"));
    assert_eq!(addresses(&desired(&model).ports[0].v4, List::Cluster), ["10.0.0.2:5355"]);
}

#[test]
fn one_pod_in_two_ports_of_a_slice_is_two_backends() {
    let mut model = model();
    let ports = json!([{"name": "", "port": 8080}, {"name": "", "port": 8081}]);
    let fields = json!({"ports": ports, "endpoints": ready(&["10.0.0.1"])});
    apply(&mut model, [service("svc", json!({})), slice_with("a", fields)]);
    assert_eq!(cluster(&model), ["10.0.0.1:8080", "10.0.0.1:8081"]);
}

#[test]
fn a_running_pod_wins_over_a_terminating_one_with_its_address() {
    let terminating = json!([{"addresses": ["10.0.0.1"],
        "conditions": {"ready": false, "serving": true, "terminating": true}}]);
    let unready = json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}]);
    let running = ready(&["10.0.0.1"]);
    for (first, second, expected) in [
        (&terminating, &running, 1),
        (&running, &terminating, 1),
        (&running, &unready, 0),
        (&unready, &running, 1),
    ] {
        let mut model = model();
        let slices = [slice("a", first.clone()), slice("b", second.clone())];
        apply(&mut model, [service("svc", json!({}))]);
        apply(&mut model, slices);
        assert_eq!(cluster(&model).len(), expected, "{first} then {second}");
    }
}

#[test]
fn endpoint_map_updates() {
    let port = |name: &str, port: u16| json!([{"name": name, "port": port}]);
    let slice = |name: &str, ports: &Value, addresses: &[&str]| {
        slice_with(name, json!({"ports": ports, "endpoints": ready(addresses)}))
    };
    let (p80, p81, other) = (port("", 80), port("", 81), port("other", 80));
    let two = json!([{"name": "", "port": 80}, {"name": "other", "port": 81}]);
    let steps: [(&str, Event, &[&str]); 13] = [
        ("nothing to nothing", slice("a", &json!([]), &[]), &[]),
        ("0 to 1 unnamed port", slice("a", &p80, &["10.0.0.1"]), &["10.0.0.1:80"]),
        ("no change", slice("a", &p80, &["10.0.0.1"]), &["10.0.0.1:80"]),
        (
            "add an address",
            slice("a", &p80, &["10.0.0.1", "10.0.0.2"]),
            &["10.0.0.1:80", "10.0.0.2:80"],
        ),
        ("remove an address", slice("a", &p80, &["10.0.0.2"]), &["10.0.0.2:80"]),
        ("renumber the port", slice("a", &p81, &["10.0.0.2"]), &["10.0.0.2:81"]),
        ("rename the port", slice("a", &other, &["10.0.0.2"]), &[]),
        ("add a port", slice("a", &two, &["10.0.0.2"]), &["10.0.0.2:80"]),
        ("add a slice", slice("b", &p80, &["10.0.0.3"]), &["10.0.0.2:80", "10.0.0.3:80"]),
        (
            "the endpoint moves to another slice",
            slice("b", &p80, &["10.0.0.2", "10.0.0.3"]),
            &["10.0.0.2:80", "10.0.0.3:80"],
        ),
        ("and leaves the first", slice("a", &two, &[]), &["10.0.0.2:80", "10.0.0.3:80"]),
        ("remove a slice", delete(Kind::EndpointSlice, "b"), &[]),
        ("remove one that is not there", delete(Kind::EndpointSlice, "b"), &[]),
    ];
    let mut model = model();
    model.apply(service("svc", json!({})));
    for (name, event, expected) in steps {
        model.apply(event);
        assert_eq!(cluster(&model), expected, "{name}");
    }
}

#[test]
fn unusable_endpoints_are_skipped_and_reported_one_by_one() {
    let mut model = model();
    let bad = [
        "127.0.0.1",
        "169.254.0.1",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "fd00::1",
        "::ffff:10.0.0.1",
        "10.0.0",
        "pod.example",
    ];
    let mut all = vec!["010.000.000.001"];
    all.extend(bad);
    let mut endpoints = ready(&all);
    endpoints[1]["addresses"] = json!(["127.0.0.1", "10.0.0.9"]);
    endpoints.as_array_mut().unwrap().push(json!({"addresses": []}));
    apply(&mut model, [service("svc", json!({})), slice("a", endpoints)]);
    assert_eq!(
        cluster(&model),
        ["10.0.0.1:8080"],
        "leading zeros are decimal, only the first counts"
    );
    let conditions = model.conditions();
    assert_eq!(conditions.len(), bad.len(), "{conditions:#?}");
    let wrong_family = &conditions["EndpointSlice default/a: endpoints[6].addresses[0]"];
    assert!(wrong_family.contains("\"fd00::1\" is not an IPv4 address"), "{wrong_family}");
    assert_eq!(desired(&model).problems.len(), bad.len());
    model.apply(slice("a", ready(&["10.0.0.1"])));
    assert_eq!(model.conditions().len(), 0);
}

#[test]
fn unusable_ports_are_skipped_and_reported() {
    let mut model = model();
    let ports = json!([
        {"name": "", "port": 0}, {"name": "", "port": 65536}, {"name": "", "port": -1},
        {"name": "", "protocol": "ICMP", "port": 1}, {"port": 80}, {"name": ""},
        {"name": "", "port": 8080},
    ]);
    let fields = json!({"ports": ports, "endpoints": ready(&["10.0.0.1"])});
    apply(&mut model, [service("svc", json!({})), slice_with("a", fields)]);
    assert_eq!(cluster(&model), ["10.0.0.1:8080"]);
    assert_eq!(model.conditions().len(), 5, "a port without a number is no mistake");
}

#[test]
fn fqdn_slices_are_reported_and_others_live() {
    let mut model = model();
    let fqdn = json!({"addressType": "FQDN", "endpoints": ready(&["example.org"])});
    let v6 = json!({"addressType": "IPv6", "endpoints": ready(&["fd00::5"])});
    apply(
        &mut model,
        [
            service(
                "svc",
                json!({"ipFamilies": ["IPv6", "IPv4"], "clusterIPs": ["fd00::1", "10.96.0.1"]}),
            ),
            slice_with("fqdn", fqdn),
            slice_with("six", v6),
            slice("four", ready(&["10.0.0.1"])),
        ],
    );
    let port = desired(&model).ports.remove(0);
    assert_eq!(port.v6.cluster[0].to_string(), "[fd00::5]:8080");
    assert_eq!(port.v4.cluster[0].to_string(), "10.0.0.1:8080");
    let conditions = model.conditions();
    assert!(conditions["EndpointSlice default/fqdn: addressType"].contains("IPv4 or IPv6"));
}

#[test]
fn slices_with_the_headless_label_or_of_no_service_are_invisible() {
    let mut model = model();
    let with_labels = |labels: Value| {
        slice_with(
            "a",
            json!({"metadata": {"name": "a", "labels": labels},
                               "endpoints": ready(&["10.0.0.1"])}),
        )
    };
    const SERVICE: &str = "kubernetes.io/service-name";
    model.apply(service("svc", json!({})));
    let labels: [(Value, usize); 5] = [
        (json!({SERVICE: "svc"}), 1),
        (json!({SERVICE: "svc", "service.kubernetes.io/headless": ""}), 0),
        (json!({SERVICE: "svc"}), 1),
        (json!({SERVICE: ""}), 0),
        (json!({}), 0),
    ];
    for (labels, expected) in labels {
        model.take_dirty();
        model.apply(with_labels(labels.clone()));
        assert_eq!(cluster(&model).len(), expected, "{labels}");
    }
    assert!(!model.has_dirty(), "nothing changed in the last step");
}

#[test]
fn one_object_full_of_garbage_says_so_briefly() {
    let mut model = model();
    let long = "x".repeat(1000);
    let garbage: Vec<&str> = vec![&long; 100];
    apply(&mut model, [service("svc", json!({})), slice("a", ready(&garbage))]);
    let conditions = model.conditions();
    assert_eq!(conditions.len(), crate::model::problem::PROBLEMS_PER_OBJECT + 1);
    assert!(conditions["EndpointSlice default/a: other fields"].starts_with("84 more"));
    assert!(conditions.values().all(|message| message.len() < 200));
}
