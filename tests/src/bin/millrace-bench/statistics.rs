//! Medians and quartiles: what a noisy machine allows to say.

use serde::Serialize;

/// Median and quartiles.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Quartiles {
    /// A quarter lies below.
    pub low: f64,
    /// Half lie below.
    pub median: f64,
    /// A quarter lies above.
    pub high: f64,
}

impl Quartiles {
    /// Of some values; zeroes of none.
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |quarter: usize| {
            let index = (values.len().saturating_sub(1) * quarter).div_ceil(4);
            values.get(index).copied().unwrap_or_default()
        };
        Self { low: at(1), median: at(2), high: at(3) }
    }

    /// `median [low, high]`.
    pub fn text(&self, digits: usize) -> String {
        let Self { low, median, high } = self;
        format!("{median:.digits$} [{low:.digits$}, {high:.digits$}]")
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
}
