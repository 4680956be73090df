//! kube-proxy's packet-flow tables (section 8.2 of the specification, `nftables/proxier_test.go`):
//! objects in, and for every client and destination the backends, the refusal or the silence, and
//! whether the node takes the client's place. On both families, in memory
//! (`millrace_tests::simulation`).
//!
//! `conformance_masquerade.rs` has who is masqueraded, `conformance_sync.rs` what one change after
//! the other comes to, `conformance_over_time.rs` what becomes of flows that there are.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use millrace::settings::{NodePortAddresses, Policy};
use millrace_tests::lab::{Family, address};
use millrace_tests::manifest::{self, Service, Slice};
use millrace_tests::simulation::table::To::{Address, Cluster, External, Node};
use millrace_tests::simulation::table::*;
use millrace_tests::simulation::{Sender, Simulation, endpoints, place_address, slice};

use millrace_tests::simulation::Protocol::{Sctp, Tcp, Udp};

/// Last number of the address of a load balancer that works as a proxy.
const PROXIED: u8 = 12;

#[test]
fn no_endpoints_reject() -> Result<()> {
    on_both(|family, node| {
        node.put_all(&[&everywhere(family), &slice(family, "svc", &[])])?;
        let ext = outside(family);
        check(
            node,
            family,
            &[
                ("pod to ClusterIP", CLIENT, Cluster(1), 80, Tcp, "REJECT"),
                ("node to ClusterIP", Sender::Node, Cluster(1), 80, Tcp, "REJECT"),
                ("outside to externalIP", ext, External(EXTERNAL), 80, Tcp, "REJECT"),
                ("pod to NodePort", CLIENT, Node(1), NODE_PORT, Tcp, "REJECT"),
                ("outside to NodePort", ext, Node(1), NODE_PORT, Tcp, "REJECT"),
                ("pod to LB", CLIENT, External(BALANCED), 80, Tcp, "REJECT"),
                ("outside to LB", ext, External(BALANCED), 80, Tcp, "REJECT"),
            ],
        )
    })
}

#[test]
fn cluster_ip_general() -> Result<()> {
    on_both(|family, node| {
        let three = named(family, "three", 2).port("main", "UDP", 80).port("main", "SCTP", 8080);
        let other = named(family, "other", 3).port("more", "TCP", 8081);
        let per_protocol = |name: &str, protocol: &str, words: &[&str]| {
            Slice::new(&format!("three-{name}"), "three", family)
                .port("main", protocol, 8080)
                .endpoints(endpoints(family, words))
        };
        let more = Slice::new("other-more", "other", family).port("more", "TCP", 9090);
        node.put_all(&[
            &service(family),
            &slice(family, "svc", &["n1/0", "n2/0", "n2/1"]),
            &three,
            &per_protocol("tcp", "TCP", &["n1/1"]),
            &per_protocol("udp", "UDP", &["n1/2"]),
            &per_protocol("sctp", "SCTP", &["n1/3"]),
            &other,
            &slice(family, "other", &["n1/0"]),
            &more.endpoints(endpoints(family, &["n2/0"])),
            &manifest::service_cidr(&FAMILIES),
        ])?;
        let hairpin = Sender::Pod(0);
        check(
            node,
            family,
            &[
                ("several endpoints", CLIENT, Cluster(1), 80, Tcp, "n1/0 n2/0 n2/1"),
                ("one endpoint", CLIENT, Cluster(3), 80, Tcp, "n1/0"),
                ("hairpin", hairpin, Cluster(3), 80, Tcp, "n1/0 masq"),
                ("another target port", CLIENT, Cluster(3), 8081, Tcp, "n2/0:9090"),
                ("TCP has its own", CLIENT, Cluster(2), 80, Tcp, "n1/1"),
                ("UDP has its own", CLIENT, Cluster(2), 80, Udp, "n1/2"),
                ("SCTP has its own", CLIENT, Cluster(2), 8080, Sctp, "n1/3"),
                ("TCP only, asked by UDP", CLIENT, Cluster(3), 80, Udp, "REJECT"),
                ("TCP only, asked by SCTP", CLIENT, Cluster(3), 80, Sctp, "REJECT"),
                ("another Service's port", CLIENT, Cluster(1), 8081, Tcp, "REJECT"),
                ("no Service's address", CLIENT, Cluster(99), 80, Tcp, "DROP"),
                ("from outside, too", outside(family), Cluster(99), 80, Udp, "DROP"),
            ],
        )
    })
}

#[test]
fn load_balancer_source_ranges() -> Result<()> {
    on_both(|family, node| {
        let (admitted, blocked) = (address::outside(family), address::gateway(family));
        let bits = family.bits();
        let ranges = |more: &[IpAddr]| -> Vec<String> {
            more.iter().map(|address| format!("{address}/{bits}")).collect()
        };
        let limited = everywhere(family).source_ranges(&ranges(&[admitted]));
        node.put_all(&[&limited, &slice(family, "svc", &["n2/0"])])?;
        let (ok, no) = (Sender::Outside(admitted), Sender::Outside(blocked));
        check(
            node,
            family,
            &[
                ("pod to ClusterIP", CLIENT, Cluster(1), 80, Tcp, "n2/0"),
                ("admitted to NodePort", ok, Node(1), NODE_PORT, Tcp, "n2/0 masq"),
                ("blocked to NodePort", no, Node(1), NODE_PORT, Tcp, "n2/0 masq"),
                ("blocked to externalIP", no, External(EXTERNAL), 80, Tcp, "n2/0 masq"),
                ("admitted to LB", ok, External(BALANCED), 80, Tcp, "n2/0 masq"),
                ("admitted to the other LB", ok, External(BALANCED_TOO), 80, Tcp, "n2/0 masq"),
                ("blocked to LB", no, External(BALANCED), 80, Tcp, "DROP"),
                ("pod to LB", CLIENT, External(BALANCED), 80, Tcp, "DROP"),
                ("node to LB", Sender::Node, External(BALANCED), 80, Tcp, "DROP"),
            ],
        )?;
        // The node's own address is in a range: so are the addresses that it may have taken.
        let with_node = ranges(&[admitted, address::node(family, 1)]);
        node.put(&everywhere(family).source_ranges(&with_node))?;
        let looped = Sender::Outside(address::external(family, BALANCED));
        check(
            node,
            family,
            &[
                ("node to LB", Sender::Node, External(BALANCED), 80, Tcp, "n2/0 masq"),
                ("LB's address to itself", looped, External(BALANCED), 80, Tcp, "n2/0 masq"),
                ("blocked to LB", no, External(BALANCED), 80, Tcp, "DROP"),
                ("pod to LB", CLIENT, External(BALANCED), 80, Tcp, "DROP"),
            ],
        )?;
        // Who may not is not told that there is nobody.
        node.put(&slice(family, "svc", &[]))?;
        check(
            node,
            family,
            &[
                ("admitted, no endpoints", ok, External(BALANCED), 80, Tcp, "REJECT"),
                ("blocked, no endpoints", no, External(BALANCED), 80, Tcp, "DROP"),
            ],
        )
    })
}

/// Ranges of one family leave the other open.
#[test]
fn source_ranges_of_the_other_family_admit_everybody() -> Result<()> {
    on_both(|family, node| {
        let range = if family == Family::V4 { "2001:db8:9::/64" } else { "198.51.100.0/24" };
        let limited = everywhere(family).source_ranges(&[range.to_owned()]);
        node.put_all(&[&limited, &slice(family, "svc", &["n2/0"])])?;
        let ext = outside(family);
        check(node, family, &[("open", ext, External(BALANCED), 80, Tcp, "n2/0 masq")])
    })
}

#[test]
fn node_port_addresses() -> Result<()> {
    // The node's second address, of its tunnel.
    for (family, second) in [(Family::V4, "10.244.1.0"), (Family::V6, "fd00:244:0:1::f1")] {
        let networks = |texts: &[&str]| -> Result<NodePortAddresses> {
            let parsed: Result<Vec<_>, _> = texts.iter().map(|text| text.parse()).collect();
            Ok(NodePortAddresses::Networks(parsed?))
        };
        let (served, not) = ("n2/0 masq", "none");
        let table = [
            ("primary", NodePortAddresses::Primary, served, not),
            ("all", NodePortAddresses::All, served, served),
            ("one network", networks(&["192.168.50.0/24", "fd50::/64"])?, served, not),
            ("the other", networks(&["10.244.0.0/16", "fd00:244::/32"])?, not, served),
            (
                "several",
                networks(&["192.168.50.0/24", "10.244.0.0/16", "fd50::/64", "fd00:244::/32"])?,
                served,
                served,
            ),
            ("whatever", networks(&["0.0.0.0/0", "::/0"])?, served, served),
        ];
        for (name, which, at_first, at_second) in table {
            let policy = Policy { node_port_addresses: which, ..Policy::default() };
            let mut node = Simulation::new(1, policy)?;
            let objects = service(family).node_port(NODE_PORT);
            node.put_all(&[&objects, &slice(family, "svc", &["n2/0"])])?;
            let ext = outside(family);
            let from_node = if at_first == served { served } else { not };
            let rows = [
                (name, CLIENT, Cluster(1), 80, Tcp, "n2/0"),
                (name, ext, Node(1), NODE_PORT, Tcp, at_first),
                (name, Sender::Node, Node(1), NODE_PORT, Tcp, from_node),
                (name, ext, Address(second), NODE_PORT, Tcp, at_second),
                ("another protocol", ext, Node(1), NODE_PORT, Udp, "none"),
                ("another node", ext, Node(2), NODE_PORT, Tcp, "none"),
            ];
            check(&node, family, &rows)?;
        }
    }
    Ok(())
}

/// What a pod, the node and the world get at each destination that is for the world.
fn check_outer(node: &Simulation, family: Family, expected: [&'static str; 3]) -> Result<()> {
    let from = [CLIENT, Sender::Node, outside(family)];
    for (name, to, port) in OUTER {
        check(node, family, &[0, 1, 2].map(|who| (name, from[who], to, port, Tcp, expected[who])))?;
    }
    Ok(())
}

#[test]
fn external_policy_local() -> Result<()> {
    on_both(|family, node| {
        let local = everywhere(family).external_local();
        node.put_all(&[&local, &slice(family, "svc", &["n1/0", "n2/0"])])?;
        let ext = outside(family);
        check(node, family, &[("pod", CLIENT, Cluster(1), 80, Tcp, "n1/0 n2/0")])?;
        check_outer(node, family, ["n1/0 n2/0", "n1/0 n2/0 masq", "n1/0"])?;
        node.put(&slice(family, "svc", &["n2/0"]))?;
        for (name, to, port) in OUTER {
            check(
                node,
                family,
                &[(name, CLIENT, to, port, Tcp, "n2/0"), (name, ext, to, port, Tcp, "DROP")],
            )?;
        }
        Ok(())
    })
}

#[test]
fn external_policy_cluster() -> Result<()> {
    on_both(|family, node| {
        node.put_all(&[&everywhere(family), &slice(family, "svc", &["n1/0", "n2/0"])])?;
        check(node, family, &[("pod", CLIENT, Cluster(1), 80, Tcp, "n1/0 n2/0")])?;
        check_outer(node, family, ["n1/0 n2/0 masq"; 3])
    })
}

#[test]
fn internal_policy() -> Result<()> {
    on_both(|family, node| {
        let mut check_after = |object: Service, words: &[&str], expected: &'static str| {
            let objects = slice(family, "svc", words);
            node.put_all(&[&object, &objects])?;
            let from_node: &'static str = match expected {
                "n1/0 n2/0" => "n1/0 n2/0 masq",
                "n1/0" => "n1/0 masq",
                "n1/0 n1/1" => "n1/0 n1/1 masq",
                other => other,
            };
            check(
                node,
                family,
                &[
                    ("pod", CLIENT, Cluster(1), 80, Tcp, expected),
                    ("node", Sender::Node, Cluster(1), 80, Tcp, from_node),
                ],
            )
        };
        let local = || service(family).internal_local();
        check_after(service(family), &["n1/0", "n2/0"], "n1/0 n2/0")?;
        check_after(local(), &["n1/0", "n2/0", "n3/0"], "n1/0")?;
        check_after(local(), &["n1/0", "n1/1", "n3/0"], "n1/0 n1/1")?;
        check_after(local(), &["n2/0", "n3/0"], "DROP")?;
        check_after(local(), &[], "REJECT")?;
        node.delete(&slice(family, "svc", &[]))?;
        check(node, family, &[("no slices", CLIENT, Cluster(1), 80, Tcp, "REJECT")])
    })
}

/// Endpoints; then what a pod gets at the ClusterIP, and what the world gets at the load balancer
/// under policy Local and under Cluster.
const TERMINATING: [(&str, &[&str], &str, &str, &str); 6] = [
    (
        "ready ones exist",
        &["n1/0", "n1/1 terminating", "n2/0", "n2/1 terminating"],
        "n1/0 n2/0",
        "n1/0",
        "n1/0 n2/0 masq",
    ),
    (
        "only terminating ones",
        &["n1/1 terminating", "n2/1 terminating"],
        "n1/1 n2/1",
        "n1/1",
        "n1/1 n2/1 masq",
    ),
    (
        "here only a terminating one, elsewhere a ready one",
        &["n1/1 terminating", "n2/0"],
        "n2/0",
        "n1/1",
        "n2/0 masq",
    ),
    ("only elsewhere", &["n1/0 gone", "n2/1 terminating"], "n2/1", "DROP", "n2/1 masq"),
    ("none usable", &["n1/0 gone", "n2/1 unready"], "REJECT", "REJECT", "REJECT"),
    ("deleted", &[], "REJECT", "REJECT", "REJECT"),
];

#[test]
fn terminating_endpoints_by_external_policy() -> Result<()> {
    on_both(|family, node| {
        let ext = outside(family);
        for (name, words, inside, local, cluster) in TERMINATING {
            let endpoints = slice(family, "svc", words);
            node.put_all(&[&everywhere(family).external_local(), &endpoints])?;
            check(
                node,
                family,
                &[
                    (name, CLIENT, Cluster(1), 80, Tcp, inside),
                    (name, ext, External(BALANCED), 80, Tcp, local),
                    (name, ext, Node(1), NODE_PORT, Tcp, local),
                ],
            )?;
            node.put(&everywhere(family))?;
            check(
                node,
                family,
                &[
                    (name, CLIENT, Cluster(1), 80, Tcp, inside),
                    (name, ext, External(BALANCED), 80, Tcp, cluster),
                ],
            )?;
        }
        Ok(())
    })
}

#[test]
fn ip_mode() -> Result<()> {
    on_both(|family, node| {
        let at = |index| address::external(family, index);
        let modes = service(family).load_balancer_ip(at(BALANCED)).load_balancer_proxy(at(PROXIED));
        let mut modes = modes.load_balancer_ip(at(BALANCED_TOO));
        // As clouds write it that do not know the field.
        let ingress = modes.0["status"]["loadBalancer"]["ingress"].as_array_mut();
        let last = ingress.and_then(|list| list.last_mut()).context("three addresses")?;
        last.as_object_mut().context("an object")?.remove("ipMode");
        node.put_all(&[&modes, &slice(family, "svc", &["n2/0"])])?;
        for from in [CLIENT, Sender::Node, outside(family)] {
            check(
                node,
                family,
                &[
                    ("VIP", from, External(BALANCED), 80, Tcp, "n2/0 masq"),
                    ("none given", from, External(BALANCED_TOO), 80, Tcp, "n2/0 masq"),
                    ("Proxy", from, External(PROXIED), 80, Tcp, "none"),
                ],
            )?;
        }
        Ok(())
    })
}

/// "no_snat.go", "hostport.go": what goes to no frontend is left alone, node addresses and other
/// ports included.
#[test]
fn what_is_no_services_is_left_alone() -> Result<()> {
    on_both(|family, node| {
        node.put_all(&[&everywhere(family), &slice(family, "svc", &["n1/0", "n2/0"])])?;
        let [near, far] = ["n1/0", "n2/0"].map(|place| place_address(family, place));
        let ext = outside(family);
        for protocol in [Tcp, Udp, Sctp] {
            for (from, to) in [(CLIENT, near), (CLIENT, far), (ext, near)] {
                let answer = node.dial(from, SocketAddr::new(to, 8080), protocol)?;
                ensure!(answer.text() == "none", "{from:?} to {to}: {answer}");
            }
            let rows = [
                ("a host port", ext, Node(1), 8088, protocol, "none"),
                ("the node itself", CLIENT, Node(1), 22, protocol, "none"),
                ("another node's NodePort", CLIENT, Node(2), NODE_PORT, protocol, "none"),
                ("the load balancer's other ports", ext, External(BALANCED), 81, protocol, "none"),
            ];
            check(node, family, &rows)?;
        }
        Ok(())
    })
}
