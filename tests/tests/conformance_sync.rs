//! One change after the other (section 8.2 of the specification: repeated syncs, failed ones,
//! ServiceCIDRs, bad addresses): what is written, what is served after it, what is counted.

use anyhow::{Context as _, Result, ensure};
use millrace_tests::lab::Family;
use millrace_tests::manifest::{self, Service};
use millrace_tests::simulation::Protocol::Tcp;
use millrace_tests::simulation::slice;
use millrace_tests::simulation::table::To::{Address, Cluster, External, Node};
use millrace_tests::simulation::table::*;
use serde_json::json;

/// Two endpoints, one of them here.
const ALL: &str = "n1/0 n2/0";
const ALL_MASQ: &str = "n1/0 n2/0 masq";
const HERE: &str = "n1/0";
/// The seven combinations behind `kubeproxy_sync_proxy_rules_no_local_endpoints_total`: ports that
/// drop, for clients inside and outside. Without any endpoint they reject, and are not counted.
#[test]
fn ports_without_local_endpoints_are_counted() -> Result<()> {
    /// What it shows, policies that are Local, endpoints, and the sides that drop.
    type Combination = (&'static str, &'static str, &'static [&'static str], &'static str);
    const AWAY: &[&str] = &["n2/0", "n3/0"];
    const SOME_HERE: &[&str] = &["n1/0", "n2/0"];
    let table: [Combination; 7] = [
        ("iTP Local, local endpoints", "internal", SOME_HERE, ""),
        ("eTP Local, local endpoints", "external", SOME_HERE, ""),
        ("both Local, local endpoints", "internal external", SOME_HERE, ""),
        ("iTP Local, none here", "internal", AWAY, "internal"),
        ("eTP Local, none here", "external", AWAY, "external"),
        ("both Local, none here", "internal external", AWAY, "internal external"),
        ("both Local, none anywhere", "internal external", &[], ""),
    ];
    on_both(|family, node| {
        for (name, local, words, expected) in table {
            let mut object = service(family).node_port(NODE_PORT);
            if local.contains("internal") {
                object = object.internal_local();
            }
            if local.contains("external") {
                object = object.external_local();
            }
            node.put_all(&[&object, &slice(family, "svc", words)])?;
            let (internal, external) = node.without_local_endpoints(family);
            let found = format!("internal {internal}, external {external}");
            let count = |policy| u32::from(expected.contains(policy));
            ensure!(
                (internal, external) == (count("internal"), count("external")),
                "{name} ({family}): {found}"
            );
        }
        Ok(())
    })
}

/// Only what changed is written, and nothing if nothing did.
#[test]
fn repeated_syncs_write_what_changed() -> Result<()> {
    on_both(|family, node| {
        let two = named(family, "two", 2);
        node.put_all(&[&two, &slice(family, "two", &["n2/5"])])?;
        let unrelated = ("unrelated", CLIENT, Cluster(2), 80, Tcp, "n2/5");
        let one = everywhere(family);
        let endpoints = |words: &[&str]| slice(family, "svc", words);
        let pod = |expected| ("pod", CLIENT, Cluster(1), 80, Tcp, expected);
        let ext = |expected| ("outside", outside(family), External(BALANCED), 80, Tcp, expected);

        ensure!(node.put(&one)?.ops > 0, "a Service without endpoints");
        check(node, family, &[pod("REJECT"), unrelated])?;
        ensure!(node.put(&endpoints(&["n2/0"]))?.ops > 0, "its slice arrives");
        check(node, family, &[pod("n2/0"), ext("n2/0 masq"), unrelated])?;
        ensure!(node.put(&endpoints(&["n1/0", "n2/0"]))?.ops > 0, "an endpoint is added");
        check(node, family, &[pod(ALL), ext(ALL_MASQ), unrelated])?;
        for _ in 0..3 {
            let same = endpoints(&["n1/0", "n2/0"]);
            let rounds = [node.put(&one)?, node.put(&same)?, node.settle()?];
            ensure!(rounds.iter().all(|round| round.ops == 0), "{rounds:?}");
        }
        let changed = node.put(&one.clone().external_local())?;
        ensure!((changed.services, changed.ops > 0) == (1, true), "{changed:?}");
        check(node, family, &[pod(ALL), ext(HERE), unrelated])?;
        node.put(&one)?;
        check(node, family, &[pod(ALL), ext(ALL_MASQ), unrelated])?;

        let rows = node.rows();
        let three = named(family, "three", 3);
        node.put_all(&[&three, &slice(family, "three", &["n1/1"])])?;
        check(node, family, &[("new", CLIENT, Cluster(3), 80, Tcp, "n1/1"), unrelated])?;
        node.delete(&three)?;
        node.delete(&slice(family, "three", &[]))?;
        ensure!(node.rows() == rows, "it left {} rows", node.rows() - rows);
        // The port of a ClusterIP that is none any more.
        check(node, family, &[("deleted", CLIENT, Cluster(3), 80, Tcp, "none"), unrelated])
    })
}

#[test]
fn a_failed_sync_is_made_good_by_the_next() -> Result<()> {
    on_both(|family, node| {
        let before = ("before", CLIENT, Cluster(1), 80, Tcp, "n1/0");
        node.put_all(&[&everywhere(family), &slice(family, "svc", &["n1/0"])])?;
        node.fail_writes(1);
        ensure!(node.put(&slice(family, "svc", &["n2/0"])).is_err());
        check(node, family, &[before])?;
        node.settle()?;
        let ext = outside(family);
        check(
            node,
            family,
            &[
                ("after", CLIENT, Cluster(1), 80, Tcp, "n2/0"),
                ("after", ext, Node(1), NODE_PORT, Tcp, "n2/0 masq"),
            ],
        )?;
        let quiet = node.settle()?;
        ensure!(quiet.ops == 0, "{quiet:?}");
        node.restart_agent()?;
        let adopted = node.settle()?;
        ensure!(adopted.ops == 0 && adopted.services > 0, "{adopted:?}");
        Ok(())
    })
}

/// "service_cidrs.go: create Services on different Service CIDRs", and each family its own.
#[test]
fn service_cidrs_come_and_go_by_family() -> Result<()> {
    let cidrs = |name: &str, cidrs: &[&str]| {
        let (metadata, spec) = (json!({"name": name}), json!({"cidrs": cidrs}));
        json!({"kind": "ServiceCIDR", "metadata": metadata, "spec": spec})
    };
    for (family, address, near) in
        [(Family::V4, "203.0.113.77", "203.0.113.78"), (Family::V6, "2001:db8::77", "2001:db8::78")]
    {
        let mut node = simulation()?;
        let (mine, others) = match family {
            Family::V4 => ("203.0.113.0/24", "2001:db8::/112"),
            Family::V6 => ("2001:db8::/112", "203.0.113.0/24"),
        };
        node.put(&manifest::service_cidr(&FAMILIES))?;
        node.put(&cidrs("more", &[others]))?;
        let ext = outside(family);
        let (leased, free) = (Address(address), Address(near));
        check(&node, family, &[("not yet", CLIENT, free, 80, Tcp, "none")])?;
        node.put(&cidrs("more", &[mine, others]))?;
        let object = Service::new("svc").cluster_ip(address.parse()?).port("main", "TCP", 80);
        node.put_all(&[&object.node_port(NODE_PORT), &slice(family, "svc", &["n2/0"])])?;
        check(
            &node,
            family,
            &[
                ("its ClusterIP", CLIENT, leased, 80, Tcp, "n2/0"),
                ("its NodePort", ext, Node(1), NODE_PORT, Tcp, "n2/0 masq"),
                ("beside it", CLIENT, free, 80, Tcp, "DROP"),
                ("the first one", CLIENT, Cluster(99), 80, Tcp, "DROP"),
            ],
        )?;
        node.delete(&cidrs("more", &[]))?;
        check(
            &node,
            family,
            &[
                ("its ClusterIP", CLIENT, leased, 80, Tcp, "n2/0"),
                ("beside it", CLIENT, free, 80, Tcp, "none"),
            ],
        )?;
    }
    Ok(())
}

/// Bad addresses of one Service, and what is served all the same.
#[test]
fn bad_addresses_break_nothing_else() -> Result<()> {
    let mut node = simulation()?;
    let family = Family::V4;
    let mut bad = everywhere(family);
    bad.0["spec"]["externalIPs"] =
        json!(["203.000.113.020", "nonsense", "1.2.3", "127.0.0.1", "fd00::1"]);
    bad.0["spec"]["loadBalancerSourceRanges"] = json!(["192.168.050.0/24", "x/8", "10.0.0.0"]);
    let ingress = bad.0["status"]["loadBalancer"]["ingress"].as_array_mut().context("a list")?;
    ingress.extend([json!({"ip": "203.0.113.300"}), json!({"ip": "203.0.113.011"})]);
    let mut endpoints = slice(family, "svc", &["n1/0"]);
    let list = endpoints.0["endpoints"].as_array_mut().context("a list")?;
    list.extend(["10.244.002.010", "10.244.2", "::1"].map(|text| json!({"addresses": [text]})));
    node.put_all(&[
        &bad,
        &endpoints,
        &named(family, "good", 2),
        &slice(family, "good", &["n2/1"]),
    ])?;
    let ext = outside(family);
    let pod = CLIENT;
    check(
        &node,
        family,
        &[
            ("leading zeros are decimal", pod, Cluster(1), 80, Tcp, ALL),
            ("so they are here", ext, External(EXTERNAL), 80, Tcp, ALL_MASQ),
            ("and here", ext, External(BALANCED_TOO), 80, Tcp, ALL_MASQ),
            ("the good range counts", pod, External(BALANCED), 80, Tcp, "DROP"),
            ("loopback is nobody's", ext, Address("127.0.0.1"), 80, Tcp, "none"),
            ("the other Service", pod, Cluster(2), 80, Tcp, "n2/1"),
        ],
    )?;
    let told = node.conditions().len();
    ensure!(told == 8, "{told} of 8 bad fields are told: {:#?}", node.conditions());
    Ok(())
}
