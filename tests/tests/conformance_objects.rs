//! What Services and slices mean (section 7 of the specification, where real sockets would add
//! nothing): types that change, families, shared endpoints, zones of several nodes, pods that are
//! published before they are ready.

use anyhow::{Context as _, Result, ensure};
use millrace::settings::Policy;
use millrace_tests::lab::{Family, address};
use millrace_tests::manifest::{Endpoint, Service, Slice};
use millrace_tests::simulation::Protocol::{Sctp, Tcp, Udp};
use millrace_tests::simulation::table::To::{Cluster, External, Node};
use millrace_tests::simulation::table::*;
use millrace_tests::simulation::{Sender, Simulation, endpoints, place_address, slice};
use serde_json::json;

/// "multiple endpoint-Services with same selector": one of them goes.
#[test]
fn services_with_the_same_endpoints_do_not_know_each_other() -> Result<()> {
    on_both(|family, node| {
        let two = named(family, "two", 2);
        node.put_all(&[&service(family), &two])?;
        for name in ["svc", "two"] {
            node.put(&slice(family, name, &["n1/0", "n2/0"]))?;
        }
        let reaches = |index| ("both", CLIENT, Cluster(index), 80, Tcp, "n1/0 n2/0");
        check(node, family, &[reaches(1), reaches(2)])?;
        node.delete(&service(family))?;
        node.delete(&slice(family, "svc", &[]))?;
        let gone = ("gone", CLIENT, Cluster(1), 80, Tcp, "none");
        check(node, family, &[gone, reaches(2)])
    })
}

/// "change the type and ports of a TCP service", "same, UDP": the whole way and back.
#[test]
fn type_and_ports_change_from_cluster_ip_to_load_balancer_and_back() -> Result<()> {
    for (protocol, name) in [(Tcp, "TCP"), (Udp, "UDP")] {
        on_both(|family, node| {
            let base = |port| {
                let service = Service::new("svc").cluster_ip(address::service(family, 1));
                service.port("main", name, port)
            };
            let balanced = |port, node_port| {
                let service = base(port).node_port(node_port);
                service.load_balancer_ip(address::external(family, BALANCED))
            };
            let ext = outside(family);
            let inside =
                |port, expected| ("ClusterIP", CLIENT, Cluster(1), port, protocol, expected);
            let port = |port, expected| ("NodePort", ext, Node(1), port, protocol, expected);
            let balancer =
                |port, expected| ("LB", ext, External(BALANCED), port, protocol, expected);
            let led = "n2/0 masq";
            node.put_all(&[&base(80), &slice(family, "svc", &["n2/0"])])?;
            check(node, family, &[inside(80, "n2/0"), port(30001, "none"), balancer(80, "none")])?;
            node.put(&base(80).node_port(30001))?;
            check(node, family, &[inside(80, "n2/0"), port(30001, led), balancer(80, "none")])?;
            node.put(&balanced(80, 30001))?;
            check(node, family, &[inside(80, "n2/0"), port(30001, led), balancer(80, led)])?;
            node.put(&balanced(80, 30002))?;
            check(node, family, &[port(30001, "none"), port(30002, led), balancer(80, led)])?;
            node.put(&balanced(81, 30002))?;
            let moved = [inside(80, "REJECT"), inside(81, "n2/0"), balancer(80, "none")];
            check(node, family, &moved)?;
            check(node, family, &[port(30002, led), balancer(81, led)])?;
            node.put(&slice(family, "svc", &[]))?;
            let all = |node: &Simulation, inner, outer| {
                check(node, family, &[inside(81, inner), port(30002, outer), balancer(81, outer)])
            };
            all(node, "REJECT", "REJECT")?;
            node.put(&slice(family, "svc", &["n2/1"]))?;
            all(node, "n2/1", "n2/1 masq")?;
            node.put(&base(81))?;
            all(node, "n2/1", "none")
        })?;
    }
    Ok(())
}

/// "LB Service without NodePort and change it".
#[test]
fn a_load_balancer_needs_no_node_port_and_may_get_one() -> Result<()> {
    on_both(|family, node| {
        let bare = service(family).load_balancer_ip(address::external(family, BALANCED));
        let mut bare = bare.external_local();
        bare.0["spec"]["allocateLoadBalancerNodePorts"] = json!(false);
        node.put_all(&[&bare, &slice(family, "svc", &["n1/0"])])?;
        let ext = outside(family);
        let balanced = ("LB", ext, External(BALANCED), 80, Tcp, "n1/0");
        let port = |expected| ("NodePort", ext, Node(1), NODE_PORT, Tcp, expected);
        check(node, family, &[balanced, port("none")])?;
        node.put(&bare.node_port(NODE_PORT))?;
        check(node, family, &[balanced, port("n1/0")])
    })
}

/// "change the type from ExternalName to ..." and back: nothing is left of what it was.
#[test]
fn an_external_name_leaves_nothing_and_becomes_anything() -> Result<()> {
    on_both(|family, node| {
        let endpoints = slice(family, "svc", &["n2/0"]);
        let alias = everywhere(family).external_name("example.test");
        let empty = node.rows();
        let ext = outside(family);
        node.put_all(&[&alias, &endpoints])?;
        ensure!(node.rows() == empty, "an ExternalName has rows");
        for object in [service(family), service(family).node_port(NODE_PORT), everywhere(family)] {
            node.put(&object)?;
            check(node, family, &[("served", CLIENT, Cluster(1), 80, Tcp, "n2/0")])?;
            if object.0["spec"]["type"] != "ClusterIP" {
                let row = ("served", ext, Node(1), NODE_PORT, Tcp, "n2/0 masq");
                check(node, family, &[row])?;
            }
            node.put(&alias)?;
            ensure!(node.rows() == empty, "{} rows are left", node.rows() - empty);
            let rows = [
                ("gone", CLIENT, Cluster(1), 80, Tcp, "none"),
                ("released", ext, Node(1), NODE_PORT, Tcp, "none"),
            ];
            check(node, family, &rows)?;
        }
        Ok(())
    })
}

/// "IPv6DualStack": a family is served if the Service has a ClusterIP of it, first or second.
#[test]
fn single_and_dual_stack_services() -> Result<()> {
    use Family::{V4, V6};
    for families in [&[V4][..], &[V6], &[V4, V6], &[V6, V4]] {
        let mut node = simulation()?;
        let mut object = Service::new("svc");
        for family in families {
            object = object.cluster_ip(address::service(*family, 1));
        }
        node.put(&object.port("main", "TCP", 80).node_port(NODE_PORT))?;
        for family in FAMILIES {
            node.put(&slice(family, "svc", &["n2/0"]))?;
        }
        for family in FAMILIES {
            let has = families.contains(&family);
            let (inner, outer) = if has { ("n2/0", "n2/0 masq") } else { ("none", "none") };
            let rows = [
                ("ClusterIP", CLIENT, Cluster(1), 80, Tcp, inner),
                ("NodePort", outside(family), Node(1), NODE_PORT, Tcp, outer),
            ];
            check(&node, family, &rows).with_context(|| format!("{families:?}"))?;
        }
    }
    Ok(())
}

/// "target all nodes with endpoints", "only target nodes with endpoints": each node its own, under
/// policy Local.
#[test]
fn every_node_with_an_endpoint_serves_its_own() -> Result<()> {
    for family in FAMILIES {
        for (number, expected) in [(1, "n1/0"), (2, "n2/0"), (3, "DROP")] {
            let mut node = Simulation::new(number, Policy::default())?;
            let local = everywhere(family).external_local();
            node.put_all(&[&local, &slice(family, "svc", &["n1/0", "n2/0"])])?;
            let ext = outside(family);
            let rows = [
                ("LB", ext, External(BALANCED), 80, Tcp, expected),
                ("NodePort", ext, Node(number), NODE_PORT, Tcp, expected),
            ];
            check(&node, family, &rows)?;
        }
    }
    Ok(())
}

/// "named targetPorts resolving to different ports per endpoint": the pods swap them.
#[test]
fn endpoints_with_different_ports_swap_them() -> Result<()> {
    on_both(|family, node| {
        node.put(&service(family))?;
        let place = |name: &str, port: u16, pod: &str| {
            let name = format!("svc-{name}");
            Slice::new(&name, "svc", family)
                .port("main", "TCP", port)
                .endpoints(endpoints(family, &[pod]))
        };
        let row = |expected| ("by name", CLIENT, Cluster(1), 80, Tcp, expected);
        node.put_all(&[&place("a", 8081, "n1/0"), &place("b", 8082, "n2/0")])?;
        check(node, family, &[row("n1/0:8081 n2/0:8082")])?;
        node.put_all(&[&place("a", 8081, "n2/0"), &place("b", 8082, "n1/0")])?;
        check(node, family, &[row("n1/0:8082 n2/0:8081")])
    })
}

/// An endpoint that the slice controller publishes for a Service with `publishNotReadyAddresses`:
/// always ready, also while it terminates.
fn published(family: Family, place: &str, terminating: bool) -> Endpoint {
    let node = place.split_once('/').map_or("", |(node, _)| node);
    let mut endpoint = Endpoint::ready(place_address(family, place), node);
    endpoint.0["conditions"] = json!({"ready": true, "serving": false, "terminating": terminating});
    endpoint
}

/// "create endpoints for unready pods", "(not) connect to terminating+unready endpoints": what
/// counts is what the slices say, at the ClusterIP and at the NodePorts of both nodes.
#[test]
fn pods_are_served_while_slices_say_that_they_are_ready() -> Result<()> {
    for family in FAMILIES {
        for number in [1, 2] {
            let mut node = Simulation::new(number, Policy::default())?;
            let object = service(family).node_port(NODE_PORT);
            node.put(&object)?;
            let mut after = |endpoint: Endpoint, inner, outer| {
                node.put(&slice(family, "svc", &[]).endpoint(endpoint))?;
                let rows = [
                    ("ClusterIP", CLIENT, Cluster(1), 80, Tcp, inner),
                    ("NodePort", outside(family), Node(number), NODE_PORT, Tcp, outer),
                    ("NodePort", Sender::Node, Node(number), NODE_PORT, Tcp, outer),
                ];
                check(&node, family, &rows)
            };
            let unready = Endpoint::unready(place_address(family, "n1/0"), "n1");
            let gone = Endpoint::gone(place_address(family, "n1/0"), "n1");
            after(published(family, "n1/0", false), "n1/0", "n1/0 masq")?;
            after(published(family, "n1/0", true), "n1/0", "n1/0 masq")?;
            after(unready, "REJECT", "REJECT")?;
            after(gone, "REJECT", "REJECT")?;
            after(published(family, "n1/0", true), "n1/0", "n1/0 masq")?;
        }
    }
    Ok(())
}

/// An endpoint with its zone and the hints that the slice controller gives it.
fn hinted(family: Family, place: &str, zone: &str, for_nodes: bool) -> Endpoint {
    let node = place.split_once('/').map_or("", |(node, _)| node);
    let endpoint = Endpoint::ready(place_address(family, place), node).zone(zone, &[zone]);
    if for_nodes { endpoint.for_nodes(&[node]) } else { endpoint }
}

/// Zones of the nodes.
const ZONES: [&str; 5] = ["a", "a", "b", "b", "c"];

fn check_nodes(endpoints: &[Endpoint], family: Family, expected: [&'static str; 5]) -> Result<()> {
    for (number, expected) in (1..).zip(expected) {
        let mut node = Simulation::new(number, Policy::default())?;
        node.in_zone(Some(ZONES[usize::from(number) - 1]))?;
        let slice = slice(family, "svc", &[]).endpoints(endpoints.to_vec());
        node.put_all(&[&service(family), &slice])?;
        check(&node, family, &[("hinted", CLIENT, Cluster(1), 80, Tcp, expected)])
            .with_context(|| node.name())?;
    }
    Ok(())
}

/// "PreferClose / PreferSameZone: multi-node", "distribute endpoints evenly": zones with endpoints
/// use their own, the one without uses all.
#[test]
fn zones_of_several_nodes_keep_to_themselves() -> Result<()> {
    for family in FAMILIES {
        let at = |place, zone| hinted(family, place, zone, false);
        let (a, b) = ("n1/0 n2/0", "n3/0");
        let all = [at("n1/0", "a"), at("n2/0", "a"), at("n3/0", "b")];
        check_nodes(&all, family, [a, a, b, b, "n1/0 n2/0 n3/0"])?;
        check_nodes(&all[..1], family, ["n1/0"; 5])?;
    }
    Ok(())
}

/// "PreferSameNode traffic distribution": the node, else the zone, else all; and as endpoints come
/// and go.
#[test]
fn nodes_keep_to_themselves_then_to_their_zone() -> Result<()> {
    for family in FAMILIES {
        let at = |place, zone| hinted(family, place, zone, true);
        let all = [at("n1/0", "a"), at("n2/0", "a"), at("n3/0", "b")];
        let everybody = "n1/0 n2/0 n3/0";
        check_nodes(&all, family, ["n1/0", "n2/0", "n3/0", "n3/0", everybody])?;
        // n2's is gone: its zone's; and back.
        let [first, second, third] = all;
        let without = [first.clone(), third.clone()];
        check_nodes(&without, family, ["n1/0", "n1/0", "n3/0", "n3/0", "n1/0 n3/0"])?;
        check_nodes(&[first, second, third], family, ["n1/0", "n2/0", "n3/0", "n3/0", everybody])?;
    }
    Ok(())
}

/// "pod-Service sctp", "endpoint-Service sctp", "node-Service sctp" as far as it is served: packets
/// whose port need not change.
#[test]
fn sctp_is_served_where_its_port_need_not_change() -> Result<()> {
    on_both(|family, node| {
        let object = Service::new("svc").cluster_ip(address::service(family, 1));
        let object = object.port("same", "SCTP", 8080).port("other", "SCTP", 8081);
        let ports = Slice::new("svc-sctp", "svc", family).port("same", "SCTP", 8080);
        let ports = ports.port("other", "SCTP", 8080);
        node.put_all(&[&object, &ports.endpoints(endpoints(family, &["n1/0", "n2/0"]))])?;
        let rows = [
            ("pod", CLIENT, Cluster(1), 8080, Sctp, "n1/0 n2/0"),
            ("outside", outside(family), Cluster(1), 8080, Sctp, "n1/0 n2/0 masq"),
            ("another port", CLIENT, Cluster(1), 8081, Sctp, "DROP"),
        ];
        check(node, family, &rows)
    })
}

/// "apiserver.go: kubernetes service": its endpoints are hosts.
#[test]
fn the_kubernetes_service_leads_to_hosts() -> Result<()> {
    on_both(|family, node| {
        let api = Service::new("kubernetes").namespace("default");
        let api = api.cluster_ip(address::service(family, 1)).port("https", "TCP", 443);
        let slice = Slice::new("kubernetes", "kubernetes", family).namespace("default");
        let hosts = endpoints(family, &["n1/host", "n2/host", "n3/host"]);
        // As the API server writes them: without the name of a node.
        let hosts = hosts.into_iter().map(|mut host| {
            host.0["nodeName"] = json!(null);
            host
        });
        node.put_all(&[&api, &slice.port("https", "TCP", 6443).endpoints(hosts)])?;
        let (hosts, masqueraded) = (
            "n1/host:6443 n2/host:6443 n3/host:6443",
            "n1/host:6443 n2/host:6443 n3/host:6443 masq",
        );
        let rows = [
            ("pod", CLIENT, Cluster(1), 443, Tcp, hosts),
            ("node", Sender::Node, Cluster(1), 443, Tcp, masqueraded),
        ];
        check(node, family, &rows)
    })
}
