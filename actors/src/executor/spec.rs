//! What an executor is made of, how it is chosen, and why it does not start.

use crate::probe;

/// What drives the future of an actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ExecutorKind {
    /// A glommio executor: needs io_uring and 512 KiB of lockable memory.
    Glommio,
    /// A plain thread that polls its one future: works everywhere.
    Thread,
}

impl ExecutorKind {
    /// The word used in configuration, logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Glommio => "glommio",
            Self::Thread => "thread",
        }
    }
}

/// What the configuration asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum ExecutorChoice {
    /// glommio if this process can use io_uring, else threads, with the reason told.
    #[default]
    Auto,
    /// glommio or an error.
    Glommio,
    /// Threads, without looking.
    Thread,
}

impl ExecutorChoice {
    /// Decides. `Auto` looks once per process whether glommio starts here (the answer is kept) and, if
    /// not, says why in words with the mend.
    ///
    /// The look is an executor really built, run and joined: containers forbid io_uring by seccomp, which
    /// no file shows. A seccomp filter whose action is to kill the process cannot be survived by
    /// any look; choose [`ExecutorChoice::Thread`] there.
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

/// One executor to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecutorSpec {
    /// Name of the thread and in errors; the kernel shows its first 15 bytes.
    pub name: String,
    /// Logical CPU to pin to, as in `/sys/devices/system/cpu`. `None`: wherever the spawning thread may run.
    pub cpu: Option<u32>,
    /// What drives it.
    pub kind: ExecutorKind,
}

/// Why an executor did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExecutorError {
    /// The CPU is absent, offline, or outside what this process may use.
    #[error(
        "executor {executor}: cannot run on CPU {cpu}: {observed} (online: {online}); choose an online CPU, or let \
         this process use it (`taskset`, systemd AllowedCPUs=, docker --cpuset-cpus)"
    )]
    Cpu {
        /// Name from the [`ExecutorSpec`].
        executor: String,
        /// CPU that was asked for.
        cpu: u32,
        /// What the kernel said.
        observed: String,
        /// Content of `/sys/devices/system/cpu/online`.
        online: String,
    },
    /// glommio did not start; the text names the cause and the mend.
    #[error("executor {executor}: {observed}; or choose the executor \"thread\"")]
    IoUring {
        /// Name from the [`ExecutorSpec`].
        executor: String,
        /// What was observed, and the mend.
        observed: String,
    },
    /// The kernel gave no thread.
    #[error("executor {executor}: no thread: {source}; look at `ulimit -u` and the cgroup's pids.max")]
    Thread {
        /// Name from the [`ExecutorSpec`].
        executor: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The thread ended before it could say whether it was ready.
    #[error("executor {executor}: ended while starting: {observed}")]
    Lost {
        /// Name from the [`ExecutorSpec`].
        executor: String,
        /// Text of the panic, if there was one.
        observed: String,
    },
}
