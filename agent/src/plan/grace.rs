//! What is free again, but not at once.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_common::address::Family;
use millrace_common::backend::V6_PLACES;
use millrace_common::frontend::SlotRange;

use super::outcome::Map;

/// How long what was freed is not given to anybody else. A program in the kernel that read a row
/// before it changed finishes in microseconds; seconds leave room for a preempted one.
pub const GRACE: Duration = Duration::from_secs(5);

/// Something that no row names any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Freed {
    /// A service id, and the rows its names had.
    Service(u32, u32),
    /// A backend id.
    BackendV4(u32),
    /// A backend id.
    BackendV6(u32),
    /// A block of slots.
    Slots(SlotRange),
    /// So many rows.
    SourcesV4(u32),
    /// So many rows.
    SourcesV6(u32),
}

impl Freed {
    const fn map(self) -> Map {
        match self {
            Self::Service(..) => Map::Services,
            Self::BackendV4(_) | Self::BackendV6(_) => Map::Backends,
            Self::Slots(_) => Map::Slots,
            Self::SourcesV4(_) => Map::SourcesV4,
            Self::SourcesV6(_) => Map::SourcesV6,
        }
    }
    const fn rows(self) -> u32 {
        match self {
            Self::Slots(range) => range.count,
            Self::Service(_, rows) | Self::SourcesV4(rows) | Self::SourcesV6(rows) => rows,
            Self::BackendV4(_) => 1,
            Self::BackendV6(_) => V6_PLACES,
        }
    }
}

/// Freed things, in the order in which they come free.
#[derive(Default)]
pub(super) struct Quarantine {
    queue: VecDeque<(Duration, Freed)>,
    /// Found free when the maps were read back; when they became so is not known.
    recovered: Vec<Freed>,
    /// Rows held, by map.
    held: [u32; 5],
    /// Of backends those of IPv6.
    held_v6: u32,
}

impl Quarantine {
    /// Hold what was freed now.
    pub(super) fn hold(&mut self, freed: Freed, now: Duration) {
        self.count(freed, u32::saturating_add);
        self.queue.push_back((now, freed));
    }

    /// Hold what was freed at a time nobody knows: it counts as freed at the first
    /// [`release`](Self::release).
    pub(super) fn hold_recovered(&mut self, freed: Freed) {
        self.count(freed, u32::saturating_add);
        self.recovered.push(freed);
    }

    /// What has been held for long enough.
    pub(super) fn release(&mut self, now: Duration) -> Vec<Freed> {
        let recovered = std::mem::take(&mut self.recovered);
        self.queue.extend(recovered.into_iter().map(|freed| (now, freed)));
        let mut released = Vec::new();
        while let Some((since, freed)) = self.queue.front().copied() {
            if now.saturating_sub(since) < GRACE {
                break;
            }
            self.queue.pop_front();
            self.count(freed, u32::saturating_sub);
            released.push(freed);
        }
        released
    }

    /// Rows of a map that are held.
    pub(super) fn held(&self, map: Map) -> u32 {
        self.held.get(map as usize).copied().unwrap_or_default()
    }

    /// Backends of a family that are held.
    pub(super) fn held_backends(&self, family: Family) -> u32 {
        match family {
            Family::V4 => self.held(Map::Backends).saturating_sub(self.held_v6),
            Family::V6 => self.held_v6 / V6_PLACES,
        }
    }

    fn count(&mut self, freed: Freed, change: fn(u32, u32) -> u32) {
        // Frontends, the last two maps, are never held: their keys are not ours to choose.
        let held = &mut self.held[freed.map() as usize];
        *held = change(*held, freed.rows());
        if matches!(freed, Freed::BackendV6(_)) {
            self.held_v6 = change(self.held_v6, freed.rows());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_freed_comes_back_after_the_grace_period_in_order() {
        let at = Duration::from_secs;
        let mut quarantine = Quarantine::default();
        quarantine.hold_recovered(Freed::Service(9, 1));
        quarantine.hold(Freed::BackendV4(1), at(10));
        assert_eq!(quarantine.release(at(14)), []);
        quarantine.hold(Freed::Slots(SlotRange { first: 4, count: 3 }), at(14));
        assert_eq!(quarantine.held(Map::Slots), 3);
        assert_eq!(quarantine.release(at(15)), [Freed::BackendV4(1)]);
        let rest = [Freed::Service(9, 1), Freed::Slots(SlotRange { first: 4, count: 3 })];
        assert_eq!(quarantine.release(at(19)), rest);
        assert_eq!(quarantine.held(Map::Slots), 0);
    }
}
