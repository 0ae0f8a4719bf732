//! Token buckets in integers that lose nothing.
//!
//! Tokens are kept in billionths, so that a rate per second fills a whole number of them each
//! nanosecond: no division, no remainder, no rounding. A bucket says exactly what one over the rational
//! numbers would.

/// Billionths of a token in a token.
const NANO: u64 = 1_000_000_000;
/// Largest bucket, tokens: its billionths fit 64 bits.
const MAX_BURST: u64 = u64::MAX / NANO;

/// How fast tokens come, and how many are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens a second, which are billionths of a token a nanosecond.
    per_second: u64,
    /// Billionths of a token.
    burst: u64,
    /// Billionths that a token costs: none where there is no limit.
    token: u64,
}

impl Rate {
    /// Everything is admitted.
    pub const UNLIMITED: Self = Self { per_second: 0, burst: 0, token: 0 };

    /// `per_second` tokens a second, at most `burst` of them kept; `burst` is at most 18446744073.
    #[must_use]
    pub const fn new(per_second: u64, burst: u64) -> Self {
        let burst = if burst > MAX_BURST { MAX_BURST } else { burst };
        Self { per_second, burst: burst * NANO, token: NANO }
    }

    /// No limit for 0; else a bucket of as many tokens as come in `burst_ms`, but at least `least`.
    #[must_use]
    pub const fn of(per_second: u64, burst_ms: u32, least: u64) -> Self {
        if per_second == 0 {
            return Self::UNLIMITED;
        }
        let burst = per_second.saturating_mul(burst_ms as u64) / 1000;
        Self::new(per_second, if burst > least { burst } else { least })
    }

    /// The level `ns` later. Saturates only far above any burst.
    const fn filled(&self, level: u64, ns: u64) -> u64 {
        let level = level.saturating_add(self.per_second.saturating_mul(ns));
        if level < self.burst { level } else { self.burst }
    }
}

/// What one source may do: so many packets and so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Of packets.
    pub packets: Rate,
    /// Of bytes.
    pub bytes: Rate,
}

/// The tokens of one source. Time is nanoseconds since any moment before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    /// When the levels were right.
    at_ns: u64,
    packets: u64,
    bytes: u64,
}

impl Limit {
    /// No limit at all.
    pub const UNLIMITED: Self = Self { packets: Rate::UNLIMITED, bytes: Rate::UNLIMITED };

    /// Whether there is a limit.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::UNLIMITED
    }

    /// A full bucket.
    #[must_use]
    pub const fn full(&self, now_ns: u64) -> Bucket {
        Bucket { at_ns: now_ns, packets: self.packets.burst, bytes: self.bytes.burst }
    }

    /// The bucket as it is at `now_ns`. A clock that steps back adds nothing, and takes nothing.
    #[must_use]
    #[inline]
    pub const fn at(&self, bucket: Bucket, now_ns: u64) -> Bucket {
        let ns = now_ns.saturating_sub(bucket.at_ns);
        Bucket {
            at_ns: bucket.at_ns + ns,
            packets: self.packets.filled(bucket.packets, ns),
            bytes: self.bytes.filled(bucket.bytes, ns),
        }
    }

    /// Whether the bucket is full at `now_ns`: as good as one that never was used.
    #[must_use]
    pub fn is_full(&self, bucket: Bucket, now_ns: u64) -> bool {
        let Bucket { packets, bytes, .. } = self.at(bucket, now_ns);
        packets == self.packets.burst && bytes == self.bytes.burst
    }

    /// Whether a packet of `bytes` bytes may pass at `now_ns`.
    #[must_use]
    pub fn has(&self, bucket: Bucket, now_ns: u64, bytes: u16) -> bool {
        self.at(bucket, now_ns).without(self, bytes).is_some()
    }

    /// Takes the tokens of a packet of `bytes` bytes; `false`, and none taken, if they are not there.
    #[inline]
    pub fn take(&self, bucket: &mut Bucket, now_ns: u64, bytes: u16) -> bool {
        let now = self.at(*bucket, now_ns);
        let left = now.without(self, bytes);
        *bucket = left.unwrap_or(now);
        left.is_some()
    }
}

impl Bucket {
    /// When it was last asked, ns.
    pub(super) fn used_ns(self) -> u64 {
        self.at_ns
    }

    #[inline]
    fn without(self, limit: &Limit, bytes: u16) -> Option<Self> {
        // 65535 billion fit 64 bits.
        let packets = self.packets.checked_sub(limit.packets.token)?;
        let bytes = self.bytes.checked_sub(u64::from(bytes) * limit.bytes.token)?;
        Some(Self { packets, bytes, ..self })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Level of a bucket over the rational numbers, as a fraction of 10^9, from its definition and not
    /// by steps: over every interval up to now, no more goes out than the burst and what came in.
    fn rational(rate: Rate, now: u64, admitted: &[(u64, u64)]) -> i128 {
        let burst = i128::from(rate.burst);
        let mut out = 0;
        let mut level = burst;
        for &(then, cost) in admitted.iter().rev() {
            out += i128::from(cost) * i128::from(NANO);
            level = level.min(burst + i128::from(rate.per_second) * i128::from(now - then) - out);
        }
        level
    }

    fn rate() -> impl Strategy<Value = Rate> {
        let per_second = prop_oneof![1u64..10, 1u64..5000, 1u64..12_500_000_000];
        (per_second, prop_oneof![Just(65_535u64), 65_535u64..1 << 33, Just(u64::MAX)])
            .prop_map(|(per_second, burst)| Rate::new(per_second, burst))
    }

    proptest! {
        /// Whatever comes whenever, a packet passes exactly if the rational bucket has its tokens.
        #[test]
        fn admits_exactly_what_a_rational_bucket_admits(
            bytes in rate(),
            packets in (1u64..100_000, 1u64..50).prop_map(|(r, b)| Rate::new(r, b)),
            steps in prop::collection::vec(
                (prop_oneof![Just(0u64), 0u64..1000, 0u64..10_000_000_000, Just(1 << 62)], any::<u16>()), 1..120),
        ) {
            let limit = Limit { packets, bytes };
            let (mut now, mut bucket) = (0u64, limit.full(0));
            let (mut in_packets, mut in_bytes) = (Vec::new(), Vec::new());
            for (wait, length) in steps {
                now = now.saturating_add(wait);
                let wanted = rational(packets, now, &in_packets) >= i128::from(NANO)
                    && rational(bytes, now, &in_bytes) >= i128::from(length) * i128::from(NANO);
                prop_assert_eq!(limit.has(bucket, now, length), wanted);
                prop_assert_eq!(limit.take(&mut bucket, now, length), wanted);
                if wanted {
                    in_packets.push((now, 1));
                    in_bytes.push((now, u64::from(length)));
                }
                prop_assert_eq!(i128::from(bucket.packets), rational(packets, now, &in_packets));
                prop_assert_eq!(i128::from(bucket.bytes), rational(bytes, now, &in_bytes));
                prop_assert_eq!(limit.is_full(bucket, now),
                    bucket.packets == packets.burst && bucket.bytes == bytes.burst);
            }
        }
    }

    /// Asked at every odd moment, three a second are three a second, for a day.
    #[test]
    fn frequent_checks_lose_no_tokens() {
        let day: u64 = 86_400;
        let limit = Limit { packets: Rate::new(3, 2), bytes: Rate::UNLIMITED };
        let (mut bucket, mut admitted, mut now) = (limit.full(0), 0, 0);
        while now <= day * NANO {
            admitted += u64::from(limit.take(&mut bucket, now, 100));
            now += 1_000_000;
        }
        assert_eq!(admitted, 3 * day + 2, "with a token to spare, not one");
    }

    #[test]
    fn unlimited_bucket_and_clock_going_backwards() {
        let mut bucket = Limit::UNLIMITED.full(5);
        assert!((0..100).all(|_| Limit::UNLIMITED.take(&mut bucket, 5, u16::MAX)));
        let limit = Limit { packets: Rate::of(10, 100, 1), bytes: Rate::of(0, 100, 4096) };
        let mut bucket = limit.full(1_000_000_000);
        assert!(limit.take(&mut bucket, 1_000_000_000, 1));
        assert!(!limit.take(&mut bucket, 0, 1));
        assert!(!limit.take(&mut bucket, 1_099_999_999, 1));
        assert!(limit.take(&mut bucket, 1_100_000_000, 1));
        assert_eq!(Rate::of(1, 1, 4096).burst, 4096 * NANO);
        assert_eq!(Rate::of(12_500_000_000, 1000, 1).burst, 12_500_000_000 * NANO);
    }
}
