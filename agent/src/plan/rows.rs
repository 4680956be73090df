//! What the maps hold for one Service, kept compactly.

use std::collections::BTreeSet;

use millrace_common::address::{Protocol, V4, V6};
use millrace_common::frontend::{Frontend, FrontendKey, SlotRange};

use super::family::PerFamily;
use super::grace::Freed;
use crate::model::desired::BackendAddress;
use crate::model::sources::Range;

/// One Service.
#[derive(Default)]
pub(super) struct Installed {
    pub(super) ports: Vec<Port>,
    /// Frontends it wants and another one has.
    pub(super) waits_v4: Vec<FrontendKey<V4>>,
    /// Likewise.
    pub(super) waits_v6: Vec<FrontendKey<V6>>,
}

/// One port of it: an entry of `services`.
pub(super) struct Port {
    pub(super) id: u32,
    /// Rows that its names take.
    pub(super) rows: u32,
    pub(super) name: Box<str>,
    pub(super) protocol: Protocol,
    pub(super) v4: Rows<V4>,
    pub(super) v6: Rows<V6>,
}

/// The rows of one port and family.
pub(super) struct Rows<A> {
    /// Rows that are not gone, sorted by address.
    pub(super) backends: Box<[BackendRow<A>]>,
    /// Sorted by key.
    pub(super) frontends: Vec<(FrontendKey<A>, Frontend)>,
    /// The block with exactly the backends that have state bit CLUSTER; empty: there is none.
    pub(super) cluster: SlotRange,
    /// As `cluster`, for LOCAL.
    pub(super) local: SlotRange,
    /// Source ranges, sorted.
    pub(super) sources: Box<[Range<A>]>,
}

/// One backend.
#[derive(Clone, Copy)]
pub(super) struct BackendRow<A> {
    pub(super) place: BackendAddress<A>,
    pub(super) id: u32,
    pub(super) state: u8,
}

impl<A> Default for Rows<A> {
    fn default() -> Self {
        Self {
            backends: Box::default(),
            frontends: Vec::new(),
            cluster: SlotRange::default(),
            local: SlotRange::default(),
            sources: Box::default(),
        }
    }
}

impl<A: PerFamily> Rows<A> {
    /// Whether there is nothing.
    pub(super) fn is_empty(&self) -> bool {
        // Blocks are of backends.
        self.backends.is_empty() && self.frontends.is_empty() && self.sources.is_empty()
    }

    /// The frontend's row, if it has one.
    pub(super) fn frontend(&self, key: &FrontendKey<A>) -> Option<&Frontend> {
        let index = self.frontends.binary_search_by(|(known, _)| known.cmp(key)).ok()?;
        self.frontends.get(index).map(|(_, row)| row)
    }

    /// All blocks its rows name, as (first, count).
    pub(super) fn blocks(&self) -> BTreeSet<(u32, u32)> {
        let frontends = self.frontends.iter().flat_map(|(_, row)| [row.near, row.far]);
        let named = frontends.chain([self.cluster, self.local]).filter(|range| range.count > 0);
        named.map(|range| (range.first, range.count)).collect()
    }

    /// Blocks named before that are not any more.
    pub(super) fn freed_blocks(&self, before: &BTreeSet<(u32, u32)>) -> Vec<Freed> {
        if before.is_empty() {
            return Vec::new();
        }
        let freed = before.difference(&self.blocks()).copied().collect::<Vec<_>>();
        freed.into_iter().map(|(first, count)| Freed::Slots(SlotRange { first, count })).collect()
    }
}

impl Installed {
    /// Another service takes a frontend over. Returns the blocks that only its row named.
    pub(super) fn evict<A: PerFamily>(&mut self, key: &FrontendKey<A>) -> Vec<Freed> {
        let mut freed = Vec::new();
        for port in &mut self.ports {
            let rows = A::rows_mut(port);
            if rows.frontend(key).is_some() {
                let before = rows.blocks();
                rows.frontends.retain(|(known, _)| known != key);
                freed.extend(rows.freed_blocks(&before));
            }
        }
        freed
    }
}
