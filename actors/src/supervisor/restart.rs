//! Defines the scopes and causes of restarts, used from the actor to the API and the metrics.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ActorExit;

/// Limits what a restart rebuilds. Everything else continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestartScope {
    /// Rebuilds the handler of a live actor. Memory, sockets and packets on the rings stay. The next handler takes
    /// over the sessions.
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
    /// The actor's accounting failed: frames or packets are missing.
    Leak,
    /// The rebuilt part did not report in time.
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

/// Describes a failure that a restart answers. Messages are for people; no code reads them.
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
    /// The rebuilt part did not report within this time.
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
            Self::Late(scope, limit) => write!(f, "{scope} did not report within {limit:?} of its restart"),
            Self::Ended => f.write_str("ended without a request"),
        }
    }
}

/// Explains why an actor changed its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    /// The supervisor started it for the first time.
    FirstStart,
    /// An operator requested a start.
    StartAsked,
    /// The delay after a failure is over.
    BackoffOver,
    /// The next attempt of a waiting actor is due.
    NextTry,
    /// Something that it may wait for has appeared.
    WakeReason,
    /// The actor opened what it needs.
    Opened,
    /// A new handler serves.
    HandlerRestarted,
    /// A closed port is open again.
    PortOpened,
    /// The actor has what it waited for.
    Resumed,
    /// An operator or a reload requested a restart.
    RestartAsked,
    /// An operator requested a drain.
    DrainAsked,
    /// An operator requested a stop.
    StopAsked,
    /// It cannot work yet, for this reason.
    Waits(WaitReason),
    /// It failed for this reason.
    Failed(Failure),
    /// It failed with an error that no restart fixes.
    Refused(String),
    /// The actor did not end in time and still runs.
    StillRuns,
    /// The actor ended after a request.
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
            Self::StartAsked => "start requested",
            Self::BackoffOver => "backoff over",
            Self::NextTry => "next attempt",
            Self::WakeReason => "woken",
            Self::Opened => "opened",
            Self::HandlerRestarted => "handler restarted",
            Self::PortOpened => "reopened",
            Self::Resumed => "resumed",
            Self::RestartAsked => "restart requested",
            Self::DrainAsked => "drain requested",
            Self::StopAsked => "stop requested",
            Self::StillRuns => return FailReason::StillRuns.fmt(f),
            Self::Waits(reason) => return reason.fmt(f),
            Self::Failed(failure) => return failure.fmt(f),
            Self::Refused(message) => message,
            Self::Ended(end) => return end.fmt(f),
        })
    }
}

/// Explains why an actor waits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum WaitReason {
    /// Something that it needs is absent. The message names it.
    Absent(String),
    /// A port has failed more often than the budget allows. From now on it is reopened at this interval.
    PortBudget {
        /// The last failure.
        failure: Failure,
        /// Number of restarts within the window.
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
                write!(f, "{failure}; {restarts} restarts within {window:?}; next attempts every {every:?}")
            }
        }
    }
}

/// Explains why an actor is not restarted.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum FailReason {
    /// An error that no restart fixes.
    Refused(String),
    /// It has failed more often than the budget allows.
    Budget {
        /// The last failure.
        failure: Failure,
        /// Number of restarts within the window.
        restarts: u32,
        /// Length of the window.
        window: Duration,
    },
    /// The actor did not end in time and still runs.
    StillRuns,
}

impl fmt::Display for FailReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(message) => f.write_str(message),
            Self::Budget { failure, restarts, window } => {
                write!(f, "{failure}; not restarted after {restarts} restarts within {window:?}")
            }
            Self::StillRuns => f.write_str("did not end in time and still runs; its thread cannot be killed"),
        }
    }
}
