//! The engine as its operators have it: a handle to ask and to tell it, from any thread.

use std::any::Any;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use oxide_actors::mailbox::SendError;
use oxide_actors::supervisor::{ActorId, CommandRefused, RestartScope, SupervisorError, SupervisorHandle};
use oxide_topology::Plan;

use super::controller::{Directory, EngineMessage};
use super::housekeeper::HousekeeperCommand;
use super::interfaces::Interfaces;
use super::outbox::ActorCommand;
use super::{EngineError, EngineStatus, Layer, NotNow, QueueStatus};
use crate::config::EngineConfig;
use crate::port::QueueId;
use crate::queue::{DatapathFault, HandlerFactory, SessionInfo};
use crate::umem::PortIndex;

/// For an actor to answer a question. It answers between two batches; a stuck handler never does.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Sessions described at once.
const SESSIONS_MAX: usize = 10_000;

/// The handlers to come are made by what stands here.
pub(super) struct Factory<H>(Mutex<HandlerFactory<H>>);

impl<H> Factory<H> {
    pub(super) fn new(factory: HandlerFactory<H>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(factory)))
    }

    /// A factory that asks, for each handler, what the newest one is.
    pub(super) fn newest(self: &Arc<Self>) -> HandlerFactory<H>
    where
        H: 'static,
    {
        let this = Arc::clone(self);
        Arc::new(move |info| {
            let factory = Arc::clone(&this.0.lock().unwrap_or_else(PoisonError::into_inner));
            factory(info)
        })
    }

    pub(super) fn set(&self, factory: HandlerFactory<H>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = factory;
    }
}

/// Asks and tells a running engine, from any thread; as many of them as wanted. It does not keep the engine alive:
/// once that has stopped, `status` shows the last state and the rest is [`EngineError::Ended`].
#[derive(Clone)]
pub struct EngineHandle(Arc<Shared>);

pub(super) struct Shared {
    pub(super) supervisor: SupervisorHandle<EngineMessage>,
    pub(super) housekeeper: flume::Sender<HousekeeperCommand>,
    pub(super) status: Arc<Mutex<EngineStatus>>,
    pub(super) interfaces: Arc<Mutex<Interfaces>>,
    pub(super) directory: Directory,
    /// A [`Factory`] of the engine's own kind of handler.
    pub(super) factory: Arc<dyn Any + Send + Sync>,
    /// What the next actors are opened with.
    pub(super) config: Arc<Mutex<EngineConfig>>,
    pub(super) plan: Plan,
    pub(super) notes: Vec<String>,
    pub(super) started: Instant,
    /// Held by a reload.
    pub(super) reloading: Mutex<()>,
}

impl EngineHandle {
    pub(super) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// How the engine and each queue is.
    #[must_use]
    pub fn status(&self) -> EngineStatus {
        let mut status = self.0.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status.steering = self.0.interfaces.lock().unwrap_or_else(PoisonError::into_inner).status();
        let directory = self.0.directory.lock().unwrap_or_else(PoisonError::into_inner);
        for (queue, entry) in status.queues.iter_mut().zip(directory.iter()) {
            queue.control_depth = entry.as_ref().map(|entry| entry.commands.waiting() as u64);
        }
        drop(directory);
        status.sum_up(self.0.started);
        status
    }

    /// Tells what the process has given up, for the status.
    pub fn confined(&self, layers: &[Layer]) {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).sandbox = layers.to_vec();
    }

    /// The plan it runs by.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// What was decided at start that a reader may want to know, a sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// Waits until `done` says that the status is as wanted, and returns that status.
    ///
    /// # Errors
    /// [`EngineError::NotReached`] if it is not within this time.
    pub fn wait(
        &self,
        within: Duration,
        mut done: impl FnMut(&EngineStatus) -> bool,
    ) -> Result<EngineStatus, EngineError> {
        let until = Instant::now() + within;
        loop {
            let status = self.status();
            if done(&status) {
                return Ok(status);
            }
            if Instant::now() >= until {
                let states = status.queues.iter().map(QueueStatus::described).collect();
                return Err(EngineError::NotReached { within, states });
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Restarts what serves `queue`, as deep as told; everything else goes on. Spends nothing of the restart
    /// budget, and gives a failed queue a new one. Returns when it is under way.
    ///
    /// # Errors
    /// [`EngineError::NoSuchQueue`]; [`EngineError::NotNow`] while it is being drained or does not end.
    pub fn restart(&self, queue: &QueueId, scope: RestartScope) -> Result<(), EngineError> {
        let (actor, port) = self.find(queue)?;
        self.0.supervisor.restart(actor, scope, port.number()).map_err(|error| self.refused("restart", queue, error))
    }

    /// Lets `queue` take no new packets, or lets it take them again. Its packets wait on the RX ring meanwhile;
    /// what does not fit is dropped and counted by the kernel, and what has waited is dropped when it is resumed
    /// ([`DropReason::Paused`](crate::telemetry::DropReason::Paused)). Lasts over restarts.
    ///
    /// # Errors
    /// [`EngineError::NoSuchQueue`].
    pub fn pause(&self, queue: &QueueId, paused: bool) -> Result<(), EngineError> {
        let (actor, port) = self.find(queue)?;
        let told = self.0.supervisor.send_engine_message(actor, EngineMessage::Pause(port, paused));
        told.map_err(|error| self.refused("pause", queue, error))?;
        let mut status = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(QueueStatus { paused: ports, .. }) = status.queues.get_mut(actor.0)
            && ports.contains(queue) != paused
        {
            if paused {
                ports.push(queue.clone());
                tracing::warn!(port = %queue, remedy = format!("oxide ctl resume {queue}"), "paused: takes no new packets");
            } else {
                ports.retain(|port| port != queue);
                tracing::info!(port = %queue, "resumed");
            }
        }
        Ok(())
    }

    /// Lets the actor that serves `queue`, on each of its interfaces, start no new sessions, waits until the old
    /// ones have ended or `within` is over, and stops it. A restart starts it again.
    ///
    /// # Errors
    /// [`EngineError::NoSuchQueue`]; [`EngineError::NotNow`] if it was told to end and still runs.
    pub fn drain_queue(&self, queue: &QueueId, within: Duration) -> Result<(), EngineError> {
        let (actor, _) = self.find(queue)?;
        let drained = self.0.supervisor.drain(Some(actor), within);
        let report = drained.map_err(|error| self.refused("drain", queue, error))?;
        if report.not_ended.is_empty() {
            return Ok(());
        }
        Err(self.refused("drain", queue, CommandRefused::StillRuns { actor }.into()))
    }

    /// Takes over what of `config` concerns the opening of a queue: `batch_size`, `busy_poll`, `busy_poll_timeout_us`,
    /// `zero_copy` and `realtime`. In force for each queue with its next restart at [`RestartScope::Queue`]; the rest of the
    /// configuration belongs to the plan, and to this engine's whole life.
    ///
    /// # Errors
    /// [`EngineError::Config`], and no change.
    pub fn configure(&self, config: &EngineConfig) -> Result<(), EngineError> {
        config.validate()?;
        let mut kept = self.0.config.lock().unwrap_or_else(PoisonError::into_inner);
        kept.batch_size = config.batch_size;
        kept.busy_poll = config.busy_poll;
        kept.busy_poll_timeout_us = config.busy_poll_timeout_us;
        kept.zero_copy = config.zero_copy;
        kept.realtime = config.realtime;
        Ok(())
    }

    /// Describes at most `limit` sessions (and at most 10,000) of the actor that serves `queue`. Asks the actor
    /// itself, between two of its batches, and waits at most a second.
    ///
    /// # Errors
    /// [`EngineError::NoSuchQueue`]; [`EngineError::NotNow`] if it does not run or is busy; [`EngineError::NoAnswer`].
    pub fn sessions(&self, queue: &QueueId, limit: usize) -> Result<Vec<SessionInfo>, EngineError> {
        let (ActorId(index), _) = self.find(queue)?;
        let not_now = |reason| EngineError::NotNow { action: "list its sessions", queue: queue.clone(), reason };
        let address = {
            let directory = self.0.directory.lock().unwrap_or_else(PoisonError::into_inner);
            directory.get(index).and_then(Option::as_ref).map(|entry| entry.commands.clone())
        };
        let address = address.ok_or_else(|| not_now(NotNow::NotRunning))?;
        let (reply, answer) = bounded(1);
        let into = Vec::with_capacity(limit.min(SESSIONS_MAX));
        address.try_send(ActorCommand::Sessions { into, reply }).map_err(|error| match error {
            SendError::Timeout(_) => not_now(NotNow::MailboxFull),
            SendError::Closed(_) => not_now(NotNow::Ending),
        })?;
        answer
            .recv_timeout(ANSWER_WITHIN)
            .map_err(|_| EngineError::NoAnswer { queue: queue.clone(), within: ANSWER_WITHIN })
    }

    /// Lets something go wrong in the actor that serves `queue`: `fault` is given the number of its port there.
    #[doc(hidden)]
    pub fn inject(&self, queue: &QueueId, fault: impl FnOnce(PortIndex) -> DatapathFault) -> Result<(), EngineError> {
        let (actor, port) = self.find(queue)?;
        let told = self.0.supervisor.send_engine_message(actor, EngineMessage::Inject(fault(port)));
        told.map_err(|error| self.refused("inject a fault", queue, error))
    }

    /// Who serves `queue`, and as which of its ports.
    fn find(&self, queue: &QueueId) -> Result<(ActorId, PortIndex), EngineError> {
        let serves = |p: &oxide_topology::PortPlan| p.interface == queue.interface && p.queue == queue.queue;
        let actors = self.0.plan.actors.iter().enumerate();
        let port = |actor: &oxide_topology::ActorPlan| PortIndex::new(actor.ports.iter().position(serves)?);
        let found = actors.filter_map(|(at, actor)| Some((ActorId(at), port(actor)?))).next();
        found.ok_or_else(|| {
            let all = self.0.plan.actors.iter().flat_map(|a| &a.ports);
            let available = all.map(|p| QueueId::new(p.interface.clone(), p.queue)).collect();
            EngineError::NoSuchQueue { queue: queue.clone(), available }
        })
    }

    fn refused(&self, action: &'static str, queue: &QueueId, error: SupervisorError) -> EngineError {
        match error {
            SupervisorError::Gone | SupervisorError::Refused(CommandRefused::Stopping) => EngineError::Ended,
            other => EngineError::NotNow { action, queue: queue.clone(), reason: NotNow::Supervisor(other) },
        }
    }
}
