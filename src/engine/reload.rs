//! Replaces handlers and destinations of a running engine: both, or none.

use std::any::Any;
use std::fmt;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use oxide_actors::supervisor::{ActorState, CommandRefused, HandlerAge, NotReplaced, SupervisorError};
use serde::Serialize;

use super::handle::Factory;
use super::housekeeper::HousekeeperCommand;
use super::{Destinations, EngineError, EngineHandle, QueueState};
use crate::net::Tables;
use crate::queue::{Handler, QueueInfo};

/// Limits the time in which the queues report their new handlers. A late queue is listed, and still gets its handler.
const REPLACED_WITHIN: Duration = Duration::from_secs(3);

/// Reports the result of a reload that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReloadReport {
    /// Queues that do not have the new handler yet. All others have it.
    pub pending: Vec<PendingQueue>,
}

/// Describes a queue without the new handler.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PendingQueue {
    /// Queue number.
    pub queue: u32,
    /// State of the queue.
    pub state: QueueState,
    /// Event that brings the new handler.
    pub until: PendingUntil,
}

/// Names the event that brings a queue its new handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PendingUntil {
    /// The queue is stalled and gets the handler when its heartbeat resumes.
    Heartbeat,
    /// The queue needs a restart by an operator.
    Restart,
    /// The queue gets the handler at its next automatic start.
    Start,
    /// The queue has not reported the new handler yet; no other event is necessary.
    Report,
}

impl fmt::Display for PendingUntil {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Heartbeat => "when its heartbeat resumes",
            Self::Restart => "when it is restarted",
            Self::Start => "with its next start",
            Self::Report => "not confirmed yet",
        })
    }
}

impl fmt::Display for PendingQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { queue, state, until } = self;
        let stalled = if *until == PendingUntil::Heartbeat { ", stalled" } else { "" };
        write!(f, "queue {queue}: {state}{stalled}; new handler {until}")
    }
}

impl PendingQueue {
    fn new(queue: u32, not_replaced: &NotReplaced) -> Self {
        let NotReplaced { handler, state, .. } = not_replaced;
        let until = match (handler, state) {
            (HandlerAge::Stalled, _) => PendingUntil::Heartbeat,
            (HandlerAge::None, ActorState::Stopped | ActorState::Failed { .. }) => PendingUntil::Restart,
            (HandlerAge::None, _) => PendingUntil::Start,
            _ => PendingUntil::Report,
        };
        Self { queue, state: QueueState::from(state), until }
    }
}

impl EngineHandle {
    /// Replaces the destinations and the handler factory, then the handler of each running queue. A new handler takes
    /// over from the old one ([`Handler::inherit`]). No socket is touched, and no queue is started: a drained, paused
    /// or failed queue stays as it is. Returns when the running queues have their new handlers.
    ///
    /// # Errors
    /// Changes nothing on an error, except after [`EngineError::DestinationsInPart`]. Returns
    /// [`EngineError::OtherHandler`] if `H` is not the type that the engine was built with, [`EngineError::Steering`]
    /// if the destinations cannot be set, or [`EngineError::Ended`].
    pub fn reload<H: Handler + 'static>(
        &self,
        factory: impl Fn(&QueueInfo) -> H + Send + Sync + 'static,
        destinations: impl Fn(&Tables) -> Destinations + Send + 'static,
    ) -> Result<ReloadReport, EngineError> {
        let shared = self.shared();
        // Reloads run one after the other, so that handlers and destinations always belong to the same reload.
        let _turn = shared.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = Arc::clone(&shared.factory) as Arc<dyn Any + Send + Sync>;
        let kept = kept.downcast::<Factory<H>>();
        let kept = kept.map_err(|_| EngineError::OtherHandler { given: std::any::type_name::<H>() })?;
        // The step that the kernel may refuse comes first. After it, only the end of the engine can prevent the reload.
        let (reply, listed) = flume::bounded(1);
        let order = HousekeeperCommand::Destinations(Box::new(destinations), reply);
        shared.housekeeper.send(order).map_err(|_| EngineError::Ended)?;
        listed.recv().map_err(|_| EngineError::Ended)??;
        let commit = move || kept.set(Arc::new(factory));
        let without = shared.supervisor.replace_handlers(REPLACED_WITHIN, commit).map_err(|error| match error {
            SupervisorError::Gone | SupervisorError::Refused(CommandRefused::Stopping) => EngineError::Ended,
            other => EngineError::resources("cannot replace the handlers")(other),
        })?;
        let queue = |one: &NotReplaced| Some((shared.plan.actors.get(one.actor.0)?.queue, one.clone()));
        let pending = without.iter().filter_map(queue).map(|(queue, one)| PendingQueue::new(queue, &one));
        Ok(ReloadReport { pending: pending.collect() })
    }
}
