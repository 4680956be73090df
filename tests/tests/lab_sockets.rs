//! Sockets in the variety found in the wild, and what must stay untouched.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millrace_tests::lab::{Builder, Family, Lab, Place};
use millrace_tests::probe::{self, Held, Outcome};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{Client, TARGET_PORT, World, cluster_ip, reach, refused};

/// The guard comes with the change, or at the next tick of the agent.
const GUARD_TIMEOUT: Duration = Duration::from_secs(1);
/// A UDP client that keeps sending reaches the new server by then; the upstream test allows 60 s.
const CYCLE_LIMIT: Duration = Duration::from_secs(15);

/// Two services with one backend each, on different nodes.
fn two_services() -> Result<World> {
    let builder: Builder = Lab::builder().nodes(2).pods("n1", &["client", "a"]).pod("n2", "b");
    let world = World::new(builder)?;
    world.service("one", 1, &["n1/a"], |service| service)?;
    world.service("two", 2, &["n2/b"], |service| service)?;
    world.service("none", 3, &[], |service| service)?;
    for &family in world.lab.families() {
        reach(world.lab.pod("n1", "client"), cluster_ip(family, 1), &["a"])?;
        reach(world.lab.pod("n1", "client"), cluster_ip(family, 2), &["b"])?;
        refused(world.lab.pod("n1", "client"), cluster_ip(family, 3))?;
    }
    Ok(world)
}

fn run(world: &World, arguments: &[&str]) -> Result<Vec<Outcome>> {
    let outcomes: Vec<Outcome> = probe::run(world.lab.pod("n1", "client"), arguments)?;
    ensure!(!outcomes.is_empty(), "{arguments:?} printed nothing");
    Ok(outcomes)
}

#[test]
fn one_udp_socket_talks_to_two_services() -> Result<()> {
    let world = two_services()?;
    for &family in world.lab.families() {
        let [a, b] = [1, 2].map(|index| cluster_ip(family, index));
        let arguments = [&a, &b].map(ToString::to_string);
        for command in ["udp-two-services", "sendmmsg"] {
            let outcomes = run(&world, &[command, &arguments[0], &arguments[1]])?;
            ensure!(outcomes.len() == 4, "{outcomes:?}");
            for outcome in outcomes {
                let dialled = if outcome.who() == "a" { a } else { b };
                ensure!(outcome.ok && outcome.source == Some(dialled), "{command}: {outcome:?}");
            }
        }
    }
    Ok(())
}

/// Members of a group that meet by a Service and then talk to each other: who answers is whom the
/// socket sent to last.
#[test]
fn one_udp_socket_talks_to_a_service_and_to_its_pod() -> Result<()> {
    let world = two_services()?;
    for place in [&**world.lab.pod("n1", "client"), &**world.lab.node("n1")] {
        for &family in world.lab.families() {
            let [a, b] = [1, 2].map(|index| cluster_ip(family, index));
            let pod = |name| SocketAddr::new(world.pod_address(name, family), TARGET_PORT);
            let [a_itself, b_itself] = ["n1/a", "n2/b"].map(pod);
            let (mut held, _) = Held::open(place, "udp-unconnected", a_itself)?;
            for to in [a_itself, a, a_itself, a_itself, b, a, b_itself, a_itself, a, b, b_itself] {
                let outcome = held.tell(&format!("send {to}"))?;
                ensure!(outcome.ok && outcome.source == Some(to), "to {to}: {outcome:?}");
            }
        }
    }
    Ok(())
}

#[test]
fn ipv4_mapped_addresses() -> Result<()> {
    let world = two_services()?;
    let to = cluster_ip(Family::V4, 2);
    let mapped: SocketAddr = format!("[::ffff:{}]:{}", to.ip(), to.port()).parse()?;
    let outcomes = run(&world, &["v4-mapped", &to.to_string()])?;
    ensure!(outcomes.len() == 3, "{outcomes:?}");
    for outcome in &outcomes {
        ensure!(outcome.who() == "b", "{outcome:?}");
        let peer = outcome.step != "udp-unconnected";
        ensure!(!peer || outcome.peer == Some(mapped), "getpeername: {outcome:?}");
        let source = outcome.step != "connect";
        ensure!(!source || outcome.source == Some(mapped), "recvfrom: {outcome:?}");
    }
    for outcome in run(&world, &["v4-mapped", &cluster_ip(Family::V4, 3).to_string()])? {
        ensure!(outcome.who() == "ECONNREFUSED", "{outcome:?}");
    }
    Ok(())
}

#[test]
fn nonblocking_connect() -> Result<()> {
    let world = two_services()?;
    for &family in world.lab.families() {
        let to = cluster_ip(family, 2);
        let outcome = &run(&world, &["connect", &to.to_string(), "--nonblocking"])?[0];
        ensure!(outcome.who() == "b" && outcome.peer == Some(to), "{outcome:?}");
        let none = cluster_ip(family, 3).to_string();
        let outcome = &run(&world, &["connect", &none, "--nonblocking"])?[0];
        ensure!(outcome.who() == "ECONNREFUSED", "{outcome:?}");
    }
    Ok(())
}

#[test]
fn reuseport_and_fork() -> Result<()> {
    let world = two_services()?;
    for &family in world.lab.families() {
        let to = cluster_ip(family, 2);
        for command in ["reuseport", "fork"] {
            let outcomes = run(&world, &[command, &to.to_string()])?;
            ensure!(outcomes.len() == 2, "{outcomes:?}");
            for outcome in outcomes {
                ensure!(outcome.who() == "b" && outcome.peer == Some(to), "{command}: {outcome:?}");
            }
        }
    }
    Ok(())
}

/// getpeername shows what was dialled last, whatever the socket dialled before.
#[test]
fn redial_with_the_same_socket() -> Result<()> {
    let world = two_services()?;
    for &family in world.lab.families() {
        let [a, b, none] = [1, 2, 3].map(|index| cluster_ip(family, index));
        let direct = SocketAddr::new(world.pod_address("n2/b", family), TARGET_PORT);
        let targets = [a, b, direct];
        let [one, two, three] = targets.map(|to| to.to_string());
        let outcomes = run(&world, &["redial", &one, &two, &three])?;
        ensure!(outcomes.len() == 3, "{outcomes:?}");
        for (outcome, to) in outcomes.iter().zip(targets) {
            ensure!(outcome.peer == Some(to) && outcome.source == Some(to), "{outcome:?}");
        }
        let outcomes = run(&world, &["redial-tcp", &none.to_string(), &three])?;
        ensure!(outcomes[0].who() == "ECONNREFUSED", "{outcomes:?}");
        ensure!(outcomes[1].who() == "b" && outcomes[1].peer == Some(direct), "{outcomes:?}");
        let outcomes = run(&world, &["redial-tcp", &none.to_string(), &two])?;
        ensure!(outcomes[1].who() == "b" && outcomes[1].peer == Some(b), "{outcomes:?}");
    }
    Ok(())
}

/// A disconnected socket has forgotten the service, though it goes to the same backend.
#[test]
fn disconnected_sockets_forget_what_they_dialled() -> Result<()> {
    let world = two_services()?;
    for &family in world.lab.families() {
        let service = cluster_ip(family, 2);
        let backend = SocketAddr::new(world.pod_address("n2/b", family), TARGET_PORT);
        let words = [service, backend].map(|to| to.to_string());
        let outcomes = run(&world, &["disconnect", &words[0], &words[1]])?;
        ensure!(outcomes.len() == 4, "{outcomes:?}");
        for (outcome, to) in outcomes.iter().zip([service, backend, service, backend]) {
            ensure!(outcome.who() == "b" && outcome.peer == Some(to), "{outcome:?}");
        }
    }
    Ok(())
}

/// What a connected UDP socket sends to its own peer by address goes to its own backend: answers of
/// any other would not reach it.
#[test]
fn a_connected_udp_socket_that_sends_by_address_stays_with_its_backend() -> Result<()> {
    let world = World::new(Lab::builder().pods("n1", &["client", "a", "b", "c"]))?;
    world.service("web", 1, &["n1/a", "n1/b", "n1/c"], |service| service)?;
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        reach(world.lab.pod("n1", "client"), to, &["a", "b", "c"])?;
        let outcomes = run(&world, &["send-to-own-peer", &to.to_string()])?;
        ensure!(outcomes.len() == 9, "{outcomes:?}");
        for outcome in &outcomes {
            ensure!(outcome.ok && outcome.server == outcomes[0].server, "{outcomes:?}");
        }
    }
    Ok(())
}

#[test]
fn sockets_opened_before_the_service_existed() -> Result<()> {
    let world = World::new(Lab::builder().pods("n1", &["client", "a"]))?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        let mut later = ["tcp-later", "udp-later", "udp-unconnected"]
            .map(|kind| Held::open(client, kind, to).map(|(held, _)| (kind, held)))
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        let service = world.service("web", 1, &["n1/a"], |service| service)?;
        reach(client, to, &["a"])?;
        for (kind, held) in &mut later {
            if *kind != "udp-unconnected" {
                let outcome = held.tell(&format!("connect {to}"))?;
                ensure!(outcome.ok && outcome.peer == Some(to), "{kind}: {outcome:?}");
            }
            ensure!(held.send()?.who() == "a", "{kind}");
        }
        world.delete(&service)?;
        millrace_tests::world::unreachable(client, to)?;
    }
    Ok(())
}

/// An agent attached to a running node meets connections that are older than it is.
#[test]
fn connections_older_than_the_agent_go_on() -> Result<()> {
    let mut world = World::without_agents(Lab::builder().pods("n1", &["client", "a"]), &[])?;
    let client = world.lab.pod("n1", "client").clone();
    let direct = SocketAddr::new(world.pod_address("n1/a", Family::V4), TARGET_PORT);
    let (mut tcp, _) = Held::open(&client, "tcp", direct)?;
    let (mut udp, _) = Held::open(&client, "udp", direct)?;
    world.service("web", 1, &["n1/a"], |service| service)?;
    world.start_agents(&[])?;
    reach(&client, cluster_ip(Family::V4, 1), &["a"])?;
    for held in [&mut tcp, &mut udp] {
        let outcome = held.send()?;
        ensure!(outcome.who() == "a", "{outcome:?}");
        let peer = held.tell("peer")?.peer;
        ensure!(peer == Some(direct), "{peer:?}");
    }
    Ok(())
}

/// Addresses and ports beside a frontend, and the backend itself, are left alone.
#[test]
fn destinations_that_are_no_frontends_are_untouched() -> Result<()> {
    let world = two_services()?;
    let places = [&**world.lab.pod("n1", "client"), &**world.lab.node("n1")];
    for &family in world.lab.families() {
        for place in places {
            for path in ["n1/a", "n2/b"] {
                let direct = SocketAddr::new(world.pod_address(path, family), TARGET_PORT);
                reach(place, direct, &[&path[3..]])?;
                for client in Client::ALL {
                    let outcome = &client.dial(place, direct, 1)?[0];
                    let named = client == Client::Udp || outcome.peer == Some(direct);
                    ensure!(named, "{outcome:?}");
                    let from = client == Client::Tcp || outcome.source == Some(direct);
                    ensure!(from, "{outcome:?}");
                }
            }
        }
        let closed = SocketAddr::new(world.pod_address("n1/a", family), 9);
        let outcome = &Client::Tcp.dial(places[0], closed, 1)?[0];
        ensure!(outcome.who() == "ECONNREFUSED", "{outcome:?}");
    }
    Ok(())
}

/// Who is not in the node's cgroup tree is none of the agent's business on this path.
#[test]
fn the_outside_client_is_not_translated() -> Result<()> {
    let world = two_services()?;
    let to = cluster_ip(Family::V4, 1);
    let outcome = Client::Tcp.dial_briefly(world.lab.outside(), to)?;
    ensure!(!outcome.ok, "{outcome:?}");
    let direct = SocketAddr::new(world.pod_address("n1/a", Family::V4), TARGET_PORT);
    reach(world.lab.outside(), direct, &["a"])
}

/// UDP sockets with a fixed source port, connected and not, in the pod and on its host.
fn fixed_udp_sockets(world: &World, to: SocketAddr) -> Result<Vec<(String, Held)>> {
    let (pod, node) = (world.lab.pod("n1", "client"), world.lab.node("n1"));
    let family = Family::of(to.ip());
    let places: [(&Place, _); 2] = [(pod, pod.address(family)), (node, node.address(family))];
    let mut sockets = Vec::new();
    for (place, from) in places {
        for (kind, port) in [("udp", 12345), ("udp-unconnected", 12346)] {
            let (mut held, first) = Held::open_from(place, kind, to, SocketAddr::new(from, port))?;
            ensure!(first.ok, "{first:?}");
            ensure!(held.send()?.who() == "a");
            sockets.push((format!("{kind} in {}", place.name()), held));
        }
    }
    Ok(sockets)
}

/// "preserve UDP traffic when server pod cycles": the pod is gone, not only out of the slice.
#[test]
fn preserve_udp_when_the_server_pod_cycles() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let mut world = two_services()?;
        let to = cluster_ip(family, 1);
        let sockets = fixed_udp_sockets(&world, to)?;
        world.end_server("a")?;
        world.lab.remove_pod("n1", "a")?;
        world.apply(&world.slice("one", &["n2/b"], family))?;
        let changed = Instant::now();
        for (what, mut held) in sockets {
            let after = wait::until(&what, CHANGE_TIMEOUT, || {
                let outcome = held.send()?;
                // An error it can act on may come first: connect again, as programs do.
                if !outcome.ok && what.starts_with("udp in") {
                    held.tell(&format!("connect {to}"))?;
                }
                ensure!(outcome.ok, "{outcome:?}");
                Ok(outcome)
            })?;
            ensure!(after.who() == "b" && after.source == Some(to), "{what}: {after:?}");
        }
        let took = changed.elapsed();
        ensure!(took < CYCLE_LIMIT, "the sockets found the new server after {took:?}");
    }
    Ok(())
}

/// Silence on a connected UDP socket is worse than an error: without being connected again it
/// reaches the new server, or is told.
#[test]
fn connected_udp_is_told_when_its_backend_is_gone() -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let mut world = two_services()?;
        let to = cluster_ip(family, 1);
        let mut sockets = fixed_udp_sockets(&world, to)?;
        sockets.retain(|(what, _)| what.starts_with("udp in"));
        world.end_server("a")?;
        world.lab.remove_pod("n1", "a")?;
        world.apply(&world.slice("one", &["n2/b"], family))?;
        reach(world.lab.pod("n1", "client"), to, &["b"])?;
        // What was sent before that is lost, as on any network.
        wait::until("the guard to be attached", GUARD_TIMEOUT, || {
            let status = world.agent("n1").status_json()?;
            ensure!(status["guardAttached"] == true, "{status}");
            Ok(())
        })?;
        for (what, mut held) in sockets {
            let outcome = held.send()?;
            let told = outcome.ok || outcome.error.as_deref() != Some("ETIMEDOUT");
            let took = Duration::from_micros(outcome.micros);
            ensure!(told && took < Duration::from_secs(1), "{what}: {outcome:?}");
        }
    }
    Ok(())
}

#[test]
fn preserve_udp_when_initially_unready_endpoints_get_ready() -> Result<()> {
    let world = two_services()?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let to = cluster_ip(family, 3);
        let (mut held, _) = Held::open(client, "udp-unconnected", to)?;
        ensure!(held.send()?.who() == "ECONNREFUSED");
        world.apply(&world.slice("none", &["n2/b"], family))?;
        let outcome = wait::until("an answer", CHANGE_TIMEOUT, || {
            let outcome = held.send()?;
            ensure!(outcome.ok, "{outcome:?}");
            Ok(outcome)
        })?;
        ensure!(outcome.source == Some(to), "{outcome:?}");
    }
    Ok(())
}

/// kube-proxy drains: a TCP connection stays with its endpoint after that leaves the Service.
#[test]
fn established_tcp_connections_are_left_alone() -> Result<()> {
    let world = two_services()?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        let (mut held, first) = Held::open(client, "tcp", to)?;
        ensure!(first.peer == Some(to), "{first:?}");
        world.apply(&world.slice("one", &["n2/b"], family))?;
        reach(client, to, &["b"])?;
        let outcome = held.send()?;
        ensure!(outcome.who() == "a", "{outcome:?}");
        ensure!(held.tell("peer")?.peer == Some(to), "getpeername after the change");
    }
    Ok(())
}

/// "cleanup when UDP target port changes": the same pod, another port.
#[test]
fn udp_follows_a_changed_target_port() -> Result<()> {
    let mut world = two_services()?;
    let place = world.lab.pod("n1", "a").clone();
    world.serve(&place, "a-9090", 9090)?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let to = cluster_ip(family, 1);
        let (mut held, _) = Held::open(client, "udp-unconnected", to)?;
        ensure!(held.send()?.who() == "a");
        let mut slice = world.slice("one", &["n1/a"], family);
        slice.0["ports"][0]["port"] = 9090.into();
        slice.0["ports"][1]["port"] = 9090.into();
        world.apply(&slice)?;
        reach(client, to, &["a-9090"])?;
        ensure!(held.send()?.who() == "a-9090");
    }
    Ok(())
}
