//! ClusterIPs for clients that sockets do not cover: virtual machines in pods, pods of a node
//! whose agent leaves sockets alone, machines outside that are routed to a node.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use millrace_tests::lab::{Builder, Family, InterNode, Lab, Place, PodNetwork, address};
use millrace_tests::manifest::{self, Endpoint, Service};
use millrace_tests::probe::Held;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::wire::Wire;
use millrace_tests::world::{
    Client, TARGET_PORT, World, answers, cluster_ip, reach, reach_by, rejected, seen_as, silent,
    sticks,
};

/// Leaves every pod to the packet path.
const NO_SOCKETS: &[&str] = &["--socket-lb=off"];
/// A port that no Service here has.
const UNUSED_PORT: u16 = 81;
/// A port of a client.
const CLIENT_PORT: u16 = 5555;
/// A ClusterIP that no Service has.
const UNALLOCATED: u16 = 999;

fn two_nodes() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b")
}

/// The client pod as a virtual machine, and the outside client routed to n1 for ClusterIPs.
fn strangers(world: &World) -> Result<[Place; 2]> {
    for &family in world.lab.families() {
        world.route_to("n1", address::service_cidr(family), family)?;
    }
    Ok([world.lab.pod("n1", "client").as_vm(), world.lab.outside().clone()])
}

/// "preserve source pod IP for traffic thru service cluster IP", same node and across nodes, and
/// "allow pods to hairpin back to themselves through services".
fn serves_pods(network: PodNetwork, inter: InterNode) -> Result<()> {
    for flags in [&[][..], NO_SOCKETS] {
        let builder = two_nodes().pod_network(network).inter_node(inter);
        let world = World::with_flags(builder, flags)?;
        world.service("web", 1, &["n1/a", "n2/b"], |service| service)?;
        world.service("here", 2, &["n1/a"], |service| service)?;
        world.service("there", 3, &["n2/b"], |service| service)?;
        // Where sockets are translated, only what looks like a machine is left to packets.
        let place = |node: &str, name: &str| {
            let pod = world.lab.pod(node, name);
            if flags.is_empty() { pod.as_vm() } else { (**pod).clone() }
        };
        let (client, a) = (place("n1", "client"), place("n1", "a"));
        for &family in world.lab.families() {
            reach(&client, cluster_ip(family, 1), &["a", "b"])?;
            let own = [world.lab.pod("n1", "client").address(family)];
            seen_as(&client, cluster_ip(family, 2), &own)?;
            seen_as(&client, cluster_ip(family, 3), &own)?;
            reach(&a, cluster_ip(family, 2), &["a"])?;
            seen_as(&a, cluster_ip(family, 2), &world.lab.node("n1").own_addresses(family))?;
            reach(&a, cluster_ip(family, 1), &["a", "b"])?;
        }
    }
    Ok(())
}

#[test]
fn cluster_ips_for_pods_on_bridges_with_routes() -> Result<()> {
    serves_pods(PodNetwork::Bridge, InterNode::Direct)
}

#[test]
fn cluster_ips_for_pods_on_bridges_with_vxlan() -> Result<()> {
    serves_pods(PodNetwork::Bridge, InterNode::Vxlan)
}

#[test]
fn cluster_ips_for_point_to_point_pods_with_routes() -> Result<()> {
    serves_pods(PodNetwork::PointToPoint, InterNode::Direct)
}

#[test]
fn cluster_ips_for_point_to_point_pods_with_vxlan() -> Result<()> {
    serves_pods(PodNetwork::PointToPoint, InterNode::Vxlan)
}

/// What a socket hook has translated is no frontend any more: both paths work at once.
#[test]
fn sockets_and_packets_do_not_meet() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], |service| service)?;
    let pod = world.lab.pod("n1", "client");
    let [vm, outside] = strangers(&world)?;
    for &family in world.lab.families() {
        for client in [pod, world.lab.node("n1") as &Place, &vm, &outside] {
            reach(client, cluster_ip(family, 1), &["a", "b"])?;
        }
        seen_as(pod, cluster_ip(family, 1), &[pod.address(family)])?;
    }
    Ok(())
}

/// "external -> ClusterIP (routed in)": masqueraded, so that the answer comes back this way.
/// A flow that is over does not take the answers of a direct connection with its client's port.
#[test]
fn a_port_serves_again_for_a_direct_connection() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n2/b"], |service| service)?;
    let pod = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        reach(pod, to, &["b"])?;
        let from = SocketAddr::new(pod.address(family), CLIENT_PORT);
        let (held, first) = Held::open_from(&pod.as_vm(), "tcp", to, from)?;
        ensure!(first.ok, "{first:?}");
        drop(held);
        // By its socket the pod is connected to the backend itself.
        let (mut held, _) = Held::open_from(pod, "tcp", to, from)?;
        let answered = held.send()?;
        ensure!(answered.who() == "b" && answered.seen == Some(from), "{answered:?}");
    }
    Ok(())
}

#[test]
fn cluster_ips_from_outside_are_masqueraded() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], |service| service)?;
    let [_, outside] = strangers(&world)?;
    for &family in world.lab.families() {
        reach(&outside, cluster_ip(family, 1), &["a", "b"])?;
        seen_as(&outside, cluster_ip(family, 1), &world.lab.node("n1").own_addresses(family))?;
    }
    Ok(())
}

#[test]
fn backends_on_the_hosts_network() -> Result<()> {
    let mut world = World::new(two_nodes())?;
    for (index, node) in [(1, "n1"), (2, "n2")] {
        let host = world.lab.node(node).clone();
        world.serve(&host, node, TARGET_PORT)?;
        world.service(node, index, &[], |service| service)?;
        for &family in world.lab.families() {
            let endpoint = Endpoint::ready(host.address(family), node);
            world.apply(&world.empty_slice(node, family).endpoint(endpoint))?;
        }
    }
    let pod = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        for (index, node) in [(1, "n1"), (2, "n2")] {
            reach(&pod.as_vm(), cluster_ip(family, index), &[node])?;
            seen_as(&pod.as_vm(), cluster_ip(family, index), &[pod.address(family)])?;
        }
    }
    Ok(())
}

/// "be rejected when no endpoints exist", and what a ClusterIP does not have.
#[test]
fn what_a_cluster_ip_does_not_have_is_rejected() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], |service| service)?;
    world.service("none", 2, &[], |service| service)?;
    let clients = strangers(&world)?;
    for &family in world.lab.families() {
        for client in &clients {
            reach(client, cluster_ip(family, 1), &["a", "b"])?;
            rejected(client, SocketAddr::new(address::service(family, 1), UNUSED_PORT))?;
            rejected(client, cluster_ip(family, 2))?;
        }
        // And the endpoints of a Service that loses them, and gets one back.
        world.apply(&world.empty_slice("web", family))?;
        rejected(&clients[0], cluster_ip(family, 1))?;
        world.apply(&world.slice("web", &["n2/b"], family))?;
        reach(&clients[0], cluster_ip(family, 1), &["b"])?;
    }
    Ok(())
}

/// "connections to a nonexistent service in the service CIDR are dropped": not sent to the world.
#[test]
fn unallocated_cluster_ips_are_dropped() -> Result<()> {
    let world = World::new(two_nodes())?;
    let [vm, outside] = strangers(&world)?;
    let mut uplink = Wire::open(world.lab.node("n1"), "eth0")?;
    let mut leaves = |client: &Place, to: SocketAddr| -> Result<bool> {
        uplink.forget()?;
        let outcome = Client::UdpConnected.dial_briefly(client, to)?;
        ensure!(!outcome.ok, "{outcome:?}");
        Ok(uplink.seen()?.iter().any(|seen| seen.outgoing && seen.to() == to))
    };
    for &family in world.lab.families() {
        for client in [&vm, &outside] {
            ensure!(leaves(client, cluster_ip(family, UNALLOCATED))?, "nobody knows the range yet");
        }
    }
    world.apply(&manifest::service_cidr(world.lab.families()))?;
    for &family in world.lab.families() {
        for client in [&vm, &outside] {
            wait::until("an unallocated ClusterIP to be dropped", CHANGE_TIMEOUT, || {
                ensure!(!leaves(client, cluster_ip(family, UNALLOCATED))?, "it leaves the node");
                Ok(())
            })?;
        }
    }
    // A Service that gets the address is served.
    world.service("web", UNALLOCATED, &["n1/a"], |service| service)?;
    for &family in world.lab.families() {
        reach(&vm, cluster_ip(family, UNALLOCATED), &["a"])?;
    }
    Ok(())
}

/// "C endpoints on same port and different protocols", "serve multiport endpoints from pods"
#[test]
fn ports_and_protocols_are_told_apart() -> Result<()> {
    let mut world = World::new(two_nodes())?;
    let a = world.lab.pod("n1", "a").clone();
    world.serve(&a, "second", TARGET_PORT + 1)?;
    let mut service = Service::new("web");
    for &family in world.lab.families() {
        service = service.cluster_ip(address::service(family, 1));
        let slice = world.slice("web", &["n1/a"], family);
        world.apply(&slice.port("other", "TCP", TARGET_PORT + 1))?;
    }
    world.apply(&service.port("main", "TCP", 80).port("other", "TCP", UNUSED_PORT))?;
    let vm = world.lab.pod("n1", "client").as_vm();
    for &family in world.lab.families() {
        let at = |port| SocketAddr::new(address::service(family, 1), port);
        reach_by(Client::Tcp, &vm, at(80), &["a"])?;
        reach_by(Client::Tcp, &vm, at(UNUSED_PORT), &["second"])?;
        wait::until("UDP to be rejected", CHANGE_TIMEOUT, || {
            let outcome = Client::UdpConnected.dial_briefly(&vm, at(80))?;
            ensure!(outcome.error.as_deref() == Some("ECONNREFUSED"), "{outcome:?}");
            Ok(())
        })?;
    }
    Ok(())
}

/// "respect iTP=Local Pod to Pod", "fallback to local terminating, iTP=Local"
#[test]
fn internal_policy_local_is_silent_without_an_endpoint_here() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a"], Service::internal_local)?;
    let [here, there] = [("n1", "client"), ("n2", "b")].map(|(n, p)| world.lab.pod(n, p).as_vm());
    for &family in world.lab.families() {
        for terminating in [false, true] {
            reach(&here, cluster_ip(family, 1), &["a"])?;
            silent(&there, cluster_ip(family, 1))?;
            if !terminating {
                let a = world.pod_address("n1/a", family);
                let slice = world.empty_slice("web", family);
                world.apply(&slice.endpoint(Endpoint::terminating(a, "n1")))?;
            }
        }
        world.apply(&world.empty_slice("web", family))?;
        rejected(&there, cluster_ip(family, 1))?;
    }
    Ok(())
}

/// "session affinity ClusterIP": by the client's address, whatever it dials with.
#[test]
fn machines_stick_to_an_endpoint() -> Result<()> {
    const TIMES: usize = 16;
    let builder = Lab::builder().pods("n1", &["client", "a", "b", "c", "d"]);
    let world = World::new(builder)?;
    let pods = ["n1/a", "n1/b", "n1/c", "n1/d"];
    world.service("web", 1, &pods, |service| service.affinity(600))?;
    let vm = world.lab.pod("n1", "client").as_vm();
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        answers(&vm, to)?;
        for client in Client::ALL {
            sticks(client, &vm, to, TIMES)?;
        }
    }
    Ok(())
}

/// Which clients of a ClusterIP keep their address, by the agent's settings.
#[test]
fn masquerade_follows_the_settings() -> Result<()> {
    let cluster = ["--detect-local-mode=ClusterCIDR", "--cluster-cidr=10.244.0.0/16,fd00:244::/48"];
    // A pod that the detector takes for a stranger is masqueraded.
    let foreign = ["--detect-local-mode=ClusterCIDR", "--cluster-cidr=10.1.0.0/16,fd00:1::/48"];
    let table: [(&[&str], bool); 5] = [
        (&[], true),
        (&["--masquerade-all"], false),
        (&cluster, true),
        (&foreign, false),
        (&["--detect-local-mode=NodeCIDR"], true),
    ];
    for (flags, keeps) in table {
        let world = World::with_flags(two_nodes(), &[NO_SOCKETS, flags].concat())?;
        world.service("web", 1, &["n2/b"], |service| service)?;
        let [_, outside] = strangers(&world)?;
        let pod = world.lab.pod("n1", "client");
        for family in [Family::V4, Family::V6] {
            let masqueraded = world.lab.node("n1").own_addresses(family);
            let own = vec![pod.address(family)];
            let wanted = if keeps { &own } else { &masqueraded };
            seen_as(pod, cluster_ip(family, 1), wanted)?;
            seen_as(&outside, cluster_ip(family, 1), &masqueraded)?;
        }
    }
    Ok(())
}
