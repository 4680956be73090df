//! Tables: devices as nodes have them, and what becomes of each.

use millrace_common::address::{Address, V4, V6};
use millrace_common::node::{Prefix, device, node as flags};

use super::node::{Known, conditions, row};
use super::roles::{Attachment, attachments, unreadable};
use super::*;
use crate::model::NodeFacts;
use crate::model::networks::{FamilyNetworks, ServiceNetworks};
use crate::settings::{DetectLocal, NamePattern, Policy, Role};

/// A device under test; its index is its place in the list, from 1.
struct Made(Device);

fn made(name: &str, kind: &str) -> Made {
    Made(Device {
        index: 0,
        name: name.into(),
        kind: (!kind.is_empty()).then(|| kind.to_owned()),
        link_layer: match kind {
            "wireguard" | "ipip" | "tun" | "sit" => LinkLayer::None,
            _ if name == "lo" => LinkLayer::Loopback,
            _ => LinkLayer::Ethernet,
        },
        master: None,
        parent: None,
        up: true,
        mtu: 1500,
        mac: Some([2, 0, 0, 0, 0, 9]),
        addresses: Vec::new(),
        default_v4: false,
        default_v6: false,
    })
}

impl Made {
    fn address(mut self, address: &str) -> Self {
        let address: IpAddr = address.parse().unwrap();
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let scope = if link_local { Scope::Link } else { Scope::Global };
        self.0.addresses.push(DeviceAddress { address, scope, lasting: true });
        self
    }
    fn fleeting(mut self) -> Self {
        self.0.addresses.last_mut().unwrap().lasting = false;
        self
    }
    fn default_route(mut self) -> Self {
        self.0.default_v4 = true;
        self
    }
    fn master(mut self, index: u32) -> Self {
        self.0.master = Some(index);
        self
    }
    fn parent(mut self, index: u32) -> Self {
        self.0.parent = Some(index);
        self
    }
    fn ethernet(mut self) -> Self {
        self.0.link_layer = LinkLayer::Ethernet;
        self
    }
}

fn devices(made: Vec<Made>) -> Vec<Device> {
    let numbered = (1..).zip(made);
    numbered.map(|(index, made)| Device { index, ..made.0 }).collect()
}

fn with(policy: impl FnOnce(&mut Policy)) -> Policy {
    let mut changed = Policy::default();
    policy(&mut changed);
    changed
}

/// Names and roles of what is attached.
fn roles(devices: &[Device], own: &[&str], policy: &Policy) -> Vec<(String, Role)> {
    let own: Vec<IpAddr> = own.iter().map(|address| address.parse().unwrap()).collect();
    let attached = attachments(devices, &own, policy).into_iter();
    attached.map(|attachment| (attachment.name, attachment.role)).collect()
}

fn check(what: &str, made: Vec<Made>, own: &[&str], expected: &[(&str, Role)]) {
    let expected: Vec<_> = expected.iter().map(|(name, role)| ((*name).into(), *role)).collect();
    assert_eq!(roles(&devices(made), own, &Policy::default()), expected, "{what}");
}

use Role::{Pod, Tunnel, Uplink};

#[test]
fn every_network_plugin_is_understood() {
    let eth0 = || made("eth0", "").default_route().address("192.0.2.10");
    check(
        "a bridge (flannel, kubenet, kind of CNI bridge)",
        vec![
            made("lo", "").address("127.0.0.1"),
            eth0(),
            made("flannel.1", "vxlan"),
            made("cni0", "bridge").address("10.244.1.1"),
            made("veth1", "veth").master(4),
            made("veth2", "veth").master(4),
        ],
        &["192.0.2.10"],
        &[("eth0", Uplink), ("flannel.1", Tunnel), ("veth1", Pod), ("veth2", Pod)],
    );
    check(
        "routed veths (Calico), IP in IP",
        vec![eth0(), made("tunl0", "ipip"), made("cali1", "veth"), made("nk1", "netkit")],
        &[],
        &[("eth0", Uplink), ("tunl0", Tunnel), ("cali1", Pod), ("nk1", Pod)],
    );
    check(
        "several interfaces of a cloud, VLANs for pods with security groups",
        vec![eth0(), made("eth1", ""), made("vlan.eth.1", "vlan").parent(2), made("eni1", "veth")],
        &[],
        &[("eth0", Uplink), ("eth1", Uplink), ("vlan.eth.1", Uplink), ("eni1", Pod)],
    );
    check(
        "a bond with a VLAN; its slaves are not attached",
        vec![
            made("bond0", "bond"),
            made("eth0", "").master(1),
            made("eth1", "").master(1),
            made("bond0.7", "vlan").parent(1).default_route(),
        ],
        &[],
        &[("bond0", Uplink), ("bond0.7", Uplink)],
    );
    check(
        "a node in a container: its way out is a veth",
        vec![made("eth0", "veth").default_route(), made("veth1", "veth")],
        &[],
        &[("eth0", Uplink), ("veth1", Pod)],
    );
    check(
        "the same without a default route, known by the Node's address",
        vec![made("eth0", "veth").address("192.0.2.10"), made("veth1", "veth")],
        &["192.0.2.10"],
        &[("eth0", Uplink), ("veth1", Pod)],
    );
    check(
        "WireGuard between nodes, and as the only way out",
        vec![made("wg0", "wireguard"), made("wg1", "wireguard").default_route()],
        &[],
        &[("wg0", Tunnel), ("wg1", Uplink)],
    );
    check(
        "devices that carry nothing of ours",
        vec![
            made("kube-ipvs0", "dummy").address("192.0.2.10"),
            made("ifb0", "ifb"),
            made("v", "vrf"),
        ],
        &["192.0.2.10"],
        &[],
    );
}

#[test]
fn of_a_bridge_and_its_ports_one_side_is_attached() {
    check(
        "a bridge that is the way out: its physical port is not attached, pods are",
        vec![
            made("br0", "bridge").default_route(),
            made("eth0", "").master(1),
            made("bond0.5", "vlan").master(1).parent(2),
            made("tap1", "tun").ethernet().master(1),
            made("veth1", "veth").master(1),
        ],
        &[],
        &[("br0", Uplink), ("tap1", Pod), ("veth1", Pod)],
    );
    check(
        "a bridge that is not: its physical port is",
        vec![made("br1", "bridge"), made("eth1", "").master(1), made("veth1", "veth").master(1)],
        &[],
        &[("eth1", Uplink), ("veth1", Pod)],
    );
    check(
        "a tunnel as a port",
        vec![made("br1", "bridge"), made("vxlan1", "vxlan").master(1)],
        &[],
        &[("vxlan1", Tunnel)],
    );
    check("an empty bridge", vec![made("cni0", "bridge").address("10.244.1.1")], &[], &[]);
    check(
        "a VLAN of a bridge that has the way out as a port",
        vec![made("br0", "bridge"), made("eth0", "").master(1), made("br0.5", "vlan").parent(1)],
        &[],
        &[("eth0", Uplink), ("br0.5", Uplink)],
    );
    check(
        "a VLAN of a bridge of pods",
        vec![
            made("br0", "bridge"),
            made("veth1", "veth").master(1),
            made("br0.5", "vlan").parent(1),
        ],
        &[],
        &[("veth1", Pod), ("br0.5", Pod)],
    );
    let policy = with(|policy| policy.device_roles = vec![(NamePattern("veth*".into()), None)]);
    let off = devices(vec![made("cni0", "bridge"), made("veth1", "veth").master(1)]);
    assert_eq!(roles(&off, &[], &policy), [("cni0".into(), Pod)], "ports that are off");
}

#[test]
fn the_operators_word_counts_before_the_rules() {
    let role = |name: &str, role| (NamePattern(name.into()), role);
    let policy = with(|policy| {
        policy.device_roles = vec![
            role("eth1", None),
            role("eth*", Some(Pod)),
            role("lo", Some(Uplink)),
            role("ipoib", Some(Uplink)),
        ];
    });
    let mut all = devices(vec![
        made("lo", ""),
        made("eth0", "").default_route(),
        made("eth1", ""),
        made("ipoib", ""),
        made("can0", ""),
    ]);
    all[3].link_layer = LinkLayer::from_hardware_type(32);
    all[4].link_layer = LinkLayer::from_hardware_type(280);
    assert_eq!(roles(&all, &[], &policy), [("eth0".into(), Pod)]);
    let unreadable: Vec<&str> =
        unreadable(&all, &[], &policy).iter().map(|device| device.name.as_str()).collect();
    assert_eq!(unreadable, ["ipoib"], "asked for, and we cannot");
}

fn named<'a>(attachments: &'a [Attachment], name: &str) -> &'a Attachment {
    attachments.iter().find(|attachment| attachment.name == name).unwrap()
}

#[test]
fn masqueraded_packets_come_from_the_device_or_its_bridge() {
    let all = devices(vec![
        made("eth0", "").address("192.0.2.10").address("192.0.2.11").default_route(),
        made("cni0", "bridge").address("10.244.1.1").address("fe80::1").address("fd00::1"),
        made("veth1", "veth").master(2).address("fe80::2"),
        made("cali1", "veth").address("fe80::3"),
        made("eth1", "").address("2001:db8::9").fleeting().address("2001:db8::1"),
        made("eth2", "").address("2001:db8::9").fleeting(),
    ]);
    let attached = attachments(&all, &[], &Policy::default());
    let addresses = |name: &str| {
        let row = named(&attached, name).row;
        let (v4, v6) = (IpAddr::from(row.masquerade_v4), IpAddr::from(row.masquerade_v6));
        (v4.to_string(), v6.to_string())
    };
    let expect = |v4: &str, v6: &str| (v4.to_owned(), v6.to_owned());
    assert_eq!(addresses("eth0"), expect("192.0.2.10", "::"));
    assert_eq!(addresses("veth1"), expect("10.244.1.1", "fd00::1"));
    assert_eq!(addresses("cali1"), expect("0.0.0.0", "::"), "link-local does not count");
    assert_eq!(addresses("eth1"), expect("0.0.0.0", "2001:db8::1"), "one that lasts");
    assert_eq!(addresses("eth2"), expect("0.0.0.0", "2001:db8::9"), "rather than none");
}

#[test]
fn devices_of_pods_are_marked_for_the_detector() {
    let all = devices(vec![
        made("eth0", "").default_route(),
        made("cni0", "bridge"),
        made("veth1", "veth").master(2),
        made("cali1", "veth"),
    ]);
    let table: &[(DetectLocal, &[&str])] = &[
        (DetectLocal::Attachment, &["veth1", "cali1"]),
        (DetectLocal::Bridge("cni0".into()), &["veth1"]),
        (DetectLocal::NamePrefix("cali".into()), &["cali1"]),
        (DetectLocal::NodeCidr, &[]),
        (DetectLocal::Off, &[]),
    ];
    for (detect_local, expected) in table {
        let policy = with(|policy| policy.detect_local = detect_local.clone());
        let attached = attachments(&all, &[], &policy).into_iter();
        let marked = attached.filter(|attachment| attachment.row.flags & device::FROM_PODS != 0);
        let names: Vec<String> = marked.map(|attachment| attachment.name).collect();
        assert_eq!(names, *expected, "{detect_local:?}");
    }
}

#[test]
fn link_layers_are_told_apart() {
    let table = [
        (1, LinkLayer::Ethernet),
        (772, LinkLayer::Loopback),
        (0xfffe, LinkLayer::None),
        (768, LinkLayer::None),
        (776, LinkLayer::None),
        (32, LinkLayer::Other(32)),
    ];
    for (hardware_type, expected) in table {
        assert_eq!(LinkLayer::from_hardware_type(hardware_type), expected, "{hardware_type}");
    }
}

fn v4(octets: [u8; 4]) -> V4 {
    std::net::Ipv4Addr::from(octets).into()
}

fn facts() -> NodeFacts {
    NodeFacts {
        internal: vec!["192.0.2.10".parse().unwrap(), "192.0.2.11".parse().unwrap()],
        external: Vec::new(),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "10.245.0.0/24".parse().unwrap()],
    }
}

#[test]
fn the_nodes_row_has_its_address_and_its_ports() {
    let all = devices(vec![made("eth0", "").address("2001:db8::a").address("192.0.2.99")]);
    let mut all = all;
    all[0].default_v6 = true;
    let (policy, facts, services) = (Policy::default(), facts(), ServiceNetworks::default());
    let ports = Some((61_000, 65_535));
    let known = Known { policy: &policy, facts: &facts, devices: &all, ports, services: &services };
    let made = row(&known);
    assert_eq!(IpAddr::from(made.v4.address).to_string(), "192.0.2.10", "the Node says so");
    assert_eq!(IpAddr::from(made.v6.address).to_string(), "2001:db8::a", "by the default route");
    assert_eq!((made.first_port, made.last_port), (61_000, 65_535));
    assert_eq!(made.flags, flags::KNOWN | flags::DETECTOR | flags::DETECT_BY_DEVICE);
    assert_eq!(made.v4.pods, Prefix::NONE);
    assert_eq!(made.v4.service_hull, Prefix::NONE);
    assert!(conditions(&known, &made).is_empty());

    let none = Known { ports: None, ..known };
    let made = row(&none);
    assert!(made.first_port > made.last_port);
    assert_eq!(conditions(&none, &made)[0].0, "masquerade ports");
}

#[test]
fn the_nodes_row_has_its_detector_and_its_services() {
    let (facts, mut services) = (facts(), ServiceNetworks::default());
    let hull = Prefix { address: v4([10, 96, 0, 0]), mask: v4([255, 240, 0, 0]) };
    services.v4 = FamilyNetworks { hull, ..FamilyNetworks::default() };
    let known_with = |policy: &Policy| {
        row(&Known { policy, facts: &facts, devices: &[], ports: None, services: &services })
    };
    let pods = |address: [u8; 4], mask: [u8; 4]| Prefix { address: v4(address), mask: v4(mask) };
    let made = known_with(&with(|policy| policy.detect_local = DetectLocal::NodeCidr));
    assert_eq!(made.flags, flags::KNOWN | flags::DETECTOR);
    assert_eq!(made.v4.pods, pods([10, 244, 1, 0], [255, 255, 255, 0]), "the first of its family");
    assert_eq!(made.v6.pods, Prefix::<V6>::NONE);
    assert_eq!(made.v4.service_hull, hull);

    let networks = vec!["fd00::/48".parse().unwrap(), "10.0.0.9/8".parse().unwrap()];
    let made = known_with(&with(|policy| {
        policy.detect_local = DetectLocal::ClusterCidr(networks);
        policy.masquerade_all = true;
    }));
    assert_eq!(made.flags, flags::KNOWN | flags::DETECTOR | flags::MASQUERADE_ALL);
    assert_eq!(made.v4.pods, pods([10, 0, 0, 0], [255, 0, 0, 0]), "host bits are cleared");
    assert_eq!(made.v4.address, v4([192, 0, 2, 10]));

    let made = known_with(&with(|policy| policy.detect_local = DetectLocal::ClusterCidr(vec![])));
    assert_eq!(made.flags, flags::KNOWN, "no network: no detector");
    let made = known_with(&with(|policy| policy.detect_local = DetectLocal::Off));
    assert_eq!((made.flags, made.v6.address), (flags::KNOWN, V6::ZERO));
}

#[test]
fn the_nodes_row_says_whether_there_are_bridges() {
    let (policy, facts, services) = (Policy::default(), facts(), ServiceNetworks::default());
    let is_bridged = |all: Vec<Made>| {
        let all = devices(all);
        let made = row(&Known {
            policy: &policy,
            facts: &facts,
            devices: &all,
            ports: None,
            services: &services,
        });
        made.flags & flags::BRIDGED != 0
    };
    assert!(!is_bridged(vec![made("cni0", "bridge"), made("veth1", "veth")]), "without a port");
    assert!(!is_bridged(vec![made("bond0", "bond"), made("eth0", "").master(1)]), "a bond");
    assert!(is_bridged(vec![made("cni0", "bridge"), made("veth1", "veth").master(1)]));
}
