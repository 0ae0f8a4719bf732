//! How often, and after what pause, something that failed is started again.
//!
//! As Erlang/OTP's supervisors: at most `max_restarts` within any `window`; one failure more and the budget
//! gives up. The pause doubles with each restart still within the window, less up to a quarter drawn at
//! random, so that workers felled together do not come back together. A quiet window forgets everything.
//! Pure: the caller brings the time, the seed makes the draw repeatable.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Limits of restarting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Restarts allowed within any `window`.
    pub max_restarts: u32,
    /// Length of the window.
    pub window: Duration,
    /// Pause before the first restart.
    pub backoff_min: Duration,
    /// Longest pause.
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

/// What to do about a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start again after this pause.
    RestartAfter(Duration),
    /// Do not start again.
    GiveUp {
        /// Restarts within the window before this failure.
        restarts: u32,
        /// The policy's window.
        window: Duration,
    },
}

/// The restarts of one worker.
#[derive(Debug, Clone)]
pub struct RestartBudget {
    policy: RestartPolicy,
    /// Failures answered by a restart, oldest first; at most `max_restarts`.
    spent: VecDeque<Instant>,
    random: u64,
}

impl RestartBudget {
    /// An unspent budget.
    #[must_use]
    pub fn new(policy: RestartPolicy, seed: u64) -> Self {
        Self { policy, spent: VecDeque::new(), random: seed }
    }

    /// Decides about a failure at `now`; time must not run backwards between calls.
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

    /// Forgets all failures: an operator vouches for the worker.
    pub fn reset(&mut self) {
        self.spent.clear();
    }

    fn backoff(&mut self, restarts: u32) -> Duration {
        let RestartPolicy { backoff_min: min, backoff_max: max, .. } = self.policy;
        let factor = 1u32.checked_shl(restarts).unwrap_or(u32::MAX);
        let full = min.saturating_mul(factor).min(max);
        let quarter_ns = u64::try_from((full / 4).as_nanos()).unwrap_or(u64::MAX - 1);
        let jitter = Duration::from_nanos(self.draw() % (quarter_ns + 1));
        // `max` wins where a policy has them crossed.
        (full - jitter).max(min).min(max)
    }

    /// SplitMix64 (Steele, Lea, Flood 2014): small, and good enough to spread restarts.
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
