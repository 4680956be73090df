//! The maps as metrics read them: descriptors of their own, so that no scrape meets the loop.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use millrace_common::address::{Family, V4, V6};
use millrace_common::affinity::{AffinityEntry, AffinityKey};
use millrace_common::backend::{InPair, state};
use millrace_common::counters::Counter;
use millrace_common::flow::NO_SERVICE;
use millrace_common::fragment::{Fragment, FragmentKey};
use millrace_common::peer::Connected;
use millrace_common::row::Row;
use millrace_common::service::ServiceRow;
use millrace_common::traffic::Traffic;

use super::map::{Cursor, Map, MapError};
use super::store::Store;
use crate::metrics::scrape::{BackendKey, BackendPlace, Readings, Sockets};
use crate::plan::occupancy::MapRoom;

/// Reads what a scrape asks for.
pub struct MapReadings {
    store: Store,
    backends: Map,
    traffic: Map,
    affinity: Map,
    fragments_v4: Map,
    fragments_v6: Map,
}

impl MapReadings {
    /// Open the maps pinned in `directory`.
    pub fn open(directory: &Path) -> Result<Self, MapError> {
        let open = |name| Map::open(directory, name);
        Ok(Self {
            store: Store::open_as_is(directory)?,
            backends: open("backends")?,
            traffic: open("traffic")?,
            affinity: open("affinity")?,
            fragments_v4: open("fragments_v4")?,
            fragments_v6: open("fragments_v6")?,
        })
    }
}

impl Readings for MapReadings {
    fn counters(&self) -> Result<Vec<(Counter, u64)>> {
        Ok(self.store.counters()?)
    }

    fn traffic(&self, end: u32) -> Result<Vec<(u32, Traffic)>> {
        let mut rows = Vec::new();
        let mut cursor = Cursor::default();
        let mut done = false;
        while !done {
            let mut last = 0;
            done = self.traffic.step(&mut cursor, |id: u32, row: Traffic| {
                last = id;
                if id != NO_SERVICE && id < end && row != Traffic::default() {
                    rows.push((id, row));
                }
            })?;
            // An array is read in the order of its indexes.
            done |= last >= end;
        }
        Ok(rows)
    }

    fn service(&self, id: u32) -> Result<Option<ServiceRow>> {
        Ok(self.store.service(id)?)
    }

    fn sockets(&self) -> Result<Sockets> {
        let mut sockets = Sockets::default();
        for Connected { peer, .. } in self.store.connected()? {
            sockets.places += 1;
            let family = if peer.backend.unmapped().is_some() { Family::V4 } else { Family::V6 };
            // Id 0: what it dialled is dropped, and led nowhere.
            if peer.id != 0 {
                let key = BackendKey { family, id: peer.id, generation: peer.generation };
                *sockets.by_backend.entry(key).or_default() += 1;
            }
        }
        Ok(sockets)
    }

    fn backend(&self, key: BackendKey) -> Result<Option<BackendPlace>> {
        match key.family {
            Family::V4 => place::<V4>(&self.backends, key),
            Family::V6 => place::<V6>(&self.backends, key),
        }
    }

    fn rooms(&self) -> Result<Vec<MapRoom>> {
        Ok(vec![
            room::<AffinityKey, AffinityEntry>("affinity", &self.affinity)?,
            room::<FragmentKey<V4>, Fragment<V4>>("fragments_v4", &self.fragments_v4)?,
            room::<FragmentKey<V6>, Fragment<V6>>("fragments_v6", &self.fragments_v6)?,
        ])
    }
}

fn place<A: InPair>(backends: &Map, key: BackendKey) -> Result<Option<BackendPlace>> {
    let row = backends.backend::<A>(key.id)?;
    let kept = state::CLUSTER | state::LOCAL | state::SERVING;
    let row = row.filter(|row| row.is_usable(key.generation, kept));
    Ok(row.map(|row| BackendPlace {
        service: row.service,
        address: SocketAddr::new(row.address.into(), row.port.get()),
    }))
}

/// Entries, counted one by one.
fn room<K: Row, V: Row>(name: &'static str, map: &Map) -> Result<MapRoom> {
    let mut used = 0;
    map.scan(|_: K, _: V| used += 1)?;
    Ok(MapRoom { name, used, size: map.size()? })
}
