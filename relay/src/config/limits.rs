//! Declares `[limits]`: rate limits per client network.

use serde::{Deserialize, Serialize};

use super::Problem;
use super::sections::LIMITS;

pub(super) const MAX_PACKETS_PER_S: u64 = 1_000_000_000;
/// Limits the byte rate to 100 Gbit/s; one second of it in billionths of a byte fits 64 bits.
pub(super) const MAX_BYTES_PER_S: u64 = 12_500_000_000;

/// Configures the rate limits of each client prefix on each queue. A rate of 0 is no limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct LimitsConfig {
    /// Packets per second from one prefix, up to 10^9.
    pub source_packets_per_s: u64,
    /// Bytes per second from one prefix, IP headers included, up to 12.5 * 10^9.
    pub source_bytes_per_s: u64,
    /// Packets per second to one prefix, up to 10^9.
    pub reply_packets_per_s: u64,
    /// Bytes per second to one prefix, IP headers included, up to 12.5 * 10^9.
    pub reply_bytes_per_s: u64,
    /// Size of a burst as a time at the limited rate, milliseconds, 1 to 1000; at least one packet and 4096 bytes.
    pub burst_ms: u32,
    /// Length of an IPv4 prefix that shares a limit, 8 to 32 bits.
    pub ipv4_prefix: u8,
    /// Length of an IPv6 prefix that shares a limit, 16 to 128 bits.
    pub ipv6_prefix: u8,
    /// Prefixes with their own limit at once, all queues together, 1024 to 16777216.
    pub sources: u32,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self {
            source_packets_per_s: 0,
            source_bytes_per_s: 0,
            reply_packets_per_s: 0,
            reply_bytes_per_s: 0,
            burst_ms: 1000,
            ipv4_prefix: 32,
            ipv6_prefix: 64,
            sources: 65_536,
        }
    }
}

impl LimitsConfig {
    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        let mut bounds = |name: &str, value: u64, least: u64, most: u64, remedy: &str| {
            if !(least..=most).contains(&value) {
                LIMITS.refuse(name, value, format!("write {name} = {remedy}"), problems);
            }
        };
        bounds("source_packets_per_s", self.source_packets_per_s, 0, MAX_PACKETS_PER_S, "0 for no limit");
        bounds("source_bytes_per_s", self.source_bytes_per_s, 0, MAX_BYTES_PER_S, "0 for no limit");
        bounds("reply_packets_per_s", self.reply_packets_per_s, 0, MAX_PACKETS_PER_S, "0 for no limit");
        bounds("reply_bytes_per_s", self.reply_bytes_per_s, 0, MAX_BYTES_PER_S, "0 for no limit");
        bounds("burst_ms", self.burst_ms.into(), 1, 1000, "1000");
        bounds("ipv4_prefix", self.ipv4_prefix.into(), 8, 32, "32");
        bounds("ipv6_prefix", self.ipv6_prefix.into(), 16, 128, "64");
        bounds("sources", self.sources.into(), 1024, 1 << 24, "65536");
    }
}
