//! Defines the messages between an actor and the engine.

use std::net::IpAddr;
use std::time::Duration;

use crossbeam_channel::Sender;
use oxide_actors::mailbox::Address;
#[cfg(doc)]
use oxide_actors::supervisor::StateReport;
use oxide_actors::supervisor::{self, ActorExit};

use super::datapath::DatapathFault;
use super::handler::SessionInfo;
use super::peers::Handover;
use super::snapshot::QueueSnapshot;
use crate::net::Tables;
use crate::port::{PortError, PortInfo};
use crate::umem::{PageReport, PagesSeen, PortIndex};

/// Limits the time in which a stopping actor may finish packets in progress.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// Holds for each port the parameters to open it with, or the reason why it cannot be opened now.
pub type PortRequests<R> = Vec<(PortIndex, Result<R, String>)>;

/// Lists the commands that the supervisor thread sends to an actor.
pub enum ActorCommand<R> {
    /// Replaces links, routes and neighbours.
    Tables(Box<Tables>),
    /// Sets the inbox for packets that belong to another queue.
    Peer {
        /// Position of the other queue ([`QueueInfo::place`](super::QueueInfo::place)).
        place: u32,
        /// Inbox of the other queue; `None` while it is down.
        address: Option<Address<Handover>>,
    },
    /// Stops receiving from a port (`true`), or resumes (`false`).
    Pause(PortIndex, bool),
    /// Steers packets to this actor again, after the supervisor steered them away while it was stuck.
    Steer,
    /// Starts no new sessions and continues to serve the existing ones.
    Drain,
    /// Replaces the handler, because it panicked or because an operator requested it.
    RestartHandler {
        /// Whether the new handler takes over state from the old one.
        inherit: bool,
    },
    /// Opens every closed port, and closes and reopens `restart`.
    Open {
        /// Port to reopen although it is open.
        restart: Option<PortIndex>,
        /// Parameters for each port. A port with an error stays closed.
        requests: PortRequests<R>,
    },
    /// Closes the ports in this bit mask until [`ActorCommand::Open`]. The text is the reason.
    Close(u8, String),
    /// Injects a fault into this queue.
    Inject(DatapathFault),
    /// Describes sessions in `into`, up to its capacity, and sends it to `reply`.
    Sessions {
        /// Buffer from the requester, so that this thread allocates nothing.
        into: Vec<SessionInfo>,
        /// Channel for the answer. The answer is discarded if the receiver is closed.
        reply: Sender<Vec<SessionInfo>>,
    },
    /// Steers packets away, finishes packets in progress within this time, and ends.
    Stop(Duration),
}

impl<R> ActorCommand<R> {
    /// Returns whether this command makes an unexecuted `earlier` command unnecessary.
    #[must_use]
    pub fn supersedes(&self, earlier: &Self) -> bool {
        match (self, earlier) {
            (Self::Tables(_), Self::Tables(_)) | (Self::Steer, Self::Steer) => true,
            (Self::Pause(port, _), Self::Pause(other, _)) => port == other,
            (Self::Peer { place, .. }, Self::Peer { place: other, .. }) => place == other,
            (Self::Close(ports, _), Self::Close(others, _)) => ports & others == *others,
            _ => false,
        }
    }

    /// Converts a supervisor command. Calls `requests` if the command opens ports.
    pub fn of(decision: supervisor::SupervisorCommand, requests: impl FnOnce() -> PortRequests<R>) -> Self {
        match decision {
            supervisor::SupervisorCommand::Stop => Self::Stop(STOP_WITHIN),
            supervisor::SupervisorCommand::Drain { .. } => Self::Drain,
            supervisor::SupervisorCommand::RestartHandler { inherit } => Self::RestartHandler { inherit },
            supervisor::SupervisorCommand::RestartPart(part) => {
                Self::Open { restart: PortIndex::new(part.into()), requests: requests() }
            }
            supervisor::SupervisorCommand::ReopenParts => Self::Open { restart: None, requests: requests() },
        }
    }
}

/// Lists the reports that an actor sends to the engine. State changes go to the supervisor as [`StateReport`]s.
pub enum Report {
    /// Reports that memory and ports are open and that packets are steered to this actor.
    Opened {
        /// Ports, as read back from the kernel.
        ports: Vec<PortInfo>,
        /// Pages that the memory was given.
        pages: PageReport,
        /// Pages that the kernel reports for the memory.
        seen: PagesSeen,
        /// CPUs that the actor's thread may run on.
        cpus: Vec<u32>,
        /// Reason why the kernel refused the configured real-time priority; `None` if it did not.
        realtime_refused: Option<String>,
    },
    /// Reports that a port was reopened. Lists all ports, as read back from the kernel.
    Ports(Vec<PortInfo>),
    /// Reports the CPUs that the actor's thread may run on, after its own CPU went offline or came back.
    Cpus(Vec<u32>),
    /// Carries counters. It is discarded if the supervisor is behind.
    Snapshot(Box<QueueSnapshot>),
    /// Carries the counters after this actor's last packet.
    FinalSnapshot(Box<QueueSnapshot>),
    /// Reports the packets lost by a failure or a rebuild. It is sent before the state report of the recovery.
    Lost(u64),
    /// Requests the resolution of a next hop.
    Resolve {
        /// Interface number towards the next hop.
        interface: u32,
        /// Address of the next hop.
        next_hop: IpAddr,
    },
    /// Returns unused tables, so that another thread frees them.
    UnusedTables(Box<Tables>),
    /// Reports that a new handler is running: the number of sessions it took over, or why it took none.
    Replaced(Result<u64, String>),
}

/// States how an actor ended.
#[derive(Debug)]
pub enum QueueExit {
    /// The actor received [`ActorCommand::Stop`].
    Stopped,
    /// The ports or the memory could not be opened.
    NotOpened(PortError),
    /// Frame accounting failed: frames are missing. All ports are closed.
    Leaked,
}

impl QueueExit {
    /// Converts to the exit that the supervisor handles.
    #[must_use]
    pub fn end(&self) -> ActorExit {
        match self {
            QueueExit::Stopped => ActorExit::Done,
            QueueExit::NotOpened(error) if error.waits() => ActorExit::Waiting(error.to_string()),
            // These errors are temporary: the kernel tears sockets down late, and memory may become free.
            QueueExit::NotOpened(error) if error.is_transient() => ActorExit::Failed(error.to_string()),
            QueueExit::NotOpened(error) => ActorExit::Refused(error.to_string()),
            QueueExit::Leaked => ActorExit::AccountingFailed(
                "frame accounting failed: frames are missing; to fix: none needed, the queue restarts; please report \
                 the log"
                    .to_owned(),
            ),
        }
    }
}
