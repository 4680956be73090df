//! Recovery of maps that contradict themselves.

use millrace_common::backend::state;
use millrace_common::service::{PART_BYTES, ServicePart};
use proptest::prelude::*;

use super::world::{from_scratch, last, settle, steps};
use super::*;
use crate::canary::rows::{self, Ports};

/// Some damage, and where.
#[derive(Clone, Debug)]
enum Damage {
    SlotOverwritten(u32),
    ServiceLost,
    ServiceTwice,
    ServiceUnreadable,
    FrontendOfAnother(u32),
    FrontendMoved(u32, u32),
    FrontendWithoutKind,
    BackendGone,
    BackendOfAnother(u32),
    BackendTwice,
    BackendElsewhere(u8),
    SourceLost,
    SourceOfAnother(u32),
}

fn damage() -> impl Strategy<Value = (Damage, prop::sample::Index)> {
    let kinds = prop_oneof![
        (0..20_u32).prop_map(Damage::SlotOverwritten),
        Just(Damage::ServiceLost),
        Just(Damage::ServiceTwice),
        Just(Damage::ServiceUnreadable),
        (0..9_u32).prop_map(Damage::FrontendOfAnother),
        (0..20_u32, 0..12_u32).prop_map(|(first, count)| Damage::FrontendMoved(first, count)),
        (9_990..10_010_u32, 1..12_u32)
            .prop_map(|(first, count)| Damage::FrontendMoved(first, count)),
        Just(Damage::FrontendMoved(u32::MAX, u32::MAX)),
        Just(Damage::FrontendWithoutKind),
        Just(Damage::BackendGone),
        (0..9_u32).prop_map(Damage::BackendOfAnother),
        Just(Damage::BackendTwice),
        (0..250_u8).prop_map(Damage::BackendElsewhere),
        Just(Damage::SourceLost),
        (0..9_u32).prop_map(Damage::SourceOfAnother),
    ];
    (kinds, any::<prop::sample::Index>())
}

fn pick<'m, K: Copy + Ord, V>(
    map: &'m mut std::collections::BTreeMap<K, V>,
    index: &prop::sample::Index,
) -> Option<(K, &'m mut V)> {
    let position = index.index(map.len().max(1));
    map.iter_mut().nth(position).map(|(key, value)| (*key, value))
}

fn apply_damage(maps: &mut Maps, (damage, index): &(Damage, prop::sample::Index)) {
    match damage {
        Damage::SlotOverwritten(id) => maps.slots[index.index(20)] = *id,
        Damage::ServiceLost | Damage::ServiceTwice | Damage::ServiceUnreadable => {
            damage_service(maps, damage, index);
        }
        Damage::FrontendOfAnother(_) | Damage::FrontendMoved(..) | Damage::FrontendWithoutKind => {
            let Some((_, row)) = pick(&mut maps.v4.frontends, index) else { return };
            match damage {
                Damage::FrontendOfAnother(id) => row.service = *id,
                Damage::FrontendMoved(first, count) => {
                    row.near =
                        millrace_common::frontend::SlotRange { first: *first, count: *count };
                }
                _ => row.flags = 0,
            }
        }
        Damage::SourceLost | Damage::SourceOfAnother(_) => damage_source(maps, damage, index),
        _ => damage_backend(maps, damage, index),
    }
}

fn damage_service(maps: &mut Maps, damage: &Damage, index: &prop::sample::Index) {
    let Some((id, row)) = pick(&mut maps.services, index) else { return };
    match damage {
        Damage::ServiceLost => _ = maps.services.remove(&id),
        Damage::ServiceTwice => {
            let twin = *row;
            maps.services.insert(id + 50, twin);
        }
        _ => row.set_part(0, &ServicePart([255; PART_BYTES])),
    }
}

fn damage_source(maps: &mut Maps, damage: &Damage, index: &prop::sample::Index) {
    let sources = &mut maps.v4.sources;
    let Some(mut key) = sources.iter().nth(index.index(sources.len().max(1))).copied() else {
        return;
    };
    sources.remove(&key);
    if let Damage::SourceOfAnother(service) = damage {
        key.net.service = service.to_be_bytes();
        sources.insert(key);
    }
}

fn damage_backend(maps: &mut Maps, damage: &Damage, index: &prop::sample::Index) {
    let Some((id, row)) = pick(&mut maps.v4.backends, index) else { return };
    match damage {
        Damage::BackendGone => row.state = state::GONE,
        Damage::BackendOfAnother(service) => row.service = *service,
        Damage::BackendTwice => {
            let twin = *row;
            maps.v4.backends.insert(id + 100, twin);
        }
        Damage::BackendElsewhere(n) => row.address = V4::address(*n),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn damaged_maps_are_repaired_and_converge(
        steps in steps(false), damages in prop::collection::vec(damage(), 1..4)
    ) {
        let all = last(&steps);
        let mut bench = Bench::new(ROOMY);
        steps.iter().for_each(|step| _ = bench.plan(&step.desired()));
        damages.iter().for_each(|damage| apply_damage(&mut bench.maps, damage));

        let (planner, repairs) = Planner::recover(ROOMY, bench.maps.snapshot());
        repairs.iter().for_each(|op| bench.maps.apply(op));
        bench.maps.answers();
        let (_, again) = Planner::recover(ROOMY, bench.maps.snapshot());
        prop_assert_eq!(again, [], "repaired once is repaired");

        bench.planner = planner;
        let strangers = bench.planner.services().into_iter();
        let strangers = strangers.filter(|name| all.iter().all(|d| d.service != *name));
        let wanted = all.iter().map(|d| (d.service.clone(), d.clone())).collect();
        for desired in strangers.map(Desired::absent).collect::<Vec<_>>().iter().chain(&all) {
            settle(&mut bench, &wanted, desired);
        }
        prop_assert_eq!(bench.all_answers(), from_scratch(&all));
    }
}

#[test]
fn a_frontend_of_no_service_goes_and_a_broken_one_refuses() {
    let mut bench = Bench::new(ROOMY);
    bench.plan(&simple("a", 1, &[1]));
    bench.plan(&simple("b", 2, &[2]));
    bench.maps.services.remove(&1);
    let broken = bench.maps.v4.frontends[&key(2)].near.first;
    bench.maps.slots[broken as usize] = 1;
    let (planner, repairs) = Planner::recover(ROOMY, bench.maps.snapshot());
    let verbs: Vec<&str> = repairs.iter().map(verb).collect();
    assert_eq!(verbs, ["delete", "flip", "flip", "gone"], "the second is that of ClusterIPs");
    repairs.iter().for_each(|op| bench.maps.apply(op));
    assert_eq!(bench.maps.answers()[&(ip(2), 80, 6)].near, []);
    assert_eq!(planner.services(), [name("b")]);
}

#[test]
fn gone_backends_found_at_the_start_wait_from_the_first_plan_on() {
    let mut bench = Bench::new(Capacity { backends: 3, ..ROOMY });
    bench.plan(&simple("a", 1, &[1, 2]));
    bench.plan(&Desired::absent(name("a")));
    let (planner, repairs) = Planner::recover(bench_capacity(), bench.maps.snapshot());
    assert_eq!(repairs, []);
    bench.planner = planner;
    bench.now = Duration::from_secs(1000);
    let refused = bench.planner.plan(&simple("b", 1, &[3]), bench.now).unwrap_err();
    assert_eq!((refused.free, refused.held), (0, 2));
    bench.wait();
    bench.plan(&simple("b", 1, &[3]));
    assert_eq!(bench.maps.v4.backends[&1].generation, 2);
}

#[test]
fn the_canary_survives_a_restart_as_it_is() {
    let mut bench = Bench::new(ROOMY);
    let canary = rows::desired(Ports { tcp4: 1, udp4: 2, tcp6: 3, udp6: 4 }, true);
    assert_ne!(bench.plan(&canary).ops, []);
    let (planner, repairs) = Planner::recover(ROOMY, bench.maps.snapshot());
    assert_eq!(repairs, []);
    bench.planner = planner;
    assert_eq!(bench.plan(&canary).ops, []);
}

fn bench_capacity() -> Capacity {
    Capacity { backends: 3, ..ROOMY }
}

#[test]
fn a_block_recovered_from_a_crash_is_freed_when_its_frontend_is_taken_away() {
    let mut bench = Bench::new(ROOMY);
    let wants = |backends: &[u8]| {
        let mut desired = simple("a", 9, backends);
        desired.ports[0].v4.frontends = vec![frontend(9, Kind::NodePort, List::Cluster)];
        desired
    };
    bench.plan(&wants(&[1, 2]));
    let ops = bench.planner.plan(&wants(&[1, 2, 3]), bench.now).unwrap().ops;
    // A crash before the new block: no list is what the backends' states say.
    bench.maps.apply(&ops[0]);
    bench.planner = Planner::recover(ROOMY, bench.maps.snapshot()).0;
    bench.plan(&simple("b", 9, &[4]));
    bench.plan(&Desired::absent(name("a")));
    bench.plan(&Desired::absent(name("b")));
    bench.wait();
    bench.plan(&Desired::absent(name("a")));
    assert_eq!(bench.planner.pools.slots.free(), ROOMY.slots);
}
