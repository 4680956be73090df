//! The dashboard, the rules and the README speak of metrics that there are, by labels and values
//! that they have; and so do the dashboards and alerts that people have for kube-proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use promql_parser::label::{MatchOp, Matcher};
use promql_parser::parser::{self, Expr, VectorSelector};
use serde_json::Value;

use super::*;

/// Labels that Prometheus or its operator puts on everything it scrapes, and that of buckets.
const OUTER_LABELS: &[&str] = &["job", "instance", "namespace", "pod", "cluster", "le"];
/// The one metric that Prometheus itself makes of a target.
const UP: &str = "up";

/// What kube-prometheus and kubernetes-mixin ask of kube-proxy: the alert for it, the alerts about
/// every client of the API server, and the dashboard `proxy.json`; one expression a line.
const KUBE_PROMETHEUS: &str = include_str!("kube_prometheus.promql");

fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(path)
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn rules() -> Value {
    serde_saphyr::from_str(&read(&deploy("prometheus/rules.yaml"))).unwrap()
}

fn dashboard() -> Value {
    serde_json::from_str(&read(&deploy("grafana/millrace.json"))).unwrap()
}

/// Series that there are, by the names that expressions use: labels and values of each sample.
#[derive(Default)]
struct Known {
    series: BTreeMap<String, Vec<BTreeMap<String, String>>>,
    /// Made by recording rules: their labels are those of their expressions.
    recorded: BTreeSet<String>,
}

impl Known {
    async fn of_a_busy_agent() -> Self {
        let metrics = busy();
        for (code, verb) in [(200, "GET"), (503, "POST")] {
            request_with(&metrics, code, verb).await;
        }
        let mut known = Self::default();
        for (name, seen) in parse(&metrics.render()) {
            let labels: Vec<BTreeMap<String, String>> =
                seen.labels.iter().map(|labels| pairs(labels)).collect();
            let suffixes: &[&str] =
                if seen.kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            for suffix in suffixes {
                known.series.insert(format!("{name}{suffix}"), labels.clone());
            }
        }
        known.series.insert(UP.to_owned(), vec![BTreeMap::new()]);
        let rules = rules();
        let records = each(&rules["groups"], "rules").filter_map(|rule| rule["record"].as_str());
        known.recorded = records.map(str::to_owned).collect();
        known
    }

    fn check(&self, expression: &str) {
        let expression = expression.replace("$__rate_interval", "5m");
        let parsed = parser::parse(&expression).unwrap_or_else(|e| panic!("{expression}: {e}"));
        for selector in selectors(&parsed) {
            let name = selector.name.as_deref().unwrap();
            if self.recorded.contains(name) {
                continue;
            }
            let series = self.series.get(name);
            let series = series.unwrap_or_else(|| panic!("no metric {name} in {expression}"));
            for matcher in &selector.matchers.matchers {
                assert!(matches(series, matcher), "{name} has no {matcher} in {expression}");
            }
        }
        self.check_grouping(&expression, &parsed);
    }

    /// Whether results are grouped by labels that something they are made of has.
    fn check_grouping(&self, expression: &str, parsed: &Expr) {
        let found = selectors(parsed);
        if found.iter().any(|s| self.recorded.contains(s.name.as_deref().unwrap())) {
            return;
        }
        let names = found.iter().filter_map(|selector| self.series.get(selector.name.as_ref()?));
        let labels: BTreeSet<&String> = names.flatten().flat_map(BTreeMap::keys).collect();
        for label in groupings(parsed) {
            // client-go had a label `url` once; the dashboard still groups by it.
            let known = OUTER_LABELS.contains(&label.as_str()) || label == "url";
            assert!(
                known || labels.contains(&label),
                "nothing has the label {label}: {expression}"
            );
        }
    }
}

/// Whether the matcher lets anything through that is there, and is about a label that there is.
fn matches(series: &[BTreeMap<String, String>], matcher: &Matcher) -> bool {
    if OUTER_LABELS.contains(&matcher.name.as_str()) {
        return true;
    }
    let mut values = series.iter().filter_map(|labels| labels.get(&matcher.name));
    // What a pattern excludes must be there to be excluded.
    match matcher.op {
        MatchOp::NotEqual => values.next().is_some(),
        MatchOp::NotRe(_) => values.any(|value| !matcher.is_match(value)),
        MatchOp::Equal | MatchOp::Re(_) => values.any(|value| matcher.is_match(value)),
    }
}

fn pairs(labels: &str) -> BTreeMap<String, String> {
    let pairs = labels.split(',').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

async fn request_with(metrics: &Metrics, code: u16, verb: &str) {
    let answer = move |_| {
        let answer = http::Response::builder().status(code).body(()).unwrap();
        std::future::ready(Ok::<_, ()>(answer))
    };
    let layer = metrics.requests().layer("api:6443");
    let mut counted = tower::Layer::layer(&layer, tower::service_fn(answer));
    let request = http::Request::builder().method(verb).uri("/").body(()).unwrap();
    tower::Service::call(&mut counted, request).await.unwrap();
}

/// Children of an expression.
fn children(expr: &Expr) -> Vec<&Expr> {
    match expr {
        Expr::Aggregate(e) => e.param.iter().map(Box::as_ref).chain([e.expr.as_ref()]).collect(),
        Expr::Unary(e) => vec![&e.expr],
        Expr::Binary(e) => vec![&e.lhs, &e.rhs],
        Expr::Paren(e) => vec![&e.expr],
        Expr::Subquery(e) => vec![&e.expr],
        Expr::Call(e) => e.args.args.iter().map(Box::as_ref).collect(),
        _ => Vec::new(),
    }
}

fn selectors(expr: &Expr) -> Vec<&VectorSelector> {
    let own = match expr {
        Expr::VectorSelector(selector) => Some(selector),
        Expr::MatrixSelector(matrix) => Some(&matrix.vs),
        _ => None,
    };
    own.into_iter().chain(children(expr).into_iter().flat_map(selectors)).collect()
}

fn groupings(expr: &Expr) -> Vec<String> {
    let own = match expr {
        Expr::Aggregate(aggregate) => aggregate.modifier.as_ref(),
        _ => None,
    };
    let own = own.into_iter().flat_map(|modifier| modifier.labels().labels.clone());
    own.chain(children(expr).into_iter().flat_map(groupings)).collect()
}

/// The elements of a list in every element of a list.
fn each<'a>(outer: &'a Value, inner: &'a str) -> impl Iterator<Item = &'a Value> {
    outer
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(move |o| o[inner].as_array().into_iter().flatten())
}

#[tokio::test]
async fn kube_proxys_alerts_and_dashboards_find_what_they_ask_for() {
    let known = Known::of_a_busy_agent().await;
    KUBE_PROMETHEUS.lines().for_each(|expression| known.check(expression));
}

#[tokio::test]
async fn our_rules_ask_for_what_there_is_and_say_what_to_do() {
    let known = Known::of_a_busy_agent().await;
    let rules = rules();
    let mut alerts = BTreeSet::new();
    for rule in each(&rules["groups"], "rules") {
        known.check(rule["expr"].as_str().unwrap());
        let Some(alert) = rule["alert"].as_str() else { continue };
        assert!(alerts.insert(alert.to_owned()), "{alert} is there twice");
        let severity = rule["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("critical" | "warning")), "{alert}: {severity:?}");
        for text in ["summary", "description"] {
            assert!(
                rule["annotations"][text].as_str().is_some_and(|t| t.len() > 20),
                "{alert}: {text}"
            );
        }
    }
    assert!(alerts.len() >= 10, "{alerts:?}");
}

#[tokio::test]
async fn our_dashboard_asks_for_what_there_is_and_explains_each_panel() {
    let known = Known::of_a_busy_agent().await;
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut ids = BTreeSet::new();
    let mut asked = 0;
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|text| text.len() > 10), "{title}");
        let unit = panel["fieldConfig"]["defaults"]["unit"].as_str();
        assert!(unit.is_some_and(|unit| !unit.is_empty()), "{title} has no unit");
        for target in panel["targets"].as_array().unwrap() {
            known.check(target["expr"].as_str().unwrap());
            asked += 1;
        }
    }
    assert!(asked >= panels.len() / 2, "most panels ask for something");
}

#[tokio::test]
async fn the_readme_lists_every_metric_and_no_other() {
    let metrics = busy();
    request(&metrics).await;
    let seen = parse(&metrics.render());
    let readme = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md"));
    let (_, section) = readme.split_once("\n## Metrics\n").expect("a section Metrics");
    let section = section.split_once("\n## ").map_or(section, |(section, _)| section);
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let listed: BTreeMap<&str, &str> = rows.filter_map(|row| row.split_once("` | ")).collect();
    for (name, seen) in &seen {
        let row = listed.get(name.as_str()).unwrap_or_else(|| panic!("README lacks {name}"));
        assert!(row.starts_with(&seen.kind), "{name} is a {}, README: {row}", seen.kind);
        let labels: BTreeSet<String> =
            seen.labels.iter().flat_map(|l| pairs(l).into_keys()).collect();
        for label in labels {
            assert!(row.contains(&format!("`{label}`")), "README: {name} has the label {label}");
        }
    }
    let unknown: Vec<_> = listed.keys().filter(|name| !seen.contains_key(**name)).collect();
    assert!(unknown.is_empty(), "README lists what there is not: {unknown:?}");
}

/// promtool knows more of Prometheus than we do; it is 96 MB of disk, so it is not asked for.
#[test]
fn promtool_agrees_where_there_is_one() {
    for arguments in [["check", "rules", "rules.yaml"], ["test", "rules", "rules_test.yaml"]] {
        let run =
            Command::new("promtool").args(arguments).current_dir(deploy("prometheus")).output();
        match run {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                // Not println: libtest keeps that to itself, and `cargo xtask test` counts this.
                let skip = "skipped: promtool_agrees_where_there_is_one: no promtool on the PATH: \
                            the rules were parsed, not evaluated";
                writeln!(std::io::stderr(), "{skip}").unwrap();
                return;
            }
            run => {
                let run = run.unwrap();
                let said = String::from_utf8_lossy(&run.stdout).into_owned()
                    + &String::from_utf8_lossy(&run.stderr);
                assert!(run.status.success(), "promtool {arguments:?}: {said}");
            }
        }
    }
}
