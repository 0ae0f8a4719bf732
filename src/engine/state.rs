//! Defines the states of the engine and of its queues, shared by the engine, the API and the terminal view.

use std::fmt;

use oxide_actors::supervisor::ActorState;
use serde::{Deserialize, Serialize};

/// Names the state of the engine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineState {
    /// At least one queue has not opened yet.
    #[default]
    Starting,
    /// Every queue runs.
    Running,
    /// At least one queue does not run.
    Degraded,
    /// The engine ends: it starts no new sessions, then receives no packets.
    Draining,
    /// The engine has ended.
    Stopped,
}

impl EngineState {
    /// Lists all states.
    pub const ALL: [Self; 5] = [Self::Starting, Self::Running, Self::Degraded, Self::Draining, Self::Stopped];

    /// Returns the name used by the API and the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Degraded => "degraded",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for EngineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Names the state of one queue in the supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum QueueState {
    /// The queue has not been started yet.
    #[default]
    Planned,
    /// Its actor opens memory and ports.
    Opening,
    /// The queue receives packets.
    Running,
    /// The queue serves its existing sessions, or ends.
    Draining,
    /// Its handler, a port or the whole actor is being rebuilt, or will be after a delay.
    Restarting,
    /// The queue needs something that is missing.
    Waiting,
    /// The queue has failed and is not started again until an operator requests it.
    Failed,
    /// The queue ended as requested.
    Stopped,
}

impl QueueState {
    /// Lists all states.
    pub const ALL: [Self; 8] = [
        Self::Planned,
        Self::Opening,
        Self::Running,
        Self::Draining,
        Self::Restarting,
        Self::Waiting,
        Self::Failed,
        Self::Stopped,
    ];

    /// Returns the name used by the API and the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Opening => "opening",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Restarting => "restarting",
            Self::Waiting => "waiting",
            Self::Failed => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for QueueState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl From<&ActorState> for QueueState {
    fn from(state: &ActorState) -> Self {
        match state {
            ActorState::Planned => Self::Planned,
            ActorState::Opening => Self::Opening,
            ActorState::Running => Self::Running,
            ActorState::Draining => Self::Draining,
            ActorState::Restarting { .. } => Self::Restarting,
            ActorState::Waiting { .. } => Self::Waiting,
            ActorState::Failed { .. } => Self::Failed,
            ActorState::Stopped => Self::Stopped,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oxide_actors::supervisor::{FailReason, RestartScope, WaitReason};

    use super::*;

    /// Checks that the supervisor's log and the API use the same names.
    #[test]
    fn queue_state_has_the_name_of_the_supervisors_state() {
        let why = || FailReason::Refused("why".to_owned());
        for state in [
            ActorState::Planned,
            ActorState::Opening,
            ActorState::Running,
            ActorState::Draining,
            ActorState::Restarting { scope: RestartScope::Queue, backoff: Duration::ZERO },
            ActorState::Waiting { why: WaitReason::Absent("eth0".to_owned()) },
            ActorState::Failed { why: why() },
            ActorState::Stopped,
        ] {
            assert_eq!(QueueState::from(&state).name(), state.name());
            assert_eq!(serde_json::json!(QueueState::from(&state)), state.name());
        }
        assert!(EngineState::ALL.iter().all(|state| serde_json::json!(state) == state.name()));
    }
}
