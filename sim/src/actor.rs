//! Runs one queue of the simulation: the engine's own [`Actor`] over simulated ports, one turn per step. It replaces
//! `engine/controller.rs`, which does the same with a thread: start an actor, send commands, report its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oxide_actors::heartbeat::HeartbeatMonitor;
use oxide_actors::mailbox::{Address, Inbox, Mailbox, MailboxError, mailbox};
use oxide_actors::supervisor::{self, ActorExit, ActorId, LinkReceiver, SupervisorLink};

use super::app::{App, AppHandler};
use super::forward::PanicHandler;
use oxide::port::sim::{SimBackend, SimNet};
use oxide::port::{Backend, QueueId};
use oxide::queue::{
    Actor, ActorCommand, ActorSpec, Handover, PortRequests, QueueCounters, QueueExit, QueuePeers, QueueSnapshot, Report,
};
use oxide::simd::Processor;
use oxide::umem::PortIndex;

/// Limits the commands that wait for one actor, as in the engine.
const COMMANDS: usize = 64;
/// Limits the handed over packets that wait for one actor, as in the engine.
const HANDOVERS: usize = 512;
/// Limits the time of retries while a queue is busy, as in the AF_XDP port.
const BUSY_DEADLINE: Duration = Duration::from_secs(2);

/// Is the handler type of every simulated actor.
type H = PanicHandler<AppHandler>;
type SimQueueActor = Actor<SimBackend, H>;

/// Sums the counters and losses of an actor's ended runs.
#[derive(Debug, Clone, Default)]
pub(super) struct Ended {
    pub(super) counters: QueueCounters,
    /// Counts ended runs.
    pub(super) generations: u64,
    /// Counts packets that waited for a TX ring or a next hop when a run ended.
    pub(super) in_hand: u64,
    /// Counts descriptors that the ledger refused.
    pub(super) bad_descriptors: u64,
}

impl Ended {
    /// Adds the final snapshot of a run.
    pub(super) fn add(&mut self, last: &QueueSnapshot) {
        add(&mut self.counters, &last.counters);
        self.generations += 1;
        self.in_hand += u64::from(last.in_hand);
        self.bad_descriptors += last.ports.iter().map(|port| port.counters.bad_descriptors).sum::<u64>();
    }
}

enum Phase {
    Down,
    Opening { by: Instant, parts: Box<Opening> },
    Up(Box<SimQueueActor>),
}

struct Opening {
    spec: ActorSpec<SimBackend, H>,
    mailbox: Mailbox<ActorCommand<QueueId>>,
    link: SupervisorLink<Report>,
}

pub(super) struct SimActor {
    pub(super) id: ActorId,
    pub(super) queue: u32,
    pub(super) ids: Vec<QueueId>,
    pub(super) ended: Ended,
    /// Makes the handler panic at its next batch while true.
    pub(super) fuse: Arc<AtomicBool>,
    /// Counts the steps in which the actor gets no CPU time.
    pub(super) stalled: u32,
    /// Reads the actor's heartbeat; `None` without a running actor.
    pub(super) watch: Option<HeartbeatMonitor>,
    pub(super) generation: u64,
    queues: u32,
    net: SimNet,
    app: Arc<App>,
    phase: Phase,
    commands: Option<Address<ActorCommand<QueueId>>>,
    /// Holds commands that found the mailbox full, in order.
    unsent: VecDeque<ActorCommand<QueueId>>,
}

impl SimActor {
    pub(super) fn new(queue: u32, queues: u32, ids: Vec<QueueId>, net: &SimNet, app: &Arc<App>) -> Self {
        Self {
            id: ActorId(queue as usize),
            queue,
            ids,
            ended: Ended::default(),
            fuse: Arc::default(),
            stalled: 0,
            watch: None,
            generation: 0,
            queues,
            net: net.clone(),
            app: app.clone(),
            phase: Phase::Down,
            commands: None,
            unsent: VecDeque::new(),
        }
    }

    pub(super) fn run_actor(&mut self) -> Option<&mut SimQueueActor> {
        match &mut self.phase {
            Phase::Up(queue_actor) => Some(queue_actor),
            _ => None,
        }
    }

    /// Starts run `generation`; returns the address for handed over packets.
    pub(super) fn start(
        &mut self,
        generation: u64,
        line: &LinkReceiver<Report>,
        others: &[Option<Address<Handover>>],
        now: Instant,
    ) -> Result<Address<Handover>, ActorExit> {
        let refused = |error: MailboxError| ActorExit::Refused(error.to_string());
        let (commands, mailbox) = mailbox(COMMANDS).map_err(refused)?;
        let (handovers, inbox) = Inbox::with_doorbell(HANDOVERS, mailbox.doorbell()).map_err(refused)?;
        let mut peers = QueuePeers::new(inbox, self.queues);
        for (queue, address) in (0..).zip(others).filter(|&(queue, _)| queue != self.queue) {
            peers.set(queue, address.clone());
        }
        let (app, fuse) = (self.app.clone(), self.fuse.clone());
        let spec = ActorSpec {
            backend: SimBackend::new(&self.net, &self.ids),
            factory: Arc::new(move |info| PanicHandler::new(app.handler(info), fuse.clone())),
            processor: Processor::detect(),
            queue: self.queue,
            queues: self.queues,
            place: self.queue,
            peers,
            batch_size: 64,
            spin: Duration::ZERO,
            realtime: None,
            // Each run has another seed, as in the engine.
            seed: u64::from(self.queue) << 32 ^ generation,
            rss: vec![None; self.ids.len()],
            tables: Box::new(self.app.tables(&self.net)),
        };
        let (link, watch) = line.link(self.id, generation, now);
        self.generation = generation;
        self.watch = Some(watch);
        self.commands = Some(commands);
        self.phase = Phase::Opening { by: now + BUSY_DEADLINE, parts: Box::new(Opening { spec, mailbox, link }) };
        Ok(handovers)
    }

    /// Sends a decision of the supervisor to the actor.
    pub(super) fn command(&mut self, decision: supervisor::SupervisorCommand) {
        let command = ActorCommand::of(decision, || self.requests());
        self.send(command);
    }

    fn requests(&self) -> PortRequests<QueueId> {
        let request = |(port, id): (PortIndex, &QueueId)| {
            let there = self.net.ifindex(&id.interface).map(|_| id.clone());
            (port, there.ok_or_else(|| format!("interface {} does not exist", id.interface)))
        };
        PortIndex::ALL.into_iter().zip(&self.ids).map(request).collect()
    }

    /// Sends a command. While the mailbox is full, commands wait in `unsent` in order.
    pub(super) fn send(&mut self, command: ActorCommand<QueueId>) {
        if self.commands.is_some() {
            self.unsent.push_back(command);
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        let Some(address) = &self.commands else { return };
        while let Some(command) = self.unsent.pop_front() {
            if let Err(full) = address.try_send(command) {
                self.unsent.push_front(full.into_inner());
                break;
            }
        }
    }

    /// Runs one turn of the actor's loop, as [`run`](oxide::queue::run()) does. Returns the exit if the actor ended.
    pub(super) fn turn(&mut self, now: Instant) -> Option<ActorExit> {
        if self.stalled > 0 {
            self.stalled -= 1;
            return None;
        }
        if !self.unsent.is_empty() {
            self.deliver();
        }
        if matches!(self.phase, Phase::Opening { .. }) {
            return self.open(now).err();
        }
        let Phase::Up(actor) = &mut self.phase else { return None };
        let packets = actor.datapath.work(now);
        actor.kick();
        if !actor.is_due(packets) {
            return None;
        }
        let exit = actor.control(now, packets)?;
        actor.end();
        actor.send_final_snapshot();
        self.go_down();
        Some(exit.end())
    }

    fn open(&mut self, now: Instant) -> Result<(), ActorExit> {
        let Phase::Opening { by, mut parts } = std::mem::replace(&mut self.phase, Phase::Down) else { return Ok(()) };
        let actor = match parts.spec.backend.open_available() {
            Err(error) if error.is_busy() && now < by => {
                self.phase = Phase::Opening { by, parts };
                return Ok(());
            }
            Ok(opened) => Actor::new(parts.spec, opened, parts.mailbox, parts.link, now),
            Err(error) => Err(error),
        };
        match actor {
            Ok(actor) => {
                actor.begin();
                self.phase = Phase::Up(Box::new(actor));
                Ok(())
            }
            Err(error) => {
                self.go_down();
                Err(QueueExit::NotOpened(error).end())
            }
        }
    }

    fn go_down(&mut self) {
        self.phase = Phase::Down;
        (self.commands, self.watch) = (None, None);
        self.unsent.clear();
    }

    /// Runs the kernel's step for each port of this actor, also while the actor is stalled.
    pub(super) fn run_kernel(&mut self) {
        if let Phase::Up(actor) = &mut self.phase {
            let (umem, ports) = actor.datapath.kernel_side();
            for port in ports {
                port.run_kernel(umem);
            }
        }
    }

    /// Returns the counters of all runs of this actor.
    pub(super) fn counters(&mut self) -> QueueCounters {
        let mut sum = self.ended.counters.clone();
        if let Some(actor) = self.run_actor() {
            add(&mut sum, actor.datapath.counters());
        }
        sum
    }

    /// Returns the number of descriptors that the ledger refused.
    pub(super) fn bad_descriptors(&mut self) -> u64 {
        let ports = PortIndex::first(self.ids.len());
        let now = self
            .run_actor()
            .map_or(0, |actor| ports.map(|port| actor.datapath.port_counters(port).0.bad_descriptors).sum());
        self.ended.bad_descriptors + now
    }

    pub(super) fn arm_panic(&self) -> bool {
        self.fuse.swap(true, Ordering::Relaxed)
    }
}

fn add(sum: &mut QueueCounters, more: &QueueCounters) {
    sum.received += more.received;
    sum.taken_over += more.taken_over;
    sum.forwarded += more.forwarded;
    sum.handed_over += more.handed_over;
    sum.drops.merge(&more.drops);
    sum.batches.merge(&more.batches);
    sum.turns += more.turns;
}
