//! Medians and quartiles: what a noisy machine allows to say. And random numbers with a seed.

use serde::{Deserialize, Serialize};

/// Median and quartiles.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Quartiles {
    /// A quarter lies below.
    pub low: f64,
    /// Half lie below.
    pub median: f64,
    /// A quarter lies above.
    pub high: f64,
}

impl Quartiles {
    /// Of some values; zeroes of none. Four decimals are more than any of them is worth.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| {
            let index = (values.len().saturating_sub(1) * quarter).div_ceil(4);
            rounded(values.get(index).copied().unwrap_or_default())
        };
        Self { low: at(1), median: at(2), high: at(3) }
    }

    /// `median [low, high]`.
    pub fn text(&self, digits: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.digits$} [{low:.digits$}, {high:.digits$}]")
    }
}

/// The value that so many of a hundred do not exceed.
pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1) - 1;
    rounded(sorted.get(rank).copied().unwrap_or_default())
}

/// To four decimals.
pub fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// xorshift64: good enough to defeat caches, and the same again for the same seed.
pub struct Random(u64);

impl Random {
    /// A sequence of its own for each seed.
    pub fn new(seed: u64) -> Self {
        // Multiplied, or small seeds would begin alike; odd, because zero stays zero.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quartiles_of_a_hundred_numbers() {
        let quartiles = Quartiles::of((0..=100).rev().map(f64::from).collect());
        assert_eq!(quartiles, Quartiles { low: 25.0, median: 50.0, high: 75.0 });
        assert_eq!(Quartiles::of(Vec::new()).median, 0.0);
    }

    #[test]
    fn the_99th_of_a_hundred_is_not_the_worst() {
        let values: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&values, 99), 99.0);
        assert_eq!(percentile(&values, 50), 50.0);
        assert_eq!(percentile(&[7.0], 99), 7.0);
        assert_eq!(percentile(&[], 50), 0.0);
    }

    #[test]
    fn a_seed_gives_its_numbers_again_and_another_one_others() {
        let numbers = |seed| {
            let mut random = Random::new(seed);
            (0..8).map(|_| random.below(1000)).collect::<Vec<_>>()
        };
        assert_eq!(numbers(3), numbers(3));
        assert_ne!(numbers(3), numbers(4));
        assert!(numbers(3).iter().all(|number| *number < 1000));
    }
}
