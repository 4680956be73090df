//! The maps get other sizes, and what the kernel knows stays.
//!
//! The rows of Services are copied into new maps, with the ids they have. Everything else, above
//! all what packets and sockets fill, is the same map under a second name; one whose own size
//! changes is copied as well. So nothing begins anew: flows keep their backends and sockets their
//! peers, as at any other start.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, Result, bail};
use millrace_common::address::{Address, V4, V6};
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::row::Row;

use super::flows::FLOW_MAPS;
use super::map::{Map, MapError};
use super::pins::Pins;
use super::store::{MAP_NAMES, Store};
use super::sys::{self, MapShape};
use crate::apply::MapStore as _;
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
    old: Store,
    rows: Snapshot,
    shared: Vec<&'static str>,
}

impl Transfer {
    /// From the pinned maps to such of another shape. An error is the reason why not: one is
    /// missing or of another make, or what is in them does not fit.
    pub(super) fn prepare(
        pins: &Pins,
        present: &Shapes,
        wanted: &Shapes,
        capacity: &Capacity,
    ) -> Result<Self> {
        let is_resized = |name: &&str| match (present.get(name), wanted.get(name)) {
            (Some(old), Some(new)) => MapShape { max_entries: new.max_entries, ..*old } == *new,
            _ => false,
        };
        if let Some(name) = MAP_NAMES.iter().find(|name| !is_resized(name)) {
            bail!("{name} is missing or is of another make");
        }
        if present.get("backends") != wanted.get("backends") {
            bail!("the ids of backends depend on how many there may be");
        }
        let old = Store::open_as_is(&pins.maps())?;
        let rows = old.snapshot()?;
        if let Some((of, needed)) = rows.misfit(capacity) {
            bail!("the {of} in use would need a size of {needed}");
        }
        let stays = |name: &&str| !PLANNED.contains(name) && present.get(name) == wanted.get(name);
        let shared = MAP_NAMES.into_iter().filter(stays).collect();
        Ok(Self { old, rows, shared })
    }

    /// Give the maps that stay a name beside the new ones.
    pub(super) fn share(&self, pins: &Pins, directory: &Path) -> Result<()> {
        for name in &self.shared {
            let share = || -> io::Result<()> {
                let Some(map) = pins.open_map(name)? else { return Ok(()) };
                sys::obj_pin(map.as_fd(), &directory.join(name))
            };
            share().with_context(|| format!("pin map {name} once more"))?;
        }
        Ok(())
    }

    /// Copy what is in the others.
    pub(super) fn fill(&self, pins: &Pins, directory: &Path, store: &mut Store) -> Result<()> {
        store.execute(&self.rows.ops(&store.capacity()))?;
        if !self.shared.contains(&"traffic") {
            store.set_traffic(&self.old.traffic()?)?;
        }
        for name in FLOW_MAPS.into_iter().filter(|name| !self.shared.contains(name)) {
            let (from, to) = (Map::open(&pins.maps(), name)?, Map::open(directory, name)?);
            if name.ends_with("v4") {
                copy_flows::<V4>(&from, &to)?;
            } else {
                copy_flows::<V6>(&from, &to)?;
            }
        }
        Ok(())
    }
}

/// Copy flows, as many as there is room for.
fn copy_flows<A: Address>(from: &Map, to: &Map) -> Result<(), MapError>
where
    FlowKey<A>: Row,
    Flow<A>: Row,
{
    let mut rows: Vec<(FlowKey<A>, Flow<A>)> = from.read(|_, _| true)?;
    rows.truncate(to.size()? as usize);
    to.put(&rows)
}
