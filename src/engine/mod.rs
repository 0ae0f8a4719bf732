//! The engine: puts the rooms together.
//!
//! ```text
//!  start: netlink tables -> snapshot -> plan -> programs attached, destinations listed -> actors
//!  then:  supervisor thread (oxide-super)   restarts, status; the only one that starts actors
//!         housekeeping thread (oxide-house) new tables and destinations to the actors, lost programs
//! ```

mod error;
mod interfaces;
mod launch;
mod observe;
mod status;
mod worker;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use oxide_actors::executor::ExecutorChoice;
use oxide_actors::supervisor::{Depth, Settings, Supervisor, SupervisorHandle, WorkerId, supervise};
use oxide_topology::{Numa, Pin, Plan, Queues, Request, Snapshot};

pub use error::EngineError;
pub use interfaces::Destinations;
pub use status::{EngineState, EngineStatus, ModeStatus, ProcessUsage, QueueStatus, SteeringStatus, Totals};

use interfaces::Interfaces;
use launch::Launcher;
use observe::Observer;
use worker::{Directory, Note, QueueWorker};

use crate::config::{self, Choice, EngineConfig};
use crate::net::{NetEvent, NetOptions, NetService, Tables};
use crate::port::QueueId;
use crate::queue::{Handler, HandlerFactory, QueueInfo};
use crate::simd::{Level, Processor};
use crate::umem::{RingSizes, UmemLayout};
use crate::xdp::steering::{AttachMode, Fallback, SteeringOptions};

/// How long start-up may take: opening memory and sockets, and a queue that is still busy.
const START_WITHIN: Duration = Duration::from_secs(15);
/// Wishes for a next hop that may wait; a packet that is not heard asks again.
const ASKS: usize = 1024;
/// How long the kernel may take to tell its tables at first.
const TABLES_WITHIN: Duration = Duration::from_secs(5);
/// How often programs are looked after, and how late a change of tables is seen at most.
const HOUSE_TICK: Duration = Duration::from_millis(500);

/// Which destinations are the engine's, given the addresses of the moment.
type DestinationsOf = Box<dyn Fn(&Tables) -> Destinations + Send>;

/// A running engine. Dropping it stops it, without patience.
pub struct Engine {
    supervisor: Option<Supervisor<Note>>,
    handle: SupervisorHandle<Note>,
    house: Option<JoinHandle<()>>,
    stop_house: flume::Sender<()>,
    status: Arc<Mutex<EngineStatus>>,
    interfaces: Arc<Mutex<Interfaces>>,
    plan: Plan,
    notes: Vec<String>,
    started: Instant,
}

/// What an engine is made of.
pub struct EngineBuilder<H> {
    config: EngineConfig,
    factory: HandlerFactory<H>,
    destinations: DestinationsOf,
}

impl Engine {
    /// An engine for `config`, whose queues get their handlers from `factory`: called once for each queue, on the queue's
    /// own core, and again after a restart.
    pub fn builder<H: Handler + 'static>(
        config: EngineConfig,
        factory: impl Fn(&QueueInfo) -> H + Send + Sync + 'static,
    ) -> EngineBuilder<H> {
        EngineBuilder { config, factory: Arc::new(factory), destinations: Box::new(|_| Vec::new()) }
    }
}

impl<H: Handler + 'static> EngineBuilder<H> {
    /// Which UDP destinations come to the engine; asked again whenever addresses or routes change.
    /// Everything else stays the kernel's.
    #[must_use]
    pub fn destinations(mut self, of: impl Fn(&Tables) -> Destinations + Send + 'static) -> Self {
        self.destinations = Box::new(of);
        self
    }

    /// Plans, attaches, and starts every queue; returns when all of them take packets.
    ///
    /// # Errors
    /// [`EngineError`]: what stands in the way, with its mend. Nothing is left behind then.
    pub fn start(self) -> Result<Engine, EngineError> {
        let started = Instant::now();
        let Self { config, factory, destinations } = self;
        let processor = processor(&config)?;
        let (executor, why_threads) = executor(&config).resolve();
        let net = NetService::start(NetOptions::default()).map_err(|e| EngineError::Net { text: e.to_string() })?;
        let tables = Arc::new(first_tables(&net)?);
        let plan = make_plan(&config)?;

        let mut interfaces = Interfaces::new(steering_options(&config));
        interfaces.set_destinations(destinations(&tables))?;
        let interfaces = Arc::new(Mutex::new(interfaces));

        let status = Arc::new(Mutex::new(observe::initial(&plan, executor.name())));
        let launcher = Arc::new(Launcher { config, plan: plan.clone(), executor, processor, factory });
        let directory: Directory = Arc::new(Mutex::new(plan.actors.iter().map(|_| None).collect()));
        let workers = plan.actors.iter().enumerate().map(|(index, actor)| QueueWorker {
            name: format!("queue {}", actor.queue),
            index,
            queue: actor.queue,
            launcher: Arc::clone(&launcher),
            interfaces: Arc::clone(&interfaces),
            directory: Arc::clone(&directory),
            tables: Arc::clone(&tables),
            running: None,
        });
        let (ask, asked) = flume::bounded(ASKS);
        let observer = Observer::new(Arc::clone(&status), ask, started);
        let supervisor = supervise(Settings::default(), workers.collect(), observer.into_fn())
            .map_err(|e| EngineError::Actor { step: "starting the supervisor", text: e.to_string() })?;
        let handle = supervisor.handle();
        let (stop_house, stopped) = flume::bounded(1);
        let house =
            House { net, handle: handle.clone(), interfaces: Arc::clone(&interfaces), destinations, asked, stopped };
        let workers = plan.actors.len();
        let house = thread::Builder::new()
            .name("oxide-house".to_owned())
            .spawn(move || house.keep(workers))
            .map_err(|e| EngineError::Actor { step: "starting the housekeeping thread", text: e.to_string() })?;

        let mut notes = Vec::new();
        notes.extend(why_threads.map(|why| format!("executor: plain threads, since {why}")));
        notes.push(format!("simd: {}", processor.why()));
        let (supervisor, house) = (Some(supervisor), Some(house));
        let engine = Engine { supervisor, handle, house, stop_house, status, interfaces, plan, notes, started };
        engine.wait_until_running()?;
        Ok(engine)
    }
}

impl Engine {
    fn wait_until_running(&self) -> Result<(), EngineError> {
        let until = self.started + START_WITHIN;
        loop {
            let status = self.status();
            if status.state == EngineState::Running {
                return Ok(());
            }
            // At start there is somebody to read it: what would be waited for, or tried again, is told.
            let stuck = status.queues.iter().find(|q| q.is_stuck());
            if let Some(queue) = stuck {
                return Err(EngineError::Port { text: format!("queue {}: {}", queue.queue, queue.last_event) });
            }
            if Instant::now() >= until {
                let states: Vec<_> = status.queues.iter().map(|q| format!("{}: {}", q.queue, q.state)).collect();
                let text = format!("not every queue opened within {START_WITHIN:?} ({})", states.join("; "));
                return Err(EngineError::Actor { step: "starting the queues", text });
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// How the engine and each queue is.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.steering = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner).status();
        status.sum_up(self.started);
        status
    }

    /// The plan it runs by.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// What was decided at start that a reader may want to know, a sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Rebuilds the actor that serves `queue`, memory, sockets and handler; the others go on. Returns
    /// when it is under way.
    ///
    /// # Errors
    /// [`EngineError::NoSuchQueue`], or the supervisor's refusal.
    pub fn restart(&self, queue: &QueueId) -> Result<(), EngineError> {
        self.restart_at(queue, Depth::Hard)
    }

    /// Makes a new handler for `queue`; memory and sockets stay as they are.
    ///
    /// # Errors
    /// As [`restart`](Self::restart).
    pub fn restart_handler(&self, queue: &QueueId) -> Result<(), EngineError> {
        self.restart_at(queue, Depth::Soft)
    }

    fn restart_at(&self, queue: &QueueId, depth: Depth) -> Result<(), EngineError> {
        let serves = |p: &oxide_topology::PortPlan| p.interface == queue.interface && p.queue == queue.queue;
        let index = self.plan.actors.iter().position(|actor| actor.ports.iter().any(serves));
        let Some(index) = index else {
            let all = self.plan.actors.iter().flat_map(|a| &a.ports);
            let there: Vec<_> = all.map(|p| format!("{}:{}", p.interface, p.queue)).collect();
            return Err(EngineError::NoSuchQueue { asked: queue.to_string(), there: there.join(", ") });
        };
        self.handle
            .restart(WorkerId(index), depth)
            .map_err(|e| EngineError::Actor { step: "restarting a queue", text: e.to_string() })
    }

    /// Takes no new sessions, waits until the old ones have ended or `within` is over, then stops in
    /// order. Returns the last status.
    #[must_use]
    pub fn drain(self, within: Duration) -> EngineStatus {
        self.mark(EngineState::Draining);
        match self.handle.drain(None, within) {
            Ok(rested) if rested.not_ended.is_empty() => {}
            Ok(rested) => tracing::error!(queues = ?rested.not_ended, "did not end when drained"),
            Err(error) => tracing::error!(%error, "draining"),
        }
        self.stop(Duration::from_secs(2))
    }

    /// Steers packets away, lets each queue finish what it has in hand, and ends. Returns the last status.
    #[must_use]
    pub fn stop(mut self, within: Duration) -> EngineStatus {
        self.mark(EngineState::Draining);
        self.shut_down(within);
        self.mark(EngineState::Stopped);
        self.status()
    }

    fn mark(&self, state: EngineState) {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).state = state;
    }

    fn shut_down(&mut self, within: Duration) {
        let Some(supervisor) = self.supervisor.take() else { return };
        match self.handle.stop(within) {
            Ok(rested) if rested.not_ended.is_empty() => {}
            Ok(rested) => tracing::error!(queues = ?rested.not_ended, "did not end; the process will"),
            Err(error) => tracing::error!(%error, "stopping"),
        }
        if let Err(panic) = supervisor.join() {
            tracing::error!(panic, "the supervisor panicked");
        }
        let _ = self.stop_house.send(());
        if let Some(house) = self.house.take()
            && house.join().is_err()
        {
            tracing::error!("the housekeeping thread panicked");
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shut_down(Duration::from_secs(2));
    }
}

/// The housekeeping thread: between the kernel's tables and the actors.
struct House {
    net: NetService,
    handle: SupervisorHandle<Note>,
    interfaces: Arc<Mutex<Interfaces>>,
    destinations: DestinationsOf,
    /// Next hops that actors want resolved.
    asked: flume::Receiver<(u32, IpAddr)>,
    stopped: flume::Receiver<()>,
}

enum Heard {
    Net(Option<NetEvent>),
    Asked(Option<(u32, IpAddr)>),
    Stop,
}

impl House {
    fn keep(self, workers: usize) {
        let mut next_look = Instant::now() + HOUSE_TICK;
        loop {
            let heard = flume::Selector::new()
                .recv(&self.net.events, |event| Heard::Net(event.ok()))
                .recv(&self.asked, |ask| Heard::Asked(ask.ok()))
                .recv(&self.stopped, |_| Heard::Stop)
                .wait_deadline(next_look);
            match heard {
                Ok(Heard::Net(Some(NetEvent::Tables(tables)))) => self.publish(Arc::new(tables), workers),
                Ok(Heard::Net(Some(event))) => tracing::warn!(?event, "netlink"),
                Ok(Heard::Asked(Some((interface, next_hop)))) => {
                    // Busy: the packet that waits for it asks again.
                    let _ = self.net.resolve(interface, next_hop);
                }
                Ok(Heard::Net(None) | Heard::Asked(None) | Heard::Stop) => break,
                Err(_) => {
                    next_look = Instant::now() + HOUSE_TICK;
                    self.look();
                }
            }
        }
        if let Err(error) = self.net.stop(Duration::from_secs(1)) {
            tracing::warn!(%error, "netlink service");
        }
    }

    fn publish(&self, tables: Arc<Tables>, workers: usize) {
        let wanted = (self.destinations)(&tables);
        let mut interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = interfaces.set_destinations(wanted) {
            tracing::error!(%error, "destinations not listed");
        }
        drop(interfaces);
        for worker in (0..workers).map(WorkerId) {
            if let Err(error) = self.handle.note(worker, Note::Tables(Arc::clone(&tables))) {
                tracing::warn!(?worker, %error, "tables not passed on");
            }
            // An interface that somebody waits for may be among them.
            let _ = self.handle.wake(worker);
        }
    }

    /// Programs that another process took off are told; the supervisor's next restart puts them back.
    fn look(&self) {
        let interfaces = self.interfaces.lock().unwrap_or_else(PoisonError::into_inner);
        for interface in interfaces.detached() {
            tracing::error!(interface, "the XDP program is not attached any more: no packets come in");
        }
    }
}

fn first_tables(net: &NetService) -> Result<Tables, EngineError> {
    let until = Instant::now() + TABLES_WITHIN;
    loop {
        match net.events.recv_deadline(until) {
            Ok(NetEvent::Tables(tables)) => return Ok(tables),
            Ok(_) => {}
            Err(error) => {
                let text = format!("no routes and links within {TABLES_WITHIN:?}: {error}");
                return Err(EngineError::Net { text });
            }
        }
    }
}

fn processor(config: &EngineConfig) -> Result<Processor, EngineError> {
    let level = match config.simd {
        config::SimdLevel::Auto => return Ok(Processor::detect()),
        config::SimdLevel::Scalar => Level::Scalar,
        config::SimdLevel::Sse42 => Level::Sse42,
        config::SimdLevel::Avx2 => Level::Avx2,
        config::SimdLevel::Avx512 => Level::Avx512,
        config::SimdLevel::Neon => Level::Neon,
    };
    Processor::with_level(level).ok_or_else(|| EngineError::Simd {
        wanted: format!("{level:?}").to_lowercase(),
        why: Processor::detect().why().to_owned(),
    })
}

fn executor(config: &EngineConfig) -> ExecutorChoice {
    match config.executor {
        config::ExecutorKind::Auto => ExecutorChoice::Auto,
        config::ExecutorKind::Glommio => ExecutorChoice::Glommio,
        config::ExecutorKind::Thread => ExecutorChoice::Thread,
    }
}

fn steering_options(config: &EngineConfig) -> SteeringOptions {
    SteeringOptions {
        attach: match config.attach {
            config::Attach::Auto => AttachMode::Auto,
            config::Attach::Native => AttachMode::Native,
            config::Attach::Generic => AttachMode::Generic,
        },
        fallback: match config.fallback {
            config::Fallback::Drop => Fallback::Drop,
            config::Fallback::Pass => Fallback::Pass,
        },
        replace: false,
    }
}

/// Reads the machine and plans for it.
///
/// # Errors
/// [`EngineError::Snapshot`]; [`EngineError::Plan`] with every reason and its mend.
pub fn make_plan(config: &EngineConfig) -> Result<Plan, EngineError> {
    let snapshot = Snapshot::live(&config.interfaces).map_err(|e| EngineError::Snapshot { text: e.to_string() })?;
    oxide_topology::plan(&snapshot, &request(config)?).map_err(|e| EngineError::Plan { text: e.to_string() })
}

/// What the configuration asks of the planner.
///
/// # Errors
/// [`EngineError::Port`] if the ring sizes cannot be.
pub fn request(config: &EngineConfig) -> Result<Request, EngineError> {
    let rings = RingSizes::from_ring_size(config.ring_size).map_err(|e| EngineError::Port { text: e.to_string() })?;
    let frames = config.frame_count.fixed().copied();
    let frames = frames.unwrap_or_else(|| UmemLayout::frames_for(&rings, config.interfaces.len() as u32));
    Ok(Request {
        interfaces: config.interfaces.clone(),
        queues: config.queues.fixed().map_or(Queues::Auto, |list| Queues::List(list.clone())),
        pin: config.pin.fixed().map_or(Pin::Auto, |list| Pin::List(list.clone())),
        numa: config.numa.fixed().map_or(Numa::Auto, |node| Numa::Node(*node)),
        huge_pages: config.huge_pages != Choice::Fixed(false),
        frame_size: config.frame_size,
        umem_bytes_per_queue: u64::from(frames) * u64::from(config.frame_size),
        allow_housekeeping: false,
    })
}
