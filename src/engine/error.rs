//! Errors of the engine's API. Each names its subject, what is wrong, and a remedy where one exists.

use std::error::Error;
use std::time::Duration;
use std::{fmt, io};

use oxide_actors::supervisor::{CommandRefused, SupervisorError};
use oxide_topology::{Refusal, SnapshotError};

use crate::config::ConfigError;
use crate::net::NetError;
use crate::port::QueueId;
use crate::simd::Level;
use crate::umem::LayoutError;
use crate::xdp::steering::SteeringError;

/// Reports why an engine did not start, or why it did not carry out a command.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// A configuration value is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The planned machine was made for other interfaces.
    #[error(
        "planned machine: made for interfaces {}; expected those of the configuration, {}; to fix: make it from the \
         configuration that the engine is built with",
        planned.join(", "),
        configured.join(", ")
    )]
    OtherMachine {
        /// Interfaces of the plan.
        planned: Vec<String>,
        /// Interfaces of the configuration.
        configured: Vec<String>,
    },
    /// The planner refused, with all reasons.
    #[error(transparent)]
    Plan(#[from] Refusal),
    /// The CPU, memory and NIC layout could not be read.
    #[error("machine: cannot read CPUs, memory and NICs: {0}")]
    Snapshot(#[from] SnapshotError),
    /// An interface cannot be used.
    #[error(
        "{interface}: cannot use this interface: {source}; expected an interface of this network namespace; to fix: \
         choose one that `ip -br link` lists"
    )]
    Interface {
        /// Name of the interface.
        interface: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// The XDP program of an interface could not be attached or changed.
    #[error("{}{source}", if source.interface() == Some(interface) { String::new() } else { format!("{interface}: ") })]
    Steering {
        /// Name of the interface.
        interface: String,
        /// The reason.
        source: SteeringError,
    },
    /// The destinations have more addresses than one XDP program can hold.
    #[error(
        "destinations: too many addresses: {found}; expected at most {limit}; to fix: listen on fewer addresses, or \
         divide them among several relays"
    )]
    TooManyDestinations {
        /// Number of addresses.
        found: usize,
        /// Maximum.
        limit: usize,
    },
    /// A change of the destinations failed on one interface and could not be reverted on another one. Some destinations
    /// are not steered now.
    #[error(
        "{change}; the former destinations could not be restored either: {rollback}; some are not steered now; to fix: \
         restart the process"
    )]
    DestinationsInPart {
        /// Error of the change.
        change: Box<EngineError>,
        /// Error of the rollback.
        rollback: SteeringError,
    },
    /// The rings cannot have this size.
    #[error(transparent)]
    Rings(#[from] LayoutError),
    /// Links, addresses, routes or neighbours could not be read.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A supervision limit is out of range.
    #[error("supervision.{field}: out of range: {value:?}; expected {min:?} to {max:?}")]
    SupervisionRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: Duration,
        /// Smallest allowed value.
        min: Duration,
        /// Largest allowed value.
        max: Duration,
    },
    /// The delays between restarts contradict each other.
    #[error(
        "supervision.backoff_min: {min:?} is above backoff_max, {max:?}; expected at most that; to fix: exchange the two"
    )]
    SupervisionBackoff {
        /// Value of `backoff_min`.
        min: Duration,
        /// Value of `backoff_max`.
        max: Duration,
    },
    /// The build or the CPU lacks the configured vector instructions.
    #[error(
        "simd: {wanted} is not available; expected one of {}; to fix: set simd = \"auto\"",
        available.iter().map(|level| level.name()).collect::<Vec<_>>().join(", ")
    )]
    Simd {
        /// Configured level.
        wanted: Level,
        /// Levels of this CPU.
        available: Vec<Level>,
    },
    /// A thread, a channel or a descriptor could not be created.
    #[error("{step}: {source}")]
    Resources {
        /// The failed step.
        step: &'static str,
        /// The reason.
        source: Box<dyn Error + Send + Sync>,
    },
    /// A queue could not open its sockets at start.
    #[error("queue {queue}: {reason}")]
    NotOpened {
        /// Number of the queue.
        queue: u32,
        /// Its last event.
        reason: String,
    },
    /// The queues were not in the awaited state in time.
    #[error("queues: not ready within {within:?}: {}", states.join("; "))]
    NotReached {
        /// The time limit.
        within: Duration,
        /// State of each queue.
        states: Vec<String>,
    },
    /// The engine does not serve this queue.
    #[error("{queue}: no such queue; expected one of {}", list(available))]
    NoSuchQueue {
        /// The requested queue.
        queue: QueueId,
        /// The queues of this engine.
        available: Vec<QueueId>,
    },
    /// A command is not possible in the queue's present state.
    #[error("{queue}: cannot {action}: {reason}")]
    NotNow {
        /// The command: a verb with its object.
        action: &'static str,
        /// The queue.
        queue: QueueId,
        /// The reason.
        reason: NotNow,
    },
    /// The queue's actor did not answer in time.
    #[error("{queue}: no answer within {within:?}; to fix: see its state in `status`, and restart it if it is stalled")]
    NoAnswer {
        /// The queue.
        queue: QueueId,
        /// The time limit.
        within: Duration,
    },
    /// A reload brought handlers of another type than the engine was built with.
    #[error(
        "handlers: the engine was not built with type {given}; expected the same type; to fix: start a new engine for \
         another type"
    )]
    OtherHandler {
        /// The type of the reload.
        given: &'static str,
    },
    /// The engine has stopped, or is stopping.
    #[error("the engine has stopped; to fix: start a new one")]
    Ended,
}

impl EngineError {
    /// Returns a function that reports the failure of `step`.
    pub(super) fn resources<E: Into<Box<dyn Error + Send + Sync>>>(step: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::Resources { step, source: source.into() }
    }
}

/// States why a queue cannot execute a command now.
#[derive(Debug)]
#[non_exhaustive]
pub enum NotNow {
    /// The queue's mailbox is full.
    MailboxFull,
    /// The queue is not running.
    NotRunning,
    /// The queue is ending.
    Ending,
    /// The supervisor did not accept the command.
    Supervisor(SupervisorError),
}

impl fmt::Display for NotNow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use CommandRefused::{Draining, Opening, RebuildInProgress, StillRuns};
        use SupervisorError::{Busy, Refused};
        f.write_str(match self {
            Self::MailboxFull => "its mailbox is full; to fix: try again",
            Self::NotRunning => "it is not running; to fix: see the reason in `status`",
            Self::Ending => "it is ending; to fix: try again",
            Self::Supervisor(Busy) => "too many requests are waiting; to fix: try again",
            Self::Supervisor(Refused(Draining { .. })) => "it is draining; to fix: restart it after it has stopped",
            Self::Supervisor(Refused(Opening { .. })) => {
                "it is opening and has no handler yet; to fix: wait, or restart the whole queue"
            }
            Self::Supervisor(Refused(RebuildInProgress { .. })) => {
                "a restart is in progress; to fix: wait until it runs"
            }
            Self::Supervisor(Refused(StillRuns { .. })) => {
                "its handler does not return; to fix: restart the process, nothing else frees its thread"
            }
            Self::Supervisor(other) => return other.fmt(f),
        })
    }
}

fn list(queues: &[QueueId]) -> String {
    queues.iter().map(QueueId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steering_error_names_its_interface_once() {
        let of = |source| EngineError::Steering { interface: "eth0".to_owned(), source }.to_string();
        let named = of(SteeringError::NoInterface { interface: "eth0".to_owned() });
        let unnamed = of(SteeringError::NotPermitted { step: "load", reason: "CAP_BPF missing".to_owned() });
        for text in [&named, &unnamed] {
            assert_eq!(text.matches("eth0").count(), 1, "{text}");
        }
        assert!(unnamed.starts_with("eth0: cannot load: not permitted"), "{unnamed}");
    }

    #[test]
    fn refused_command_names_queue_action_and_remedy() {
        let reason = NotNow::Supervisor(SupervisorError::Busy);
        let error = EngineError::NotNow { action: "restart", queue: QueueId::new("eth0", 3), reason };
        assert_eq!(error.to_string(), "eth0:3: cannot restart: too many requests are waiting; to fix: try again");
    }
}
