//! The actor of one queue: its worker, and what is done between the worker's turns. It obeys the supervisor,
//! closes ports and opens them again, looks after books and completions, and says how it is.
//!
//! No threads, no waiting, no clock of its own: [`run`](super::run()) gives it a core's time, and the simulator turns
//! the same actor by hand.

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

/// Turns between two looks into the mailbox while packets flow: a look costs 2 ns, a turn 100 or more.
const CONTROL_EVERY: u64 = 16;
/// How often a snapshot goes to the supervisor, and the longest sleep.
const SNAPSHOT: Duration = Duration::from_millis(100);

/// Makes a handler on the actor's own core.
pub type HandlerFactory<H> = Arc<dyn Fn(&QueueInfo) -> H + Send + Sync>;

/// What one actor is made of.
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
    /// Position of this one among them.
    pub place: u32,
    /// Other queues.
    pub peers: QueuePeers,
    /// Packets taken from a port at once.
    pub batch_size: usize,
    /// How long to poll without packets before sleeping.
    pub spin: Duration,
    /// SCHED_FIFO priority of the thread, if any.
    pub realtime: Option<u8>,
    /// Seed for keyed hashes.
    pub seed: u64,
    /// How the NIC of each port spreads flows, where that is known.
    pub rss: Vec<Option<Arc<Rss>>>,
    /// Tables to begin with.
    pub tables: Box<Tables>,
}

/// See the module's documentation.
pub struct Actor<B: Backend, H> {
    /// The packets between its turns.
    pub datapath: Datapath<B::Port, H>,
    pub(super) mailbox: Mailbox<ActorCommand<B::OpenParams>>,
    pub(super) link: SupervisorLink<Report>,
    backend: B,
    /// Ports that are closed, and what becomes of them.
    closed_ports: ClosedPorts,
    loss_meter: LossMeter,
    factory: HandlerFactory<H>,
    info: QueueInfo,
    turns: u64,
    next_snapshot: Instant,
    stop_by: Option<Instant>,
    /// The supervisor knows that the handler panicked.
    parked_reported: bool,
    draining: bool,
    drained_reported: bool,
}

impl<B: Backend, H: Handler> Actor<B, H> {
    /// An actor over what `spec.backend` has opened, packets being steered to it. It has said nothing yet.
    ///
    /// # Errors
    /// Steering's refusal.
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

    /// The first word: it is at work, or waits for a part.
    pub fn begin(&self) {
        self.link.report_state(self.closed_ports.state_report());
    }

    /// The kernel's share of a turn, after [`Datapath::work`]; the heart beats. A port that is of no more use is closed.
    pub fn kick(&mut self) -> TurnResult {
        let turn = self.datapath.kick().unwrap_or_else(|(port, error)| {
            self.close_failed_port(port, &error);
            TurnResult::default()
        });
        self.link.beat();
        self.turns += 1;
        turn
    }

    /// Whether it is time for [`control`](Self::control) after a turn with so many packets.
    pub fn is_due(&self, packets: usize) -> bool {
        packets == 0 || self.turns.is_multiple_of(CONTROL_EVERY)
    }

    /// Whether [`control`](Self::control) has more to do than to look.
    pub(super) fn is_called(&self, now: Instant) -> bool {
        !self.mailbox.is_empty() || now >= self.next_snapshot
    }

    /// How long nothing is to be done but for packets and messages.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        self.closed_ports.patience().min(self.next_snapshot.saturating_duration_since(now)).min(SNAPSHOT)
    }

    /// Messages, reports, and whether it is time to end.
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
            // Not taken: a later packet asks again.
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

    /// The last turn is done. Steering off before the sockets close, so that packets take the program's fallback at
    /// once.
    pub fn end(&mut self) {
        if let Err(error) = self.datapath.steer(false) {
            tracing::debug!(%error, "steering off while closing");
        }
    }

    /// Counters after the last packet.
    pub fn send_final_snapshot(&mut self) {
        let last = Box::new(self.snapshot());
        self.link.report(Report::FinalSnapshot(last));
    }

    /// Closes ports that are of no more use and cannot say so themselves.
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
                // Off first: the ports do not know that somebody else took them out of the map.
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
