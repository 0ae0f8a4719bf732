//! New handlers and new destinations for a running engine: both, or none.

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

/// For the queues to report their new handlers. One that is late is named, and gets its handler all the same.
const REPLACED_WITHIN: Duration = Duration::from_secs(3);

/// Reports the result of a reload that is in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ReloadReport {
    /// Queues that do not have the new handler yet. All others have it.
    pub pending: Vec<PendingQueue>,
}

/// A queue without the new handler, and when it gets one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct PendingQueue {
    /// Queue number.
    pub queue: u32,
    /// State of the queue.
    pub state: QueueState,
    /// What brings the new handler.
    pub until: PendingUntil,
}

/// What brings a queue its new handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PendingUntil {
    /// The queue is stalled: its heartbeat, when it resumes.
    Heartbeat,
    /// A restart that somebody requests.
    Restart,
    /// The queue's next start, which comes by itself.
    Start,
    /// Nothing more: the queue has not reported the new handler yet.
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
    /// Replaces what says which destinations are the engine's and what makes handlers, then replaces the handler of each
    /// running queue; the new one takes over from the old one ([`Handler::inherit`]). No socket is touched, and no queue is
    /// started: one that is drained, paused or failed stays so. Returns when the running queues have their new handlers.
    ///
    /// # Errors
    /// Nothing has changed then, except after [`EngineError::DestinationsInPart`]. [`EngineError::OtherHandler`] if `H` is not the type that the engine was built with;
    /// [`EngineError::Steering`] if the destinations cannot be listed; [`EngineError::Ended`].
    pub fn reload<H: Handler + 'static>(
        &self,
        factory: impl Fn(&QueueInfo) -> H + Send + Sync + 'static,
        destinations: impl Fn(&Tables) -> Destinations + Send + 'static,
    ) -> Result<ReloadReport, EngineError> {
        let shared = self.shared();
        // One after the other: the handlers of one reload and the destinations of another do not go together.
        let _turn = shared.reloading.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = Arc::clone(&shared.factory) as Arc<dyn Any + Send + Sync>;
        let kept = kept.downcast::<Factory<H>>();
        let kept = kept.map_err(|_| EngineError::OtherHandler { given: std::any::type_name::<H>() })?;
        // What the kernel may refuse comes first. After it only the end of the engine is in the way.
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
