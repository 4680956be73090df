//! How much is served, and how full the maps are.

use prometheus::{IntGauge, IntGaugeVec, Registry, Result};

use super::instruments::Instruments;
use crate::plan::occupancy::{MapRoom, Occupancy};

pub(super) struct Sizes {
    map_entries: IntGaugeVec,
    map_size: IntGaugeVec,
    services: IntGauge,
    service_ports: IntGauge,
    frontends: IntGaugeVec,
    backends: IntGaugeVec,
}

impl Sizes {
    pub(super) fn new(registry: &Registry) -> Result<Self> {
        let new = Instruments(registry);
        let sizes = Self {
            map_entries: new.gauges(
                "millrace_map_entries",
                "Entries of a map that are in use; of maps of flows, at the last pass over them",
                &["map"],
            )?,
            map_size: new.gauges(
                "millrace_map_max_entries",
                "Entries a map has room for",
                &["map"],
            )?,
            services: new.gauge("millrace_services", "Services that are served")?,
            service_ports: new.gauge(
                "millrace_service_ports",
                "Ports of Services that are served; the unit of load balancing",
            )?,
            frontends: new.gauges(
                "millrace_frontends",
                "Addresses and ports that are served",
                &["ip_family"],
            )?,
            backends: new.gauges(
                "millrace_backends",
                "Endpoints that serve, counted once for each service port",
                &["ip_family"],
            )?,
        };
        sizes.set_occupancy(&Occupancy::default());
        Ok(sizes)
    }

    /// How full these maps are.
    pub(super) fn set_rooms(&self, maps: &[MapRoom]) {
        for map in maps {
            self.map_entries.with_label_values(&[map.name]).set(map.used.into());
            self.map_size.with_label_values(&[map.name]).set(map.size.into());
        }
    }

    /// What plans have filled.
    pub(super) fn set_occupancy(&self, occupancy: &Occupancy) {
        self.set_rooms(&occupancy.maps);
        self.services.set(occupancy.services.into());
        self.service_ports.set(occupancy.service_ports.into());
        let counts = [occupancy.frontends, occupancy.backends];
        for (gauge, [v4, v6]) in [&self.frontends, &self.backends].into_iter().zip(counts) {
            gauge.with_label_values(&["IPv4"]).set(v4.into());
            gauge.with_label_values(&["IPv6"]).set(v6.into());
        }
    }
}
