//! Decides how often a failed actor restarts, and after which delay.
//!
//! The rule is that of Erlang/OTP's supervisors: at most `max_restarts` within any `window`. One more failure
//! exhausts the budget. The delay doubles with each restart within the window. Up to a quarter of it, drawn at
//! random, is subtracted, so that actors that fail together do not restart together. After a window without failures
//! the budget is full again. The code has no clock: the caller passes the time. A seed makes the random numbers
//! repeatable.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Limits restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Maximum number of restarts within any `window`.
    pub max_restarts: u32,
    /// Length of the window.
    pub window: Duration,
    /// Delay before the first restart.
    pub backoff_min: Duration,
    /// Maximum delay.
    pub backoff_max: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            max_restarts: 5,
            window: Duration::from_secs(60),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(5),
        }
    }
}

/// Answers a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Restart after this delay.
    RestartAfter(Duration),
    /// Do not restart.
    GiveUp {
        /// Number of restarts within the window before this failure.
        restarts: u32,
        /// Length of the policy's window.
        window: Duration,
    },
}

/// Tracks the restarts of one actor.
#[derive(Debug, Clone)]
pub struct RestartBudget {
    policy: RestartPolicy,
    /// Times of the failures that a restart answered, oldest first; at most `max_restarts`.
    spent: VecDeque<Instant>,
    random: u64,
}

impl RestartBudget {
    /// Creates a full budget.
    #[must_use]
    pub fn new(policy: RestartPolicy, seed: u64) -> Self {
        Self { policy, spent: VecDeque::new(), random: seed }
    }

    /// Decides about a failure at `now`. Time must not run backwards between calls.
    pub fn on_failure(&mut self, now: Instant) -> Decision {
        while self.spent.front().is_some_and(|&old| now.saturating_duration_since(old) >= self.policy.window) {
            self.spent.pop_front();
        }
        let restarts = u32::try_from(self.spent.len()).unwrap_or(u32::MAX);
        if restarts >= self.policy.max_restarts {
            return Decision::GiveUp { restarts, window: self.policy.window };
        }
        self.spent.push_back(now);
        Decision::RestartAfter(self.backoff(restarts))
    }

    /// Forgets all failures, because an operator requested the restart.
    pub fn reset(&mut self) {
        self.spent.clear();
    }

    fn backoff(&mut self, restarts: u32) -> Duration {
        let RestartPolicy { backoff_min: min, backoff_max: max, .. } = self.policy;
        let factor = 1u32.checked_shl(restarts).unwrap_or(u32::MAX);
        let full = min.saturating_mul(factor).min(max);
        let quarter_ns = u64::try_from((full / 4).as_nanos()).unwrap_or(u64::MAX - 1);
        let jitter = Duration::from_nanos(self.draw() % (quarter_ns + 1));
        // `max` has priority if a policy has `min` above `max`.
        (full - jitter).max(min).min(max)
    }

    /// Returns the next random number of SplitMix64 (Steele, Lea, Flood 2014), which is good enough to spread
    /// restarts.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
