//! How full it is, and what a person should know of it before it is too full.

use std::net::{IpAddr, SocketAddr};

use millrace_common::address::{Address, Protocol};

use super::sweep::Counts;
use crate::report::{Condition, Severity};

/// Tight: this part of a size, in percent.
const TIGHT_PERCENT: u64 = 80;
/// Conditions about masquerade ports, at most: the fullest.
const PORT_CONDITIONS_MAX: usize = 16;

/// What one pass found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Census {
    /// Entries that were taken out.
    pub removed: u64,
    tables: Vec<Occupancy>,
    ports: Vec<Ports>,
}

/// A table that is nearly full.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Occupancy {
    family: &'static str,
    percent: u64,
    size: u32,
}

/// Ports that are nearly all in use.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Ports {
    used: u32,
    size: u32,
    backend: SocketAddr,
    protocol: u8,
    address: IpAddr,
}

impl Census {
    /// Add one family's counts. `size`: entries of its established table; `ports`: how many there
    /// are for each backend and address; 0: not known.
    pub fn add<A: Address>(
        &mut self,
        family: &'static str,
        counts: &Counts<A>,
        size: u32,
        ports: u32,
    ) {
        self.removed += counts.removed();
        let used = counts.established.left();
        if is_tight(used, size) {
            self.tables.push(Occupancy { family, percent: used * 100 / u64::from(size), size });
        }
        let tight = counts.ports.iter().filter(|(_, used)| is_tight((**used).into(), ports));
        self.ports.extend(tight.map(|((backend, port, protocol, address), used)| Ports {
            used: *used,
            size: ports,
            backend: SocketAddr::new((*backend).into(), port.get()),
            protocol: *protocol,
            address: (*address).into(),
        }));
        self.ports.sort_by_key(|ports| (std::cmp::Reverse(ports.used), ports.backend));
    }

    /// Whether a table is nearly full.
    pub const fn is_tight(&self) -> bool {
        !self.tables.is_empty()
    }

    /// What a person should know. A percentage is rounded, so that the report does not change with
    /// every connection.
    pub fn conditions(&self) -> Vec<Condition> {
        let warning = |about: String, message: String| Condition {
            severity: Severity::Warning,
            about,
            message,
        };
        let tables = self.tables.iter().map(|table| {
            let Occupancy { family, percent, size } = table;
            let percent = percent / 5 * 5;
            warning(
                format!("{family} flows"),
                format!(
                    "the table of established flows is {percent} % full ({size} entries): when it \
                     is full, new ones can be forgotten. Raise --max-flows"
                ),
            )
        });
        let ports = self.ports.iter().take(PORT_CONDITIONS_MAX).map(|ports| {
            let Ports { used, size, backend, protocol, address } = ports;
            let protocol = Protocol::from_number(*protocol).map_or("?", Protocol::name);
            let percent = u64::from(*used) * 100 / u64::from((*size).max(1)) / 5 * 5;
            warning(
                format!("masquerade ports of {address} to {backend}/{protocol}"),
                format!(
                    "{percent} % of {size} used: when all are, new connections of this kind are \
                     dropped. Widen the range of ports or add backends"
                ),
            )
        });
        tables.chain(ports).collect()
    }
}

/// Whether a table is nearly full.
pub const fn is_tight(used: u64, size: u32) -> bool {
    size > 0 && used * 100 >= size as u64 * TIGHT_PERCENT
}
