//! Defines the supervision settings (budget, delays, thresholds) and the exit code of a process that runs an engine.

use std::time::Duration;

use oxide_actors::policy::RestartPolicy;
use oxide_actors::supervisor::Settings;

use super::{EngineError, EngineStatus, QueueState};

/// Sets when and how often a part is restarted, and when restarts end.
/// [`EngineBuilder::supervision`](super::EngineBuilder::supervision) takes it.
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
    /// Restarts of one queue within any `window`. After one failure more the queue is `failed`. If one of its ports
    /// fails, that port is tried once per `port_every` instead. Default 5. With 0, the first failure is final. Restarts
    /// by an operator do not count.
    pub restarts: u32,
    /// Length of the window: at least 1 s, default 60 s.
    pub window: Duration,
    /// Delay before the first restart, default 50 ms. It doubles with each restart within the window, and is reduced by
    /// up to a quarter at random.
    pub backoff_min: Duration,
    /// Longest delay, default 5 s.
    pub backoff_max: Duration,
    /// Time after a handler restart in which a second failure leads to a handler without inherited state. A third one
    /// restarts the actor. Default 100 ms.
    pub handler_again_within: Duration,
    /// Time between two attempts to open a port past its budget, while its actor runs without it: at least 100 ms,
    /// default 5 s.
    pub port_every: Duration,
    /// Time without heartbeat after which a queue is stalled and its packets are steered away until the heartbeat
    /// resumes: at least 250 ms, default 1 s. An idle actor increments the heartbeat ten times a second.
    pub stall_after: Duration,
    /// Length of a stall after which the process must end to free the thread ([`EngineStatus::fatal_exit`]). Default
    /// `None`, so that the other queues continue.
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

/// Limits every time. A longer one is taken for a typing error.
const LONGEST: Duration = Duration::from_secs(86_400);

impl Supervision {
    /// Checks that the values are in range and consistent.
    ///
    /// # Errors
    /// Returns [`EngineError::SupervisionRange`] or [`EngineError::SupervisionBackoff`].
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

/// States how a process that runs an engine ended, as its exit code. A service manager decides by it whether to start
/// the process again. The command line uses 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum RelayExit {
    /// It ended as requested, and every packet and frame is accounted for.
    Ok = 0,
    /// It could not start, or the accounting failed.
    Failed = 1,
    /// Every queue has failed. A new start may help.
    AllQueuesFailed = 3,
    /// A handler did not return, and its thread ended with the process.
    HandlerStuck = 4,
    /// A second signal ended it without waiting.
    SecondSignal = 130,
}

impl RelayExit {
    /// Returns the exit code.
    #[must_use]
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl EngineStatus {
    /// Returns why the engine cannot continue: every queue has failed, or one is stuck for too long.
    #[must_use]
    pub fn fatal_exit(&self, supervision: &Supervision) -> Option<RelayExit> {
        if !self.queues.is_empty() && self.queues.iter().all(|queue| queue.state == QueueState::Failed) {
            return Some(RelayExit::AllQueuesFailed);
        }
        let limit = supervision.exit_when_stuck?.as_secs_f64();
        let stuck = self.queues.iter().any(|q| q.stalled && q.heartbeat_age_s.is_some_and(|age| age >= limit));
        stuck.then_some(RelayExit::HandlerStuck)
    }

    /// Returns the exit code of a process with this last status.
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
