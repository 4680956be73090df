//! The lab proves itself, without an agent: every topology carries traffic in every direction
//! that a cluster without kube-proxy carries it, and nothing is left behind.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use millrace_tests::lab::{Families, Family, InterNode, Lab, Place, PodNetwork, address, residue};
use millrace_tests::probe::{self, Server};

const PORT: u16 = 8080;
/// A lab that takes longer than this makes the suite slow; usual is a quarter of it.
const BUILD_LIMIT: Duration = Duration::from_secs(3);

/// TCP and UDP from `client` reach `server` at `to`, and the server sees `source` if given.
fn reaches(client: &Place, server: &str, to: SocketAddr, source: Option<SocketAddr>) -> Result<()> {
    for outcome in [probe::tcp(client, to, 1)?, probe::udp(client, to, 1)?].concat() {
        let from = client.name();
        ensure!(outcome.server.as_deref() == Some(server), "{from} to {server}: {outcome:?}");
        if let Some(source) = source {
            let seen = outcome.seen.map(|seen| seen.ip());
            ensure!(seen == Some(source.ip()), "{from} was seen as {seen:?}: {outcome:?}");
        }
    }
    Ok(())
}

fn carries_traffic(network: PodNetwork, inter: InterNode, families: Families) -> Result<()> {
    let start = Instant::now();
    let builder = Lab::builder().nodes(2).pods("n1", &["a", "b"]).pod("n2", "c");
    let lab = builder.pod_network(network).inter_node(inter).families(families).build()?;
    let took = start.elapsed();
    ensure!(took < BUILD_LIMIT, "the lab took {took:?}");
    let (a, b, c) = (lab.pod("n1", "a"), lab.pod("n1", "b"), lab.pod("n2", "c"));
    let _servers = [
        Server::start(b, "b", &[PORT], &[PORT])?,
        Server::start(c, "c", &[PORT], &[PORT])?,
        Server::start(lab.node("n2"), "n2", &[PORT], &[PORT])?,
    ];
    for &family in lab.families() {
        let at = |ip| SocketAddr::new(ip, PORT);
        let source = Some(at(a.address(family)));
        reaches(a, "b", at(b.address(family)), source)?;
        reaches(a, "c", at(c.address(family)), source)?;
        reaches(a, "n2", at(lab.node("n2").address(family)), source)?;
        reaches(c, "b", at(b.address(family)), Some(at(c.address(family))))?;
        reaches(c, "c", at(c.address(family)), None)?;
        reaches(lab.node("n1"), "b", at(b.address(family)), None)?;
        reaches(lab.node("n1"), "c", at(c.address(family)), None)?;
        let outside = Some(at(address::outside(family)));
        reaches(lab.outside(), "n2", at(lab.node("n2").address(family)), outside)?;
    }
    Ok(())
}

#[test]
fn bridge_with_direct_routes_dual_stack() -> Result<()> {
    carries_traffic(PodNetwork::Bridge, InterNode::Direct, Families::Dual)
}

#[test]
fn bridge_with_vxlan_dual_stack() -> Result<()> {
    carries_traffic(PodNetwork::Bridge, InterNode::Vxlan, Families::Dual)
}

#[test]
fn point_to_point_with_direct_routes_dual_stack() -> Result<()> {
    carries_traffic(PodNetwork::PointToPoint, InterNode::Direct, Families::Dual)
}

#[test]
fn point_to_point_with_vxlan_dual_stack() -> Result<()> {
    carries_traffic(PodNetwork::PointToPoint, InterNode::Vxlan, Families::Dual)
}

#[test]
fn bridge_with_direct_routes_ipv4_only() -> Result<()> {
    carries_traffic(PodNetwork::Bridge, InterNode::Direct, Families::V4)
}

#[test]
fn point_to_point_with_vxlan_ipv6_only() -> Result<()> {
    carries_traffic(PodNetwork::PointToPoint, InterNode::Vxlan, Families::V6)
}

#[test]
fn outside_client_reaches_pods_by_route() -> Result<()> {
    let lab = Lab::builder().pod("n1", "a").build()?;
    let pod = lab.pod("n1", "a");
    let _server = Server::start(pod, "a", &[PORT], &[PORT])?;
    for &family in lab.families() {
        let outside = Some(SocketAddr::new(address::outside(family), 0));
        reaches(lab.outside(), "a", SocketAddr::new(pod.address(family), PORT), outside)?;
    }
    Ok(())
}

#[test]
fn processes_run_in_their_pods_cgroup() -> Result<()> {
    let lab = Lab::builder().pod("n1", "a").build()?;
    let vm = lab.pod("n1", "a").as_vm();
    let places: [&Place; 5] =
        [lab.pod("n1", "a"), lab.node("n1"), lab.outside(), lab.node("n1").agent_place(), &vm];
    for place in places {
        let output = place.command("cat").arg("/proc/self/cgroup").output()?;
        let text = String::from_utf8(output.stdout)?;
        let line = text.lines().find(|line| line.starts_with("0::")).unwrap_or_default();
        let own = place.cgroup().display().to_string();
        ensure!(own.ends_with(&line[3..]), "{} runs in {line}", place.name());
    }
    let managed = lab.node("n1").cgroup_root();
    assert!(lab.pod("n1", "a").cgroup().starts_with(managed));
    assert!(lab.node("n1").cgroup().starts_with(managed));
    assert!(!vm.cgroup().starts_with(managed));
    assert!(!lab.outside().cgroup().starts_with(managed));
    assert!(!lab.node("n1").agent_place().cgroup().starts_with(managed));
    Ok(())
}

#[test]
fn without_an_agent_a_cluster_ip_goes_nowhere() -> Result<()> {
    let lab = Lab::builder().pod("n1", "a").build()?;
    for &family in lab.families() {
        let to = SocketAddr::new(address::service(family, 7), 80).to_string();
        let arguments = ["connect", &to, "--timeout-ms", "200"];
        let outcome = probe::one(lab.pod("n1", "a"), &arguments)?;
        assert!(!outcome.ok, "{outcome:?}");
    }
    Ok(())
}

#[test]
fn pods_come_and_go_and_addresses_are_reused() -> Result<()> {
    let mut lab = Lab::builder().pods("n1", &["a", "b"]).build()?;
    let old = lab.pod("n1", "b").address(Family::V4);
    let server = Server::start(lab.pod("n1", "b"), "b", &[PORT], &[])?;
    lab.remove_pod("n1", "b")?;
    drop(server);
    let new = lab.add_pod("n1", "c")?;
    assert_eq!(new.address(Family::V4), old, "the lowest free address is given again");
    let _server = Server::start(&new, "c", &[PORT], &[PORT])?;
    reaches(lab.pod("n1", "a"), "c", SocketAddr::new(old, PORT), None)
}

#[test]
fn nothing_is_left_after_a_panic() {
    let id = std::panic::catch_unwind(|| {
        let lab = Lab::builder().pod("n1", "a").build().expect("the lab is built");
        let id = lab.id().to_owned();
        let server = Server::start(lab.pod("n1", "a"), "a", &[PORT], &[]).expect("it starts");
        server.detach();
        std::panic::panic_any(id);
    });
    let id = *id.expect_err("it panicked").downcast::<String>().expect("the id was thrown");
    assert_eq!(residue::residue(&id), Vec::<String>::new());
}

/// What a client of each kind of socket sees when it dials the server itself.
#[test]
fn every_kind_of_client_works_without_a_service() -> Result<()> {
    let lab = Lab::builder().pods("n1", &["a", "b"]).build()?;
    let (client, server) = (lab.pod("n1", "a"), lab.pod("n1", "b"));
    let ports = [PORT, PORT + 1];
    let _server = Server::start(server, "b", &ports, &ports)?;
    for &family in lab.families() {
        let [a, b] = ports.map(|port| SocketAddr::new(server.address(family), port).to_string());
        let closed = SocketAddr::new(server.address(family), 9).to_string();
        let mut kinds: Vec<Vec<&str>> = vec![
            vec!["connect", &a, "--nonblocking"],
            vec!["connect", &a, "--echo", "300000"],
            vec!["udp-connected", &a],
            vec!["udp-unconnected", &a, "--echo", "2000"],
            vec!["udp-two-services", &a, &b],
            vec!["reuseport", &a],
            vec!["fork", &a],
            vec!["sendmmsg", &a, &b],
            vec!["redial", &a, &b, &a],
        ];
        if family == Family::V4 {
            kinds.push(vec!["v4-mapped", &a]);
        }
        for kind in kinds {
            let outcomes: Vec<probe::Outcome> = probe::run(client, &kind)?;
            ensure!(!outcomes.is_empty(), "{kind:?} printed nothing");
            ensure!(outcomes.iter().all(|outcome| outcome.ok), "{kind:?}: {outcomes:?}");
        }
        let outcomes: Vec<probe::Outcome> = probe::run(client, &["redial-tcp", &closed, &a])?;
        let who: Vec<&str> = outcomes.iter().map(probe::Outcome::who).collect();
        assert_eq!(who, ["ECONNREFUSED", "b"]);
        let (mut held, _) = probe::Held::open(client, "tcp", a.parse()?)?;
        assert_eq!(held.send()?.who(), "b");
        let load = probe::Pressure::start(client, "tcp", a.parse()?)?.stop()?;
        assert_eq!(load.failed, 0, "{load:?}");
        let latency = probe::latency(client, a.parse()?, 20)?;
        assert!(latency.failed == 0 && latency.min <= latency.median, "{latency:?}");
    }
    Ok(())
}
