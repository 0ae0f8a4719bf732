//! Defines the engine's part of a configuration: `[engine]`, `[supervision]`, and the types of fields and sections.
//!
//! The whole file belongs to the application that reads it. The relay's file is `oxide_relay::config`.

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
pub use value::{Choice, PortRange, PortRanges, Realtime};
