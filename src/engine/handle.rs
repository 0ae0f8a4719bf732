//! Provides the handle with which other threads query and control a running engine.

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

/// Limits the time in which an actor answers. An actor answers between two batches; a stuck handler prevents it.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
/// Limits the sessions described at once.
const SESSIONS_MAX: usize = 10_000;

/// Holds the factory of all handlers created from now on.
pub(super) struct Factory<H>(Mutex<HandlerFactory<H>>);

impl<H> Factory<H> {
    pub(super) fn new(factory: HandlerFactory<H>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(factory)))
    }

    /// Returns a factory that uses the newest factory for each handler.
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

/// Queries and controls a running engine from any thread. It can be cloned, and does not keep the engine alive. After
/// the engine has stopped, `status` returns the last state and all other methods return [`EngineError::Ended`].
#[derive(Clone)]
pub struct EngineHandle(Arc<Shared>);

pub(super) struct Shared {
    pub(super) supervisor: SupervisorHandle<EngineMessage>,
    pub(super) housekeeper: flume::Sender<HousekeeperCommand>,
    pub(super) status: Arc<Mutex<EngineStatus>>,
    pub(super) interfaces: Arc<Mutex<Interfaces>>,
    pub(super) directory: Directory,
    /// The [`Factory`] of the engine's handler type.
    pub(super) factory: Arc<dyn Any + Send + Sync>,
    /// Configuration with which the next actors open.
    pub(super) config: Arc<Mutex<EngineConfig>>,
    pub(super) plan: Plan,
    pub(super) notes: Vec<String>,
    pub(super) started: Instant,
    /// Locked during a reload.
    pub(super) reloading: Mutex<()>,
}

impl EngineHandle {
    pub(super) fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Returns the state of the engine and of each queue.
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

    /// Sets the sandbox layers that the process has applied, for the status.
    pub fn confined(&self, layers: &[Layer]) {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).sandbox = layers.to_vec();
    }

    /// Returns the plan of this engine.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.0.plan
    }

    /// Returns the decisions made at start, one sentence each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }

    /// Waits until `done` accepts the status, and returns that status.
    ///
    /// # Errors
    /// Returns [`EngineError::NotReached`] after `within`.
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

    /// Restarts the part of the actor of `queue` that `scope` names; everything else continues. The restart does not
    /// count against the restart budget, and a failed queue gets a new budget. Returns when the restart has begun.
    ///
    /// # Errors
    /// Returns [`EngineError::NoSuchQueue`], or [`EngineError::NotNow`] while the queue drains or does not end.
    pub fn restart(&self, queue: &QueueId, scope: RestartScope) -> Result<(), EngineError> {
        let (actor, port) = self.find(queue)?;
        self.0.supervisor.restart(actor, scope, port.number()).map_err(|error| self.refused("restart", queue, error))
    }

    /// Pauses `queue` (`true`) or resumes it. While it is paused, its packets stay on the RX ring, and the kernel drops
    /// and counts those that do not fit. The packets on the ring are dropped at the resume
    /// ([`DropReason::Paused`](crate::telemetry::DropReason::Paused)). The pause continues after restarts.
    ///
    /// # Errors
    /// Returns [`EngineError::NoSuchQueue`].
    pub fn pause(&self, queue: &QueueId, paused: bool) -> Result<(), EngineError> {
        let (actor, port) = self.find(queue)?;
        let sent = self.0.supervisor.send_engine_message(actor, EngineMessage::Pause(port, paused));
        sent.map_err(|error| self.refused("pause", queue, error))?;
        let mut status = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(QueueStatus { paused: ports, .. }) = status.queues.get_mut(actor.0)
            && ports.contains(queue) != paused
        {
            if paused {
                ports.push(queue.clone());
                tracing::warn!(port = %queue, remedy = format!("oxide ctl resume {queue}"), "port paused");
            } else {
                ports.retain(|port| port != queue);
                tracing::info!(port = %queue, "port resumed");
            }
        }
        Ok(())
    }

    /// Drains the actor that serves `queue`, on each of its interfaces. The actor starts no new sessions, and stops
    /// when the old ones have ended or `within` is over. A restart starts it again.
    ///
    /// # Errors
    /// Returns [`EngineError::NoSuchQueue`], or [`EngineError::NotNow`] if the actor still runs afterwards.
    pub fn drain_queue(&self, queue: &QueueId, within: Duration) -> Result<(), EngineError> {
        let (actor, _) = self.find(queue)?;
        let drained = self.0.supervisor.drain(Some(actor), within);
        let report = drained.map_err(|error| self.refused("drain", queue, error))?;
        if report.not_ended.is_empty() {
            return Ok(());
        }
        Err(self.refused("drain", queue, CommandRefused::StillRuns { actor }.into()))
    }

    /// Takes the fields of `config` with which a queue opens: `batch_size`, `busy_poll`, `busy_poll_timeout_us`,
    /// `zero_copy` and `realtime`. They apply to each queue from its next restart at [`RestartScope::Queue`]. The other
    /// fields belong to the plan and need a new engine.
    ///
    /// # Errors
    /// Returns [`EngineError::Config`] and changes nothing.
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

    /// Describes at most `limit` sessions (10,000 at most) of the actor that serves `queue`. The actor answers between
    /// two batches, within one second.
    ///
    /// # Errors
    /// Returns [`EngineError::NoSuchQueue`], [`EngineError::NotNow`] if the actor does not run or is busy, or
    /// [`EngineError::NoAnswer`].
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

    /// Injects a fault into the actor that serves `queue`. `fault` gets the index of the queue's port in that actor.
    #[doc(hidden)]
    pub fn inject(&self, queue: &QueueId, fault: impl FnOnce(PortIndex) -> DatapathFault) -> Result<(), EngineError> {
        let (actor, port) = self.find(queue)?;
        let sent = self.0.supervisor.send_engine_message(actor, EngineMessage::Inject(fault(port)));
        sent.map_err(|error| self.refused("inject a fault", queue, error))
    }

    /// Returns the actor that serves `queue`, and the index of the port there.
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
