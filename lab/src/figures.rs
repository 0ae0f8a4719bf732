//! Computes percentiles of a latency sample.

use serde::Serialize;

/// Holds percentiles in nanoseconds.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) samples: usize,
    pub(crate) min_ns: u64,
    pub(crate) p50_ns: u64,
    pub(crate) p99_ns: u64,
    pub(crate) p999_ns: u64,
    pub(crate) max_ns: u64,
}

impl Percentiles {
    /// Computes the percentiles of all `values`; zeros if there are none.
    pub(crate) fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        Self::by_rank(values.len(), |rank| values.get(rank).copied().unwrap_or(0))
    }

    /// Computes the percentiles of `samples` values. `at` returns the value of a rank; rank 0 is the minimum.
    pub(crate) fn by_rank(samples: usize, at: impl Fn(usize) -> u64) -> Self {
        let part = |part: f64| at((samples.saturating_sub(1) as f64 * part).round() as usize);
        Self {
            samples,
            min_ns: part(0.0),
            p50_ns: part(0.5),
            p99_ns: part(0.99),
            p999_ns: part(0.999),
            max_ns: part(1.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Percentiles;

    #[test]
    fn of_a_thousand_and_of_none() {
        let of = Percentiles::of((1..=1001).rev().collect());
        assert_eq!((of.min_ns, of.p50_ns, of.p99_ns, of.p999_ns, of.max_ns), (1, 501, 991, 1000, 1001));
        assert_eq!(Percentiles::of(vec![]).samples, 0);
    }
}
