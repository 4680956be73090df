//! Objects that are broken, absurd or hostile, beside good ones that go on working
//! (docs/HOSTILE.md has the whole table).

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use millrace_tests::agent::{Agent, Source};
use millrace_tests::apiserver::ApiServer;
use millrace_tests::lab::{Builder, Family, Lab, Place, address};
use millrace_tests::manifest::{self, Endpoint, Object as _, Service, Slice};
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{
    Client, SMALL_MAPS, TARGET_PORT, World, cluster_ip, reach, reach_by, refused,
};
use serde_json::{Value, json};

/// Where the node's own server listens: what a thief wants.
const SSH_PORT: u16 = 2222;
/// The agent's pauses after writes that failed, added up.
const EVENT_PATIENCE: Duration = Duration::from_secs(90);
/// Endpoints of the largest Service, and of each of its slices.
const MANY: u32 = 100_000;
const PER_SLICE: u32 = 1_000;

fn one_node() -> Builder {
    Lab::builder().pods("n1", &["client", "a", "b"])
}

fn ip4(address: &str) -> IpAddr {
    address.parse().expect("an address")
}

/// A Service of ClusterIP number `index` with a port of the name `main` for TCP and UDP.
fn service(name: &str, index: u16, port: u16) -> Service {
    let service = Service::new(name).cluster_ip(address::service(Family::V4, index));
    service.port("main", "TCP", port).port("main", "UDP", port)
}

/// Its slice, leading to these addresses.
fn slice(name: &str, endpoints: &[IpAddr]) -> Slice {
    let slice = Slice::new(&format!("{name}-x"), name, Family::V4);
    let slice = slice.port("main", "TCP", TARGET_PORT).port("main", "UDP", TARGET_PORT);
    slice.endpoints(endpoints.iter().map(|ip| Endpoint::ready(*ip, "")))
}

/// Services that want what is somebody else's, and lead clients to it: name of what complains, and
/// the objects.
fn thieves(world: &World) -> Vec<(&'static str, Vec<Value>)> {
    let (node, pod) = (world.lab.node("n1").address(Family::V4), pod(world, "a"));
    let of_web = cluster_ip(Family::V4, 1).ip();
    let accomplice = [pod_b(world)];
    let stolen = [node, pod, of_web];
    let external = stolen.iter().fold(service("thief", 20, SSH_PORT), |s, ip| s.external_ip(*ip));
    let external = external.port("pod", "TCP", TARGET_PORT);
    let balanced =
        stolen.iter().fold(service("patched", 21, SSH_PORT), |s, ip| s.load_balancer_ip(*ip));
    let mut circle = Vec::new();
    for (this, next) in [(30, 31), (31, 32), (32, 30)] {
        let name = format!("circle-{this}");
        circle.push(service(&name, this, TARGET_PORT).value());
        circle.push(slice(&name, &[address::service(Family::V4, next)]).value());
    }
    let nowhere = ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0"].map(ip4);
    vec![
        ("Service shop/thief", vec![external.value(), slice("thief", &accomplice).value()]),
        ("Service shop/patched", vec![balanced.value(), slice("patched", &accomplice).value()]),
        ("EndpointSlice shop/circle-30-x", circle),
        (
            "EndpointSlice shop/nowhere-x",
            vec![service("nowhere", 22, 80).value(), slice("nowhere", &nowhere).value()],
        ),
    ]
}

/// Objects that make no sense.
fn garbage() -> Vec<(&'static str, Vec<Value>)> {
    let with = |mut object: Value, pointer: &str, value: Value| {
        *object.pointer_mut(pointer).expect("the field is there") = value;
        object
    };
    let base = |name: &str, index| service(name, index, 80).value();
    let mut zero = base("zero", 40);
    zero["spec"]["ports"][0]["port"] = json!(0);
    let twins: Vec<Value> = (0..3).map(|_| json!({"name": "main", "port": 80})).collect();
    let mut mixed = base("mixed", 42);
    mixed["spec"]["clusterIPs"] = json!(["fd00::1:2"]);
    let mut words = base("words", 43);
    words["spec"]["type"] = json!("Ingress");
    words["spec"]["internalTrafficPolicy"] = json!("Near");
    words["spec"]["sessionAffinity"] = json!("Cookie");
    let ports: Vec<Value> =
        (1..=40_000).map(|n| json!({"name": format!("p{n}"), "port": n})).collect();
    let mut product = with(base("product", 44), "/spec/ports", json!(ports));
    let ips: Vec<String> = (0..200).map(|n| format!("203.0.113.{n}")).collect();
    product["spec"]["externalIPs"] = json!(ips);
    vec![
        ("Service shop/zero", vec![zero]),
        ("Service shop/twins", vec![with(base("twins", 41), "/spec/ports", json!(twins))]),
        ("Service shop/mixed", vec![mixed]),
        ("Service shop/words", vec![words]),
        ("Service shop/product", vec![product]),
        ("(unusable name)", vec![base("\u{1b}[2Jgone", 45)]),
    ]
}

/// A Service with 100 000 endpoints.
fn crowd() -> Vec<Value> {
    let mut objects = vec![service("crowd", 50, 80).value()];
    for index in 0..MANY / PER_SLICE {
        let numbers = index * PER_SLICE..(index + 1) * PER_SLICE;
        let ips: Vec<IpAddr> =
            numbers.map(|n| std::net::Ipv4Addr::from(0x0b00_0000 + n).into()).collect();
        let mut slice = slice("crowd", &ips).value();
        slice["metadata"]["name"] = json!(format!("crowd-{index}"));
        objects.push(slice);
    }
    objects
}

fn pod(world: &World, name: &str) -> IpAddr {
    world.lab.pod("n1", name).address(Family::V4)
}

fn pod_b(world: &World) -> IpAddr {
    pod(world, "b")
}

/// Starts the node's own server, and shows that it can be reached.
fn serve_node(world: &mut World) -> Result<SocketAddr> {
    let place: Place = (**world.lab.node("n1")).clone();
    world.serve(&place, "ssh", SSH_PORT)?;
    Ok(SocketAddr::new(world.lab.node("n1").address(Family::V4), SSH_PORT))
}

/// Nobody's traffic was taken, from pods and from the node.
fn nothing_is_stolen(world: &World, ssh: SocketAddr) -> Result<()> {
    let lab = &world.lab;
    let clients: [&Place; 2] = [lab.pod("n1", "client"), lab.node("n1")];
    for client in clients {
        reach(client, ssh, &["ssh"])?;
        reach(client, SocketAddr::new(pod(world, "a"), TARGET_PORT), &["a"])?;
        reach(client, cluster_ip(Family::V4, 1), &["a", "b"])?;
        let stolen_port = SocketAddr::new(cluster_ip(Family::V4, 1).ip(), SSH_PORT);
        refused(client, stolen_port)?;
    }
    Ok(())
}

fn conditions(agent: &Agent) -> Result<Vec<Value>> {
    let status = agent.status_json()?;
    Ok(status["agent"]["conditions"].as_array().cloned().unwrap_or_default())
}

/// Waits until `status` has a row about each of these.
fn are_named(agent: &Agent, wanted: &[&str]) -> Result<()> {
    wait::until("a row of status about every bad object", CHANGE_TIMEOUT, || {
        let rows = conditions(agent)?;
        let about: Vec<&str> = rows.iter().filter_map(|row| row["about"].as_str()).collect();
        for name in wanted {
            ensure!(about.iter().any(|row| row.contains(name)), "{name} is not in {about:#?}");
        }
        Ok(())
    })
}

fn write_all(directory: &Path, objects: &[Value]) -> Result<()> {
    for object in objects {
        // One file each, under a name of ours: theirs may be none for a file.
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let plain: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
        let kind = object["kind"].as_str().unwrap_or_default();
        std::fs::write(directory.join(format!("bad-{kind}-{plain}.json")), object.to_string())?;
    }
    Ok(())
}

#[test]
fn a_directory_full_of_bad_objects_harms_nobody() -> Result<()> {
    let mut world = World::with_flags(one_node(), &[])?;
    let ssh = serve_node(&mut world)?;
    world.service("web", 1, &["n1/a", "n1/b"], |service| service)?;
    nothing_is_stolen(&world, ssh)?;
    let directory = world.lab.node("n1").manifests();
    let bad: Vec<_> = thieves(&world).into_iter().chain(garbage()).collect();
    for (_, objects) in &bad {
        write_all(&directory, objects)?;
    }
    write_all(&directory, &crowd())?;
    let unreadable = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "unreadable", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.99", "ports": [{"port": "http"}]}});
    write_all(&directory, &[unreadable])?;
    std::fs::write(directory.join("bad-text.yaml"), "kind: [\n")?;
    let mut wanted: Vec<&str> = bad.iter().map(|(name, _)| *name).collect();
    wanted.extend(["Service shop/crowd", "bad-text.yaml", "shop/unreadable"]);
    are_named(world.agent("n1"), &wanted)?;

    nothing_is_stolen(&world, ssh)?;
    // And what comes after them is served as ever.
    world.service("late", 2, &["n1/b"], |service| service)?;
    let client = world.lab.pod("n1", "client").clone();
    reach(&client, cluster_ip(Family::V4, 2), &["b"])?;
    // What is left of the bad ones is served: the good endpoint of a bad Service, by its ClusterIP.
    let thief = SocketAddr::new(cluster_ip(Family::V4, 20).ip(), SSH_PORT);
    reach_by(Client::Tcp, &client, thief, &["b"])?;
    refused(&client, SocketAddr::new(cluster_ip(Family::V4, 22).ip(), 80))?;
    let log = world.agent("n1").run_log()?;
    for reason in ["FrontendRejected", "EndpointRejected", "MapFull", "ServiceTooLarge"] {
        ensure!(log.contains(reason), "no Event for {reason} in the log");
    }
    ensure!(!log.contains('\u{1b}'), "a name reached the terminal");

    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with("bad-") {
            std::fs::remove_file(&path)?;
        }
    }
    let agent = world.agent("n1");
    wait::until("the last row to be withdrawn", CHANGE_TIMEOUT, || {
        let rows = conditions(agent)?;
        ensure!(rows.is_empty(), "{rows:#?}");
        Ok(())
    })?;
    nothing_is_stolen(&world, ssh)
}

/// What two Services claim goes to one, both are told, and the other gets it when that one goes.
#[test]
fn of_two_that_claim_one_address_the_first_has_it_until_it_goes() -> Result<()> {
    let mut world = World::new(one_node())?;
    let external = address::external(Family::V4, 250);
    let claim = |service: Service| service.external_ip(external);
    let first = world.service("first", 1, &["n1/a"], claim)?;
    let to = SocketAddr::new(external, 80);
    let client = world.lab.pod("n1", "client").clone();
    reach(&client, to, &["a"])?;
    world.service("another", 2, &["n1/b"], claim)?;
    let told = |agent: &Agent, about: &str, words: &str| {
        wait::until(&format!("{about} to be told"), CHANGE_TIMEOUT, || {
            let rows = conditions(agent)?;
            let mut of = rows.iter().filter(|row| row["about"] == about);
            let found = of.any(|row| row["message"].to_string().contains(words));
            ensure!(found, "{rows:#?}");
            Ok(())
        })
    };
    told(world.agent("n1"), "Service shop/another", "is the ExternalIP of Service shop/first")?;
    told(world.agent("n1"), "Service shop/first", "is wanted by Service shop/another")?;
    reach(&client, to, &["a"])?;
    world.agent("n1").stop()?;
    world.agent("n1").start_again()?;
    world.agent("n1").wait_ready()?;
    reach(&client, to, &["a"])?;
    world.delete(&first)?;
    reach(&client, to, &["b"])
}

/// An agent that follows an API server on its node.
struct Kube {
    agent: Agent,
    server: ApiServer,
    world: World,
}

impl Kube {
    fn new() -> Result<Kube> {
        let world = World::without_agents(one_node(), &[])?;
        let node = world.lab.node("n1");
        let server = ApiServer::start_in(node)?;
        server.put(manifest::node(node, world.lab.families(), None));
        let source = Source::ApiServer(server.url());
        let mut agent = Agent::start_with(node, &source, SMALL_MAPS)?;
        agent.wait_ready()?;
        Ok(Kube { agent, server, world })
    }

    /// Waits for an Event about this object for this reason.
    fn event(&self, kind: &str, name: &str, reason: &str) -> Result<Value> {
        wait::until(&format!("Event {reason} about {kind} {name}"), EVENT_PATIENCE, || {
            let events = self.server.events();
            let found = events.iter().find(|event| {
                event["regarding"]["kind"] == kind
                    && event["regarding"]["name"] == name
                    && event["reason"] == reason
            });
            found.cloned().with_context(|| format!("{events:#?}"))
        })
    }

    fn uid(&self, name: &str) -> Value {
        let services = self.server.objects(millrace_tests::apiserver::Resource::Services);
        let found = services.iter().find(|service| service["metadata"]["name"] == name);
        found.map(|service| service["metadata"]["uid"].clone()).unwrap_or_default()
    }
}

#[test]
fn authors_of_bad_objects_find_events_about_them() -> Result<()> {
    let kube = Kube::new()?;
    let starting = kube.event("Node", "n1", "Starting")?;
    ensure!(starting["type"] == "Normal" && starting["reportingController"] == "millrace");
    ensure!(starting["reportingInstance"] == "n1" && starting["regarding"]["uid"] == "n1");

    let pods = [pod(&kube.world, "a")];
    kube.server.put_all([service("web", 1, 80).value(), slice("web", &pods).value()]);
    let bad: Vec<Value> =
        thieves(&kube.world).into_iter().chain(garbage()).flat_map(|(_, all)| all).collect();
    // The API server would not have let a name like this one in.
    let named = |object: &Value| object["metadata"]["name"].to_string().is_ascii();
    kube.server.put_all(bad.into_iter().filter(named));
    let unreadable = json!({"kind": "Service", "metadata": {"name": "odd", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.99", "ports": [{"port": "http"}]}});
    kube.server.put(unreadable);
    let expected = [
        ("thief", "FrontendRejected"),
        ("patched", "FrontendRejected"),
        ("circle-30", "EndpointRejected"),
        ("nowhere", "EndpointRejected"),
        ("zero", "FieldRejected"),
        ("product", "ServiceTooLarge"),
        ("odd", "Unreadable"),
    ];
    for (name, reason) in expected {
        let event = kube.event("Service", name, reason)?;
        ensure!(event["type"] == "Warning", "{event}");
        ensure!(event["metadata"]["namespace"] == "shop", "{event}");
        if name != "odd" {
            ensure!(event["regarding"]["uid"] == kube.uid(name), "{event}");
        }
    }
    let endpoint = kube.event("Service", "nowhere", "EndpointRejected")?;
    ensure!(endpoint["related"]["name"] == "nowhere-x", "{endpoint}");
    // One Event per object and reason, however many fields are wrong.
    let thief = kube.event("Service", "thief", "FrontendRejected")?;
    let node = kube.world.lab.node("n1").address(Family::V4).to_string();
    ensure!(thief["note"].as_str().is_some_and(|note| note.contains(&node)), "{thief}");
    let events = kube.server.events();
    let thief = |event: &&Value| event["regarding"]["name"] == "thief";
    let rejected = |event: &&Value| event["reason"] == "FrontendRejected";
    ensure!(events.iter().filter(thief).filter(rejected).count() == 1, "{events:#?}");
    Ok(())
}

/// Events are a courtesy: without the right to write them, everything else works.
#[test]
fn without_the_right_to_write_events_services_are_served_and_status_says_so() -> Result<()> {
    let kube = Kube::new()?;
    kube.event("Node", "n1", "Starting")?;
    kube.server.refuse_events(Some(403));
    let pods = [pod(&kube.world, "a")];
    let bad = service("bad", 2, 80).external_ip(kube.world.lab.node("n1").address(Family::V4));
    kube.server.put_all([bad.value(), slice("bad", &pods).value()]);
    are_named(&kube.agent, &["Kubernetes Events"])?;
    kube.server.put_all([service("web", 1, 80).value(), slice("web", &pods).value()]);
    reach(kube.world.lab.pod("n1", "client"), cluster_ip(Family::V4, 1), &["a"])?;
    let writes = kube.server.event_writes();
    ensure!(writes <= 2, "{writes} writes were taken");
    let log = kube.agent.run_log()?;
    ensure!(log.matches("Kubernetes Events cannot be written").count() == 1, "{log}");

    kube.server.refuse_events(None);
    kube.event("Service", "bad", "FrontendRejected")?;
    wait::until("the row about Events to be withdrawn", CHANGE_TIMEOUT, || {
        let rows = conditions(&kube.agent)?;
        ensure!(!rows.iter().any(|row| row["about"] == "Kubernetes Events"), "{rows:#?}");
        Ok(())
    })
}
