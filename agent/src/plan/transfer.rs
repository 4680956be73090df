//! The rows of one set of maps, for another one of other sizes. Pure.
//!
//! Ids, generations and places stay, so that whoever remembers them (flows, sockets, affinity)
//! remembers the same.

use millrace_common::frontend::{Frontend, Kind};

use super::op::{Capacity, Op, Snapshot};

impl Snapshot {
    /// Rows that have no place in maps of these sizes though they are in use: what they are of, and
    /// how large that would have to be. None: all fit, if there are as many places for backends as
    /// there were, whose ids count from both ends. (Names are not judged: how many rows they take,
    /// the maps know.)
    pub fn misfit(&self, capacity: &Capacity) -> Option<(&'static str, u64)> {
        let Capacity { services, backends: _, slots, frontends, sources } = *capacity;
        let last_service = self.services.iter().map(|(id, _)| u64::from(*id)).max();
        let last_slot = self.rows().map(end_of_lists).max();
        let most = |v4: usize, v6: usize| Some(v4.max(v6) as u64);
        let needs = [
            ("services", last_service, services),
            ("slots", last_slot, slots),
            ("frontends", most(self.frontends_v4.len(), self.frontends_v6.len()), frontends),
            ("source ranges", most(self.sources_v4.len(), self.sources_v6.len()), sources),
        ];
        let needs = needs.map(|(of, needed, size)| (of, needed.unwrap_or(0), u64::from(size)));
        needs
            .into_iter()
            .find(|(_, needed, size)| needed > size)
            .map(|(of, needed, _)| (of, needed))
    }

    /// What writes them into empty maps of these sizes, which they fit. Places of lists that
    /// nothing leads to any more are left out if they are not there.
    pub fn ops(&self, capacity: &Capacity) -> Vec<Op> {
        let used = self.slots.iter().rposition(|id| *id != 0).map_or(0, |last| last + 1);
        let slots = &self.slots[..used.min(capacity.slots as usize)];
        let services = self.services.iter();
        let mut ops: Vec<Op> = services.clone().map(|(id, _)| Op::NoTraffic(*id)).collect();
        ops.extend(services.map(|(id, row)| Op::Service(*id, Some(Box::new(*row)))));
        ops.extend(self.backends_v4.iter().map(|(id, row)| Op::BackendV4(*id, *row)));
        ops.extend(self.backends_v6.iter().map(|(id, row)| Op::BackendV6(*id, *row)));
        ops.push(Op::Slots(0, slots.to_vec()));
        ops.extend(self.sources_v4.iter().map(|key| Op::SourceV4(*key, true)));
        ops.extend(self.sources_v6.iter().map(|key| Op::SourceV6(*key, true)));
        ops.extend(self.frontends_v4.iter().map(|(key, row)| Op::FrontendV4(*key, Some(*row))));
        ops.extend(self.frontends_v6.iter().map(|(key, row)| Op::FrontendV6(*key, Some(*row))));
        ops
    }

    /// The rows of all frontends; what has no lists is none.
    fn rows(&self) -> impl Iterator<Item = &Frontend> {
        let v4 = self.frontends_v4.iter().map(|(_, row)| row);
        let all = v4.chain(self.frontends_v6.iter().map(|(_, row)| row));
        all.filter(|row| row.kind() != Some(Kind::ClusterIps))
    }
}

/// The place after the last one of a frontend's lists.
fn end_of_lists(row: &Frontend) -> u64 {
    let ends = [row.near, row.far].map(|list| u64::from(list.first) + u64::from(list.count));
    ends.into_iter().max().unwrap_or_default()
}
