//! Defines what the supervisor waits for, and the inputs of one transition.

use std::time::{Duration, Instant};

use super::supervisor_core::{Action, Settings};
use super::{ActorId, ActorState, SupervisorCommand};

/// Names what the supervisor waits for. Times are deadlines.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Nothing; the actor has no thread.
    Idle,
    /// The actor's first report.
    Opening,
    /// Nothing; the actor serves, or waits without the supervisor.
    Up,
    /// The end of the delay before something inside the live actor is rebuilt.
    RebuildPending { due: Instant, what: RebuildTarget },
    /// The report that follows the rebuild.
    Rebuilding { by: Instant, what: RebuildTarget },
    /// The report that the work is finished.
    Draining { by: Instant },
    /// The exit of a stopped actor.
    Ending { by: Instant, next: AfterExit },
    /// The exit of a stopped actor, after the deadline.
    Overdue { next: AfterExit },
    /// The end of the delay before a restart; the actor has no thread.
    Backoff { due: Instant },
    /// The next attempt; the actor has no thread.
    Waiting { retry: Instant },
}

/// Names what is rebuilt inside a live actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RebuildTarget {
    /// The handler. The actor does nothing else until then.
    Handler { inherit: bool },
    /// This port, because someone requested it.
    Part(u8),
    /// Every closed port.
    Parts,
}

/// Holds what follows an awaited exit.
#[derive(Debug, Clone)]
pub(super) enum AfterExit {
    Start { due: Instant },
    Rest(ActorState),
}

/// Gives one transition its inputs, and collects its actions.
pub(super) struct TransitionContext<'a> {
    pub(super) now: Instant,
    pub(super) actor: ActorId,
    pub(super) settings: &'a Settings,
    pub(super) out: &'a mut Vec<Action>,
}

impl TransitionContext<'_> {
    /// Adds `wait` to the time now. Operators also set deadlines, so a very long wait must not overflow.
    pub(super) fn after(&self, wait: Duration) -> Instant {
        const TEN_YEARS: Duration = Duration::from_secs(10 * 366 * 86_400);
        self.now + wait.min(TEN_YEARS)
    }

    pub(super) fn send(&mut self, command: SupervisorCommand) {
        self.out.push(Action::Send { actor: self.actor, command });
    }
}
