//! The maps as ordinary ones, with what must hold between any two operations.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use millrace_common::address::{Address, V4, V6};
use millrace_common::backend::{Backend, state};
use millrace_common::frontend::{Frontend, FrontendKey, Kind, SlotRange, flags};
use millrace_common::node::{SERVICE_BITS, SourceKey};
use millrace_common::service::ServiceRow;

use super::TestFamily;
use crate::plan::op::{Capacity, Op, Snapshot};

/// Clients that are asked for: addresses number 0 and up.
const CLIENTS: u8 = u32::BITS as u8;

/// All maps the planner writes.
#[derive(Clone)]
pub(crate) struct Maps {
    capacity: Capacity,
    pub(crate) services: BTreeMap<u32, ServiceRow>,
    pub(crate) v4: Family<V4>,
    pub(crate) v6: Family<V6>,
    pub(crate) slots: Vec<u32>,
    /// Ids whose traffic was zeroed, and that were not given out since.
    zeroed: BTreeSet<u32>,
}

/// Those of one family.
#[derive(Clone)]
pub(crate) struct Family<A> {
    pub(crate) backends: BTreeMap<u32, Backend<A>>,
    pub(crate) frontends: BTreeMap<FrontendKey<A>, Frontend>,
    pub(crate) sources: BTreeSet<SourceKey<A>>,
}

/// What a client sees behind a frontend: the service, the flags that matter, both sets of backends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Answer {
    pub(crate) service: String,
    pub(crate) flags: u32,
    pub(crate) affinity_secs: u32,
    pub(crate) near: Vec<SocketAddr>,
    pub(crate) far: Vec<SocketAddr>,
}

/// All answers, by address, port and protocol.
pub(crate) type Answers = BTreeMap<(IpAddr, u16, u8), Answer>;

/// By frontend: which clients may use it, and which ones its service's ranges contain; a bit each.
pub(crate) type Clients = BTreeMap<(IpAddr, u16, u8), (u32, u32)>;

/// Who may use what; a bit for each client.
#[derive(Default)]
pub(crate) struct Admitted {
    /// By frontend: its service and family, and the clients that may use it.
    frontends: BTreeMap<(IpAddr, u16, u8), (Ranges, u32)>,
    /// The clients that a service's ranges contain.
    contained: BTreeMap<Ranges, u32>,
}

/// A service's ranges of one family: its id, and whether the family is IPv4.
type Ranges = (u32, bool);

impl Admitted {
    fn contained(&self, ranges: Ranges) -> u32 {
        self.contained.get(&ranges).copied().unwrap_or(0)
    }

    /// Without the ids of services, which depend on what there was before.
    pub(crate) fn by_frontend(&self) -> Clients {
        let frontends = self.frontends.iter();
        frontends.map(|(key, (ranges, may))| (*key, (*may, self.contained(*ranges)))).collect()
    }
}

impl Maps {
    pub(crate) fn new(capacity: Capacity) -> Self {
        Self {
            capacity,
            services: BTreeMap::new(),
            v4: Family::new(),
            v6: Family::new(),
            slots: vec![0; capacity.slots as usize],
            zeroed: BTreeSet::new(),
        }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            services: self.services.clone().into_iter().collect(),
            backends_v4: self.v4.backends.clone().into_iter().collect(),
            backends_v6: self.v6.backends.clone().into_iter().collect(),
            slots: self.slots.clone(),
            frontends_v4: self.v4.frontends.clone().into_iter().collect(),
            frontends_v6: self.v6.frontends.clone().into_iter().collect(),
            sources_v4: self.v4.sources.iter().copied().collect(),
            sources_v6: self.v6.sources.iter().copied().collect(),
        }
    }

    /// Carry operations out, checking after each that the maps are whole and that every frontend
    /// answers as before all of them or as after, and to whom it answers.
    pub(crate) fn run(&mut self, ops: &[Op]) {
        let (before, admitted_before) = (self.answers(), self.admitted());
        let mut after = self.clone();
        ops.iter().for_each(|op| after.apply(op));
        let (after, admitted_after) = (after.answers(), after.admitted());
        for op in ops {
            self.check_slots_unused(op);
            self.apply(op);
            let now = self.answers();
            for (key, answer) in &now {
                let known = [before.get(key), after.get(key)];
                assert!(known.contains(&Some(answer)), "{op:?}: {key:?} is mixed: {answer:?}");
            }
            for key in before.keys().filter(|key| after.contains_key(key)) {
                assert!(now.contains_key(key), "{op:?}: {key:?} is away for a while");
            }
            for (key, (ranges, now)) in self.admitted().frontends {
                check_admitted(&key, ranges, now, [&admitted_before, &admitted_after])
                    .unwrap_or_else(|why| panic!("{op:?}: {key:?} {why}"));
            }
        }
    }

    /// Who may use each frontend.
    pub(crate) fn admitted(&self) -> Admitted {
        let mut admitted = Admitted::default();
        self.v4.admitted(&mut admitted);
        self.v6.admitted(&mut admitted);
        admitted
    }

    /// Carry one operation out.
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::NoTraffic(id) => {
                assert!(!self.services.contains_key(id), "service {id} loses its counts");
                self.zeroed.insert(*id);
            }
            Op::Service(id, Some(row)) => {
                assert!(self.zeroed.remove(id), "service {id} has the counts of another");
                assert!((1..=self.capacity.services).contains(id));
                self.services.insert(*id, **row);
                assert!(self.services.len() <= self.capacity.services as usize);
            }
            Op::Service(id, None) => assert!(self.services.remove(id).is_some()),
            Op::BackendV4(id, row) => self.v4.set_backend(*id, *row, self.capacity),
            Op::BackendV6(id, row) => self.v6.set_backend(*id, *row, self.capacity),
            Op::Slots(first, ids) => {
                let first = *first as usize;
                self.slots[first..first + ids.len()].copy_from_slice(ids);
            }
            Op::FrontendV4(key, row) => self.v4.set_frontend(*key, *row, self.capacity),
            Op::FrontendV6(key, row) => self.v6.set_frontend(*key, *row, self.capacity),
            Op::SourceV4(key, allowed) => self.v4.set_source(*key, *allowed, self.capacity),
            Op::SourceV6(key, allowed) => self.v6.set_source(*key, *allowed, self.capacity),
        }
    }

    /// Slots that a frontend leads to are never rewritten.
    fn check_slots_unused(&self, op: &Op) {
        let Op::Slots(first, ids) = op else { return };
        let end = first + u32::try_from(ids.len()).unwrap();
        let v4 = self.v4.dialled().map(|(_, row)| row);
        for row in v4.chain(self.v6.dialled().map(|(_, row)| row)) {
            for range in [row.near, row.far] {
                let apart = range.first >= end || range.first + range.count <= *first;
                assert!(range.count == 0 || apart, "{op:?} rewrites {range:?}");
            }
        }
    }

    /// Those addresses are ClusterIPs as such that have a frontend of that kind.
    pub(crate) fn check_cluster_ips(&self) {
        assert_eq!(self.v4.cluster_ips(), self.v4.with_cluster_ip_frontend());
        assert_eq!(self.v6.cluster_ips(), self.v6.with_cluster_ip_frontend());
    }

    /// What every frontend answers; panics if a row leads astray.
    pub(crate) fn answers(&self) -> Answers {
        let mut answers = Answers::new();
        self.v4.answers(self, &mut answers);
        self.v6.answers(self, &mut answers);
        answers
    }
}

/// Who was and will be let in is let in meanwhile, and nobody else but whom the service that the
/// frontend is of meanwhile lets in before or after.
fn check_admitted(
    key: &(IpAddr, u16, u8),
    ranges: Ranges,
    now: u32,
    known: [&Admitted; 2],
) -> Result<(), String> {
    let (mut always, mut ever) = (u32::MAX, 0);
    for admitted in known {
        ever |= admitted.contained(ranges);
        if let Some((ranges, may)) = admitted.frontends.get(key) {
            always &= may;
            ever |= may | admitted.contained(*ranges);
        }
    }
    if now & !ever != 0 {
        return Err(format!("admits clients {:b}", now & !ever));
    }
    if always & !now != 0 {
        return Err(format!("drops clients {:b}", always & !now));
    }
    Ok(())
}

/// Whether a range contains an address.
fn contains<A: Address>(key: &SourceKey<A>, address: A) -> bool {
    let bit = |address: &A, index: usize| address.as_bytes()[index / 8] >> (7 - index % 8) & 1;
    let bits = (key.bits - SERVICE_BITS) as usize;
    (0..bits).all(|index| bit(&address, index) == bit(&key.net.address, index))
}

impl<A: TestFamily> Family<A> {
    const fn new() -> Self {
        Self { backends: BTreeMap::new(), frontends: BTreeMap::new(), sources: BTreeSet::new() }
    }

    /// Frontends that somebody can dial.
    fn dialled(&self) -> impl Iterator<Item = (&FrontendKey<A>, &Frontend)> {
        self.frontends.iter().filter(|(key, _)| !key.is_block())
    }

    /// ClusterIPs as the rows of blocks have them.
    pub(crate) fn cluster_ips(&self) -> BTreeSet<A> {
        let blocks = self.frontends.iter().filter(|(key, _)| key.is_block());
        let of_block = |(key, row): (&FrontendKey<A>, &Frontend)| {
            assert_eq!((row.kind(), row.check), (Some(Kind::ClusterIps), key.check()));
            let (first, row) = (key.address, *row);
            let addresses = (0..=u8::MAX).map(A::address);
            addresses.filter(move |address| {
                let (block, place) = address.in_block();
                block == first && row.has_cluster_ip(place)
            })
        };
        let found: BTreeSet<A> = blocks.clone().flat_map(of_block).collect();
        let bits =
            blocks.map(|(_, row)| [row.near.first, row.near.count, row.far.first, row.far.count]);
        let bits = bits.flatten().map(|word| word.count_ones() as usize).sum::<usize>();
        assert_eq!(bits, found.len(), "a bit of an address that nobody has, or twice");
        found
    }

    fn with_cluster_ip_frontend(&self) -> BTreeSet<A> {
        let frontends = self.dialled().filter(|(_, row)| row.kind() == Some(Kind::ClusterIp));
        frontends.map(|(key, _)| key.address).collect()
    }

    fn set_source(&mut self, key: SourceKey<A>, allowed: bool, capacity: Capacity) {
        if allowed {
            assert!(self.sources.insert(key), "{key:?} is there already");
            assert!(self.sources.len() <= capacity.sources as usize);
        } else {
            assert!(self.sources.remove(&key), "{key:?} is not there");
        }
    }

    fn admitted(&self, admitted: &mut Admitted) {
        let is_v4 = A::address(0).into().is_ipv4();
        for range in &self.sources {
            let ranges = (u32::from_be_bytes(range.net.service), is_v4);
            let clients = (0..CLIENTS).filter(|n| contains(range, A::address(*n)));
            *admitted.contained.entry(ranges).or_default() |=
                clients.fold(0, |all, n| all | 1 << n);
        }
        for (key, row) in self.dialled() {
            let ranges = (row.service, is_v4);
            let is_limited = row.has(flags::SOURCE_RANGES);
            let may = if is_limited { admitted.contained(ranges) } else { u32::MAX };
            let key = (key.address.into(), key.port.get(), key.protocol);
            admitted.frontends.insert(key, (ranges, may));
        }
    }

    fn set_backend(&mut self, id: u32, row: Backend<A>, capacity: Capacity) {
        assert!((1..capacity.backends).contains(&id) && row.generation != 0);
        let old = self.backends.insert(id, row);
        if let Some(old) = old.filter(|old| old.generation == row.generation) {
            let same = |row: &Backend<A>| (row.address, row.port, row.service);
            assert_eq!(same(&old), same(&row), "another endpoint in the same generation");
        } else if let Some(old) = old {
            assert_eq!((old.state, old.generation + 1), (state::GONE, row.generation));
        }
    }

    fn set_frontend(&mut self, key: FrontendKey<A>, row: Option<Frontend>, capacity: Capacity) {
        match row {
            Some(row) => {
                self.frontends.insert(key, row);
                assert!(self.frontends.len() <= capacity.frontends as usize);
            }
            None => assert!(self.frontends.remove(&key).is_some(), "{key:?} is not there"),
        }
    }

    fn answers(&self, maps: &Maps, answers: &mut Answers) {
        for key in &self.sources {
            let service = u32::from_be_bytes(key.net.service);
            assert!(maps.services.contains_key(&service), "{key:?} is of no service");
        }
        for (key, row) in self.dialled() {
            let service = maps.services.get(&row.service);
            let service = service.unwrap_or_else(|| panic!("{key:?} is of no service"));
            let answer = Answer {
                service: format!("{service:?}"),
                flags: row.flags,
                affinity_secs: row.affinity_secs,
                near: self.set(maps, row.service, row.near),
                far: self.set(maps, row.service, row.far),
            };
            answers.insert((key.address.into(), key.port.get(), key.protocol), answer);
        }
    }

    /// The backends in a block, sorted.
    fn set(&self, maps: &Maps, service: u32, range: SlotRange) -> Vec<SocketAddr> {
        let (first, count) = (range.first as usize, range.count as usize);
        let ids = &maps.slots[first..first + count];
        let mut set: Vec<SocketAddr> = ids
            .iter()
            .map(|id| {
                let row = self.backends.get(id).unwrap_or_else(|| panic!("no backend {id}"));
                assert_eq!(row.service, service, "backend {id} is another service's");
                assert_ne!(row.state, state::GONE, "backend {id} is gone");
                SocketAddr::new(row.address.into(), row.port.get())
            })
            .collect();
        set.sort_unstable();
        set
    }
}
