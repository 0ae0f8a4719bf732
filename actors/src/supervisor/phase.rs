//! What a slot waits for, and what it needs to decide.

use std::time::{Duration, Instant};

use super::roster::{Action, Settings};
use super::{Command, State, WorkerId};

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
    Parked { due: Instant, what: Inside },
    /// Its return.
    Mending { by: Instant, what: Inside },
    /// The word that nothing is left.
    Draining { by: Instant },
    /// The end of an actor told to stop.
    Ending { by: Instant, next: Next },
    /// The same, past the deadline.
    Overdue { next: Next },
    /// The pause before a hard restart; no actor lives.
    Backoff { due: Instant },
    /// The next try; no actor lives.
    Waiting { retry: Instant },
}

/// What is rebuilt inside a living actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inside {
    /// The handler; the actor does nothing else meanwhile.
    Handler { inherit: bool },
    /// This part, because somebody asks for it.
    Part(u8),
    /// Whatever part is closed.
    Parts,
}

/// What follows an awaited end.
#[derive(Debug, Clone)]
pub(super) enum Next {
    Start { due: Instant },
    Rest(State),
}

/// What a slot needs to know and where it puts what is to be done.
pub(super) struct Turn<'a> {
    pub(super) now: Instant,
    pub(super) worker: WorkerId,
    pub(super) settings: &'a Settings,
    pub(super) out: &'a mut Vec<Action>,
}

impl Turn<'_> {
    /// Deadlines come from operators too: one beyond all time must not overflow.
    pub(super) fn after(&self, wait: Duration) -> Instant {
        const TEN_YEARS: Duration = Duration::from_secs(10 * 366 * 86_400);
        self.now + wait.min(TEN_YEARS)
    }

    pub(super) fn send(&mut self, command: Command) {
        self.out.push(Action::Send { worker: self.worker, command });
    }
}
