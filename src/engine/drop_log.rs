//! Logs drops that an operator should know of, with cause and remedy, at a bounded rate.

use std::time::{Duration, Instant};

use super::EngineStatus;
use crate::telemetry::{DropCounters, DropReason};

/// Limits the log to one event per reason in this time.
const AGAIN: Duration = Duration::from_secs(60);
/// Limits the comparison of the counters to one in this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Holds the counts and times of the logged events.
pub(super) struct DropLog {
    logged: DropCounters,
    last: [Option<Instant>; DropReason::ALL.len()],
    next_look: Option<Instant>,
}

impl Default for DropLog {
    fn default() -> Self {
        Self { logged: DropCounters::default(), last: [None; DropReason::ALL.len()], next_look: None }
    }
}

impl DropLog {
    /// Logs the drops that increased in `status`.
    pub(super) fn look(&mut self, status: &EngineStatus, now: Instant) {
        if self.next_look.is_some_and(|next| now < next) {
            return;
        }
        self.next_look = Some(now + LOOK_EVERY);
        let mut all = DropCounters::default();
        status.queues.iter().for_each(|queue| all.merge(&queue.totals.drops));
        for (reason, packets) in self.due(&all, now) {
            let (name, meaning) = (reason.name(), reason.explanation());
            let (cause, remedy) = (reason.cause(), reason.remedy());
            tracing::warn!(reason = name, packets, meaning, cause, remedy, "packets dropped");
        }
    }

    /// Returns the reasons to log now, each with the packets since it was last logged.
    fn due(&mut self, all: &DropCounters, now: Instant) -> Vec<(DropReason, u64)> {
        let mut due = Vec::new();
        for &reason in DropReason::ALL.iter().filter(|reason| reason.is_logged()) {
            let packets = all.of(reason).saturating_sub(self.logged.of(reason));
            let last = self.last.get_mut(reason as usize);
            let Some(last) = last.filter(|last| packets > 0 && last.is_none_or(|last| now >= last + AGAIN)) else {
                continue;
            };
            *last = Some(now);
            self.logged.add(reason, packets);
            due.push((reason, packets));
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reason_is_logged_at_once_then_once_a_minute() {
        let (mut log, mut all, start) = (DropLog::default(), DropCounters::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(log.due(&all, start), []);
        all.add(DropReason::PortsExhausted, 3);
        all.add(DropReason::NoSession, 9);
        assert_eq!(log.due(&all, after(1)), [(DropReason::PortsExhausted, 3)]);
        all.add(DropReason::PortsExhausted, 4);
        all.add(DropReason::WrongPeer, 1);
        assert_eq!(log.due(&all, after(2)), [(DropReason::WrongPeer, 1)]);
        assert_eq!(log.due(&all, after(60)), []);
        assert_eq!(log.due(&all, after(61)), [(DropReason::PortsExhausted, 4)]);
        assert_eq!(log.due(&all, after(200)), [], "nothing new");
    }
}
