//! Starts one queue's actor from its plan.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oxide_actors::executor::{self, ExecutorHandle, ExecutorKind, ExecutorSpec};
use oxide_actors::mailbox::{Address, Inbox, mailbox};
use oxide_actors::supervisor::SupervisorLink;
use oxide_topology::{ActorPlan, Page, Plan, PortPlan};

use super::EngineError;
use super::interfaces::Interfaces;
use super::outbox::{ActorCommand, HANDOVERS};
use crate::config::EngineConfig;
use crate::net::Tables;
use crate::port::{QueueId, Rss};
use crate::queue::{self, ActorSpec, Handler, HandlerFactory, Handover, QueueExit, QueuePeers, Report};
use crate::simd::Processor;
use crate::umem::{PageKind, PortIndex, RingSizes};
use crate::xdp::{BusyPoll, XdpBackend, XdpOptions};

/// Limits the commands that wait for one actor: tables, peers and a few operator commands.
const COMMANDS: usize = 64;

/// Holds a running actor for the supervisor.
pub(super) struct Launched {
    pub(super) handle: ExecutorHandle<QueueExit>,
    pub(super) commands: Address<ActorCommand>,
    pub(super) handovers: Address<Handover>,
}

/// Holds everything that an actor is created from.
pub(super) struct Launcher<H> {
    /// Configuration for the next actor. The fields that the plan uses do not change.
    pub(super) config: Arc<Mutex<EngineConfig>>,
    pub(super) plan: Plan,
    pub(super) executor: ExecutorKind,
    pub(super) processor: Processor,
    /// RSS settings of the interfaces at start. If they changed later, answers arrive at other queues and are handed
    /// over.
    pub(super) rss: HashMap<String, Arc<Rss>>,
    /// Creates handlers with the newest factory.
    pub(super) factory: HandlerFactory<H>,
}

impl<H: Handler + 'static> Launcher<H> {
    /// Starts the actor of plan entry `index`. The actor opens its memory and ports on its own core.
    pub(super) fn launch(
        &self,
        index: usize,
        link: SupervisorLink<Report>,
        interfaces: &mut Interfaces,
        tables: &Tables,
        others: &[(u32, Address<Handover>)],
    ) -> Result<Launched, EngineError> {
        let Some(plan) = self.plan.actors.get(index) else { return Err(EngineError::Ended) };
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let backend = backend(options(&config, plan)?, &self.ports_of(index), interfaces)?;
        let (commands, mailbox) =
            mailbox::<ActorCommand>(COMMANDS).map_err(EngineError::resources("cannot create a mailbox"))?;
        let (handovers, inbox) = Inbox::with_doorbell(HANDOVERS, mailbox.doorbell())
            .map_err(EngineError::resources("cannot create an inbox"))?;
        // Shares depend on the number of served queues, not on their numbers: `queues = [7]` gets everything.
        let (queues, place) = (self.plan.actors.len() as u32, index as u32);
        let mut peers = QueuePeers::new(inbox, queues);
        for (other, address) in others {
            peers.set(*other, Some(address.clone()));
        }
        let spec = ActorSpec {
            backend,
            factory: Arc::clone(&self.factory),
            processor: self.processor,
            queue: plan.queue,
            queues,
            place,
            peers,
            batch_size: config.batch_size as usize,
            spin: spin(&config, plan),
            realtime: config.realtime.0,
            seed: seed(),
            rss: self.ports_of(index).iter().map(|id| self.rss.get(&id.interface).cloned()).collect(),
            tables: Box::new(tables.clone()),
        };
        // The actor pins itself, so that a CPU that is offline for some time does not prevent its start.
        let cpu = Some(plan.cpu);
        let executor = ExecutorSpec { name: format!("oxide-q{}", plan.queue), cpu: None, kind: self.executor };
        let handle = executor::spawn(executor, move |runtime| queue::run_on(cpu, spec, runtime, mailbox, link))
            .map_err(EngineError::resources("cannot start an executor"))?;
        Ok(Launched { handle, commands, handovers })
    }

    /// Returns the ports of plan entry `index`.
    pub(super) fn ports_of(&self, index: usize) -> Vec<QueueId> {
        let ports = self.plan.actors.get(index).map(|a| a.ports.as_slice()).unwrap_or_default();
        ports.iter().map(|port| QueueId::new(port.interface.clone(), port.queue)).collect()
    }
}

/// Creates the backend for those of `ids` whose interfaces are available. The others wait. Returns the first error if
/// none is available.
fn backend(options: XdpOptions, ids: &[QueueId], interfaces: &mut Interfaces) -> Result<XdpBackend, EngineError> {
    let (mut there, mut absent) = (Vec::new(), Vec::new());
    for (id, at) in ids.iter().zip(PortIndex::ALL) {
        match interfaces.request(id) {
            Ok(request) => there.push(request),
            Err(error) => absent.push((at, id, error)),
        }
    }
    if there.is_empty() && !absent.is_empty() {
        return Err(absent.swap_remove(0).2);
    }
    let without = |all: XdpBackend, (at, id, error): (_, &QueueId, EngineError)| {
        all.with_absent(at, id.clone(), error.to_string())
    };
    Ok(absent.into_iter().fold(XdpBackend::new(options, there), without))
}

fn options(config: &EngineConfig, plan: &ActorPlan) -> Result<XdpOptions, EngineError> {
    let rings = RingSizes::from_ring_size(config.ring_size)?;
    let budget = config.batch_size;
    let busy_poll = config.busy_poll.then_some(BusyPoll { timeout_us: config.busy_poll_timeout_us, budget });
    Ok(XdpOptions {
        rings,
        frame_size: config.frame_size,
        frame_count: config.frame_count.fixed().copied(),
        headroom: 0,
        pages: if plan.page == Page::Huge { PageKind::Huge } else { PageKind::Base },
        node: plan.numa_node,
        zero_copy: config.zero_copy,
        avoid_zero_copy: avoid_zero_copy(&plan.ports),
        busy_poll,
        busy_deadline: Duration::from_secs(2),
    })
}

/// Returns the polling time. Only an actor with its own core polls; on a shared core, polling would slow the others.
fn spin(config: &EngineConfig, plan: &ActorPlan) -> Duration {
    if config.busy_poll && !plan.shares_cpu {
        Duration::from_micros(u64::from(config.busy_poll_timeout_us))
    } else {
        Duration::ZERO
    }
}

/// Returns the reasons against zero-copy for these ports. The ports share one memory, so one port decides for all.
/// Explicit configuration overrides this.
fn avoid_zero_copy(ports: &[PortPlan]) -> Option<String> {
    let reason = |port: &PortPlan| {
        let interface = &port.interface;
        match port.zero_copy {
            oxide_topology::ZeroCopy::Good => None,
            oxide_topology::ZeroCopy::Absent => Some(format!("the driver of {interface} has no zero-copy")),
            oxide_topology::ZeroCopy::Avoid => Some(format!(
                "zero-copy of {interface}'s driver is known to corrupt memory, stall or panic; `oxide plan \
                 --explain` shows which; zero_copy = \"require\" forces it"
            )),
            _ => Some(format!("zero-copy of {interface}'s driver is untested; zero_copy = \"require\" forces it")),
        }
    };
    let reasons: Vec<String> = ports.iter().filter_map(reason).collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Returns an unpredictable seed, different for every handler. The standard library seeds it from the kernel.
fn seed() -> u64 {
    RandomState::new().build_hasher().finish()
}
