//! Connections and flows that backends have at this moment, for a bounded number of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use millrace_common::address::Family;

use super::scrape::BackendPlace;

/// Backends with series of their own, at most: the busiest. The rest is one sum.
pub const BACKENDS_MAX: usize = 1000;

/// A backend as connections remember it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct BackendKey {
    /// Its family.
    pub family: Family,
    /// Its id.
    pub id: u32,
    /// Generation of the id.
    pub generation: u32,
}

/// How many, by the path.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Load {
    /// Connected sockets.
    pub(super) sockets: u64,
    /// Flows of packets.
    pub(super) flows: u64,
}

impl Load {
    fn add(&mut self, other: Self) {
        self.sockets += other.sockets;
        self.flows += other.flows;
    }
}

/// What backends have.
#[derive(Default)]
pub(super) struct Loads {
    /// The busiest, by service id and address.
    pub(super) own: Vec<((u32, SocketAddr), Load)>,
    /// All others.
    pub(super) rest: Load,
    /// Those whose backend is gone.
    pub(super) stale: Load,
}

impl Loads {
    /// Find out which backends they are; one that is gone is nothing.
    pub(super) fn resolve<E>(
        loads: HashMap<BackendKey, Load>,
        mut place: impl FnMut(BackendKey) -> Result<Option<BackendPlace>, E>,
    ) -> Result<Self, E> {
        let mut result = Self::default();
        let mut found: BTreeMap<(u32, SocketAddr), Load> = BTreeMap::new();
        for (key, load) in loads {
            match place(key)? {
                Some(place) => {
                    found.entry((place.service, place.address)).or_default().add(load);
                }
                None => result.stale.add(load),
            }
        }
        result.own = found.into_iter().collect();
        result.own.sort_by_key(|(place, load)| (Reverse(load.sockets + load.flows), *place));
        for (_, load) in result.own.drain(BACKENDS_MAX.min(result.own.len())..) {
            result.rest.add(load);
        }
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_are_shown_the_rest_is_summed_and_the_gone_are_told_apart() {
        let count = BACKENDS_MAX as u32 + 5;
        let key = |id| BackendKey { family: Family::V4, id, generation: 1 };
        let load = |id: u32| Load { sockets: id.into(), flows: 1 };
        let loads = (1..=count).map(|id| (key(id), load(id))).collect();
        let place = |key: BackendKey| {
            let address = SocketAddr::from(([10, 0, (key.id >> 8) as u8, key.id as u8], 80));
            Ok::<_, ()>((key.id != count).then_some(BackendPlace { service: 1, address }))
        };
        let loads = Loads::resolve(loads, place).unwrap();
        assert_eq!(loads.own.len(), BACKENDS_MAX);
        assert_eq!(loads.own[0].1, load(count - 1));
        assert_eq!(loads.rest, Load { sockets: 1 + 2 + 3 + 4, flows: 4 });
        assert_eq!(loads.stale, load(count));
    }
}
