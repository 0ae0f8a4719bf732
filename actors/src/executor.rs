//! Runs an actor on one thread of its own, on one core, with glommio or as a plain thread.
//!
//! This module owns the thread, its affinity, the catching of panics, and the delivery of the outcome. It is the only
//! file that names glommio. No glommio type is public.
//!
//! ```text
//! spawn(spec, body) --thread--> make executor -> pin -> [ body(Runtime) ] -> drop executor -> Outcome
//!        ^                           |  error                |  panic                           |
//!        +------ ExecutorError ------+                       +--> ThreadOutcome::Panicked(text) ------+--> ExecutorHandle
//! ```
//!
//! The settings of glommio prevent two defects. With a short preempt timer its executor can sleep forever while a
//! task is runnable. So the timer is one hour and no latency queue is created. As a result, glommio's reactor is not
//! polled while the body spins: the body must not wait for timers or wakes of glommio. One root future owns
//! everything, because glommio never drops detached tasks that sleep when the executor ends.

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

/// Reports how a body ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ThreadOutcome<R> {
    /// The body returned this value.
    Finished(R),
    /// The body panicked with this message.
    Panicked(String),
    /// The executor itself failed, or the outcome was taken before; the message names the case.
    Lost(String),
}

/// Gives a body access to its executor. It cannot leave its thread.
#[derive(Debug, Clone)]
pub struct Runtime {
    kind: ExecutorKind,
    cpu: Option<u32>,
    // `checkpoint` uses the executor of the current thread.
    stays: PhantomData<Rc<()>>,
}

impl Runtime {
    /// Lets the executor do its own work if work is due. Otherwise it costs about 2 ns. Call it every few batches of
    /// a loop.
    #[inline]
    pub async fn checkpoint(&self) {
        if self.kind == ExecutorKind::Glommio {
            glommio::executor().yield_if_needed().await;
        }
    }

    /// Returns the kind of executor that runs this body.
    #[must_use]
    pub fn kind(&self) -> ExecutorKind {
        self.kind
    }

    /// Returns the CPU that this body is pinned to.
    #[must_use]
    pub fn cpu(&self) -> Option<u32> {
        self.cpu
    }
}

/// Holds a running executor. When it is dropped, the thread continues and nothing watches it.
#[derive(Debug)]
pub struct ExecutorHandle<R> {
    name: String,
    outcome: Receiver<ThreadOutcome<R>>,
    thread: Option<JoinHandle<()>>,
}

impl<R> ExecutorHandle<R> {
    /// Returns the name from the [`ExecutorSpec`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether the body has ended and everything that it owned is dropped, with the executor. A join does not
    /// wait then.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        !self.outcome.is_empty() || self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits without limit until the body ends.
    #[must_use]
    pub fn join(mut self) -> ThreadOutcome<R> {
        let received = self.outcome.recv().ok();
        self.collect(received)
    }

    /// Waits until the body ends, at most `patience`. Returns `None` if the body still runs then.
    ///
    /// The outcome is delivered once. Later calls return [`ThreadOutcome::Lost`].
    #[must_use]
    pub fn join_timeout(&mut self, patience: Duration) -> Option<ThreadOutcome<R>> {
        match self.outcome.recv_timeout(patience) {
            Ok(outcome) => Some(self.collect(Some(outcome))),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(self.collect(None)),
        }
    }

    /// Takes the outcome and joins the thread. The outcome is the last thing that the thread sends, so the join does
    /// not wait for the body.
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

/// Starts `body` as the root future of an executor on a new thread. Returns when the thread is pinned and ready.
///
/// A panic of the body is caught. The executor is shut down in order and everything that the body owned is dropped.
/// The panic message becomes [`ThreadOutcome::Panicked`]. This needs `panic = "unwind"`.
///
/// # Errors
/// Returns [`ExecutorError`] if the CPU is not available, io_uring is refused, or the kernel creates no thread.
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
        // An interior NUL panics in the standard library.
        .name(name.replace('\0', "?"))
        .spawn(move || {
            let ended = catch_unwind(AssertUnwindSafe(|| run_here(&spec, body, &ready_tx)));
            let outcome = match ended {
                Ok(Some(outcome)) => outcome,
                Ok(None) => return,
                Err(payload) => ThreadOutcome::Lost(panic_text(payload)),
            };
            // The receiver may be gone.
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
                ThreadOutcome::Finished(_) => "it did not report that it is ready".to_owned(),
            };
            Err(ExecutorError::Lost { executor: handle.name, observed })
        }
    }
}

/// Runs on the new thread. Returns `None` if the start failed; the reason was sent to `ready`.
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
    // `body(runtime)` may panic too, so it is called inside `catch_unwind`.
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

/// Creates the executor and pins this thread. Returns `None` for a plain thread.
///
/// This code pins the thread, and glommio does not: so both kinds report the same error. Pinning follows the
/// creation, because glommio's helper thread inherits the affinity and must not run on the actor's core.
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

/// Pins the calling thread to `cpu`. A caller may continue without the pin and call it again later.
///
/// # Errors
/// Returns the reason if this CPU is absent, offline, or outside this process's cpuset.
pub fn pin_current_thread(cpu: u32) -> Result<(), String> {
    let index = cpu as usize;
    if index >= CpuSet::MAX_CPU {
        return Err(format!("the kernel interface supports {} CPUs", CpuSet::MAX_CPU));
    }
    let mut set = CpuSet::new();
    set.set(index);
    sched_setaffinity(None, &set).map_err(|errno| match errno {
        rustix::io::Errno::INVAL => "absent, offline, or outside this process's cpuset".to_owned(),
        other => format!("sched_setaffinity: {other}"),
    })
}

/// Classifies why glommio did not start, as far as the remedies differ.
#[derive(Debug)]
pub(crate) enum GlommioRefusal {
    /// The limit of lockable memory is too low. Both values are in bytes.
    Memlock { limit: u64, wanted: u64 },
    /// Any other cause, with glommio's message. The message contains the errno as text; the kind of the error varies.
    Other(String),
}

/// Creates a glommio executor on the current thread, not pinned, with the settings that this module describes.
fn make_glommio() -> Result<LocalExecutor, GlommioRefusal> {
    LocalExecutorBuilder::new(Placement::Unbound)
        .preempt_timer(Duration::from_secs(3600))
        // There is no file I/O here; the defaults would pin 30 MiB.
        .io_memory(64 << 10)
        .ring_depth(16)
        // One thread is the minimum that glommio accepts.
        .blocking_thread_pool_placement(PoolPlacement::Unbound(1))
        .make()
        .map_err(|error| match memlock_limit() {
            // glommio returns this error without a kind, so the limit is read here.
            Some(limit) if limit < MEMLOCK_WANTED => GlommioRefusal::Memlock { limit, wanted: MEMLOCK_WANTED },
            _ => GlommioRefusal::Other(error.to_string()),
        })
}

/// glommio does not start below this limit, with any capabilities (its `Reactor::new`). In bytes.
const MEMLOCK_WANTED: u64 = 512 << 10;

/// Returns the soft limit in bytes, `None` if it is unlimited.
fn memlock_limit() -> Option<u64> {
    rustix::process::getrlimit(rustix::process::Resource::Memlock).current
}

/// Creates, runs and drops an executor on the current thread.
pub(crate) fn try_glommio() -> Result<(), GlommioRefusal> {
    let executor = make_glommio()?;
    executor.run(async { glommio::executor().yield_if_needed().await });
    Ok(())
}

/// Returns the message of a panic payload from `catch_unwind` or `JoinHandle::join`.
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
