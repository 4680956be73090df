//! What the demo shows, scene by scene. Each claim is checked where it is printed.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use millrace_tests::lab::{Family, Place, address};
use millrace_tests::probe;
use millrace_tests::wait;
use millrace_tests::world::Client;

use crate::outside::outside;
use crate::report::Report;
use crate::servers::{DOMAIN, ask};
use crate::shop::{API, CACHE, CHECKOUT, DNS, FAMILIES, HTTP_TARGET, NODE_PORT, SEARCH, Shop, WEB};

/// Requests per row of a table.
const REQUESTS: usize = 60;
/// A refusal that takes longer was not immediate.
const REFUSAL_LIMIT: Duration = Duration::from_millis(100);
/// How long the traffic may take to follow a change of the manifests.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections timed per row.
const TIMED: usize = 300;
/// Translation must not double the median of a connect; other jobs share this machine, so a
/// constant number of microseconds on top.
const LATENCY_SLACK_MICROS: f64 = 50.0;

/// One request by curl.
pub const ONCE: &[&str] = &["-s", "--max-time", "3"];

/// A scene.
pub type Scene = fn(&mut Shop, &mut Report) -> Result<()>;

/// All scenes in order.
pub const ALL: &[(&str, Scene)] = &[
    ("Web: one ClusterIP, three backends on three nodes", web),
    ("API: JSON over HTTP, two backends", api),
    ("DNS: UDP and TCP on port 53 of one ClusterIP", dns),
    ("Cache: ClientIP affinity", cache),
    ("Search: a Service without endpoints", search),
    ("NodePort: on the node itself, loopback included", node_port),
    ("Outside: NodePort, load balancer, externalTrafficPolicy: Local", outside),
    ("Latency: connect() through the Service beside direct", latency),
    ("Scaling web from three to two, live", scale),
    ("kill -9 of the agent on n1", kill),
];

/// Answers by server; failures under the name `failed`.
pub type Tally = BTreeMap<String, usize>;

/// `http://IP:PORT/`.
pub fn url(ip: std::net::IpAddr, port: u16) -> String {
    format!("http://{}/", SocketAddr::new(ip, port))
}

/// `REQUESTS` requests on connections of their own, counted by the first word of the answer.
pub fn curl(place: &Place, url: &str) -> Result<Tally> {
    let many = format!("{url}?[1-{REQUESTS}]");
    let arguments = ["-s", "--fail-early", "--max-time", "3", "-H", "Connection: close", &many];
    // curl's exit code is the last transfer's; the count of answers tells about all of them.
    let output = place.command("curl").args(arguments).output().context("start curl")?;
    let mut tally = Tally::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let json = serde_json::from_str::<serde_json::Value>(line).ok();
        let name = json.as_ref().and_then(|value| value["pod"].as_str());
        let name = name.or_else(|| line.split(' ').next()).unwrap_or_default();
        *tally.entry(name.to_owned()).or_default() += 1;
    }
    let answered: usize = tally.values().sum();
    tally.insert("failed".into(), REQUESTS.saturating_sub(answered));
    Ok(tally)
}

/// The table of requests per backend, and the claim that all backends served and none failed.
pub fn show(report: &mut Report, rows: &[(String, Tally)], servers: &[&str]) {
    let mut header = vec!["client"];
    header.extend(servers);
    header.push("failed");
    let cell = |tally: &Tally, name: &str| tally.get(name).copied().unwrap_or(0);
    let line = |(client, tally): &(String, Tally)| {
        let counts = header[1..].iter().map(|name| cell(tally, name).to_string());
        [client.clone()].into_iter().chain(counts).collect()
    };
    report.table(&header, rows.iter().map(line).collect());
    let fair = |tally: &Tally| {
        let all = servers.iter().all(|name| cell(tally, name) > 0);
        all && cell(tally, "failed") == 0 && tally.len() == servers.len() + 1
    };
    let claim = format!("every request was answered, and only by {}", servers.join(", "));
    report.check(rows.iter().all(|(_, tally)| fair(tally)), &claim);
}

fn web_rows(shop: &Shop, clients: &[&str]) -> Result<Vec<(String, Tally)>> {
    let mut rows = Vec::new();
    for client in clients {
        let place = shop.lab.place(client).context("a client of the demo")?;
        for family in FAMILIES {
            let tally = curl(place, &url(address::service(family, WEB), 80))?;
            rows.push((format!("{} {family}", place.name()), tally));
        }
    }
    Ok(rows)
}

fn web(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let rows = web_rows(shop, &["client-1", "client-2", "client-3", "n1"])?;
    show(report, &rows, &["web-0", "web-1", "web-2"]);
    let client = shop.pod("client-1");
    let seen =
        ask(client, "curl", &[ONCE, &[&url(address::service(Family::V4, WEB), 80)]].concat())?;
    let own = client.address(Family::V4).to_string();
    report.check(
        seen.trim().ends_with(&own),
        &format!("the web server sees the pod: {}", seen.trim()),
    );
    Ok(())
}

fn api(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    for family in FAMILIES {
        let tally = curl(shop.pod("client-2"), &url(address::service(family, API), 80))?;
        rows.push((format!("client-2 {family}"), tally));
    }
    show(report, &rows, &["api-0", "api-1"]);
    Ok(())
}

fn dns(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let client = shop.pod("client-1");
    let mut rows = Vec::new();
    for family in FAMILIES {
        let server = format!("@{}", address::service(family, DNS));
        for (transport, flag) in [("UDP", "+notcp"), ("TCP", "+tcp")] {
            let who = format!("whoami.{DOMAIN}");
            let mut arguments = Vec::new();
            for _ in 0..REQUESTS / 3 {
                let question = [&who, "TXT", &server, flag, "+short", "+tries=1", "+time=3"];
                arguments.extend(question.map(str::to_owned));
            }
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let answers = ask(client, "dig", &arguments)?;
            let mut tally = Tally::new();
            for line in answers.lines() {
                *tally.entry(line.trim_matches('"').to_owned()).or_default() += 1;
            }
            let answered: usize = tally.values().sum();
            tally.insert("failed".into(), (REQUESTS / 3).saturating_sub(answered));
            rows.push((format!("client-1 {family} {transport}"), tally));
        }
    }
    show(report, &rows, &["dns-0", "dns-1"]);
    for (kind, family) in [("A", Family::V4), ("AAAA", Family::V6)] {
        let server = format!("@{}", address::service(family, DNS));
        let name = format!("web.{DOMAIN}");
        let answer = ask(client, "dig", &[&server, &name, kind, "+short"])?;
        let right = answer.trim() == address::service(family, WEB).to_string();
        report.check(right, &format!("{kind} {name} is {}", answer.trim()));
        let page = ask(client, "curl", &[ONCE, &[&url(answer.trim().parse()?, 80)]].concat())?;
        report.check(page.starts_with("web-"), &format!("and curl of it says: {}", page.trim()));
    }
    Ok(())
}

fn cache(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    let mut sticky = true;
    for client in ["client-1", "client-2", "client-3", "n1", "n2", "n3"] {
        let place = shop.lab.place(client).context("a client of the demo")?;
        for family in FAMILIES {
            let at = address::service(family, CACHE).to_string();
            let mut tally = Tally::new();
            for _ in 0..REQUESTS / 6 {
                let who = ask(place, "redis-cli", &["-h", &at, "get", "whoami"])?;
                *tally.entry(who.trim().to_owned()).or_default() += 1;
            }
            sticky &= tally.len() == 1 && tally.keys().all(|name| name.starts_with("cache-"));
            let counts = ["cache-0", "cache-1"].map(|n| tally.get(n).unwrap_or(&0).to_string());
            rows.push([vec![format!("{} {family}", place.name())], counts.to_vec()].concat());
        }
    }
    report.table(&["client", "cache-0", "cache-1"], rows);
    report.check(sticky, "every client stays with one cache");
    Ok(())
}

fn search(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let mut rows = Vec::new();
    let mut immediate = true;
    for name in ["client-1", "n1"] {
        let place = shop.lab.place(name).context("a client of the demo")?;
        for family in FAMILIES {
            let at = SocketAddr::new(address::service(family, SEARCH), 80);
            for client in Client::ALL {
                let outcome = client.dial_briefly(place, at)?;
                let took = Duration::from_micros(outcome.micros);
                immediate &= outcome.who() == "ECONNREFUSED" && took < REFUSAL_LIMIT;
                let kind = format!("{client:?}");
                let took = format!("{} us", outcome.micros);
                rows.push(vec![name.into(), at.to_string(), kind, outcome.who().into(), took]);
            }
        }
    }
    report.table(&["client", "Service", "socket", "result", "after"], rows);
    report.check(immediate, "TCP and UDP are refused at once, not left to time out");
    let at = url(address::service(Family::V4, SEARCH), 80);
    let curl = shop.pod("client-1").command("curl").args(ONCE).arg(&at).output()?;
    report.check(curl.status.code() == Some(7), "curl says so too: exit code 7, could not connect");
    Ok(())
}

fn node_port(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let n1 = shop.lab.node("n1");
    let mut rows = Vec::new();
    for family in FAMILIES {
        for ip in [family.loopback(), n1.address(family)] {
            rows.push((format!("n1 to {ip}"), curl(n1, &url(ip, NODE_PORT))?));
        }
        let ip = n1.address(family);
        rows.push((format!("client-1 to {ip}"), curl(shop.pod("client-1"), &url(ip, NODE_PORT))?));
    }
    show(report, &rows, &["web-0", "web-1", "web-2"]);
    let own = url(Family::V4.loopback(), NODE_PORT);
    let curl = shop.pod("client-1").command("curl").args(ONCE).arg(&own).output()?;
    report.check(curl.status.code() == Some(7), "a pod's own 127.0.0.1 stays its own");
    Ok(())
}

fn latency(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let client = shop.pod("client-1");
    let mut rows = Vec::new();
    let mut close = true;
    for family in FAMILIES {
        let direct = SocketAddr::new(shop.pod("checkout-0").address(family), HTTP_TARGET);
        let service = SocketAddr::new(address::service(family, CHECKOUT), 80);
        // The first round warms both paths up.
        let _ = (probe::latency(client, direct, 20)?, probe::latency(client, service, 20)?);
        let measured =
            [probe::latency(client, direct, TIMED)?, probe::latency(client, service, TIMED)?];
        for (what, l) in ["direct", "Service"].iter().zip(measured) {
            let times = [l.median, l.min, l.max].map(|micros| format!("{micros:.1}"));
            rows.push([vec![format!("{family} {what}")], times.to_vec()].concat());
        }
        let [direct, service] = measured;
        close &= direct.failed + service.failed == 0;
        close &= service.median < direct.median * 2.0 + LATENCY_SLACK_MICROS;
    }
    report.table(&["connect() to checkout-0", "median us", "min us", "max us"], rows);
    report.check(close, "through the Service it takes about as long as direct");
    Ok(())
}

fn scale(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let start = Instant::now();
    shop.scale_web(&["web-0", "web-1"])?;
    let (client, at) = (shop.pod("client-1"), url(address::service(Family::V4, WEB), 80));
    wait::until("the traffic to leave web-2", FOLLOW_TIMEOUT, || {
        let tally = curl(client, &at)?;
        ensure!(!tally.contains_key("web-2"), "{tally:?}");
        Ok(())
    })?;
    let took = start.elapsed().as_millis();
    report.note(&format!("web-2 left the EndpointSlices; {took} ms later a full round avoided it"));
    // Every node follows its own copy, and both families: wait for all before the pod ends.
    for name in ["client-1", "client-2", "client-3"] {
        for family in FAMILIES {
            let at = url(address::service(family, WEB), 80);
            wait::until("every node to follow", FOLLOW_TIMEOUT, || {
                let tally = curl(shop.pod(name), &at)?;
                ensure!(!tally.contains_key("web-2"), "{tally:?}");
                Ok(())
            })?;
        }
    }
    drop(shop.servers.remove("web-2"));
    let rows = web_rows(shop, &["client-1", "client-2", "client-3"])?;
    report.note("and then web-2 was stopped:");
    show(report, &rows, &["web-0", "web-1"]);
    let pod = shop.pod("web-2").clone();
    shop.start_server(&pod)?;
    shop.scale_web(&["web-0", "web-1", "web-2"])?;
    let back = wait::until("the traffic to come back", FOLLOW_TIMEOUT, || {
        let tally = curl(shop.pod("client-1"), &at)?;
        ensure!(tally.len() == 4, "{tally:?}");
        Ok(())
    });
    report.check(back.is_ok(), "scaled back, web-2 serves again");
    Ok(())
}

fn kill(shop: &mut Shop, report: &mut Report) -> Result<()> {
    let load = probe::Pressure::start(
        shop.pod("client-1"),
        "dial",
        SocketAddr::new(address::service(Family::V4, CHECKOUT), 80),
    )?;
    let pid = shop.agent("n1").pid().context("the agent runs")?;
    shop.agent("n1").kill()?;
    report.note(&format!("process {pid} is dead; nothing else was touched"));
    let rows = web_rows(shop, &["client-1", "n1"])?;
    show(report, &rows, &["web-0", "web-1", "web-2"]);
    let start = Instant::now();
    shop.agent("n1").restart()?;
    let took = start.elapsed().as_millis();
    report.note(&format!("the agent is back after {took} ms and adopted what was pinned"));
    let load = load.stop()?;
    let claim = format!(
        "of {} connections made through kill and restart, {} failed",
        load.count, load.failed
    );
    report.check(load.count > 0 && load.failed == 0, &claim);
    Ok(())
}
