//! Owns one queue's datapath and does the work between its turns. It executes the supervisor's commands, closes and
//! reopens ports, checks accounting and completions, and reports its state.
//!
//! It has no threads, no waiting and no clock: [`run`](super::run()) runs it on a core, and the simulator calls the
//! same code directly.

mod closed_ports;
mod loss_meter;

use std::sync::Arc;
use std::time::{Duration, Instant};

use oxide_actors::mailbox::Mailbox;
use oxide_actors::supervisor::{StateReport, SupervisorLink};

use super::datapath::{Datapath, DatapathParts, TurnResult};
use super::handler::{Handler, QueueInfo};
use super::messages::{ActorCommand, QueueExit, Report};
use super::peers::QueuePeers;
use super::snapshot::QueueSnapshot;
use crate::net::Tables;
use crate::port::{Backend, Opened, Port, PortError, Rss};
use crate::simd::Processor;
use crate::umem::{LayoutError, MAX_PORTS};
use closed_ports::ClosedPorts;
use loss_meter::LossMeter;

/// Sets the turns between two mailbox checks while packets flow. A check costs 2 ns, a turn at least 100 ns.
const CONTROL_EVERY: u64 = 16;
/// Sets the interval between snapshots, which is also the longest sleep.
const SNAPSHOT: Duration = Duration::from_millis(100);

/// Creates a handler on the actor's own core.
pub type HandlerFactory<H> = Arc<dyn Fn(&QueueInfo) -> H + Send + Sync>;

/// Holds the constructor arguments of an [`Actor`].
pub struct ActorSpec<B, H> {
    /// Opens memory and ports.
    pub backend: B,
    /// Makes handlers.
    pub factory: HandlerFactory<H>,
    /// The batch processor.
    pub processor: Processor,
    /// Queue number.
    pub queue: u32,
    /// Queues that the engine serves.
    pub queues: u32,
    /// Position of this queue among them.
    pub place: u32,
    /// Inbox of this queue, and the inboxes of the other queues.
    pub peers: QueuePeers,
    /// Limit of packets taken from a port at once.
    pub batch_size: usize,
    /// Polling time without packets before the actor sleeps.
    pub spin: Duration,
    /// SCHED_FIFO priority of the thread; `None` for the default policy.
    pub realtime: Option<u8>,
    /// Seed for keyed hashes.
    pub seed: u64,
    /// RSS settings of each port's NIC; `None` where they are unknown.
    pub rss: Vec<Option<Arc<Rss>>>,
    /// First tables.
    pub tables: Box<Tables>,
}

/// Runs one queue; the module documentation describes it.
pub struct Actor<B: Backend, H> {
    /// Processes the packets.
    pub datapath: Datapath<B::Port, H>,
    pub(super) mailbox: Mailbox<ActorCommand<B::OpenParams>>,
    pub(super) link: SupervisorLink<Report>,
    backend: B,
    /// Closed ports, with the reasons.
    closed_ports: ClosedPorts,
    loss_meter: LossMeter,
    factory: HandlerFactory<H>,
    info: QueueInfo,
    turns: u64,
    next_snapshot: Instant,
    stop_by: Option<Instant>,
    /// Whether the supervisor knows that the handler panicked.
    parked_reported: bool,
    draining: bool,
    drained_reported: bool,
}

impl<B: Backend, H: Handler> Actor<B, H> {
    /// Creates an actor for the ports that `spec.backend` opened, and steers packets to it. It reports nothing yet.
    ///
    /// # Errors
    /// Returns a layout error if there are too many ports, or the error of the steering.
    pub fn new(
        spec: ActorSpec<B, H>,
        (umem, opened): Opened<B::Port>,
        mailbox: Mailbox<ActorCommand<B::OpenParams>>,
        link: SupervisorLink<Report>,
        now: Instant,
    ) -> Result<Self, PortError> {
        if let (Some(first), true) = (opened.first(), opened.len() > usize::from(MAX_PORTS)) {
            let id = first.as_ref().map_or_else(|error| error.id().clone(), |port| port.info().id.clone());
            return Err(PortError::Layout { id, source: LayoutError::TooManyPorts { got: opened.len() } });
        }
        let (closed_ports, infos, ports) = closed_ports::sort(opened);
        let info = QueueInfo {
            queue: spec.queue,
            queues: spec.queues,
            place: spec.place,
            ports: infos,
            rss: spec.rss,
            changes: 0,
            processor: spec.processor,
            seed: spec.seed,
        };
        let parts = DatapathParts {
            umem,
            ports,
            handler: (spec.factory)(&info),
            processor: spec.processor,
            info: info.clone(),
            peers: spec.peers,
            batch_size: spec.batch_size,
        };
        let mut datapath = Datapath::new(parts, now);
        datapath.set_tables(spec.tables);
        datapath.steer(true)?;
        Ok(Self {
            datapath,
            mailbox,
            link,
            backend: spec.backend,
            closed_ports,
            loss_meter: LossMeter::default(),
            factory: spec.factory,
            info,
            turns: 0,
            next_snapshot: now,
            stop_by: None,
            parked_reported: false,
            draining: false,
            drained_reported: false,
        })
    }

    /// Sends the first state report: running, or waiting for a port.
    pub fn begin(&self) {
        self.link.report_state(self.closed_ports.state_report());
    }

    /// Executes the kernel side of a turn, after [`Datapath::work`], and increments the heartbeat. Closes a failed
    /// port.
    pub fn kick(&mut self) -> TurnResult {
        let turn = self.datapath.kick().unwrap_or_else(|(port, error)| {
            self.close_failed_port(port, &error);
            TurnResult::default()
        });
        self.link.beat();
        self.turns += 1;
        turn
    }

    /// Returns whether [`control`](Self::control) is due after a turn with this number of packets.
    pub fn is_due(&self, packets: usize) -> bool {
        packets == 0 || self.turns.is_multiple_of(CONTROL_EVERY)
    }

    /// Returns whether [`control`](Self::control) has a message to read or a snapshot to send.
    pub(super) fn is_called(&self, now: Instant) -> bool {
        !self.mailbox.is_empty() || now >= self.next_snapshot
    }

    /// Returns the time for which only packets and messages need attention.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        self.closed_ports.patience().min(self.next_snapshot.saturating_duration_since(now)).min(SNAPSHOT)
    }

    /// Executes commands and sends reports. Returns the exit when the actor must end.
    pub fn control(&mut self, now: Instant, packets: usize) -> Option<QueueExit> {
        while let Some(command) = self.mailbox.try_recv() {
            self.handle_command(command, now);
        }
        if let Some(message) = self.datapath.handler_panic()
            && !self.parked_reported
        {
            self.parked_reported = true;
            self.loss_meter.begin(&self.datapath);
            self.link.report_state(StateReport::SoftFailed(message.to_owned()));
        }
        self.reopen(now);
        for (interface, next_hop) in self.datapath.requests() {
            // A full channel discards the request; a later packet repeats it.
            self.link.telemetry(Report::Resolve { interface, next_hop });
        }
        if now >= self.next_snapshot {
            self.next_snapshot = now + SNAPSHOT;
            if !self.datapath.balanced() {
                return Some(QueueExit::Leaked);
            }
            self.look(now);
            let snapshot = Box::new(self.snapshot());
            self.link.telemetry(Report::Snapshot(snapshot));
            let empty = self.draining && self.datapath.handler().sessions() == 0 && self.datapath.quiescent();
            if empty && !self.drained_reported {
                self.drained_reported = true;
                self.link.report_state(StateReport::Drained);
            }
        }
        let quiet = packets == 0 && self.stop_by.is_some() && self.datapath.quiescent();
        (quiet || self.stop_by.is_some_and(|by| now >= by)).then_some(QueueExit::Stopped)
    }

    /// Ends the actor after its last turn. It stops steering before the sockets close, so that the program's fallback
    /// applies at once.
    pub fn end(&mut self) {
        if let Err(error) = self.datapath.steer(false) {
            tracing::debug!(%error, "cannot stop steering before the sockets close");
        }
    }

    /// Sends the counters after the last packet.
    pub fn send_final_snapshot(&mut self) {
        let last = Box::new(self.snapshot());
        self.link.report(Report::FinalSnapshot(last));
    }

    /// Closes ports that failed without an error from the kernel.
    fn look(&mut self, now: Instant) {
        while let Some((port, error)) = self.datapath.find_failed_port(now) {
            self.close_failed_port(port, &error);
        }
    }

    fn handle_command(&mut self, command: ActorCommand<B::OpenParams>, now: Instant) {
        match command {
            ActorCommand::Tables(tables) => {
                let old = self.datapath.set_tables(tables);
                self.link.telemetry(Report::UnusedTables(old));
                self.look(now);
            }
            ActorCommand::Peer { place, address } => self.datapath.set_peer(place, address),
            ActorCommand::Pause(port, paused) => self.datapath.set_paused(port, paused),
            ActorCommand::Steer if self.stop_by.is_some() => {}
            ActorCommand::Steer => {
                // Steering is stopped first, because the ports do not know that the engine removed them from the map.
                if let Err(error) = self.datapath.steer(false).and_then(|()| self.datapath.steer(true)) {
                    tracing::warn!(%error, "steering on again");
                }
            }
            ActorCommand::Drain => {
                self.draining = true;
                self.datapath.set_draining(true);
            }
            ActorCommand::RestartHandler { inherit } => self.restart_handler(inherit),
            ActorCommand::Open { restart, requests } => self.open_ports(restart, requests, now),
            ActorCommand::Close(ports, why) => self.close(ports, &why),
            ActorCommand::Inject(fault) => self.datapath.inject(fault),
            ActorCommand::Sessions { mut into, reply } => {
                self.datapath.handler().describe_sessions(into.capacity(), &mut into);
                let _ = reply.try_send(into);
            }
            ActorCommand::Stop(within) => {
                self.datapath.set_draining(true);
                self.stop_by = Some(now + within);
                if let Err(error) = self.datapath.steer(false) {
                    tracing::warn!(%error, "steering off while stopping");
                }
            }
        }
    }

    fn restart_handler(&mut self, inherit: bool) {
        self.info = self.info.for_next_handler();
        let (factory, info) = (&self.factory, &self.info);
        match self.datapath.replace_handler(|| factory(info), inherit) {
            Ok(kept) => {
                self.parked_reported = false;
                self.report_state();
                self.link.report(Report::Replaced(kept));
            }
            Err(message) => {
                self.link.report_state(StateReport::SoftFailed(format!(
                    "the new handler panicked while it was made: {message}"
                )));
            }
        }
    }

    fn snapshot(&mut self) -> QueueSnapshot {
        QueueSnapshot::take(&mut self.datapath, self.info.queue)
    }
}

#[cfg(test)]
mod tests;
