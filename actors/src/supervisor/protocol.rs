//! Defines the messages between actor, supervisor and engine.

use std::fmt;
use std::time::{Duration, Instant};

use super::{Cause, FailReason, RestartScope, SupervisorLink, WaitReason};
use crate::executor::ThreadOutcome;
use crate::mailbox::SendError;

/// Identifies an actor by its index in the list given to the supervisor, from zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActorId(pub usize);

/// Describes the state of an actor.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ActorState {
    /// It is known and not started.
    Planned,
    /// It is started and opens what it needs.
    Opening,
    /// It serves.
    Running,
    /// It finishes its sessions, or it ends.
    Draining,
    /// It has failed or a restart was requested.
    Restarting {
        /// Scope of the restart.
        scope: RestartScope,
        /// Delay before the restart; zero for a requested one.
        backoff: Duration,
    },
    /// It is healthy, but something that it needs is absent.
    Waiting {
        /// Reason of the wait.
        why: WaitReason,
    },
    /// It has failed and starts again only on request.
    Failed {
        /// Reason of the failure.
        why: FailReason,
    },
    /// It has ended on request.
    Stopped,
}

impl ActorState {
    /// Returns the name used in logs, metrics and the API.
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

/// Describes the health of the whole engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EngineHealth {
    /// No actor has failed or stalled.
    Healthy,
    /// At least one actor has failed or stalled.
    Degraded,
}

/// Describes an event for the observer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one for each change of state, so the size does not matter
pub enum Event {
    /// An actor changed its state.
    Changed {
        /// Identifies the actor.
        actor: ActorId,
        /// Previous state.
        from: ActorState,
        /// New state.
        to: ActorState,
        /// Cause of the change.
        cause: Cause,
        /// Time since it last left [`ActorState::Running`], if it runs again now.
        gap: Option<Duration>,
    },
    /// The heartbeat of an actor has stopped. This is reported once. Its thread cannot be killed.
    Stalled {
        /// Identifies the actor.
        actor: ActorId,
        /// Time since the last heartbeat.
        age: Duration,
    },
    /// The heartbeat of a stalled actor resumed, or the actor ended.
    Recovered {
        /// Identifies the actor.
        actor: ActorId,
    },
    /// The health of the engine changed.
    Health(EngineHealth),
}

/// Holds one message to the observer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one for each change of state, so the size does not matter
pub enum ObserverMessage<R> {
    /// An event of the supervisor.
    Event(Event),
    /// A report of an actor. The supervisor only forwards it.
    Report {
        /// Identifies the actor.
        actor: ActorId,
        /// Number of its run, from 1.
        generation: u64,
        /// Content of the report.
        report: R,
    },
}

/// Reports an actor's state through its [`SupervisorLink`]. It is never lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateReport {
    /// The actor serves: it has opened, its handler is rebuilt, or what it waited for is present.
    Running,
    /// The actor lives, but something that it needs is absent. It reports `Running` later without a command.
    Waiting(String),
    /// The handler panicked and is dropped. The actor takes no packets until [`SupervisorCommand::RestartHandler`] or
    /// [`SupervisorCommand::Stop`].
    SoftFailed(String),
    /// A port failed and is closed. The actor continues without it until [`SupervisorCommand::ReopenParts`].
    PartFailed {
        /// Index of the port.
        part: u8,
        /// Reason of the failure.
        cause: String,
    },
    /// The actor has finished its work after [`SupervisorCommand::Drain`] and waits for [`SupervisorCommand::Stop`].
    Drained,
}

/// Commands a live actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SupervisorCommand {
    /// Ends now.
    Stop,
    /// Takes no new work, finishes the old work, and reports [`StateReport::Drained`].
    Drain {
        /// The supervisor stops the actor after this time.
        within: Duration,
    },
    /// Rebuilds the handler. After this command and those below, the actor reports its state.
    RestartHandler {
        /// Whether the new handler takes over the sessions of the old one.
        inherit: bool,
    },
    /// Closes and reopens this port.
    RestartPart(u8),
    /// Reopens each closed port.
    ReopenParts,
}

/// Reports how a run of an actor ended, or why it did not begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ActorExit {
    /// It ended on request.
    Done,
    /// It cannot work yet, for example because an interface is absent. The supervisor tries again at intervals and on
    /// [`Input::Wake`](super::Input::Wake). This does not use the restart budget.
    Waiting(String),
    /// It ended with an error that a restart may fix. This uses the restart budget.
    Failed(String),
    /// Its accounting failed. This uses the restart budget.
    AccountingFailed(String),
    /// It panicked. This uses the restart budget.
    Panicked(String),
    /// It ended with an error that no restart fixes (permission, configuration).
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

/// Converts the outcome of a thread whose body returns an [`ActorExit`].
impl From<ThreadOutcome<ActorExit>> for ActorExit {
    fn from(outcome: ThreadOutcome<ActorExit>) -> Self {
        match outcome {
            ThreadOutcome::Finished(end) => end,
            ThreadOutcome::Panicked(text) => Self::Panicked(text),
            ThreadOutcome::Lost(text) => Self::Failed(text),
        }
    }
}

/// Describes why a command was not delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Undelivered {
    /// The mailbox is full. The supervisor tries again soon.
    Busy,
    /// The actor has ended. The supervisor sees its exit soon.
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

/// Starts, commands and joins one actor. The engine implements it. It lives on the supervisor's thread, so no method
/// may block for longer than the start of a thread.
pub trait ActorController: Send + 'static {
    /// Type of the actor's reports to the observer.
    type Report: Send + 'static;
    /// Type of the engine's messages to the actor that the supervisor only forwards (new tables).
    type EngineMessage: Send + 'static;

    /// Returns the name for logs and errors.
    fn name(&self) -> &str;

    /// Begins run `generation`, counted from 1. The actor keeps `link` for its heartbeat and its reports. When `link`
    /// is dropped, the supervisor checks whether the actor has ended.
    ///
    /// # Errors
    /// Returns an [`ActorExit`], as if the actor had ended at once.
    fn start(&mut self, generation: u64, link: SupervisorLink<Self::Report>) -> Result<(), ActorExit>;

    /// Passes a command to the live actor, without waiting.
    ///
    /// # Errors
    /// Returns [`Undelivered`].
    fn command(&mut self, command: SupervisorCommand) -> Result<(), Undelivered>;

    /// Takes a message of the engine, also while the actor has no thread.
    fn on_engine_message(&mut self, message: Self::EngineMessage);

    /// Returns once how the actor ended, if it has ended. It never waits.
    fn poll_end(&mut self) -> Option<ActorExit>;

    /// Stops all new work for an actor that did not end in time and keeps its thread.
    fn abandon(&mut self) {}

    /// Stops new work while the actor's heartbeat is stopped (`true`). Resumes when the heartbeat resumes (`false`)
    /// or the actor ends.
    fn stalled(&mut self, stopped: bool) {
        let _ = stopped;
    }

    /// Runs regular work; the supervisor calls it about 20 times a second.
    fn tick(&mut self, now: Instant) {
        let _ = now;
    }
}
