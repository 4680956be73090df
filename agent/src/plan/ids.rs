//! Ids of services and of backends, and rows that have none.

use std::collections::{BTreeSet, VecDeque};

use millrace_common::address::Family;
use millrace_common::backend::V6_PLACES;

/// Numbers from 1 up to an end. The one that has been free for longest comes first.
pub(super) struct Ids {
    /// The first that was never given out.
    next: u32,
    /// The first that does not exist.
    end: u32,
    free: VecDeque<u32>,
}

impl Ids {
    /// All of `1..end`.
    pub(super) const fn new(end: u32) -> Self {
        Self { next: 1, end, free: VecDeque::new() }
    }

    /// All of `1..end` but those given out or held.
    pub(super) fn without(end: u32, taken: &BTreeSet<u32>) -> Self {
        let next = taken.last().map_or(1, |last| last.saturating_add(1));
        let free = (1..next).filter(|id| !taken.contains(id)).collect();
        Self { next, end, free }
    }

    /// The first that was never given out.
    pub(super) const fn next(&self) -> u32 {
        self.next
    }

    /// Ids that can be taken.
    #[cfg(test)]
    pub(super) fn free(&self) -> u32 {
        let returned = u32::try_from(self.free.len()).unwrap_or(u32::MAX);
        self.end.saturating_sub(self.next).saturating_add(returned)
    }

    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(id) = self.free.pop_front() {
            return Some(id);
        }
        if self.next >= self.end {
            return None;
        }
        self.next += 1;
        Some(self.next - 1)
    }

    pub(super) fn put_back(&mut self, id: u32) {
        self.free.push_back(id);
    }

    /// The latest [`take`](Self::take) did not happen.
    pub(super) fn undo(&mut self, id: u32) {
        self.free.push_front(id);
    }
}

/// Ids of backends, each with the number of endpoints it was given to. Those of IPv4 begin at the
/// first place of the map and those of IPv6 at the last; between the two is what no backend ever
/// had. A place that had one family is not given to the other: whoever remembers an id reads
/// nothing but a backend of that family there.
pub(super) struct BackendIds {
    /// Places there are.
    places: u32,
    /// The first above those of IPv4.
    low: u32,
    /// The first of IPv6.
    high: u32,
    v4: Returned,
    v6: Returned,
}

/// One family's ids that were given out before.
#[derive(Default)]
struct Returned {
    /// The one that has been free for longest comes first.
    free: VecDeque<u32>,
    /// By the id's distance from where the family begins; shorter than the ids that exist.
    generations: Vec<u32>,
}

impl BackendIds {
    /// For a map of so many places; place 0 is never used.
    pub(super) fn new(places: u32) -> Self {
        let (v4, v6) = (Returned::default(), Returned::default());
        Self { places, low: 1, high: places, v4, v6 }
    }

    /// For a map of so many places, of which `v4` and `v6` are given out or held: ids in their
    /// order, with their generations.
    pub(super) fn with(places: u32, v4: &[(u32, u32)], v6: &[(u32, u32)]) -> Self {
        let mut ids = Self::new(places);
        ids.low = v4.last().map_or(1, |(id, _)| id.saturating_add(1));
        ids.high = v6.first().map_or(places, |(id, _)| *id);
        for (family, used) in [(Family::V4, v4), (Family::V6, v6)] {
            for (id, generation) in used {
                *ids.generation_mut(family, *id) = *generation;
            }
        }
        let is_used =
            |used: &[(u32, u32)], id| used.binary_search_by_key(&id, |(id, _)| *id).is_ok();
        ids.v4.free = (1..ids.low).filter(|id| !is_used(v4, *id)).collect();
        let of_v6 = (ids.high..places).filter(|id| id % V6_PLACES == 0 && id + 1 < places);
        ids.v6.free = of_v6.rev().filter(|id| !is_used(v6, *id)).collect();
        ids
    }

    /// How many backends of the family there is room for.
    pub(super) fn free(&self, family: Family) -> u32 {
        let returned = u32::try_from(self.returned(family).free.len()).unwrap_or(u32::MAX);
        let new = match family {
            Family::V4 => self.high.saturating_sub(self.low),
            Family::V6 => (self.high / V6_PLACES).saturating_sub(self.low.div_ceil(V6_PLACES)),
        };
        new.saturating_add(returned)
    }

    /// How many are given out or held.
    pub(super) fn given(&self, family: Family) -> u32 {
        let ever = match family {
            Family::V4 => self.low.saturating_sub(1),
            Family::V6 => (self.places / V6_PLACES).saturating_sub(self.high.div_ceil(V6_PLACES)),
        };
        let returned = u32::try_from(self.returned(family).free.len()).unwrap_or(u32::MAX);
        ever.saturating_sub(returned)
    }

    /// An id, in a generation it never had.
    pub(super) fn take(&mut self, family: Family) -> Option<u32> {
        let id = match self.returned_mut(family).free.pop_front() {
            Some(id) => id,
            None if self.free(family) == 0 => return None,
            None => self.take_new(family),
        };
        let generation = self.generation_mut(family, id);
        // 0 marks rows that were never used.
        *generation = generation.checked_add(1).unwrap_or(1);
        Some(id)
    }

    /// The next that never had a backend, of which there is one.
    const fn take_new(&mut self, family: Family) -> u32 {
        match family {
            Family::V4 => {
                self.low += 1;
                self.low - 1
            }
            Family::V6 => {
                self.high = (self.high / V6_PLACES - 1) * V6_PLACES;
                self.high
            }
        }
    }

    pub(super) fn put_back(&mut self, family: Family, id: u32) {
        self.returned_mut(family).free.push_back(id);
    }

    /// The latest [`take`](Self::take) did not happen.
    pub(super) fn undo(&mut self, family: Family, id: u32) {
        let generation = self.generation_mut(family, id);
        *generation = generation.wrapping_sub(1);
        let was_new = *generation == 0;
        match family {
            // Either family's again: else what did not fit would have taken it from the other.
            Family::V4 if was_new && id + 1 == self.low => self.low = id,
            Family::V6 if was_new && id == self.high => {
                // The last place of an odd number of them is too small for IPv6.
                let above = id + V6_PLACES;
                self.high = if above + 1 == self.places { self.places } else { above };
            }
            _ => self.returned_mut(family).free.push_front(id),
        }
    }

    /// The generation of an id that was given out.
    pub(super) fn generation(&self, family: Family, id: u32) -> u32 {
        let index = self.index(family, id);
        self.returned(family).generations.get(index).copied().unwrap_or_default()
    }

    fn generation_mut(&mut self, family: Family, id: u32) -> &mut u32 {
        let index = self.index(family, id);
        let generations = &mut self.returned_mut(family).generations;
        if index >= generations.len() {
            generations.resize(index + 1, 0);
        }
        &mut generations[index]
    }

    const fn index(&self, family: Family, id: u32) -> usize {
        match family {
            Family::V4 => id as usize,
            Family::V6 => (self.places.saturating_sub(id) / V6_PLACES) as usize,
        }
    }

    const fn returned(&self, family: Family) -> &Returned {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    const fn returned_mut(&mut self, family: Family) -> &mut Returned {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }
}

/// Rows of a map whose keys are not ours to choose.
pub(super) struct Room {
    rows: u32,
    used: u32,
}

impl Room {
    pub(super) const fn new(rows: u32) -> Self {
        Self { rows, used: 0 }
    }

    pub(super) const fn free(&self) -> u32 {
        self.rows.saturating_sub(self.used)
    }

    /// So many rows are used from now on, whether or not they fit.
    pub(super) const fn take(&mut self, rows: u32) {
        self.used = self.used.saturating_add(rows);
    }

    pub(super) const fn put_back(&mut self, rows: u32) {
        self.used = self.used.saturating_sub(rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_given_once_and_the_longest_free_first() {
        let mut ids = Ids::new(4);
        assert_eq!(
            [ids.take(), ids.take(), ids.take(), ids.take()],
            [Some(1), Some(2), Some(3), None]
        );
        ids.put_back(3);
        ids.put_back(1);
        assert_eq!(ids.free(), 2);
        assert_eq!(ids.take(), Some(3));
        ids.undo(3);
        assert_eq!([ids.take(), ids.take(), ids.take()], [Some(3), Some(1), None]);
    }

    #[test]
    fn recovered_ids_leave_the_gaps_free() {
        let mut ids = Ids::without(6, &BTreeSet::from([2, 4]));
        assert_eq!(ids.free(), 3);
        let taken: Vec<u32> = std::iter::from_fn(|| ids.take()).collect();
        assert_eq!(taken, [1, 3, 5]);
    }

    #[test]
    fn each_reuse_is_a_new_generation_and_an_undone_one_is_not() {
        let v4 = Family::V4;
        let mut ids = BackendIds::with(3, &[(1, 7)], &[]);
        ids.put_back(v4, 1);
        let one = ids.take(v4).unwrap();
        assert_eq!((one, ids.generation(v4, one)), (1, 8));
        let two = ids.take(v4).unwrap();
        assert_eq!((two, ids.generation(v4, two)), (2, 1));
        ids.undo(v4, two);
        let two = ids.take(v4).unwrap();
        assert_eq!((two, ids.generation(v4, two)), (2, 1));
        assert_eq!(ids.take(v4), None);
    }

    #[test]
    fn the_families_meet_and_never_share_a_place() {
        let [v4, v6] = [Family::V4, Family::V6];
        for places in 8..12_u32 {
            let mut ids = BackendIds::new(places);
            let of_v6 = std::iter::from_fn(|| ids.take(v6)).collect::<Vec<_>>();
            assert_eq!(of_v6.len() as u32, places / V6_PLACES - 1, "place 0 is nobody's");
            assert!(of_v6.iter().all(|id| id % V6_PLACES == 0 && *id > 0 && id + 1 < places));
            assert_eq!((ids.take(v4), ids.take(v4)), (Some(1), None));
            assert_eq!((ids.given(v4), ids.given(v6)), (1, places / V6_PLACES - 1));

            let mut ids = BackendIds::new(places);
            let four = [0; 4].map(|_| ids.take(v4).unwrap());
            assert_eq!(four, [1, 2, 3, 4]);
            assert_eq!(ids.free(v6), (places - 6) / V6_PLACES);
            while ids.take(v6).is_some() {}
            assert_eq!(ids.take(v4), Some(5));
            assert_eq!(ids.take(v4), None);
        }
    }

    #[test]
    fn what_did_not_fit_has_taken_nothing_from_the_other_family() {
        for places in 8..12_u32 {
            for (family, other) in [(Family::V4, Family::V6), (Family::V6, Family::V4)] {
                let mut ids = BackendIds::new(places);
                let first = ids.take(family).unwrap();
                ids.put_back(family, first);
                let before = [ids.free(family), ids.free(other)];
                let taken = std::iter::from_fn(|| ids.take(family)).collect::<Vec<_>>();
                assert_eq!(taken.len() as u32, before[0]);
                taken.iter().rev().for_each(|id| ids.undo(family, *id));
                assert_eq!([ids.free(family), ids.free(other)], before, "of {places}");
                let again = std::iter::from_fn(|| ids.take(family)).collect::<Vec<_>>();
                assert_eq!(again, taken);
            }
        }
    }

    #[test]
    fn both_families_come_back_with_their_gaps() {
        let [v4, v6] = [Family::V4, Family::V6];
        let mut ids = BackendIds::with(12, &[(1, 3), (3, 1)], &[(6, 2), (10, 9)]);
        assert_eq!((ids.given(v4), ids.given(v6)), (2, 2));
        assert_eq!((ids.free(v4), ids.free(v6)), (3, 2));
        assert_eq!((ids.generation(v4, 1), ids.generation(v6, 10)), (3, 9));
        assert_eq!([ids.take(v6), ids.take(v6), ids.take(v6)], [Some(8), Some(4), None]);
        assert_eq!([ids.take(v4), ids.take(v4)], [Some(2), None]);
        assert_eq!((ids.generation(v6, 6), ids.generation(v6, 4)), (2, 1));
    }
}
