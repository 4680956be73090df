//! Beside others: reverse path filters, bridge netfilter, CNI plugins' source NAT, firewalls, two
//! uplinks. The node is as somebody else has set it up, and translated packets pass like others.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use millrace_tests::lab::{
    Builder, CniMasquerade, Family, Lab, Place, PodNetwork, ReversePath, address,
};
use millrace_tests::manifest::Service;
use millrace_tests::probe::{self, Outcome};
use millrace_tests::wire::{Seen, Wire};
use millrace_tests::world::{World, cluster_ip, reach, seen_as};

/// NodePorts: of every endpoint, of this node's endpoints only.
const CLUSTER: u16 = 30080;
const LOCAL: u16 = 30081;
/// Enough for several windows of segments, each way.
const BULK_BYTES: &str = "300000";

fn two_nodes() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b")
}

fn served(builder: Builder) -> Result<World> {
    let world = World::new(builder)?;
    let pods = ["n1/a", "n2/b"];
    world.service("web", 1, &pods, |service| service.node_port_for_all(CLUSTER))?;
    let local = |service: Service| service.node_port_for_all(LOCAL).external_local();
    world.service("local", 2, &["n1/a"], local)?;
    Ok(world)
}

fn node_port(world: &World, node: &str, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(world.lab.node(node).address(family), port)
}

fn bulk(client: &Place, to: SocketAddr) -> Result<()> {
    let arguments = ["connect", &to.to_string(), "--echo", BULK_BYTES, "--count", "2"];
    let outcomes: Vec<Outcome> = probe::run(client, &arguments)?;
    ensure!(outcomes.iter().all(|outcome| outcome.ok), "to {to}: {outcomes:?}");
    Ok(())
}

/// Every way that packets take: to a pod here, to a pod there, back to oneself; bulk on each.
fn works(world: &World) -> Result<()> {
    let outside = world.lab.outside();
    let client = world.lab.pod("n1", "client");
    let (vm, own) = (client.as_vm(), world.lab.pod("n1", "a").as_vm());
    for &family in world.lab.families() {
        for node in ["n1", "n2"] {
            let to = node_port(world, node, family, CLUSTER);
            reach(outside, to, &["a", "b"])?;
            bulk(outside, to)?;
        }
        let local = node_port(world, "n1", family, LOCAL);
        seen_as(outside, local, &[address::outside(family)])?;
        bulk(outside, local)?;
        reach(&vm, cluster_ip(family, 1), &["a", "b"])?;
        seen_as(&vm, cluster_ip(family, 1), &[client.address(family)])?;
        bulk(&vm, cluster_ip(family, 1))?;
        reach(&own, cluster_ip(family, 2), &["a"])?;
        // What is not translated passes as before.
        let direct = SocketAddr::new(world.pod_address("n2/b", family), 8080);
        reach(&vm, direct, &["b"])?;
    }
    Ok(())
}

/// One reverse path filter beside the other choices.
fn works_beside(filter: ReversePath) -> Result<()> {
    let masquerades = [None, Some(CniMasquerade::Outgoing), Some(CniMasquerade::Flannel)];
    for (row, masquerade) in masquerades.into_iter().enumerate() {
        // Over the three filters every pair of choices is there; all combinations would be four
        // times the labs.
        let turn = row + filter as usize;
        let networks = [PodNetwork::Bridge, PodNetwork::PointToPoint, PodNetwork::Bridge];
        let network = networks[turn % networks.len()];
        let bridged = turn.is_multiple_of(networks.len());
        let mut builder = two_nodes().pod_network(network).reverse_path(filter);
        builder = builder.bridge_netfilter(bridged);
        let half_seen = network == PodNetwork::Bridge && !bridged;
        if !half_seen {
            builder = builder.drop_invalid();
        }
        if let Some(masquerade) = masquerade {
            builder = builder.cni_masquerade(masquerade);
        }
        let beside = format!("{filter:?}, {masquerade:?}, {network:?}, bridge-nf {bridged}");
        let world = served(builder)?;
        works(&world).map_err(|error| error.context(beside.clone()))?;
        if !half_seen {
            nothing_was_invalid(&world).map_err(|error| error.context(beside))?;
        }
    }
    Ok(())
}

fn nothing_was_invalid(world: &World) -> Result<()> {
    for node in world.lab.nodes() {
        let invalid = node.invalid_packets()?;
        ensure!(invalid == 0, "{invalid} invalid packets on {}", node.name());
    }
    Ok(())
}

/// Without bridge netfilter an answer between two pods of one bridge is a frame that conntrack
/// does not see, while the request was routed: half a connection, which a firewall that drops
/// what is invalid cuts.
#[test]
fn beside_a_firewall_that_sees_half_of_bridged_connections() -> Result<()> {
    let world = served(two_nodes().bridge_netfilter(false).drop_invalid())?;
    works(&world)?;
    nothing_was_invalid(&world)
}

#[test]
fn beside_no_reverse_path_filter() -> Result<()> {
    works_beside(ReversePath::Off)
}

#[test]
fn beside_a_strict_reverse_path_filter() -> Result<()> {
    works_beside(ReversePath::Strict)
}

#[test]
fn beside_a_loose_reverse_path_filter() -> Result<()> {
    works_beside(ReversePath::Loose)
}

/// A host that lets in and through only what it knows: NodePorts need no hole, because packets
/// are the pods' before any chain sees them.
#[test]
fn beside_a_firewall_that_drops_by_default() -> Result<()> {
    const RULES: &str = "table inet admin {
        chain input {
            type filter hook input priority filter; policy drop;
            ct state established,related accept
            iifname lo accept
            meta l4proto { icmp, ipv6-icmp } accept
        }
        chain forward {
            type filter hook forward priority filter; policy drop;
            ct state established,related accept
            ct state invalid drop
            ip daddr 10.244.0.0/16 accept
            ip saddr 10.244.0.0/16 accept
            ip6 daddr fd00:244::/48 accept
            ip6 saddr fd00:244::/48 accept
        }
    }\n";
    for network in [PodNetwork::Bridge, PodNetwork::PointToPoint] {
        let world = served(two_nodes().pod_network(network))?;
        world.lab.nodes().iter().try_for_each(|node| node.nft(RULES))?;
        works(&world)?;
    }
    Ok(())
}

/// EKS: pods of a secondary interface are routed by their source. The answer to what came in by
/// the first uplink leaves by the first, whichever uplink the pod's own packets take; and so for
/// the second.
#[test]
fn answers_leave_by_the_uplink_the_request_came_in_on() -> Result<()> {
    for network in [PodNetwork::Bridge, PodNetwork::PointToPoint] {
        let builder = Lab::builder().pods("n1", &["client", "a", "b"]).second_uplink();
        let served_on = "--nodeport-addresses=192.168.50.0/23,fd50::/64,fd51::/64";
        let world = World::with_flags(builder.pod_network(network), &[served_on])?;
        world.lab.leave_by_second_uplink("n1", "b")?;
        let both = ["n1/a", "n1/b"];
        world.service("web", 1, &both, |service| service.node_port_for_all(CLUSTER))?;
        let local = |service: Service| service.node_port_for_all(LOCAL).external_local();
        world.service("local", 2, &both, local)?;
        let (n1, outside) = (world.lab.node("n1"), world.lab.outside());
        for &family in world.lab.families() {
            let first = (n1.address(family), address::outside(family), "eth1");
            let second = (n1.second_address(family), address::second_outside(family), "eth0");
            for (to, from, wrong) in [first, second] {
                let mut wrong = Wire::open(n1, wrong)?;
                for port in [CLUSTER, LOCAL] {
                    reach(outside, SocketAddr::new(to, port), &["a", "b"])?;
                    bulk(outside, SocketAddr::new(to, port))?;
                }
                let strays = |seen: &Seen| seen.outgoing && seen.target == from;
                wrong.expect_none("an answer", strays)?;
            }
            let vm = world.lab.pod("n1", "client").as_vm();
            reach(&vm, cluster_ip(family, 1), &["a", "b"])?;
        }
    }
    Ok(())
}
