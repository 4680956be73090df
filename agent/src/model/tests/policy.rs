//! What the operator decides: where NodePorts are, and which externalIPs are served.

use millrace_common::address::V6;
use serde_json::json;

use super::*;
use crate::settings::{ExternalIps, NodePortAddresses};

const INTERFACES: [&str; 10] = [
    "127.0.0.1",
    "127.0.0.53",
    "169.254.20.10",
    "192.0.2.7",
    "10.1.0.1",
    "10.1.0.2",
    "::1",
    "fe80::1",
    "2001:db8::5",
    "fd00:1::5",
];

fn networks(texts: &[&str]) -> Vec<ipnetwork::IpNetwork> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// A dual-stack Service with a NodePort on a node with [`INTERFACES`].
fn node_port_model(which: NodePortAddresses) -> Model {
    let policy = Policy { node_port_addresses: which, ..Policy::default() };
    let mut model = Model::new(HERE, policy);
    let spec = json!({
        "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4", "IPv6"],
        "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}],
    });
    apply(&mut model, [node("", &["192.0.2.7", "2001:db8::5"]), service("svc", spec)]);
    model.set_node_addresses(INTERFACES.map(|address| address.parse().unwrap()).to_vec());
    model
}

/// Where the NodePort is served, of both families.
fn served(model: &Model) -> Vec<String> {
    fn of_family<A: millrace_common::address::Address>(family: &DesiredFamily<A>) -> Vec<String> {
        let node_ports = family.frontends.iter().filter(|f| f.kind == FrontendKind::NodePort);
        let mut texts: Vec<_> = node_ports.map(|f| format!("{:?}", f.key.address)).collect();
        texts.sort_unstable();
        texts
    }
    let desired = desired(model);
    let port = &desired.ports[0];
    [of_family::<V4>(&port.v4), of_family::<V6>(&port.v6)].concat()
}

#[test]
fn node_ports_are_served_on_the_addresses_that_are_asked_for() {
    use NodePortAddresses::{All, Networks, Primary};
    let of = |texts: &[&str]| Networks(networks(texts));
    let every_v6 = ["2001:db8::5", "fd00:1::5"];
    let rows: [(&str, NodePortAddresses, Vec<&str>); 8] = [
        ("primary", Primary, vec!["0.0.0.0", "127.0.0.1", "192.0.2.7", "2001:db8::5", "::", "::1"]),
        (
            "all",
            All,
            vec![
                "0.0.0.0",
                "10.1.0.1",
                "10.1.0.2",
                "127.0.0.1",
                "169.254.20.10",
                "192.0.2.7",
                "2001:db8::5",
                "::",
                "::1",
                "fd00:1::5",
            ],
        ),
        (
            "one v4, one v6",
            of(&["10.1.0.0/24", "fd00::/8"]),
            vec!["10.1.0.1", "10.1.0.2", "fd00:1::5"],
        ),
        ("several", of(&["10.1.0.2/32", "192.0.2.0/24", "::/0"]), {
            let mut both = vec!["10.1.0.2", "192.0.2.7"];
            both.extend(every_v6);
            both
        }),
        ("none has it", of(&["172.16.0.0/12", "fd00:2::/64"]), vec![]),
        ("no v6 network: all of v6", of(&["10.1.0.1/32"]), {
            let mut both = vec!["10.1.0.1"];
            both.extend(every_v6);
            both
        }),
        ("zero length: every one of them", of(&["0.0.0.0/0", "fd00:2::/64"]), {
            vec!["10.1.0.1", "10.1.0.2", "169.254.20.10", "192.0.2.7"]
        }),
        ("loopback is none of them", of(&["127.0.0.0/8", "::1/128"]), vec![]),
    ];
    for (name, which, expected) in rows {
        assert_eq!(served(&node_port_model(which)), expected, "{name}");
    }
}

#[test]
fn a_loopback_network_for_node_ports_is_refused_with_a_reason() {
    let which = NodePortAddresses::Networks(networks(&["127.0.0.0/8", "10.1.0.0/24"]));
    let conditions = node_port_model(which).conditions();
    let told = &conditions["--nodeport-addresses 127.0.0.0/8"];
    assert!(told.contains("loopback") && conditions.len() == 1, "{conditions:?}");
    assert!(node_port_model(NodePortAddresses::All).conditions().is_empty());
}

#[test]
fn new_addresses_count_at_once() {
    let which = NodePortAddresses::Networks(networks(&["10.1.0.0/24", "fd00::/8"]));
    let mut model = node_port_model(which);
    model.take_dirty();
    model.set_node_addresses(vec!["10.1.0.9".parse().unwrap(), "192.0.2.7".parse().unwrap()]);
    assert_eq!(model.take_dirty(), [name("svc")]);
    assert_eq!(served(&model), ["10.1.0.9"]);
    model.set_node_addresses(vec!["192.0.2.7".parse().unwrap(), "10.1.0.9".parse().unwrap()]);
    assert!(!model.has_dirty(), "the same addresses in another order");
}

#[test]
fn external_ips_that_are_not_served_are_named_with_the_flag() {
    let rows = [
        (ExternalIps::All, vec!["203.0.113.1", "198.51.100.1"], 1),
        (ExternalIps::Networks(networks(&["203.0.113.0/24"])), vec!["203.0.113.1"], 2),
        (ExternalIps::Networks(networks(&["2001:db8::/32"])), vec![], 3),
        (ExternalIps::Off, vec![], 3),
    ];
    for (external_ips, expected, told) in rows {
        let text = format!("{external_ips:?}");
        let mut model = Model::new(HERE, Policy { external_ips, ..Policy::default() });
        let spec = json!({"externalIPs": ["203.0.113.1", "198.51.100.1", "garbage", ""]});
        model.apply(service("svc", spec));
        let family = only_v4(&model);
        let external = family.frontends.iter().filter(|f| f.kind == FrontendKind::ExternalIp);
        let mut served: Vec<String> = external.map(|f| format!("{:?}", f.key.address)).collect();
        served.sort_unstable_by(|a, b| b.cmp(a));
        assert_eq!(served, expected, "{text}");
        let conditions = model.conditions();
        assert_eq!(conditions.len(), told, "{text}: {conditions:?}");
        if let Some(message) = conditions.get("Service default/svc: spec.externalIPs[1]") {
            assert!(message.contains("--external-ips"), "{message}");
        }
    }
}

#[test]
fn a_service_whose_external_ips_are_refused_is_internal() {
    let mut model =
        Model::new(HERE, Policy { external_ips: ExternalIps::Off, ..Policy::default() });
    let spec = json!({"externalIPs": ["203.0.113.1"], "internalTrafficPolicy": "Local"});
    let remote = json!([{"addresses": ["10.0.0.1"], "nodeName": "elsewhere"}]);
    apply(&mut model, [service("svc", spec), slice("a", remote)]);
    assert!(only_v4(&model).cluster.is_empty(), "nobody outside is led to the Cluster list");
}
