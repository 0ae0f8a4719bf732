//! Reads the far side's table of times: 128 buckets of one nanosecond, then 64 for each octave, as `bucket` in
//! `bpf/count.bpf.c` defines them. The resolution of a time is 1.6 %.

use crate::figures::Percentiles;

/// Number of buckets in the table.
pub(crate) const BUCKETS: usize = 26 * 64 + 64;

/// Returns the middle of a bucket in nanoseconds.
fn middle(bucket: usize) -> u64 {
    let octave = bucket / 64;
    if octave < 2 {
        return bucket as u64;
    }
    let shift = octave - 1;
    let least = ((bucket - shift * 64) as u64) << shift;
    least + (1 << shift) / 2
}

/// Returns the percentiles of a table; zeros if it is empty.
pub(crate) fn percentiles(table: &[u64]) -> Percentiles {
    let samples: u64 = table.iter().sum();
    Percentiles::by_rank(samples as usize, |rank| {
        let mut upto = 0;
        let found = table.iter().position(|count| {
            upto += count;
            upto > rank as u64
        });
        found.map_or(0, middle)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Implements `bucket` of bpf/count.bpf.c.
    fn bucket(mut ns: u64) -> usize {
        let mut shift = 0;
        for (bits, by) in [(23, 16), (15, 8), (11, 4), (9, 2), (8, 1), (7, 1)] {
            if ns >> bits > 0 {
                ns >>= by;
                shift += by;
            }
        }
        shift * 64 + ns as usize
    }

    #[test]
    fn each_time_is_in_its_bucket() {
        for bits in 0..32 {
            for ns in [1_u64 << bits, (1 << bits) + (1 << bits) / 3, (2 << bits) - 1] {
                let found = middle(bucket(ns));
                assert!(found.abs_diff(ns) * 100 <= ns * 2, "{ns}: bucket {}, {found}", bucket(ns));
            }
        }
        assert_eq!(bucket(u64::from(u32::MAX)), BUCKETS - 1);
    }

    #[test]
    fn percentiles_of_a_table_and_of_none() {
        let mut table = vec![0; BUCKETS];
        (1..=101_u64).for_each(|ns| table[bucket(ns)] += 1);
        let of = percentiles(&table);
        assert_eq!((of.samples, of.min_ns, of.p50_ns, of.p99_ns, of.max_ns), (101, 1, 51, 100, 101));
        assert_eq!(percentiles(&[]).max_ns, 0);
    }
}
