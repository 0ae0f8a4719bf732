//! Measures the load by handshakes.

use std::time::{Duration, Instant};

/// The load is high for this time after the last second in which it was.
const HIGH_FOR: Duration = Duration::from_secs(1);

/// Counts handshake messages per second.
pub(super) struct Load {
    per_second: u32,
    second: Instant,
    count: u32,
    high_until: Option<Instant>,
}

impl Load {
    pub(super) fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second, second: now, count: 0, high_until: None }
    }

    /// Counts a message. Returns whether the load is high.
    pub(super) fn count(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.count) = (now, 0);
        }
        self.count = self.count.saturating_add(1);
        if self.count > self.per_second {
            self.high_until = Some(now + HIGH_FOR);
        }
        self.is_high(now)
    }

    pub(super) fn is_high(&self, now: Instant) -> bool {
        self.high_until.is_some_and(|until| now < until)
    }
}
