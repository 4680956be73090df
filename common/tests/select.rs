//! The decision of the socket path, on ordinary maps.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::Ipv4Addr;

use millrace_common::address::{Be16, V4};
use millrace_common::affinity::{AffinityEntry, AffinityKey, Client, NS_PER_SEC};
use millrace_common::backend::{Backend, state};
use millrace_common::frontend::{Frontend, FrontendKey, SlotRange, flags};
use millrace_common::select::{Decision, Sockets, Tables, Target, scale, select};
use proptest::prelude::*;
use proptest::sample::Index;

const SERVICE: u32 = 7;
const TIMEOUT_SECS: u32 = 30;

/// The maps, the client and the clock.
#[derive(Default)]
struct World {
    frontends: HashMap<FrontendKey<V4>, Frontend>,
    slots: HashMap<u32, u32>,
    backends: HashMap<u32, Backend<V4>>,
    affinity: RefCell<HashMap<AffinityKey, AffinityEntry>>,
    client: Cell<u64>,
    client_is_node: bool,
    random: Cell<u32>,
    now_ns: Cell<u64>,
}

impl Tables<V4> for World {
    fn frontend(&self, key: &FrontendKey<V4>) -> Option<Frontend> {
        self.frontends.get(key).copied()
    }
    fn slot(&self, index: u32) -> Option<u32> {
        self.slots.get(&index).copied()
    }
    fn backend(&self, id: u32) -> Option<Backend<V4>> {
        self.backends.get(&id).copied()
    }
    fn random(&self) -> u32 {
        self.random.get()
    }
    fn now_ns(&self) -> u64 {
        self.now_ns.get()
    }
    fn affinity(&self, key: &AffinityKey) -> Option<AffinityEntry> {
        self.affinity.borrow().get(key).copied()
    }
    fn set_affinity(&self, key: &AffinityKey, entry: &AffinityEntry) {
        self.affinity.borrow_mut().insert(*key, *entry);
    }
}

impl Sockets<V4> for World {
    fn client(&self) -> Client {
        Client::of_namespace(self.client.get())
    }
    fn client_is_node(&self) -> bool {
        self.client_is_node
    }
    fn is_cluster_ip(&self, address: V4) -> bool {
        self.has_cluster_ip(address)
    }
}

fn key() -> FrontendKey<V4> {
    FrontendKey::new(Ipv4Addr::new(10, 96, 0, 1).into(), Be16::new(80), 6)
}

fn backend(id: u32) -> Backend<V4> {
    let [.., high, low] = id.to_be_bytes();
    Backend {
        address: Ipv4Addr::new(10, 1, high, low).into(),
        port: Be16::new(8080),
        state: state::CLUSTER | state::LOCAL | state::SERVING,
        family: 4,
        generation: 1,
        service: SERVICE,
    }
}

impl World {
    /// One frontend with backends 1 to `count` in slots from 100 on, and some flags.
    fn new(count: u32, flags: u32) -> Self {
        let mut world = Self::default();
        let near = SlotRange { first: 100, count };
        let row = Frontend {
            service: SERVICE,
            flags,
            near,
            affinity_secs: TIMEOUT_SECS,
            ..Frontend::default()
        };
        world.frontends.insert(key(), row);
        for index in 0..count {
            world.slots.insert(100 + index, index + 1);
            world.backends.insert(index + 1, backend(index + 1));
        }
        world
    }

    fn select(&self) -> Decision<V4> {
        select(self, &key())
    }

    /// Decide with a random number that leads to backend `id`.
    fn select_towards(&self, id: u32) -> Decision<V4> {
        let count = u32::try_from(self.slots.len()).expect("a handful");
        self.random.set((id - 1) * (u32::MAX / count) + 1000);
        self.select()
    }

    fn advance(&self, ns: u64) {
        self.now_ns.set(self.now_ns.get() + ns);
    }
}

fn chosen(decision: Decision<V4>) -> Target<V4> {
    match decision {
        Decision::Forward(target) => target,
        other => panic!("{other:?}"),
    }
}

/// Backend id and whether affinity chose it.
fn outcome(decision: Decision<V4>) -> (u32, bool) {
    let target = chosen(decision);
    (target.id, target.by_affinity)
}

#[test]
fn what_is_no_frontend_is_left_alone() {
    let world = World::new(1, 0);
    let others = [
        FrontendKey::new(key().address, Be16::new(81), 6),
        FrontendKey::new(key().address, key().port, 17),
        FrontendKey::new(Ipv4Addr::new(10, 96, 0, 2).into(), key().port, 6),
    ];
    for other in others {
        assert_eq!(select(&world, &other), Decision::Pass);
    }
}

#[test]
fn a_frontend_forwards_to_a_backend_with_all_it_takes_to_remember_it() {
    let world = World::new(3, 0);
    let target = chosen(world.select_towards(2));
    let row = backend(2);
    let expected = Target {
        id: 2,
        generation: 1,
        address: row.address,
        port: row.port,
        service: SERVICE,
        by_affinity: false,
    };
    assert_eq!(target, expected);
    assert!(world.affinity.borrow().is_empty(), "no affinity, nothing remembered");
}

#[test]
fn without_backends_it_refuses_or_drops() {
    assert_eq!(World::new(0, 0).select(), Decision::Refuse(SERVICE));
    assert_eq!(World::new(0, flags::AFFINITY).select(), Decision::Refuse(SERVICE));
    assert_eq!(World::new(0, flags::NEAR_DROP).select(), Decision::Drop(SERVICE));
    assert_eq!(
        World::new(0, flags::FAR_DROP).select(),
        Decision::Refuse(SERVICE),
        "not this client's list"
    );
    let with_one = World::new(1, flags::FAR_DROP);
    assert_eq!(outcome(with_one.select()), (1, false));
}

#[test]
fn loopback_frontends_are_for_sockets_of_the_node_only() {
    let mut world = World::new(1, flags::NODE_ONLY);
    assert_eq!(world.select(), Decision::Pass, "a pod's loopback is its own");
    world.client_is_node = true;
    assert_eq!(outcome(world.select()), (1, false));
    let empty = World::new(0, flags::NODE_ONLY);
    assert_eq!(empty.select(), Decision::Pass, "even without backends");
}

#[test]
fn source_ranges_are_left_to_a_hook_that_knows_the_source() {
    for count in [0, 1] {
        let world = World::new(count, flags::SOURCE_RANGES | flags::AFFINITY);
        assert_eq!(world.select(), Decision::NeedsSource);
        assert!(world.affinity.borrow().is_empty());
    }
    let loopback = World::new(1, flags::SOURCE_RANGES | flags::NODE_ONLY);
    assert_eq!(loopback.select(), Decision::Pass);
}

#[test]
fn broken_rows_are_told_from_missing_backends() {
    for flags in [0, flags::AFFINITY] {
        let mut no_slot = World::new(1, flags);
        no_slot.slots.clear();
        let mut no_backend = World::new(1, flags);
        no_backend.backends.clear();
        let mut anothers = World::new(1, flags);
        anothers.backends.get_mut(&1).unwrap().service = SERVICE + 1;
        let mut beyond = World::new(1, flags);
        beyond.frontends.get_mut(&key()).unwrap().near.first = u32::MAX;
        for world in [no_slot, no_backend, anothers, beyond] {
            assert_eq!(world.select(), Decision::Broken);
            assert!(world.affinity.borrow().is_empty(), "nothing to remember");
        }
    }
}

#[test]
fn affinity_binds_a_client_to_its_backend() {
    let world = World::new(3, flags::AFFINITY);
    assert_eq!(outcome(world.select_towards(2)), (2, false));
    assert_eq!(outcome(world.select_towards(3)), (2, true));
    world.client.set(1);
    assert_eq!(outcome(world.select_towards(3)), (3, false), "another client");
    world.client.set(0);
    assert_eq!(outcome(world.select_towards(1)), (2, true));
    assert_eq!(world.affinity.borrow().len(), 2);
}

#[test]
fn affinity_is_shared_by_the_frontends_of_a_service_and_no_others() {
    let mut world = World::new(3, flags::AFFINITY);
    let node_port = FrontendKey::new(Ipv4Addr::new(192, 0, 2, 1).into(), Be16::new(30080), 6);
    let row = world.frontends[&key()];
    world.frontends.insert(node_port, row);
    assert_eq!(outcome(world.select_towards(2)), (2, false));
    world.random.set(u32::MAX);
    assert_eq!(outcome(select(&world, &node_port)), (2, true));

    world.frontends.insert(node_port, Frontend { service: SERVICE + 1, ..row });
    world.backends.get_mut(&3).unwrap().service = SERVICE + 1;
    assert_eq!(outcome(select(&world, &node_port)), (3, false));
}

#[test]
fn affinity_lasts_from_the_latest_new_connection() {
    let timeout_ns = u64::from(TIMEOUT_SECS) * NS_PER_SEC;
    let world = World::new(3, flags::AFFINITY);
    assert_eq!(outcome(world.select_towards(1)), (1, false));
    for _ in 0..3 {
        world.advance(timeout_ns);
        assert_eq!(outcome(world.select_towards(3)), (1, true), "each one arms it again");
    }
    world.advance(timeout_ns + 1);
    assert_eq!(outcome(world.select_towards(3)), (3, false));
    assert_eq!(outcome(world.select_towards(1)), (3, true));
}

#[test]
fn affinity_ends_when_the_backend_leaves_the_list_or_its_id_is_a_strangers() {
    type Change = fn(&mut Backend<V4>);
    let ends: [(&str, u32, Change, bool); 7] = [
        ("still there", 0, |_| {}, true),
        ("another generation", 0, |row| row.generation = 2, false),
        ("another service", 0, |row| row.service += 1, false),
        ("draining", 0, |row| row.state = state::SERVING, false),
        ("gone", 0, |row| row.state = state::GONE, false),
        ("in the Local list, Cluster wanted", 0, |row| row.state = state::LOCAL, false),
        (
            "in the Cluster list, Local wanted",
            flags::NEAR_LOCAL,
            |row| row.state = state::CLUSTER,
            false,
        ),
    ];
    for (name, flags, change, stays) in ends {
        let mut world = World::new(3, flags::AFFINITY | flags);
        assert_eq!(outcome(world.select_towards(1)), (1, false));
        change(world.backends.get_mut(&1).unwrap());
        let expected = if stays { (1, true) } else { (2, false) };
        assert_eq!(outcome(world.select_towards(2)), expected, "{name}");
        assert_eq!(outcome(world.select_towards(3)), (expected.0, true), "{name}: and then");
    }
}

#[test]
fn affinity_to_a_row_that_is_missing_is_forgotten() {
    let mut world = World::new(3, flags::AFFINITY);
    world.select_towards(1);
    world.backends.remove(&1);
    assert_eq!(outcome(world.select_towards(2)), (2, false));
}

proptest! {
    #[test]
    fn scale_stays_in_range_and_keeps_order(a: u32, b: u32, count in 1..u32::MAX) {
        prop_assert!(scale(a, count) < count);
        prop_assert_eq!(scale(0, count), 0);
        prop_assert_eq!(scale(u32::MAX, count), count - 1);
        prop_assert!(a > b || scale(a, count) <= scale(b, count));
    }

    #[test]
    fn scale_gives_each_outcome_an_equal_share(count in 1..5000_u32, outcome in any::<Index>()) {
        // The numbers that lead to one outcome are consecutive: find where they begin and end.
        let first_of = |n: u32| (u64::from(n) << 32).div_ceil(u64::from(count));
        let wanted = u32::try_from(outcome.index(count as usize)).unwrap();
        let (first, end) = (first_of(wanted), first_of(wanted + 1));
        prop_assert_eq!(scale(u32::try_from(first).unwrap(), count), wanted);
        prop_assert_eq!(scale(u32::try_from(end - 1).unwrap(), count), wanted);
        let fair = (1_u64 << 32) / u64::from(count);
        prop_assert!((end - first).abs_diff(fair) <= 1, "{} of {fair}", end - first);
    }

    #[test]
    fn new_connections_spread_evenly(count in 1..40_u32, seed: u64) {
        const ROUNDS: u32 = 400;
        let world = World::new(count, 0);
        let mut hits = vec![0_u32; count as usize];
        let mut random = seed;
        for _ in 0..ROUNDS * count {
            // Knuth's MMIX generator; its high half is random enough for this.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            world.random.set(u32::try_from(random >> 32).unwrap());
            hits[chosen(world.select()).id as usize - 1] += 1;
        }
        // Six standard deviations: about 20 each.
        prop_assert!(hits.iter().all(|hits| hits.abs_diff(ROUNDS) < 6 * 20), "{hits:?}");
    }

    #[test]
    fn the_answer_is_a_usable_backend_of_the_service_or_broken(
        states in prop::collection::vec((0..8_u8, 1..4_u32, 6..9_u32), 1..6),
        remembered in prop::option::of((0..8_u32, 1..4_u32, 0..60_u64)),
        local: bool,
        random: u32,
    ) {
        let flag = if local { flags::NEAR_LOCAL } else { 0 };
        let mut world = World::new(u32::try_from(states.len()).unwrap(), flags::AFFINITY | flag);
        for (id, (state, generation, service)) in (1..).zip(&states) {
            let (state, generation, service) = (*state, *generation, *service);
            world.backends.insert(id, Backend { state, generation, service, ..backend(id) });
        }
        world.random.set(random);
        world.advance(60 * NS_PER_SEC);
        if let Some((backend, generation, secs)) = remembered {
            let entry = AffinityEntry { backend, generation, last_used_ns: secs * NS_PER_SEC };
            let key = AffinityKey { client: Client::of_namespace(0), service: SERVICE, family: 4 };
            world.affinity.borrow_mut().insert(key, entry);
        }
        let wanted = if local { state::LOCAL } else { state::CLUSTER };
        match world.select() {
            Decision::Forward(target) => {
                let row = world.backends[&target.id];
                prop_assert_eq!((row.service, row.generation), (SERVICE, target.generation));
                if target.by_affinity {
                    let (id, generation, secs) = remembered.unwrap();
                    prop_assert_eq!((id, generation), (target.id, target.generation));
                    prop_assert!(row.state & wanted != 0 && 60 - secs <= u64::from(TIMEOUT_SECS));
                }
                let known = world.affinity.borrow().values().copied().collect::<Vec<_>>();
                let expected = AffinityEntry {
                    backend: target.id,
                    generation: target.generation,
                    last_used_ns: 60 * NS_PER_SEC,
                };
                prop_assert_eq!(known, [expected]);
            }
            Decision::Broken => {
                let slot = 1 + scale(random, u32::try_from(states.len()).unwrap());
                prop_assert!(world.backends[&slot].service != SERVICE);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
}
