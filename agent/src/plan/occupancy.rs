//! How full the maps are that plans fill. The planner knows without reading them.

use super::Planner;
use super::outcome::Map;

/// Rows in use of every map, and what they stand for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Occupancy {
    /// Every map.
    pub maps: Vec<MapRoom>,
    /// Services that have rows.
    pub services: u32,
    /// Their ports: rows of `services`.
    pub service_ports: u32,
    /// The first service id that no port ever had: above it there are no counts.
    pub service_ids_end: u32,
    /// Rows of `frontends_v4` and `frontends_v6`.
    pub frontends: [u32; 2],
    /// Rows of `backends_v4` and `backends_v6` that are not gone.
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
        // Backend 0 is never given out.
        let backend_ids = capacity.backends.saturating_sub(1);
        let services = taken(Map::Services, capacity.services, pools.services.free());
        let slots = taken(Map::Slots, capacity.slots, pools.slots.free());
        let backends = [
            taken(Map::BackendsV4, backend_ids, pools.v4.free()),
            taken(Map::BackendsV6, backend_ids, pools.v6.free()),
        ];
        let sources = [
            taken(Map::SourcesV4, capacity.sources, pools.sources_v4.free()),
            taken(Map::SourcesV6, capacity.sources, pools.sources_v6.free()),
        ];
        let frontends = [rows(self.v4.len()), rows(self.v6.len())];
        let room = |map: Map, used, size| MapRoom { name: map.name(), used, size };
        Occupancy {
            maps: vec![
                room(Map::Services, services, capacity.services),
                room(Map::FrontendsV4, frontends[0], capacity.frontends),
                room(Map::FrontendsV6, frontends[1], capacity.frontends),
                room(Map::BackendsV4, backends[0], capacity.backends),
                room(Map::BackendsV6, backends[1], capacity.backends),
                room(Map::Slots, slots, capacity.slots),
                room(Map::SourcesV4, sources[0], capacity.sources),
                room(Map::SourcesV6, sources[1], capacity.sources),
            ],
            services: rows(self.services.len()),
            service_ports: services,
            service_ids_end: pools.services.next(),
            frontends,
            backends,
        }
    }
}
