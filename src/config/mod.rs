//! The engine's part of a configuration: `[engine]` and `[supervision]`, and what fields and sections are made of.
//!
//! The file as a whole belongs to the application that reads it; the ready relay's is `oxide_relay::config`.

mod engine;
mod error;
pub mod fields;
mod sections;
mod supervision;
mod value;

pub use engine::{Attach, EngineConfig, ExecutorKind, Fallback};
pub use error::{ConfigError, Problem};
pub use sections::{ENGINE, SUPERVISION};
pub use supervision::SupervisionConfig;
pub use value::{Choice, PortRange, Realtime};
