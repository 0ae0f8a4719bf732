//! Limits each source prefix, in memory that does not grow.
//!
//! The table is set-associative: a keyed hash of the prefix selects a set. Seven buckets of a set have an owner each;
//! the eighth is shared by all prefixes without a bucket. A table that evicts a used bucket would give its owner a full
//! one at the next packet, so an attacker that forces evictions would have no limit. Three rules prevent this:
//!
//! 1. Only a **full** bucket goes to another prefix. A full bucket equals an unused one, so nothing is lost. Of several
//!    full buckets, the least recently used one goes.
//! 2. If no bucket is full, a new prefix uses the **shared** bucket, which has the same rate and burst.
//! 3. A new prefix's own bucket starts with the level of the shared one, not full, so used tokens stay used.
//!
//! So a prefix never has more tokens than a permanent bucket of its own would have: in any time `t` at most
//! `burst + rate * t` pass. All prefixes together pass at most `8 * sets * (burst + rate * t)`. The cost: if all seven
//! owners of a set sent within the fill time of their buckets, new prefixes in that set share one rate. Each table has
//! another hash key, so nobody can choose addresses of one set.

use siphasher::sip::SipHasher13;

use super::bucket::{Bucket, Limit};
use oxide::packet::Endpoint;

/// Number of owned buckets per set.
const WAYS: usize = 7;

/// Holds one set in four cache lines; a known source uses two of them.
#[derive(Clone)]
#[repr(align(64))]
struct Set {
    /// Hashes of the owners; 0 is no owner.
    tags: [u64; WAYS],
    /// Fills the cache line.
    _unused: u64,
    owned: [Bucket; WAYS],
    shared: Bucket,
}

const _: () = assert!(size_of::<Set>() == 256);

/// Selects the bits of an address that identify a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefixes {
    v4: u128,
    v6: u128,
}

impl Prefixes {
    /// Selects the first `ipv4` bits of an IPv4 address, at most 32, and the first `ipv6` bits of an IPv6 address, at most
    /// 128.
    #[must_use]
    pub const fn new(ipv4: u8, ipv6: u8) -> Self {
        Self { v4: leading(96 + if ipv4 < 32 { ipv4 } else { 32 }), v6: leading(ipv6) }
    }

    #[inline]
    fn of(self, end: &Endpoint) -> u128 {
        let mask = if end.is_ipv4() { self.v4 } else { self.v6 };
        u128::from_be_bytes(end.address) & mask
    }
}

/// Returns a mask of the upper `bits` bits.
const fn leading(bits: u8) -> u128 {
    match bits {
        0 => 0,
        1..128 => u128::MAX << (128 - bits as u32),
        _ => u128::MAX,
    }
}

/// Limits each source prefix. [`PrefixLimiter::new`] allocates all memory.
pub struct PrefixLimiter {
    sets: Vec<Set>,
    limit: Limit,
    prefixes: Prefixes,
    hasher: SipHasher13,
    /// Packets that used a shared bucket.
    shared_bucket: u64,
}

impl PrefixLimiter {
    /// Returns true if limit, prefixes and size are equal, so that buckets can be inherited.
    pub(super) fn is_like(&self, other: &Self) -> bool {
        self.limit == other.limit && self.prefixes == other.prefixes && self.sets.len() == other.sets.len()
    }

    /// Makes a table for at least `sources` prefixes. `key` must be secret and random.
    #[must_use]
    pub fn new(limit: Limit, prefixes: Prefixes, sources: u32, key: [u64; 2]) -> Self {
        let full = limit.full(0);
        let set = Set { tags: [0; WAYS], _unused: 0, owned: [full; WAYS], shared: full };
        Self {
            sets: vec![set; (sources as usize).div_ceil(WAYS).max(1)],
            limit,
            prefixes,
            hasher: SipHasher13::new_with_keys(key[0], key[1]),
            shared_bucket: 0,
        }
    }

    /// Returns true if a packet of `bytes` bytes from (or to) `end` may pass, and takes its tokens.
    pub fn take(&mut self, end: &Endpoint, now_ns: u64, bytes: u16) -> bool {
        let hash = self.hasher.hash(&self.prefixes.of(end).to_be_bytes());
        let limit = self.limit;
        // The upper bits of the product spread evenly over any number of sets.
        let at = (u128::from(hash) * self.sets.len() as u128) >> 64;
        let Some(set) = self.sets.get_mut(at as usize) else { return false };
        // A hash of 0 shares a bucket with a hash of 1: two prefixes of 2^64.
        match set.bucket(hash.max(1), &limit, now_ns) {
            Some(bucket) => limit.take(bucket, now_ns, bytes),
            None => {
                self.shared_bucket += 1;
                limit.take(&mut set.shared, now_ns, bytes)
            }
        }
    }

    /// Returns the number of packets that used a shared bucket. A high number means a table that is too small or a flood
    /// from forged addresses.
    #[must_use]
    pub fn shared_bucket(&self) -> u64 {
        self.shared_bucket
    }

    /// Returns the memory of the table, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.sets.capacity() * size_of::<Set>()
    }
}

impl Set {
    /// Returns the bucket of `tag`; assigns one if it has none and one is free.
    fn bucket(&mut self, tag: u64, limit: &Limit, now_ns: u64) -> Option<&mut Bucket> {
        if let Some(at) = self.tags.iter().position(|&other| other == tag) {
            return self.owned.get_mut(at);
        }
        let lookup = self.tags.iter_mut().zip(&mut self.owned);
        let free = lookup.filter(|(owner, bucket)| **owner == 0 || limit.is_full(**bucket, now_ns));
        let (owner, bucket) = free.min_by_key(|(owner, bucket)| (**owner != 0, bucket.used_ns()))?;
        *owner = tag;
        *bucket = limit.at(self.shared, now_ns);
        Some(bucket)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bucket::Rate;
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn end(address: u128) -> Endpoint {
        Endpoint { address: address.to_be_bytes(), port: 1 }
    }

    fn limit(per_second: u64, burst: u64) -> Limit {
        Limit { packets: Rate::new(per_second, burst), bytes: Rate::UNLIMITED }
    }

    fn table(limit: Limit, sources: u32) -> PrefixLimiter {
        PrefixLimiter::new(limit, Prefixes::new(32, 64), sources, [1, 2])
    }

    #[test]
    fn prefixes_share_and_families_do_not_mix() {
        let limit = limit(1, 1);
        let mut sources = PrefixLimiter::new(limit, Prefixes::new(24, 56), 1024, [1, 2]);
        let mut first = |text: &str| {
            let at: std::net::SocketAddr = text.parse().unwrap_or_else(|_| ([0, 0, 0, 0], 0).into());
            sources.take(&at.into(), 0, 60)
        };
        assert!(first("192.0.2.1:1"));
        assert!(!first("192.0.2.255:2"));
        assert!(first("192.0.3.1:1"));
        assert!(first("[2001:db8::1]:1"));
        assert!(!first("[2001:db8:0:ff::1]:1"));
        assert!(first("[2001:db8:0:100::1]:1"));
        for bits in 0..=128 {
            assert_eq!(leading(bits).leading_ones(), u32::from(bits));
            assert_eq!(leading(bits).count_ones(), u32::from(bits));
        }
    }

    proptest! {
        /// With many prefixes in one set, no prefix gets more than a permanent bucket of its own would give. With at most
        /// seven prefixes each gets exactly that.
        #[test]
        fn forgotten_prefix_gets_no_extra_tokens(
            rate in 1u64..2000, burst in 1u64..6, crowd in 1u128..40,
            steps in prop::collection::vec((any::<u16>(), prop_oneof![Just(0u64), 0u64..3_000_000, 0u64..2_000_000_000]), 1..400),
        ) {
            let limit = limit(rate, burst);
            let mut sources = table(limit, 1);
            prop_assert_eq!(sources.sets.len(), 1);
            let mut ideal: HashMap<u128, Bucket> = HashMap::new();
            let mut now = 0;
            for (who, wait) in steps {
                now += wait;
                let who = u128::from(who) % crowd;
                let own = ideal.entry(who).or_insert(limit.full(0));
                let passed = sources.take(&end((who + 1) << 64), now, 60);
                if crowd <= WAYS as u128 {
                    prop_assert_eq!(passed, limit.take(own, now, 60));
                } else if passed {
                    prop_assert!(limit.take(own, now, 60), "{} got more than its bucket", who);
                }
            }
            prop_assert!(crowd > WAYS as u128 || sources.shared_bucket() == 0);
        }
    }

    /// Simulates an attack: use up a burst, evict the bucket with forged addresses, use up the burst again.
    #[test]
    fn forged_source_flood_creates_no_new_bucket() {
        let limit = limit(10, 5);
        let mut sources = table(limit, 64);
        let (mut passed, mut forged) = (0, 0u128);
        let second = 1_000_000_000;
        for round in 0..1000 {
            let now = round * second / 100;
            passed += (0..5).filter(|_| sources.take(&end(7 << 64), now, 60)).count();
            for _ in 0..500 {
                forged += 1;
                let _ = sources.take(&end((1 << 100) + (forged << 64)), now, 60);
            }
        }
        assert!(passed <= 5 + 10 * 10, "{passed} passed in ten seconds");
        assert!(sources.shared_bucket() > 400_000);
    }

    /// Memory does not grow, and all prefixes together stay below the table's bound.
    #[test]
    fn ten_million_sources() {
        let limit = limit(100, 10);
        let mut sources = table(limit, 1024);
        let bytes = sources.memory_bytes();
        let mut passed = 0u64;
        let second = 1_000_000_000u64;
        let many: u128 = if cfg!(miri) { 10_000 } else { 10_000_000 };
        for n in 1..=many {
            let now = n as u64 * 100;
            passed += u64::from(sources.take(&end(n << 64), now, 60));
        }
        let sets = sources.sets.len() as u64;
        assert_eq!((sources.memory_bytes(), sets), (bytes, 147));
        let bound = 8 * sets * (10 + (100 * many as u64 * 100).div_ceil(second));
        assert!(passed <= bound, "{passed} of {bound}");
    }
}
