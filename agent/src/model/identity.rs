//! Which of several objects of one name it is, and which of two is older: in a few bytes each.

/// Digits of a uid: those of a UUID.
const UID_DIGITS: usize = 32;
/// Digits of a time: year, month, day, hour, minute, second.
const TIME_DIGITS: usize = 14;

/// When an object was created, in an order. Unknown is youngest: it must win nothing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Age(u64);

impl Default for Age {
    fn default() -> Self {
        Self(u64::MAX)
    }
}

impl Age {
    /// Of an RFC 3339 time in UTC, as the API prints it.
    pub(super) fn of(text: &str) -> Self {
        let digits = || text.bytes().filter(u8::is_ascii_digit);
        if digits().count() != TIME_DIGITS || !text.ends_with('Z') {
            return Self::default();
        }
        Self(digits().fold(0, |time, digit| time * 10 + u64::from(digit - b'0')))
    }
}

/// A uid as a number; 0 if it is not a UUID.
pub(super) fn uid(text: &str) -> u128 {
    let digits = || text.chars().filter(|c| *c != '-');
    if digits().count() != UID_DIGITS {
        return 0;
    }
    let add = |uid: u128, digit: char| Some(uid << 4 | u128::from(digit.to_digit(16)?));
    digits().try_fold(0, add).unwrap_or(0)
}

/// The uid that [`uid`] has read.
pub(super) fn text(uid: u128) -> String {
    let hex = format!("{uid:032x}");
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_come_back_and_others_are_nothing() {
        let id = "0f8fad5b-d9cb-469f-a165-70867728950e";
        assert_eq!(text(uid(id)), id);
        let odd = ["zf8fad5b-d9cb-469f-a165-70867728950e", "+f8fad5b-d9cb-469f-a165-70867728950e"];
        for other in ["", "uid-12", "0f8fad5b"].into_iter().chain(odd) {
            assert_eq!(uid(other), 0, "{other}");
        }
    }

    #[test]
    fn older_is_less_and_unknown_is_youngest() {
        let times =
            ["1999-12-31T23:59:59Z", "2026-01-02T03:04:05Z", "2026-01-02T03:04:06Z", "", "soon"];
        let ages = times.map(Age::of);
        assert!(ages.is_sorted(), "{ages:?}");
        assert_eq!(ages[3], ages[4]);
        assert_eq!(Age::of("2026-01-02T03:04:05+01:00"), Age::default());
    }
}
