//! Counts of service ports over time, for a bounded number of them.
//!
//! A counter must not go down, or its rate shows what never was. So who has series of its own keeps
//! them as long as it lives, and who came when there was no room stays among the others.

use std::cmp::Reverse;
use std::collections::HashMap;

use millrace_common::service::ServiceRow;
use millrace_common::traffic::Traffic;

/// Service ports that have series of their own, at most; the rest is one sum. Two series each.
pub const SERVICE_PORTS_MAX: usize = 1000;

/// What was counted up to the last reading.
#[derive(Default)]
pub(super) struct Ledger {
    own: HashMap<u32, (ServiceRow, Traffic)>,
    others: HashMap<u32, Traffic>,
    rest: Traffic,
}

impl Ledger {
    /// Take in a reading: service ports that have had traffic. `name` looks one up; nothing: the
    /// port is gone.
    pub(super) fn update<E>(
        &mut self,
        traffic: Vec<(u32, Traffic)>,
        mut name: impl FnMut(u32) -> Result<Option<ServiceRow>, E>,
    ) -> Result<(), E> {
        let mut own = HashMap::with_capacity(self.own.len());
        let mut others = HashMap::with_capacity(self.others.len());
        let mut new = Vec::new();
        for (id, now) in traffic {
            if let Some((row, before)) = self.own.get(&id) {
                // Its id may have been given to another.
                match name(id)? {
                    Some(row_now) if row_now == *row && grew(*before, now) => {
                        own.insert(id, (row_now, now));
                    }
                    Some(_) => new.push((id, now)),
                    None => {}
                }
                continue;
            }
            match self.others.get(&id) {
                Some(before) if grew(*before, now) => {
                    self.rest.opened += now.opened - before.opened;
                    self.rest.failed += now.failed - before.failed;
                    others.insert(id, now);
                }
                _ => new.push((id, now)),
            }
        }
        (self.own, self.others) = (own, others);
        // The busiest first, which matters after a start.
        new.sort_by_key(|(id, now)| (Reverse(now.opened.saturating_add(now.failed)), *id));
        for (id, now) in new {
            if self.own.len() >= SERVICE_PORTS_MAX {
                self.rest.opened += now.opened;
                self.rest.failed += now.failed;
                self.others.insert(id, now);
            } else if let Some(row) = name(id)? {
                self.own.insert(id, (row, now));
            }
        }
        Ok(())
    }

    /// Those with series of their own.
    pub(super) fn own(&self) -> impl Iterator<Item = &(ServiceRow, Traffic)> {
        self.own.values()
    }

    /// All others in one, if there ever were any.
    pub(super) fn rest(&self) -> Option<Traffic> {
        (self.rest != Traffic::default()).then_some(self.rest)
    }
}

const fn grew(before: Traffic, now: Traffic) -> bool {
    now.opened >= before.opened && now.failed >= before.failed
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn traffic(opened: u64) -> Traffic {
        Traffic { opened, failed: 0 }
    }

    fn named(id: u32) -> Result<Option<ServiceRow>, ()> {
        Ok(ServiceRow::new("shop", &format!("s{id}"), "", 6))
    }

    fn sum(ledger: &Ledger) -> u64 {
        let own: u64 = ledger.own().map(|(_, traffic)| traffic.opened).sum();
        own + ledger.rest().map_or(0, |rest| rest.opened)
    }

    #[test]
    fn the_busiest_get_their_own_series_and_nothing_is_lost() {
        let count = SERVICE_PORTS_MAX as u32 + 10;
        let mut ledger = Ledger::default();
        ledger.update((1..=count).map(|id| (id, traffic(id.into()))).collect(), named).unwrap();
        assert_eq!(ledger.own().count(), SERVICE_PORTS_MAX);
        assert!(ledger.own().all(|(_, traffic)| traffic.opened > 10));
        assert_eq!(ledger.rest(), Some(traffic((1..=10).sum())));
        assert_eq!(sum(&ledger), u64::from(count * (count + 1) / 2));
    }

    #[test]
    fn nothing_ever_goes_down() {
        let count = SERVICE_PORTS_MAX as u32 + 2;
        let mut ledger = Ledger::default();
        let first: Vec<_> =
            (1..=count).map(|id| (id, traffic(100 - u64::from(id.min(99))))).collect();
        ledger.update(first.clone(), named).unwrap();
        let rest = ledger.rest().unwrap().opened;
        // A service goes: there is room, and yet none of the others moves.
        let later = first[1..].iter().map(|(id, t)| (*id, traffic(t.opened + 1))).collect();
        ledger.update(later, named).unwrap();
        assert_eq!(ledger.own().count(), SERVICE_PORTS_MAX - 1);
        assert_eq!(ledger.rest().unwrap().opened, rest + 2);
    }

    #[test]
    fn an_id_that_is_given_to_another_begins_anew() {
        let mut ledger = Ledger::default();
        ledger.update(vec![(1, traffic(50))], named).unwrap();
        let other = |_: u32| Ok::<_, ()>(ServiceRow::new("shop", "other", "", 6));
        ledger.update(vec![(1, traffic(60))], other).unwrap();
        let own: Vec<_> = ledger.own().collect();
        assert_eq!((own[0].0.name(), own[0].1), ("other", traffic(60)));
        ledger.update(vec![(1, traffic(2))], other).unwrap();
        assert_eq!(ledger.own().next().unwrap().1, traffic(2));
        ledger.update(vec![(1, traffic(3))], |_| Ok::<_, ()>(None)).unwrap();
        assert_eq!(ledger.own().count(), 0, "it is gone");
    }
}
