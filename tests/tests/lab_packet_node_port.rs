//! NodePorts from outside the node, where only packets can be translated.

use std::net::SocketAddr;

use anyhow::Result;
use millrace_tests::lab::{Builder, Family, InterNode, Lab, PodNetwork, address};
use millrace_tests::manifest::{Endpoint, Service};
use millrace_tests::probe::Server;
use millrace_tests::world::{
    Client, TARGET_PORT, World, answers, reach, reach_by, rejected, seen_as, silent, sticks,
};

/// NodePorts: of every endpoint, of this node's endpoints only, of a Service without endpoints.
const CLUSTER: u16 = 30080;
const LOCAL: u16 = 30081;
const EMPTY: u16 = 30082;

fn two_nodes() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b")
}

/// Three Services; the Local one has an endpoint on n1 only.
fn serve(world: &World) -> Result<()> {
    world.service("web", 1, &["n1/a", "n2/b"], |service| service.node_port_for_all(CLUSTER))?;
    let local = |service: Service| service.node_port_for_all(LOCAL).external_local();
    world.service("local", 2, &["n1/a"], local)?;
    world.service("none", 3, &[], |service| service.node_port_for_all(EMPTY))?;
    Ok(())
}

fn node_port(world: &World, node: &str, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(world.lab.node(node).address(family), port)
}

fn work_from_outside(network: PodNetwork, inter: InterNode) -> Result<()> {
    let world = World::new(two_nodes().pod_network(network).inter_node(inter))?;
    serve(&world)?;
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        for node in ["n1", "n2"] {
            let at = |port| node_port(&world, node, family, port);
            reach(outside, at(CLUSTER), &["a", "b"])?;
            seen_as(outside, at(CLUSTER), &world.lab.node(node).own_addresses(family))?;
            rejected(outside, at(EMPTY))?;
        }
        reach(outside, node_port(&world, "n1", family, LOCAL), &["a"])?;
        let own = address::outside(family);
        seen_as(outside, node_port(&world, "n1", family, LOCAL), &[own])?;
        silent(outside, node_port(&world, "n2", family, LOCAL))?;
    }
    Ok(())
}

#[test]
fn node_ports_from_outside_with_bridges_and_routes() -> Result<()> {
    work_from_outside(PodNetwork::Bridge, InterNode::Direct)
}

#[test]
fn node_ports_from_outside_with_bridges_and_vxlan() -> Result<()> {
    work_from_outside(PodNetwork::Bridge, InterNode::Vxlan)
}

#[test]
fn node_ports_from_outside_with_point_to_point_pods_and_routes() -> Result<()> {
    work_from_outside(PodNetwork::PointToPoint, InterNode::Direct)
}

#[test]
fn node_ports_from_outside_with_point_to_point_pods_and_vxlan() -> Result<()> {
    work_from_outside(PodNetwork::PointToPoint, InterNode::Vxlan)
}

/// "support eTP=Local for NodePort", "work from pods": clients that are not outside.
#[test]
fn local_external_policy_knows_its_own_pods_from_strangers() -> Result<()> {
    let world = World::new(two_nodes())?;
    serve(&world)?;
    let local = |service: Service| service.node_port_for_all(LOCAL + 10).external_local();
    world.service("far", 4, &["n2/b"], local)?;
    let pod = world.lab.pod("n1", "client");
    let (vm, host) = (pod.as_vm(), world.lab.node("n1").agent_place());
    for &family in world.lab.families() {
        // A pod of this node is short-circuited to every endpoint, and keeps its address.
        let own = node_port(&world, "n1", family, LOCAL + 10);
        reach(&vm, own, &["b"])?;
        seen_as(&vm, own, &[pod.address(family)])?;
        // To the other node they are strangers.
        let there = node_port(&world, "n2", family, LOCAL + 10);
        seen_as(&vm, there, &[pod.address(family)])?;
        seen_as(host, there, &[world.lab.node("n1").address(family)])?;
        silent(&vm, node_port(&world, "n2", family, LOCAL))?;
        silent(host, node_port(&world, "n2", family, LOCAL))?;
        // Cluster masquerades them all.
        let masqueraded = world.lab.node("n2").own_addresses(family);
        seen_as(&vm, node_port(&world, "n2", family, CLUSTER), &masqueraded)?;
        let masqueraded = world.lab.node("n1").own_addresses(family);
        seen_as(&vm, node_port(&world, "n1", family, CLUSTER), &masqueraded)?;
    }
    Ok(())
}

/// "service endpoints using hostNetwork"
#[test]
fn backends_on_the_hosts_network() -> Result<()> {
    let mut world = World::new(two_nodes())?;
    for node in ["n1", "n2"] {
        let host = world.lab.node(node).clone();
        world.serve(&host, node, TARGET_PORT)?;
    }
    for (index, node) in [(1, "n1"), (2, "n2")] {
        let port = CLUSTER + index;
        world.service(node, index, &[], |service| service.node_port_for_all(port))?;
        for &family in world.lab.families() {
            let endpoint = Endpoint::ready(world.lab.node(node).address(family), node);
            world.apply(&world.empty_slice(node, family).endpoint(endpoint))?;
        }
    }
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        // What never leaves the node is never masqueraded.
        let here = node_port(&world, "n1", family, CLUSTER + 1);
        reach(outside, here, &["n1"])?;
        seen_as(outside, here, &[address::outside(family)])?;
        let there = node_port(&world, "n1", family, CLUSTER + 2);
        reach(outside, there, &["n2"])?;
        seen_as(outside, there, &[world.lab.node("n1").address(family)])?;
    }
    Ok(())
}

/// An address of the node that serves no NodePorts is a host's like any other.
#[test]
fn only_listed_addresses_serve_node_ports() -> Result<()> {
    let listed = ["--nodeport-addresses=192.168.50.210/32,fd50::210/128"];
    for (flags, primary, second) in [(&[][..], "a", "host"), (&listed[..], "host", "a")] {
        let mut world = World::with_flags(Lab::builder().pod("n1", "a"), flags)?;
        let n1 = world.lab.node("n1").clone();
        let more = ["192.168.50.210/24", "fd50::210/64"];
        n1.ip(&more.map(|address| format!("addr add {address} dev eth0 nodad")))?;
        world.serve(&n1, "host", CLUSTER)?;
        serve_one(&world)?;
        for (family, other) in [(Family::V4, "192.168.50.210"), (Family::V6, "fd50::210")] {
            let outside = world.lab.outside();
            reach(outside, node_port(&world, "n1", family, CLUSTER), &[primary])?;
            reach(outside, SocketAddr::new(other.parse()?, CLUSTER), &[second])?;
        }
    }
    Ok(())
}

fn serve_one(world: &World) -> Result<Service> {
    world.service("web", 1, &["n1/a"], |service| service.node_port_for_all(CLUSTER))
}

/// "NodePort and HealthCheckNodePort when eTP changes", the NodePort's part; then its release.
#[test]
fn changes_of_a_node_port_service_are_followed() -> Result<()> {
    let world = World::new(two_nodes())?;
    let service = serve_one(&world)?;
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        let [here, there] = ["n1", "n2"].map(|node| node_port(&world, node, family, CLUSTER));
        reach(outside, there, &["a"])?;
        world.apply(&service.clone().external_local())?;
        silent(outside, there)?;
        seen_as(outside, here, &[address::outside(family)])?;
        world.apply(&service)?;
        seen_as(outside, here, &world.lab.node("n1").own_addresses(family))?;
        reach(outside, there, &["a"])?;
        // Endpoints come and go, and all of them go.
        world.apply(&world.slice("web", &["n1/a", "n2/b"], family))?;
        reach(outside, here, &["a", "b"])?;
        world.apply(&world.slice("web", &["n2/b"], family))?;
        reach(outside, here, &["b"])?;
        world.apply(&world.empty_slice("web", family))?;
        rejected(outside, here)?;
        world.apply(&world.slice("web", &["n1/a"], family))?;
    }
    // "release NodePorts on delete": the host's own process gets its port back.
    let n1 = world.lab.node("n1");
    let _server = Server::start(n1, "host", &[CLUSTER], &[CLUSTER])?;
    for &family in world.lab.families() {
        reach(outside, node_port(&world, "n1", family, CLUSTER), &["a"])?;
    }
    world.delete(&service)?;
    for &family in world.lab.families() {
        reach(outside, node_port(&world, "n1", family, CLUSTER), &["host"])?;
    }
    Ok(())
}

/// "fallback to (local) terminating endpoints", from outside.
#[test]
fn fallback_to_terminating_endpoints() -> Result<()> {
    let world = World::new(two_nodes())?;
    serve(&world)?;
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        let a = world.pod_address("n1/a", family);
        for service in ["web", "local"] {
            let slice = world.empty_slice(service, family);
            world.apply(&slice.endpoint(Endpoint::terminating(a, "n1")))?;
        }
        reach(outside, node_port(&world, "n1", family, CLUSTER), &["a"])?;
        reach(outside, node_port(&world, "n2", family, CLUSTER), &["a"])?;
        reach(outside, node_port(&world, "n1", family, LOCAL), &["a"])?;
        silent(outside, node_port(&world, "n2", family, LOCAL))?;
        // A pod is a stranger to any node but its own.
        let (pod, there) = (world.lab.pod("n1", "client"), node_port(&world, "n2", family, LOCAL));
        silent(&pod.as_vm(), there)?;
        silent(pod, there)?;
    }
    Ok(())
}

#[test]
fn a_node_port_is_of_one_protocol() -> Result<()> {
    let world = World::new(Lab::builder().pod("n1", "a"))?;
    let _server = Server::start(world.lab.node("n1"), "host", &[], &[CLUSTER])?;
    world.service("web", 1, &["n1/a"], |mut service| {
        service = service.node_port(CLUSTER + 1);
        service.0["spec"]["ports"][0]["nodePort"] = CLUSTER.into();
        service
    })?;
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        let at = |port| node_port(&world, "n1", family, port);
        reach_by(Client::Tcp, outside, at(CLUSTER), &["a"])?;
        reach_by(Client::Udp, outside, at(CLUSTER), &["host"])?;
        reach_by(Client::Udp, outside, at(CLUSTER + 1), &["a"])?;
    }
    Ok(())
}

/// "session affinity NodePort"
#[test]
fn clients_outside_stick_to_an_endpoint() -> Result<()> {
    const TIMES: usize = 16;
    let builder = Lab::builder().nodes(2).pods("n1", &["a", "b"]).pods("n2", &["c", "d"]);
    let world = World::new(builder)?;
    let pods = ["n1/a", "n1/b", "n2/c", "n2/d"];
    let sticky = |service: Service| service.node_port_for_all(CLUSTER).affinity(600);
    let service = world.service("web", 1, &pods, sticky)?;
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        let at = node_port(&world, "n1", family, CLUSTER);
        answers(outside, at)?;
        for client in Client::ALL {
            sticks(client, outside, at, TIMES)?;
        }
    }
    // "switch session affinity NodePort"
    let mut spread = service;
    spread.0["spec"]["sessionAffinity"] = "None".into();
    world.apply(&spread)?;
    for &family in world.lab.families() {
        reach(outside, node_port(&world, "n1", family, CLUSTER), &["a", "b", "c", "d"])?;
    }
    Ok(())
}
