//! Owns a running engine: start-up, supervision, status and commands.
//!
//! ```text
//!  start: netlink tables -> snapshot -> plan -> programs attached, destinations listed -> actors
//!  then:  supervisor thread (oxide-super)           restarts and status; the only thread that starts actors
//!         housekeeping thread (oxide-housekeep)     new tables and destinations for the actors, detached programs
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
mod inherited_cpus;
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

use std::net::IpAddr;
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
use inherited_cpus::InheritedCpus;
use interfaces::Interfaces;
use launch::Launcher;
use observe::Observer;

use crate::config::EngineConfig;
use crate::net::{NetOptions, NetService, Tables};
use crate::port::QueueId;
use crate::queue::{Handler, HandlerFactory, QueueInfo};

/// Limits the start-up: memory and sockets must open, also on a queue that is still busy.
const START_WITHIN: Duration = Duration::from_secs(15);
/// Limits the waiting requests for next hops. A later packet repeats a request that did not fit.
const NEXT_HOP_REQUESTS: usize = 1024;
/// Limits the waiting commands for the housekeeping thread.
const COMMANDS: usize = 16;

/// Owns a running engine. Dropping it stops it within 2 s.
pub struct Engine {
    supervisor: Option<Supervisor<EngineMessage>>,
    housekeeper: Option<JoinHandle<()>>,
    handle: EngineHandle,
}

/// Builds an engine from its parts.
pub struct EngineBuilder<H> {
    config: EngineConfig,
    factory: HandlerFactory<H>,
    destinations: DestinationsOf,
    prefixes: Vec<(IpAddr, u8)>,
    planned_machine: Option<PlannedMachine>,
    supervision: Supervision,
}

impl Engine {
    /// Returns a builder for an engine with `config`. `factory` creates the handler of each queue on the queue's own
    /// core, at start and after a restart.
    pub fn builder<H: Handler + 'static>(
        config: EngineConfig,
        factory: impl Fn(&QueueInfo) -> H + Send + Sync + 'static,
    ) -> EngineBuilder<H> {
        let destinations: DestinationsOf = Box::new(|_| Vec::new());
        let supervision = Supervision::default();
        let (factory, prefixes) = (Arc::new(factory), Vec::new());
        EngineBuilder { config, factory, destinations, prefixes, supervision, planned_machine: None }
    }
}

impl<H: Handler + 'static> EngineBuilder<H> {
    /// Sets the function that returns the UDP destinations of the engine. It runs again when addresses or routes
    /// change. The kernel keeps all other packets.
    #[must_use]
    pub fn destinations(mut self, of: impl Fn(&Tables) -> Destinations + Send + 'static) -> Self {
        self.destinations = Box::new(of);
        self
    }

    /// Sets destination prefixes, each an address and its length in bits: packets of any protocol to their addresses are
    /// the engine's. No address of the host may be inside, except those whose packets the handler answers.
    #[must_use]
    pub fn prefixes(mut self, prefixes: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        self.prefixes = prefixes.into_iter().collect();
        self
    }

    /// Uses a machine that was read and planned before, instead of reading it at start.
    #[must_use]
    pub fn planned_machine(mut self, machine: PlannedMachine) -> Self {
        self.planned_machine = Some(machine);
        self
    }

    /// Replaces the default supervision settings.
    #[must_use]
    pub fn supervision(mut self, supervision: Supervision) -> Self {
        self.supervision = supervision;
        self
    }

    /// Makes the plan, attaches the programs, and starts every queue. Returns when all queues receive packets.
    ///
    /// # Errors
    /// Returns an [`EngineError`] with the cause and its remedy. Everything started so far is stopped.
    pub fn start(self) -> Result<Engine, EngineError> {
        let started = Instant::now();
        let Self { config, factory, destinations, prefixes, planned_machine, supervision } = self;
        config.validate()?;
        supervision.check()?;
        if let Some(machine) = &planned_machine {
            machine.check(&config)?;
        }
        let processor = config_values::processor(&config)?;
        let (executor, why_threads) = config_values::executor(&config).resolve();
        let machine = planned_machine.map_or_else(|| PlannedMachine::new(&config), Ok)?;
        // The threads that are started below inherit these CPUs. Actors pin themselves.
        let _on_housekeeping = InheritedCpus::new(&machine.plan.housekeeping);
        let net = NetService::start(NetOptions::default())?;
        let tables = Arc::new(housekeeper::first_tables(&net)?);

        let mut interfaces = Interfaces::new(config_values::steering_options(&config), prefixes);
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
        let (ask, asked) = flume::bounded(NEXT_HOP_REQUESTS);
        let observer = Observer::new(Arc::clone(&status), plan.clone(), Arc::clone(&shared_config), ask, started);
        let supervisor = supervise(supervision.settings(), actors.collect(), observer.into_fn())
            .map_err(EngineError::resources("cannot start the supervisor"))?;
        let (order, commands) = flume::bounded(COMMANDS);
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
            // At start, an operator reads the result, so a queue that waits or retries is reported as an error.
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

    /// Returns a handle with which other threads query and control this engine.
    #[must_use]
    pub fn handle(&self) -> EngineHandle {
        self.handle.clone()
    }

    /// Returns the state of the engine and of each queue.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        self.handle.status()
    }

    /// Returns the plan of this engine.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        self.handle.plan()
    }

    /// Returns the decisions made at start, one sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        self.handle.notes()
    }

    /// Rebuilds the actor that serves `queue`: [`EngineHandle::restart`] at [`RestartScope::Queue`].
    ///
    /// # Errors
    /// Returns the errors of [`EngineHandle::restart`].
    pub fn restart(&self, queue: &QueueId) -> Result<(), EngineError> {
        self.handle.restart(queue, RestartScope::Queue)
    }

    /// Starts no new sessions, waits until the old ones have ended or `within` is over, and stops. Returns the last
    /// status.
    #[must_use]
    pub fn drain(self, within: Duration) -> EngineStatus {
        self.mark(EngineState::Draining);
        self.check_stopped(self.handle.shared().supervisor.drain(None, within), "draining");
        self.stop(Duration::from_secs(2))
    }

    /// Steers packets away, lets each queue finish its packets in progress, and ends. Returns the last status.
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

    /// Logs and records the queues that did not end.
    fn check_stopped(&self, outcome: Result<StopReport, SupervisorError>, step: &str) {
        let report = match outcome {
            Ok(report) => report,
            Err(error) => return tracing::error!(%error, step),
        };
        if !report.not_ended.is_empty() {
            tracing::error!(queues = ?report.not_ended, step, "queues did not end; their threads end with the process");
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
            tracing::error!(panic, "supervisor panicked");
        }
        let _ = self.handle.shared().housekeeper.send(HousekeeperCommand::Stop);
        if let Some(housekeeper) = self.housekeeper.take()
            && housekeeper.join().is_err()
        {
            tracing::error!("housekeeping thread panicked");
        }
        self.handle.shared().interfaces.lock().unwrap_or_else(PoisonError::into_inner).put_settings_back();
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shut_down(Duration::from_secs(2));
    }
}
