//! A node's rows in ordinary collections: what the kernel keeps in BPF maps.
//!
//! Time and chance are set by the test.

use std::cell::{Cell, RefCell, UnsafeCell};
use std::collections::{HashMap, HashSet};

use millrace_common::address::{Address, Be16, V4, V6};
use millrace_common::affinity::{AffinityEntry, AffinityKey, NS_PER_SEC};
use millrace_common::backend::Backend;
use millrace_common::counters::{COUNT, Counter};
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::fragment::{
    Fragment, FragmentKey, PARKED_BYTES, PARKED_OF_ONE, Parked, ParkedKey,
};
use millrace_common::frontend::{Frontend, FrontendKey};
use millrace_common::node::{DeviceRow, NodeFamily, NodeRow, SERVICE_BITS, SourceKey};
use millrace_common::packet::reject::Answer;
use millrace_common::packet::tables::Table;
use millrace_common::row::Row;
use millrace_common::traffic::Traffic;

/// Entries of `flows_*` unless a test says otherwise.
pub const FLOWS_DEFAULT: usize = 65_536;

/// One node: everything its hooks read and write.
#[derive(Default)]
pub struct Node {
    /// IPv4 rows.
    pub v4: Rows<V4>,
    /// IPv6 rows.
    pub v6: Rows<V6>,
    /// `slots`.
    pub slots: HashMap<u32, u32>,
    /// `devices`.
    pub devices: HashMap<u32, DeviceRow>,
    /// `node`.
    pub row: Option<NodeRow>,
    /// `affinity`.
    pub affinity: RefCell<HashMap<AffinityKey, AffinityEntry>>,
    /// `parked`.
    pub parked: RefCell<HashMap<ParkedKey, Parked>>,
    /// Frames that were let in again.
    pub released: RefCell<Vec<Vec<u8>>>,
    /// `CLOCK_MONOTONIC`, in nanoseconds.
    pub now_ns: Cell<u64>,
    /// Where random numbers come from.
    pub random: Random,
    /// What `flow_room` says of each family when what packets have left is forgotten.
    pub flow_room: i64,
    /// `traffic`: the rows that are not zero.
    pub traffic: RefCell<HashMap<u32, Traffic>>,
    counters: Counters,
}

/// One family's rows.
pub struct Rows<A> {
    /// `frontends_*`.
    pub frontends: HashMap<FrontendKey<A>, Frontend>,
    /// `backends_*`.
    pub backends: HashMap<u32, Backend<A>>,
    /// `flows_*`.
    pub flows: FlowTable<A>,
    /// `half_open_*`.
    pub half_open: FlowTable<A>,
    /// Its row of `flow_room`: what is left.
    pub room: Cell<i64>,
    /// `fragments_*`.
    pub fragments: RefCell<HashMap<FragmentKey<A>, Fragment<A>>>,
    /// `source_ranges_*`.
    pub source_ranges: HashSet<SourceKey<A>>,
    /// Sockets of the node: local address, port, protocol.
    pub sockets: HashSet<(A, Be16, u8)>,
}

impl<A: Address> Default for Rows<A> {
    fn default() -> Self {
        Self {
            frontends: HashMap::new(),
            backends: HashMap::new(),
            flows: FlowTable::new(FLOWS_DEFAULT),
            // The kernel makes room; a test is not meant to fill it.
            half_open: FlowTable::new(usize::MAX),
            room: Cell::new(0),
            fragments: RefCell::default(),
            source_ranges: HashSet::new(),
            sockets: HashSet::new(),
        }
    }
}

impl<A: Address> Rows<A> {
    /// One of the two tables.
    pub const fn table(&self, table: Table) -> &FlowTable<A> {
        match table {
            Table::Established => &self.flows,
            Table::HalfOpen => &self.half_open,
        }
    }

    /// Whether `source` is in a range of the service.
    pub fn is_source_allowed(&self, service: u32, source: A) -> bool {
        self.source_ranges.iter().any(|range| {
            range.net.service == service.to_be_bytes()
                && has_prefix(&source, &range.net.address, range.bits - SERVICE_BITS)
        })
    }
}

/// Whether the first `bits` bits of two addresses are the same.
fn has_prefix<A: Row>(address: &A, network: &A, bits: u32) -> bool {
    let pairs = address.as_bytes().iter().zip(network.as_bytes());
    pairs.enumerate().all(|(index, (left, right))| {
        let here = bits.saturating_sub(8 * index as u32).min(8);
        let mask = !(0xff_u32 >> here) as u8;
        left & mask == right & mask
    })
}

/// An entry, at a place of its own.
type Entry<A> = Box<UnsafeCell<Flow<A>>>;

/// A table of flows whose entries stay where they are, as those of the kernel do until nobody can
/// be looking at them.
pub struct FlowTable<A> {
    entries: RefCell<HashMap<FlowKey<A>, Entry<A>>>,
    /// Entries that were replaced or deleted and may still be looked at.
    gone: RefCell<Vec<Entry<A>>>,
    size: usize,
}

impl<A: Address> FlowTable<A> {
    /// A table with room for `size` entries.
    pub fn new(size: usize) -> Self {
        Self { entries: RefCell::default(), gone: RefCell::default(), size }
    }

    /// An entry. It lives as long as the borrow, whatever is done to the table meanwhile.
    pub fn get(&self, key: &FlowKey<A>) -> Option<&UnsafeCell<Flow<A>>> {
        let entries = self.entries.borrow();
        let place: *const UnsafeCell<Flow<A>> = &raw const **entries.get(key)?;
        // SAFETY: boxes do not move, and one that leaves the table goes to `gone`, which is emptied
        // only through `&mut self`.
        Some(unsafe { &*place })
    }

    /// `BPF_ANY`.
    pub fn put(&self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let mut entries = self.entries.borrow_mut();
        if !entries.contains_key(key) && entries.len() >= self.size {
            return false;
        }
        self.gone.borrow_mut().extend(entries.insert(*key, Box::new(UnsafeCell::new(*flow))));
        true
    }

    /// `BPF_NOEXIST`.
    pub fn add(&self, key: &FlowKey<A>, flow: &Flow<A>) -> bool {
        let is_there = self.entries.borrow().contains_key(key);
        !is_there && self.put(key, flow)
    }

    /// Delete an entry.
    pub fn remove(&self, key: &FlowKey<A>) {
        let entry = self.entries.borrow_mut().remove(key);
        self.gone.borrow_mut().extend(entry);
    }

    /// A copy of every entry.
    pub fn rows(&self) -> HashMap<FlowKey<A>, Flow<A>> {
        let entries = self.entries.borrow();
        // SAFETY: nobody else has this table (it is not `Sync`), and no code that writes an entry
        // is running while this does.
        entries.iter().map(|(key, flow)| (*key, unsafe { *flow.get() })).collect()
    }

    /// Every entry, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Flow<A>> {
        self.entries.get_mut().values_mut().map(|entry| entry.get_mut())
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.entries.borrow().len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forget everything.
    pub fn clear(&mut self) {
        self.entries.get_mut().clear();
        self.gone.get_mut().clear();
    }
}

/// A family, as the node's rows are found by it.
pub trait InNode: Answer {
    /// Its rows.
    fn rows(node: &Node) -> &Rows<Self>;
    /// Its rows, to be written.
    fn rows_mut(node: &mut Node) -> &mut Rows<Self>;
    /// What a device masquerades with.
    fn masquerade(row: &DeviceRow) -> Self;
    /// Its part of the node's row.
    fn part(row: &NodeRow) -> &NodeFamily<Self>;
}

impl InNode for V4 {
    fn rows(node: &Node) -> &Rows<Self> {
        &node.v4
    }
    fn rows_mut(node: &mut Node) -> &mut Rows<Self> {
        &mut node.v4
    }
    fn masquerade(row: &DeviceRow) -> Self {
        row.masquerade_v4
    }
    fn part(row: &NodeRow) -> &NodeFamily<Self> {
        &row.v4
    }
}

impl InNode for V6 {
    fn rows(node: &Node) -> &Rows<Self> {
        &node.v6
    }
    fn rows_mut(node: &mut Node) -> &mut Rows<Self> {
        &mut node.v6
    }
    fn masquerade(row: &DeviceRow) -> Self {
        row.masquerade_v6
    }
    fn part(row: &NodeRow) -> &NodeFamily<Self> {
        &row.v6
    }
}

impl Node {
    /// Count an outcome.
    pub fn count(&self, counter: Counter) {
        let cell = &self.counters.0[counter as usize];
        cell.set(cell.get() + 1);
    }

    /// Every outcome that was counted, by name.
    pub fn counted(&self) -> Vec<(Counter, u64)> {
        let counts = Counter::ALL.iter().map(|c| (*c, self.counters.0[*c as usize].get()));
        counts.filter(|(_, count)| *count > 0).collect()
    }

    /// Change what a service port had to do.
    pub fn with_traffic(&self, service: u32, change: impl FnOnce(&mut Traffic)) {
        change(self.traffic.borrow_mut().entry(service).or_default());
    }

    /// Keep a frame (`ebpf/src/packet/parking.rs`).
    pub fn park(&self, key: impl Fn(u8) -> ParkedKey, bytes: Vec<u8>) -> bool {
        let mut parked = self.parked.borrow_mut();
        let mut keys = (0..PARKED_OF_ONE).map(key);
        let Some(free) = keys.find(|key| !parked.contains_key(key)) else { return false };
        let mut frame = [0; PARKED_BYTES];
        let Some(place) = frame.get_mut(..bytes.len()) else { return false };
        place.copy_from_slice(&bytes);
        let since_secs = (self.now_ns.get() / NS_PER_SEC) as u32;
        parked.insert(free, Parked { len: bytes.len() as u32, since_secs, frame });
        true
    }

    /// Let in again what was kept.
    pub fn release(&self, key: impl Fn(u8) -> ParkedKey) {
        let mut parked = self.parked.borrow_mut();
        let kept = (0..PARKED_OF_ONE).map_while(|index| parked.remove(&key(index)));
        let frames = kept.map(|row| row.frame[..row.len as usize].to_vec());
        self.released.borrow_mut().extend(frames);
    }

    /// Forget what packets have left: flows, fragments, affinity, counts.
    pub fn forget(&mut self) {
        self.v4.forget(self.flow_room);
        self.v6.forget(self.flow_room);
        self.affinity.get_mut().clear();
        self.parked.get_mut().clear();
        self.released.get_mut().clear();
        self.traffic.get_mut().clear();
        self.counters = Counters::default();
    }
}

impl<A: Address> Rows<A> {
    fn forget(&mut self, room: i64) {
        self.room.set(room);
        self.flows.clear();
        self.half_open.clear();
        self.fragments.get_mut().clear();
    }
}

/// One count per outcome.
struct Counters([Cell<u64>; COUNT as usize]);

impl Default for Counters {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Cell::new(0)))
    }
}

/// Numbers that look random and are the same in every run (SplitMix64).
#[derive(Debug, Default)]
pub struct Random(Cell<u64>);

impl Random {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(Cell::new(seed))
    }

    /// The next number.
    pub fn next_u64(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number.
    pub fn next_u32(&self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    /// The next number below `count`, which is not 0.
    pub fn below(&self, count: usize) -> usize {
        ((u64::from(self.next_u32()) * count as u64) >> 32) as usize
    }

    /// True once in `count` times.
    pub fn one_in(&self, count: usize) -> bool {
        self.below(count) == 0
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn prefixes_match_by_bits() {
        let address = |text: &str| V4::from(text.parse::<Ipv4Addr>().unwrap());
        let (inside, outside) = (address("10.1.255.9"), address("10.2.0.1"));
        let network = address("10.0.0.0");
        assert!(has_prefix(&inside, &network, 15) && !has_prefix(&outside, &network, 15));
        assert!(has_prefix(&outside, &network, 0));
        assert!(has_prefix(&inside, &inside, 32) && !has_prefix(&inside, &network, 32));
    }

    #[test]
    fn an_entry_can_be_looked_at_after_it_was_deleted() {
        let key: FlowKey<V4> = FlowKey::from_bytes(&[1; 16]).unwrap();
        let flow: Flow<V4> = Flow::from_bytes(&[2; 40]).unwrap();
        let table = FlowTable::new(1);
        assert!(table.add(&key, &flow) && !table.add(&key, &flow) && table.put(&key, &flow));
        let entry = table.get(&key).unwrap();
        table.remove(&key);
        assert!(table.is_empty());
        // SAFETY: nobody writes it.
        assert_eq!(unsafe { *entry.get() }, flow);
        let other: FlowKey<V4> = FlowKey::from_bytes(&[3; 16]).unwrap();
        assert!(table.put(&key, &flow) && !table.put(&other, &flow), "there is room for one");
    }
}
