//! 8.1: `pkg/proxy/topology_test.go`.

use crate::conformance::scenario::{Section, same};

const ZONES: &[&str] =
    &["millrace::model::tests::selection::hints_of_zones_narrow_the_cluster_list"];
const LABELS: &[&str] =
    &["millrace::model::tests::selection::scenario_4_and_5_no_zone_label_and_an_empty_one"];
const NODES: &[&str] =
    &["millrace::model::tests::selection::hints_of_nodes_come_before_those_of_zones"];
const LOCAL: &[&str] =
    &["millrace::model::tests::selection::local_policies_and_terminating_endpoints"];

/// Endpoint selection.
pub const SELECTION: Section = Section {
    number: "8.1",
    title: "Endpoint selection (pkg/proxy/topology_test.go)",
    rows: &[
        same("1 all zone-hinted, own zone present", "own zone only", ZONES),
        same(
            "2 eTP Local, hints",
            "the cluster list goes by zone, the local list does not; the union of both",
            ZONES,
        ),
        same("3 iTP Local and a NodePort, hints", "the same", ZONES),
        same("4 no zone label on the node", "no filter", LABELS),
        same("5 an empty zone label", "no filter", LABELS),
        same("6 no endpoint in the own zone", "no filter", ZONES),
        same("7 an unready hinted endpoint", "it is skipped, the hints count", ZONES),
        same("8 only unready ones in the own zone", "no filter", ZONES),
        same("9 one ready endpoint without a hint", "no filter", ZONES),
        same("10 hints for several zones", "any of them matches", ZONES),
        same("11 no node hints (upstream: gate off)", "the zone's", NODES),
        same("12 node hints on all", "the node's own only", NODES),
        same("13 one endpoint without hints", "all", NODES),
        same("14 no endpoint for the node", "the zone's", NODES),
        same("15 topology and locality conflict", "the union, of three", NODES),
        same("16 iTP Local, no endpoints", "none, reject", LOCAL),
        same("17 iTP Local, all elsewhere", "none, drop", LOCAL),
        same("18 iTP Local, all here", "all", LOCAL),
        same("19 iTP Local, mixed", "those here", LOCAL),
        same("20 Cluster, none ready", "none", LOCAL),
        same("21 Cluster, some ready", "those", LOCAL),
        same("22 all serving and terminating", "all of them", LOCAL),
        same("23 iTP Local, eTP Cluster, some here", "each its list", LOCAL),
        same("24 iTP Cluster, eTP Local, some here", "each its list", LOCAL),
        same("25 both Local, some here", "the local list for both", LOCAL),
        same("26 both Local, all elsewhere", "local empty, cluster all", LOCAL),
        same(
            "27 both Local, all elsewhere and terminating",
            "local empty, cluster the terminating ones",
            LOCAL,
        ),
        same(
            "28 iTP Cluster, eTP Local: one ready elsewhere, here one terminating",
            "cluster: the ready one; local: the terminating one",
            LOCAL,
        ),
        same(
            "29 eTP Local on a Service without external addresses",
            "the policy does not count",
            &[
                "millrace::model::tests::selection::scenario_29_an_external_policy_needs_something_external",
            ],
        ),
        same("30 iTP Local without external addresses", "no cluster list", LOCAL),
        same("31 no endpoints at all", "nothing", LOCAL),
        same("32 an endpoint that nothing is true of", "nothing, reject", LOCAL),
    ],
};
