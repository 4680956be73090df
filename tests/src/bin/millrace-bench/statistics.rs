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

    /// By how much the median of so many values may miss the one of infinitely many, in 95 cases of
    /// 100: 1.96 of its standard errors of 1.2533 s / sqrt(n), when quartiles are 1.349 s apart, as
    /// those of a normal distribution (McGill, Tukey, Larsen: Variations of Box Plots, 1978).
    pub fn error_of_median(&self, count: u32) -> f64 {
        1.96 * 1.2533 / 1.349 * (self.high - self.low) / f64::from(count.max(1)).sqrt()
    }

    /// The same as a part of the median.
    pub fn relative_error(&self, count: u32) -> f64 {
        self.error_of_median(count) / self.median.abs().max(f64::MIN_POSITIVE)
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
    fn more_values_tell_more_of_their_median() {
        let quartiles = Quartiles { low: 90.0, median: 100.0, high: 110.0 };
        assert!((quartiles.error_of_median(4) - 18.21).abs() < 0.01);
        assert!((quartiles.error_of_median(100) - 3.642).abs() < 0.001);
        assert!((quartiles.relative_error(100) - 0.03642).abs() < 0.00001);
        assert_eq!(Quartiles { low: 5.0, median: 5.0, high: 5.0 }.error_of_median(1), 0.0);
    }

    /// Of 2000 samples of 21 numbers each, the error covers the true median in 95 of 100.
    #[test]
    fn the_error_is_what_it_says() {
        let mut random = Random::new(7);
        // Twelve uniform numbers add up to nearly a normal one.
        let mut normal = || (0..12).map(|_| random.below(1 << 20) as f64).sum::<f64>();
        let (truth, samples) = (6.0 * f64::from(1 << 20), 2000);
        let covered = (0..samples).filter(|_| {
            let quartiles = Quartiles::of((0..21).map(|_| normal()).collect());
            (quartiles.median - truth).abs() <= quartiles.error_of_median(21)
        });
        let share = covered.count() as f64 / f64::from(samples);
        assert!((0.91..=0.98).contains(&share), "{share}");
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
