//! What load balancers, the kubelet and monitoring ask: /healthz, /livez, the metrics port.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::agent::{Agent, Source};
use millrace_tests::http::{self, Connection};
use millrace_tests::lab::{Family, Lab, Node};
use millrace_tests::manifest;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{SMALL_MAPS, World};
use serde_json::{Value, json};

const HEALTHZ: u16 = 10256;
const METRICS: u16 = 10249;
/// An address that could not be listened on is tried every five seconds.
const BIND_LIMIT: Duration = Duration::from_secs(20);

fn world() -> Result<World> {
    World::new(Lab::builder().pods("n1", &["a"]))
}

fn loopback() -> IpAddr {
    Family::V4.loopback()
}

/// Waits for a status code, and returns the body.
fn answers(world: &World, path: &str, code: u16) -> Result<Value> {
    let address = world.lab.node("n1").address(Family::V4);
    wait::until(&format!("{path} to say {code}"), CHANGE_TIMEOUT, || {
        let answer = http::get(world.lab.outside(), address, HEALTHZ, path)?;
        ensure!(answer.code == code, "{answer:?}");
        ensure!(answer.header("content-type") == Some("application/json"), "{answer:?}");
        ensure!(answer.header("x-content-type-options") == Some("nosniff"), "{answer:?}");
        answer.json()
    })
}

fn node_object(world: &World, adjust: impl Fn(&mut Value)) -> Result<()> {
    let node = world.lab.node("n1");
    let mut object = manifest::node(node, world.lab.families(), None);
    adjust(&mut object);
    manifest::write(&node.manifests(), &object).map(drop)
}

/// KEP-3836: load balancers are told that the node goes, the kubelet that the agent works.
#[test]
fn healthz_and_livez_say_what_kube_proxys_say() -> Result<()> {
    let world = world()?;
    let healthz = answers(&world, "/healthz", 200)?;
    let livez = answers(&world, "/livez", 200)?;
    for (body, has_node) in [(&healthz, true), (&livez, false)] {
        let fields: Vec<&String> = body.as_object().context("an object")?.keys().collect();
        ensure!(fields.len() == if has_node { 5 } else { 4 }, "{body}");
        ensure!(body["healthy"] == true && body["lastUpdated"] == body["currentTime"], "{body}");
        for family in ["IPv4", "IPv6"] {
            ensure!(body["status"][family]["healthy"] == true, "{body}");
            let time = body["status"][family]["lastUpdated"].as_str().context("a time")?;
            ensure!(time.starts_with("20") && time.contains('T') && time.ends_with('Z'), "{time}");
        }
    }
    ensure!(healthz["nodeEligible"] == true && livez.get("nodeEligible").is_none(), "{healthz}");

    node_object(&world, |object| {
        object["spec"]["taints"] =
            json!([{ "key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule" }]);
    })?;
    let tainted = answers(&world, "/healthz", 503)?;
    ensure!(tainted["healthy"] == true && tainted["nodeEligible"] == false, "{tainted}");
    answers(&world, "/livez", 200)?;
    node_object(&world, |object| object["spec"]["unschedulable"] = json!(true))?;
    answers(&world, "/healthz", 200).context("a cordoned node is sent to")?;
    node_object(&world, |object| {
        object["metadata"]["deletionTimestamp"] = json!("2026-11-21T12:00:00Z");
    })?;
    answers(&world, "/healthz", 503).context("a node that is being deleted is not")?;
    node_object(&world, |_| {})?;
    answers(&world, "/healthz", 200)?;
    let node = world.lab.node("n1");
    manifest::remove(&node.manifests(), &manifest::node(node, world.lab.families(), None))?;
    answers(&world, "/healthz", 503).context("a node that is gone is not")?;
    answers(&world, "/livez", 200).map(drop)
}

#[test]
fn the_metrics_port_is_kube_proxys() -> Result<()> {
    let world = world()?;
    let node = world.lab.node("n1");
    let get = |path: &str| http::get(node, loopback(), METRICS, path);
    let ok = get("/healthz")?;
    ensure!((ok.code, ok.body.as_str()) == (200, "ok"), "{ok:?}");
    let mode = get("/proxyMode")?;
    ensure!((mode.code, mode.body.as_str()) == (200, "millrace"), "{mode:?}");
    ensure!(mode.header("content-type") == Some("text/plain; charset=utf-8"), "{mode:?}");
    let metrics = get("/metrics")?;
    let kind = metrics.header("content-type").unwrap_or_default().to_owned();
    ensure!(metrics.code == 200 && kind.starts_with("text/plain; version=0.0.4"), "{metrics:?}");
    let config = get("/configz")?.json()?;
    let config = &config["kubeproxy.config.k8s.io"];
    ensure!(config["kind"] == "KubeProxyConfiguration", "{config}");
    ensure!(config["healthzBindAddress"] == "0.0.0.0:10256", "{config}");
    ensure!(get("/nothing")?.code == 404);
    // It is for the node alone.
    http::is_refused(world.lab.outside(), node.address(Family::V4), METRICS)
}

#[test]
fn one_connection_takes_many_questions_and_any_method() -> Result<()> {
    let world = world()?;
    let address = world.lab.node("n1").address(Family::V4);
    let mut kept = Connection::open(world.lab.outside(), address, HEALTHZ)?;
    for method in ["GET", "POST", "OPTIONS", "GET"] {
        let answer = kept.ask(method, "/livez?verbose=1")?;
        ensure!(answer.code == 200, "{method}: {answer:?}");
    }
    ensure!(kept.ask("GET", "/")?.code == 404);
    // Headers without an end: the server gives up, and others are served meanwhile.
    let to = SocketAddr::new(address, HEALTHZ);
    let mut flood = world.lab.outside().within(|| TcpStream::connect(to))??;
    flood.write_all(b"GET /livez HTTP/1.1\r\n")?;
    let filler = format!("x: {}\r\n", "y".repeat(1000));
    // It may have been closed already when the last of them is written.
    let _ = (0..64).try_for_each(|_| flood.write_all(filler.as_bytes()));
    let mut said = Vec::new();
    flood.set_read_timeout(Some(CHANGE_TIMEOUT))?;
    let ended = flood.read_to_end(&mut said);
    let refused = String::from_utf8_lossy(&said).starts_with("HTTP/1.1 431");
    let reset = ended.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionReset);
    ensure!(refused || reset, "{:?}", String::from_utf8_lossy(&said));
    ensure!(kept.ask("GET", "/livez")?.code == 200);
    Ok(())
}

#[test]
fn addresses_are_the_operators() -> Result<()> {
    let mut world = World::without_agents(Lab::builder().pods("n1", &["a"]), &[])?;
    let flags = ["--healthz-bind-address=[::]:10256", "--metrics-bind-address="];
    world.start_agents(&[SMALL_MAPS, &flags].concat())?;
    let node = world.lab.node("n1").clone();
    for family in [Family::V4, Family::V6] {
        let answer = http::get(world.lab.outside(), node.address(family), HEALTHZ, "/healthz")?;
        ensure!(answer.code == 200, "{family:?}: {answer:?}");
    }
    http::is_refused(&node, loopback(), METRICS)?;
    let wrong = ["--healthz-bind-address=here"];
    let mut agent = Agent::prepare(&node, &Source::Manifests, &wrong);
    let refusal = agent.refuses(CHANGE_TIMEOUT)?;
    let named = "\"here\" is no address to listen on";
    ensure!(refusal.code == Some(1) && refusal.said.contains(named), "{refusal:?}");
    Ok(())
}

/// Somebody listens where the agent should.
fn taken(node: &Node, port: u16) -> Result<TcpListener> {
    Ok(node.within(|| TcpListener::bind((loopback(), port)))??)
}

#[test]
fn an_address_that_is_taken_is_tried_again_or_is_the_end() -> Result<()> {
    let mut world = World::without_agents(Lab::builder().pods("n1", &["a"]), &[])?;
    let node = world.lab.node("n1").clone();
    let somebody = taken(&node, METRICS)?;
    let mut hard = Agent::prepare(&node, &Source::Manifests, SMALL_MAPS);
    hard.add_arguments(&["--bind-address-hard-fail"]);
    let refusal = hard.refuses(CHANGE_TIMEOUT)?;
    let named = "--metrics-bind-address 127.0.0.1:10249: cannot listen";
    ensure!(refusal.code == Some(1) && refusal.said.contains(named), "{refusal:?}");

    world.start_agents(SMALL_MAPS)?;
    let told = |world: &mut World| -> Result<bool> {
        let status = world.agent("n1").status_json()?;
        ensure!(status["ready"] == true, "{status}");
        Ok(status["agent"]["conditions"].to_string().contains(named_about()))
    };
    wait::until("the condition", CHANGE_TIMEOUT, || {
        ensure!(told(&mut world)?, "no condition");
        Ok(())
    })?;
    drop(somebody);
    wait::until("the address to be served", BIND_LIMIT, || {
        let answer = http::get(&node, loopback(), METRICS, "/healthz")?;
        ensure!(answer.code == 200, "{answer:?}");
        Ok(())
    })?;
    wait::until("the condition to go", CHANGE_TIMEOUT, || {
        ensure!(!told(&mut world)?, "the condition is still there");
        Ok(())
    })
}

const fn named_about() -> &'static str {
    "--metrics-bind-address 127.0.0.1:10249"
}
