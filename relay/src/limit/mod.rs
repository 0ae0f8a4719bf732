//! Limits the rates of each client prefix and of each entry.
//!
//! Queues share no state. A flow stays on one queue, so each queue applies the limit of a prefix separately. The
//! limit of an entry, whose clients are on all queues, is divided into equal shares.

mod bucket;
mod table;

pub use bucket::{Bucket, Limit, Rate};
pub use table::{PrefixLimiter, Prefixes};

use super::plan::mix;
use crate::config::{LimitsConfig, RelayConfig};
use oxide::packet::Endpoint;

/// Minimum size of a bucket, bytes: the largest packet.
const LEAST_BYTES: u64 = 4096;

/// Holds the configured rates.
#[derive(Debug, Clone)]
pub(super) struct LimitsPlan {
    config: LimitsConfig,
    /// Packets and bytes per second of each entry.
    entries: Vec<(u64, u64)>,
}

impl LimitsPlan {
    pub(super) fn new(config: &LimitsConfig, relays: &[RelayConfig]) -> Self {
        let entries = relays.iter().map(|relay| (relay.packets_per_s, relay.bytes_per_s)).collect();
        Self { config: config.clone(), entries }
    }

    /// Returns the limits of `queue`, one of `queues`; `None` if nothing is limited, so that no check runs.
    pub(super) fn of(&self, queue: u32, queues: u32, seed: u64) -> Option<Box<RateLimits>> {
        let Self { config, entries } = self;
        let both = |packets, bytes, burst_ms| Limit {
            packets: Rate::of(packets, burst_ms, 1),
            bytes: Rate::of(bytes, burst_ms, LEAST_BYTES),
        };
        let table = |packets, bytes, salt| {
            let limit = both(packets, bytes, config.burst_ms);
            let prefixes = Prefixes::new(config.ipv4_prefix, config.ipv6_prefix);
            let key = [mix(seed ^ salt), mix(mix(seed ^ salt))];
            (!limit.is_unlimited()).then(|| PrefixLimiter::new(limit, prefixes, config.sources / queues.max(1), key))
        };
        let share = |total| share(total, queue, queues);
        let entry = |&(packets, bytes)| {
            let limit = both(share(packets), share(bytes), config.burst_ms);
            (limit, limit.full(0))
        };
        let limits = RateLimits {
            sources: table(config.source_packets_per_s, config.source_bytes_per_s, 1),
            replies: table(config.reply_packets_per_s, config.reply_bytes_per_s, 2),
            entries: entries.iter().map(entry).collect(),
        };
        let any = limits.sources.is_some()
            || limits.replies.is_some()
            || limits.entries.iter().any(|(limit, _)| !limit.is_unlimited());
        any.then(|| Box::new(limits))
    }
}

/// Returns the share of `queue`: equal parts, one more for the first queues, and at least one, because zero means no
/// limit.
fn share(total: u64, queue: u32, queues: u32) -> u64 {
    let queues = u64::from(queues.max(1));
    let part = total / queues + u64::from(u64::from(queue) < total % queues);
    if total > 0 { part.max(1) } else { 0 }
}

/// Holds the limits of one queue. Times are nanoseconds since any fixed moment; bytes are those of the IP packet.
pub(super) struct RateLimits {
    sources: Option<PrefixLimiter>,
    replies: Option<PrefixLimiter>,
    entries: Vec<(Limit, Bucket)>,
}

impl RateLimits {
    /// Returns true if a packet from `client` to `entry` may pass, and takes its tokens.
    pub(super) fn admit(&mut self, client: &Endpoint, entry: u16, now_ns: u64, bytes: u16) -> bool {
        let Some((limit, bucket)) = self.entries.get_mut(usize::from(entry)) else { return false };
        // Check the entry's bucket before taking from the source's, so that a refusal costs neither of them tokens.
        limit.has(*bucket, now_ns, bytes)
            && self.sources.as_mut().is_none_or(|sources| sources.take(client, now_ns, bytes))
            && limit.take(bucket, now_ns, bytes)
    }

    /// Returns true if a packet to `client` may pass, and takes its tokens.
    pub(super) fn admit_reply(&mut self, client: &Endpoint, now_ns: u64, bytes: u16) -> bool {
        self.replies.as_mut().is_none_or(|replies| replies.take(client, now_ns, bytes))
    }

    /// Inherits the buckets of `former` with equal limits, so that a client gets no full bucket by making a handler fail.
    /// `entries` has the new index of each former entry. Tables move as a whole without a check: a half written bucket is
    /// a wrong level, but never more than a full bucket.
    pub(super) fn take_over(&mut self, former: &mut Self, entries: &[Option<u16>]) {
        let pairs = [(&mut self.sources, &mut former.sources), (&mut self.replies, &mut former.replies)];
        for (ours, theirs) in pairs {
            if let (Some(ours), Some(theirs)) = (ours, theirs)
                && ours.is_like(theirs)
            {
                std::mem::swap(ours, theirs);
            }
        }
        for ((limit, bucket), place) in former.entries.iter().zip(entries) {
            let ours = place.and_then(|at| self.entries.get_mut(usize::from(at)));
            if let Some((_, own)) = ours.filter(|(own, _)| own == limit) {
                *own = *bucket;
            }
        }
    }

    /// Returns the number of packets that used a shared bucket.
    pub(super) fn shared_bucket(&self) -> u64 {
        self.tables().map(PrefixLimiter::shared_bucket).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let entries = self.entries.capacity() * size_of::<(Limit, Bucket)>();
        entries + self.tables().map(PrefixLimiter::memory_bytes).sum::<usize>()
    }

    fn tables(&self) -> impl Iterator<Item = &PrefixLimiter> {
        self.sources.iter().chain(&self.replies)
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn shares_add_up() {
        for (total, queues) in [(10u64, 4u32), (1_000_000_007, 7), (64, 64), (0, 3)] {
            assert_eq!((0..queues).map(|queue| share(total, queue, queues)).sum::<u64>(), total);
        }
        assert_eq!(share(1, 3, 4), 1, "every queue has a limit");
    }
}
