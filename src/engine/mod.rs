//! The engine: puts the rooms together.
//!
//! ```text
//!  start: netlink tables -> snapshot -> plan -> programs attached, destinations listed -> actors
//!  then:  supervisor thread (oxide-super)   restarts, status; the only one that starts actors
//!         housekeeping thread (oxide-house) new tables and destinations to the actors, lost programs
//! ```

mod cause;
mod compare;
mod config_values;
mod controller;
mod destinations;
mod drift;
mod drop_log;
mod error;
mod handle;
mod housekeeper;
mod interfaces;
mod launch;
mod layer;
mod link_status;
mod observe;
mod operation;
mod outbox;
mod port_status;
mod reload;
mod restarts;
#[doc(hidden)]
pub mod sample;
mod state;
mod status;
mod supervision;
mod totals;

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

pub use oxide_actors::supervisor::{RestartCause, RestartScope};
use oxide_actors::supervisor::{StopReport, Supervisor, SupervisorError, supervise};
use oxide_topology::Plan;

pub use cause::{LastRestart, RestartCounts};
pub use config_values::{PlannedMachine, make_plan, request};
pub use destinations::Destinations;
pub use error::{EngineError, NotNow};
pub use handle::EngineHandle;
pub use housekeeper::read_tables;
pub use layer::{Layer, LayerState};
pub use link_status::{AddressStatus, LinkStatus};
pub use port_status::PortStatus;
pub use reload::{PendingQueue, PendingUntil, ReloadReport};
pub use state::{EngineState, QueueState};
pub use status::{EngineStatus, ModeStatus, ProcessUsage, QueueStatus, SteeringStatus};
pub use supervision::{RelayExit, Supervision};
pub use totals::Totals;

use controller::{Directory, EngineMessage, QueueController};
use destinations::DestinationsOf;
use handle::{Factory, Shared};
use housekeeper::{Housekeeper, HousekeeperCommand};
use interfaces::Interfaces;
use launch::Launcher;
use observe::Observer;

use crate::config::EngineConfig;
use crate::net::{NetOptions, NetService, Tables};
use crate::port::QueueId;
use crate::queue::{Handler, HandlerFactory, QueueInfo};

/// How long start-up may take: opening memory and sockets, and a queue that is still busy.
const START_WITHIN: Duration = Duration::from_secs(15);
/// Wishes for a next hop that may wait; a packet that is not heard asks again.
const ASKS: usize = 1024;
/// Orders for the housekeeping thread that may wait.
const ORDERS: usize = 16;

/// A running engine. Dropping it stops it, without patience.
pub struct Engine {
    supervisor: Option<Supervisor<EngineMessage>>,
    housekeeper: Option<JoinHandle<()>>,
    handle: EngineHandle,
}

/// What an engine is made of.
pub struct EngineBuilder<H> {
    config: EngineConfig,
    factory: HandlerFactory<H>,
    destinations: DestinationsOf,
    planned_machine: Option<PlannedMachine>,
    supervision: Supervision,
}

impl Engine {
    /// An engine for `config`, whose queues get their handlers from `factory`: called once for each queue, on the queue's
    /// own core, and again after a restart.
    pub fn builder<H: Handler + 'static>(
        config: EngineConfig,
        factory: impl Fn(&QueueInfo) -> H + Send + Sync + 'static,
    ) -> EngineBuilder<H> {
        let destinations: DestinationsOf = Box::new(|_| Vec::new());
        let supervision = Supervision::default();
        EngineBuilder { config, factory: Arc::new(factory), destinations, supervision, planned_machine: None }
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

    /// Starts by what was seen and planned before, instead of looking at the machine again.
    #[must_use]
    pub fn planned_machine(mut self, machine: PlannedMachine) -> Self {
        self.planned_machine = Some(machine);
        self
    }

    /// Other limits of supervision than the default ones.
    #[must_use]
    pub fn supervision(mut self, supervision: Supervision) -> Self {
        self.supervision = supervision;
        self
    }

    /// Plans, attaches, and starts every queue; returns when all of them take packets.
    ///
    /// # Errors
    /// [`EngineError`]: what stands in the way, with its mend. Nothing is left behind then.
    pub fn start(self) -> Result<Engine, EngineError> {
        let started = Instant::now();
        let Self { config, factory, destinations, planned_machine, supervision } = self;
        config.validate()?;
        supervision.check()?;
        if let Some(machine) = &planned_machine {
            machine.check(&config)?;
        }
        let processor = config_values::processor(&config)?;
        let (executor, why_threads) = config_values::executor(&config).resolve();
        let net = NetService::start(NetOptions::default())?;
        let tables = Arc::new(housekeeper::first_tables(&net)?);
        let machine = planned_machine.map_or_else(|| PlannedMachine::new(&config), Ok)?;

        let mut interfaces = Interfaces::new(config_values::steering_options(&config));
        interfaces.set_destinations(&destinations(&tables))?;
        interfaces.attach(&config.interfaces);
        let PlannedMachine { plan, rss, .. } = machine.with_programs_attached()?;
        config_values::log_warnings(&plan, &config);
        let planned = oxide_topology::live_nics(&config.interfaces).unwrap_or_default();
        let interfaces = Arc::new(Mutex::new(interfaces));

        let rings = config_values::rings(&config)?;
        let status = Arc::new(Mutex::new(observe::initial(&plan, executor.name(), rings)));
        let factory = Factory::new(factory);
        let newest = factory.newest();
        let config = Arc::new(Mutex::new(config));
        let shared_config = Arc::clone(&config);
        let launcher = Arc::new(Launcher { config, plan: plan.clone(), executor, processor, rss, factory: newest });
        let directory: Directory = Arc::new(Mutex::new(plan.actors.iter().map(|_| None).collect()));
        let actors = plan.actors.iter().enumerate().map(|(index, actor)| QueueController {
            name: controller::name(actor.queue),
            index,
            queue: actor.queue,
            launcher: Arc::clone(&launcher),
            interfaces: Arc::clone(&interfaces),
            directory: Arc::clone(&directory),
            tables: Arc::clone(&tables),
            paused: 0,
            running: None,
        });
        let (ask, asked) = flume::bounded(ASKS);
        let observer = Observer::new(Arc::clone(&status), plan.clone(), Arc::clone(&shared_config), ask, started);
        let supervisor = supervise(supervision.settings(), actors.collect(), observer.into_fn())
            .map_err(EngineError::resources("cannot start the supervisor"))?;
        let (order, commands) = flume::bounded(ORDERS);
        let housekeeper = Housekeeper {
            net,
            handle: supervisor.handle(),
            interfaces: Arc::clone(&interfaces),
            status: Arc::clone(&status),
            destinations,
            asked,
            commands,
            tables,
            planned,
        };
        let actors = plan.actors.len();
        let housekeeper = thread::Builder::new()
            .name("oxide-housekeep".to_owned())
            .spawn(move || housekeeper.run(actors))
            .map_err(EngineError::resources("cannot start the housekeeping thread"))?;

        let mut notes = Vec::new();
        notes.extend(why_threads.map(|why| format!("executor: plain threads, since {why}")));
        notes.push(format!("simd: {}", processor.why()));
        let handle = EngineHandle::new(Shared {
            supervisor: supervisor.handle(),
            housekeeper: order,
            status,
            interfaces,
            directory,
            factory,
            config: shared_config,
            plan,
            notes,
            started,
            reloading: Mutex::new(()),
        });
        let engine = Engine { supervisor: Some(supervisor), housekeeper: Some(housekeeper), handle };
        engine.wait_until_running(started)?;
        Ok(engine)
    }
}

impl Engine {
    fn wait_until_running(&self, started: Instant) -> Result<(), EngineError> {
        let until = started + START_WITHIN;
        loop {
            let status = self.status();
            if status.state == EngineState::Running {
                return Ok(());
            }
            // At start there is somebody to read it: what would be waited for, or tried again, is told.
            let stuck = status.queues.iter().find(|q| q.is_stuck());
            if let Some(queue) = stuck {
                return Err(EngineError::NotOpened { queue: queue.queue, reason: queue.last_event.clone() });
            }
            if Instant::now() >= until {
                let states = status.queues.iter().map(QueueStatus::described).collect();
                return Err(EngineError::NotReached { within: START_WITHIN, states });
            }
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Asks and tells this engine from other threads.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// How the engine and each queue is.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        self.handle.status()
    }

    /// The plan it runs by.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        self.handle.plan()
    }

    /// What was decided at start that a reader may want to know, a sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.handle.notes()
    }

    /// Rebuilds the actor that serves `queue`: [`EngineHandle::restart`] at [`RestartScope::Queue`].
    ///
    /// # Errors
    /// As there.
    pub fn restart(&self, queue: &QueueId) -> Result<(), EngineError> {
        self.handle.restart(queue, RestartScope::Queue)
    }

    /// Takes no new sessions, waits until the old ones have ended or `within` is over, then stops in
    /// order. Returns the last status.
    #[must_use]
    pub fn drain(self, within: Duration) -> EngineStatus {
        self.mark(EngineState::Draining);
        self.check_stopped(self.handle.shared().supervisor.drain(None, within), "draining");
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
        self.handle.shared().status.lock().unwrap_or_else(PoisonError::into_inner).state = state;
    }

    /// Writes down who did not end when told to.
    fn check_stopped(&self, outcome: Result<StopReport, SupervisorError>, step: &str) {
        let report = match outcome {
            Ok(report) => report,
            Err(error) => return tracing::error!(%error, step),
        };
        if !report.not_ended.is_empty() {
            tracing::error!(queues = ?report.not_ended, step, "did not end; its thread goes with the process");
        }
        let plan = &self.handle.shared().plan;
        let names = plan.actors.iter().map(|actor| (actor.queue, controller::name(actor.queue)));
        let stuck = names.filter(|(_, name)| report.not_ended.contains(name)).map(|(queue, _)| queue);
        let mut status = self.handle.shared().status.lock().unwrap_or_else(PoisonError::into_inner);
        status.not_ended = stuck.collect();
    }

    fn shut_down(&mut self, within: Duration) {
        let Some(supervisor) = self.supervisor.take() else { return };
        self.check_stopped(self.handle.shared().supervisor.stop(within), "stopping");
        if let Err(panic) = supervisor.join() {
            tracing::error!(panic, "the supervisor panicked");
        }
        let _ = self.handle.shared().housekeeper.send(HousekeeperCommand::Stop);
        if let Some(housekeeper) = self.housekeeper.take()
            && housekeeper.join().is_err()
        {
            tracing::error!("the housekeeping thread panicked");
        }
        self.handle.shared().interfaces.lock().unwrap_or_else(PoisonError::into_inner).put_settings_back();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shut_down(Duration::from_secs(2));
    }
}
