//! What a slot waits for, and what it needs to decide.

use std::time::{Duration, Instant};

use super::supervisor_core::{Action, Settings};
use super::{ActorId, ActorState, SupervisorCommand};

/// What the supervisor waits for. Times are deadlines.
#[derive(Debug, Clone)]
pub(super) enum Phase {
    /// Nothing, and no actor lives.
    Idle,
    /// The actor's first word.
    Opening,
    /// Nothing: it is at work, or waits by itself.
    Up,
    /// The pause before something inside the living actor is rebuilt.
    RebuildPending { due: Instant, what: RebuildTarget },
    /// Its return.
    Rebuilding { by: Instant, what: RebuildTarget },
    /// The word that nothing is left.
    Draining { by: Instant },
    /// The end of an actor told to stop.
    Ending { by: Instant, next: AfterExit },
    /// The same, past the deadline.
    Overdue { next: AfterExit },
    /// The pause before a hard restart; no actor lives.
    Backoff { due: Instant },
    /// The next try; no actor lives.
    Waiting { retry: Instant },
}

/// What is rebuilt inside a living actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RebuildTarget {
    /// The handler; the actor does nothing else meanwhile.
    Handler { inherit: bool },
    /// This part, because somebody asks for it.
    Part(u8),
    /// Whatever part is closed.
    Parts,
}

/// What follows an awaited end.
#[derive(Debug, Clone)]
pub(super) enum AfterExit {
    Start { due: Instant },
    Rest(ActorState),
}

/// What a slot needs to know and where it puts what is to be done.
pub(super) struct TransitionContext<'a> {
    pub(super) now: Instant,
    pub(super) actor: ActorId,
    pub(super) settings: &'a Settings,
    pub(super) out: &'a mut Vec<Action>,
}

impl TransitionContext<'_> {
    /// Deadlines come from operators too: one beyond all time must not overflow.
    pub(super) fn after(&self, wait: Duration) -> Instant {
        const TEN_YEARS: Duration = Duration::from_secs(10 * 366 * 86_400);
        self.now + wait.min(TEN_YEARS)
    }

    pub(super) fn send(&mut self, command: SupervisorCommand) {
        self.out.push(Action::Send { actor: self.actor, command });
    }
}
