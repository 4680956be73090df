//! How many flows may begin among the established ones. Pure.

/// The part of a table that flows which are not answered may have: one of so many entries is theirs
/// for each flow, of which a masqueraded one takes four.
const PART: u32 = 16;

/// A family's table of established flows, at the end of a pass.
#[derive(Clone, Copy, Debug)]
pub struct Stand {
    /// Entries there is room for.
    pub size: u32,
    /// It is nearly full.
    pub is_tight: bool,
    /// Flows in it that are not answered.
    pub unanswered: u64,
    /// How many more there might have been when the pass began.
    pub left_before: i64,
    /// And now.
    pub left_now: i64,
}

impl Stand {
    /// How many more there may be from now on. What has begun during the pass may have been counted
    /// or not, and is taken for not counted: there are never more than the part that is theirs.
    pub fn left(&self) -> i64 {
        if self.is_tight {
            return 0;
        }
        let all = i64::from(self.size / PART);
        let unanswered = i64::try_from(self.unanswered).unwrap_or(i64::MAX);
        let begun = self.left_before.saturating_sub(self.left_now).max(0);
        all.saturating_sub(unanswered).saturating_sub(begun).clamp(0, all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_answered_and_what_has_just_begun_is_taken_off() {
        let empty =
            Stand { size: 1600, is_tight: false, unanswered: 0, left_before: 0, left_now: 0 };
        let lefts = [
            (empty, 100),
            (Stand { is_tight: true, ..empty }, 0),
            (Stand { unanswered: 30, ..empty }, 70),
            (Stand { unanswered: 30, left_before: 100, left_now: 90, ..empty }, 60),
            (Stand { left_before: 50, left_now: 90, ..empty }, 100),
            (Stand { unanswered: 101, ..empty }, 0),
            (Stand { unanswered: u64::MAX, left_before: i64::MIN, left_now: i64::MAX, ..empty }, 0),
            (Stand { left_before: i64::MAX, left_now: i64::MIN, ..empty }, 0),
            (Stand { size: 15, ..empty }, 0),
        ];
        for (stand, left) in lefts {
            assert_eq!(stand.left(), left, "{stand:?}");
        }
    }
}
