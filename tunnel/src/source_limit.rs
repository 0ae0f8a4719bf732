//! A limit for each source of handshakes, used under load only. Its memory is fixed: sources that fall into the same
//! place share a limit.

use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use siphasher::sip::SipHasher13;

use crate::entropy::{EntropyError, random};

/// Places, 16 bytes each.
const PLACES: usize = 8_192;
/// Handshake messages per second of one source (the kernel's `PACKETS_PER_SECOND`).
const PER_SECOND: u32 = 20;
/// Messages at once (the kernel's `PACKETS_BURSTABLE`).
const BURST: u32 = 5;

pub(crate) struct SourceLimit {
    key: [u64; 2],
    start: Instant,
    /// For each place: the time since `start` until which its messages are paid for.
    paid_until: Box<[Duration]>,
}

impl SourceLimit {
    pub(crate) fn new(now: Instant) -> Result<Self, EntropyError> {
        let [first, second] = [random()?, random()?].map(u64::from_ne_bytes);
        Ok(Self { key: [first, second], start: now, paid_until: vec![Duration::ZERO; PLACES].into() })
    }

    /// Whether this source may send one more message now.
    pub(crate) fn admits(&mut self, source: SocketAddr, now: Instant) -> bool {
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        match source.ip().to_canonical() {
            IpAddr::V4(v4) => hasher.write_u32(v4.to_bits()),
            // A customer has a /64.
            IpAddr::V6(v6) => hasher.write_u64((v6.to_bits() >> 64) as u64),
        }
        let place = &mut self.paid_until[hasher.finish() as usize % PLACES];
        let (cost, elapsed) = (Duration::from_secs(1) / PER_SECOND, now.saturating_duration_since(self.start));
        let paid = (*place).max(elapsed) + cost;
        let admitted = paid <= elapsed + cost * BURST;
        if admitted {
            *place = paid;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn source_has_a_burst_and_then_a_rate() {
        let start = Instant::now();
        let mut limit = SourceLimit::new(start).unwrap();
        let source: SocketAddr = "192.0.2.1:5".parse().unwrap();
        let admitted = (0..100).filter(|_| limit.admits(source, start)).count();
        assert_eq!(admitted, BURST as usize);
        let within = |limit: &mut SourceLimit, ms| {
            (0..ms).filter(|ms| limit.admits(source, start + Duration::from_millis(*ms))).count()
        };
        assert_eq!(within(&mut limit, 1_000), 19, "20 a second, of which the first is not yet due");
    }
}
