//! One family's tables: which entries belong together, and taking out those of flows that are over.
//!
//! Only an OPEN entry judges its flow; the others are left to it as long as it is there. What has
//! lost its flow (an agent died half-way, the kernel made room) goes by itself after a while.

use std::collections::HashMap;
use std::mem::take;

use anyhow::Result;
use millrace_common::address::{Address, Be16, Protocol};
use millrace_common::backend::state;
use millrace_common::flow::{Flow, FlowKey, NO_SERVICE, bits, role, side};
use millrace_common::packet::tables::Table;

use super::FlowRows;
use super::account::{self, Account, Led, Usage, is_unanswered};
use super::rules::{ORPHAN_SECS, SHORTEST_SECS, State, Timeouts, idle_secs};

/// Whom masqueraded packets are for and whom they come from: what shares one range of ports.
pub type PortSpace<A> = (A, Be16, u8, A);

/// When it is.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// `CLOCK_MONOTONIC` in seconds.
    pub secs: u32,
    /// The tables are nearly full.
    pub pressed: bool,
    /// When flows are forgotten.
    pub timeouts: Timeouts,
    /// What flows that began before have led until now is not counted.
    pub from_secs: u32,
}

/// What a pass has counted.
#[derive(Debug)]
pub struct Counts<A> {
    /// Of `flows_*`.
    pub established: TableCounts,
    /// Of `half_open_*`.
    pub half_open: TableCounts,
    /// Flows of `flows_*` that are not answered yet and were left there.
    pub unanswered: u64,
    /// Entries that were taken out because their UDP flow's backend is gone.
    pub stale_removed: u64,
    /// Ports in use.
    pub ports: HashMap<PortSpace<A>, u32>,
    /// Flows that each backend has, by its id and generation.
    pub by_backend: HashMap<(u32, u32), u64>,
    /// What flows have led that no pass before has counted.
    pub usage: HashMap<Led, account::Found>,
}

/// What a pass has counted in one table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TableCounts {
    /// Entries that were looked at.
    pub entries: u64,
    /// Flows, by their OPEN entries: those that are answered count for `flows_*`, wherever they
    /// are, and the others for `half_open_*`.
    pub flows: u64,
    /// Entries that were taken out.
    pub removed: u64,
}

impl TableCounts {
    /// Entries that are left; too few by those that went before they were looked at.
    pub const fn left(&self) -> u64 {
        self.entries.saturating_sub(self.removed)
    }
}

impl<A> Counts<A> {
    const fn of(&mut self, table: Table) -> &mut TableCounts {
        match table {
            Table::Established => &mut self.established,
            Table::HalfOpen => &mut self.half_open,
        }
    }

    /// Entries that were taken out.
    pub const fn removed(&self) -> u64 {
        self.established.removed + self.half_open.removed
    }
}

impl<A> Default for Counts<A> {
    fn default() -> Self {
        Self {
            established: TableCounts::default(),
            half_open: TableCounts::default(),
            unanswered: 0,
            stale_removed: 0,
            ports: HashMap::new(),
            by_backend: HashMap::new(),
            usage: HashMap::new(),
        }
    }
}

/// Why a flow is over.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Over {
    /// Nobody used it for too long, or both sides closed it.
    Idle,
    /// UDP, and its backend is gone.
    Stale,
}

/// The sweep of one family.
pub struct Sweep<A> {
    counts: Counts<A>,
    account: Account,
    /// The batch at work; kept for its memory.
    rows: Vec<(FlowKey<A>, Flow<A>)>,
}

impl<A> Default for Sweep<A> {
    fn default() -> Self {
        Self { counts: Counts::default(), account: Account::default(), rows: Vec::new() }
    }
}

impl<A: Address> Sweep<A> {
    /// Judge the next batch of a table. True: it was the last one.
    pub fn step<R: FlowRows<A>>(
        &mut self,
        rows: &R,
        table: Table,
        cursor: &mut R::Cursor,
        now: Now,
    ) -> Result<bool> {
        let mut batch = take(&mut self.rows);
        batch.clear();
        let done = rows.step(table, cursor, |key, flow| batch.push((key, flow)))?;
        let (counts, account) = (&mut self.counts, &mut self.account);
        let mut judge = Judge { rows, table, now, counts, account };
        let judged = batch.iter().try_for_each(|(key, flow)| judge.entry(key, flow));
        self.rows = batch;
        judged.map(|()| done)
    }

    /// A pass is over: what was counted in it.
    pub fn take_counts(&mut self) -> Counts<A> {
        self.account.end_pass();
        take(&mut self.counts)
    }
}

#[cfg(test)]
impl<A> Sweep<A> {
    /// Entries whose bytes are remembered.
    pub fn remembered(&self) -> usize {
        self.account.len()
    }
}

/// Judges entries of one table.
struct Judge<'a, A, R> {
    rows: &'a R,
    table: Table,
    now: Now,
    counts: &'a mut Counts<A>,
    account: &'a mut Account,
}

/// An entry and where it is.
struct Found<A> {
    table: Table,
    key: FlowKey<A>,
    flow: Flow<A>,
}

impl<A: Address, R: FlowRows<A>> Judge<'_, A, R> {
    fn entry(&mut self, key: &FlowKey<A>, flow: &Flow<A>) -> Result<()> {
        self.counts.of(self.table).entries += 1;
        self.account(self.table, key, flow);
        if flow.role == role::UNMASQ {
            let space = (key.source, key.source_port, key.protocol, key.destination);
            *self.counts.ports.entry(space).or_default() += 1;
        }
        if flow.role == role::OPEN {
            self.counts.of(self.table.by_state(flow.bits)).flows += 1;
            self.counts.unanswered += self.is_unanswered_established(flow);
            *self.counts.by_backend.entry(row_of(flow)).or_default() += 1;
        }
        // Most entries were used lately: nothing else need be asked about them.
        let idle = idle_secs(self.now.secs, flow.last_used_secs);
        let is_udp = key.protocol == Protocol::Udp as u8;
        if idle < SHORTEST_SECS && !(is_udp && flow.role == role::OPEN) {
            return Ok(());
        }
        match flow.role {
            role::OPEN if self.over(key, flow)?.is_some() => self.remove_flow(key, flow),
            role::OPEN => Ok(()),
            role::REPLY
                if idle >= self.orphan_secs(key, flow) && self.is_lone_reply(key, flow)? =>
            {
                self.remove(&Found { table: self.table, key: *key, flow: *flow })
            }
            role::MASQ if idle >= ORPHAN_SECS && self.is_lone_masq(key)? => {
                self.remove(&Found { table: self.table, key: *key, flow: *flow })
            }
            role::UNMASQ if idle >= ORPHAN_SECS && self.is_lone_unmasq(key, flow)? => {
                self.remove(&Found { table: self.table, key: *key, flow: *flow })
            }
            _ => Ok(()),
        }
    }

    /// Count what is new about an entry.
    fn account(&mut self, table: Table, key: &FlowKey<A>, flow: &Flow<A>) {
        let state = table.by_state(flow.bits);
        let new = self.account.look(state, key, flow, self.now.from_secs);
        if new != Usage::default() && flow.service != NO_SERVICE {
            let found = self.counts.usage.entry(Led::of(key, flow)).or_default();
            found.usage += new;
            if flow.role == role::OPEN {
                found.row = Some(row_of(flow));
            }
        }
    }

    /// An entry, wherever it is: flows move from one table to the other.
    fn find(&self, key: &FlowKey<A>) -> Result<Option<Found<A>>> {
        for table in [Table::Established, Table::HalfOpen] {
            if let Some(flow) = self.rows.flow(table, key)? {
                return Ok(Some(Found { table, key: *key, flow }));
            }
        }
        Ok(None)
    }

    /// Whether the flow of an OPEN entry is over, and why.
    fn over(&self, key: &FlowKey<A>, open: &Flow<A>) -> Result<Option<Over>> {
        let reply = self.find(&open.reply_key(key))?.map(|found| found.flow);
        let reply = reply.filter(|reply| reply.role == role::REPLY);
        let answered = reply.map_or(0, |reply| reply.seen);
        let last_used = reply.map_or(0, |reply| reply.last_used_secs).max(open.last_used_secs);
        let table = self.table.by_state(open.bits);
        let state = State::of(key.protocol, table, open.seen, answered);
        let timeout = state.timeout_secs(key.protocol, self.now.pressed, &self.now.timeouts);
        if idle_secs(self.now.secs, last_used) >= timeout {
            return Ok(Some(Over::Idle));
        }
        // The kernel would choose another backend at the next packet, if there is one.
        let can_be_stale = key.protocol == Protocol::Udp as u8 && open.service != NO_SERVICE;
        let is_stale = can_be_stale && self.is_backend_gone(open)?;
        Ok(is_stale.then_some(Over::Stale))
    }

    fn is_backend_gone(&self, open: &Flow<A>) -> Result<bool> {
        let kept = state::CLUSTER | state::LOCAL | state::SERVING;
        let backend = self.rows.backend(open.backend_or_device)?;
        Ok(!backend.is_some_and(|row| row.is_usable(open.generation_or_ack, kept)))
    }

    /// Take out all entries of the flow that is opened by this one, if it is over at this very
    /// moment.
    ///
    /// OPEN first: without it, the next packet makes a new flow, in the table of those that were
    /// not answered.
    fn remove_flow(&mut self, key: &FlowKey<A>, open: &Flow<A>) -> Result<()> {
        let others = self.others(key, open)?;
        let Some(now) = self.rows.flow(self.table, key)? else {
            return Ok(());
        };
        if now.role != role::OPEN || now.since_secs != open.since_secs {
            return Ok(());
        }
        let Some(why) = self.over(key, &now)? else {
            return Ok(());
        };
        self.account(self.table, key, &now);
        let reply = others.iter().find(|found| found.flow.role == role::REPLY);
        let state = self.table.by_state(now.bits);
        let is_unanswered = |reply: &Found<A>| is_unanswered(state, key, reply.flow.seen);
        if now.service != NO_SERVICE && reply.is_some_and(is_unanswered) {
            self.counts.usage.entry(Led::of(key, &now)).or_default().usage.failed += 1;
        }
        let before = self.counts.removed();
        self.rows.remove(self.table, key)?;
        self.counts.of(self.table).removed += 1;
        let unanswered = self.is_unanswered_established(&now);
        self.counts.unanswered = self.counts.unanswered.saturating_sub(unanswered);
        others.iter().try_for_each(|found| self.remove(found))?;
        if why == Over::Stale {
            self.counts.stale_removed += self.counts.removed() - before;
        }
        Ok(())
    }

    /// The other entries of the flow.
    fn others(&self, key: &FlowKey<A>, open: &Flow<A>) -> Result<Vec<Found<A>>> {
        let mut others = Vec::new();
        others.extend(self.find(&open.reply_key(key))?);
        if open.bits & bits::MASQUERADE != 0
            && let Some(masq) = self.find(&open.masq_key(key))?
        {
            if masq.flow.port.get() != 0 {
                others.extend(self.find(&masq.flow.unmasq_key(&masq.key))?);
            }
            others.push(masq);
        }
        Ok(others)
    }

    /// Take out an entry, unless it was used or has become another's since it was found.
    fn remove(&mut self, found: &Found<A>) -> Result<()> {
        if self.rows.flow(found.table, &found.key)? == Some(found.flow) {
            self.account(found.table, &found.key, &found.flow);
            self.rows.remove(found.table, &found.key)?;
            self.counts.of(found.table).removed += 1;
        }
        Ok(())
    }

    /// How long a REPLY entry without its OPEN entry is kept: nothing can be said by one side
    /// alone.
    fn orphan_secs(&self, key: &FlowKey<A>, reply: &Flow<A>) -> u32 {
        let table = self.table.by_state(reply.bits);
        let state = State::of(key.protocol, table, 0, reply.seen);
        state.timeout_secs(key.protocol, self.now.pressed, &self.now.timeouts).min(ORPHAN_SECS)
    }

    /// 1 if so.
    fn is_unanswered_established(&self, open: &Flow<A>) -> u64 {
        let is_established = matches!(self.table, Table::Established);
        u64::from(is_established && self.table.is_half_open(open.bits))
    }

    fn is_lone_reply(&self, key: &FlowKey<A>, reply: &Flow<A>) -> Result<bool> {
        let open = self.find(&reply.open_key(key))?;
        let is_its = |open: &Found<A>| {
            open.flow.role == role::OPEN && open.flow.reply_key(&open.key) == *key
        };
        Ok(!open.is_some_and(|open| is_its(&open)))
    }

    fn is_lone_masq(&self, key: &FlowKey<A>) -> Result<bool> {
        let reply = self.find(&key.answer(key.side))?;
        Ok(!reply.is_some_and(|reply| {
            reply.flow.role == role::REPLY && reply.flow.bits & bits::MASQUERADE != 0
        }))
    }

    fn is_lone_unmasq(&self, key: &FlowKey<A>, unmasq: &Flow<A>) -> Result<bool> {
        let masq = self.find(&masq_key(unmasq, key))?;
        let is_its = |masq: &Found<A>| {
            masq.flow.role == role::MASQ && masq.flow.unmasq_key(&masq.key) == *key
        };
        Ok(!masq.is_some_and(|masq| is_its(&masq)))
    }
}

/// The backend of an OPEN entry: its id and the id's generation.
const fn row_of<A>(open: &Flow<A>) -> (u32, u32) {
    (open.backend_or_device, open.generation_or_ack)
}

/// The key of the MASQ entry, given an UNMASQ entry and its key.
const fn masq_key<A: Address>(unmasq: &Flow<A>, key: &FlowKey<A>) -> FlowKey<A> {
    FlowKey {
        source: unmasq.address,
        destination: key.source,
        source_port: unmasq.port,
        destination_port: key.source_port,
        protocol: key.protocol,
        side: side::EGRESS,
        pad: 0,
    }
}
