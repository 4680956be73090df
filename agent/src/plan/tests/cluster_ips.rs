//! ClusterIPs as such: rows that many Services share.

use std::collections::BTreeSet;

use millrace_common::address::V6;
use millrace_common::frontend::Frontend;

use super::*;
use crate::plan::outcome::Map;

/// A Service at ClusterIP number `n` with a port of that number.
fn at(service: &str, n: u8, port: u16) -> Desired {
    let mut desired = simple(service, n, &[n]);
    desired.ports[0].v4.frontends[0].key.port = Be16::new(port);
    desired
}

/// The row of the block of number `n`, if it has one.
fn block(bench: &Bench, n: u8) -> Option<Frontend> {
    let (key, _) = FrontendKey::of_block(V4::address(n));
    bench.maps.v4.frontends.get(&key).copied()
}

fn addresses(bench: &Bench) -> BTreeSet<V4> {
    bench.maps.v4.cluster_ips()
}

fn numbers<const N: usize>(numbers: [u8; N]) -> BTreeSet<V4> {
    numbers.map(V4::address).into()
}

#[test]
fn neighbours_share_a_row_that_goes_with_the_last_one() {
    let mut bench = Bench::new(ROOMY);
    for (service, n) in [("a", 1), ("b", 127), ("c", 128), ("d", 0)] {
        bench.plan(&simple(service, n, &[n]));
    }
    assert_eq!(addresses(&bench), numbers([0, 1, 127, 128]));
    assert!(block(&bench, 0) == block(&bench, 127) && block(&bench, 0) != block(&bench, 128));
    bench.plan(&Desired::absent(name("b")));
    bench.plan(&Desired::absent(name("c")));
    assert_eq!(addresses(&bench), numbers([0, 1]));
    assert_eq!(block(&bench, 128), None);
}

#[test]
fn both_families_have_theirs() {
    let mut bench = Bench::new(ROOMY);
    let mut desired = simple("a", 5, &[1]);
    desired.ports[0].v6.frontends = vec![frontend(200, Kind::ClusterIp, List::Cluster)];
    bench.plan(&desired);
    assert_eq!(addresses(&bench), numbers([5]));
    assert_eq!(bench.maps.v6.cluster_ips(), BTreeSet::from([V6::address(200)]));
}

#[test]
fn what_is_no_cluster_ip_is_none_as_such() {
    let mut bench = Bench::new(ROOMY);
    let mut desired = simple("a", 1, &[1]);
    for (n, kind) in [(2, Kind::ExternalIp), (3, Kind::LoadBalancer), (4, Kind::NodePort)] {
        desired.ports[0].v4.frontends.push(frontend(n, kind, List::Cluster));
    }
    bench.plan(&desired);
    assert_eq!(addresses(&bench), numbers([1]));
}

/// An API server does not allow it; files do.
#[test]
fn two_services_with_one_cluster_ip_and_other_ports_are_both_served() {
    let mut bench = Bench::new(ROOMY);
    bench.plan(&at("a", 1, 80));
    assert!(bench.plan(&at("b", 1, 81)).conflicts.is_empty());
    assert_eq!(bench.maps.answers()[&(ip(1), 81, 6)].near.len(), 1);
    bench.plan(&Desired::absent(name("a")));
    assert_eq!(addresses(&bench), numbers([1]));
    bench.plan(&Desired::absent(name("b")));
    assert!(bench.maps.v4.frontends.is_empty());
}

#[test]
fn a_row_is_written_once_for_all_services_of_a_round() {
    let mut bench = Bench::new(ROOMY);
    for n in 0..100 {
        let desired = simple(&format!("s{n}"), n, &[1]);
        let planned = bench.planner.plan(&desired, bench.now).unwrap();
        bench.maps.run(&planned.ops);
    }
    assert_eq!(bench.plan_cluster_ips().len(), 1);
    assert_eq!(addresses(&bench).len(), 100);
    assert!(bench.planner.plan_cluster_ips().is_empty(), "nothing has changed since");
}

/// What a writer left that was interrupted before the rows of blocks, or damaged.
#[test]
fn rows_that_do_not_fit_the_frontends_are_mended_at_a_start() {
    let mut bench = Bench::new(ROOMY);
    for (service, n) in [("a", 1), ("b", 2), ("c", 130)] {
        bench.plan(&simple(service, n, &[1]));
    }
    let (planner, repairs) = Planner::recover(ROOMY, bench.maps.snapshot());
    assert_eq!(repairs, []);
    bench.planner = planner;

    let (first, place) = FrontendKey::of_block(V4::address(1));
    let (missing, _) = FrontendKey::of_block(V4::address(130));
    let (stray, _) = FrontendKey::<V4>::of_block(Ipv4Addr::new(10, 9, 9, 9).into());
    let odd = FrontendKey::new(V4::address(3), Be16::new(0), 0);
    let rows = &mut bench.maps.v4.frontends;
    rows.insert(first, Frontend::of_block(&first, 1 << place | 1 << 77));
    rows.insert(stray, Frontend::of_block(&stray, 1));
    rows.insert(odd, Frontend::of_block(&odd, 1));
    rows.remove(&missing);
    let (planner, repairs) = Planner::recover(ROOMY, bench.maps.snapshot());
    assert_eq!(repairs.len(), 4, "{repairs:?}");
    repairs.iter().for_each(|op| bench.maps.apply(op));
    bench.planner = planner;
    assert!(bench.plan_cluster_ips().is_empty());
    assert_eq!(addresses(&bench), numbers([1, 2, 130]));
    assert!(bench.plan(&simple("a", 1, &[1])).ops.is_empty());
}

/// Rows of blocks count, also those that are yet to be deleted.
#[test]
fn a_service_needs_room_for_the_row_of_its_cluster_ip() {
    let mut bench = Bench::new(Capacity { frontends: 4, ..ROOMY });
    bench.plan(&simple("a", 1, &[1]));
    bench.plan(&simple("b", 2, &[1]));
    let far = simple("c", 200, &[1]);
    let refused = bench.planner.plan(&far, bench.now).unwrap_err();
    assert_eq!((refused.map, refused.needed, refused.free), (Map::FrontendsV4, 2, 1));
    bench.plan(&simple("c", 3, &[1]));
    for service in ["a", "b", "c"] {
        let planned = bench.planner.plan(&Desired::absent(name(service)), bench.now).unwrap();
        bench.maps.run(&planned.ops);
    }
    let room = |bench: &Bench| bench.planner.occupancy().maps[1].used;
    assert_eq!(room(&bench), 1, "the row of the block is still there");
    bench.plan_cluster_ips();
    assert_eq!(room(&bench), 0);
}
