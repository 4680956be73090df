//! A node's rows as bytes, map by map: what is written to the kernel's maps, and what is compared.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::mem::offset_of;

use millrace_common::address::{V4, V6};
use millrace_common::affinity::{AffinityEntry, NS_PER_SEC};
use millrace_common::backend::{Backend, BackendPair, V6_PLACES};
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::flow_room::{self, FlowRoom};
use millrace_common::fragment::{Fragment, Parked};
use millrace_common::row::{Pair, Row};

use super::node::{InNode, Node, Rows};

/// Rows of one map.
pub type Map = BTreeMap<Vec<u8>, Vec<u8>>;
/// Maps by name.
pub type Maps = BTreeMap<&'static str, Map>;

/// Maps that the agent fills.
pub const CONFIGURED: [&str; 8] = [
    "frontends_v4",
    "frontends_v6",
    "backends",
    "source_ranges_v4",
    "source_ranges_v6",
    "slots",
    "devices",
    "node",
];

/// Maps that packets fill.
pub const LEFT: [&str; 10] = [
    "flows_v4",
    "flows_v6",
    "half_open_v4",
    "half_open_v6",
    "flow_room",
    "fragments_v4",
    "fragments_v6",
    "affinity",
    "parked",
    "traffic",
];

/// Stamps of one packet differ by no more, in seconds, however busy the machine is.
const TOLERANCE_SECS: u64 = 2;

impl Node {
    /// What the agent has written.
    pub fn configured(&self) -> Maps {
        let mut maps = Maps::new();
        let names = ["frontends_v4", "source_ranges_v4"];
        maps.extend(names.into_iter().zip(V4::configured(&self.v4)));
        let names = ["frontends_v6", "source_ranges_v6"];
        maps.extend(names.into_iter().zip(V6::configured(&self.v6)));
        maps.insert("backends", bytes(self.backends().iter()));
        maps.insert("slots", bytes(pairs(&self.slots, 0).iter()));
        maps.insert("devices", bytes(self.devices.iter()));
        maps.insert("node", bytes(self.row.iter().map(|row| (&0_u32, row))));
        maps
    }

    /// Both families' backends, as they lie in their map.
    fn backends(&self) -> BTreeMap<u32, BackendPair> {
        let none = Backend::from_bytes(&[0; size_of::<Backend<V4>>()]).expect("its own size");
        let mut rows = pairs(&self.v4.backends, none);
        for (id, row) in &self.v6.backends {
            let before = rows.insert(BackendPair::row_of(*id), BackendPair::from(*row));
            assert!(before.is_none() && id % V6_PLACES == 0, "place {id} cannot be IPv6's");
        }
        rows
    }

    /// What packets have left.
    pub fn left(&self) -> Maps {
        let mut maps = Maps::new();
        let names = ["flows_v4", "half_open_v4", "fragments_v4"];
        maps.extend(names.into_iter().zip(V4::left(&self.v4)));
        let names = ["flows_v6", "half_open_v6", "fragments_v6"];
        maps.extend(names.into_iter().zip(V6::left(&self.v6)));
        let rooms = [(flow_room::V4, &self.v4.room), (flow_room::V6, &self.v6.room)];
        let rooms = rooms.map(|(row, room)| (row, FlowRoom { left: room.get(), pad: [0; 7] }));
        let rooms = rooms.iter().filter(|(_, row)| row.left != 0);
        maps.insert("flow_room", bytes(rooms.map(|(key, row)| (key, row))));
        maps.insert("affinity", bytes(self.affinity.borrow().iter()));
        maps.insert("parked", bytes(self.parked.borrow().iter()));
        maps.insert("traffic", bytes(self.traffic.borrow().iter()));
        maps
    }
}

/// The rows that go by a family's addresses, of which bytes can be had.
pub trait Rowed: InNode {
    /// Frontends, source ranges.
    fn configured(rows: &Rows<Self>) -> [Map; 2];
    /// Established flows, half-open flows, fragments.
    fn left(rows: &Rows<Self>) -> [Map; 3];
}

macro_rules! rowed {
    ($family:ty) => {
        impl Rowed for $family {
            fn configured(rows: &Rows<Self>) -> [Map; 2] {
                let ranges = rows.source_ranges.iter().map(|range| (range, &1_u32));
                [bytes(rows.frontends.iter()), bytes(ranges)]
            }
            fn left(rows: &Rows<Self>) -> [Map; 3] {
                let fragments = rows.fragments.borrow();
                let (flows, half_open) = (rows.flows.rows(), rows.half_open.rows());
                [bytes(flows.iter()), bytes(half_open.iter()), bytes(fragments.iter())]
            }
        }
    };
}

rowed!(V4);
rowed!(V6);

/// Places as they lie in the rows of an array.
fn pairs<T: Row>(places: &HashMap<u32, T>, none: T) -> BTreeMap<u32, Pair<T>> {
    let mut rows = BTreeMap::new();
    for (place, value) in places {
        let row = rows.entry(Pair::<T>::row_of(*place)).or_insert(Pair([none; 2]));
        *row.get_mut(*place) = *value;
    }
    rows
}

fn bytes<'a, K: Row, V: Row>(rows: impl Iterator<Item = (&'a K, &'a V)>) -> Map {
    rows.map(|(key, value)| (key.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
}

/// Where a map's values have stamps in seconds.
fn stamps(map: &str) -> Vec<usize> {
    match map {
        "flows_v4" | "half_open_v4" => {
            vec![offset_of!(Flow<V4>, last_used_secs), offset_of!(Flow<V4>, since_secs)]
        }
        "flows_v6" | "half_open_v6" => {
            vec![offset_of!(Flow<V6>, last_used_secs), offset_of!(Flow<V6>, since_secs)]
        }
        "fragments_v4" => vec![offset_of!(Fragment<V4>, since_secs)],
        "fragments_v6" => vec![offset_of!(Fragment<V6>, since_secs)],
        "parked" => vec![offset_of!(Parked, since_secs)],
        _ => Vec::new(),
    }
}

/// Make stamps that are nearly the same the same: kernel and test read the clock one after the
/// other.
pub fn align_moments(kernel: &mut Maps, native: &Maps) {
    for (name, map) in kernel {
        let Some(others) = native.get(name) else { continue };
        for (key, value) in map {
            let Some(other) = others.get(key) else { continue };
            if *name == "parked" {
                forget_rest(value);
            }
            for at in stamps(name) {
                align(&mut value[at..at + 4], &other[at..at + 4], |bytes| {
                    u32::from_bytes(bytes).map(u64::from)
                });
            }
            if *name == "affinity" {
                let at = offset_of!(AffinityEntry, last_used_ns);
                align(&mut value[at..], &other[at..], |bytes| {
                    u64::from_bytes(bytes).map(|ns| ns / NS_PER_SEC)
                });
            }
        }
    }
}

/// Behind a parked frame are bytes of others before it.
fn forget_rest(value: &mut [u8]) {
    let len = u32::from_bytes(&value[..4]).unwrap_or_default() as usize;
    let end = offset_of!(Parked, frame) + len;
    value.get_mut(end..).unwrap_or_default().fill(0);
}

fn align(stamp: &mut [u8], other: &[u8], secs: impl Fn(&[u8]) -> Option<u64>) {
    if let (Some(left), Some(right)) = (secs(stamp), secs(other))
        && left.abs_diff(right) <= TOLERANCE_SECS
    {
        stamp.copy_from_slice(other);
    }
}

/// What differs, for people; empty if nothing does.
pub fn differences(kernel: &Maps, native: &Maps) -> String {
    let mut text = String::new();
    let nothing = Map::new();
    for name in kernel.keys().chain(native.keys().filter(|name| !kernel.contains_key(*name))) {
        let (left, right) =
            (kernel.get(name).unwrap_or(&nothing), native.get(name).unwrap_or(&nothing));
        let keys = left.keys().chain(right.keys().filter(|key| !left.contains_key(*key)));
        for key in keys.filter(|key| left.get(*key) != right.get(*key)) {
            let (ours, theirs) = (left.get(key), right.get(key));
            let _ = writeln!(text, "{name}[{}]:", describe_key(name, key));
            let _ = writeln!(text, "  kernel {}", describe(name, ours));
            let _ = writeln!(text, "  native {}", describe(name, theirs));
        }
    }
    text
}

fn describe_key(map: &str, key: &[u8]) -> String {
    let (v4, v6) = (FlowKey::<V4>::from_bytes(key), FlowKey::<V6>::from_bytes(key));
    match (map, v4, v6) {
        ("flows_v4" | "half_open_v4", Some(key), _) => format!("{key:?}"),
        ("flows_v6" | "half_open_v6", _, Some(key)) => format!("{key:?}"),
        _ => format!("{key:02x?}"),
    }
}

fn describe(map: &str, value: Option<&Vec<u8>>) -> String {
    let Some(value) = value else { return "has none".to_owned() };
    let (v4, v6) = (Flow::<V4>::from_bytes(value), Flow::<V6>::from_bytes(value));
    match (map, v4, v6) {
        ("flows_v4" | "half_open_v4", Some(flow), _) => format!("{flow:?}"),
        ("flows_v6" | "half_open_v6", _, Some(flow)) => format!("{flow:?}"),
        _ => format!("{value:02x?}"),
    }
}
