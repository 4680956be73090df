//! Two services, one frontend.

use super::*;

/// A Service whose frontend N is of some kind, with one more of its own.
fn wants(service: &str, n: u8, kind: Kind, own: u8, backend: u8) -> Desired {
    let mut desired = simple(service, own, &[backend]);
    desired.ports[0].v4.frontends.push(frontend(n, kind, List::Cluster));
    desired
}

#[test]
fn the_present_owner_keeps_it_and_the_other_is_told() {
    let mut bench = Bench::new(ROOMY);
    let a = wants("a", 9, Kind::ExternalIp, 1, 1);
    let b = wants("b", 9, Kind::NodePort, 2, 2);
    assert!(bench.plan(&a).conflicts.is_empty());
    let planned = bench.plan(&b);
    let expected = "10.0.0.9:80/TCP (NodePort) is not served: it is the ExternalIP of Service \
                    ns/a; change the address or the port of one of the two";
    assert_eq!(planned.conflicts.iter().map(ToString::to_string).collect::<Vec<_>>(), [expected]);
    let answers = bench.maps.answers();
    assert_eq!(answers[&(ip(9), 80, 6)].service, "ns/a:");
    assert_eq!(answers[&(ip(2), 80, 6)].service, "ns/b:", "the rest of it is served");

    let planned = bench.plan(&b);
    assert_eq!((planned.ops.len(), planned.conflicts.len()), (0, 1), "told each time");
    let planned = bench.plan(&simple("a", 1, &[1]));
    assert_eq!(planned.retry, [name("b")]);
    let planned = bench.plan(&b);
    assert_eq!((verbs(&planned), planned.conflicts.len()), (vec!["flip"], 0));
    assert!(bench.plan(&simple("a", 1, &[1])).retry.is_empty());
    assert_eq!(bench.maps.answers()[&(ip(9), 80, 6)].service, "ns/b:");
}

#[test]
fn a_deleted_service_hands_over_to_all_who_wait() {
    let mut bench = Bench::new(ROOMY);
    let [a, b, c, d] = ["a", "b", "c", "d"];
    for (service, own) in [(a, 1), (b, 2), (c, 3), (d, 4)] {
        bench.plan(&wants(service, 9, Kind::ExternalIp, own, own));
    }
    // One of them stops waiting.
    bench.plan(&simple(c, 3, &[3]));
    assert_eq!(bench.plan(&Desired::absent(name(a))).retry, [name(b), name(d)]);
    bench.plan(&wants(b, 9, Kind::ExternalIp, 2, 2));
    assert_eq!(bench.plan(&wants(d, 9, Kind::ExternalIp, 4, 4)).conflicts[0].owner, name(b));
}

#[test]
fn a_cluster_ip_takes_it_from_any_other_kind() {
    for kind in [Kind::ExternalIp, Kind::LoadBalancer, Kind::NodePort] {
        let mut bench = Bench::new(ROOMY);
        let loser = wants("a", 9, kind, 1, 1);
        let winner = simple("b", 9, &[2]);
        bench.plan(&loser);
        let planned = bench.plan(&winner);
        assert_eq!((planned.retry, planned.conflicts.len()), (vec![name("a").into()], 0));
        assert_eq!(bench.maps.answers()[&(ip(9), 80, 6)].service, "ns/b:");
        let planned = bench.plan(&loser);
        assert!(planned.ops.is_empty(), "its other frontend is as it was");
        assert_eq!(planned.conflicts[0].owner, name("b"));
        assert_eq!(bench.plan(&Desired::absent(name("b"))).retry, [name("a")]);
        bench.plan(&loser);
        assert_eq!(bench.maps.answers()[&(ip(9), 80, 6)].service, "ns/a:");
    }
}

#[test]
fn a_cluster_ip_does_not_take_it_from_another() {
    let mut bench = Bench::new(ROOMY);
    bench.plan(&simple("a", 9, &[1]));
    let planned = bench.plan(&simple("b", 9, &[2]));
    assert_eq!(planned.conflicts[0].owner, name("a"));
    assert_eq!(verbs(&planned), ["zero", "name"], "nothing leads to its backends: no rows");
    assert_eq!(bench.plan(&Desired::absent(name("a"))).retry, [name("b")]);
    assert_eq!(verbs(&bench.plan(&simple("b", 9, &[2]))), ["backend", "slots", "flip"]);
}

#[test]
fn a_service_that_loses_its_last_frontend_frees_its_block() {
    let capacity = Capacity { slots: 4, ..ROOMY };
    let mut bench = Bench::new(capacity);
    let mut loser = simple("a", 9, &[1, 2]);
    loser.ports[0].v4.frontends = vec![frontend(9, Kind::NodePort, List::Cluster)];
    bench.plan(&loser);
    bench.plan(&simple("b", 9, &[3, 4]));
    let planned = bench.plan(&loser);
    assert_eq!(verbs(&planned), ["backend", "backend"], "both only keep the flows they have");
    bench.wait();
    bench.plan(&simple("c", 8, &[5, 6]));
}

#[test]
fn an_owner_whose_claim_grows_weaker_gives_way_to_a_cluster_ip() {
    let mut bench = Bench::new(ROOMY);
    bench.plan(&simple("a", 9, &[1]));
    bench.plan(&simple("b", 9, &[2]));
    let planned = bench.plan(&wants("a", 9, Kind::NodePort, 1, 1));
    assert_eq!(planned.retry, [name("b")]);
    assert!(bench.plan(&simple("b", 9, &[2])).conflicts.is_empty());
    assert_eq!(bench.maps.answers()[&(ip(9), 80, 6)].service, "ns/b:");
}

#[test]
fn two_ports_of_one_service_that_want_the_same_are_told() {
    let mut bench = Bench::new(ROOMY);
    let mut desired = simple("a", 1, &[1]);
    desired.ports.push(DesiredPort { name: "twin".into(), ..desired.ports[0].clone() });
    let planned = bench.plan(&desired);
    assert_eq!(planned.conflicts[0].owner, name("a"));
    assert_eq!(bench.maps.answers()[&(ip(1), 80, 6)].service, "ns/a:");
    assert!(bench.plan(&desired).ops.is_empty());
}
