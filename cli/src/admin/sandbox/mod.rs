//! What the process gives up before anything is opened, by the first thread, so that every later one has no more.
//!
//! | layer | file | leaves |
//! |---|---|---|
//! | capabilities | `capabilities` | those that opening a queue takes |
//! | `no_new_privs` | `capabilities` | no way to get others |
//! | Landlock | `files` | configuration, report, /proc and /sys |
//! | seccomp | `calls` | the system calls of start, restart and packets |
//!
//! What a start needs a restart needs again (a socket, a program, locked memory), so all of it is in force before the
//! start, and there is no second step after it that a restart could stumble over: what forbids a restart forbids the
//! start.

mod calls;
mod capabilities;
mod files;

use oxide::engine::{Layer, LayerState};
use oxide_relay::config::SandboxLevel;

pub use files::Files;

/// Why the process cannot go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// It has less than it needs.
    #[error(
        "this process lacks {missing}; as root outside of a container it would have them, in a systemd unit write \
         AmbientCapabilities={names}, in Docker --cap-add for each (and no user namespace), in Kubernetes \
         securityContext.capabilities.add"
    )]
    Missing {
        /// Which, and what for.
        missing: String,
        /// Their names, for a unit file.
        names: String,
    },
    /// A layer that was required cannot be had.
    #[error("admin.sandbox = \"require\": {layer}: {text} (\"auto\" goes on without)")]
    Layer {
        /// Which.
        layer: &'static str,
        /// The kernel's answer.
        text: String,
    },
}

/// What has been given up so far.
#[derive(Debug)]
pub struct Sandbox {
    level: SandboxLevel,
    layers: Vec<Layer>,
}

impl Sandbox {
    /// Gives up the capabilities that are not needed, and the ways to get others. To be called before any other thread
    /// is started.
    ///
    /// # Errors
    /// [`SandboxError`].
    pub fn begin(level: SandboxLevel) -> Result<Self, SandboxError> {
        let own = capabilities::own()?;
        let mut sandbox = Self { level, layers: Vec::new() };
        sandbox.layer("capabilities", || capabilities::restrict(own).map(Some))?;
        sandbox.layer("no_new_privs", || capabilities::no_new().map(|()| Some(String::new())))?;
        Ok(sandbox)
    }

    /// Gives up files and system calls. To be called before any other thread is started, and after listeners have been
    /// opened: no later one can be. `io_uring` says whether an executor may need it.
    ///
    /// # Errors
    /// [`SandboxError::Layer`].
    pub fn confine(&mut self, files: &Files, io_uring: bool) -> Result<(), SandboxError> {
        // Landlock is a thread's own; a library may have started one.
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        let others =
            if threads > 1 { format!(", but for {} threads of libraries", threads - 1) } else { String::new() };
        self.layer("landlock", || Ok(files::restrict(files)?.map(|version| format!("ABI {version}{others}"))))?;
        self.layer("seccomp", || calls::restrict(io_uring).map(|()| Some(String::new())))
    }

    /// Each layer, and what came of it.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// The same in a line.
    #[must_use]
    pub fn line(&self) -> String {
        if self.level == SandboxLevel::Off {
            return "sandbox: off, by configuration".to_owned();
        }
        let words: Vec<_> = self.layers.iter().map(ToString::to_string).collect();
        format!("sandbox: {}", words.join(", "))
    }

    fn layer(
        &mut self,
        name: &'static str,
        enter: impl FnOnce() -> Result<Option<String>, String>,
    ) -> Result<(), SandboxError> {
        let (state, detail) = match self.level {
            SandboxLevel::Off => (LayerState::Off, "by configuration".to_owned()),
            _ => match enter() {
                Ok(Some(detail)) => (LayerState::On, detail),
                Ok(None) => (LayerState::Absent, "not in this kernel, or not switched on at boot".to_owned()),
                Err(text) => (LayerState::Absent, text),
            },
        };
        if self.level == SandboxLevel::Require && state == LayerState::Absent {
            return Err(SandboxError::Layer { layer: name, text: detail });
        }
        self.layers.push(Layer { name, state, detail });
        Ok(())
    }
}
