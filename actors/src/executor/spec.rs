//! Describes an executor, its choice, and the errors of its start.

use crate::probe;

/// Names what runs the future of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecutorKind {
    /// A glommio executor. It needs io_uring and 512 KiB of lockable memory.
    Glommio,
    /// A plain thread that polls one future. It works everywhere.
    Thread,
}

impl ExecutorKind {
    /// Returns the name used in configuration, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Glommio => "glommio",
            Self::Thread => "thread",
        }
    }
}

/// Holds the configured choice of executor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ExecutorChoice {
    /// Use glommio if this process can use io_uring. Otherwise use threads and report the reason.
    #[default]
    Auto,
    /// Use glommio, or return an error.
    Glommio,
    /// Use threads, without a probe.
    Thread,
}

impl ExecutorChoice {
    /// Decides for an executor. `Auto` probes once per process whether glommio starts, and keeps the answer. If it
    /// does not start, `Auto` also returns the reason with its remedy.
    ///
    /// The probe builds, runs and joins a real executor, because containers forbid io_uring by seccomp, and no file
    /// shows that. If a seccomp filter kills the process, no probe can survive it; choose [`ExecutorChoice::Thread`]
    /// there.
    #[must_use]
    pub fn resolve(self) -> (ExecutorKind, Option<String>) {
        match self {
            Self::Glommio => (ExecutorKind::Glommio, None),
            Self::Thread => (ExecutorKind::Thread, None),
            Self::Auto => match probe::glommio_here() {
                Ok(()) => (ExecutorKind::Glommio, None),
                Err(reason) => (ExecutorKind::Thread, Some(reason.clone())),
            },
        }
    }
}

/// Describes one executor before its start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorSpec {
    /// Name of the thread, also used in errors. The kernel shows its first 15 bytes.
    pub name: String,
    /// Logical CPU to pin to, as in `/sys/devices/system/cpu`. `None` keeps the affinity of the spawning thread.
    pub cpu: Option<u32>,
    /// Kind of the executor.
    pub kind: ExecutorKind,
}

/// Describes why an executor did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The CPU is absent, offline, or outside the set that this process may use.
    #[error(
        "executor {executor}: cannot run on CPU {cpu}: {observed} (online: {online}); to fix: choose an online CPU, or let \
         this process use it (`taskset`, systemd AllowedCPUs=, docker --cpuset-cpus)"
    )]
    Cpu {
        /// Name from the [`ExecutorSpec`].
        executor: String,
        /// Requested CPU.
        cpu: u32,
        /// Error of the kernel.
        observed: String,
        /// Content of `/sys/devices/system/cpu/online`.
        online: String,
    },
    /// glommio did not start; the message names the cause and the remedy.
    #[error("executor {executor}: {observed}; or choose the executor \"thread\"")]
    IoUring {
        /// Name from the [`ExecutorSpec`].
        executor: String,
        /// Cause and remedy.
        observed: String,
    },
    /// The kernel created no thread.
    #[error(
        "executor {executor}: cannot create a thread: {source}; to fix: raise `ulimit -u` or the cgroup's pids.max"
    )]
    Thread {
        /// Name from the [`ExecutorSpec`].
        executor: String,
        /// Error of the kernel.
        source: std::io::Error,
    },
    /// The thread ended before it reported that it was ready.
    #[error("executor {executor}: ended while starting: {observed}")]
    Lost {
        /// Name from the [`ExecutorSpec`].
        executor: String,
        /// Message of the panic, if there was one.
        observed: String,
    },
}
