//! Defines the section `[supervision]`: when a failed queue is restarted, and when restarts end.

use serde::{Deserialize, Serialize};

use super::error::Problem;
use super::sections::SUPERVISION;

/// Limits times to one day. A longer time is taken for a typing error.
const LONGEST_S: u32 = 86_400;
const LONGEST_MS: u32 = LONGEST_S * 1000;

/// Configures the budget, the delays and the thresholds of the supervisor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct SupervisionConfig {
    /// Limit of restarts of one queue within the window, up to 1000000.
    pub restarts: u32,
    /// Length of the window in seconds, 1 to 86400.
    pub window_s: u32,
    /// Delay before the first restart, in milliseconds.
    pub backoff_min_ms: u32,
    /// Longest delay, in milliseconds.
    pub backoff_max_ms: u32,
    /// Time in milliseconds after a restart in which a second failure leads to a handler without inherited state.
    pub handler_again_within_ms: u32,
    /// Time between two attempts to open a port past its budget, in milliseconds, at least 100.
    pub port_every_ms: u32,
    /// Time without heartbeat after which a queue is stalled, in milliseconds, at least 250.
    pub stall_after_ms: u32,
    /// Length of a stall that ends the process, in seconds; 0 means never.
    pub exit_when_stuck_s: u32,
}

impl Default for SupervisionConfig {
    fn default() -> Self {
        Self {
            restarts: 5,
            window_s: 60,
            backoff_min_ms: 50,
            backoff_max_ms: 5000,
            handler_again_within_ms: 100,
            port_every_ms: 5000,
            stall_after_ms: 1000,
            exit_when_stuck_s: 0,
        }
    }
}

impl SupervisionConfig {
    /// Adds a problem for every value that is out of range or in conflict with another value.
    pub fn check(&self, problems: &mut Vec<Problem>) {
        let mut bounds = |name: &str, value: u32, least: u32, most: u32, remedy: &str| {
            if !(least..=most).contains(&value) {
                SUPERVISION.refuse(name, value, format!("write {name} = {remedy}"), problems);
            }
        };
        bounds("restarts", self.restarts, 0, 1_000_000, "5");
        bounds("window_s", self.window_s, 1, LONGEST_S, "60");
        bounds("backoff_max_ms", self.backoff_max_ms, 0, LONGEST_MS, "5000");
        bounds(
            "backoff_min_ms",
            self.backoff_min_ms,
            0,
            self.backoff_max_ms.min(LONGEST_MS),
            "50, or a longer backoff_max_ms",
        );
        bounds("handler_again_within_ms", self.handler_again_within_ms, 0, LONGEST_MS, "100");
        bounds("port_every_ms", self.port_every_ms, 100, LONGEST_MS, "5000");
        bounds("stall_after_ms", self.stall_after_ms, 250, LONGEST_MS, "1000");
        let least = self.stall_after_ms.div_ceil(1000);
        if self.exit_when_stuck_s != 0 {
            bounds("exit_when_stuck_s", self.exit_when_stuck_s, least, LONGEST_S, &format!("0, or at least {least}"));
        }
    }
}
