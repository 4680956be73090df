//! How full the maps are that plans fill. The planner knows without reading them.

use millrace_common::address::Family;
use millrace_common::backend::V6_PLACES;

use super::Planner;
use super::outcome::Map;

/// Rows in use of every map, and what they stand for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Occupancy {
    /// Every map.
    pub maps: Vec<MapRoom>,
    /// Services that have rows.
    pub services: u32,
    /// Their ports.
    pub service_ports: u32,
    /// The first service id that no port ever had: above it there are no counts.
    pub service_ids_end: u32,
    /// Frontends of IPv4 and of IPv6.
    pub frontends: [u32; 2],
    /// Backends that are not gone, of IPv4 and of IPv6.
    pub backends: [u32; 2],
}

/// One map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MapRoom {
    /// Its name.
    pub name: &'static str,
    /// Rows that something names. Those that are held for the grace period are not.
    pub used: u32,
    /// Rows it has room for.
    pub size: u32,
}

impl Planner {
    /// How full the maps are, as far as planned.
    pub fn occupancy(&self) -> Occupancy {
        let rows = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let pools = &self.pools;
        let capacity = self.capacity;
        let taken = |map: Map, ids: u32, free: u32| {
            ids.saturating_sub(free).saturating_sub(self.quarantine.held(map))
        };
        let services = taken(Map::Services, capacity.services, pools.names.free());
        let slots = taken(Map::Slots, capacity.slots, pools.slots.free());
        let backends = [Family::V4, Family::V6].map(|family| {
            pools.backends.given(family).saturating_sub(self.quarantine.held_backends(family))
        });
        let places = backends[0].saturating_add(backends[1].saturating_mul(V6_PLACES));
        let sources = [
            taken(Map::SourcesV4, capacity.sources, pools.sources_v4.free()),
            taken(Map::SourcesV6, capacity.sources, pools.sources_v6.free()),
        ];
        let frontends = [rows(self.v4.rows()), rows(self.v6.rows())];
        let room = |map: Map, used, size| MapRoom { name: map.name(), used, size };
        Occupancy {
            maps: vec![
                room(Map::Services, services, capacity.services),
                room(Map::FrontendsV4, frontends[0], capacity.frontends),
                room(Map::FrontendsV6, frontends[1], capacity.frontends),
                room(Map::Backends, places, capacity.backends),
                room(Map::Slots, slots, capacity.slots),
                room(Map::SourcesV4, sources[0], capacity.sources),
                room(Map::SourcesV6, sources[1], capacity.sources),
            ],
            services: rows(self.services.len()),
            service_ports: rows(self.ports),
            service_ids_end: pools.services.next(),
            frontends: [rows(self.v4.frontends()), rows(self.v6.frontends())],
            backends,
        }
    }
}
