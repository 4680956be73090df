//! Drafting the operations that lead a Service from the rows it has to those it should have.

use millrace_common::address::{Family, V4, V6};
use millrace_common::backend::{Backend, state};
use millrace_common::frontend::{Frontend, FrontendKey, SlotRange, flags};
use millrace_common::node::SourceKey;
use millrace_common::service::ServiceRow;

use super::Pools;
use super::claim::Claims;
use super::family::PerFamily;
use super::grace::Freed;
use super::op::Op;
use super::outcome::{Map, Shortage};
use super::rows::{BackendRow, Installed, Port, Rows};
use crate::model::desired::{
    BackendAddress, Desired, DesiredFamily, DesiredFrontend, DesiredPort, List,
};
use crate::model::sources::Range;

/// Operations by phase: everything a frontend will lead to comes before the frontend, and nothing
/// it leads to is taken away before it leads elsewhere.
pub(super) struct Draft<'p> {
    pools: &'p mut Pools,
    names: Vec<Op>,
    additions: Vec<Op>,
    blocks: Vec<Op>,
    flips: Vec<Op>,
    deletes: Vec<Op>,
    retirements: Vec<Op>,
    farewells: Vec<Op>,
    /// What is free once the operations are done.
    freed: Vec<Freed>,
    /// What was handed out for them.
    taken: Vec<Freed>,
}

/// Both families' claims.
type BothClaims = (Claims<V4>, Claims<V6>);

impl<'p> Draft<'p> {
    pub(super) const fn new(pools: &'p mut Pools) -> Self {
        Self {
            pools,
            names: Vec::new(),
            additions: Vec::new(),
            blocks: Vec::new(),
            flips: Vec::new(),
            deletes: Vec::new(),
            retirements: Vec::new(),
            farewells: Vec::new(),
            freed: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// The operations in their order, and what is free after them.
    pub(super) fn finish(self) -> (Vec<Op>, Vec<Freed>) {
        let phases = [
            self.names,
            self.additions,
            self.blocks,
            self.flips,
            self.deletes,
            self.retirements,
            self.farewells,
        ];
        let mut ops = Vec::with_capacity(phases.iter().map(Vec::len).sum());
        phases.into_iter().for_each(|phase| ops.extend(phase));
        (ops, self.freed)
    }

    /// Nothing of this happens.
    pub(super) fn undo(self) {
        for taken in self.taken.into_iter().rev() {
            match taken {
                Freed::Service(id, rows) => {
                    self.pools.services.undo(id);
                    self.pools.names.put_back(rows);
                }
                Freed::BackendV4(id) => self.pools.backends.undo(Family::V4, id),
                Freed::BackendV6(id) => self.pools.backends.undo(Family::V6, id),
                other => self.pools.put_back(other),
            }
        }
    }

    /// Draft a whole Service. Returns the ports it has then.
    pub(super) fn service(
        &mut self,
        old: Option<&Installed>,
        desired: &Desired,
        claims: &BothClaims,
    ) -> Result<Vec<Port>, Shortage> {
        let old = old.map_or(&[][..], |installed| &installed.ports);
        let mut ports = Vec::with_capacity(desired.ports.len());
        let mut kept = vec![false; old.len()];
        for (index, want) in desired.ports.iter().enumerate() {
            let same = |port: &Port| *port.name == *want.name && port.protocol == want.protocol;
            let found = old.iter().position(same).filter(|found| !kept[*found]);
            if let Some(found) = found {
                kept[found] = true;
            }
            let before = found.and_then(|found| old.get(found));
            ports.extend(self.port(before, desired, index, claims)?);
        }
        for (port, _) in old.iter().zip(kept).filter(|(_, kept)| !kept) {
            self.remove_port(port, claims)?;
        }
        Ok(ports)
    }

    /// Draft one port. None: its names cannot be written (the model reports such Services).
    fn port(
        &mut self,
        old: Option<&Port>,
        desired: &Desired,
        index: usize,
        claims: &BothClaims,
    ) -> Result<Option<Port>, Shortage> {
        let want: &DesiredPort = &desired.ports[index];
        let (id, rows) = match old {
            Some(port) => (port.id, port.rows),
            None => {
                let service = &desired.service;
                let (namespace, name) = (&service.namespace, &service.name);
                let row = ServiceRow::new(namespace, name, &want.name, want.protocol as u8);
                let Some(row) = row else { return Ok(None) };
                let (id, rows) = (self.take_service_id(row.parts())?, row.parts());
                // The name comes last: an id that has one is not given out again after a crash.
                self.names.extend([Op::NoTraffic(id), Op::Service(id, Some(Box::new(row)))]);
                (id, rows)
            }
        };
        Ok(Some(Port {
            id,
            rows,
            name: want.name.as_str().into(),
            protocol: want.protocol,
            v4: self.family(id, old, Some((want, index)), claims)?,
            v6: self.family(id, old, Some((want, index)), claims)?,
        }))
    }

    /// An id, and rows for its names.
    fn take_service_id(&mut self, rows: u32) -> Result<u32, Shortage> {
        let free = self.pools.names.free();
        let shortage = Shortage { map: Map::Services, needed: rows, free };
        if rows > free {
            return Err(shortage);
        }
        let id = self.pools.services.take().ok_or(shortage)?;
        self.pools.names.take(rows);
        self.taken.push(Freed::Service(id, rows));
        Ok(id)
    }

    fn remove_port(&mut self, port: &Port, claims: &BothClaims) -> Result<(), Shortage> {
        self.family::<V4>(port.id, Some(port), None, claims)?;
        self.family::<V6>(port.id, Some(port), None, claims)?;
        self.farewells.push(Op::Service(port.id, None));
        self.freed.push(Freed::Service(port.id, port.rows));
        Ok(())
    }

    /// Draft one family of a port; `want` is the desired port and its index, nothing if it goes.
    fn family<A: PerFamily>(
        &mut self,
        id: u32,
        old: Option<&Port>,
        want: Option<(&DesiredPort, usize)>,
        claims: &BothClaims,
    ) -> Result<Rows<A>, Shortage> {
        let (nothing, no_rows) = (DesiredFamily::default(), Rows::default());
        let old = old.map_or(&no_rows, A::rows);
        let claims = A::claims(claims);
        let (want, granted) = match want {
            Some((port, index)) => (A::desired(port), claims.granted(index)),
            None => (&nothing, &[][..]),
        };
        if granted.is_empty() && want.serving.is_empty() && old.is_empty() {
            // Most Services have one family.
            return Ok(no_rows);
        }
        let backends = self.backends(id, &old.backends, wanted_states(want, granted))?;
        let mut rows = Rows {
            cluster: self.block(old.cluster, state::CLUSTER, &old.backends, &backends)?,
            local: self.block(old.local, state::LOCAL, &old.backends, &backends)?,
            backends,
            frontends: Vec::with_capacity(granted.len()),
            sources: Box::default(),
        };
        self.frontends(id, old, granted, &mut rows);
        let gone = old.frontends.iter().filter(|(key, _)| !claims.has(key));
        self.deletes.extend(gone.map(|(key, _)| A::frontend_op(*key, None)));
        rows.sources = self.sources(id, &old.sources, want, granted)?;
        self.freed.extend(rows.freed_blocks(&old.blocks()));
        Ok(rows)
    }

    /// Ranges that come are there before a frontend asks for them, and those that go are there for
    /// as long as one may: in between, whoever may before and after may, and whoever may neither
    /// before nor after may not.
    fn sources<A: PerFamily>(
        &mut self,
        service: u32,
        old: &[Range<A>],
        want: &DesiredFamily<A>,
        granted: &[DesiredFrontend<A>],
    ) -> Result<Box<[Range<A>]>, Shortage> {
        let asks = granted.iter().any(|frontend| frontend.flags & flags::SOURCE_RANGES != 0);
        let sources = if asks { want.sources.as_slice() } else { &[] };
        let missing = |range: &&Range<A>, from: &[Range<A>]| from.binary_search(range).is_err();
        let key = |range: &Range<A>| SourceKey::new(service, range.address, range.length.into());
        let come: Vec<SourceKey<A>> =
            sources.iter().filter(|range| missing(range, old)).map(key).collect();
        let go: Vec<SourceKey<A>> =
            old.iter().filter(|range| missing(range, sources)).map(key).collect();
        let room = A::source_room(self.pools);
        let (needed, free) = (u32::try_from(come.len()).unwrap_or(u32::MAX), room.free());
        if needed > free {
            return Err(Shortage { map: A::SOURCES, needed, free });
        }
        if needed > 0 {
            room.take(needed);
            self.taken.push(A::freed_sources(needed));
        }
        if !go.is_empty() {
            self.freed.push(A::freed_sources(u32::try_from(go.len()).unwrap_or(u32::MAX)));
        }
        self.additions.extend(come.into_iter().map(|key| A::source_op(key, true)));
        self.deletes.extend(go.into_iter().map(|key| A::source_op(key, false)));
        Ok(sources.into())
    }

    /// Backends that stay, change, come and go. Returns those that are not gone, sorted.
    fn backends<A: PerFamily>(
        &mut self,
        service: u32,
        old: &[BackendRow<A>],
        mut wanted: Vec<WantedState<A>>,
    ) -> Result<Box<[BackendRow<A>]>, Shortage> {
        let mut rows = Vec::with_capacity(wanted.len());
        self.additions.reserve(wanted.len());
        for row in old {
            // Taken out by taking its bits: what is gone is not wanted.
            let found = wanted.binary_search_by_key(&row.place, |(place, _)| *place).ok();
            let state = found.map_or(state::GONE, |at| std::mem::take(&mut wanted[at].1));
            self.change_state(service, *row, state);
            if state == state::GONE {
                self.freed.push(A::freed_backend(row.id));
            } else {
                rows.push(BackendRow { state, ..*row });
            }
        }
        // An endpoint that only serves has no flows here unless it was listed before.
        wanted.retain(|(_, state)| *state & (state::CLUSTER | state::LOCAL) != 0);
        let needed = u32::try_from(wanted.len()).unwrap_or(u32::MAX).saturating_mul(A::PLACES);
        let free = self.pools.backends.free(A::FAMILY).saturating_mul(A::PLACES);
        let shortage = Shortage { map: Map::Backends, needed, free };
        if needed > free {
            return Err(shortage);
        }
        self.taken.reserve(wanted.len());
        for (place, state) in wanted {
            let id = self.pools.backends.take(A::FAMILY).ok_or(shortage)?;
            self.taken.push(A::freed_backend(id));
            let row = BackendRow { place, id, state };
            let op = self.backend_op(service, row);
            self.additions.push(op);
            rows.push(row);
        }
        // New ones alone are sorted already.
        if !old.is_empty() {
            rows.sort_unstable_by_key(|row| row.place);
        }
        Ok(rows.into())
    }

    /// What a backend gains it has before the frontends flip, what it loses only after.
    fn change_state<A: PerFamily>(&mut self, service: u32, row: BackendRow<A>, state: u8) {
        let both = row.state | state;
        if both != row.state {
            let op = self.backend_op(service, BackendRow { state: both, ..row });
            self.additions.push(op);
        }
        if state != both {
            let op = self.backend_op(service, BackendRow { state, ..row });
            self.retirements.push(op);
        }
    }

    fn backend_op<A: PerFamily>(&mut self, service: u32, row: BackendRow<A>) -> Op {
        let generation = self.pools.backends.generation(A::FAMILY, row.id);
        let family = A::FAMILY as u8;
        let BackendAddress { address, port } = row.place;
        A::backend_op(
            row.id,
            Backend { port, state: row.state, family, generation, service, address },
        )
    }

    /// The block of the backends that have `bit`: the old one if they are the same, else a new one.
    fn block<A: PerFamily>(
        &mut self,
        old: SlotRange,
        bit: u8,
        before: &[BackendRow<A>],
        after: &[BackendRow<A>],
    ) -> Result<SlotRange, Shortage> {
        let ids = |rows: &[BackendRow<A>]| -> Vec<u32> {
            rows.iter().filter(|row| row.state & bit != 0).map(|row| row.id).collect()
        };
        let wanted = ids(after);
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        if count == 0 || (old.count == count && ids(before) == wanted) {
            return Ok(if count == 0 { SlotRange::default() } else { old });
        }
        let free = self.pools.slots.free();
        let shortage = Shortage { map: Map::Slots, needed: count, free };
        let range = self.pools.slots.take(count).ok_or(shortage)?;
        self.taken.push(Freed::Slots(range));
        self.blocks.push(Op::Slots(range.first, wanted));
        Ok(range)
    }

    /// Frontends that come or lead elsewhere.
    fn frontends<A: PerFamily>(
        &mut self,
        service: u32,
        old: &Rows<A>,
        granted: &[DesiredFrontend<A>],
        rows: &mut Rows<A>,
    ) {
        let block = |list| match list {
            List::Nobody => SlotRange::default(),
            List::Cluster => rows.cluster,
            List::Local => rows.local,
        };
        let row_of = |want: &DesiredFrontend<A>| Frontend {
            service,
            flags: want.flags,
            near: block(want.near),
            far: block(want.far),
            affinity_secs: want.affinity_secs,
            check: want.key.check(),
        };
        let mut frontends: Vec<(FrontendKey<A>, Frontend)> =
            granted.iter().map(|want| (want.key, row_of(want))).collect();
        frontends.sort_unstable_by_key(|(key, _)| *key);
        let changed = frontends.iter().filter(|(key, row)| old.frontend(key) != Some(row));
        self.flips.extend(changed.map(|(key, row)| A::frontend_op(*key, Some(*row))));
        rows.frontends = frontends;
    }
}

/// A backend, and the state it should have.
type WantedState<A> = (BackendAddress<A>, u8);

/// The state each backend should have, sorted by backend; lists that no frontend leads to do not
/// count.
fn wanted_states<A: PerFamily>(
    want: &DesiredFamily<A>,
    granted: &[DesiredFrontend<A>],
) -> Vec<WantedState<A>> {
    let serving = want.serving.iter().map(|place| (*place, state::SERVING));
    let mut states: Vec<WantedState<A>> = serving.collect();
    for (list, bit) in [(List::Cluster, state::CLUSTER), (List::Local, state::LOCAL)] {
        if granted.iter().any(|frontend| frontend.near == list || frontend.far == list) {
            add_list(&mut states, want.list(list), bit);
        }
    }
    states
}

/// Those in the list, which is sorted as the states are, have the bit too.
fn add_list<A: PerFamily>(states: &mut Vec<WantedState<A>>, list: &[BackendAddress<A>], bit: u8) {
    let known = states.len();
    let mut at = 0;
    for place in list {
        while at < known && states[at].0 < *place {
            at += 1;
        }
        if at < known && states[at].0 == *place {
            states[at].1 |= bit;
        } else {
            states.push((*place, bit));
        }
    }
    // Rare: nearly all that are in a list serve.
    if states.len() > known {
        states.sort_unstable();
    }
}
