//! What operators decide about supervision: budget, pauses, thresholds; and how a process that runs an engine ends.

use std::time::Duration;

use oxide_actors::policy::RestartPolicy;
use oxide_actors::supervisor::Settings;

use super::{EngineError, EngineStatus, QueueState};

/// When something is restarted, how often, and when that is given up. Given to
/// [`EngineBuilder::supervision`](super::EngineBuilder::supervision).
///
/// ```
/// use std::time::Duration;
/// use oxide::engine::Supervision;
///
/// let mut supervision = Supervision::default();
/// supervision.restarts = 20;
/// supervision.backoff_max = Duration::from_secs(30);
/// supervision.check()?;
/// # Ok::<(), oxide::engine::EngineError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Supervision {
    /// Restarts of one queue within any `window`; one failure more and it is `failed`, or, where one port of it fails,
    /// that port is tried every `port_every` only. Default 5. 0: the first failure is the last. Restarts that are asked
    /// for do not count.
    pub restarts: u32,
    /// Length of the window. Default 60 s; at least 1 s.
    pub window: Duration,
    /// Pause before the first restart; it doubles with each further one within the window, less up to a quarter drawn
    /// at random. Default 50 ms.
    pub backoff_min: Duration,
    /// Longest pause. Default 5 s.
    pub backoff_max: Duration,
    /// A handler that fails again within this time of its restart inherits nothing the next time, and the time after
    /// that takes its actor with it. Default 100 ms.
    pub handler_again_within: Duration,
    /// Between two tries of a port that is past the budget: its actor goes on without it. Default 5 s; at least 100 ms.
    pub port_every: Duration,
    /// A heartbeat that stands for longer is a stall: the queue is steered away until it beats again. Default 1 s; at
    /// least 250 ms, since an idle actor beats ten times a second.
    pub stall_after: Duration,
    /// A stall of this length is for ever ([`EngineStatus::fatal_exit`]): the process has to end to get the thread
    /// back. Default: none, the other queues are worth more.
    pub exit_when_stuck: Option<Duration>,
}

impl Default for Supervision {
    fn default() -> Self {
        let Settings { policy, soft_again_within, part_every, stall_after, .. } = Settings::default();
        Self {
            restarts: policy.max_restarts,
            window: policy.window,
            backoff_min: policy.backoff_min,
            backoff_max: policy.backoff_max,
            handler_again_within: soft_again_within,
            port_every: part_every,
            stall_after,
            exit_when_stuck: None,
        }
    }
}

/// Longer than this is a slip of the pen.
const LONGEST: Duration = Duration::from_secs(86_400);

impl Supervision {
    /// Whether these values go together.
    ///
    /// # Errors
    /// [`EngineError::SupervisionRange`], [`EngineError::SupervisionBackoff`].
    pub fn check(&self) -> Result<(), EngineError> {
        let bounded = [
            ("window", self.window, Duration::from_secs(1)),
            ("backoff_min", self.backoff_min, Duration::ZERO),
            ("backoff_max", self.backoff_max, Duration::ZERO),
            ("handler_again_within", self.handler_again_within, Duration::ZERO),
            ("port_every", self.port_every, Duration::from_millis(100)),
            ("stall_after", self.stall_after, Duration::from_millis(250)),
            ("exit_when_stuck", self.exit_when_stuck.unwrap_or(self.stall_after), self.stall_after),
        ];
        for (name, value, least) in bounded {
            if value < least || value > LONGEST {
                return Err(EngineError::SupervisionRange { field: name, value, min: least, max: LONGEST });
            }
        }
        if self.backoff_min > self.backoff_max {
            let Self { backoff_min: min, backoff_max: max, .. } = self;
            return Err(EngineError::SupervisionBackoff { min: *min, max: *max });
        }
        Ok(())
    }

    pub(super) fn settings(&self) -> Settings {
        let policy = RestartPolicy {
            max_restarts: self.restarts,
            window: self.window,
            backoff_min: self.backoff_min,
            backoff_max: self.backoff_max,
        };
        Settings {
            policy,
            stall_after: self.stall_after,
            soft_again_within: self.handler_again_within,
            part_every: self.port_every,
            ..Settings::default()
        }
    }
}

/// How a process that runs an engine ends: its exit code, so that a service manager knows whether to start it again.
/// 2 is left to the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum RelayExit {
    /// As told, and every packet and frame is accounted for.
    Ok = 0,
    /// It could not start, or the books did not balance.
    Failed = 1,
    /// Every queue has failed: a new start may help.
    AllQueuesFailed = 3,
    /// A handler did not come back: its thread went with the process.
    HandlerStuck = 4,
    /// A second signal did not wait.
    SecondSignal = 130,
}

impl RelayExit {
    /// The exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl EngineStatus {
    /// Why the engine cannot go on, if it cannot: every queue has failed, or one is stuck for longer than it may be.
    #[must_use]
    pub fn fatal_exit(&self, supervision: &Supervision) -> Option<RelayExit> {
        if !self.queues.is_empty() && self.queues.iter().all(|queue| queue.state == QueueState::Failed) {
            return Some(RelayExit::AllQueuesFailed);
        }
        let limit = supervision.exit_when_stuck?.as_secs_f64();
        let stuck = self.queues.iter().any(|q| q.stalled && q.heartbeat_age_s.is_some_and(|age| age >= limit));
        stuck.then_some(RelayExit::HandlerStuck)
    }

    /// How the process ends that had this as its last status.
    #[must_use]
    pub fn relay_exit(&self) -> RelayExit {
        match (self.not_ended.is_empty(), self.balanced && self.unaccounted == 0) {
            (false, _) => RelayExit::HandlerStuck,
            (true, false) => RelayExit::Failed,
            (true, true) => RelayExit::Ok,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::engine::sample;

    #[test]
    fn defaults_are_those_of_the_supervisor() {
        assert_eq!(Supervision::default().settings(), Settings::default());
        Supervision::default().check().unwrap();
    }

    #[test]
    fn invalid_supervision_is_refused_by_field() {
        let refused = |change: fn(&mut Supervision)| {
            let mut wrong = Supervision::default();
            change(&mut wrong);
            wrong.check().unwrap_err().to_string()
        };
        assert!(refused(|s| s.window = Duration::ZERO).contains("window"));
        assert!(refused(|s| s.stall_after = Duration::from_millis(100)).contains("stall_after"));
        assert!(refused(|s| s.port_every = Duration::ZERO).contains("port_every"));
        assert!(refused(|s| s.backoff_max = Duration::MAX).contains("backoff_max"));
        assert!(refused(|s| s.backoff_max = Duration::from_millis(1)).contains("exchange"));
        assert!(refused(|s| s.exit_when_stuck = Some(Duration::from_millis(500))).contains("exit_when_stuck"));
    }

    #[test]
    fn status_reports_exit_codes() {
        let mut status = sample::status();
        assert_eq!(status.relay_exit(), RelayExit::Ok);
        let mut supervision = Supervision::default();
        status.queues[1].stalled = true;
        status.queues[1].heartbeat_age_s = Some(30.0);
        assert_eq!(status.fatal_exit(&supervision), None);
        supervision.exit_when_stuck = Some(Duration::from_secs(20));
        assert_eq!(status.fatal_exit(&supervision), Some(RelayExit::HandlerStuck));
        status.queues.iter_mut().for_each(|queue| queue.state = QueueState::Failed);
        assert_eq!(status.fatal_exit(&supervision), Some(RelayExit::AllQueuesFailed));
        status.balanced = false;
        assert_eq!(status.relay_exit().code(), 1);
        status.not_ended.push(1);
        assert_eq!(status.relay_exit().code(), 4);
    }
}
