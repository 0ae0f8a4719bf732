//! Implements token buckets with exact integer arithmetic.
//!
//! Levels are stored in billionths of a token. A rate per second then adds an integer number of them per nanosecond,
//! without division or rounding. A bucket decides exactly as one over the rational numbers.

/// Billionths per token.
const NANO: u64 = 1_000_000_000;
/// Largest bucket, tokens; its billionths fit 64 bits.
const MAX_BURST: u64 = u64::MAX / NANO;

/// Holds the rate and the size of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Tokens per second, which equals billionths of a token per nanosecond.
    per_second: u64,
    /// Size of the bucket, billionths of a token.
    burst: u64,
    /// Billionths that a token costs; 0 without a limit.
    token: u64,
}

impl Rate {
    /// Admits everything.
    pub const UNLIMITED: Self = Self { per_second: 0, burst: 0, token: 0 };

    /// Makes a rate of `per_second` tokens per second with a bucket of `burst` tokens, at most 18446744073.
    #[must_use]
    pub const fn new(per_second: u64, burst: u64) -> Self {
        let burst = if burst > MAX_BURST { MAX_BURST } else { burst };
        Self { per_second, burst: burst * NANO, token: NANO }
    }

    /// Makes a rate whose bucket holds the tokens of `burst_ms`, but at least `least`. 0 is no limit.
    #[must_use]
    pub const fn of(per_second: u64, burst_ms: u32, least: u64) -> Self {
        if per_second == 0 {
            return Self::UNLIMITED;
        }
        let burst = per_second.saturating_mul(burst_ms as u64) / 1000;
        Self::new(per_second, if burst > least { burst } else { least })
    }

    /// Returns the level `ns` later. The addition saturates only far above any burst.
    const fn filled(&self, level: u64, ns: u64) -> u64 {
        let level = level.saturating_add(self.per_second.saturating_mul(ns));
        if level < self.burst { level } else { self.burst }
    }
}

/// Limits one source in packets and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// Rate of packets.
    pub packets: Rate,
    /// Rate of bytes.
    pub bytes: Rate,
}

/// Holds the tokens of one source. Times are nanoseconds since any fixed moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bucket {
    /// Time of the stored levels.
    at_ns: u64,
    packets: u64,
    bytes: u64,
}

impl Limit {
    /// Admits everything.
    pub const UNLIMITED: Self = Self { packets: Rate::UNLIMITED, bytes: Rate::UNLIMITED };

    /// Returns true if there is no limit.
    #[must_use]
    pub fn is_unlimited(&self) -> bool {
        *self == Self::UNLIMITED
    }

    /// Returns a full bucket.
    #[must_use]
    pub const fn full(&self, now_ns: u64) -> Bucket {
        Bucket { at_ns: now_ns, packets: self.packets.burst, bytes: self.bytes.burst }
    }

    /// Returns the bucket at `now_ns`. A clock that steps back neither adds nor removes tokens.
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

    /// Returns true if the bucket is full at `now_ns`, which equals an unused one.
    #[must_use]
    pub fn is_full(&self, bucket: Bucket, now_ns: u64) -> bool {
        let Bucket { packets, bytes, .. } = self.at(bucket, now_ns);
        packets == self.packets.burst && bytes == self.bytes.burst
    }

    /// Returns true if a packet of `bytes` bytes may pass at `now_ns`.
    #[must_use]
    pub fn has(&self, bucket: Bucket, now_ns: u64, bytes: u16) -> bool {
        self.at(bucket, now_ns).without(self, bytes).is_some()
    }

    /// Takes the tokens of a packet of `bytes` bytes. Returns false and takes none if there are not enough.
    #[inline]
    pub fn take(&self, bucket: &mut Bucket, now_ns: u64, bytes: u16) -> bool {
        let now = self.at(*bucket, now_ns);
        let left = now.without(self, bytes);
        *bucket = left.unwrap_or(now);
        left.is_some()
    }
}

impl Bucket {
    /// Returns the time of the last use, ns.
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

    /// Returns the level of a bucket over the rational numbers, in billionths, from its definition: in every interval up
    /// to now, at most the burst and the tokens of the interval are used.
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
        /// At any time and for any packets, a packet passes exactly if the rational bucket has its tokens.
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

    /// Checks every millisecond for a day: the rate of three per second stays exact.
    #[test]
    fn frequent_checks_lose_no_tokens() {
        let day: u64 = 86_400;
        let limit = Limit { packets: Rate::new(3, 2), bytes: Rate::UNLIMITED };
        let (mut bucket, mut admitted, mut now) = (limit.full(0), 0, 0);
        while now <= day * NANO {
            admitted += u64::from(limit.take(&mut bucket, now, 100));
            now += 1_000_000;
        }
        assert_eq!(admitted, 3 * day + 2, "no token may be lost");
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
