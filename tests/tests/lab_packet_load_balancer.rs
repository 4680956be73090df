//! Load balancers' addresses and externalIPs, from clients that sockets do not cover, and source
//! ranges for all.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::lab::{Builder, Family, Lab, Place, address};
use millrace_tests::load::Loads;
use millrace_tests::manifest::{Endpoint, Service};
use millrace_tests::probe::Held;
use millrace_tests::wire::Wire;
use millrace_tests::world::{
    Client, World, cluster_ip, reach, reach_by, rejected, seen_as, silent, unreachable,
};

const PORT: u16 = 80;
const NODE_PORT: u16 = 30080;
/// Last numbers of the external addresses: a load balancer's, an externalIP, a load balancer's
/// that works as a proxy.
const BALANCED: u8 = 10;
const EXTERNAL: u8 = 20;
const PROXIED: u8 = 30;
/// The source port of a client that keeps it.
const SOURCE_PORT: u16 = 5555;

fn two_nodes() -> Builder {
    Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b")
}

fn at(family: Family, index: u8) -> SocketAddr {
    SocketAddr::new(address::external(family, index), PORT)
}

/// Gives the Service all kinds of external addresses, in both families.
fn with_addresses(service: Service) -> Service {
    [Family::V4, Family::V6].into_iter().fold(service, |service, family| {
        let address = |index| address::external(family, index);
        let service = service.load_balancer_ip(address(BALANCED)).external_ip(address(EXTERNAL));
        service.load_balancer_proxy(address(PROXIED))
    })
}

/// Sends what is for the external addresses to a node, as a router told by BGP would.
fn route(world: &World, node: &str) -> Result<()> {
    for &family in world.lab.families() {
        for index in [BALANCED, EXTERNAL, PROXIED] {
            world.route_to(node, address::external(family, index), family)?;
        }
    }
    Ok(())
}

#[test]
fn external_addresses_work_from_outside() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], with_addresses)?;
    route(&world, "n1")?;
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        for index in [BALANCED, EXTERNAL] {
            reach(outside, at(family, index), &["a", "b"])?;
            seen_as(outside, at(family, index), &world.lab.node("n1").own_addresses(family))?;
        }
    }
    world.apply(&world.empty_slice("web", Family::V4))?;
    world.apply(&world.empty_slice("web", Family::V6))?;
    for &family in world.lab.families() {
        for index in [BALANCED, EXTERNAL] {
            rejected(outside, at(family, index))?;
        }
    }
    Ok(())
}

/// "eTP Local: work for type=LoadBalancer", "work from pods"
#[test]
fn local_external_policy_keeps_clients_addresses() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a"], |service| with_addresses(service).external_local())?;
    let outside = world.lab.outside();
    let pod = world.lab.pod("n2", "b");
    for (node, served) in [("n1", true), ("n2", false)] {
        route(&world, node)?;
        for &family in world.lab.families() {
            for index in [BALANCED, EXTERNAL] {
                if served {
                    reach(outside, at(family, index), &["a"])?;
                    seen_as(outside, at(family, index), &[address::outside(family)])?;
                } else {
                    silent(outside, at(family, index))?;
                    // Pods of that node are short-circuited.
                    seen_as(&pod.as_vm(), at(family, index), &[pod.address(family)])?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn external_addresses_work_from_pods_that_no_hook_sees() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], with_addresses)?;
    let vm = world.lab.pod("n1", "client").as_vm();
    for &family in world.lab.families() {
        for index in [BALANCED, EXTERNAL] {
            reach(&vm, at(family, index), &["a", "b"])?;
            seen_as(&vm, at(family, index), &world.lab.node("n1").own_addresses(family))?;
        }
    }
    Ok(())
}

/// `ipMode: Proxy`: packets leave the node as they came.
#[test]
fn addresses_of_proxies_are_left_to_them() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], with_addresses)?;
    route(&world, "n1")?;
    let (outside, vm) = (world.lab.outside(), world.lab.pod("n1", "client").as_vm());
    for &family in world.lab.families() {
        reach(outside, at(family, BALANCED), &["a", "b"])?;
        let mut uplink = Wire::open(world.lab.node("n1"), "eth0")?;
        for client in [outside, &vm] {
            uplink.forget()?;
            let outcome = Client::Tcp.dial_briefly(client, at(family, PROXIED))?;
            ensure!(!outcome.ok, "{outcome:?}");
            uplink.expect("the packet as it came", |seen| {
                seen.outgoing && seen.to() == at(family, PROXIED)
            })?;
        }
    }
    Ok(())
}

/// An address that is also on one of the node's devices, as MetalLB's, keepalived's and GCE's are.
#[test]
fn an_address_bound_on_the_node_is_served() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], with_addresses)?;
    route(&world, "n1")?;
    for &family in world.lab.families() {
        let (ip, bits) = (address::external(family, BALANCED), family.bits());
        world.lab.node("n1").ip(&[format!("addr add {ip}/{bits} dev lo")])?;
        reach(world.lab.outside(), at(family, BALANCED), &["a", "b"])?;
    }
    Ok(())
}

#[test]
fn external_ips_can_be_switched_off() -> Result<()> {
    let world = World::with_flags(two_nodes(), &["--external-ips=off"])?;
    world.service("web", 1, &["n1/a", "n2/b"], with_addresses)?;
    route(&world, "n1")?;
    for &family in world.lab.families() {
        reach(world.lab.outside(), at(family, BALANCED), &["a", "b"])?;
        let outcome = Client::Tcp.dial_briefly(world.lab.outside(), at(family, EXTERNAL))?;
        ensure!(!outcome.ok, "{outcome:?}");
    }
    Ok(())
}

/// Who may use a load balancer's address: the outside client, a pod, a pod that no hook sees, the
/// node itself.
fn clients(world: &World) -> [(&'static str, Place); 4] {
    let pod = world.lab.pod("n1", "client");
    [
        ("outside", world.lab.outside().clone()),
        ("pod", (**pod).clone()),
        ("pod", pod.as_vm()),
        ("node", (**world.lab.node("n1")).clone()),
    ]
}

fn admits(world: &World, family: Family, admitted: &[&str]) -> Result<()> {
    for (who, place) in clients(world) {
        if admitted.contains(&who) {
            reach(&place, at(family, BALANCED), &["a", "b"])?;
        } else {
            silent(&place, at(family, BALANCED))?;
        }
    }
    Ok(())
}

/// "only allow access from source ranges"
#[test]
fn only_source_ranges_are_admitted() -> Result<()> {
    const ALL: &[&str] = &["outside", "pod", "node"];
    let world = World::new(two_nodes())?;
    let service = world.service("web", 1, &["n1/a", "n2/b"], |service| {
        with_addresses(service).node_port_for_all(NODE_PORT)
    })?;
    route(&world, "n1")?;
    for &family in world.lab.families() {
        let one = |address: IpAddr| format!("{address}/{}", family.bits());
        let halves = match family {
            Family::V4 => ["0.0.0.0/1", "128.0.0.0/1"],
            Family::V6 => ["::/1", "8000::/1"],
        };
        let pod = one(world.lab.pod("n1", "client").address(family));
        let node = one(world.lab.node("n1").address(family));
        let outside = one(address::outside(family));
        let table: [(Vec<String>, &[&str]); 5] = [
            (vec![], ALL),
            (vec![pod.clone(), node], &["pod", "node"]),
            (vec![outside], &["outside"]),
            (halves.map(str::to_owned).to_vec(), ALL),
            (vec![one(address::external(family, 99))], &[]),
        ];
        for (ranges, admitted) in table {
            world.apply(&service.clone().source_ranges(&ranges))?;
            admits(&world, family, admitted)?;
        }
        // They are of the load balancer's addresses only.
        for (_, place) in clients(&world) {
            reach(&place, at(family, EXTERNAL), &["a", "b"])?;
        }
        let node = SocketAddr::new(world.lab.node("n1").address(family), NODE_PORT);
        reach(world.lab.outside(), node, &["a", "b"])?;
        reach(&clients(&world)[2].1, cluster_ip(family, 1), &["a", "b"])?;
        // A stranger is not told that there is nobody; an admitted client is.
        world.apply(&service.clone().source_ranges(&[pod]))?;
        world.apply(&world.empty_slice("web", family))?;
        rejected(&clients(&world)[2].1, at(family, BALANCED))?;
        silent(world.lab.outside(), at(family, BALANCED))?;
        world.apply(&world.slice("web", &["n1/a", "n2/b"], family))?;
    }
    Ok(())
}

/// Ranges of one family leave the other open.
#[test]
fn source_ranges_of_one_family_do_not_close_the_other() -> Result<()> {
    let world = World::new(two_nodes())?;
    world.service("web", 1, &["n1/a", "n2/b"], |service| {
        with_addresses(service).source_ranges(&["198.51.100.0/24".to_owned()])
    })?;
    route(&world, "n1")?;
    reach(world.lab.outside(), at(Family::V6, BALANCED), &["a", "b"])?;
    silent(world.lab.outside(), at(Family::V4, BALANCED))
}

/// Ranges are asked once per connection.
#[test]
fn tighter_source_ranges_do_not_cut_connections() -> Result<()> {
    let world = World::new(two_nodes())?;
    let service = world.service("web", 1, &["n1/a", "n2/b"], with_addresses)?;
    route(&world, "n1")?;
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        reach(outside, at(family, BALANCED), &["a", "b"])?;
        let (mut held, first) = Held::open(outside, "tcp", at(family, BALANCED))?;
        ensure!(first.ok && held.send()?.ok, "{first:?}");
        let nobody = format!("{}/{}", address::external(family, 99), family.bits());
        world.apply(&service.clone().source_ranges(&[nobody]))?;
        silent(outside, at(family, BALANCED))?;
        let still = held.send()?;
        ensure!(still.ok, "{still:?}");
        world.apply(&service)?;
    }
    Ok(())
}

/// "be able to change the type and ports of a service", TCP and UDP, from a client outside.
#[test]
fn a_load_balancer_comes_changes_and_goes() -> Result<()> {
    let world = World::new(two_nodes())?;
    let plain = world.service("web", 1, &["n1/a"], |service| service)?;
    route(&world, "n1")?;
    let (outside, pod) = (world.lab.outside(), world.lab.pod("n1", "client"));
    for &family in world.lab.families() {
        let node = |port| SocketAddr::new(world.lab.node("n1").address(family), port);
        let balanced = |port| SocketAddr::new(address::external(family, BALANCED), port);
        reach(pod, cluster_ip(family, 1), &["a"])?;
        world.apply(&plain.clone().node_port_for_all(NODE_PORT))?;
        reach(outside, node(NODE_PORT), &["a"])?;
        let mut service = with_addresses(plain.clone().node_port_for_all(NODE_PORT));
        world.apply(&service)?;
        reach(outside, balanced(PORT), &["a"])?;
        service = service.node_port_for_all(NODE_PORT + 1);
        world.apply(&service)?;
        reach(outside, node(NODE_PORT + 1), &["a"])?;
        unreachable(outside, node(NODE_PORT))?;
        for port in service.0["spec"]["ports"].as_array_mut().context("ports")? {
            port["port"] = (PORT + 1).into();
        }
        world.apply(&service)?;
        reach(outside, balanced(PORT + 1), &["a"])?;
        // No pods, then another one.
        world.apply(&world.empty_slice("web", family))?;
        rejected(outside, balanced(PORT + 1))?;
        rejected(outside, node(NODE_PORT + 1))?;
        world.apply(&world.slice("web", &["n2/b"], family))?;
        reach(outside, balanced(PORT + 1), &["b"])?;
        world.apply(&plain)?;
        // Not before the end: the node sends what is not its own to the gateway, and tells the
        // client to do so itself from now on.
        unreachable(outside, balanced(PORT + 1))?;
        unreachable(outside, node(NODE_PORT + 1))?;
        reach(pod, cluster_ip(family, 1), &["b"])?;
        world.apply(&world.slice("web", &["n1/a"], family))?;
    }
    Ok(())
}

/// "preserve UDP traffic when server pod cycles", on different nodes and on the same one.
#[test]
fn udp_follows_the_pods_behind_a_load_balancer() -> Result<()> {
    let builder = Lab::builder().nodes(2).pods("n1", &["client", "a", "c"]).pod("n2", "b");
    let world = World::new(builder)?;
    world.service("web", 1, &["n1/a"], with_addresses)?;
    route(&world, "n1")?;
    let outside = world.lab.outside();
    for &family in world.lab.families() {
        let to = at(family, BALANCED);
        world.apply(&world.slice("web", &["n1/a"], family))?;
        reach_by(Client::Udp, outside, to, &["a"])?;
        let from = SocketAddr::new(address::outside(family), SOURCE_PORT);
        let (mut held, _) = Held::open_from(outside, "udp", to, from)?;
        ensure!(held.send()?.who() == "a");
        for (pod, server) in [("n2/b", "b"), ("n1/c", "c"), ("n1/a", "a")] {
            world.apply(&world.slice("web", &[pod], family))?;
            reach_by(Client::Udp, outside, to, &[server])?;
            let next = held.send()?;
            ensure!(next.who() == server && next.source == Some(to), "{next:?}");
        }
    }
    Ok(())
}

/// What the slice controller says while a Deployment goes from one pod to another, step by step.
fn rollout(world: &World, family: Family, [old, new]: [&str; 2]) -> Vec<Vec<Endpoint>> {
    let of = |path: &str, make: fn(IpAddr, &str) -> Endpoint| {
        make(world.pod_address(path, family), &path[..2])
    };
    vec![
        vec![of(old, Endpoint::ready), of(new, Endpoint::unready)],
        vec![of(old, Endpoint::ready), of(new, Endpoint::ready)],
        vec![of(old, Endpoint::terminating), of(new, Endpoint::ready)],
        vec![of(old, Endpoint::gone), of(new, Endpoint::ready)],
        vec![of(new, Endpoint::ready)],
        // Kubernetes replaces a DaemonSet's pods the other way round: for a moment there is only
        // one that terminates.
        vec![of(new, Endpoint::terminating)],
        vec![of(new, Endpoint::terminating), of(old, Endpoint::unready)],
    ]
}

/// "not have connectivity disruption during rolling update", policy Cluster and Local.
#[test]
fn rolling_updates_lose_no_connection() -> Result<()> {
    const PAUSE: Duration = Duration::from_millis(100);
    /// Room for every flow of the load.
    const MAPS: &[&str] = &["--max-services=2000", "--max-flows=200000", "--max-half-open=65536"];
    let builder = Lab::builder().nodes(2).pods("n1", &["client", "a", "c"]).pod("n2", "b");
    let mut world = World::without_agents(builder, &[])?;
    world.start_agents(MAPS)?;
    let plain = world.service("web", 1, &["n1/a"], with_addresses)?;
    route(&world, "n1")?;
    let outside = world.lab.outside();
    for (service, pods) in
        [(plain.clone(), ["n1/a", "n2/b"]), (plain.external_local(), ["n1/a", "n1/c"])]
    {
        for &family in world.lab.families() {
            world.apply(&world.slice("web", &pods[..1], family))?;
        }
        world.apply(&service)?;
        let mut loads = Loads::new();
        for &family in world.lab.families() {
            let to = at(family, BALANCED);
            reach(outside, to, &["a"])?;
            loads.add(outside, &["tcp", "udp-connected"], to)?;
        }
        for turn in [pods, [pods[1], pods[0]]] {
            for step in 0..rollout(&world, Family::V4, turn).len() {
                for &family in world.lab.families() {
                    let endpoints = rollout(&world, family, turn).swap_remove(step);
                    world.apply(&world.empty_slice("web", family).endpoints(endpoints))?;
                }
                // Load between the steps.
                std::thread::sleep(PAUSE);
            }
        }
        loads.stop(&world.lab)?;
    }
    Ok(())
}
