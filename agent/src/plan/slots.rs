//! The slots array, handed out in contiguous blocks.

use std::collections::{BTreeMap, BTreeSet};

use millrace_common::frontend::SlotRange;

/// Free slots: best fit, neighbours joined.
pub(super) struct Slots {
    /// Count of each free block by its first slot.
    by_first: BTreeMap<u32, u32>,
    /// (count, first) of each free block.
    by_count: BTreeSet<(u32, u32)>,
    free: u32,
}

impl Slots {
    /// An array of which all is free.
    pub(super) fn new(count: u32) -> Self {
        let mut slots = Self { by_first: BTreeMap::new(), by_count: BTreeSet::new(), free: 0 };
        slots.put_back(SlotRange { first: 0, count });
        slots
    }

    /// Slots that are free, in however many pieces.
    pub(super) const fn free(&self) -> u32 {
        self.free
    }

    /// A block of `count` slots, cut from the smallest that has room.
    pub(super) fn take(&mut self, count: u32) -> Option<SlotRange> {
        let (room, first) = self.by_count.range((count, 0)..).next().copied()?;
        self.remove(first, room);
        self.insert(first + count, room - count);
        Some(SlotRange { first, count })
    }

    /// Take exactly this block; false if any of it is taken already or does not exist.
    pub(super) fn reserve(&mut self, range: SlotRange) -> bool {
        let Some(end) = range.first.checked_add(range.count) else {
            return false;
        };
        let around = self.by_first.range(..=range.first).next_back();
        let Some((first, room)) = around.map(|(first, room)| (*first, *room)) else {
            return false;
        };
        if first + room < end {
            return false;
        }
        self.remove(first, room);
        self.insert(first, range.first - first);
        self.insert(end, first + room - end);
        true
    }

    /// The block is free again.
    pub(super) fn put_back(&mut self, range: SlotRange) {
        let SlotRange { mut first, mut count } = range;
        if let Some((before, room)) = self.by_first.range(..first).next_back()
            && before + room == first
        {
            let (before, room) = (*before, *room);
            self.remove(before, room);
            first = before;
            count += room;
        }
        if let Some(room) = self.by_first.get(&(first + count)).copied() {
            self.remove(first + count, room);
            count += room;
        }
        self.insert(first, count);
    }

    fn insert(&mut self, first: u32, count: u32) {
        if count > 0 {
            self.by_first.insert(first, count);
            self.by_count.insert((count, first));
            self.free += count;
        }
    }

    fn remove(&mut self, first: u32, count: u32) {
        self.by_first.remove(&first);
        self.by_count.remove(&(count, first));
        self.free -= count;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    const CAPACITY: u32 = 64;

    #[test]
    fn the_smallest_block_that_has_room_is_cut() {
        let mut slots = Slots::new(10);
        let [a, b, c] = [3, 2, 5].map(|count| slots.take(count).unwrap());
        slots.put_back(a);
        slots.put_back(c);
        assert_eq!(slots.take(3), Some(SlotRange { first: 0, count: 3 }));
        assert_eq!(slots.take(6), None, "8 are free in no piece of 6");
        slots.put_back(b);
        assert_eq!(slots.take(7), Some(SlotRange { first: 3, count: 7 }), "neighbours were joined");
        assert_eq!((slots.free(), slots.take(1)), (0, None));
    }

    proptest! {
        #[test]
        fn blocks_never_overlap_and_all_comes_back(
            steps in prop::collection::vec((any::<bool>(), 1..12_u32, any::<Index>()), 1..200)
        ) {
            let mut slots = Slots::new(CAPACITY);
            let mut taken: Vec<SlotRange> = Vec::new();
            for (take, count, which) in steps {
                if take {
                    taken.extend(slots.take(count));
                } else if !taken.is_empty() {
                    slots.put_back(taken.swap_remove(which.index(taken.len())));
                }
                let mut used = vec![false; CAPACITY as usize];
                for index in taken.iter().flat_map(|r| r.first..r.first + r.count) {
                    prop_assert!(!std::mem::replace(&mut used[index as usize], true));
                }
                let free = used.iter().filter(|used| !**used).count();
                prop_assert_eq!(slots.free() as usize, free);
                let longest = used.split(|used| *used).map(<[bool]>::len).max().unwrap_or(0);
                let largest = slots.by_count.last().map_or(0, |(count, _)| *count);
                prop_assert_eq!(largest as usize, longest);
                let mut again = Slots::new(CAPACITY);
                prop_assert!(taken.iter().all(|range| again.reserve(*range)));
                prop_assert_eq!(&again.by_first, &slots.by_first);
                prop_assert!(taken.iter().all(|range| !again.reserve(*range)));
            }
        }
    }
}
