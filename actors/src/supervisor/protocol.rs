//! What is said between worker, supervisor and engine.

use std::fmt;
use std::time::{Duration, Instant};

use super::{Cause, FailReason, RestartScope, SupervisorLink, WaitReason};
use crate::executor::ThreadOutcome;
use crate::mailbox::SendError;

/// A worker's place in the list given to the supervisor, counted from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorId(pub usize);

/// Where a worker is in its life.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ActorState {
    /// Known, not started.
    Planned,
    /// Started, not yet at work.
    Opening,
    /// At work.
    Running,
    /// Told to finish what it has, or to end for good.
    Draining,
    /// Failed, or told to restart.
    Restarting {
        /// What is rebuilt.
        scope: RestartScope,
        /// Pause before it; zero when a restart was asked for.
        backoff: Duration,
    },
    /// Healthy, but without what it needs to work.
    Waiting {
        /// For what.
        why: WaitReason,
    },
    /// Not started again without being told to.
    Failed {
        /// Why.
        why: FailReason,
    },
    /// Ended as told.
    Stopped,
}

impl ActorState {
    /// The word used in logs, metrics and the API.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Opening => "opening",
            Self::Running => "running",
            Self::Draining => "draining",
            Self::Restarting { .. } => "restarting",
            Self::Waiting { .. } => "waiting",
            Self::Failed { .. } => "failed",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for ActorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Restarting { scope, backoff } => write!(f, "restarting ({scope}, in {backoff:?})"),
            Self::Waiting { why } => write!(f, "waiting ({why})"),
            Self::Failed { why } => write!(f, "failed ({why})"),
            plain => f.write_str(plain.name()),
        }
    }
}

/// The engine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineHealth {
    /// No worker failed or stalled.
    Healthy,
    /// At least one has.
    Degraded,
}

/// Something the observer is told.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one for each change of state: rare, and moved a few times
pub enum Event {
    /// A worker changed its state.
    Changed {
        /// Which.
        actor: ActorId,
        /// Before.
        from: ActorState,
        /// Now.
        to: ActorState,
        /// Why.
        cause: Cause,
        /// On coming back to [`ActorState::Running`]: how long it was away.
        gap: Option<Duration>,
    },
    /// A worker's heartbeat stands still; told once. Its thread cannot be killed.
    Stalled {
        /// Which.
        actor: ActorId,
        /// How long its heartbeat has stood.
        age: Duration,
    },
    /// A stalled worker's heart beats again, or it ended.
    Recovered {
        /// Which.
        actor: ActorId,
    },
    /// The whole became healthy or degraded.
    Health(EngineHealth),
}

/// What the observer gets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one for each change of state: rare, and moved a few times
pub enum ObserverMessage<R> {
    /// From the supervisor.
    Event(Event),
    /// From a worker, unread by the supervisor.
    Report {
        /// Which.
        actor: ActorId,
        /// Which life of it, counted from 1.
        generation: u64,
        /// What it said.
        report: R,
    },
}

/// What a worker says about itself through its [`SupervisorLink`]. Never lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateReport {
    /// At work: opened, handler rebuilt, or what it waited for is back.
    Running,
    /// Alive without what it needs to work; it will say `Running` by itself.
    Waiting(String),
    /// The handler failed and is gone; the actor is parked until [`SupervisorCommand::RestartHandler`] or [`SupervisorCommand::Stop`].
    SoftFailed(String),
    /// A part failed and is closed; the actor goes on without it until [`SupervisorCommand::ReopenParts`].
    PartFailed {
        /// Which.
        part: u8,
        /// Why.
        cause: String,
    },
    /// Nothing left to finish after [`SupervisorCommand::Drain`]; waits for [`SupervisorCommand::Stop`].
    Drained,
}

/// What the supervisor tells a live worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SupervisorCommand {
    /// End now.
    Stop,
    /// Take no new work, finish the old, say [`StateReport::Drained`].
    Drain {
        /// After this it will be stopped.
        within: Duration,
    },
    /// Rebuild the handler, then say how it is, as after each of these.
    RestartHandler {
        /// Whether the new one takes over from the old one.
        inherit: bool,
    },
    /// Close this part and open it again.
    RestartPart(u8),
    /// Open again each part that is closed.
    ReopenParts,
}

/// How one life of a worker ended, or why it did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActorExit {
    /// As told.
    Done,
    /// Not able to work yet (an absent interface): tried again now and then, and on
    /// [`Input::Wake`](super::Input::Wake), at no cost to the restart budget.
    Waiting(String),
    /// An error that a restart may mend; spends the budget.
    Failed(String),
    /// Its accounting does not add up; spends the budget.
    AccountingFailed(String),
    /// A panic; spends the budget.
    Panicked(String),
    /// An error no restart mends (permission, configuration).
    Refused(String),
}

impl fmt::Display for ActorExit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => f.write_str("ended"),
            Self::Panicked(text) => write!(f, "panicked: {text}"),
            Self::Waiting(text) | Self::Failed(text) | Self::AccountingFailed(text) | Self::Refused(text) => {
                f.write_str(text)
            }
        }
    }
}

/// For a worker whose executor's body returns its [`ActorExit`].
impl From<ThreadOutcome<ActorExit>> for ActorExit {
    fn from(outcome: ThreadOutcome<ActorExit>) -> Self {
        match outcome {
            ThreadOutcome::Finished(end) => end,
            ThreadOutcome::Panicked(text) => Self::Panicked(text),
            ThreadOutcome::Lost(text) => Self::Failed(text),
        }
    }
}

/// Why a command was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// No room in its mailbox: tried again soon.
    Busy,
    /// The actor is gone: its end will be seen.
    Gone,
}

impl<T> From<SendError<T>> for Undelivered {
    fn from(error: SendError<T>) -> Self {
        match error {
            SendError::Timeout(_) => Self::Busy,
            SendError::Closed(_) => Self::Gone,
        }
    }
}

/// A worker as the engine supplies it: lives on the supervisor's thread and knows how to make, reach and join its
/// actor. No method may block for longer than a thread takes to start.
pub trait ActorController: Send + 'static {
    /// What the actor tells the observer.
    type Report: Send + 'static;
    /// What the engine tells the worker past the supervisor (new tables).
    type EngineMessage: Send + 'static;

    /// For logs and errors.
    fn name(&self) -> &str;

    /// Begins life `generation`, counted from 1. The actor keeps `link`: it beats through it, speaks through it, and its
    /// drop tells the supervisor to look for the end.
    ///
    /// # Errors
    /// An [`ActorExit`], as if the actor had ended so at once.
    fn start(&mut self, generation: u64, link: SupervisorLink<Self::Report>) -> Result<(), ActorExit>;

    /// Passes a command to the live actor, without waiting.
    ///
    /// # Errors
    /// [`Undelivered`].
    fn command(&mut self, command: SupervisorCommand) -> Result<(), Undelivered>;

    /// Takes a message of the engine's, also while no actor lives.
    fn on_engine_message(&mut self, message: Self::EngineMessage);

    /// How the actor ended, once, if it has; never waits.
    fn poll_end(&mut self) -> Option<ActorExit>;

    /// The actor was told to end, did not in time, and keeps its thread: stop giving it work from outside.
    fn abandon(&mut self) {}

    /// The actor's heart stands still (`true`): give it no work from outside until it beats again (`false`), or ends.
    fn stalled(&mut self, stands: bool) {
        let _ = stands;
    }

    /// Called about 20 times a second.
    fn tick(&mut self, now: Instant) {
        let _ = now;
    }
}
