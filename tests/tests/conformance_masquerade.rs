//! Who is masqueraded (section 2.5 of the specification, `TestInternalExternalMasquerade`): every
//! client, every destination, every policy, every setting.

use anyhow::{Context as _, Result};
use millrace::settings::{DetectLocal, Policy};
use millrace_tests::lab::Family;
use millrace_tests::simulation::Protocol::Tcp;
use millrace_tests::simulation::table::To::{Cluster, External, Node};
use millrace_tests::simulation::table::*;
use millrace_tests::simulation::{Sender, Simulation, slice};

/// Two endpoints, one of them here.
const ALL: &str = "n1/0 n2/0";
const ALL_MASQ: &str = "n1/0 n2/0 masq";
const HERE: &str = "n1/0";
/// The truth table of section 2.5. A flow: who, what; then whether it is masqueraded and by which
/// list it goes, under the default policies, `externalTrafficPolicy: Local` and
/// `internalTrafficPolicy: Local`.
type Flow = (&'static str, [&'static str; 3]);

const HERE_MASQ: &str = "n1/0 masq";

/// With a detector, and without `masqueradeAll`.
const BASE: [Flow; 9] = [
    ("pod ClusterIP", [ALL, ALL, HERE]),
    ("pod NodePort", [ALL_MASQ, ALL, ALL_MASQ]),
    ("pod LB", [ALL_MASQ, ALL, ALL_MASQ]),
    ("node ClusterIP", [ALL_MASQ, ALL_MASQ, HERE_MASQ]),
    ("node NodePort", [ALL_MASQ, ALL_MASQ, ALL_MASQ]),
    ("node LB", [ALL_MASQ, ALL_MASQ, ALL_MASQ]),
    ("outside ClusterIP", [ALL_MASQ, ALL_MASQ, HERE_MASQ]),
    ("outside NodePort", [ALL_MASQ, HERE, ALL_MASQ]),
    ("outside LB", [ALL_MASQ, HERE, ALL_MASQ]),
];

/// What differs from [`BASE`].
const MASQUERADE_ALL: [Flow; 1] = [("pod ClusterIP", [ALL_MASQ, ALL_MASQ, HERE_MASQ])];
/// Without a detector everybody counts as a pod at ClusterIPs and nobody at external addresses. (A
/// process of the node has the node's address whether or not anybody masquerades.)
const NO_DETECTOR: [Flow; 3] = [
    ("pod NodePort", [ALL_MASQ, HERE, ALL_MASQ]),
    ("pod LB", [ALL_MASQ, HERE, ALL_MASQ]),
    ("outside ClusterIP", [ALL, ALL, HERE]),
];
/// Both together.
const BOTH: [Flow; 4] = [
    ("pod ClusterIP", [ALL_MASQ, ALL_MASQ, HERE_MASQ]),
    ("pod NodePort", [ALL_MASQ, HERE, ALL_MASQ]),
    ("pod LB", [ALL_MASQ, HERE, ALL_MASQ]),
    ("outside ClusterIP", [ALL_MASQ, ALL_MASQ, HERE_MASQ]),
];

#[test]
fn masquerade_matrix() -> Result<()> {
    let no_detector = || DetectLocal::Off;
    let base = Policy::default();
    let configs: [(&str, Policy, &[Flow]); 4] = [
        ("base", base.clone(), &[]),
        ("no detector", Policy { detect_local: no_detector(), ..base.clone() }, &NO_DETECTOR),
        ("masqueradeAll", Policy { masquerade_all: true, ..base.clone() }, &MASQUERADE_ALL),
        ("both", Policy { masquerade_all: true, detect_local: no_detector(), ..base }, &BOTH),
    ];
    for (config, policy, different) in configs {
        for family in FAMILIES {
            let mut node = Simulation::new(1, policy.clone())?;
            for (index, object) in [
                everywhere(family),
                everywhere(family).external_local(),
                everywhere(family).internal_local(),
            ]
            .iter()
            .enumerate()
            {
                node.put_all(&[object, &slice(family, "svc", &["n1/0", "n2/0"])])?;
                for base in BASE {
                    let (flow, expected) =
                        *different.iter().find(|(flow, _)| *flow == base.0).unwrap_or(&base);
                    let row = flow_row(flow, expected[index], family);
                    check(&node, family, &[row]).context(config)?;
                }
            }
        }
    }
    Ok(())
}

fn flow_row(flow: &'static str, expected: &'static str, family: Family) -> Row {
    let (who, what) = flow.split_once(' ').unwrap_or_else(|| panic!("{flow}"));
    let from = match who {
        "pod" => CLIENT,
        "node" => Sender::Node,
        _ => outside(family),
    };
    let (to, port) = match what {
        "ClusterIP" => (Cluster(1), 80),
        "NodePort" => (Node(1), NODE_PORT),
        _ => (External(BALANCED), 80),
    };
    (flow, from, to, port, Tcp, expected)
}

/// A pod that is led to itself, by any of its Service's addresses.
#[test]
fn hairpins_are_masqueraded_at_every_address() -> Result<()> {
    on_both(|family, node| {
        for object in [everywhere(family), everywhere(family).external_local()] {
            node.put_all(&[&object, &slice(family, "svc", &["n1/0"])])?;
            let own = Sender::Pod(0);
            check(node, family, &[("ClusterIP", own, Cluster(1), 80, Tcp, HERE_MASQ)])?;
            for (name, to, port) in OUTER {
                check(node, family, &[(name, own, to, port, Tcp, HERE_MASQ)])?;
            }
        }
        Ok(())
    })
}

/// What never leaves the node is never masqueraded.
#[test]
fn backends_in_the_hosts_network_see_the_client() -> Result<()> {
    on_both(|family, node| {
        node.put_all(&[&everywhere(family), &slice(family, "svc", &["n1/host"])])?;
        let ext = outside(family);
        check(
            node,
            family,
            &[
                ("pod to ClusterIP", CLIENT, Cluster(1), 80, Tcp, "n1/host"),
                ("outside to NodePort", ext, Node(1), NODE_PORT, Tcp, "n1/host"),
            ],
        )?;
        node.put(&slice(family, "svc", &["n2/host"]))?;
        check(
            node,
            family,
            &[
                ("pod to ClusterIP", CLIENT, Cluster(1), 80, Tcp, "n2/host"),
                ("outside to NodePort", ext, Node(1), NODE_PORT, Tcp, "n2/host masq"),
            ],
        )
    })
}
