//! Flows that are over are taken out of the tables, by and by.
//!
//! Nothing depends on it but room and speed: a packet is judged by what its flow's entries say, and
//! what was not answered makes room by itself. [`rules`] says when a flow is over, [`sweep`] takes
//! out what belongs to it, [`account`] knows what of the bytes it led is new, [`census`] counts
//! what is left and says when it gets tight, [`filter`] is what packets ask first, filled anew on
//! the way, [`room`] is what flows that are not answered have in the table of the established ones.
//! The [`Sweeper`] here goes through the tables in small steps, so that the loop it runs in is
//! never kept.

pub mod account;
pub mod census;
pub mod filter;
pub mod room;
pub mod rules;
pub mod sweep;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::io;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use millrace_common::address::{V4, V6};
use millrace_common::backend::Backend;
use millrace_common::flow::{Flow, FlowKey};
use millrace_common::packet::tables::Table;

use crate::bpf::flow_filter::FilterMemory;
use crate::bpf::flows::FlowStore;
use crate::bpf::store::Cursor;
use crate::plan::occupancy::MapRoom;
use crate::report::Condition;

use account::{Found, Led};
use census::Census;
use filter::{Noted, Refill};
use room::Stand;
use rules::Timeouts;
use sweep::{Counts, Sweep, TableCounts};

/// How long one step may take. Between two there are the loop's ticks of 250 ms, so this is the
/// part of a core that sweeping takes: 4 %. A pass over 262 144 entries needs some 200 ms in all.
const STEP: Duration = Duration::from_millis(10);
/// From the end of a pass to the begin of the next, when there is room.
const REST: Duration = Duration::from_secs(10);

/// The flow tables of one family, as the sweep needs them.
pub trait FlowRows<A> {
    /// Where the reading of a table stands.
    type Cursor: Default;
    /// An entry.
    fn flow(&self, table: Table, key: &FlowKey<A>) -> Result<Option<Flow<A>>>;
    /// Delete an entry; it need not be there.
    fn remove(&self, table: Table, key: &FlowKey<A>) -> Result<()>;
    /// A backend's row.
    fn backend(&self, id: u32) -> Result<Option<Backend<A>>>;
    /// Show the next entries, some thousands, and move the cursor. True: these were the last ones.
    fn step(
        &self,
        table: Table,
        cursor: &mut Self::Cursor,
        show: impl FnMut(FlowKey<A>, Flow<A>),
    ) -> Result<bool>;
    /// Entries there is room for.
    fn size(&self, table: Table) -> Result<u32>;
}

/// Goes through all tables, again and again.
#[derive(Default)]
pub struct Sweeper {
    /// Which of [`STAGES`] is next.
    stage: usize,
    cursor: Cursor,
    /// A pass is under way.
    passing: bool,
    /// What it fills the flow filter with; none: it does not.
    refill: Option<Refill<FilterMemory>>,
    /// What was left of each family's room when the pass began.
    room_before: [i64; 2],
    /// It was said that the filter cannot be filled.
    told_of_filter: bool,
    v4: Sweep<V4>,
    v6: Sweep<V6>,
    /// What the last whole pass found.
    census: Census,
    /// How long the present pass has worked, by family.
    took: [Duration; 2],
    /// A pass that was finished and that nobody has asked for yet.
    pass: Option<Pass>,
    /// When the last pass ended.
    ended: Option<Instant>,
    /// The last step failed.
    has_failed: bool,
    /// When it was made: flows from before were counted by whoever swept then.
    from_secs: u32,
    timeouts: Timeouts,
}

/// What one whole pass over the tables found.
#[derive(Clone, Debug, Default)]
pub struct Pass {
    /// IPv4.
    pub v4: FamilyPass,
    /// IPv6.
    pub v6: FamilyPass,
}

/// What it found of one family.
#[derive(Clone, Debug, Default)]
pub struct FamilyPass {
    /// `flows_*`.
    pub established: TablePass,
    /// `half_open_*`.
    pub half_open: TablePass,
    /// Entries that were taken out because their UDP flow's backend is gone.
    pub stale_removed: u64,
    /// Flows that each backend has, by its id and generation.
    pub by_backend: HashMap<(u32, u32), u64>,
    /// What flows have led since the pass before.
    pub usage: HashMap<Led, Found>,
    /// How long the pass worked, not counting the pauses.
    pub took: Duration,
}

/// What it found in one table.
#[derive(Clone, Copy, Debug, Default)]
pub struct TablePass {
    /// What was counted.
    pub counts: TableCounts,
    /// Entries there is room for.
    pub size: u32,
}

impl Pass {
    /// How full the tables were.
    pub fn rooms(&self) -> [MapRoom; 4] {
        let room = |name, table: TablePass| {
            let used = u32::try_from(table.counts.left()).unwrap_or(u32::MAX);
            MapRoom { name, used, size: table.size }
        };
        [
            room("flows_v4", self.v4.established),
            room("flows_v6", self.v6.established),
            room("half_open_v4", self.v4.half_open),
            room("half_open_v6", self.v6.half_open),
        ]
    }
}

impl FamilyPass {
    /// Entries that were taken out.
    pub const fn removed(&self) -> u64 {
        self.established.counts.removed + self.half_open.counts.removed
    }
}

/// A pass: every table of every family, those that never make room by themselves first.
const STAGES: [(Family, Table); 4] = [
    (Family::V4, Table::Established),
    (Family::V6, Table::Established),
    (Family::V4, Table::HalfOpen),
    (Family::V6, Table::HalfOpen),
];

#[derive(Clone, Copy)]
enum Family {
    V4,
    V6,
}

impl Sweeper {
    /// With what an operator has decided.
    pub fn new(timeouts: Timeouts) -> Self {
        // A clock that cannot be read is an error of every tick.
        Self { timeouts, from_secs: monotonic_secs().unwrap_or(0), ..Self::default() }
    }

    /// He has decided something else.
    pub const fn set_timeouts(&mut self, timeouts: Timeouts) {
        self.timeouts = timeouts;
    }

    /// Go on for [`STEP`] at most. True: there are other conditions than before.
    pub fn tick(&mut self, store: &FlowStore) -> bool {
        match self.proceed(store) {
            Ok(news) => {
                self.has_failed = false;
                news
            }
            Err(error) => {
                // The pass may have missed entries: the filter stays as it is.
                self.refill = None;
                // Once is enough to say, however many ticks it lasts.
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::error!("cannot sweep the flows, will retry: {error:#}");
                }
                false
            }
        }
    }

    fn proceed(&mut self, store: &FlowStore) -> Result<bool> {
        let rests = self.ended.is_some_and(|ended| ended.elapsed() < REST);
        if rests && self.stage == 0 && !self.census.is_tight() {
            return Ok(false);
        }
        let now_secs = monotonic_secs().context("read the clock")?;
        let begun = Instant::now();
        while begun.elapsed() < STEP {
            if self.step(store, now_secs)? {
                return self.finish(store);
            }
        }
        Ok(false)
    }

    /// One batch of entries. True: it was the last one of the pass.
    fn step(&mut self, store: &FlowStore, now_secs: u32) -> Result<bool> {
        let (family, table) = STAGES[self.stage];
        let pressed = self.census.is_tight();
        let at = sweep::Now {
            secs: now_secs,
            pressed,
            timeouts: self.timeouts,
            from_secs: self.from_secs,
        };
        let begun = Instant::now();
        if !std::mem::replace(&mut self.passing, true) {
            self.begin_refill(store);
            self.room_before = store.room()?;
        }
        let (refill, cursor) = (self.refill.as_ref(), &mut self.cursor);
        let done = match family {
            Family::V4 => self.v4.step(&Noted { rows: &store.v4, refill }, table, cursor, at)?,
            Family::V6 => self.v6.step(&Noted { rows: &store.v6, refill }, table, cursor, at)?,
        };
        self.took[family as usize] += begun.elapsed();
        if done {
            self.cursor = Cursor::default();
            self.stage += 1;
        }
        let over = self.stage == STAGES.len();
        if over {
            self.stage = 0;
            self.passing = false;
            if let Some(refill) = self.refill.take() {
                refill.end();
            }
        }
        Ok(over)
    }

    fn begin_refill(&mut self, store: &FlowStore) {
        self.refill = match store.filter() {
            Ok(row) => Some(Refill::begin(row)),
            Err(error) => {
                if !std::mem::replace(&mut self.told_of_filter, true) {
                    tracing::warn!("packets are slower, the flow filter is not kept: {error}");
                }
                None
            }
        };
    }

    /// Take stock.
    fn finish(&mut self, store: &FlowStore) -> Result<bool> {
        let before = std::mem::take(&mut self.census);
        let ports = store.masquerade_ports()?;
        let [took_v4, took_v6] = std::mem::take(&mut self.took);
        let (v4, v6) = (self.v4.take_counts(), self.v6.take_counts());
        self.set_room(store, [&v4.established, &v6.established], [v4.unanswered, v6.unanswered])?;
        self.census.add("IPv4", &v4, store.v4.size(Table::Established)?, ports);
        self.census.add("IPv6", &v6, store.v6.size(Table::Established)?, ports);
        self.pass = Some(Pass {
            v4: family_pass(v4, &store.v4, took_v4)?,
            v6: family_pass(v6, &store.v6, took_v6)?,
        });
        self.ended = Some(Instant::now());
        if self.census.removed > 0 {
            tracing::debug!(removed = self.census.removed, "flows swept");
        }
        Ok(before.conditions() != self.census.conditions())
    }

    /// Say anew how many flows may begin among the established ones.
    fn set_room(
        &self,
        store: &FlowStore,
        counts: [&TableCounts; 2],
        unanswered: [u64; 2],
    ) -> Result<()> {
        let now = store.room()?;
        let sizes = [store.v4.size(Table::Established)?, store.v6.size(Table::Established)?];
        let left = [Family::V4, Family::V6].map(|family| {
            let family = family as usize;
            let stand = Stand {
                size: sizes[family],
                is_tight: census::is_tight(counts[family].left(), sizes[family]),
                unanswered: unanswered[family],
                left_before: self.room_before[family],
                left_now: now[family],
            };
            stand.left()
        });
        Ok(store.set_room(left)?)
    }

    /// What the last pass found, if it was not asked for yet.
    pub const fn take_pass(&mut self) -> Option<Pass> {
        self.pass.take()
    }

    /// What gets tight.
    pub fn conditions(&self) -> Vec<Condition> {
        self.census.conditions()
    }
}

fn family_pass<A, R: FlowRows<A>>(
    counts: Counts<A>,
    rows: &R,
    took: Duration,
) -> Result<FamilyPass> {
    let established = rows.size(Table::Established)?;
    let half_open = rows.size(Table::HalfOpen)?;
    Ok(FamilyPass {
        established: TablePass { counts: counts.established, size: established },
        half_open: TablePass { counts: counts.half_open, size: half_open },
        stale_removed: counts.stale_removed,
        by_backend: counts.by_backend,
        usage: counts.usage,
        took,
    })
}

/// `CLOCK_MONOTONIC` in seconds: the clock of `bpf_ktime_get_ns`, by which entries are stamped.
pub fn monotonic_secs() -> io::Result<u32> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid clock and a live timespec.
    if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(time.tv_sec).map_err(io::Error::other)
}
