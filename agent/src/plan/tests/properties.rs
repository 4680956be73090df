//! What holds for every sequence of changes. [`Maps::run`] checks each step of each.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::address::Family;
use proptest::prelude::*;
use proptest::sample::Index;

use super::world::{SHARED, Step, from_scratch, last, settle, steps};
use super::*;

/// Knows when each id and slot was freed, and that it is not given out before its time.
#[derive(Default)]
struct Watch {
    backends: BTreeMap<(u8, u32), (u32, Duration)>,
    services: BTreeMap<u32, Duration>,
    slots: BTreeMap<u32, Duration>,
}

fn slots_in_use(maps: &Maps) -> BTreeSet<u32> {
    let rows = maps.v4.frontends.values().chain(maps.v6.frontends.values());
    let ranges = rows.flat_map(|row| [row.near, row.far]);
    ranges.flat_map(|range| range.first..range.first + range.count).collect()
}

impl Watch {
    fn backend(&mut self, family: u8, id: u32, state: u8, generation: u32, now: Duration) {
        if state == 0 {
            self.backends.insert((family, id), (generation, now));
        } else if let Some((gone, since)) = self.backends.get(&(family, id)) {
            assert!(generation == gone + 1 && now - *since >= GRACE, "backend {id} too early");
        }
    }

    /// The operations were carried out now; `before`: slots in use before that.
    fn see(&mut self, ops: &[Op], maps: &Maps, before: &BTreeSet<u32>, now: Duration) {
        for op in ops {
            match op {
                Op::Service(id, None) => _ = self.services.insert(*id, now),
                Op::Service(id, Some(_)) => {
                    let since = self.services.get(id);
                    assert!(since.is_none_or(|since| now - *since >= GRACE), "service {id} early");
                }
                Op::BackendV4(id, row) => self.backend(4, *id, row.state, row.generation, now),
                Op::BackendV6(id, row) => self.backend(6, *id, row.state, row.generation, now),
                Op::Slots(first, ids) => {
                    for slot in *first..first + u32::try_from(ids.len()).unwrap() {
                        let since = self.slots.get(&slot);
                        assert!(since.is_none_or(|since| now - *since >= GRACE), "slot {slot}");
                    }
                }
                _ => {}
            }
        }
        let after = slots_in_use(maps);
        self.slots.extend(before.difference(&after).map(|slot| (*slot, now)));
    }
}

/// What the planner says of the maps is what they hold.
fn check_occupancy(bench: &Bench) {
    let occupancy = bench.planner.occupancy();
    let used: BTreeMap<&str, usize> =
        occupancy.maps.iter().map(|map| (map.name, map.used as usize)).collect();
    let maps = &bench.maps;
    let backends_v4 = maps.v4.backends.values().filter(|row| row.state != 0).count();
    let backends_v6 = maps.v6.backends.values().filter(|row| row.state != 0).count();
    let held = BTreeMap::from([
        ("services", maps.services.len()),
        ("frontends_v4", maps.v4.frontends.len()),
        ("frontends_v6", maps.v6.frontends.len()),
        ("backends", backends_v4 + 2 * backends_v6),
        ("slots", slots_in_use(maps).len()),
        ("source_ranges_v4", maps.v4.sources.len()),
        ("source_ranges_v6", maps.v6.sources.len()),
    ]);
    assert_eq!(used, held);
    assert_eq!(occupancy.services as usize, bench.planner.services().len());
}

/// Whether an operation is about ClusterIPs as such.
fn is_of_block(op: &Op) -> bool {
    match op {
        Op::FrontendV4(key, _) => key.is_block(),
        Op::FrontendV6(key, _) => key.is_block(),
        _ => false,
    }
}

fn run(steps: &[Step]) -> Bench {
    let mut bench = Bench::new(ROOMY);
    for step in steps {
        bench.now += step.pause;
        bench.plan(&step.desired());
    }
    bench
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_prefix_is_whole_and_the_end_is_as_from_scratch(steps in steps(false)) {
        let mut bench = Bench::new(ROOMY);
        let mut watch = Watch::default();
        for step in &steps {
            bench.now += step.pause;
            let before = slots_in_use(&bench.maps);
            let planned = bench.plan(&step.desired());
            watch.see(&planned.ops, &bench.maps, &before, bench.now);
            prop_assert!(bench.plan(&step.desired()).ops.is_empty(), "not done");
        }
        prop_assert_eq!(bench.all_answers(), from_scratch(&last(&steps)));
    }

    #[test]
    fn a_shared_frontend_always_has_one_rightful_owner(steps in steps(true)) {
        let mut bench = Bench::new(ROOMY);
        let mut wanted = BTreeMap::new();
        for step in &steps {
            bench.now += step.pause;
            let desired = step.desired();
            wanted.insert(desired.service.clone(), desired.clone());
            settle(&mut bench, &wanted, &desired);
        }
        let ports = || wanted.values().flat_map(|d| d.ports.iter().map(move |p| (d, p)));
        let claims: Vec<(String, Kind)> = ports()
            .filter_map(|(desired, port)| {
                let found = port.v4.frontends.iter().find(|f| f.key == key(SHARED))?;
                Some((format!("{}:{}", desired.service, port.name), found.kind))
            })
            .collect();
        let answers = bench.maps.answers();
        let answer = answers.get(&(ip(SHARED), 80, 6));
        prop_assert_eq!(answer.is_some(), !claims.is_empty());
        if let Some(answer) = answer {
            let owner = claims.iter().find(|(service, _)| *service == answer.service);
            let strongest = claims.iter().map(|(_, kind)| *kind).min();
            let by_right = owner.is_some_and(|(_, kind)| {
                *kind == Kind::ClusterIp || strongest != Some(Kind::ClusterIp)
            });
            prop_assert!(by_right, "{} among {:?}", answer.service, claims);
        }
        for desired in wanted.values() {
            prop_assert!(bench.plan(desired).ops.is_empty(), "not settled");
        }
    }

    #[test]
    fn a_crash_at_any_operation_is_recovered_from(steps in steps(false), at in any::<Index>()) {
        let (end, before) = steps.split_last().unwrap();
        let mut bench = run(before);
        bench.now += end.pause;
        let mut ops = bench.planner.plan(&end.desired(), bench.now).unwrap().ops;
        ops.extend(bench.planner.plan_cluster_ips());
        let done = at.index(ops.len() + 1);
        ops[..done].iter().for_each(|op| bench.maps.apply(op));

        let (planner, repairs) = Planner::recover(ROOMY, bench.maps.snapshot());
        prop_assert!(repairs.iter().all(is_of_block), "{:?}", repairs);
        bench.maps.run(&repairs);
        bench.maps.check_cluster_ips();
        bench.planner = planner;
        let all = last(&steps);
        let strangers = bench.planner.services().into_iter();
        let strangers = strangers.filter(|name| all.iter().all(|d| d.service != *name));
        for desired in strangers.map(Desired::absent).collect::<Vec<_>>().iter().chain(&all) {
            bench.plan(desired);
        }
        prop_assert_eq!(bench.all_answers(), from_scratch(&all));

        let (planner, repairs) = Planner::recover(ROOMY, bench.maps.snapshot());
        prop_assert_eq!(repairs, []);
        bench.planner = planner;
        for desired in &all {
            prop_assert_eq!(bench.plan(desired).ops, []);
        }
    }

    #[test]
    fn what_does_not_fit_leaves_no_trace_and_nothing_leaks(steps in steps(true), which in 0..5) {
        let mut capacity = ROOMY;
        match which {
            0 => capacity.services = 3,
            1 => capacity.backends = 9,
            2 => capacity.slots = 12,
            3 => capacity.sources = 3,
            _ => capacity.frontends = 4,
        }
        let mut bench = Bench::new(capacity);
        for step in &steps {
            bench.now += step.pause;
            match bench.planner.plan(&step.desired(), bench.now) {
                Ok(planned) => {
                    bench.maps.run(&planned.ops);
                    bench.plan_cluster_ips();
                    check_occupancy(&bench);
                }
                Err(refused) => {
                    prop_assert!(refused.to_string().contains("raise --max-"));
                    let (_, repairs) = Planner::recover(capacity, bench.maps.snapshot());
                    prop_assert_eq!(repairs, []);
                }
            }
        }
        for name in bench.planner.services() {
            bench.plan(&Desired::absent(name));
        }
        bench.wait();
        bench.plan(&Desired::absent(name("a")));
        let pools = &bench.planner.pools;
        prop_assert_eq!(pools.services.free(), capacity.services);
        prop_assert_eq!(pools.names.free(), capacity.services);
        let given = [Family::V4, Family::V6].map(|family| pools.backends.given(family));
        prop_assert_eq!(given, [0, 0]);
        prop_assert_eq!(pools.slots.free(), capacity.slots);
        prop_assert_eq!(pools.sources_v4.free(), capacity.sources);
        prop_assert_eq!(pools.sources_v6.free(), capacity.sources);
        prop_assert_eq!(bench.planner.v4.rows() + bench.planner.v6.rows(), 0);
    }
}
