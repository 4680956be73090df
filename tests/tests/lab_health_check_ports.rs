//! healthCheckNodePorts: load balancers ask every node whether it has endpoints of a Service.

use std::net::{IpAddr, TcpListener};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::http::{self, Answer, Connection};
use millrace_tests::lab::{Family, Lab};
use millrace_tests::manifest::{Endpoint, Service};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{Client, World, reach_by};

const PORT: u16 = 32100;
const NODE_PORT: u16 = 30100;
/// A port that could not be listened on is tried every five seconds.
const BIND_LIMIT: Duration = Duration::from_secs(20);

fn balancer(service: Service) -> Service {
    service.node_port_for_all(NODE_PORT).external_local().health_check(PORT)
}

fn world() -> Result<World> {
    World::new(Lab::builder().nodes(2).pods("n1", &["a", "b"]).pods("n2", &["c"]))
}

fn address(world: &World, node: &str, family: Family) -> IpAddr {
    world.lab.node(node).address(family)
}

/// Waits until a node says so many local endpoints, with the code that goes with it.
fn counts(world: &World, node: &str, family: Family, count: u64) -> Result<Answer> {
    let to = address(world, node, family);
    let what = format!("{node} ({family:?}) to count {count}");
    wait::until(&what, CHANGE_TIMEOUT, || {
        let answer = http::get(world.lab.outside(), to, PORT, "/")?;
        let body = answer.json()?;
        ensure!(body["localEndpoints"] == count, "{answer:?}");
        ensure!(answer.code == if count > 0 { 200 } else { 503 }, "{answer:?}");
        let weight = answer.header("x-load-balancing-endpoint-weight");
        ensure!(weight == Some(count.to_string().as_str()), "{answer:?}");
        Ok(answer)
    })
}

fn closed(world: &World, node: &str, port: u16) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let to = address(world, node, family);
        wait::until(&format!("{to}:{port} to be closed"), CHANGE_TIMEOUT, || {
            http::is_refused(world.lab.outside(), to, port)
        })?;
    }
    Ok(())
}

/// "NodePort and HealthCheckNodePort when externalTrafficPolicy changes".
#[test]
fn node_port_and_health_check_node_port_when_the_policy_changes() -> Result<()> {
    let world = world()?;
    let service = world.service("web", 1, &["n1/a"], balancer)?;
    let answer = counts(&world, "n1", Family::V4, 1)?;
    let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\
                \t\"localEndpoints\": 1,\n\t\"serviceProxyHealthy\": true\n}";
    ensure!(answer.body == body, "{answer:?}");
    ensure!(answer.header("content-type") == Some("application/json"), "{answer:?}");
    ensure!(answer.header("x-content-type-options") == Some("nosniff"), "{answer:?}");
    counts(&world, "n1", Family::V6, 1)?;
    counts(&world, "n2", Family::V4, 0)?;
    let to = (address(&world, "n1", Family::V4), NODE_PORT).into();
    reach_by(Client::Tcp, world.lab.outside(), to, &["a"])?;

    let mut kept = Connection::open(world.lab.outside(), to.ip(), PORT)?;
    ensure!(kept.ask("PUT", "/any/path")?.code == 200);
    let mut cluster = service.clone();
    cluster.0["spec"]["externalTrafficPolicy"] = "Cluster".into();
    world.apply(&cluster)?;
    closed(&world, "n1", PORT)?;
    ensure!(kept.ask("GET", "/").is_err(), "a kept connection is closed as well");
    closed(&world, "n2", PORT)?;
    world.apply(&service)?;
    counts(&world, "n1", Family::V4, 1)?;
    counts(&world, "n2", Family::V6, 0)?;

    // Another port, then another type.
    let mut moved = service.clone();
    moved.0["spec"]["healthCheckNodePort"] = (PORT + 1).into();
    world.apply(&moved)?;
    closed(&world, "n1", PORT)?;
    let answer = http::get(world.lab.outside(), to.ip(), PORT + 1, "/")?;
    ensure!(answer.code == 200, "{answer:?}");
    world.delete(&service)?;
    closed(&world, "n1", PORT + 1)
}

/// "only target nodes with endpoints", and each family by itself.
#[test]
fn only_nodes_with_ready_endpoints_are_targets() -> Result<()> {
    let world = world()?;
    world.service("web", 1, &["n1/a", "n1/b"], balancer)?;
    counts(&world, "n1", Family::V4, 2)?;
    world.apply(&world.slice("web", &["n1/a"], Family::V6))?;
    counts(&world, "n1", Family::V6, 1)?;
    counts(&world, "n1", Family::V4, 2)?;
    for family in [Family::V4, Family::V6] {
        world.apply(&world.slice("web", &["n2/c"], family))?;
        counts(&world, "n1", family, 0)?;
        counts(&world, "n2", family, 1)?;
    }
    let unready = Endpoint::unready(world.pod_address("n2/c", Family::V4), "n2");
    world.apply(&world.empty_slice("web", Family::V4).endpoint(unready))?;
    counts(&world, "n2", Family::V4, 0).map(drop)
}

/// "fail health check node port if there are only terminating endpoints": 503, and served on.
#[test]
fn terminating_endpoints_serve_and_do_not_count() -> Result<()> {
    let world = world()?;
    world.service("web", 1, &["n1/a"], balancer)?;
    counts(&world, "n1", Family::V4, 1)?;
    let leaving = Endpoint::terminating(world.pod_address("n1/a", Family::V4), "n1");
    world.apply(&world.empty_slice("web", Family::V4).endpoint(leaving))?;
    counts(&world, "n1", Family::V4, 0)?;
    let to = (address(&world, "n1", Family::V4), NODE_PORT).into();
    reach_by(Client::Tcp, world.lab.outside(), to, &["a"]).context("it serves on")
}

/// Two Services want one port, then somebody else has it.
#[test]
fn a_port_is_one_services() -> Result<()> {
    let mut world = world()?;
    let first = world.service("second-by-name", 1, &["n1/a"], balancer)?;
    counts(&world, "n1", Family::V4, 1)?;
    let other = world.service("another", 2, &["n1/a", "n1/b"], |service| {
        service.external_local().health_check(PORT)
    })?;
    let told = |world: &mut World, words: &'static str, there: bool| {
        wait::until(&format!("{words:?} in the conditions: {there}"), CHANGE_TIMEOUT, || {
            let status = world.agent("n1").status_json()?;
            let conditions = status["agent"]["conditions"].to_string();
            ensure!(conditions.contains(words) == there, "{conditions}");
            Ok(())
        })
    };
    told(&mut world, "is Service shop/second-by-name's already", true)?;
    ensure!(counts(&world, "n1", Family::V4, 1)?.body.contains("second-by-name"));
    world.delete(&first)?;
    ensure!(counts(&world, "n1", Family::V4, 2)?.body.contains("another"));
    told(&mut world, "is Service shop/second-by-name's already", false)?;

    world.delete(&other)?;
    closed(&world, "n1", PORT)?;
    let node = world.lab.node("n1").clone();
    let own = address(&world, "n1", Family::V4);
    let somebody = node.within(|| TcpListener::bind((own, PORT)))??;
    world.apply(&other)?;
    told(&mut world, "cannot listen on", true)?;
    counts(&world, "n1", Family::V6, 2).context("the other family is served")?;
    drop(somebody);
    wait::until("the port to be served", BIND_LIMIT, || {
        counts(&world, "n1", Family::V4, 2).map(drop)
    })?;
    told(&mut world, "cannot listen on", false)
}

/// They are where NodePorts are: by default on the node's primary addresses.
#[test]
fn ports_are_served_where_node_ports_are() -> Result<()> {
    let one = || Lab::builder().pods("n1", &["a"]);
    let world = World::new(one())?;
    world.service("web", 1, &["n1/a"], balancer)?;
    counts(&world, "n1", Family::V4, 1)?;
    let node = world.lab.node("n1");
    http::is_refused(node, Family::V4.loopback(), PORT)?;
    http::is_refused(node, Family::V6.loopback(), PORT)?;
    let world = World::with_flags(one(), &["--nodeport-addresses=all"])?;
    world.service("web", 1, &["n1/a"], balancer)?;
    counts(&world, "n1", Family::V6, 1)?;
    let node = world.lab.node("n1");
    for family in [Family::V4, Family::V6] {
        let answer = http::get(node, family.loopback(), PORT, "/")?;
        ensure!(answer.code == 200, "{answer:?}");
    }
    Ok(())
}
