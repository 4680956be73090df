//! Names, types, labels and buckets: kube-proxy's as its specification lists them, ours as the
//! README does.

mod dashboards;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use millrace_common::address::Family;
use millrace_common::counters::{Counter, Group};
use millrace_common::service::ServiceRow;
use millrace_common::traffic::Traffic;

use super::scrape::{BackendKey, BackendPlace, Readings, Sockets};
use super::{IP_FAMILIES, Metrics, since_epoch};
use crate::apply::no_local::{ByPolicy, NoLocal};
use crate::canary::tally::Check;
use crate::flows::Pass;
use crate::flows::account::{Found, Led, Usage};
use crate::flows::sweep::TableCounts;
use crate::model::triggers::{Pending, Trigger};
use crate::plan::Planner;
use crate::plan::occupancy::MapRoom;
use crate::plan::op::Capacity;
use crate::report::{Condition, Report, Severity};
use crate::source::{Event, Kind, ObjectName, SharedName};

/// Buckets A of the specification: 0.001 * 2^i, i = 0..14.
const A: &str = "0.001 0.002 0.004 0.008 0.016 0.032 0.064 0.128 0.256 0.512 1.024 2.048 4.096 \
                 8.192 16.384 +Inf";
/// Buckets B: 0.25, 0.5, 1..59 step 1, 60..115 step 5, 120..300 step 30.
const B: &str = "0.25 0.5 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 \
                 28 29 30 31 32 33 34 35 36 37 38 39 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 \
                 55 56 57 58 59 60 65 70 75 80 85 90 95 100 105 110 115 120 150 180 210 240 270 \
                 300 +Inf";
/// client-go's.
const C: &str = "0.005 0.025 0.1 0.25 0.5 1 2 4 8 15 30 60 +Inf";

const FAMILIES: &str = "ip_family=IPv4 ip_family=IPv6";
const CODES: &str = "code=200 code=503";
const POLICIES: &str = "ip_family=IPv4,traffic_policy=external \
                        ip_family=IPv4,traffic_policy=internal \
                        ip_family=IPv6,traffic_policy=external \
                        ip_family=IPv6,traffic_policy=internal";

/// Name, type, label sets, buckets.
type Row = (&'static str, &'static str, &'static str, &'static str);

/// Section 4.3 of the specification: what every mode of kube-proxy has, and the conntrack
/// reconciler.
const KUBE_PROXY: &[Row] = &[
    ("kubeproxy_sync_proxy_rules_duration_seconds", "histogram", FAMILIES, A),
    ("kubeproxy_sync_proxy_rules_last_timestamp_seconds", "gauge", FAMILIES, ""),
    ("kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds", "gauge", FAMILIES, ""),
    ("kubeproxy_network_programming_duration_seconds", "histogram", FAMILIES, B),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", "gauge", "", ""),
    ("kubeproxy_sync_proxy_rules_endpoint_changes_total", "counter", "", ""),
    ("kubeproxy_sync_proxy_rules_service_changes_pending", "gauge", "", ""),
    ("kubeproxy_sync_proxy_rules_service_changes_total", "counter", "", ""),
    ("kubeproxy_sync_proxy_rules_no_local_endpoints_total", "gauge", POLICIES, ""),
    ("kubeproxy_proxy_healthz_total", "counter", CODES, ""),
    ("kubeproxy_proxy_livez_total", "counter", CODES, ""),
    ("kubeproxy_conntrack_reconciler_sync_duration_seconds", "histogram", FAMILIES, A),
    ("kubeproxy_conntrack_reconciler_deleted_entries_total", "counter", FAMILIES, ""),
];

/// What is standard beside them.
const STANDARD: &[Row] = &[
    ("process_cpu_seconds_total", "counter", "", ""),
    ("process_resident_memory_bytes", "gauge", "", ""),
    ("process_virtual_memory_bytes", "gauge", "", ""),
    ("process_start_time_seconds", "gauge", "", ""),
    ("process_open_fds", "gauge", "", ""),
    ("process_max_fds", "gauge", "", ""),
    ("go_goroutines", "gauge", "", ""),
    ("rest_client_requests_total", "counter", "code=200,host=api:6443,method=GET", ""),
    ("rest_client_request_duration_seconds", "histogram", "host=api:6443,verb=GET", C),
];

/// One metric, read off the text.
#[derive(Default)]
struct Seen {
    kind: String,
    labels: BTreeSet<String>,
    buckets: Vec<String>,
    samples: BTreeMap<String, f64>,
}

/// Reads the text format as far as we write it.
fn parse(text: &str) -> BTreeMap<String, Seen> {
    let mut metrics: BTreeMap<String, Seen> = BTreeMap::new();
    let mut name = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (family, kind) = rest.split_once(' ').unwrap();
            family.clone_into(&mut name);
            let seen = metrics.entry(name.clone()).or_default();
            assert!(seen.kind.is_empty(), "{family} is there twice");
            kind.clone_into(&mut seen.kind);
        }
        if line.starts_with('#') {
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(series.starts_with(&name), "{series} is not of {name}");
        let seen = metrics.get_mut(&name).unwrap();
        let labels = series.split_once('{').map_or("", |(_, labels)| labels.trim_end_matches('}'));
        let mut pairs: Vec<String> =
            labels.split("\",").filter(|l| !l.is_empty()).map(|l| l.replace('"', "")).collect();
        if let Some(index) = pairs.iter().position(|pair| pair.starts_with("le=")) {
            seen.buckets.push(pairs.remove(index)[3..].to_owned());
        }
        pairs.sort();
        seen.labels.insert(pairs.join(","));
        seen.samples.insert(series.to_owned(), value.parse().unwrap());
    }
    metrics
}

fn check(metrics: &BTreeMap<String, Seen>, (name, kind, labels, buckets): Row) {
    let seen = metrics.get(name).unwrap_or_else(|| panic!("{name} is missing"));
    assert_eq!(seen.kind, kind, "{name}");
    let wanted: BTreeSet<String> = match labels {
        "" => [String::new()].into(),
        labels => labels.split_whitespace().map(str::to_owned).collect(),
    };
    assert_eq!(seen.labels, wanted, "{name}");
    let buckets: Vec<&str> = buckets.split_whitespace().collect();
    // Each set of labels has all of them.
    for found in seen.buckets.chunks(buckets.len().max(1)) {
        assert_eq!(found, buckets, "{name}");
    }
    assert_eq!(seen.buckets.len(), buckets.len() * wanted.len(), "{name}");
}

/// Maps as a busy node's may be.
struct Maps;

impl Readings for Maps {
    fn counters(&self) -> Result<Vec<(Counter, u64)>> {
        Ok(Counter::ALL.into_iter().map(|counter| (counter, counter as u64 + 1)).collect())
    }
    fn traffic(&self, _: u32) -> Result<Vec<(u32, Traffic)>> {
        Ok(vec![(1, Traffic { opened: 7, failed: 2 })])
    }
    fn service(&self, _: u32) -> Result<Option<ServiceRow>> {
        Ok(ServiceRow::new("shop", "web", "http", 6))
    }
    fn sockets(&self) -> Result<Sockets> {
        Ok(Sockets { by_backend: [(key(1), 3), (key(9), 2)].into(), places: 5 })
    }
    fn backend(&self, key: BackendKey) -> Result<Option<BackendPlace>> {
        let place = BackendPlace { service: 1, address: SocketAddr::from(([10, 0, 0, 1], 8080)) };
        Ok((key.id == 1).then_some(place))
    }
    fn rooms(&self) -> Result<Vec<MapRoom>> {
        Ok(vec![MapRoom { name: "affinity", used: 4, size: 16 }])
    }
}

fn key(id: u32) -> BackendKey {
    BackendKey { family: Family::V4, id, generation: 1 }
}

fn pass() -> Pass {
    let mut pass = Pass::default();
    pass.v4.established.counts = TableCounts { entries: 10, flows: 4, removed: 2 };
    pass.v4.established.size = 100;
    pass.v4.stale_removed = 2;
    pass.v4.by_backend = [((1, 1), 4)].into();
    let led = Led { service: 1, backend: ([10, 0, 0, 1], 8080).into() };
    let usage = Usage { opened: 4, failed: 1, to_backend: 300, to_client: 7000 };
    pass.v4.usage = [(led, Found { row: Some((1, 1)), usage })].into();
    pass.v4.took = Duration::from_millis(3);
    pass
}

/// Everything happens once.
fn busy() -> Metrics {
    let metrics = Metrics::new().unwrap();
    metrics.read_maps(Box::new(Maps));
    metrics.event(&Event::Delete(Kind::Service, ObjectName::new("shop", "web")));
    metrics.queued(Pending { services: 1, slices: 2 });
    metrics.synced(Duration::from_millis(3), 12);
    metrics.sync_failed();
    metrics.swept(pass());
    let check = |error: Option<&str>| Check {
        hook: "connect4".to_owned(),
        family: Family::V4,
        error: error.map(str::to_owned),
    };
    metrics.canary_checked(&[check(None), check(Some("refused"))]);
    let condition = |severity| Condition {
        severity,
        about: "Service shop/web".to_owned(),
        message: "does not fit".to_owned(),
    };
    metrics.report(&Report {
        ready: true,
        repaired_hooks: 3,
        conditions: vec![condition(Severity::Refused)],
        ..Report::default()
    });
    metrics.planned(&Planner::new(Capacity::default()).occupancy(), &NoLocal::default());
    metrics
}

/// A request through the layer, as kube's client makes it.
async fn request(metrics: &Metrics) {
    let answer = async |_| Ok::<_, ()>(http::Response::new(()));
    let service = tower::service_fn(answer);
    let mut counted = tower::Layer::layer(&metrics.requests().layer("api:6443"), service);
    let request = http::Request::get("/api/v1/services").body(()).unwrap();
    tower::Service::call(&mut counted, request).await.unwrap();
}

#[tokio::test]
async fn kube_proxys_metrics_are_all_there() {
    let metrics = busy();
    request(&metrics).await;
    let seen = parse(&metrics.render());
    KUBE_PROXY.iter().chain(STANDARD).for_each(|row| check(&seen, *row));
    let prefixed = |name: &&String| name.starts_with("kubeproxy_");
    assert_eq!(seen.keys().filter(prefixed).count(), KUBE_PROXY.len(), "one that it does not have");
    assert!(!seen.contains_key("kubernetes_build_info"), "an alert compares versions by it");
}

#[test]
fn nothing_has_happened_at_the_start_and_rates_have_a_zero_to_begin_from() {
    let seen = parse(&Metrics::new().unwrap().render());
    for (name, kind, ..) in KUBE_PROXY {
        let times = name.ends_with("timestamp_seconds");
        assert_eq!(seen.contains_key(*name), !times, "{name} ({kind})");
        let zero = seen.get(*name).is_none_or(|seen| seen.samples.values().all(|v| *v == 0.0));
        assert!(zero, "{name}");
    }
}

fn sample(metrics: &Metrics, series: &str) -> f64 {
    let text = metrics.render();
    let seen = parse(&text);
    let found = seen.values().find_map(|seen| seen.samples.get(series));
    *found.unwrap_or_else(|| panic!("no {series} in:\n{text}"))
}

#[test]
fn what_was_recorded_is_what_is_shown() {
    let metrics = busy();
    let shown = [
        ("kubeproxy_sync_proxy_rules_service_changes_total", 1.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_total", 0.0),
        ("kubeproxy_sync_proxy_rules_endpoint_changes_pending", 0.0),
        (
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.004\"}",
            1.0,
        ),
        (
            "kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family=\"IPv6\",le=\"0.002\"}",
            0.0,
        ),
        ("kubeproxy_conntrack_reconciler_deleted_entries_total{ip_family=\"IPv4\"}", 2.0),
        ("millrace_bpf_sync_failures_total", 1.0),
        ("millrace_map_writes_total", 12.0),
        ("millrace_conditions{severity=\"refused\"}", 1.0),
        ("millrace_conditions{severity=\"warning\"}", 0.0),
        ("millrace_hooks_repaired_total{path=\"socket\"}", 3.0),
        ("millrace_canary_checks_total{hook=\"connect4\",ip_family=\"IPv4\",result=\"ok\"}", 1.0),
        (
            "millrace_canary_checks_total{hook=\"connect4\",ip_family=\"IPv4\",result=\"failed\"}",
            1.0,
        ),
        ("millrace_canary_ok{hook=\"connect4\",ip_family=\"IPv4\"}", 0.0),
        ("millrace_map_entries{map=\"flows_v4\"}", 8.0),
        ("millrace_map_max_entries{map=\"flows_v4\"}", 100.0),
        ("millrace_map_entries{map=\"affinity\"}", 4.0),
        ("millrace_map_entries{map=\"peers\"}", 5.0),
        ("millrace_flows{ip_family=\"IPv4\",state=\"established\"}", 4.0),
        ("millrace_flow_entries_swept_total{ip_family=\"IPv4\"}", 2.0),
        ("millrace_sockets", 5.0),
        ("millrace_stale_connections{path=\"socket\"}", 2.0),
    ];
    for (series, value) in shown {
        assert_eq!(sample(&metrics, series), value, "{series}");
    }
    let port =
        "service_namespace=\"shop\",service_name=\"web\",service_port=\"http\",protocol=\"TCP\"";
    let backend = format!("{{{port},backend=\"10.0.0.1:8080\",path=");
    let of_port = [
        (format!("millrace_service_connections_total{{{port}}}"), 7.0),
        (format!("millrace_service_failures_total{{{port}}}"), 2.0),
        (format!("millrace_backend_connections{backend}\"socket\"}}"), 3.0),
        (format!("millrace_backend_connections{backend}\"packet\"}}"), 4.0),
    ];
    let of_backend = |metric: &str, last: &str, value| {
        (format!("millrace_backend_{metric}{{{port},backend=\"10.0.0.1:8080\",{last}}}"), value)
    };
    let of_flows = [
        (format!("millrace_service_bytes_total{{{port},direction=\"to_backend\"}}"), 300.0),
        (format!("millrace_service_bytes_total{{{port},direction=\"to_client\"}}"), 7000.0),
        of_backend("connections_total", "path=\"packet\"", 4.0),
        of_backend("failures_total", "path=\"packet\"", 1.0),
        of_backend("bytes_total", "direction=\"to_backend\"", 300.0),
        of_backend("bytes_total", "direction=\"to_client\"", 7000.0),
    ];
    for (series, value) in of_port.into_iter().chain(of_flows) {
        assert_eq!(sample(&metrics, &series), value, "{series}");
    }
}

#[test]
fn what_waits_is_shown_until_a_round_has_succeeded() {
    let metrics = Metrics::new().unwrap();
    let pending =
        |metrics: &Metrics| sample(metrics, "kubeproxy_sync_proxy_rules_endpoint_changes_pending");
    metrics.queued(Pending { services: 0, slices: 2 });
    assert_eq!(pending(&metrics), 2.0);
    metrics.sync_failed();
    assert_eq!(pending(&metrics), 2.0);
    metrics.synced(Duration::ZERO, 0);
    assert_eq!(pending(&metrics), 0.0);
}

#[test]
fn every_outcome_is_shown_and_packets_add_up() {
    let seen = parse(&busy().render());
    let sum = |name: &str| seen[name].samples.values().sum::<f64>();
    let expected = |group: Group| {
        let of_group = Counter::ALL.iter().filter(|counter| counter.group() == group);
        of_group.map(|counter| *counter as u64 + 1).sum::<u64>() as f64
    };
    assert_eq!(sum("millrace_socket_outcomes_total"), expected(Group::Sockets));
    assert_eq!(sum("millrace_packet_outcomes_total"), expected(Group::Packets));
    assert_eq!(sum("millrace_packet_events_total"), expected(Group::Events));
}

#[test]
fn programming_takes_from_the_cause_until_now() {
    let metrics = Metrics::new().unwrap();
    let service = SharedName::new(ObjectName::new("shop", "web"));
    let trigger = |age: u64, family| Trigger {
        service: SharedName::clone(&service),
        family,
        at: since_epoch() - Duration::from_secs(age),
    };
    // One in the future, by a clock that is ahead, took no time.
    let ahead = Trigger { at: since_epoch() + Duration::from_secs(60), ..trigger(0, Family::V6) };
    metrics.programmed(&[trigger(20, Family::V4), ahead]);
    let bucket = |family: &str, le: &str| {
        let name = "kubeproxy_network_programming_duration_seconds_bucket";
        sample(&metrics, &format!("{name}{{ip_family=\"{family}\",le=\"{le}\"}}"))
    };
    assert_eq!([bucket("IPv4", "20"), bucket("IPv4", "50")], [0.0, 1.0]);
    assert_eq!([bucket("IPv6", "0.25"), bucket("IPv6", "+Inf")], [1.0, 1.0]);
}

#[test]
fn ports_without_local_endpoints_are_counted_by_family_and_policy() {
    let metrics = Metrics::new().unwrap();
    let by_policy = |internal, external| ByPolicy { internal, external };
    let found = NoLocal { v4: by_policy(1, 2), v6: by_policy(3, 4) };
    metrics.planned(&Default::default(), &found);
    let name = "kubeproxy_sync_proxy_rules_no_local_endpoints_total";
    for (family, wanted) in IP_FAMILIES.into_iter().zip([[1.0, 2.0], [3.0, 4.0]]) {
        for (policy, wanted) in ["internal", "external"].into_iter().zip(wanted) {
            let labels = format!("{{ip_family=\"{family}\",traffic_policy=\"{policy}\"}}");
            assert_eq!(sample(&metrics, &format!("{name}{labels}")), wanted);
        }
    }
}

/// Maps that cannot be read.
struct Broken;

impl Readings for Broken {
    fn counters(&self) -> Result<Vec<(Counter, u64)>> {
        anyhow::bail!("gone")
    }
    fn traffic(&self, _: u32) -> Result<Vec<(u32, Traffic)>> {
        anyhow::bail!("gone")
    }
    fn service(&self, _: u32) -> Result<Option<ServiceRow>> {
        anyhow::bail!("gone")
    }
    fn sockets(&self) -> Result<Sockets> {
        anyhow::bail!("gone")
    }
    fn backend(&self, _: BackendKey) -> Result<Option<BackendPlace>> {
        anyhow::bail!("gone")
    }
    fn rooms(&self) -> Result<Vec<MapRoom>> {
        anyhow::bail!("gone")
    }
}

#[test]
fn maps_that_cannot_be_read_cost_only_what_they_would_say() {
    let metrics = Metrics::new().unwrap();
    metrics.read_maps(Box::new(Broken));
    assert_eq!(sample(&metrics, "millrace_scrape_failures_total"), 1.0);
    assert_eq!(sample(&metrics, "millrace_ready"), 0.0);
    // The second scrape within a second does not even try.
    assert_eq!(sample(&metrics, "millrace_scrape_failures_total"), 1.0);
}

#[tokio::test]
async fn a_request_that_is_not_waited_for_counts_as_one_without_an_answer() {
    let metrics = Metrics::new().unwrap();
    let never = tower::service_fn(async |_| {
        std::future::pending::<std::result::Result<http::Response<()>, ()>>().await
    });
    let mut counted = tower::Layer::layer(&metrics.requests().layer("api:6443"), never);
    let request = http::Request::get("/").body(()).unwrap();
    let call = tower::Service::call(&mut counted, request);
    assert!(tokio::time::timeout(Duration::from_millis(1), call).await.is_err());
    let series = "rest_client_requests_total{code=\"<error>\",host=\"api:6443\",method=\"GET\"}";
    assert_eq!(sample(&metrics, series), 1.0);
}
