//! Drops privileges before anything is opened. The first thread does this, so that no later thread has more.
//!
//! | layer | file | keeps |
//! |---|---|---|
//! | capabilities | `capabilities` | those that open a queue |
//! | `no_new_privs` | `capabilities` | no means to get others |
//! | Landlock | `files` | configuration, report, /proc and /sys |
//! | seccomp | `calls` | the system calls of start, restart and packets |
//!
//! A restart needs the same privileges as a start (a socket, a program, locked memory). So all limits apply before
//! the start, and none is added later: what would prevent a restart prevents the start.

mod calls;
mod capabilities;
mod files;

use oxide::engine::{Layer, LayerState};
use oxide_relay::config::SandboxLevel;

pub use files::Files;

/// Describes why the process cannot continue.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The process has too few capabilities.
    #[error(
        "process: missing capabilities: {missing}; to fix: run as root outside a container; in a systemd unit set \
         AmbientCapabilities={names}; in Docker use --cap-add for each, without a user namespace; in Kubernetes set \
         securityContext.capabilities.add"
    )]
    Missing {
        /// Missing capabilities, each with its use.
        missing: String,
        /// Their names, for a unit file.
        names: String,
    },
    /// A required layer is not available.
    #[error("admin.sandbox: layer {layer} is not available: {text}; to fix: set \"auto\", which continues without it")]
    Layer {
        /// Name of the layer.
        layer: &'static str,
        /// Error of the kernel.
        text: String,
    },
}

/// Records the privileges that are dropped so far.
#[derive(Debug)]
pub struct Sandbox {
    level: SandboxLevel,
    layers: Vec<Layer>,
}

impl Sandbox {
    /// Drops the capabilities that are not needed, and the means to get others. Call it before another thread starts.
    ///
    /// # Errors
    /// Returns [`SandboxError`].
    pub fn begin(level: SandboxLevel) -> Result<Self, SandboxError> {
        let own = capabilities::own()?;
        let mut sandbox = Self { level, layers: Vec::new() };
        sandbox.layer("capabilities", || capabilities::restrict(own).map(Some))?;
        sandbox.layer("no_new_privs", || capabilities::no_new().map(|()| Some(String::new())))?;
        Ok(sandbox)
    }

    /// Limits files and system calls. Call it before another thread starts and after the listeners are open: none can
    /// be opened later. `io_uring` states whether an executor may need it.
    ///
    /// # Errors
    /// Returns [`SandboxError::Layer`].
    pub fn confine(&mut self, files: &Files, io_uring: bool) -> Result<(), SandboxError> {
        // Landlock applies to a thread, and a library may have started another one.
        let threads = std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        let others =
            if threads > 1 { format!(", except for {} threads of libraries", threads - 1) } else { String::new() };
        self.layer("landlock", || Ok(files::restrict(files)?.map(|version| format!("ABI {version}{others}"))))?;
        self.layer("seccomp", || calls::restrict(io_uring).map(|()| Some(String::new())))
    }

    /// Returns the state of each layer.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        &self.layers
    }

    /// Returns the state of all layers as a line.
    #[must_use]
    pub fn line(&self) -> String {
        if self.level == SandboxLevel::Off {
            return "sandbox: off by configuration".to_owned();
        }
        let layers: Vec<_> = self.layers.iter().map(ToString::to_string).collect();
        format!("sandbox: {}", layers.join(", "))
    }

    fn layer(
        &mut self,
        name: &'static str,
        enter: impl FnOnce() -> Result<Option<String>, String>,
    ) -> Result<(), SandboxError> {
        let (state, detail) = match self.level {
            SandboxLevel::Off => (LayerState::Off, "off by configuration".to_owned()),
            _ => match enter() {
                Ok(Some(detail)) => (LayerState::On, detail),
                Ok(None) => (LayerState::Absent, "not in this kernel, or not enabled at boot".to_owned()),
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
