//! How much a restart rebuilds and why it begins: closed sets, the same from the actor to the API and the metrics.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ActorExit;

/// Limits what a restart rebuilds. The rest goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartScope {
    /// Rebuilds the handler of a live actor. Memory, sockets and packets on the rings stay, and the next handler takes
    /// the sessions over.
    Handler,
    /// Reopens one port of a live actor: the socket of one interface.
    Port,
    /// Ends the actor and starts it again, with its memory, its ports and its handler.
    Queue,
}

impl RestartScope {
    /// Lists all scopes, the smallest first.
    pub const ALL: [Self; 3] = [Self::Handler, Self::Port, Self::Queue];

    /// Returns the name used by the command line, the API and the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::Port => "port",
            Self::Queue => "queue",
        }
    }
}

impl fmt::Display for RestartScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Explains why a restart begins. Every restart has exactly one cause; it is the metric label `cause`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartCause {
    /// An operator or a reload requested it.
    Asked,
    /// The handler, or the actor around it, panicked.
    Panic,
    /// A port failed.
    Port,
    /// The actor's accounting does not add up: something is missing.
    Leak,
    /// What a restart rebuilt did not report within its time.
    Late,
    /// The actor could not open what it needs.
    Open,
    /// The actor ended, and nothing had requested it.
    Ended,
    /// The running actor ended with an error that is none of the others.
    Error,
}

impl RestartCause {
    /// Lists all causes.
    pub const ALL: [Self; 8] =
        [Self::Asked, Self::Panic, Self::Port, Self::Leak, Self::Late, Self::Open, Self::Ended, Self::Error];

    /// Returns the name used by the API and the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Panic => "panic",
            Self::Port => "port",
            Self::Leak => "leak",
            Self::Late => "late",
            Self::Open => "open",
            Self::Ended => "ended",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for RestartCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Describes a failure that a restart answers. Messages are for people: no code reads them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The handler panicked with this message; its actor lives.
    HandlerPanic(String),
    /// The actor panicked with this message.
    ActorPanic(String),
    /// A port failed with this message.
    Port(String),
    /// The accounting failed with this message.
    Accounting(String),
    /// What was rebuilt did not report within this time.
    Late(RestartScope, Duration),
    /// Opening failed with this message.
    Open(String),
    /// The actor ended, and nothing had requested it.
    Ended,
    /// The running actor ended with this message.
    Error(String),
}

impl Failure {
    /// Returns the cause of the restart that answers this failure.
    #[must_use]
    pub const fn cause(&self) -> RestartCause {
        match self {
            Self::HandlerPanic(_) | Self::ActorPanic(_) => RestartCause::Panic,
            Self::Port(_) => RestartCause::Port,
            Self::Accounting(_) => RestartCause::Leak,
            Self::Late(..) => RestartCause::Late,
            Self::Open(_) => RestartCause::Open,
            Self::Ended => RestartCause::Ended,
            Self::Error(_) => RestartCause::Error,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ActorPanic(message) => write!(f, "panicked: {message}"),
            Self::HandlerPanic(message)
            | Self::Port(message)
            | Self::Accounting(message)
            | Self::Open(message)
            | Self::Error(message) => f.write_str(message),
            Self::Late(scope, limit) => write!(f, "{scope} not back within {limit:?} of its restart"),
            Self::Ended => f.write_str("ended without being told to"),
        }
    }
}

/// Explains why a worker changed its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The supervisor started it for the first time.
    FirstStart,
    /// Somebody requested a start.
    StartAsked,
    /// The delay after a failure is over.
    BackoffOver,
    /// The next attempt of a worker that waits is due.
    NextTry,
    /// Something it may wait for has come.
    WakeReason,
    /// The actor opened what it needs.
    Opened,
    /// A new handler serves.
    HandlerRestarted,
    /// A closed port is open again.
    PortOpened,
    /// What the actor waited for is there.
    Resumed,
    /// Somebody requested a restart.
    RestartAsked,
    /// Somebody requested to finish the work at hand and stop.
    DrainAsked,
    /// Somebody requested to stop.
    StopAsked,
    /// It cannot work yet, for this reason.
    Waits(WaitReason),
    /// It failed.
    Failed(Failure),
    /// An error that no restart mends.
    Refused(String),
    /// The actor was told to end and still runs.
    StillRuns,
    /// The actor ended after it was told to: how.
    Ended(ActorExit),
}

impl Cause {
    /// Returns the cause of the restart that begins, `None` if nothing restarts for this reason.
    #[must_use]
    pub const fn of_restart(&self) -> Option<RestartCause> {
        match self {
            Self::RestartAsked => Some(RestartCause::Asked),
            Self::Failed(failure) => Some(failure.cause()),
            _ => None,
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::FirstStart => "started",
            Self::StartAsked => "told to start",
            Self::BackoffOver => "starting again",
            Self::NextTry => "next try",
            Self::WakeReason => "woken",
            Self::Opened => "opened",
            Self::HandlerRestarted => "handler restarted",
            Self::PortOpened => "opened again",
            Self::Resumed => "has what it waited for",
            Self::RestartAsked => "told to restart",
            Self::DrainAsked => "told to drain",
            Self::StopAsked => "told to stop",
            Self::StillRuns => return FailReason::StillRuns.fmt(f),
            Self::Waits(reason) => return reason.fmt(f),
            Self::Failed(failure) => return failure.fmt(f),
            Self::Refused(message) => message,
            Self::Ended(end) => return end.fmt(f),
        })
    }
}

/// Explains why a worker waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// Something it needs is absent: this message says what.
    Absent(String),
    /// A port has failed more often than the budget allows; it is tried at this interval from now on.
    PortBudget {
        /// The last failure.
        failure: Failure,
        /// Restarts within the window.
        restarts: u32,
        /// Length of the window.
        window: Duration,
        /// Time between two attempts.
        every: Duration,
    },
}

impl fmt::Display for WaitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent(message) => f.write_str(message),
            Self::PortBudget { failure, restarts, window, every } => {
                write!(f, "{failure}; {restarts} restarts within {window:?}, now one every {every:?}")
            }
        }
    }
}

/// Explains why a worker is not started again.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FailReason {
    /// An error that no restart mends.
    Refused(String),
    /// It has failed more often than the budget allows.
    Budget {
        /// The last failure.
        failure: Failure,
        /// Restarts within the window.
        restarts: u32,
        /// Length of the window.
        window: Duration,
    },
    /// The actor was told to end and still runs.
    StillRuns,
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(message) => f.write_str(message),
            Self::Budget { failure, restarts, window } => {
                write!(f, "{failure}; given up after {restarts} restarts within {window:?}")
            }
            Self::StillRuns => f.write_str("told to end and still runs; its thread cannot be killed"),
        }
    }
}
