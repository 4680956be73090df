//! Maps that are too small.

use super::*;
use crate::plan::outcome::Map;

/// Capacity for one Service with two backends, two of everything but the map under test.
fn tight(map: Map) -> Capacity {
    let mut capacity = ROOMY;
    match map {
        Map::Services => capacity.services = 1,
        Map::Backends => capacity.backends = 4,
        Map::Slots => capacity.slots = 3,
        Map::SourcesV4 | Map::SourcesV6 => capacity.sources = 3,
        Map::FrontendsV4 | Map::FrontendsV6 => capacity.frontends = 2,
    }
    capacity
}

#[test]
fn a_service_that_does_not_fit_is_refused_whole_and_told_why() {
    let cases = [
        (
            Map::Services,
            "it needs 1 more rows of map services, which has 0 of 1 free; raise --max-services",
        ),
        (
            Map::Backends,
            "it needs 2 more rows of map backends, which has 1 of 4 free; raise --max-backends",
        ),
        (
            Map::Slots,
            "it needs 2 more rows in one piece of map slots, which has 1 of 3 free; raise \
             --max-slots",
        ),
        (
            Map::FrontendsV4,
            "it needs 1 more rows of map frontends_v4, which has 0 of 2 free; raise \
             --max-frontends",
        ),
    ];
    for (map, text) in cases {
        let mut bench = Bench::new(tight(map));
        bench.plan(&simple("a", 1, &[1, 2]));
        let refused = bench.planner.plan(&simple("b", 2, &[3, 4]), bench.now).unwrap_err();
        assert_eq!(refused.to_string(), format!("Service ns/b is not updated: {text}"));
        assert_eq!(bench.planner.services(), [name("a")]);
        assert!(bench.plan(&simple("a", 1, &[1, 2])).ops.is_empty(), "others are as they were");

        bench.plan(&Desired::absent(name("a")));
        let again = bench.planner.plan(&simple("b", 2, &[3, 4]), bench.now);
        if map != Map::FrontendsV4 {
            let text = again.unwrap_err().to_string();
            assert!(text.contains("more in a few seconds"), "{text}");
            bench.wait();
            bench.plan(&simple("b", 2, &[3, 4]));
        } else {
            bench.maps.run(&again.unwrap().ops);
        }
        assert_eq!(bench.maps.answers().len(), 1);
    }
}

#[test]
fn a_refused_change_leaves_the_service_as_it_was() {
    let mut bench = Bench::new(Capacity { backends: 4, ..ROOMY });
    bench.plan(&simple("a", 1, &[1, 2]));
    let mut larger = simple("a", 2, &[1, 2, 3, 4, 5]);
    larger.ports.push(port("more"));
    let refused = bench.planner.plan(&larger, bench.now).unwrap_err();
    assert_eq!((refused.needed, refused.free, refused.held), (3, 1, 0));
    assert!(bench.plan(&simple("a", 1, &[1, 2])).ops.is_empty());
    let planned = bench.plan(&simple("a", 1, &[1, 2, 3]));
    assert_eq!(verbs(&planned), ["backend", "slots", "flip"]);
    let row = bench.maps.v4.backends[&3];
    assert_eq!(row.generation, 1, "the refused plan used nothing up");
}

#[test]
fn a_full_second_family_undoes_the_first() {
    let mut bench = Bench::new(Capacity { slots: 3, ..ROOMY });
    let mut dual = simple("a", 1, &[1, 2]);
    dual.ports[0].v6 = DesiredFamily {
        cluster: places(&[1, 2]),
        local: Vec::new(),
        serving: places(&[1, 2]),
        frontends: vec![frontend(1, Kind::ClusterIp, List::Cluster)],
        sources: Vec::new(),
    };
    assert_eq!(bench.planner.plan(&dual, bench.now).unwrap_err().map, Map::Slots);
    assert!(bench.planner.services().is_empty());
    let planned = bench.plan(&simple("b", 1, &[1, 2, 3]));
    assert_eq!(planned.ops.get(1).map(verb), Some("name"));
    assert_eq!(bench.maps.services.keys().collect::<Vec<_>>(), [&1]);
}

#[test]
fn a_refused_claim_takes_nothing_from_anybody() {
    let mut bench = Bench::new(Capacity { backends: 2, ..ROOMY });
    let mut owner = simple("a", 9, &[1]);
    owner.ports[0].v4.frontends = vec![frontend(9, Kind::NodePort, List::Cluster)];
    bench.plan(&owner);
    bench.planner.plan(&simple("b", 9, &[2]), bench.now).unwrap_err();
    assert!(bench.plan(&owner).ops.is_empty());
    assert!(bench.plan(&owner).conflicts.is_empty());
}
