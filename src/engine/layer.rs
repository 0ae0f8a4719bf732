//! Describes the sandbox of the process around an engine. The engine only includes it in every status.

use std::fmt;

use serde::Serialize;

/// Describes one layer of the sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Name of the layer: `capabilities`, `no_new_privs`, `landlock` or `seccomp`.
    #[serde(rename = "layer")]
    pub name: &'static str,
    /// Whether it is in force.
    pub state: LayerState,
    /// Remaining rights, version, or the reason why it is not in force.
    pub detail: String,
}

/// States whether a layer is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// In force for the whole process.
    On,
    /// Configured, but this kernel does not support it.
    Absent,
    /// Not configured.
    Off,
}

impl LayerState {
    /// Returns the name used by the API and the metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::On => "on",
            Self::Absent => "absent",
            Self::Off => "off",
        }
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.state, self.detail.as_str()) {
            (LayerState::On, "") => f.write_str(self.name),
            (LayerState::On, detail) => write!(f, "{} {detail}", self.name),
            (state, detail) => write!(f, "{} {} ({detail})", self.name, state.name()),
        }
    }
}
