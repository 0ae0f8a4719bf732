//! What the process around an engine has given up. The engine only passes it on, so that it stands in every status.

use std::fmt;

use serde::Serialize;

/// One layer of confinement.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Layer {
    /// Which: `capabilities`, `no_new_privs`, `landlock`, `seccomp`.
    #[serde(rename = "layer")]
    pub name: &'static str,
    /// Whether it is in force.
    pub state: LayerState,
    /// What is left, which version, or why it is not in force.
    pub detail: String,
}

/// Whether a layer is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LayerState {
    /// In force for the whole process.
    On,
    /// Asked for, and not to be had here.
    Absent,
    /// Not asked for.
    Off,
}

impl LayerState {
    /// The word of the API and the metrics.
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
