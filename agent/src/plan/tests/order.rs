//! The operations of single changes, and the order they come in.

use std::collections::BTreeSet;

use millrace_common::backend::state;

use super::*;

#[test]
fn a_service_comes_changes_and_goes_in_safe_order() {
    let mut bench = Bench::new(ROOMY);
    let planned = bench.plan(&simple("a", 1, &[1, 2]));
    assert_eq!(verbs(&planned), ["zero", "name", "backend", "backend", "slots", "flip"]);
    assert!(bench.plan(&simple("a", 1, &[1, 2])).ops.is_empty());
    let planned = bench.plan(&simple("a", 1, &[2, 3]));
    assert_eq!(verbs(&planned), ["backend", "slots", "flip", "gone"]);
    let planned = bench.plan(&simple("a", 9, &[2, 3]));
    assert_eq!(verbs(&planned), ["flip", "delete"], "the block is kept");
    let planned = bench.plan(&simple("a", 9, &[]));
    assert_eq!(verbs(&planned), ["flip", "gone", "gone"]);
    let planned = bench.plan(&Desired::absent(name("a")));
    assert_eq!(verbs(&planned), ["delete", "unname"]);
    assert!(bench.planner.services().is_empty());
    assert!(bench.plan(&Desired::absent(name("never"))).ops.is_empty());
}

#[test]
fn flags_and_timeouts_change_with_the_frontend_alone() {
    let mut bench = Bench::new(ROOMY);
    let mut desired = simple("a", 1, &[1]);
    bench.plan(&desired);
    desired.ports[0].v4.frontends[0].affinity_secs = 60;
    desired.ports[0].v4.frontends[0].flags |= flags::AFFINITY;
    assert_eq!(verbs(&bench.plan(&desired)), ["flip"]);
    assert!(bench.plan(&desired).ops.is_empty());
}

#[test]
fn a_draining_backend_keeps_its_row_until_it_stops_serving() {
    let mut bench = Bench::new(ROOMY);
    bench.plan(&simple("a", 1, &[1, 2]));
    let mut draining = simple("a", 1, &[2]);
    draining.ports[0].v4.serving = places(&[1, 2, 3]);
    let planned = bench.plan(&draining);
    assert_eq!(verbs(&planned), ["slots", "flip", "backend"], "3 was never listed: no row");
    let states = || -> Vec<u8> { bench.maps.v4.backends.values().map(|row| row.state).collect() };
    assert_eq!(states(), [state::SERVING, state::SERVING | state::CLUSTER]);
    assert_eq!(verbs(&bench.plan(&simple("a", 1, &[2]))), ["gone"]);
    assert!(bench.plan(&simple("a", 1, &[2])).ops.is_empty());
}

#[test]
fn lists_that_are_the_same_share_a_block_and_others_do_not() {
    let mut bench = Bench::new(ROOMY);
    let mut desired = simple("a", 1, &[1, 2]);
    desired.ports[0].v4.local = places(&[2]);
    let external = |far| frontend(2, Kind::ExternalIp, far);
    desired.ports[0].v4.frontends.push(external(List::Cluster));
    let planned = bench.plan(&desired);
    assert_eq!(verbs(&planned).iter().filter(|verb| **verb == "slots").count(), 1);
    desired.ports[0].v4.frontends[1] = external(List::Local);
    let planned = bench.plan(&desired);
    assert_eq!(verbs(&planned), ["backend", "slots", "flip"], "2 is in the Local list too now");
    let row = bench.maps.v4.frontends[&key(2)];
    assert_eq!((row.near.count, row.far.count), (2, 1));
    assert_eq!(row.near, bench.maps.v4.frontends[&key(1)].near);
}

#[test]
fn a_backend_that_moves_between_the_lists_is_always_in_one() {
    let mut bench = Bench::new(ROOMY);
    let mut desired = simple("a", 1, &[1]);
    desired.ports[0].v4.frontends = vec![
        frontend(1, Kind::ClusterIp, List::Local),
        frontend(2, Kind::ExternalIp, List::Cluster),
    ];
    desired.ports[0].v4.local = places(&[2]);
    desired.ports[0].v4.serving = places(&[1, 2]);
    bench.plan(&desired);
    desired.ports[0].v4.cluster = places(&[2]);
    desired.ports[0].v4.local = places(&[1]);
    let planned = bench.plan(&desired);
    let expected = ["backend", "backend", "slots", "slots", "flip", "flip", "backend", "backend"];
    assert_eq!(verbs(&planned), expected, "gains first, losses last");
}

#[test]
fn families_and_ports_are_planned_together() {
    let mut bench = Bench::new(ROOMY);
    let mut desired = simple("a", 1, &[1]);
    desired.ports[0].v6 = DesiredFamily {
        cluster: places(&[1, 2]),
        local: Vec::new(),
        serving: places(&[1, 2]),
        frontends: vec![frontend(1, Kind::ClusterIp, List::Cluster)],
        sources: Vec::new(),
    };
    let planned = bench.plan(&desired);
    let expected =
        ["zero", "name", "backend", "backend", "backend", "slots", "slots", "flip", "flip"];
    assert_eq!(verbs(&planned), expected);
    // The port gets another name: another service id, the same frontend, never away.
    desired.ports[0].name = "web".into();
    let planned = bench.plan(&desired);
    let tail = ["gone", "gone", "gone", "unname"];
    assert_eq!(verbs(&planned), expected.into_iter().chain(tail).collect::<Vec<_>>());
    assert_eq!(bench.maps.answers()[&(ip(1), 80, 6)].service, "ns/a:web");
}

#[test]
fn ports_that_swap_their_numbers_keep_both_frontends() {
    let mut bench = Bench::new(ROOMY);
    let two = |first: u8, second: u8| {
        let mut ports = vec![port("x"), port("y")];
        for (port, (n, backend)) in ports.iter_mut().zip([(first, 1), (second, 2)]) {
            port.v4.cluster = places(&[backend]);
            port.v4.serving = places(&[backend]);
            port.v4.frontends = vec![frontend(n, Kind::ClusterIp, List::Cluster)];
        }
        with_ports("a", ports)
    };
    bench.plan(&two(1, 2));
    assert_eq!(verbs(&bench.plan(&two(2, 1))), ["flip", "flip"]);
    assert_eq!(bench.maps.answers()[&(ip(2), 80, 6)].service, "ns/a:x");
    assert!(bench.plan(&two(2, 1)).ops.is_empty());
}

/// What a plan hands out: service ids, backend ids, slots.
fn handed_out(planned: &Planned) -> (BTreeSet<u32>, BTreeSet<u32>, BTreeSet<u32>) {
    let (mut services, mut backends, mut slots) = Default::default();
    for op in &planned.ops {
        match op {
            Op::Service(id, Some(_)) => BTreeSet::insert(&mut services, *id),
            Op::BackendV4(id, row) if row.state != 0 => BTreeSet::insert(&mut backends, *id),
            Op::Slots(first, ids) => {
                BTreeSet::extend(&mut slots, (0..ids.len() as u32).map(|n| first + n));
                true
            }
            _ => true,
        };
    }
    (services, backends, slots)
}

#[test]
fn what_is_freed_is_used_again_only_after_the_grace_period() {
    let mut bench = Bench::new(ROOMY);
    let first = handed_out(&bench.plan(&simple("a", 1, &[1, 2])));
    bench.plan(&Desired::absent(name("a")));
    bench.now += GRACE - Duration::from_nanos(1);
    let second = handed_out(&bench.plan(&simple("b", 1, &[1, 2])));
    assert!(first.0.is_disjoint(&second.0) && first.1.is_disjoint(&second.1));
    assert!(first.2.is_disjoint(&second.2));
    bench.now += Duration::from_nanos(1);
    let third = handed_out(&bench.plan(&simple("c", 2, &[1, 2])));
    assert_eq!(third, first);
    let generations: Vec<u32> = bench.maps.v4.backends.values().map(|row| row.generation).collect();
    assert_eq!(generations, [2, 2, 1, 1]);
}
