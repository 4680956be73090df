//! Which addresses are ClusterIPs as such: those that have a frontend of that kind. Their rows are
//! shared by neighbours ([`millrace_common::cluster_ips`]), so they belong to no Service, and are
//! written when all plans of a round are.

use std::collections::BTreeMap;

use millrace_common::address::Address;
use millrace_common::frontend::{Frontend, FrontendKey};

use crate::hash::{HashMap, HashSet};

/// A row to write, or to delete.
type Change<A> = (FrontendKey<A>, Option<Frontend>);

/// The ClusterIPs of one family.
pub(super) struct ClusterIps<A> {
    /// Frontends that each has; never 0.
    frontends: HashMap<A, u32>,
    /// By first address: the bits of each block that has a row, or is to have one.
    blocks: HashMap<A, u128>,
    /// Blocks whose rows are not as they should be.
    changed: HashSet<A>,
}

impl<A> Default for ClusterIps<A> {
    fn default() -> Self {
        Self {
            frontends: HashMap::default(),
            blocks: HashMap::default(),
            changed: HashSet::default(),
        }
    }
}

impl<A: Address> ClusterIps<A> {
    /// An address has a frontend more.
    pub(super) fn add(&mut self, address: A) {
        let frontends = self.frontends.entry(address).or_default();
        *frontends += 1;
        if *frontends == 1 {
            let (first, place) = address.in_block();
            *self.blocks.entry(first).or_default() |= 1 << place;
            self.changed.insert(first);
        }
    }

    /// An address has a frontend fewer.
    pub(super) fn remove(&mut self, address: A) {
        let Some(frontends) = self.frontends.get_mut(&address) else { return };
        *frontends -= 1;
        if *frontends == 0 {
            self.frontends.remove(&address);
            let (first, place) = address.in_block();
            *self.blocks.entry(first).or_default() &= !(1 << place);
            self.changed.insert(first);
        }
    }

    /// Rows there are, and those that are yet to be written or deleted.
    pub(super) fn rows(&self) -> usize {
        self.blocks.len()
    }

    /// How many rows more it would be with these addresses, neighbours in a row.
    pub(super) fn new_rows(&self, addresses: impl Iterator<Item = A>) -> u32 {
        let (mut rows, mut last) = (0, None);
        for (first, _) in addresses.map(Address::in_block) {
            if last != Some(first) && !self.blocks.contains_key(&first) {
                rows += 1;
            }
            last = Some(first);
        }
        rows
    }

    /// What is to be done about rows, first those that are written; it is taken for done.
    pub(super) fn changes(&mut self) -> Vec<Change<A>> {
        let changed = std::mem::take(&mut self.changed);
        let mut changes: Vec<Change<A>> =
            changed.into_iter().map(|first| self.change(first)).collect();
        changes.sort_unstable_by_key(|(key, row)| (row.is_none(), *key));
        changes
    }

    fn change(&mut self, first: A) -> Change<A> {
        let (key, _) = FrontendKey::of_block(first);
        let bits = self.blocks.get(&first).copied().unwrap_or_default();
        if bits == 0 {
            self.blocks.remove(&first);
            return (key, None);
        }
        (key, Some(Frontend::of_block(&key, bits)))
    }

    /// What makes the rows that were found those that should be, once all frontends are known.
    pub(super) fn recover(&mut self, found: Vec<(FrontendKey<A>, Frontend)>) -> Vec<Change<A>> {
        self.changed.extend(self.blocks.keys().copied());
        let wanted: BTreeMap<_, _> = self.changes().into_iter().collect();
        let found: BTreeMap<_, _> = found.into_iter().map(|(key, row)| (key, Some(row))).collect();
        let stray = found.keys().filter(|key| !wanted.contains_key(key)).map(|key| (*key, None));
        let wrong = wanted.iter().filter(|(key, row)| found.get(key) != Some(row));
        stray.chain(wrong.map(|(key, row)| (*key, *row))).collect()
    }
}
