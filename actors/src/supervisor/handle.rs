//! Sends requests of the engine to the supervisor over one bounded channel. Each request has its own answer.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError, bounded};

use super::{ActorId, ActorState, CommandRefused, EngineHealth, HandlerAge, RestartScope};
use crate::executor::panic_text;

/// Maximum number of waiting requests from the engine and the operator.
pub(super) const REQUESTS: usize = 64;

/// Describes the state of one actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorStatus {
    /// Identifies the actor.
    pub actor: ActorId,
    /// Name from [`ActorController::name`](super::ActorController::name).
    pub name: String,
    /// Current state.
    pub state: ActorState,
    /// Number of its current or last run, from 1; 0 if it never started.
    pub generation: u64,
    /// Number of restarts so far, of every scope.
    pub restarts: u64,
    /// Whether its heartbeat has stopped.
    pub stalled: bool,
    /// Number of telemetry messages dropped so far.
    pub telemetry_dropped: u64,
}

/// Reports the result of a drain or a stop.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopReport {
    /// Names of the actors that did not end in time and still run.
    pub not_ended: Vec<String>,
}

/// Describes an actor that has no handler of the newest factory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReplaced {
    /// Identifies the actor.
    pub actor: ActorId,
    /// Age of its handler; never [`HandlerAge::Newest`].
    pub handler: HandlerAge,
    /// Current state.
    pub state: ActorState,
}

/// Describes why a request to the supervisor failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// The request is not possible in the actor's current state.
    #[error(transparent)]
    Refused(#[from] CommandRefused),
    /// Too many requests wait.
    #[error("supervisor: busy: {REQUESTS} requests wait; to fix: try again")]
    Busy,
    /// The supervisor has ended.
    #[error("supervisor: it has ended and starts no actor")]
    Gone,
}

/// Holds one request to the supervisor.
pub(super) enum SupervisorRequest<N> {
    Restart(ActorId, RestartScope, u8, Sender<Result<(), CommandRefused>>),
    ReplaceHandlers(Replacement),
    Drain(Vec<ActorId>, Duration, Sender<StopReport>),
    Stop(Duration, Sender<StopReport>),
    Wake(ActorId),
    EngineMessage(ActorId, N),
    Status(Sender<(EngineHealth, Vec<ActorStatus>)>),
}

/// Receives the answer to a replacement of the handlers.
pub(super) type ReplacementReply = Sender<Result<Vec<NotReplaced>, CommandRefused>>;

/// Requests new handlers for all actors.
pub(super) struct Replacement {
    /// Activates the new factory.
    pub(super) commit: Box<dyn FnOnce() + Send>,
    /// Deadline of the answer, even if handlers are missing.
    pub(super) by: Instant,
    pub(super) reply: ReplacementReply,
}

/// Sends requests to the supervisor, from any thread. When the last handle is dropped, the supervisor stops all
/// actors.
#[derive(Debug)]
pub struct SupervisorHandle<N> {
    requests: Sender<SupervisorRequest<N>>,
    actors: usize,
}

impl<N> Clone for SupervisorHandle<N> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), actors: self.actors }
    }
}

impl<N> SupervisorHandle<N> {
    pub(super) fn new(requests: Sender<SupervisorRequest<N>>, actors: usize) -> Self {
        Self { requests, actors }
    }

    /// Restarts an actor, or starts a stopped or failed one. Returns when the restart has begun.
    ///
    /// # Errors
    /// Returns [`SupervisorError`].
    pub fn restart(&self, actor: ActorId, scope: RestartScope, port: u8) -> Result<(), SupervisorError> {
        Ok(self.ask(|reply| SupervisorRequest::Restart(actor, scope, port, reply))??)
    }

    /// Calls `commit`, which activates another factory of handlers, and makes each live actor replace its handler. It
    /// starts no actor: a stopped, failed or waiting one gets the new handler at its next start. Waits at most
    /// `within` until every live actor has reported its new handler. Returns the actors that do not have it.
    ///
    /// # Errors
    /// Returns [`SupervisorError::Gone`], or [`CommandRefused::Stopping`]. In both cases `commit` was not called and
    /// nothing has changed.
    pub fn replace_handlers(
        &self,
        within: Duration,
        commit: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<NotReplaced>, SupervisorError> {
        let (reply, answer) = bounded(1);
        let replacement = Replacement { commit: Box::new(commit), by: Instant::now() + within, reply };
        // This waits for a free place in the channel: the supervisor itself never waits.
        self.requests.send(SupervisorRequest::ReplaceHandlers(replacement)).map_err(|_| SupervisorError::Gone)?;
        Ok(answer.recv().map_err(|_| SupervisorError::Gone)??)
    }

    /// Makes one actor, or all, finish its work and stop, and waits for that. The wait may exceed `within` by
    /// [`Settings::end_within`](super::Settings::end_within).
    ///
    /// # Errors
    /// Returns [`SupervisorError`].
    pub fn drain(&self, actor: Option<ActorId>, within: Duration) -> Result<StopReport, SupervisorError> {
        let actors = match actor {
            Some(actor) if actor.0 >= self.actors => {
                return Err(CommandRefused::Unknown { actor, actors: self.actors }.into());
            }
            Some(actor) => vec![actor],
            None => (0..self.actors).map(ActorId).collect(),
        };
        self.ask(|reply| SupervisorRequest::Drain(actors, within, reply))
    }

    /// Stops all actors and the supervisor. Waits until they have ended, at most `within`.
    ///
    /// # Errors
    /// Returns [`SupervisorError`].
    pub fn stop(&self, within: Duration) -> Result<StopReport, SupervisorError> {
        self.ask(|reply| SupervisorRequest::Stop(within, reply))
    }

    /// Makes `actor` try again at once, because something that it waits for may be present now.
    ///
    /// # Errors
    /// Returns [`SupervisorError`].
    pub fn wake(&self, actor: ActorId) -> Result<(), SupervisorError> {
        self.send(SupervisorRequest::Wake(actor))
    }

    /// Passes `message` to [`ActorController::on_engine_message`](super::ActorController::on_engine_message).
    ///
    /// # Errors
    /// Returns [`SupervisorError`].
    pub fn send_engine_message(&self, actor: ActorId, message: N) -> Result<(), SupervisorError> {
        self.send(SupervisorRequest::EngineMessage(actor, message))
    }

    /// Returns the status of all actors, in their order.
    ///
    /// # Errors
    /// Returns [`SupervisorError`].
    pub fn status(&self) -> Result<(EngineHealth, Vec<ActorStatus>), SupervisorError> {
        self.ask(SupervisorRequest::Status)
    }

    fn send(&self, request: SupervisorRequest<N>) -> Result<(), SupervisorError> {
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => SupervisorError::Busy,
            TrySendError::Disconnected(_) => SupervisorError::Gone,
        })
    }

    fn ask<A>(&self, request: impl FnOnce(Sender<A>) -> SupervisorRequest<N>) -> Result<A, SupervisorError> {
        let (reply, answer) = bounded(1);
        self.send(request(reply))?;
        answer.recv().map_err(|_| SupervisorError::Gone)
    }
}

/// Owns a running supervisor.
#[derive(Debug)]
pub struct Supervisor<N> {
    handle: SupervisorHandle<N>,
    thread: JoinHandle<()>,
}

impl<N> Supervisor<N> {
    pub(super) fn new(handle: SupervisorHandle<N>, thread: JoinHandle<()>) -> Self {
        Self { handle, thread }
    }

    /// Returns a handle that sends requests.
    #[must_use]
    pub fn handle(&self) -> SupervisorHandle<N> {
        self.handle.clone()
    }

    /// Waits until the supervisor's thread ends, which it does after a stop.
    ///
    /// # Errors
    /// Returns the message of a panic in the observer or in an [`ActorController`](super::ActorController).
    pub fn join(self) -> Result<(), String> {
        drop(self.handle);
        self.thread.join().map_err(panic_text)
    }
}
