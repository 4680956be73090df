//! Ids of services and of backends, and rows that have none.

use std::collections::{BTreeSet, VecDeque};

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

/// Ids of backends, each with the number of endpoints it was given to.
pub(super) struct BackendIds {
    ids: Ids,
    /// By id; shorter than the ids that exist.
    generations: Vec<u32>,
}

impl BackendIds {
    /// For a map of so many rows; row 0 is never used.
    pub(super) const fn new(rows: u32) -> Self {
        Self { ids: Ids::new(rows), generations: Vec::new() }
    }

    /// For a map of so many rows, of which `used` are given out or held, with their generations.
    pub(super) fn with(rows: u32, used: &[(u32, u32)]) -> Self {
        let taken = used.iter().map(|(id, _)| *id).collect();
        let mut ids = Self { ids: Ids::without(rows, &taken), generations: Vec::new() };
        for (id, generation) in used {
            *ids.generation_mut(*id) = *generation;
        }
        ids
    }

    pub(super) fn free(&self) -> u32 {
        self.ids.free()
    }

    /// An id, in a generation it never had.
    pub(super) fn take(&mut self) -> Option<u32> {
        let id = self.ids.take()?;
        let generation = self.generation_mut(id);
        // 0 marks rows that were never used.
        *generation = generation.checked_add(1).unwrap_or(1);
        Some(id)
    }

    pub(super) fn put_back(&mut self, id: u32) {
        self.ids.put_back(id);
    }

    /// The latest [`take`](Self::take) did not happen.
    pub(super) fn undo(&mut self, id: u32) {
        let generation = self.generation_mut(id);
        *generation = generation.wrapping_sub(1);
        self.ids.undo(id);
    }

    /// The generation of an id that was given out.
    pub(super) fn generation(&self, id: u32) -> u32 {
        self.generations.get(id as usize).copied().unwrap_or_default()
    }

    fn generation_mut(&mut self, id: u32) -> &mut u32 {
        let index = id as usize;
        if index >= self.generations.len() {
            self.generations.resize(index + 1, 0);
        }
        &mut self.generations[index]
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
        let mut ids = BackendIds::with(3, &[(1, 7)]);
        ids.put_back(1);
        let one = ids.take().unwrap();
        assert_eq!((one, ids.generation(one)), (1, 8));
        let two = ids.take().unwrap();
        assert_eq!((two, ids.generation(two)), (2, 1));
        ids.undo(two);
        let two = ids.take().unwrap();
        assert_eq!((two, ids.generation(two)), (2, 1));
        assert_eq!(ids.take(), None);
    }
}
