//! Sockets that dial Services, in a cluster of two nodes.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use millrace_tests::lab::{Family, Place, address};
use millrace_tests::manifest::{self, Endpoint, Object as _, Service, Slice};
use millrace_tests::probe::Held;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{Client, cluster_ip, reach, reach_by, sticks, unreachable};

use crate::{Cluster, Scenario};

/// In their order: later ones find what earlier ones made.
pub const SCENARIOS: &[Scenario] = &[
    Scenario { name: "cluster-ip", run: serve_cluster_ips },
    Scenario { name: "node-port", run: serve_node_ports },
    Scenario { name: "names", run: show_what_was_dialled },
    Scenario { name: "no-endpoints", run: refuse_without_endpoints },
    Scenario { name: "affinity", run: keep_affinity },
    Scenario { name: "guard", run: guard_what_leaves },
    Scenario { name: "many", run: take_many_services },
    Scenario { name: "restart", run: go_on_after_a_crash },
    Scenario { name: "status", run: report_health },
];

/// ClusterIPs, by number.
const WEB: u16 = 1;
const EMPTY: u16 = 2;
const STICKY: u16 = 3;
const MOVED: u16 = 4;
const LOCAL: u16 = 5;
const LATE: u16 = 6;
/// The first of many.
const MANY: u16 = 1000;
/// Enough for several batches of rows.
const MANY_COUNT: u16 = 300;
/// NodePort of `web`, by TCP and by UDP.
/// NodePort of the TCP Service.
pub const TCP_PORT: u16 = 30080;
/// NodePort of the UDP Service.
pub const UDP_PORT: u16 = 30053;
/// From here on the agent learns its network's cookie, so it need not be the machine's first.
const HAS_COOKIE: (u32, u32) = (5, 14);
/// From here on a program chooses its caller's error.
const HAS_SET_RETVAL: (u32, u32) = (5, 18);
const DIALS: usize = 8;

fn serve_cluster_ips(cluster: &mut Cluster) -> Result<()> {
    let world = &cluster.world;
    world.service("web", WEB, &["n1/a", "n2/b"], |service| {
        let mut service = service.node_port(UDP_PORT);
        service.0["spec"]["ports"][0]["nodePort"] = TCP_PORT.into();
        service
    })?;
    for &family in world.lab.families() {
        reach(world.lab.pod("n1", "client"), cluster_ip(family, WEB), &["a", "b"])?;
        // A pod that may be sent to itself, and the node's own processes.
        let others: [&Place; 2] = [world.lab.pod("n1", "a"), world.lab.node("n1")];
        for client in others {
            reach_by(Client::Tcp, client, cluster_ip(family, WEB), &["a", "b"])?;
        }
    }
    Ok(())
}

fn serve_node_ports(cluster: &mut Cluster) -> Result<()> {
    let world = &cluster.world;
    let node = world.lab.node("n1");
    for &family in world.lab.families() {
        let mut addresses = vec![node.address(family)];
        if cluster.kernel >= HAS_COOKIE {
            addresses.push(family.loopback());
        }
        for ip in addresses {
            reach_by(Client::Tcp, node, SocketAddr::new(ip, TCP_PORT), &["a", "b"])?;
            reach_by(Client::Udp, node, SocketAddr::new(ip, UDP_PORT), &["a", "b"])?;
        }
        let at = SocketAddr::new(node.address(family), TCP_PORT);
        reach_by(Client::Tcp, world.lab.pod("n1", "client"), at, &["a", "b"])?;
    }
    Ok(())
}

/// getpeername and recvfrom name the Service, not the pod behind it.
fn show_what_was_dialled(cluster: &mut Cluster) -> Result<()> {
    let client = cluster.world.lab.pod("n1", "client");
    for &family in cluster.world.lab.families() {
        let to = cluster_ip(family, WEB);
        for kind in [Client::Tcp, Client::UdpConnected] {
            let outcome = &kind.dial(client, to, 1)?[0];
            ensure!(outcome.ok && outcome.peer == Some(to), "{kind:?}: {outcome:?}");
        }
        let outcome = &Client::Udp.dial(client, to, 1)?[0];
        ensure!(outcome.ok && outcome.source == Some(to), "{outcome:?}");
    }
    Ok(())
}

fn refuse_without_endpoints(cluster: &mut Cluster) -> Result<()> {
    cluster.world.service("empty", EMPTY, &[], |service| service)?;
    let expected = if cluster.kernel >= HAS_SET_RETVAL { "ECONNREFUSED" } else { "EPERM" };
    for &family in cluster.world.lab.families() {
        for kind in Client::ALL {
            wait::until("a refusal", CHANGE_TIMEOUT, || {
                let client = cluster.world.lab.pod("n1", "client");
                let outcome = kind.dial_briefly(client, cluster_ip(family, EMPTY))?;
                ensure!(outcome.error.as_deref() == Some(expected), "{kind:?}: {outcome:?}");
                Ok(())
            })?;
        }
    }
    Ok(())
}

fn keep_affinity(cluster: &mut Cluster) -> Result<()> {
    let world = &cluster.world;
    world.service("sticky", STICKY, &["n1/a", "n2/b"], |service| service.affinity(600))?;
    let client = world.lab.pod("n1", "client");
    for &family in world.lab.families() {
        let to = cluster_ip(family, STICKY);
        wait::until("the service", CHANGE_TIMEOUT, || sticks(Client::Tcp, client, to, 1))?;
        sticks(Client::Tcp, client, to, DIALS)?;
        sticks(Client::Udp, client, to, DIALS)?;
    }
    Ok(())
}

/// A connected UDP socket whose backend is gone is told so; what a Local policy wants dropped is
/// dropped in silence.
fn guard_what_leaves(cluster: &mut Cluster) -> Result<()> {
    let world = &cluster.world;
    world.service("moved", MOVED, &["n1/a"], |service| service)?;
    world.service("local", LOCAL, &[], Service::internal_local)?;
    let elsewhere = Endpoint::ready([10, 244, 9, 9].into(), "n9");
    world.apply(&world.empty_slice("local", Family::V4).endpoint(elsewhere))?;
    let client = world.lab.pod("n1", "client");
    let to = cluster_ip(Family::V4, MOVED);
    reach_by(Client::UdpConnected, client, to, &["a"])?;
    let (mut held, first) = Held::open(client, "udp", to)?;
    ensure!(first.ok, "{first:?}");
    world.apply(&world.slice("moved", &["n2/b"], Family::V4))?;
    wait::until("the socket to be told", CHANGE_TIMEOUT, || {
        let outcome = held.send()?;
        ensure!(outcome.error.as_deref() == Some("EPERM"), "{outcome:?}");
        Ok(())
    })?;
    reach_by(Client::UdpConnected, client, to, &["b"])?;
    unreachable(client, cluster_ip(Family::V4, LOCAL))?;
    let silent = Client::Tcp.dial_briefly(client, cluster_ip(Family::V4, LOCAL))?;
    ensure!(silent.error.as_deref() == Some("ETIMEDOUT"), "{silent:?}");
    Ok(())
}

/// Rows in batches. One more service after them is served, so they all were taken.
fn take_many_services(cluster: &mut Cluster) -> Result<()> {
    let many = |index: u16| {
        let name = format!("many-{index}");
        let [high, low] = index.to_be_bytes();
        let endpoint = Endpoint::ready([100, 64, high, low].into(), "n9");
        let service = Service::new(&name).cluster_ip(address::service(Family::V4, index));
        let slice = Slice::new(&name, &name, Family::V4).port("main", "TCP", 8443);
        [service.port("main", "TCP", 443).value(), slice.endpoint(endpoint).value()]
    };
    let items = (MANY..MANY + MANY_COUNT).flat_map(many).collect();
    let text = manifest::list(items).to_string();
    for node in cluster.world.lab.nodes() {
        manifest::write_as(&node.manifests(), "many.json", &text)?;
    }
    cluster.world.service("late", LATE, &["n2/b"], |service| service)?;
    reach(cluster.world.lab.pod("n1", "client"), cluster_ip(Family::V6, LATE), &["b"])?;
    wait::until("all services", CHANGE_TIMEOUT, || {
        let count = cluster.agent.services_json()?.to_string().matches("many-").count();
        ensure!(count >= usize::from(MANY_COUNT), "{count} are there");
        Ok(())
    })
}

/// The kernel goes on without the agent, and the next one adopts what is there.
fn go_on_after_a_crash(cluster: &mut Cluster) -> Result<()> {
    let client = cluster.world.lab.pod("n1", "client");
    cluster.agent.kill()?;
    for &family in cluster.world.lab.families() {
        reach_by(Client::Tcp, client, cluster_ip(family, WEB), &["a", "b"])?;
    }
    let agent = &mut cluster.agent;
    agent.restart()?;
    ensure!(agent.run_log()?.contains("adopted"), "{}", agent.log_tail());
    for &family in cluster.world.lab.families() {
        reach(client, cluster_ip(family, WEB), &["a", "b"])?;
    }
    Ok(())
}

fn report_health(cluster: &mut Cluster) -> Result<()> {
    let output = cluster.agent.operate(&["status"])?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(0), "{}\n{said}", output.status);
    Ok(())
}

/// Ends the agent and takes everything away; the Services are gone with it.
pub fn cleanup(cluster: &mut Cluster) -> Result<()> {
    cluster.agent.stop()?;
    let client = cluster.world.lab.pod("n1", "client");
    reach_by(Client::Tcp, client, cluster_ip(Family::V4, WEB), &["a", "b"])?;
    cluster.agent.cleanup()?;
    let bpffs = cluster.world.lab.node("n1").bpffs();
    let left: Vec<_> = std::fs::read_dir(bpffs)?.flatten().collect();
    ensure!(left.is_empty(), "left in {}: {left:?}", bpffs.display());
    unreachable(client, cluster_ip(Family::V4, WEB))
}
