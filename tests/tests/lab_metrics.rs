//! What Prometheus finds at the node: counts of what happened, and nothing that goes down.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use jiff::Timestamp;
use millrace_tests::lab::{Families, Family, Lab, Place, address};
use millrace_tests::manifest::{self, Endpoint, Object as _, Service, Slice};
use millrace_tests::probe::Held;
use millrace_tests::scrape::Scrape;
use millrace_tests::wait::{self, CHANGE_TIMEOUT};
use millrace_tests::world::{Client, World, cluster_ip, reach, refused};
use serde_json::{Value, json};

/// Dialogues that are counted.
const DIALS: usize = 20;
/// NodePorts of a Service that is served and of one whose backend refuses, and where they lead.
const NODE_PORTS: [u16; 2] = [30_080, 30_081];
const TARGET_PORTS: [u16; 2] = [9_000, 9];
/// What a client sends, and what it is sent.
const ASKED_BYTES: usize = 1_000_000;
const ANSWERED_BYTES: usize = 300_000;
/// Acknowledgements that the first look may have missed.
const LATE_BYTES: f64 = 1000.0;
/// Idle flows go after so long, and so much later at most a pass has found them: the rest between
/// two passes, and a margin for a busy machine.
const IDLE_FLAG: &str = "--conntrack-tcp-timeout-established=5s";
const PASS_TIMEOUT: Duration = Duration::from_secs(40);
/// How long services change under the eyes of a scraper.
const CHURN: Duration = Duration::from_secs(4);
/// Services in the large cluster, and in each of its files.
const SERVICES: u16 = 10_000;
const SERVICES_PER_FILE: u16 = 500;
/// How long a development build may take to read and apply them.
const FEED_TIMEOUT: Duration = Duration::from_secs(120);

fn one_node() -> Result<World> {
    World::new(Lab::builder().pods("n1", &["client", "a", "b"]).families(Families::V4))
}

fn node(world: &World) -> Place {
    (**world.lab.node("n1")).clone()
}

/// Waits until a scrape says so.
fn shows(world: &World, what: &str, check: impl FnMut(&Scrape) -> Result<bool>) -> Result<Scrape> {
    shows_within(world, what, CHANGE_TIMEOUT, check)
}

/// The same, of what the agent finds when it goes through the flows.
fn shows_within(
    world: &World,
    what: &str,
    timeout: Duration,
    mut check: impl FnMut(&Scrape) -> Result<bool>,
) -> Result<Scrape> {
    let node = node(world);
    wait::until(what, timeout, || {
        let scrape = Scrape::of(&node)?;
        ensure!(check(&scrape)?, "not yet");
        Ok(scrape)
    })
}

#[test]
fn connections_failures_and_backends_are_counted_by_service() -> Result<()> {
    let world = one_node()?;
    let client = world.lab.pod("n1", "client").clone();
    let to = cluster_ip(Family::V4, 1);
    world.service("web", 1, &["n1/a", "n1/b"], |service| service)?;
    world.service("empty", 2, &[], |service| service)?;
    reach(&client, to, &["a", "b"])?;
    refused(&client, cluster_ip(Family::V4, 2))?;
    let of = |name: &str| [format!("service_name=\"{name}\""), "protocol=\"TCP\"".to_owned()];
    let count = |scrape: &Scrape, metric: &str, name: &str| {
        let labels = of(name);
        scrape.value(metric, &[&labels[0], &labels[1], "service_namespace=\"shop\""])
    };
    let opened = "millrace_service_connections_total";
    let before = shows(&world, "counts", |scrape| Ok(count(scrape, opened, "web").is_ok()))?;
    let outcomes = Client::Tcp.dial(&client, to, DIALS)?;
    ensure!(outcomes.iter().all(|outcome| outcome.ok), "{outcomes:?}");
    let was = count(&before, opened, "web")?;
    let after = shows(&world, "the dialogues in the counts", |scrape| {
        Ok(count(scrape, opened, "web")? == was + DIALS as f64)
    })?;
    after.check_grown_since(&before)?;
    ensure!(count(&after, "millrace_service_failures_total", "empty")? > 0.0);
    ensure!(count(&after, "millrace_service_failures_total", "web")? == 0.0);
    // The canary's own Service is nobody's business.
    ensure!(after.sum(opened, &["service_namespace=\"\""]).is_none());
    // A connection that is held is its backend's, as long as it is.
    let labels = of("web");
    let held_by = |scrape: &Scrape| {
        let labels = [labels[0].as_str(), &labels[1], "path=\"socket\""];
        scrape.sum("millrace_backend_connections", &labels).unwrap_or(0.0)
    };
    let (held, _) = Held::open(&client, "tcp", to)?;
    shows(&world, "the connection that is held", |scrape| Ok(held_by(scrape) == 1.0))?;
    drop(held);
    shows(&world, "its end", |scrape| Ok(held_by(scrape) == 0.0))?;
    Ok(())
}

/// A connection through the packet path; none while it is refused.
fn dial(client: &Place, to: SocketAddr) -> Result<Option<TcpStream>> {
    match client.within(|| TcpStream::connect_timeout(&to, CHANGE_TIMEOUT))? {
        Ok(stream) => Ok(Some(stream)),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(None),
        Err(error) => Err(error).context("connect"),
    }
}

/// Sends and is sent what is known. Both ends are left open.
fn talk(mut client: TcpStream, listener: &TcpListener) -> Result<[TcpStream; 2]> {
    let (mut server, _) = listener.accept()?;
    std::thread::scope(|scope| -> Result<()> {
        let answering = scope.spawn(|| -> Result<()> {
            server.read_exact(&mut vec![0; ASKED_BYTES])?;
            Ok(server.write_all(&vec![b'a'; ANSWERED_BYTES])?)
        });
        client.write_all(&vec![b'q'; ASKED_BYTES])?;
        client.read_exact(&mut vec![0; ANSWERED_BYTES])?;
        answering.join().expect("the server panicked")
    })?;
    Ok([client, server])
}

/// Samples of a Service's flows, and of its backend's, which must be the same.
fn of_service_and_backend(scrape: &Scrape, metric: &str, name: &str, more: &str) -> Result<f64> {
    let name = format!("service_name=\"{name}\"");
    let of = |whose: &str, more: &[&str]| {
        let labels = [&[name.as_str(), "service_namespace=\"shop\""], more].concat();
        scrape.value(&format!("millrace_{whose}_{metric}"), &labels)
    };
    let [service, backend] = [of("service", &[more])?, of("backend", &["backend=\"10.", more])?];
    ensure!(service == backend, "{metric}: {service} of the service, {backend} of its backend");
    Ok(service)
}

#[test]
fn bytes_connections_and_failures_of_packets_are_counted_by_service_and_backend() -> Result<()> {
    let builder = Lab::builder().pods("n1", &["a"]).families(Families::V4);
    let mut world = World::with_flags(builder, &[IDLE_FLAG])?;
    let (client, a) = (world.lab.outside().clone(), world.lab.pod("n1", "a").clone());
    let node = world.lab.node("n1").address(Family::V4);
    for (index, name) in (0..).zip(["web", "closed"]) {
        let service = Service::new(name).cluster_ip(address::service(Family::V4, index + 1));
        let at = usize::from(index);
        world.apply(&service.port("main", "TCP", 80).node_port_for_all(NODE_PORTS[at]))?;
        let slice = Slice::new(name, name, Family::V4).port("main", "TCP", TARGET_PORTS[at]);
        world.apply(&slice.endpoints(world.ready(&["n1/a"], Family::V4)))?;
    }
    let listener = a.within(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, TARGET_PORTS[0])))??;
    let [web, closed] = NODE_PORTS.map(|port| SocketAddr::new(node, port));
    let stream =
        wait::until("the Service", CHANGE_TIMEOUT, || dial(&client, web)?.context("refused"))?;
    let ends = talk(stream, &listener)?;
    let listed = listed_bytes(&mut world)?;
    let opened = "millrace_service_connections_total";
    shows(&world, "a connection that is led to a closed port", |scrape| {
        ensure!(dial(&client, closed)?.is_none());
        Ok(scrape.sum(opened, &["service_name=\"closed\""]).is_some_and(|opened| opened > 0.0))
    })?;
    let bytes = |scrape: &Scrape, direction: &str| {
        of_service_and_backend(scrape, "bytes_total", "web", &format!("direction=\"{direction}\""))
    };
    let found = shows_within(&world, "bytes and failures", PASS_TIMEOUT, |scrape| {
        let is_all = bytes(scrape, "to_client")? >= ANSWERED_BYTES as f64;
        Ok(is_all && scrape.sum("millrace_backend_failures_total", &["\"closed\""]).is_some())
    })?;
    // Headers, acknowledgements, and what is sent a second time.
    let [asked, answered] = [bytes(&found, "to_backend")?, bytes(&found, "to_client")?];
    println!("{asked} bytes to the backend, {answered} to the client");
    ensure!((1.0..1.15).contains(&(asked / ASKED_BYTES as f64)), "{asked} to the backend");
    ensure!((1.0..1.3).contains(&(answered / ANSWERED_BYTES as f64)), "{answered} to the client");
    let failed = |scrape: &Scrape, metric: &str, name: &str| -> Result<f64> {
        scrape.value(metric, &[&format!("service_name=\"{name}\""), "path=\"packet\""])
    };
    ensure!(of_service_and_backend(&found, "connections_total", "web", "")? == 1.0);
    ensure!(failed(&found, "millrace_backend_failures_total", "web")? == 0.0);
    ensure!(is_all_of([asked, answered], listed), "`millrace flows` says {listed:?}");
    // The Service has not failed: its backend has, as often as it was dialled.
    let after = shows_within(&world, "every failure", PASS_TIMEOUT, |scrape| {
        let dialled = of_service_and_backend(scrape, "connections_total", "closed", "")?;
        Ok(failed(scrape, "millrace_backend_failures_total", "closed")? == dialled)
    })?;
    ensure!(after.value("millrace_service_failures_total", &["\"closed\""])? == 0.0);
    // What is counted stays when its flow goes.
    let gone = shows_within(&world, "the flow's end", PASS_TIMEOUT, |scrape| {
        let state = "state=\"established\"";
        Ok(scrape.value("millrace_flows", &["ip_family=\"IPv4\"", state])? == 0.0)
    })?;
    drop(ends);
    gone.check_grown_since(&after)?;
    after.check_grown_since(&found)?;
    let counted = [bytes(&gone, "to_backend")?, bytes(&gone, "to_client")?];
    ensure!(is_all_of(counted, [asked, answered]), "{counted:?} in the end");
    Ok(())
}

/// Whether the second number of bytes is in the first, and but for late acknowledgements all of it.
fn is_all_of(now: [f64; 2], before: [f64; 2]) -> bool {
    now.into_iter().zip(before).all(|(now, before)| (before..before + LATE_BYTES).contains(&now))
}

/// What `millrace flows` says of the one flow of the Service.
fn listed_bytes(world: &mut World) -> Result<[f64; 2]> {
    let output = world.agent("n1").operate(&["flows", "--service=web", "-o", "json"])?;
    let listing: Value = serde_json::from_slice(&output.stdout)?;
    let flows = listing["flows"].as_array().context("a list")?;
    ensure!(flows.len() == 1, "{listing}");
    let bytes = |field: &str| flows[0][field].as_f64().context("a number");
    Ok([bytes("bytesToBackend")?, bytes("bytesToClient")?])
}

#[test]
fn changes_are_counted_measured_and_programmed() -> Result<()> {
    let builder = Lab::builder().pods("n1", &["client", "a"]).pods("n2", &["b"]);
    let mut world = World::new(builder.nodes(2))?;
    let before = Scrape::of(&node(&world))?;
    let canarys = canarys_share(&mut world)?;
    let service = world.service("web", 1, &["n2/b"], Service::internal_local)?;
    for &family in world.lab.families() {
        wait_dropped(&world, family)?;
    }
    // A change that was caused now is measured; in IPv4 alone.
    let now = Timestamp::now();
    let slice = caused(world.slice("web", &["n1/a"], Family::V4), now);
    world.apply(&slice)?;
    reach(world.lab.pod("n1", "client"), cluster_ip(Family::V4, 1), &["a"])?;
    let programmed = "kubeproxy_network_programming_duration_seconds_count";
    let after = shows(&world, "the change in the measures", |scrape| {
        Ok(scrape.value(programmed, &["ip_family=\"IPv4\""])? == 1.0)
    })?;
    ensure!(after.value(programmed, &["ip_family=\"IPv6\""])? == 0.0);
    after.check_grown_since(&before)?;
    let grown = |name: &str, labels: &[&str]| -> Result<f64> {
        Ok(after.value(name, labels)? - before.value(name, labels)?)
    };
    ensure!(grown("kubeproxy_sync_proxy_rules_service_changes_total", &[])? == 1.0);
    ensure!(grown("kubeproxy_sync_proxy_rules_endpoint_changes_total", &[])? == 3.0);
    for family in ["ip_family=\"IPv4\"", "ip_family=\"IPv6\""] {
        ensure!(grown("kubeproxy_sync_proxy_rules_duration_seconds_count", &[family])? > 0.0);
        for stamp in ["last_timestamp_seconds", "last_queued_timestamp_seconds"] {
            let at = after.value(&format!("kubeproxy_sync_proxy_rules_{stamp}"), &[family])?;
            ensure!(at >= now.as_second() as f64, "{stamp} {at} is before {now}");
        }
    }
    ensure!(after.value("kubeproxy_sync_proxy_rules_endpoint_changes_pending", &[])? == 0.0);
    ensure!(after.value("millrace_ready", &[])? == 1.0);
    wait::until("metrics and a dump of the maps to agree", CHANGE_TIMEOUT, || {
        let now = canarys_share(&mut world)?;
        ensure!(now == canarys, "{now:?} is the canary's, and was {canarys:?}");
        Ok(())
    })?;
    world.delete(&service)?;
    shows(&world, "nobody to need a local endpoint", |scrape| {
        Ok(scrape.value("kubeproxy_sync_proxy_rules_no_local_endpoints_total", &[])? == 0.0)
    })?;
    Ok(())
}

/// Both ports of the one service need a local endpoint and have none.
fn wait_dropped(world: &World, family: Family) -> Result<()> {
    let family = format!("ip_family=\"{}\"", family.kubernetes());
    shows(world, "ports without a local endpoint", |scrape| {
        let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
        let internal = scrape.value(name, &["traffic_policy=\"internal\"", &family])?;
        Ok(internal == 2.0 && scrape.value(name, &["policy=\"external\"", &family])? == 0.0)
    })?;
    Ok(())
}

/// The slice, with the time of its cause.
fn caused(mut slice: Slice, at: Timestamp) -> Slice {
    let key = "endpoints.kubernetes.io/last-change-trigger-time";
    slice.0["metadata"]["annotations"] = json!({key: at.to_string()});
    slice
}

/// What metrics say of the maps is what a full dump of them finds, and the canary's rows, which
/// `status` keeps to itself: by map, entries and room that are the canary's.
fn canarys_share(world: &mut World) -> Result<BTreeMap<String, (f64, f64)>> {
    let node = node(world);
    let status = world.agent("n1").status_json()?;
    let scrape = Scrape::of(&node)?;
    let maps = status["maps"].as_array().context("maps")?;
    let share = |map: &Value| -> Result<(String, (f64, f64))> {
        let name = map["name"].as_str().context("a name")?;
        let label = format!("map=\"{name}\"");
        let more_than = |metric: &str, field: &str| -> Result<f64> {
            Ok(scrape.value(metric, &[&label])? - map[field].as_f64().context("a number")?)
        };
        let used = more_than("millrace_map_entries", "used")?;
        Ok((name.to_owned(), (used, more_than("millrace_map_max_entries", "size")?)))
    };
    maps.iter().map(share).collect()
}

#[test]
fn a_scraper_never_sees_a_counter_go_down_while_services_change() -> Result<()> {
    let world = one_node()?;
    let client = world.lab.pod("n1", "client").clone();
    world.service("steady", 1, &["n1/a"], |service| service)?;
    reach(&client, cluster_ip(Family::V4, 1), &["a"])?;
    let node = node(&world);
    let done = AtomicBool::new(false);
    let scrapes = std::thread::scope(|scope| -> Result<usize> {
        let scraper = scope.spawn(|| -> Result<usize> {
            let mut last = Scrape::of(&node)?;
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                let now = Scrape::of(&node)?;
                now.check_grown_since(&last)?;
                (last, count) = (now, count + 1);
            }
            Ok(count)
        });
        let churned = churn(&world, &client);
        done.store(true, Ordering::Relaxed);
        let count = scraper.join().expect("the scraper panicked");
        churned.and(count)
    })?;
    println!("{scrapes} scrapes while services changed");
    ensure!(scrapes > 1);
    Ok(())
}

/// Services come, are dialled, and go; ids are given to one after the other.
fn churn(world: &World, client: &Place) -> Result<()> {
    let start = Instant::now();
    for index in 2.. {
        if start.elapsed() > CHURN {
            break;
        }
        let to = cluster_ip(Family::V4, index);
        let service = world.service(&format!("s{index}"), index, &["n1/b"], |service| service)?;
        reach(client, to, &["b"])?;
        world.delete(&service)?;
    }
    Ok(())
}

/// Service number `index`, with endpoints that nobody serves.
fn many(index: u16) -> [serde_json::Value; 2] {
    let name = format!("svc-{index}");
    let service = Service::new(&name).cluster_ip(address::service(Family::V4, index));
    let slice = Slice::new(&format!("{name}-v4"), &name, Family::V4).port("main", "TCP", 8443);
    let [high, low] = index.to_be_bytes();
    let endpoints = (1..=3).map(|host| Endpoint::ready([100, 64 + high, low, host].into(), "n9"));
    [service.port("main", "TCP", 443).value(), slice.endpoints(endpoints).value()]
}

#[test]
fn a_scrape_of_ten_thousand_services_holds_nobody_up() -> Result<()> {
    let builder = Lab::builder().pods("n1", &["client", "a"]).families(Families::V4);
    let mut world = World::without_agents(builder, &[])?;
    // Maps of the sizes that agents have: an array is read whole, however little is in it.
    world.start_agents(&[])?;
    let directory = world.lab.node("n1").manifests();
    for first in (0..SERVICES).step_by(usize::from(SERVICES_PER_FILE)) {
        let items: Vec<_> = (first..first + SERVICES_PER_FILE).flat_map(many).collect();
        let text = manifest::list(items).to_string();
        manifest::write_as(&directory, &format!("many-{first}.json"), &text)?;
    }
    let node = node(&world);
    let scrape = wait::until("all services in the metrics", FEED_TIMEOUT, || {
        let scrape = Scrape::of(&node)?;
        let known = scrape.value("millrace_services", &[])?;
        ensure!(known >= f64::from(SERVICES), "{known}");
        Ok(scrape)
    })?;
    println!("reading the maps took {} s", scrape.value("millrace_scrape_seconds", &[])?);
    println!("{} samples", scrape.samples.len());
    ensure!(scrape.samples.len() < 2000, "nobody has dialled, and yet services have series");
    // Scrapes without a pause are nothing to a change.
    let client = world.lab.pod("n1", "client").clone();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| -> Result<()> {
        let scraper = scope.spawn(|| -> Result<usize> {
            let mut count = 0;
            while !done.load(Ordering::Relaxed) {
                Scrape::of(&node)?;
                count += 1;
            }
            Ok(count)
        });
        let start = Instant::now();
        let changed = world
            .service("late", 65_000, &["n1/a"], |service| service)
            .and_then(|_| reach(&client, cluster_ip(Family::V4, 65_000), &["a"]));
        let took = start.elapsed();
        done.store(true, Ordering::Relaxed);
        let count = scraper.join().expect("the scraper panicked")?;
        println!("a change took {took:?} under {count} scrapes");
        changed
    })
}
