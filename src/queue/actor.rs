//! The actor of one queue: turns its worker on its own core, sleeps when there is nothing to do,
//! obeys the supervisor, and says its last words.
//!
//! ```text
//!          packets                no packets for `spin`
//!   busy <---------> spin ------------------------------> sleep (sockets, doorbell, 100 ms at most)
//!     ^                                                      |
//!     +------------------- packet or message ----------------+
//! ```

mod away;
mod costs;

use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use oxide_actors::executor::Runtime;
use oxide_actors::mailbox::Mailbox;
use oxide_actors::supervisor::{Link, Word};

use super::counters::Regime;
use super::handler::{Handler, QueueInfo};
use super::messages::{Command, Exit, Report};
use super::peers::Peers;
use super::realtime;
use super::snapshot::QueueSnapshot;
use super::worker::{Parts, Turn, Worker};
use crate::net::Tables;
use crate::port::{Backend, Port, PortError, Rss};
use crate::simd::Processor;
use crate::umem::MAX_PORTS;
use away::Away;
use costs::Costs;

/// Turns between two looks into the mailbox while packets flow: a look costs 2 ns, a turn 100 or more.
const CONTROL_EVERY: u64 = 16;
/// How often a snapshot goes to the supervisor, and the longest sleep.
const SNAPSHOT: Duration = Duration::from_millis(100);
/// How long a kernel that has not taken everything yet is asked again without a pause.
const KICK_PATIENCE: Duration = Duration::from_millis(1);

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
    /// Queues of the engine.
    pub queues: u32,
    /// Other queues.
    pub peers: Peers,
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

/// Runs an actor until it is told to stop or its ports fail. The root future of its executor.
pub async fn run<B: Backend, H: Handler>(
    spec: ActorSpec<B, H>,
    runtime: Runtime,
    mailbox: Mailbox<Command<B::Request>>,
    link: Link<Report>,
) -> Exit {
    let mut actor = match Actor::open(spec, mailbox, link) {
        Ok(actor) => actor,
        Err(error) => return Exit::NotOpened(error),
    };
    let ended = actor.turns(&runtime).await;
    // Steering off before the sockets close, so that packets take the program's fallback at once.
    if let Err(error) = actor.worker.steer(false) {
        tracing::debug!(%error, "steering off while closing");
    }
    actor.enter(Regime::Control);
    let last = Box::new(actor.snapshot());
    actor.link.report(Report::Last(last));
    ended
}

struct Actor<B: Backend, H> {
    worker: Worker<B::Port, H>,
    backend: B,
    /// Ports that are closed, and what becomes of them.
    away: Away,
    costs: Costs,
    factory: HandlerFactory<H>,
    info: QueueInfo,
    mailbox: Mailbox<Command<B::Request>>,
    link: Link<Report>,
    spin: Duration,
    /// Where time goes now, and since when: each moment is booked once.
    regime: Regime,
    since: Instant,
    next_snapshot: Instant,
    stop_by: Option<Instant>,
    /// The supervisor knows that the handler panicked.
    parked_told: bool,
    draining: bool,
    drained_told: bool,
}

impl<B: Backend, H: Handler> Actor<B, H> {
    fn open(
        mut spec: ActorSpec<B, H>,
        mailbox: Mailbox<Command<B::Request>>,
        link: Link<Report>,
    ) -> Result<Self, PortError> {
        let started = Instant::now();
        if let Some(priority) = spec.realtime
            && let Err(why) = realtime::set_fifo(priority)
        {
            tracing::warn!(queue = spec.queue, why, "realtime");
        }
        let (umem, opened) = spec.backend.open_present()?;
        let (away, infos, ports) = away::sort(opened);
        let info = QueueInfo {
            queue: spec.queue,
            queues: spec.queues,
            ports: infos,
            rss: spec.rss,
            changes: 0,
            processor: spec.processor,
            seed: spec.seed,
        };
        let handler = (spec.factory)(&info);
        let (pages, seen) = (umem.pages().clone(), umem.pages_seen());
        let parts = Parts {
            umem,
            ports,
            handler,
            processor: spec.processor,
            info: info.clone(),
            peers: spec.peers,
            batch_size: spec.batch_size,
        };
        let mut worker = Worker::new(parts, started);
        worker.set_tables(spec.tables);
        worker.steer(true)?;
        link.report(Report::Opened { ports: info.ports.clone(), pages, seen, cpus: own_cpus() });
        link.say(away.word());
        Ok(Self {
            worker,
            backend: spec.backend,
            away,
            costs: Costs::default(),
            factory: spec.factory,
            info,
            mailbox,
            link,
            spin: spec.spin,
            regime: Regime::Control,
            since: Instant::now(),
            next_snapshot: started,
            stop_by: None,
            parked_told: false,
            draining: false,
            drained_told: false,
        })
    }

    async fn turns(&mut self, runtime: &Runtime) -> Exit {
        let mut last_packet = Instant::now();
        let mut turns: u64 = 0;
        loop {
            let now = self.book();
            let packets = self.worker.work(now);
            if packets > 0 {
                self.worker.counters_mut().work_ns += now.elapsed().as_nanos() as u64;
                last_packet = now;
            }
            let turn = self.worker.kick().unwrap_or_else(|(port, error)| {
                self.lose(port, &error);
                Turn::default()
            });
            self.regime = match packets {
                1.. => Regime::Busy,
                0 if turn.again => Regime::Backpressure,
                0 => Regime::Spin,
            };
            self.link.beat();
            turns += 1;
            if packets > 0 && !turns.is_multiple_of(CONTROL_EVERY) {
                continue;
            }
            if let Some(exit) = self.control(now, packets) {
                return exit;
            }
            runtime.checkpoint().await;
            let idle = now.duration_since(last_packet);
            if packets > 0 {
                continue;
            }
            if idle < self.spin || (turn.again && idle < KICK_PATIENCE) {
                std::hint::spin_loop();
            } else {
                let patience = if turn.again { KICK_PATIENCE } else { SNAPSHOT };
                self.sleep(patience.min(self.away.patience()));
            }
        }
    }

    /// Books the time since the last booking to the regime that it was spent in. Returns now.
    fn book(&mut self) -> Instant {
        let now = Instant::now();
        let ns = now.duration_since(self.since).as_nanos() as u64;
        self.worker.counters_mut().spend(self.regime, ns);
        self.since = now;
        now
    }

    /// From now on time goes to `regime`.
    fn enter(&mut self, regime: Regime) -> Instant {
        let now = self.book();
        self.regime = regime;
        now
    }

    fn sleep(&mut self, at_most: Duration) {
        let before = self.enter(Regime::Sleep);
        let timeout = at_most.min(self.next_snapshot.saturating_duration_since(before));
        let woken = {
            // A parked actor must not be woken by packets that it will not take.
            let taking = self.worker.taking();
            let fds: ArrayVec<_, { MAX_PORTS as usize }> =
                taking.filter_map(Port::fd).take(usize::from(MAX_PORTS)).collect();
            self.mailbox.wait(&fds, timeout, || self.worker.has_parcels())
        };
        tracing::trace!(?woken, "woke");
        self.worker.counters_mut().sleeps += 1;
    }

    /// Messages, reports, and whether it is time to end.
    fn control(&mut self, now: Instant, packets: usize) -> Option<Exit> {
        if !self.mailbox.is_empty() {
            self.enter(Regime::Control);
            while let Some(command) = self.mailbox.try_recv() {
                self.obey(command, now);
            }
        }
        if let Some(words) = self.worker.parked()
            && !self.parked_told
        {
            self.parked_told = true;
            self.costs.begin(&self.worker);
            self.link.say(Word::SoftFailed(words.to_owned()));
        }
        self.reopen(now);
        for (interface, next_hop) in self.worker.requests() {
            // Not taken: a later packet asks again.
            self.link.telemetry(Report::Resolve { interface, next_hop });
        }
        if now >= self.next_snapshot {
            self.enter(Regime::Control);
            self.next_snapshot = now + SNAPSHOT;
            if !self.worker.balanced() {
                return Some(Exit::Leaked);
            }
            self.look(now);
            let snapshot = Box::new(self.snapshot());
            self.link.telemetry(Report::Snapshot(snapshot));
            let empty = self.draining && self.worker.handler().sessions() == 0 && self.worker.quiescent();
            if empty && !self.drained_told {
                self.drained_told = true;
                self.link.say(Word::Drained);
            }
        }
        let quiet = packets == 0 && self.stop_by.is_some() && self.worker.quiescent();
        (quiet || self.stop_by.is_some_and(|by| now >= by)).then_some(Exit::Stopped)
    }

    /// Closes ports that are of no more use and cannot say so themselves.
    fn look(&mut self, now: Instant) {
        while let Some((port, error)) = self.worker.lame(now) {
            self.lose(port, &error);
        }
    }

    fn obey(&mut self, command: Command<B::Request>, now: Instant) {
        match command {
            Command::Tables(tables) => {
                let old = self.worker.set_tables(tables);
                self.link.telemetry(Report::Retired(old));
                self.look(now);
            }
            Command::Peer { queue, address } => self.worker.set_peer(queue, address),
            Command::Pause(port, paused) => self.worker.set_paused(port, paused),
            Command::Steer if self.stop_by.is_some() => {}
            Command::Steer => {
                // Off first: the ports do not know that somebody else took them out of the map.
                if let Err(error) = self.worker.steer(false).and_then(|()| self.worker.steer(true)) {
                    tracing::warn!(%error, "steering on again");
                }
            }
            Command::Drain => {
                self.draining = true;
                self.worker.set_draining(true);
            }
            Command::RestartHandler { inherit } => self.restart_handler(inherit),
            Command::Open { restart, requests } => self.open_ports(restart, requests, now),
            Command::Close(ports, why) => self.close(ports, &why),
            Command::Inject(fault) => self.worker.inject(fault),
            Command::Sessions { mut into, reply } => {
                self.worker.handler().describe_sessions(into.capacity(), &mut into);
                let _ = reply.try_send(into);
            }
            Command::Stop(within) => {
                self.worker.set_draining(true);
                self.stop_by = Some(now + within);
                if let Err(error) = self.worker.steer(false) {
                    tracing::warn!(%error, "steering off while stopping");
                }
            }
        }
    }

    fn restart_handler(&mut self, inherit: bool) {
        self.info = self.info.for_next_handler();
        let (factory, info) = (&self.factory, &self.info);
        match self.worker.replace_handler(|| factory(info), inherit) {
            Ok(kept) => {
                self.parked_told = false;
                self.tell();
                self.link.report(Report::Replaced(kept));
            }
            Err(words) => {
                self.link.say(Word::SoftFailed(format!("the new handler panicked while it was made: {words}")));
            }
        }
    }

    fn snapshot(&mut self) -> QueueSnapshot {
        QueueSnapshot::take(&mut self.worker, self.info.queue)
    }
}

/// CPUs that the calling thread may run on (sched_getaffinity(2)); none where the kernel does not tell.
fn own_cpus() -> Vec<u32> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return Vec::new() };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).map(|cpu| cpu as u32).collect()
}
