//! What is said between an actor and the engine.

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

/// How long an actor that is told to stop may finish what is under way.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// What is asked of each port: what it is opened from, or why it cannot be opened now.
pub type PortRequests<R> = Vec<(PortIndex, Result<R, String>)>;

/// What the supervisor tells an actor.
pub enum ActorCommand<R> {
    /// New links, routes and neighbours.
    Tables(Box<Tables>),
    /// Where packets of another queue go from now on.
    Peer {
        /// Its [place](super::QueueInfo::place).
        place: u32,
        /// Its inbox; `None` while it is down.
        address: Option<Address<Handover>>,
    },
    /// Take no new packets of a port, or take them again.
    Pause(PortIndex, bool),
    /// Packets were steered away while this actor stood still; have them steered here again.
    Steer,
    /// Start nothing new; go on serving what there is.
    Drain,
    /// Make a new handler: the old one panicked, or an operator asks for it.
    RestartHandler {
        /// Whether it takes over from the old one.
        inherit: bool,
    },
    /// Open again each port that is closed, and close and open `restart`.
    Open {
        /// One that is to be opened anew though it is open.
        restart: Option<PortIndex>,
        /// What each port is opened from; or why it cannot be opened now, and then it waits.
        requests: PortRequests<R>,
    },
    /// Close these ports, a bit each, until [`ActorCommand::Open`]: for this reason they are of no use now.
    Close(u8, String),
    /// Let something go wrong.
    Inject(DatapathFault),
    /// Describe sessions in `into`, at most as many as it has room for, and send it back.
    Sessions {
        /// Allocated by whoever asks, so that it is not here.
        into: Vec<SessionInfo>,
        /// Where to; no answer if nobody listens any more.
        reply: Sender<Vec<SessionInfo>>,
    },
    /// Steer packets away, finish what is under way within this time, and end.
    Stop(Duration),
}

impl<R> ActorCommand<R> {
    /// Whether `earlier`, if it was not obeyed yet, need not be any more once this is said.
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

    /// What a decision of the supervisor's is to an actor. `requests` is called where ports are to be opened.
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

/// What an actor tells the engine. Changes of state are told to the supervisor as
/// [`StateReport`]s.
pub enum Report {
    /// Memory and ports are open; packets are being steered here.
    Opened {
        /// As read back from the kernel.
        ports: Vec<PortInfo>,
        /// What the memory got.
        pages: PageReport,
        /// What the kernel says of it.
        seen: PagesSeen,
        /// CPUs the actor's thread may run on.
        cpus: Vec<u32>,
    },
    /// A port was opened again; all of them, as read back from the kernel.
    Ports(Vec<PortInfo>),
    /// CPUs the actor's thread may run on from now on: its own went offline, or is back.
    Cpus(Vec<u32>),
    /// Counters; dropped when the supervisor is behind.
    Snapshot(Box<QueueSnapshot>),
    /// Counters at the end of this actor, after its last packet.
    FinalSnapshot(Box<QueueSnapshot>),
    /// So many packets were lost by what failed, or was rebuilt: told before the word that it is back.
    Lost(u64),
    /// A next hop is wanted.
    Resolve {
        /// Interface it is on.
        interface: u32,
        /// Its address.
        next_hop: IpAddr,
    },
    /// Tables that are no longer used, to be freed elsewhere.
    UnusedTables(Box<Tables>),
    /// A new handler is at work: how many sessions it took over, or why none.
    Replaced(Result<u64, String>),
}

/// How an actor ended.
#[derive(Debug)]
pub enum QueueExit {
    /// It was told to.
    Stopped,
    /// Ports or memory could not be opened.
    NotOpened(PortError),
    /// The books do not balance: frames are lost. Everything is closed again.
    Leaked,
}

impl QueueExit {
    /// What it means to the supervisor.
    #[must_use]
    pub fn end(&self) -> ActorExit {
        match self {
            QueueExit::Stopped => ActorExit::Done,
            QueueExit::NotOpened(error) if error.waits() => ActorExit::Waiting(error.to_string()),
            // Transient by nature: the kernel tears sockets down late, memory may come back.
            QueueExit::NotOpened(error) if error.is_transient() => ActorExit::Failed(error.to_string()),
            QueueExit::NotOpened(error) => ActorExit::Refused(error.to_string()),
            QueueExit::Leaked => ActorExit::AccountingFailed("frames are lost: the books do not balance".to_owned()),
        }
    }
}
