//! Which endpoints serve whom: traffic policies, terminating endpoints, topology (7.1, 7.6).

use std::net::SocketAddr;

use anyhow::Result;
use millrace_tests::lab::{Builder, Lab, Place};
use millrace_tests::manifest::{Endpoint, Service};
use millrace_tests::world::{Client, World, cluster_ip, reach, reach_by, refused, unreachable};

const NODE_PORT: u16 = 30080;

fn two_nodes() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a"]).pods("n2", &["client2", "b"])
}

fn clients(world: &World, node: &str) -> [Place; 2] {
    let pod = if node == "n1" { "client" } else { "client2" };
    [(**world.lab.pod(node, pod)).clone(), (**world.lab.node(node)).clone()]
}

#[test]
fn respect_internal_traffic_policy_local() -> Result<()> {
    let mut world = World::new(two_nodes())?;
    world.service("pods", 1, &["n1/a"], Service::internal_local)?;
    // "Pod and Node to hostNetwork Pod"
    let host = world.lab.node("n1").clone();
    world.serve(&host, "host", 8080)?;
    world.service("hosts", 2, &[], Service::internal_local)?;
    for &family in world.lab.families() {
        let endpoint = Endpoint::ready(host.address(family), "n1");
        world.apply(&world.empty_slice("hosts", family).endpoint(endpoint))?;
        for client in clients(&world, "n1") {
            reach(&client, cluster_ip(family, 1), &["a"])?;
            reach(&client, cluster_ip(family, 2), &["host"])?;
        }
        for client in clients(&world, "n2") {
            unreachable(&client, cluster_ip(family, 1))?;
            unreachable(&client, cluster_ip(family, 2))?;
        }
        // No endpoint anywhere is a refusal, not silence.
        world.apply(&world.empty_slice("pods", family))?;
        for client in clients(&world, "n2") {
            refused(&client, cluster_ip(family, 1))?;
        }
    }
    Ok(())
}

#[test]
fn fallback_to_terminating_endpoints_with_cluster_policies() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &[], |service| service.node_port(NODE_PORT))?;
    for &family in world.lab.families() {
        let [a, b] = ["n1/a", "n2/b"].map(|path| world.pod_address(path, family));
        let slice = world.empty_slice("web", family).endpoint(Endpoint::terminating(a, "n1"));
        world.apply(&slice)?;
        for node in ["n1", "n2"] {
            let own = SocketAddr::new(world.lab.node(node).address(family), NODE_PORT);
            for client in clients(&world, node) {
                reach(&client, cluster_ip(family, 1), &["a"])?;
                reach_by(Client::Udp, &client, own, &["a"])?;
            }
        }
        // A ready endpoint anywhere ends the fallback.
        world.apply(&slice.endpoint(Endpoint::ready(b, "n2")))?;
        for client in clients(&world, "n1") {
            reach(&client, cluster_ip(family, 1), &["b"])?;
        }
    }
    Ok(())
}

#[test]
fn fallback_to_local_terminating_endpoints_with_internal_policy_local() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &[], Service::internal_local)?;
    for &family in world.lab.families() {
        let address = world.pod_address("n1/a", family);
        let slice = world.empty_slice("web", family);
        world.apply(&slice.endpoint(Endpoint::terminating(address, "n1")))?;
        reach(&clients(&world, "n1")[0], cluster_ip(family, 1), &["a"])?;
        unreachable(&clients(&world, "n2")[0], cluster_ip(family, 1))?;
    }
    Ok(())
}

#[test]
fn only_ready_endpoints_serve_and_unready_ones_return() -> Result<()> {
    // "create endpoints for unready pods", "zero downtime Blue/Green with readiness gates"
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], |service| service)?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        let [a, b] = ["n1/a", "n2/b"].map(|path| world.pod_address(path, family));
        reach(client, to, &["a", "b"])?;
        let slice = || world.empty_slice("web", family);
        let blue = [Endpoint::ready(a, "n1"), Endpoint::unready(b, "n2")];
        world.apply(&slice().endpoints(blue))?;
        reach(client, to, &["a"])?;
        let green = [Endpoint::terminating(a, "n1"), Endpoint::ready(b, "n2")];
        world.apply(&slice().endpoints(green))?;
        reach(client, to, &["b"])?;
        let none = [Endpoint::unready(a, "n1"), Endpoint::unready(b, "n2")];
        world.apply(&slice().endpoints(none))?;
        refused(client, to)?;
    }
    Ok(())
}

fn three_zones() -> Result<World> {
    let builder = Lab::builder().nodes(3).pods("n1", &["client1", "a"]);
    let builder = builder.pods("n2", &["client2", "b"]).pod("n3", "client3");
    World::with_zones(builder, &[("n1", "z1"), ("n2", "z2"), ("n3", "z3")])
}

#[test]
fn prefer_same_zone() -> Result<()> {
    let world = three_zones()?;
    world.service("web", 1, &[], |service| service)?;
    for &family in world.lab.families() {
        let [a, b] = ["n1/a", "n2/b"].map(|path| world.pod_address(path, family));
        let hinted = [
            Endpoint::ready(a, "n1").zone("z1", &["z1"]),
            Endpoint::ready(b, "n2").zone("z2", &["z2"]),
        ];
        world.apply(&world.empty_slice("web", family).endpoints(hinted.clone()))?;
        let to = cluster_ip(family, 1);
        reach(world.lab.pod("n1", "client1"), to, &["a"])?;
        reach(world.lab.pod("n2", "client2"), to, &["b"])?;
        // No endpoint for z3: it uses all.
        reach(world.lab.pod("n3", "client3"), to, &["a", "b"])?;
        // One endpoint without a hint switches the hints off for everybody.
        let [first, _] = hinted;
        let mixed = [first, Endpoint::ready(b, "n2")];
        world.apply(&world.empty_slice("web", family).endpoints(mixed))?;
        reach(world.lab.pod("n1", "client1"), to, &["a", "b"])?;
    }
    Ok(())
}

#[test]
fn prefer_same_node_and_fall_back() -> Result<()> {
    let world = three_zones()?;
    world.service("web", 1, &[], |service| service)?;
    for &family in world.lab.families() {
        let [a, b] = ["n1/a", "n2/b"].map(|path| world.pod_address(path, family));
        let both = [
            Endpoint::ready(a, "n1").zone("z1", &["z1"]).for_nodes(&["n1"]),
            Endpoint::ready(b, "n2").zone("z2", &["z2", "z3"]).for_nodes(&["n2"]),
        ];
        let slice = world.empty_slice("web", family);
        world.apply(&slice.clone().endpoints(both.clone()))?;
        let to = cluster_ip(family, 1);
        reach(world.lab.pod("n1", "client1"), to, &["a"])?;
        reach(world.lab.pod("n2", "client2"), to, &["b"])?;
        reach(world.lab.pod("n3", "client3"), to, &["b"])?;
        // "fall back when endpoint unavailable", and back again
        let [_, only] = both.clone();
        world.apply(&slice.clone().endpoint(only))?;
        reach(world.lab.pod("n1", "client1"), to, &["b"])?;
        world.apply(&slice.endpoints(both))?;
        reach(world.lab.pod("n1", "client1"), to, &["a"])?;
    }
    Ok(())
}
