//! Where an actor runs: one thread of its own, on one core, driven by glommio or by nothing at all.
//!
//! Owns the thread, its affinity, the wall around a panic, and the hand-over of the outcome. It is the
//! only file that names glommio, and no type of it gets out.
//!
//! ```text
//! spawn(spec, body) --thread--> make executor -> pin -> [ body(Runtime) ] -> drop executor -> Outcome
//!        ^                           |  error                |  panic                           |
//!        +------ ExecutorError ------+                       +--> ThreadOutcome::Panicked(text) ------+--> ExecutorHandle
//! ```
//!
//! glommio's settings are not a matter of taste. With a short preempt timer its executor can park for
//! ever with a runnable task, so the timer is an hour and no latency queue is made; then its reactor is
//! not polled while the body spins, so the body must not wait for timers or wakes of glommio. One root
//! future owns everything: detached tasks that are parked when the executor ends are never dropped.

mod spec;

use std::any::Any;
use std::future::Future;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use futures_lite::FutureExt as _;
use glommio::{LocalExecutor, LocalExecutorBuilder, Placement, PoolPlacement};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::probe;
pub use spec::{ExecutorChoice, ExecutorError, ExecutorKind, ExecutorSpec};

/// How a body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThreadOutcome<R> {
    /// It returned.
    Finished(R),
    /// It panicked; the payload's text.
    Panicked(String),
    /// The executor itself failed, or the outcome was taken before; the text says which.
    Lost(String),
}

/// The executor as its body sees it. Stays on its thread.
#[derive(Debug, Clone)]
pub struct Runtime {
    kind: ExecutorKind,
    cpu: Option<u32>,
    // `checkpoint` speaks of the executor of the current thread.
    stays: PhantomData<Rc<()>>,
}

impl Runtime {
    /// Lets the executor do its own work if it asks for it, else costs about 2 ns. Call it every few
    /// batches of a loop.
    #[inline]
    pub async fn checkpoint(&self) {
        if self.kind == ExecutorKind::Glommio {
            glommio::executor().yield_if_needed().await;
        }
    }

    /// What drives this body.
    #[must_use]
    pub fn kind(&self) -> ExecutorKind {
        self.kind
    }

    /// CPU this body is pinned to.
    #[must_use]
    pub fn cpu(&self) -> Option<u32> {
        self.cpu
    }
}

/// A running executor. Dropping it lets the thread run on, unwatched.
#[derive(Debug)]
pub struct ExecutorHandle<R> {
    name: String,
    outcome: Receiver<ThreadOutcome<R>>,
    thread: Option<JoinHandle<()>>,
}

impl<R> ExecutorHandle<R> {
    /// Name from the [`ExecutorSpec`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the body has ended and all it owned, the executor too, is dropped: a join will not wait.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !self.outcome.is_empty() || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the end, for as long as it takes.
    #[must_use]
    pub fn join(mut self) -> ThreadOutcome<R> {
        let received = self.outcome.recv().ok();
        self.collect(received)
    }

    /// Waits for the end, at most `patience`; `None` if the body still runs then.
    ///
    /// The outcome is handed over once; after that the answer is [`ThreadOutcome::Lost`].
    #[must_use]
    pub fn join_timeout(&mut self, patience: Duration) -> Option<ThreadOutcome<R>> {
        match self.outcome.recv_timeout(patience) {
            Ok(outcome) => Some(self.collect(Some(outcome))),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(self.collect(None)),
        }
    }

    /// The outcome is the last thing the thread sends, so joining it does not wait for the body.
    fn collect(&mut self, received: Option<ThreadOutcome<R>>) -> ThreadOutcome<R> {
        let thread_end = self.thread.take().map(JoinHandle::join);
        received.unwrap_or_else(|| {
            ThreadOutcome::Lost(match thread_end {
                Some(Err(payload)) => panic_text(payload),
                Some(Ok(())) => "the thread ended without an outcome".to_owned(),
                None => "the outcome was taken before".to_owned(),
            })
        })
    }
}

/// Starts `body` as the root future of an executor on a new thread, and returns when it is pinned and ready.
///
/// A panic of the body is caught: the executor is taken down in order, all the body owned is dropped,
/// and the payload's text becomes [`ThreadOutcome::Panicked`]. (Needs `panic = "unwind"`.)
///
/// # Errors
/// [`ExecutorError`]: no such CPU, io_uring refused, no thread.
pub fn spawn<F, Fut, R>(spec: ExecutorSpec, body: F) -> Result<ExecutorHandle<R>, ExecutorError>
where
    F: FnOnce(Runtime) -> Fut + Send + 'static,
    Fut: Future<Output = R> + 'static,
    R: Send + 'static,
{
    let (ready_tx, ready_rx) = bounded(1);
    let (outcome_tx, outcome_rx) = bounded(1);
    let name = spec.name.clone();
    let thread = std::thread::Builder::new()
        // An interior NUL would panic in the standard library.
        .name(name.replace('\0', "?"))
        .spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| run_here(&spec, body, &ready_tx)));
            let outcome = match ended {
                Ok(Some(outcome)) => outcome,
                Ok(None) => return,
                Err(payload) => ThreadOutcome::Lost(panic_text(payload)),
            };
            // Nobody may be waiting any more.
            let _ = outcome_tx.send(outcome);
        })
        .map_err(|source| ExecutorError::Thread { executor: name.clone(), source })?;
    let mut handle = ExecutorHandle { name, outcome: outcome_rx, thread: Some(thread) };
    match ready_rx.recv() {
        Ok(Ok(())) => Ok(handle),
        Ok(Err(error)) => {
            handle.collect(None);
            Err(error)
        }
        Err(_) => {
            let received = handle.outcome.recv().ok();
            let observed = match handle.collect(received) {
                ThreadOutcome::Lost(text) | ThreadOutcome::Panicked(text) => text,
                ThreadOutcome::Finished(_) => "no word of readiness".to_owned(),
            };
            Err(ExecutorError::Lost { executor: handle.name, observed })
        }
    }
}

/// Runs on the new thread. `None` if it did not get ready; the reason went to `ready`.
fn run_here<F, Fut, R>(
    spec: &ExecutorSpec,
    body: F,
    ready: &Sender<Result<(), ExecutorError>>,
) -> Option<ThreadOutcome<R>>
where
    F: FnOnce(Runtime) -> Fut + 'static,
    Fut: Future<Output = R> + 'static,
    R: 'static,
{
    let executor = match make(spec) {
        Ok(executor) => executor,
        Err(error) => {
            let _ = ready.send(Err(error));
            return None;
        }
    };
    let _ = ready.send(Ok(()));
    let runtime = Runtime { kind: spec.kind, cpu: spec.cpu, stays: PhantomData };
    // `body(runtime)` may panic too, so it is called inside the wall.
    let root = AssertUnwindSafe(async move { body(runtime).await }).catch_unwind();
    let ended = match &executor {
        Some(glommio) => glommio.run(root),
        None => futures_lite::future::block_on(root),
    };
    Some(match ended {
        Ok(value) => ThreadOutcome::Finished(value),
        Err(payload) => ThreadOutcome::Panicked(panic_text(payload)),
    })
}

/// The executor (`None`: a plain thread), with this thread pinned.
///
/// Pinning comes second, and is ours rather than glommio's, so that both kinds tell the same error and glommio's
/// helper thread, which inherits the affinity, does not land on the actor's core.
fn make(spec: &ExecutorSpec) -> Result<Option<LocalExecutor>, ExecutorError> {
    let executor = match spec.kind {
        ExecutorKind::Thread => None,
        ExecutorKind::Glommio => Some(make_glommio().map_err(|error| ExecutorError::IoUring {
            executor: spec.name.clone(),
            observed: probe::explain(&error, probe::io_uring_disabled()),
        })?),
    };
    if let Some(cpu) = spec.cpu {
        pin_current_thread(cpu).map_err(|observed| ExecutorError::Cpu {
            executor: spec.name.clone(),
            cpu,
            observed,
            online: probe::file("/sys/devices/system/cpu/online"),
        })?;
    }
    Ok(executor)
}

/// Pins the calling thread to `cpu`. For a body that runs elsewhere rather than not at all, and tries again later.
///
/// # Errors
/// Why this CPU cannot be had now: it is absent, offline, or outside this process's cpuset.
pub fn pin_current_thread(cpu: u32) -> Result<(), String> {
    let index = cpu as usize;
    if index >= CpuSet::MAX_CPU {
        return Err(format!("above the kernel interface's {} CPUs", CpuSet::MAX_CPU));
    }
    let mut set = CpuSet::new();
    set.set(index);
    sched_setaffinity(None, &set).map_err(|errno| match errno {
        rustix::io::Errno::INVAL => "absent, offline, or outside this process's cpuset".to_owned(),
        other => format!("sched_setaffinity: {other}"),
    })
}

/// Why glommio did not start, told apart as far as the mend differs.
#[derive(Debug)]
pub(crate) enum GlommioRefusal {
    /// Lockable memory: limit and need, in bytes.
    Memlock { limit: u64, wanted: u64 },
    /// Anything else, in its own words: it comes with the errno as text, under changing error kinds.
    Other(String),
}

/// An executor with the settings of this file's first lines, on the current thread, not pinned.
fn make_glommio() -> Result<LocalExecutor, GlommioRefusal> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .preempt_timer(Duration::from_secs(3600))
        // No file I/O here; the defaults would pin 30 MiB.
        .io_memory(64 << 10)
        .ring_depth(16)
        // The least it accepts.
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make()
        .map_err(|error| match memlock_limit() {
            // It comes out of glommio as an error without a kind, so the limit itself is looked at.
            Some(limit) if limit < MEMLOCK_WANTED => GlommioRefusal::Memlock { limit, wanted: MEMLOCK_WANTED },
            _ => GlommioRefusal::Other(error.to_string()),
        })
}

/// Below this glommio does not start (its `Reactor::new`), whatever the capabilities.
const MEMLOCK_WANTED: u64 = 512 << 10;

/// The soft limit in bytes; `None`: unlimited.
fn memlock_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// Builds, runs and drops an executor on the current thread.
pub(crate) fn try_glommio() -> Result<(), GlommioRefusal> {
    let executor = make_glommio()?;
    executor.run(async { glommio::executor().yield_if_needed().await });
    Ok(())
}

/// Text of a panic's payload, as `catch_unwind` and `JoinHandle::join` give it.
#[must_use]
pub fn panic_text(payload: Box<dyn Any + Send>) -> String {
    match payload.downcast::<&'static str>() {
        Ok(text) => (*text).to_owned(),
        Err(payload) => match payload.downcast::<String>() {
            Ok(text) => *text,
            Err(_) => "a panic whose payload is not text".to_owned(),
        },
    }
}

#[cfg(test)]
#[path = "executor_tests.rs"]
mod tests;
