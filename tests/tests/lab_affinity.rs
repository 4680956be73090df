//! ClientIP session affinity (7.1, 7.2): sticks, expires, switches, per client and per port.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use millrace_tests::lab::{Builder, Family, Lab};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{Client, World, cluster_ip, reach, reach_by, sticks};

const NODE_PORT: u16 = 30080;
/// The upstream test's number of identical answers.
const STICKY_DIALS: usize = 15;

fn three_backends() -> Builder {
    let builder = Lab::builder().nodes(2).pods("n1", &["client", "other", "a"]);
    builder.pods("n2", &["b", "c"])
}

const PODS: [&str; 3] = ["n1/a", "n2/b", "n2/c"];
const NAMES: [&str; 3] = ["a", "b", "c"];

#[test]
fn session_affinity_for_cluster_ip_and_node_port() -> Result<()> {
    let world = World::new(three_backends())?;
    world.service("web", 1, &PODS, |service| service.node_port(NODE_PORT).affinity(10800))?;
    let (pod, n1) = (world.lab.pod("n1", "client"), world.lab.node("n1"));
    for &family in world.lab.families() {
        let (to, node) = (cluster_ip(family, 1), SocketAddr::new(n1.address(family), NODE_PORT));
        for place in [&**pod, &**n1] {
            wait::until_true("an answer", CHANGE_TIMEOUT, || {
                Client::Tcp.dial_briefly(place, to).is_ok_and(|outcome| outcome.ok)
            })?;
            sticks(Client::Tcp, place, to, STICKY_DIALS)?;
            let udp = sticks(Client::Udp, place, to, STICKY_DIALS)?;
            ensure!(sticks(Client::UdpConnected, place, to, STICKY_DIALS)? == udp);
            // ClusterIP and NodePort of one port share the client's choice.
            ensure!(sticks(Client::Udp, place, node, STICKY_DIALS)? == udp);
        }
    }
    Ok(())
}

#[test]
fn clients_are_told_apart_by_their_network_namespace() -> Result<()> {
    let world = World::new(three_backends())?;
    // Fifteen services, two pods: equal choices throughout would be a chance of 1 in 3^15.
    let mut choices = [Vec::new(), Vec::new()];
    for index in 1..=15 {
        world.service(&format!("web-{index}"), index, &PODS, |service| service.affinity(600))?;
    }
    for index in 1..=15 {
        let to = cluster_ip(Family::V4, index);
        for (choice, name) in choices.iter_mut().zip(["client", "other"]) {
            let pod = world.lab.pod("n1", name);
            wait::until_true("an answer", CHANGE_TIMEOUT, || {
                Client::Tcp.dial_briefly(pod, to).is_ok_and(|outcome| outcome.ok)
            })?;
            choice.push(sticks(Client::Tcp, pod, to, 4)?);
        }
    }
    ensure!(choices[0] != choices[1], "both pods chose {:?}", choices[0]);
    Ok(())
}

#[test]
fn switch_session_affinity() -> Result<()> {
    let world = World::new(three_backends())?;
    let plain = world.service("web", 1, &PODS, |service| service)?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        world.apply(&plain)?;
        reach(client, to, &NAMES)?;
        world.apply(&plain.clone().affinity(600))?;
        wait::until("the clients to stick", CHANGE_TIMEOUT, || {
            sticks(Client::Tcp, client, to, STICKY_DIALS)
        })?;
        world.apply(&plain)?;
        reach(client, to, &NAMES)?;
    }
    Ok(())
}

#[test]
fn session_affinity_times_out_after_the_last_new_connection() -> Result<()> {
    let world = World::new(three_backends())?;
    const TIMEOUT: Duration = Duration::from_secs(1);
    world.service("web", 1, &PODS, |service| service.affinity(TIMEOUT.as_secs() as u32))?;
    let client = world.lab.pod("n1", "client");
    let to = cluster_ip(Family::V4, 1);
    wait::until_true("an answer", CHANGE_TIMEOUT, || {
        Client::Tcp.dial_briefly(client, to).is_ok_and(|outcome| outcome.ok)
    })?;
    // Every dial re-arms the timer: the choice holds for longer than the timeout.
    let start = std::time::Instant::now();
    let first = sticks(Client::Tcp, client, to, 1)?;
    while start.elapsed() < TIMEOUT * 2 {
        ensure!(sticks(Client::Tcp, client, to, 3)? == first, "the choice changed while in use");
    }
    // Idle for longer than the timeout, a new choice is made; 1 in 3^8 that it never differs.
    let mut seen = BTreeSet::new();
    for _ in 0..8 {
        // The passing of time is the condition here; there is nothing else to wait for.
        std::thread::sleep(TIMEOUT + Duration::from_millis(200));
        seen.insert(sticks(Client::Tcp, client, to, 1)?);
        if seen.len() > 1 {
            return Ok(());
        }
    }
    anyhow::bail!("the choice {seen:?} outlived its timeout")
}

#[test]
fn affinity_leaves_with_its_endpoint() -> Result<()> {
    let world = World::new(three_backends())?;
    world.service("web", 1, &PODS, |service| service.affinity(600))?;
    let client = world.lab.pod("n1", "client");
    let to = cluster_ip(Family::V4, 1);
    wait::until_true("an answer", CHANGE_TIMEOUT, || {
        Client::Tcp.dial_briefly(client, to).is_ok_and(|outcome| outcome.ok)
    })?;
    let first = sticks(Client::Tcp, client, to, STICKY_DIALS)?;
    let rest: Vec<&str> = PODS.into_iter().filter(|path| path[3..] != first).collect();
    world.apply(&world.slice("web", &rest, Family::V4))?;
    let next = wait::until("another choice", CHANGE_TIMEOUT, || {
        let next = sticks(Client::Tcp, client, to, STICKY_DIALS)?;
        ensure!(next != first, "still {first}");
        Ok(next)
    })?;
    // The old endpoint's return does not take the client back.
    world.apply(&world.slice("web", &PODS, Family::V4))?;
    world.service("canary", 2, &["n1/a"], |service| service)?;
    reach_by(Client::Tcp, client, cluster_ip(Family::V4, 2), &["a"])?;
    ensure!(sticks(Client::Tcp, client, to, STICKY_DIALS)? == next);
    Ok(())
}

/// KEP-6032: a NodePort on loopback, and the same choice as by any other of the Service's
/// addresses.
#[test]
fn clients_stick_by_loopback_too() -> Result<()> {
    let world = World::new(three_backends())?;
    world.service("web", 1, &PODS, |service| service.node_port_for_all(NODE_PORT).affinity(600))?;
    let n1 = world.lab.node("n1");
    for &family in world.lab.families() {
        let loopback = SocketAddr::new(family.loopback(), NODE_PORT);
        let node = SocketAddr::new(n1.address(family), NODE_PORT);
        for client in [Client::Tcp, Client::UdpConnected] {
            wait::until_true("an answer", CHANGE_TIMEOUT, || {
                client.dial_briefly(n1, loopback).is_ok_and(|outcome| outcome.ok)
            })?;
            let chosen = sticks(client, n1, loopback, STICKY_DIALS)?;
            ensure!(sticks(client, n1, node, STICKY_DIALS)? == chosen);
        }
    }
    Ok(())
}
