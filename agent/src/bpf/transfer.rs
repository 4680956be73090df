//! The maps get other sizes, or an upgrade brings other rows, and what the kernel knows stays.
//!
//! The rows of Services are copied into new maps, with the ids they have. Everything else, above
//! all what packets and sockets fill, is the same map under a second name, if it is as it was; one
//! whose own size changes is copied as well. So nothing begins anew: flows keep their backends and
//! sockets their peers, as at any other start.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use millrace_common::ABI_VERSION;
use millrace_common::address::{Address, V4, V6};
use millrace_common::flow::{Flow, FlowKey, bits};
use millrace_common::row::Row;
use millrace_common::traffic::Traffic;

use super::flow_filter::FilterMemory;
use super::flows::FLOW_MAPS;
use super::map::{Map, MapError};
use super::names::NameStore;
use super::pins::Pins;
use super::store::{MAPS, Store, read_backends};
use super::sys::{self, MapShape};
use crate::apply::MapStore as _;
use crate::flows::filter::{FilterRow as _, Half};
use crate::hash::HashMap;
use crate::plan::op::{Capacity, Snapshot};

/// Maps that the agent alone writes, whose rows lead to each other: they are made anew together.
const PLANNED: [&str; 8] = [
    "frontends_v4",
    "frontends_v6",
    "frontend_filter",
    "slots",
    "backends",
    "services",
    "source_ranges_v4",
    "source_ranges_v6",
];

/// The shape of each map.
pub(super) type Shapes = BTreeMap<&'static str, MapShape>;

/// What new maps take over from those in force.
pub(super) struct Transfer {
    /// The version of the layout of those in force.
    version: u32,
    /// Where they are pinned.
    directory: PathBuf,
    /// Those whose rows can be used, though their number may be another.
    usable: Vec<&'static str>,
    /// Those that stay.
    shared: Vec<&'static str>,
    /// The rows of Services: all of them, or such as others remember by their ids.
    rows: Snapshot,
}

impl Transfer {
    /// From the pinned maps to such of other sizes. An error is the reason why not: one is missing
    /// or of another make, or what is in them does not fit.
    pub(super) fn of_other_sizes(
        pins: &Pins,
        present: &Shapes,
        wanted: &Shapes,
        capacity: &Capacity,
    ) -> Result<Self> {
        let mut transfer = Self::prepare(pins, ABI_VERSION, present, wanted);
        if let Some((name, _)) = MAPS.iter().find(|(name, _)| !transfer.usable.contains(name)) {
            bail!("{name} is missing or is of another make");
        }
        check_backends(present, wanted)?;
        transfer.rows = Store::open_as_is(&transfer.directory)?.snapshot()?;
        transfer.fits(capacity)
    }

    /// From the maps that an earlier version has left, as far as their rows are what they are now.
    /// Frontends are made anew, with all that they lead to: until the first plan, the earlier
    /// version's programs serve with its own.
    pub(super) fn of_older_layout(
        pins: &Pins,
        version: u32,
        wanted: &Shapes,
        capacity: &Capacity,
    ) -> Result<Self> {
        let present = present_shapes(pins, version)?;
        let mut transfer = Self::prepare(pins, version, &present, wanted);
        if let Some(name) = ["services", "backends"].iter().find(|n| !transfer.usable.contains(n)) {
            bail!("the rows of {name} are others than they were");
        }
        check_backends(&present, wanted)?;
        let backends = Map::open(&transfer.directory, "backends")?;
        let (backends_v4, backends_v6) = read_backends(&backends)?;
        let services = NameStore::open(&transfer.directory)?.all()?;
        transfer.rows = Snapshot { services, backends_v4, backends_v6, ..Snapshot::default() };
        transfer.fits(capacity)
    }

    fn prepare(pins: &Pins, version: u32, present: &Shapes, wanted: &Shapes) -> Self {
        let is_usable = |name: &&str| match (present.get(name), wanted.get(name)) {
            (Some(old), Some(new)) => MapShape { max_entries: new.max_entries, ..*old } == *new,
            _ => false,
        };
        let unchanged = MAPS.into_iter().filter(|(_, since)| *since <= version);
        let usable: Vec<_> = unchanged.map(|(name, _)| name).filter(is_usable).collect();
        let stays = |name: &&str| !PLANNED.contains(name) && present.get(name) == wanted.get(name);
        let shared = usable.iter().copied().filter(stays).collect();
        let (directory, rows) = (pins.maps_of(version), Snapshot::default());
        Self { version, directory, usable, shared, rows }
    }

    fn fits(self, capacity: &Capacity) -> Result<Self> {
        if let Some((of, needed)) = self.rows.misfit(capacity) {
            bail!("the {of} in use would need a size of {needed}");
        }
        Ok(self)
    }

    /// Whether Services can be served from what is taken over, before they are planned.
    pub(super) const fn is_complete(&self) -> bool {
        self.version == ABI_VERSION
    }

    /// Give the maps that stay a name beside the new ones.
    pub(super) fn share(&self, pins: &Pins, directory: &Path) -> Result<()> {
        for name in &self.shared {
            let share = || -> io::Result<()> {
                let Some(map) = pins.open_map_of(self.version, name)? else { return Ok(()) };
                sys::obj_pin(map.as_fd(), &directory.join(name))
            };
            share().with_context(|| format!("pin map {name} once more"))?;
        }
        Ok(())
    }

    /// Copy what is in the others.
    pub(super) fn fill(&mut self, directory: &Path, store: &mut Store) -> Result<()> {
        store.execute(&std::mem::take(&mut self.rows).ops(&store.capacity()))?;
        if self.is_copied("traffic") {
            let old = Map::open(&self.directory, "traffic")?;
            store.set_traffic(&old.read_array(|row: &Traffic| *row != Traffic::default())?)?;
        }
        self.copy_flows(directory)
    }

    /// Copy tables of flows. To be done once more when no program writes the old ones any more:
    /// connections have begun meanwhile.
    pub(super) fn copy_flows(&self, directory: &Path) -> Result<()> {
        let filter = Map::open(directory, "flow_filter")?;
        let filter = FilterMemory::of(&filter)?;
        for name in FLOW_MAPS.into_iter().filter(|name| self.is_copied(name)) {
            let (from, to) = (Map::open(&self.directory, name)?, Map::open(directory, name)?);
            if name.ends_with("v4") {
                copy_flows::<V4>(&from, &to, &filter)?;
            } else {
                copy_flows::<V6>(&from, &to, &filter)?;
            }
        }
        Ok(())
    }

    fn is_copied(&self, name: &str) -> bool {
        self.usable.contains(&name) && !self.shared.contains(&name)
    }
}

/// The shape of each of our maps that is pinned in that version's place.
pub(super) fn present_shapes(pins: &Pins, version: u32) -> Result<Shapes> {
    let mut shapes = Shapes::new();
    for (name, _) in MAPS {
        let open = || -> io::Result<Option<MapShape>> {
            let map = pins.open_map_of(version, name)?;
            map.map(|map| sys::map_shape(map.as_fd())).transpose()
        };
        if let Some(shape) = open().with_context(|| format!("look at pinned map {name}"))? {
            shapes.insert(name, shape);
        }
    }
    Ok(shapes)
}

/// Ids of IPv4 count from one end, those of IPv6 from the other.
fn check_backends(present: &Shapes, wanted: &Shapes) -> Result<()> {
    if present.get("backends") != wanted.get("backends") {
        bail!("the ids of backends depend on how many there may be");
    }
    Ok(())
}

/// Copy the entries that are not there, as many as there is room for, and those of flows that are
/// not known to be answered there.
fn copy_flows<A: Address>(from: &Map, to: &Map, filter: &FilterMemory) -> Result<(), MapError>
where
    FlowKey<A>: Row,
    Flow<A>: Row,
{
    let known: HashMap<FlowKey<A>, Flow<A>> = to.read(|_, _| true)?.into_iter().collect();
    let answered = from.read(|key, flow| known.get(key).is_some_and(|k| was_answered(k, flow)))?;
    let mut unknown = from.read(|key, _: &Flow<A>| !known.contains_key(key))?;
    unknown.truncate((to.size()? as usize).saturating_sub(known.len()));
    to.put(&answered)?;
    to.put(&unknown)?;
    // As a program does that writes an entry.
    for (key, _) in answered.iter().chain(&unknown) {
        [Half::First, Half::Second].iter().for_each(|half| filter.set(*half, key.cell()));
    }
    Ok(())
}

/// Whether the entry `now` is of the same flow as `known`, which was not answered then. (Its port
/// may have begun another one.)
fn was_answered<A: Address>(known: &Flow<A>, now: &Flow<A>) -> bool {
    let is_half_open = |flow: &Flow<A>| flow.bits & bits::HALF_OPEN != 0;
    let which = |flow: &Flow<A>| (flow.address, flow.port, flow.other_port, flow.since_secs);
    is_half_open(known) && !is_half_open(now) && which(known) == which(now)
}
