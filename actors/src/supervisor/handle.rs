//! How the rest of the engine speaks to the supervisor: requests over one bounded channel, each with its answer.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError, bounded};

use super::{ActorId, ActorState, CommandRefused, EngineHealth, HandlerAge, RestartScope};
use crate::executor::panic_text;

/// Requests of the engine and the operator that wait at most.
pub(super) const REQUESTS: usize = 64;

/// What one worker looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActorStatus {
    /// Which.
    pub actor: ActorId,
    /// [`ActorController::name`](super::ActorController::name).
    pub name: String,
    /// Where it is.
    pub state: ActorState,
    /// Number of its present or last life, from 1; 0: never started.
    pub generation: u64,
    /// Restarts so far, soft and hard.
    pub restarts: u64,
    /// Whether its heartbeat stands.
    pub stalled: bool,
    /// Telemetry dropped so far.
    pub telemetry_dropped: u64,
}

/// How a drain or a stop came out.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StopReport {
    /// Names of those that were told to end and still run.
    pub not_ended: Vec<String>,
}

/// A worker that has no handler of the newest factory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReplaced {
    /// Identifies the worker.
    pub actor: ActorId,
    /// What it has instead: never [`HandlerAge::Newest`].
    pub handler: HandlerAge,
    /// Its state.
    pub state: ActorState,
}

/// Why a request to the supervisor came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// Not possible in the worker's present state.
    #[error(transparent)]
    Refused(#[from] CommandRefused),
    /// Too many requests wait.
    #[error("the supervisor has {REQUESTS} requests waiting: try again")]
    Busy,
    /// The supervisor has ended.
    #[error("the supervisor has ended: nothing is started any more")]
    Gone,
}

/// One request on its way to the supervisor.
pub(super) enum SupervisorRequest<N> {
    Restart(ActorId, RestartScope, u8, Sender<Result<(), CommandRefused>>),
    ReplaceHandlers(Replacement),
    Drain(Vec<ActorId>, Duration, Sender<StopReport>),
    Stop(Duration, Sender<StopReport>),
    Wake(ActorId),
    EngineMessage(ActorId, N),
    Status(Sender<(EngineHealth, Vec<ActorStatus>)>),
}

/// Takes the answer to a replacement of the handlers.
pub(super) type ReplacementReply = Sender<Result<Vec<NotReplaced>, CommandRefused>>;

/// Handlers of all workers are to be replaced.
pub(super) struct Replacement {
    /// Brings the new factory into force.
    pub(super) commit: Box<dyn FnOnce() + Send>,
    /// The answer is given at this time, whatever is missing.
    pub(super) by: Instant,
    pub(super) reply: ReplacementReply,
}

/// Speaks to the supervisor, from any thread. When the last is dropped, all workers are stopped.
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

    /// Restarts a worker, or starts one that is stopped or failed. Returns when it is under way.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn restart(&self, actor: ActorId, scope: RestartScope, port: u8) -> Result<(), SupervisorError> {
        Ok(self.ask(|reply| SupervisorRequest::Restart(actor, scope, port, reply))??)
    }

    /// Calls `commit`, which brings another factory of handlers into force, and has each live worker replace its handler.
    /// Starts no worker: one that is stopped, failed or waiting gets the new handler with its next start. Waits until
    /// every live worker has reported its new handler, at most `within`; returns the workers that do not have it.
    ///
    /// # Errors
    /// [`SupervisorError::Gone`], or [`CommandRefused::Stopping`]: `commit` was not called then, and nothing has changed.
    pub fn replace_handlers(
        &self,
        within: Duration,
        commit: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<NotReplaced>, SupervisorError> {
        let (reply, answer) = bounded(1);
        let replacement = Replacement { commit: Box::new(commit), by: Instant::now() + within, reply };
        // Waits for a free place: the supervisor itself never waits.
        self.requests.send(SupervisorRequest::ReplaceHandlers(replacement)).map_err(|_| SupervisorError::Gone)?;
        Ok(answer.recv().map_err(|_| SupervisorError::Gone)??)
    }

    /// Has a worker, or all, finish its work and stop; waits until it has, which may take longer than
    /// `within` by [`Settings::end_within`](super::Settings::end_within).
    ///
    /// # Errors
    /// [`SupervisorError`].
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

    /// Stops all workers and the supervisor; waits until they have ended, at most `within`.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn stop(&self, within: Duration) -> Result<StopReport, SupervisorError> {
        self.ask(|reply| SupervisorRequest::Stop(within, reply))
    }

    /// Something `actor` may wait for has come: it tries again at once.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn wake(&self, actor: ActorId) -> Result<(), SupervisorError> {
        self.send(SupervisorRequest::Wake(actor))
    }

    /// Passes `message` to [`ActorController::on_engine_message`](super::ActorController::on_engine_message).
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn send_engine_message(&self, actor: ActorId, message: N) -> Result<(), SupervisorError> {
        self.send(SupervisorRequest::EngineMessage(actor, message))
    }

    /// All workers, in their order.
    ///
    /// # Errors
    /// [`SupervisorError`].
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

/// A running supervisor.
#[derive(Debug)]
pub struct Supervisor<N> {
    handle: SupervisorHandle<N>,
    thread: JoinHandle<()>,
}

impl<N> Supervisor<N> {
    pub(super) fn new(handle: SupervisorHandle<N>, thread: JoinHandle<()>) -> Self {
        Self { handle, thread }
    }

    /// A handle to speak to it.
    #[must_use]
    pub fn handle(&self) -> SupervisorHandle<N> {
        self.handle.clone()
    }

    /// Waits for its thread to end, which it does after a stop; the text of its panic otherwise.
    ///
    /// # Errors
    /// Text of a panic in the observer or in a [`Worker`](super::Datapath).
    pub fn join(self) -> Result<(), String> {
        drop(self.handle);
        self.thread.join().map_err(panic_text)
    }
}
