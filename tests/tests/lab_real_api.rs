//! The agent and a real kube-apiserver, for callers who have one (`cargo xtask test
//! --kube-apiserver PATH --etcd PATH`): the rights that our manifest gives are enough, and what is
//! served follows the API.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::agent::{Agent, Source};
use millrace_tests::apiserver::real::{ETCD, KUBE_APISERVER, Programs, RealApi};
use millrace_tests::lab::{Family, Lab, Node};
use millrace_tests::manifest::{self, Object as _, Service};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{SMALL_MAPS, World, cluster_ip, reach, unreachable};
use serde_json::{Value, json};

/// The namespace of the objects that `manifest` builds.
const NAMESPACE: &str = "shop";
/// The number of the Service's ClusterIP. The first is the API server's own Service's.
const NUMBER: u16 = 20;

/// Everything in `deploy/manifests/install.yaml`.
fn install() -> Result<Vec<Value>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/manifests/install.yaml");
    let text = std::fs::read_to_string(&path).context("read install.yaml")?;
    manifest::documents(&text)
}

/// Where the API server is to be had: what it does not say of itself here, since it listens to its
/// node alone.
fn kubernetes(node: &Node) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": "kubernetes", "namespace": "default",
            "labels": { "kubernetes.io/service-name": "kubernetes" },
        },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [node.address(Family::V4)] }],
        "ports": [{ "name": "https", "port": 6443, "protocol": "TCP" }],
    })
}

/// A Service.
fn web(world: &World) -> Value {
    let mut service = Service::new("web");
    for &family in world.lab.families() {
        service = service.cluster_ip(cluster_ip(family, NUMBER).ip());
    }
    let mut value = service.port("main", "TCP", 80).port("main-udp", "UDP", 80).value();
    if world.lab.families().len() > 1 {
        value["spec"]["ipFamilyPolicy"] = json!("RequireDualStack");
    }
    value
}

/// Its endpoints.
fn lead(api: &RealApi, world: &World, pods: &[&str]) -> Result<()> {
    for &family in world.lab.families() {
        let mut slice = world.slice("web", pods, family).value();
        // The API wants every port of a slice to have a name of its own, as those of a Service.
        slice["ports"][1]["name"] = json!("main-udp");
        api.apply(&slice)?;
    }
    Ok(())
}

fn reaches(world: &World, servers: &[&str]) -> Result<()> {
    let client = world.lab.pod("n1", "client");
    world
        .lab
        .families()
        .iter()
        .try_for_each(|&family| reach(client, cluster_ip(family, NUMBER), servers))
}

#[test]
fn what_is_served_follows_a_real_api_server() -> Result<()> {
    let Some(programs) = Programs::given()? else {
        println!("skipped: {KUBE_APISERVER} and {ETCD} name no programs");
        return Ok(());
    };
    let world = World::without_agents(Lab::builder().pods("n1", &["client", "a", "b"]), &[])?;
    let node = world.lab.node("n1");
    let mut api = RealApi::start(node, programs)?;
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE },
    });
    api.apply(&namespace)?;
    api.apply(&kubernetes(node))?;
    api.apply(&manifest::node(node, world.lab.families(), Some("zone-a")))?;
    for object in install()? {
        api.apply(&object)?;
    }
    let mut agent = Agent::start_with(node, &Source::Kubeconfig(api.kubeconfig()), SMALL_MAPS)?;
    agent.wait_ready()?;

    api.apply(&web(&world))?;
    lead(&api, &world, &["n1/a", "n1/b"])?;
    reaches(&world, &["a", "b"])?;
    lead(&api, &world, &["n1/b"])?;
    reaches(&world, &["b"])?;

    // The API goes, the Service stays; what changes when it is back is seen.
    api.kill_server()?;
    reaches(&world, &["b"])?;
    agent.kill()?;
    agent.start_again()?;
    reaches(&world, &["b"])?;
    api.start_server()?;
    agent.wait_ready()?;
    lead(&api, &world, &["n1/a"])?;
    reaches(&world, &["a"])?;

    wait::until("the agent's Event", CHANGE_TIMEOUT, || {
        let events = api.get("/apis/events.k8s.io/v1/events")?;
        ensure!(events.to_string().contains("\"reason\":\"Starting\""), "{events}");
        Ok(())
    })?;
    // A server that has just started refuses everything until it has read who may do what.
    wait::until("the agent to have no complaint", CHANGE_TIMEOUT, || {
        let status = agent.status_json()?;
        ensure!(status["agent"]["conditions"] == json!([]), "{}", status["agent"]["conditions"]);
        Ok(())
    })?;

    api.delete(&web(&world))?;
    let client = world.lab.pod("n1", "client");
    world
        .lab
        .families()
        .iter()
        .try_for_each(|&family| unreachable(client, cluster_ip(family, NUMBER)))?;
    agent.stop()
}
