//! Which endpoints take new connections: the scenarios of section 8.1, by number.

use millrace_common::frontend::flags;
use serde_json::{Value, json};

use super::*;

/// One scenario. Endpoints are numbered from 1.
struct Scenario {
    name: &'static str,
    zone: &'static str,
    /// internalTrafficPolicy and externalTrafficPolicy; the latter nothing: not reachable from
    /// outside.
    policies: Policies,
    /// Words: `unready`, `unserving`, `terminating`, `local`, `zones=a,b`, `nodes=a,b`.
    endpoints: &'static [&'static str],
    cluster: &'static [usize],
    local: &'static [usize],
    /// Whether an empty list drops instead of rejecting: hasAny.
    drops: bool,
}

type Policies = (&'static str, Option<&'static str>);

const CLUSTER: Policies = ("Cluster", None);

fn endpoint(index: usize, words: &str) -> Value {
    let mut endpoint = json!({
        "addresses": [format!("10.0.0.{}", index + 1)],
        "nodeName": "elsewhere",
        "conditions": {},
        "hints": {},
    });
    let names =
        |list: &str| -> Value { list.split(',').map(|name| json!({"name": name})).collect() };
    for word in words.split_whitespace() {
        match word.split_once('=') {
            Some(("zones", list)) => endpoint["hints"]["forZones"] = names(list),
            Some(("nodes", list)) => endpoint["hints"]["forNodes"] = names(list),
            _ if word == "unready" => endpoint["conditions"]["ready"] = json!(false),
            _ if word == "unserving" => endpoint["conditions"]["serving"] = json!(false),
            _ if word == "terminating" => endpoint["conditions"]["terminating"] = json!(true),
            _ if word == "local" => endpoint["nodeName"] = json!(HERE),
            _ => panic!("{word}"),
        }
    }
    endpoint
}

fn run(scenario: &Scenario) {
    let mut model = model();
    let (internal, external) = scenario.policies;
    let mut spec = json!({"internalTrafficPolicy": internal});
    if let Some(external) = external {
        spec["externalTrafficPolicy"] = json!(external);
        spec["type"] = json!("NodePort");
        spec["ports"] = json!([{"port": 80, "nodePort": 30080}]);
    }
    let endpoints: Value =
        scenario.endpoints.iter().enumerate().map(|(i, words)| endpoint(i, words)).collect();
    let events = [node(scenario.zone, &["192.0.2.1"]), service("svc", spec), slice("a", endpoints)];
    apply(&mut model, events);
    let family = only_v4(&model);
    let expected = |indexes: &[usize]| -> Vec<String> {
        indexes.iter().map(|index| format!("10.0.0.{index}:8080")).collect()
    };
    let name = scenario.name;
    assert_eq!(addresses(&family, List::Cluster), expected(scenario.cluster), "{name}: cluster");
    assert_eq!(addresses(&family, List::Local), expected(scenario.local), "{name}: local");
    let drops = |frontend| has(frontend, flags::NEAR_DROP) || has(frontend, flags::FAR_DROP);
    assert_eq!(family.frontends.iter().any(drops), scenario.drops, "{name}: drops");
}

#[test]
fn hints_of_zones_narrow_the_cluster_list() {
    const ZONED: &[&str] = &["zones=a", "zones=b local", "zones=b", "zones=a local"];
    let scenarios = [
        ("1 all hinted, own zone present", "a", CLUSTER, ZONED, &[1, 4][..], &[][..]),
        (
            "2 eTP Local: hints do not touch the local list",
            "a",
            ("Cluster", Some("Local")),
            ZONED,
            &[1, 4],
            &[2, 4],
        ),
        ("3 iTP Local and a node port", "a", ("Local", Some("Cluster")), ZONED, &[1, 4], &[2, 4]),
        (
            "4 a node without a zone: the label is the empty one here",
            "",
            CLUSTER,
            ZONED,
            &[1, 2, 3, 4],
            &[],
        ),
        ("6 own zone has none", "c", CLUSTER, ZONED, &[1, 2, 3, 4], &[]),
        (
            "7 an unready one is skipped, hints stay",
            "a",
            CLUSTER,
            &["zones=a unready", "zones=a", "zones=b"],
            &[2],
            &[],
        ),
        (
            "8 only unready in own zone",
            "a",
            CLUSTER,
            &["zones=a unready", "zones=b", "zones=c"],
            &[2, 3],
            &[],
        ),
        ("9 one ready without a hint", "a", CLUSTER, &["zones=a", "", "zones=b"], &[1, 2, 3], &[]),
        (
            "9b one unready without a hint",
            "a",
            CLUSTER,
            &["zones=a", "unready", "zones=b"],
            &[1],
            &[],
        ),
        (
            "10 several zones match any",
            "a",
            CLUSTER,
            &["zones=a,b,c", "zones=b,c", "zones=b,d", "zones=c,d,a"],
            &[1, 4],
            &[],
        ),
    ];
    for (name, zone, policies, endpoints, cluster, local) in scenarios {
        run(&Scenario { name, zone, policies, endpoints, cluster, local, drops: false });
    }
}

#[test]
fn scenario_4_and_5_no_zone_label_and_an_empty_one() {
    let endpoints: Value =
        ["zones=a", "zones="].iter().enumerate().map(|(i, w)| endpoint(i, w)).collect();
    for label in [None, Some("")] {
        let mut model = model();
        apply(&mut model, [service("svc", json!({})), slice("a", endpoints.clone())]);
        if let Some(zone) = label {
            model.apply(node(zone, &[]));
        }
        assert_eq!(only_v4(&model).cluster.len(), 2, "{label:?}");
    }
}

#[test]
fn hints_of_nodes_come_before_those_of_zones() {
    const HINTED: &[&str] = &[
        "zones=a nodes=here",
        "zones=a nodes=other",
        "zones=b nodes=third",
        "zones=b nodes=here,x",
    ];
    let scenarios = [
        // The feature gate of the original is locked on: without the hints it guards.
        (
            "11 no node hints: zone result",
            "a",
            CLUSTER,
            &["zones=a", "zones=a", "zones=b"][..],
            &[1, 2][..],
            &[][..],
        ),
        ("12 all hinted", "a", CLUSTER, HINTED, &[1, 4], &[]),
        (
            "13 one without any hint",
            "a",
            CLUSTER,
            &["zones=a nodes=here", "", "zones=b nodes=x"],
            &[1, 2, 3],
            &[],
        ),
        (
            "13b one without a node hint: zone",
            "a",
            CLUSTER,
            &["zones=a nodes=here", "zones=a", "zones=b nodes=x"],
            &[1, 2],
            &[],
        ),
        (
            "14 none for this node: zone",
            "a",
            CLUSTER,
            &["zones=a nodes=x", "zones=a nodes=y", "zones=b nodes=z"],
            &[1, 2],
            &[],
        ),
        (
            "15 topology and locality disagree",
            "a",
            ("Cluster", Some("Local")),
            &["zones=a", "zones=b local", "zones=b", "zones=a"],
            &[1, 4],
            &[2],
        ),
    ];
    for (name, zone, policies, endpoints, cluster, local) in scenarios {
        run(&Scenario { name, zone, policies, endpoints, cluster, local, drops: false });
    }
}

const ITP: Policies = ("Local", None);
const ETP: Policies = ("Cluster", Some("Local"));
const BOTH: Policies = ("Local", Some("Local"));
const ITP_ONLY: Policies = ("Local", Some("Cluster"));
const SERVING: &str = "unready terminating";
const SERVING_HERE: &str = "unready terminating local";
/// Name, policies, endpoints; then the lists, and whether an empty one drops.
type Row =
    (&'static str, Policies, &'static [&'static str], &'static [usize], &'static [usize], bool);
/// Scenarios of one zone, without hints that count.
const POLICIES: [Row; 20] = [
    ("16 iTP Local: none", ITP, &[], &[], &[], false),
    ("17 iTP Local: all remote", ITP, &["", ""], &[], &[], true),
    ("18 iTP Local: all local", ITP, &["local", "local"], &[], &[1, 2], false),
    ("19 iTP Local: mixed", ITP, &["local", ""], &[], &[1], false),
    ("20 Cluster: none ready", CLUSTER, &["unready", "unready"], &[], &[], false),
    ("21 Cluster: some ready", CLUSTER, &["unready", ""], &[2], &[], false),
    ("22 Cluster: all serving and terminating", CLUSTER, &[SERVING, SERVING], &[1, 2], &[], false),
    (
        "22b they ignore hints",
        CLUSTER,
        &["unready terminating zones=b", "unready terminating zones=a"],
        &[1, 2],
        &[],
        false,
    ),
    ("23 iTP Local, eTP Cluster", ITP_ONLY, &["", "local"], &[1, 2], &[2], false),
    ("24 iTP Cluster, eTP Local", ETP, &["", "local"], &[1, 2], &[2], false),
    ("25 both Local", BOTH, &["", "local"], &[1, 2], &[2], false),
    ("26 both Local: all remote", BOTH, &["", ""], &[1, 2], &[], true),
    ("27 both Local: all remote and terminating", BOTH, &[SERVING, SERVING], &[1, 2], &[], true),
    (
        "28 remote ready, local ones not",
        ETP,
        &["", "unready unserving local", SERVING_HERE, SERVING],
        &[1],
        &[3],
        false,
    ),
    ("30 iTP Local, not external: no cluster list", ITP, &["", "local"], &[], &[2], false),
    ("31 no endpoints", BOTH, &[], &[], &[], false),
    ("32 one that nothing is true of", BOTH, &["unready unserving"], &[], &[], false),
    (
        "32b serving but neither ready nor terminating is never used",
        BOTH,
        &["unready local"],
        &[],
        &[],
        false,
    ),
    ("local ready before local terminating", BOTH, &[SERVING_HERE, "local"], &[2], &[2], false),
    (
        "terminating but not serving is never used",
        BOTH,
        &["unready unserving terminating local"],
        &[],
        &[],
        false,
    ),
];

#[test]
fn local_policies_and_terminating_endpoints() {
    for (name, policies, endpoints, cluster, local, drops) in POLICIES {
        run(&Scenario { name, zone: "a", policies, endpoints, cluster, local, drops });
    }
}

#[test]
fn scenario_29_an_external_policy_needs_something_external() {
    let mut model = model();
    let spec = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local"});
    let endpoints = json!([endpoint(0, ""), endpoint(1, "local")]);
    apply(&mut model, [service("svc", spec), slice("a", endpoints)]);
    let family = only_v4(&model);
    assert_eq!((family.cluster.len(), family.local.len()), (2, 0));
}

#[test]
fn the_serving_set_is_of_all_that_serve_wherever_listed() {
    let mut model = model();
    let endpoints = json!([
        endpoint(0, "zones=a"),
        endpoint(1, "zones=b"),
        endpoint(2, "unready"),
        endpoint(3, "unready terminating"),
        endpoint(4, "unready unserving"),
    ]);
    apply(&mut model, [node("a", &[]), service("svc", json!({})), slice("a", endpoints)]);
    let family = only_v4(&model);
    assert_eq!(addresses(&family, List::Cluster), ["10.0.0.1:8080"]);
    let serving: Vec<String> = family.serving.iter().map(ToString::to_string).collect();
    assert_eq!(serving, ["10.0.0.1:8080", "10.0.0.2:8080", "10.0.0.3:8080", "10.0.0.4:8080"]);
}
