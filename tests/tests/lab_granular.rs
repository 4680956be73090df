//! "Granular Checks: Services" (7.2, 7.3): every kind of client, every topology, both families.

use std::net::SocketAddr;

use anyhow::Result;
use millrace_tests::lab::{Families, Family, InterNode, Lab, Place, PodNetwork};
use millrace_tests::manifest::Endpoint;
use millrace_tests::world::{World, cluster_ip, reach};

const NODE_PORT: u16 = 30080;

fn granular(network: PodNetwork, inter: InterNode, families: Families) -> Result<()> {
    let builder = Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b");
    let builder = builder.pod_network(network).inter_node(inter).families(families);
    let mut world = World::new(builder)?;
    let host = world.lab.node("n2").clone();
    world.serve(&host, "host-n2", 7070)?;
    let pods = ["n1/a", "n2/b"];
    world.service("web", 1, &pods, |service| service.node_port(NODE_PORT))?;
    world.service("same", 2, &pods, |service| service)?;
    world.service("host", 3, &[], |service| service)?;
    for &family in world.lab.families() {
        host_network_endpoint(&world, family)?;
        let n1 = world.lab.node("n1");
        // pod-Service, node-Service, endpoint-Service (hairpin included)
        let clients: [&Place; 3] = [world.lab.pod("n1", "client"), n1, world.lab.pod("n1", "a")];
        for client in clients {
            reach(client, cluster_ip(family, 1), &["a", "b"])?;
            // "multiple endpoint-Services with same selector"
            reach(client, cluster_ip(family, 2), &["a", "b"])?;
            // The last port of the service is UDP: so is its NodePort.
            let port = SocketAddr::new(n1.address(family), NODE_PORT);
            let udp = millrace_tests::world::Client::Udp;
            millrace_tests::world::reach_by(udp, client, port, &["a", "b"])?;
            // "service endpoints using hostNetwork"
            reach(client, cluster_ip(family, 3), &["host-n2"])?;
        }
    }
    Ok(())
}

fn host_network_endpoint(world: &World, family: Family) -> Result<()> {
    let name = format!("host-{family}").to_lowercase();
    let slice = millrace_tests::manifest::Slice::new(&name, "host", family);
    let slice = slice.port("main", "TCP", 7070).port("main", "UDP", 7070);
    world.apply(&slice.endpoint(Endpoint::ready(world.lab.node("n2").address(family), "n2")))
}

#[test]
fn bridge_direct_dual_stack() -> Result<()> {
    granular(PodNetwork::Bridge, InterNode::Direct, Families::Dual)
}

#[test]
fn bridge_vxlan_dual_stack() -> Result<()> {
    granular(PodNetwork::Bridge, InterNode::Vxlan, Families::Dual)
}

#[test]
fn point_to_point_direct_dual_stack() -> Result<()> {
    granular(PodNetwork::PointToPoint, InterNode::Direct, Families::Dual)
}

#[test]
fn bridge_direct_ipv4_only() -> Result<()> {
    granular(PodNetwork::Bridge, InterNode::Direct, Families::V4)
}

#[test]
fn point_to_point_vxlan_ipv6_only() -> Result<()> {
    granular(PodNetwork::PointToPoint, InterNode::Vxlan, Families::V6)
}
