//! How the rest of the engine speaks to the supervisor: requests over one bounded channel, each with its answer.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, TrySendError, bounded};

use super::{Depth, HandlerAge, Health, Refusal, State, WorkerId};
use crate::executor::panic_text;

/// Requests of the engine and the operator that wait at most.
pub(super) const REQUESTS: usize = 64;

/// What one worker looks like from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Which.
    pub worker: WorkerId,
    /// [`Worker::name`](super::Worker::name).
    pub name: String,
    /// Where it is.
    pub state: State,
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
pub struct Rested {
    /// Names of those that were told to end and still run.
    pub not_ended: Vec<String>,
}

/// A worker that has no handler of the newest factory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotReplaced {
    /// Identifies the worker.
    pub worker: WorkerId,
    /// What it has instead: never [`HandlerAge::Newest`].
    pub handler: HandlerAge,
    /// Its state.
    pub state: State,
}

/// Why a request to the supervisor came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SupervisorError {
    /// Not possible in the worker's present state.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many requests wait.
    #[error("the supervisor has {REQUESTS} requests waiting: try again")]
    Busy,
    /// The supervisor has ended.
    #[error("the supervisor has ended: nothing is started any more")]
    Gone,
}

/// One request on its way to the supervisor.
pub(super) enum Request<N> {
    Restart(WorkerId, Depth, Sender<Result<(), Refusal>>),
    ReplaceHandlers(Replacement),
    Drain(Vec<WorkerId>, Duration, Sender<Rested>),
    Stop(Duration, Sender<Rested>),
    Wake(WorkerId),
    Note(WorkerId, N),
    Status(Sender<(Health, Vec<Status>)>),
}

/// Takes the answer to a replacement of the handlers.
pub(super) type ReplacementReply = Sender<Result<Vec<NotReplaced>, Refusal>>;

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
    requests: Sender<Request<N>>,
    workers: usize,
}

impl<N> Clone for SupervisorHandle<N> {
    fn clone(&self) -> Self {
        Self { requests: self.requests.clone(), workers: self.workers }
    }
}

impl<N> SupervisorHandle<N> {
    pub(super) fn new(requests: Sender<Request<N>>, workers: usize) -> Self {
        Self { requests, workers }
    }

    /// Restarts a worker, or starts one that is stopped or failed. Returns when it is under way.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn restart(&self, worker: WorkerId, depth: Depth) -> Result<(), SupervisorError> {
        Ok(self.ask(|reply| Request::Restart(worker, depth, reply))??)
    }

    /// Calls `commit`, which brings another factory of handlers into force, and has each live worker replace its handler.
    /// Starts no worker: one that is stopped, failed or waiting gets the new handler with its next start. Waits until
    /// every live worker has reported its new handler, at most `within`; returns the workers that do not have it.
    ///
    /// # Errors
    /// [`SupervisorError::Gone`], or [`Refusal::Stopping`]: `commit` was not called then, and nothing has changed.
    pub fn replace_handlers(
        &self,
        within: Duration,
        commit: impl FnOnce() + Send + 'static,
    ) -> Result<Vec<NotReplaced>, SupervisorError> {
        let (reply, answer) = bounded(1);
        let replacement = Replacement { commit: Box::new(commit), by: Instant::now() + within, reply };
        // Waits for a free place: the supervisor itself never waits.
        self.requests.send(Request::ReplaceHandlers(replacement)).map_err(|_| SupervisorError::Gone)?;
        Ok(answer.recv().map_err(|_| SupervisorError::Gone)??)
    }

    /// Has a worker, or all, finish its work and stop; waits until it has, which may take longer than
    /// `within` by [`Settings::end_within`](super::Settings::end_within).
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn drain(&self, worker: Option<WorkerId>, within: Duration) -> Result<Rested, SupervisorError> {
        let workers = match worker {
            Some(worker) if worker.0 >= self.workers => {
                return Err(Refusal::Unknown { worker, workers: self.workers }.into());
            }
            Some(worker) => vec![worker],
            None => (0..self.workers).map(WorkerId).collect(),
        };
        self.ask(|reply| Request::Drain(workers, within, reply))
    }

    /// Stops all workers and the supervisor; waits until they have ended, at most `within`.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn stop(&self, within: Duration) -> Result<Rested, SupervisorError> {
        self.ask(|reply| Request::Stop(within, reply))
    }

    /// Something `worker` may wait for has come: it tries again at once.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn wake(&self, worker: WorkerId) -> Result<(), SupervisorError> {
        self.send(Request::Wake(worker))
    }

    /// Passes `note` to [`Worker::note`](super::Worker::note).
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn note(&self, worker: WorkerId, note: N) -> Result<(), SupervisorError> {
        self.send(Request::Note(worker, note))
    }

    /// All workers, in their order.
    ///
    /// # Errors
    /// [`SupervisorError`].
    pub fn status(&self) -> Result<(Health, Vec<Status>), SupervisorError> {
        self.ask(Request::Status)
    }

    fn send(&self, request: Request<N>) -> Result<(), SupervisorError> {
        self.requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(_) => SupervisorError::Busy,
            TrySendError::Disconnected(_) => SupervisorError::Gone,
        })
    }

    fn ask<A>(&self, request: impl FnOnce(Sender<A>) -> Request<N>) -> Result<A, SupervisorError> {
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
    /// Text of a panic in the observer or in a [`Worker`](super::Worker).
    pub fn join(self) -> Result<(), String> {
        drop(self.handle);
        self.thread.join().map_err(panic_text)
    }
}
