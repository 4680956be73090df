//! Source ranges: rows beside those that lead to backends.

use std::collections::BTreeSet;

use super::*;
use crate::model::sources::Range;
use crate::plan::outcome::Map;

/// A Service with a load balancer address, number 9, for clients of these ranges of 30 bits.
fn limited(service: &str, ranges: &[u8]) -> Desired {
    let mut desired = simple(service, 1, &[1]);
    let family = &mut desired.ports[0].v4;
    let mut balancer = frontend(9, Kind::LoadBalancer, List::Cluster);
    balancer.flags |= flags::SOURCE_RANGES;
    family.frontends.push(balancer);
    let range = |n: &u8| Range { address: V4::address(*n), length: 30 };
    family.sources = ranges.iter().map(range).collect();
    desired
}

#[test]
fn ranges_come_before_the_frontend_and_go_after_it() {
    let mut bench = Bench::new(ROOMY);
    let planned = bench.plan(&limited("a", &[4, 8]));
    let expected = ["zero", "name", "backend", "allow", "allow", "slots", "flip", "flip"];
    assert_eq!(verbs(&planned), expected);
    assert!(bench.plan(&limited("a", &[4, 8])).ops.is_empty());
    assert_eq!(verbs(&bench.plan(&limited("a", &[8, 12]))), ["allow", "disallow"]);
    // Everybody may now: the frontend says so before the ranges go.
    let mut open = limited("a", &[]);
    open.ports[0].v4.frontends[1].flags &= !flags::SOURCE_RANGES;
    assert_eq!(verbs(&bench.plan(&open)), ["flip", "disallow", "disallow"]);
    assert_eq!(verbs(&bench.plan(&limited("a", &[4]))), ["allow", "flip"]);
    // Without the address there is nothing to guard.
    assert_eq!(verbs(&bench.plan(&simple("a", 1, &[1]))), ["delete", "disallow"]);
    bench.plan(&limited("a", &[4]));
    let planned = bench.plan(&Desired::absent(name("a")));
    assert_eq!(verbs(&planned), ["delete", "delete", "disallow", "gone", "unname"]);
    assert!(bench.maps.v4.sources.is_empty());
}

#[test]
fn a_port_with_another_name_has_its_ranges_before_the_old_ones_go() {
    let mut bench = Bench::new(ROOMY);
    bench.plan(&limited("a", &[4]));
    let mut renamed = limited("a", &[4]);
    renamed.ports[0].name = "web".into();
    let verbs = verbs(&bench.plan(&renamed));
    let place = |verb| verbs.iter().position(|found| *found == verb).unwrap();
    assert!(place("allow") < place("flip") && place("flip") < place("disallow"), "{verbs:?}");
    assert!(place("disallow") < place("unname"), "{verbs:?}");
}

#[test]
fn ranges_of_a_lost_address_go() {
    let mut bench = Bench::new(ROOMY);
    bench.plan(&limited("a", &[4]));
    assert_eq!(bench.plan(&simple("b", 9, &[2])).retry, [name("a")]);
    let planned = bench.plan(&limited("a", &[4]));
    assert_eq!((verbs(&planned), planned.conflicts.len()), (vec!["disallow"], 1));
}

#[test]
fn a_service_with_too_many_ranges_is_refused_whole() {
    let mut bench = Bench::new(Capacity { sources: 3, ..ROOMY });
    bench.plan(&limited("a", &[4, 8]));
    let many = limited("a", &[4, 12, 16]);
    let refused = bench.planner.plan(&many, bench.now).unwrap_err();
    assert_eq!((refused.map, refused.needed, refused.free), (Map::SourcesV4, 2, 1));
    let expected = "Service ns/a is not updated: it needs 2 more rows of map source_ranges_v4, \
                    which has 1 of 3 free; raise --max-source-ranges";
    assert_eq!(refused.to_string(), expected);
    assert!(bench.plan(&limited("a", &[4, 8])).ops.is_empty(), "it stays as it was");
    bench.plan(&limited("a", &[4]));
    bench.wait();
    bench.plan(&limited("a", &[4, 12, 16]));
}

#[test]
fn ranges_of_no_service_are_taken_away_at_a_start() {
    let mut bench = Bench::new(ROOMY);
    bench.plan(&limited("a", &[4]));
    let stray = millrace_common::node::SourceKey::new(77, V4::address(4), 30);
    let short = millrace_common::node::SourceKey { bits: 7, ..stray };
    bench.maps.v4.sources.extend([stray, short]);
    let (planner, repairs) = Planner::recover(ROOMY, bench.maps.snapshot());
    let found: BTreeSet<_> = repairs.iter().map(verb).collect();
    assert_eq!((repairs.len(), found), (2, BTreeSet::from(["disallow"])));
    repairs.iter().for_each(|op| bench.maps.apply(op));
    bench.planner = planner;
    assert!(bench.plan(&limited("a", &[4])).ops.is_empty());
    assert_eq!(bench.planner.pools.sources_v4.free(), ROOMY.sources - 1);
}
