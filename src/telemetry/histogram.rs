//! Counts values by powers of two, without allocation and with one addition for each value.

use serde::Serialize;

/// Counts values by powers of two in `N` buckets. Bucket *i* holds the values above 2^(i-1) and up to 2^i. The last one
/// also holds all larger values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<const N: usize> {
    buckets: [u64; N],
    sum: u64,
}

impl<const N: usize> Default for Histogram<N> {
    fn default() -> Self {
        Self { buckets: [0; N], sum: 0 }
    }
}

impl<const N: usize> Histogram<N> {
    /// Counts one value. It costs a subtraction, a count of leading zeros and two additions, less than 1 ns.
    #[inline]
    pub fn record(&mut self, value: u64) {
        let bucket = (u64::BITS - value.saturating_sub(1).leading_zeros()) as usize;
        self.buckets[bucket.min(N - 1)] += 1;
        self.sum = self.sum.wrapping_add(value);
    }

    /// Returns the number of counted values.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Returns the sum of the values.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// Returns the mean of the values, or `None` without values.
    #[must_use]
    pub fn mean(&self) -> Option<f64> {
        let count = self.count();
        (count > 0).then(|| self.sum as f64 / count as f64)
    }

    /// Returns the upper bound of each bucket and its number of values. The last bucket has no bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<u64>, u64)> + '_ {
        self.buckets.iter().enumerate().map(|(i, &n)| ((i + 1 < N).then(|| 1 << i), n))
    }

    /// Returns the value that the share `q` (0 to 1) of all values does not exceed, or `None` without values. Like
    /// Prometheus' `histogram_quantile`, it assumes an even distribution within a bucket.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        quantile(&self.buckets, q)
    }

    /// Adds another distribution to this one.
    pub fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *mine += theirs;
        }
        self.sum = self.sum.wrapping_add(other.sum);
    }
}

/// Computes [`Histogram::quantile`] from given counts: entry *i* counts the values of bucket *i*, up to 2^i.
#[must_use]
pub fn quantile(buckets: &[u64], q: f64) -> Option<f64> {
    let count: u64 = buckets.iter().sum();
    if count == 0 {
        return None;
    }
    let rank = q.clamp(0.0, 1.0) * count as f64;
    let mut below = 0.0;
    for (i, &n) in buckets.iter().take(64).enumerate() {
        let (n, upper) = (n as f64, (1u64 << i) as f64);
        if n > 0.0 && below + n >= rank {
            let lower = if i == 0 { 0.0 } else { upper / 2.0 };
            return Some(lower + (upper - lower) * ((rank - below) / n).clamp(0.0, 1.0));
        }
        below += n;
    }
    None
}

impl<const N: usize> Serialize for Histogram<N> {
    /// Writes `{"count", "sum", "le": {"64": 12}}`: non-empty buckets by their upper bound, `inf` last.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use serde::ser::SerializeStruct;
        let name = |bound: Option<u64>| bound.map_or_else(|| "inf".to_owned(), |bound| bound.to_string());
        let filled: std::collections::BTreeMap<_, _> =
            self.buckets().filter(|(_, n)| *n > 0).map(|(bound, n)| (name(bound), n)).collect();
        let mut out = serializer.serialize_struct("Histogram", 3)?;
        out.serialize_field("count", &self.count())?;
        out.serialize_field("sum", &self.sum)?;
        out.serialize_field("le", &filled)?;
        out.end()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn value_is_in_smallest_bucket_that_holds_it() {
        for (value, bucket) in [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (65, 7), (u64::MAX, 7)] {
            let mut histogram = Histogram::<8>::default();
            histogram.record(value);
            let at = histogram.buckets().position(|(_, n)| n == 1).unwrap();
            assert_eq!(at, bucket, "{value}");
            if let Some((Some(bound), _)) = histogram.buckets().nth(at) {
                assert!(value <= bound, "{value} {bound}");
            }
        }
        assert_eq!(Histogram::<8>::default().buckets().last(), Some((None, 0)));
    }

    #[test]
    fn quantiles_lie_in_their_bucket_and_grow() {
        let mut histogram = Histogram::<12>::default();
        assert_eq!((histogram.quantile(0.5), histogram.mean()), (None, None));
        for value in [10, 10, 10, 100, 1000] {
            histogram.record(value);
        }
        let at = |q| histogram.quantile(q).unwrap();
        assert!((8.0..=16.0).contains(&at(0.5)), "{}", at(0.5));
        assert!((512.0..=1024.0).contains(&at(0.99)), "{}", at(0.99));
        assert!(at(0.0) <= at(0.5) && at(0.5) <= at(0.8) && at(0.8) <= at(1.0));
        assert_eq!((histogram.count(), histogram.sum(), histogram.mean()), (5, 1130, Some(226.0)));
        let mut twice = histogram.clone();
        twice.merge(&histogram);
        assert_eq!((twice.count(), twice.sum()), (10, 2260));
        let json = serde_json::to_value(&histogram).unwrap();
        assert_eq!(json, serde_json::json!({ "count": 5, "sum": 1130, "le": { "16": 3, "128": 1, "1024": 1 } }));
    }
}
