//! NodePort, externalIPs and load balancer addresses, from clients on the node and in its pods.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::lab::{Builder, Family, Lab, Place, address};
use millrace_tests::manifest::Service;
use millrace_tests::probe::{self, Server};
use millrace_tests::world::{
    Client, TARGET_PORT, World, cluster_ip, reach, reach_by, refused, unreachable,
};

const TCP_PORT: u16 = 30080;
const UDP_PORT: u16 = 30053;
/// The Service's port that only TCP has; the NodePort of its UDP twin differs.
const SERVICE_PORT: u16 = 80;

fn two_nodes() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b")
}

/// TCP gets one NodePort, UDP another, as a Service with two ports has them.
fn with_node_ports(mut service: Service) -> Service {
    service = service.node_port(UDP_PORT);
    service.0["spec"]["ports"][0]["nodePort"] = TCP_PORT.into();
    service
}

fn reach_both(client: &Place, ip: std::net::IpAddr, servers: &[&str]) -> Result<()> {
    reach_by(Client::Tcp, client, SocketAddr::new(ip, TCP_PORT), servers)?;
    reach_by(Client::Udp, client, SocketAddr::new(ip, UDP_PORT), servers)?;
    reach_by(Client::UdpConnected, client, SocketAddr::new(ip, UDP_PORT), servers)
}

#[test]
fn create_a_functioning_node_port_service() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], with_node_ports)?;
    let n1 = world.lab.node("n1");
    for &family in world.lab.families() {
        let clients: [&Place; 3] = [world.lab.pod("n1", "client"), n1, world.lab.pod("n1", "a")];
        for client in clients {
            reach(client, cluster_ip(family, 1), &["a", "b"])?;
            reach_both(client, n1.address(family), &["a", "b"])?;
        }
    }
    Ok(())
}

/// What an agent has counted for a Service, all its ports together.
fn opened(world: &mut World, service: &str) -> Result<u64> {
    let services = world.agent("n1").services_json()?;
    let all = services.as_array().context("a list")?;
    let of = all.iter().filter(|entry| entry["name"] == service);
    of.map(|entry| entry["opened"].as_u64().with_context(|| entry.to_string())).sum()
}

/// And the Service's counts grow with every connection, as KubeProxyNFAcct's do.
#[test]
fn node_ports_answer_on_the_nodes_loopback() -> Result<()> {
    const DIALS: usize = 10;
    let mut world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], with_node_ports)?;
    for family in world.lab.families().to_vec() {
        reach_both(world.lab.node("n1"), family.loopback(), &["a", "b"])?;
        let before = opened(&mut world, "web")?;
        let to = SocketAddr::new(family.loopback(), TCP_PORT);
        let outcomes = Client::Tcp.dial(world.lab.node("n1"), to, DIALS)?;
        ensure!(outcomes.iter().all(|outcome| outcome.ok), "{outcomes:?}");
        let after = opened(&mut world, "web")?;
        ensure!(after == before + DIALS as u64, "{before}, after {DIALS} more {after}");
    }
    Ok(())
}

/// "allow creating a basic SCTP service with pod and endpoints": whoever has no use for SCTP should
/// not get its module.
#[test]
fn an_sctp_service_loads_no_module() -> Result<()> {
    let is_loaded = || -> Result<bool> {
        let protocols = std::fs::read_to_string("/proc/net/protocols")?;
        Ok(protocols.lines().any(|line| line.starts_with("SCTP")))
    };
    let before = is_loaded()?;
    let world = World::new(two_nodes())?;
    let sctp = |service: Service| service.port("sctp", "SCTP", TARGET_PORT).node_port(TCP_PORT);
    world.service("web", 1, &[], sctp)?;
    for &family in world.lab.families() {
        let slice = world.slice("web", &["n1/a"], family).port("sctp", "SCTP", TARGET_PORT);
        world.apply(&slice)?;
        // The Service is in force: its other ports answer.
        reach(world.lab.pod("n1", "client"), cluster_ip(family, 1), &["a"])?;
    }
    ensure!(is_loaded()? == before, "the module sctp was loaded");
    Ok(())
}

#[test]
fn a_pods_loopback_is_its_own() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n2/b"], with_node_ports)?;
    let pod = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        reach_both(pod, world.lab.node("n1").address(family), &["b"])?;
        let own = SocketAddr::new(family.loopback(), TCP_PORT);
        let outcome = &Client::Tcp.dial(pod, own, 1)?[0];
        ensure!(outcome.error.as_deref() == Some("ECONNREFUSED"), "nobody listens: {outcome:?}");
        let _server = Server::start(pod, "own", &[TCP_PORT], &[UDP_PORT])?;
        reach_both(pod, family.loopback(), &["own"])?;
    }
    Ok(())
}

#[test]
fn release_node_ports_on_delete() -> Result<()> {
    let world = World::new(two_nodes())?;
    let service = world.service("web", 1, &["n1/a"], with_node_ports)?;
    let n1 = world.lab.node("n1");
    let at = SocketAddr::new(n1.address(Family::V4), TCP_PORT);
    reach_by(Client::Tcp, n1, at, &["a"])?;
    // The port is not held by a socket: a host process may bind it, and gets it back.
    let _server = Server::start(n1, "host", &[TCP_PORT], &[])?;
    reach_by(Client::Tcp, n1, at, &["a"])?;
    world.delete(&service)?;
    reach_by(Client::Tcp, n1, at, &["host"])
}

#[test]
fn update_type_to_node_port_same_port_different_protocols() -> Result<()> {
    let world = World::new(two_nodes())?;
    let mut service = world.service("web", 1, &["n1/a", "n2/b"], |service| service)?;
    let n1 = world.lab.node("n1");
    let node = SocketAddr::new(n1.address(Family::V4), TCP_PORT);
    reach(n1, cluster_ip(Family::V4, 1), &["a", "b"])?;
    service.0["spec"]["type"] = "NodePort".into();
    for (index, client) in [(0, Client::Tcp), (1, Client::Udp)] {
        service.0["spec"]["ports"][index]["nodePort"] = TCP_PORT.into();
        world.apply(&service)?;
        reach_by(client, n1, node, &["a", "b"])?;
    }
    reach(n1, node, &["a", "b"])?;
    reach(n1, cluster_ip(Family::V4, 1), &["a", "b"])?;
    // "change NodePort to ExternalName"
    world.apply(&service.external_name("example.test"))?;
    unreachable(n1, node)?;
    unreachable(n1, cluster_ip(Family::V4, 1))
}

#[test]
fn connect_via_external_ip_when_it_is_not_assigned_to_a_node() -> Result<()> {
    let world = World::new(two_nodes())?;
    let families = world.lab.families();
    let external = |family| address::external(family, 250);
    world.service("web", 1, &["n1/a", "n2/b"], |service| {
        families.iter().fold(service, |service, &f| service.external_ip(external(f)))
    })?;
    world.service("none", 2, &[], |service| {
        let ip = |f| address::external(f, 251);
        families.iter().fold(service, |service, &f| service.external_ip(ip(f)))
    })?;
    for &family in families {
        let clients: [&Place; 2] = [world.lab.pod("n1", "client"), world.lab.node("n1")];
        for client in clients {
            let at = |ip| SocketAddr::new(ip, SERVICE_PORT);
            reach(client, at(external(family)), &["a", "b"])?;
            refused(client, at(address::external(family, 251)))?;
        }
    }
    Ok(())
}

#[test]
fn load_balancer_addresses_work_from_pods_and_nodes() -> Result<()> {
    let world = World::new(two_nodes())?;
    let families = world.lab.families();
    world.service("web", 1, &["n1/a", "n2/b"], |service| {
        let service = families
            .iter()
            .fold(service, |service, &f| service.load_balancer_ip(address::external(f, 10)));
        families
            .iter()
            .fold(service, |service, &f| service.load_balancer_proxy(address::external(f, 11)))
    })?;
    for &family in families {
        let clients: [&Place; 2] = [world.lab.pod("n1", "client"), world.lab.node("n1")];
        for client in clients {
            let at = |index| SocketAddr::new(address::external(family, index), SERVICE_PORT);
            reach(client, at(10), &["a", "b"])?;
            // "same port with different protocol on type LoadBalancer (internal traffic)"
            reach(client, cluster_ip(family, 1), &["a", "b"])?;
            // ipMode Proxy: the node leaves it to the load balancer, which this lab lacks.
            unreachable(client, at(11))?;
        }
    }
    Ok(())
}

#[test]
fn local_external_policy_short_circuits_pods_and_the_node() -> Result<()> {
    let world = World::new(two_nodes())?;
    // Both endpoints are on the other node, so the Local list here is empty.
    world.service("web", 1, &["n2/b"], |service| {
        with_node_ports(service)
            .external_local()
            .load_balancer_ip(address::external(Family::V4, 10))
    })?;
    let client = world.lab.pod("n1", "client");
    let vip = SocketAddr::new(address::external(Family::V4, 10), SERVICE_PORT);
    reach(client, vip, &["b"])?;
    reach_both(client, world.lab.node("n1").address(Family::V4), &["b"])?;
    reach_both(world.lab.node("n1"), world.lab.node("n1").address(Family::V4), &["b"])?;
    // "work from pods": the backend sees the pod's address.
    let outcome = &probe::tcp(client, vip, 1)?[0];
    ensure!(outcome.seen.map(|seen| seen.ip()) == Some(client.address(Family::V4)), "{outcome:?}");
    Ok(())
}

#[test]
fn node_ports_without_endpoints_refuse() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("none", 1, &[], |mut service| {
        for port in [0, 1] {
            service.0["spec"]["ports"][port]["nodePort"] = TCP_PORT.into();
        }
        service.0["spec"]["type"] = "NodePort".into();
        service
    })?;
    let n1 = world.lab.node("n1");
    for &family in world.lab.families() {
        let clients: [&Place; 2] = [world.lab.pod("n1", "client"), n1];
        for client in clients {
            refused(client, SocketAddr::new(n1.address(family), TCP_PORT))?;
        }
        refused(n1, SocketAddr::new(family.loopback(), TCP_PORT))?;
    }
    Ok(())
}
