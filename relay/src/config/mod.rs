//! The one configuration: read from TOML, checked as a whole, then never changed.
//!
//! A [`Config`] that exists has been checked: every value is in range, and the values fit each other.
//! What needs the machine to judge (are the interfaces there, is the MTU small enough) is judged by who
//! opens it. The fields are described in `docs/configuration.md` and by [`Config::example`].

mod admin;
mod changes;
mod fields;
mod limits;
mod relay;
mod sections;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use admin::{AdminConfig, ListenAddress, ListenSetting, SandboxLevel};
pub use changes::{ConfigChange, ReloadAction};
pub use limits::LimitsConfig;
pub use oxide::config::{
    Attach, Choice, ConfigError, EngineConfig, ExecutorKind, Fallback, PortRange, Problem, Realtime, SupervisionConfig,
};
pub use relay::{Affinity, GateKind, RelayConfig, SessionsConfig};

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// How the queues are opened and served.
    pub engine: EngineConfig,
    /// What sessions may cost.
    #[serde(default)]
    pub sessions: SessionsConfig,
    /// How operators reach it.
    #[serde(default)]
    pub admin: AdminConfig,
    /// How much each client network may send and be sent.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// When a queue that fails is started again.
    #[serde(default)]
    pub supervision: SupervisionConfig,
    /// What is relayed where; empty for an engine with a handler of its own.
    #[serde(default, rename = "relay", skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayConfig>,
}

impl Config {
    /// Parses and checks `text`.
    ///
    /// # Errors
    /// [`ConfigError::Syntax`] where it is not TOML; [`ConfigError::Invalid`] with everything that is
    /// wrong otherwise, shapes first: values are compared with each other only once all have a right type.
    ///
    /// ```
    /// let config = oxide_relay::config::Config::from_toml("engine.interfaces = [\"eth0\"]")?;
    /// assert_eq!(config.engine.ring_size, 1024);
    /// let wrong = oxide_relay::config::Config::from_toml("engine = { interfaces = [\"eth0\"], rign_size = 64 }");
    /// assert!(wrong.unwrap_err().to_string().contains("engine.rign_size: no such field; did you mean ring_size?"));
    /// # Ok::<(), oxide_relay::config::ConfigError>(())
    /// ```
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let file: toml::Table =
            toml::from_str(text).map_err(|e| ConfigError::Syntax(e.to_string().trim_end().into()))?;
        let mut problems = Vec::new();
        fields::check_shape(&file, &mut problems);
        if !problems.is_empty() {
            return Err(ConfigError::Invalid(problems));
        }
        // The shapes fit by now, so this fails only if the list of fields and the types disagree.
        let config: Self = file.try_into().map_err(|e: toml::de::Error| ConfigError::Syntax(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Reads, parses and checks a file.
    ///
    /// # Errors
    /// [`ConfigError::Read`], or as [`from_toml`](Self::from_toml).
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_toml(&text)
    }

    /// A configuration made in code: the defaults for `engine`, no relay.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`], as for a file.
    pub fn from_engine(engine: EngineConfig) -> Result<Self, ConfigError> {
        let config = Self {
            engine,
            sessions: SessionsConfig::default(),
            limits: LimitsConfig::default(),
            supervision: SupervisionConfig::default(),
            admin: AdminConfig::default(),
            relays: Vec::new(),
        };
        config.check()?;
        Ok(config)
    }

    /// Checks all values, and that they fit each other; for a configuration that was changed in code.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] with everything that is wrong.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        self.engine.check(&mut problems);
        self.sessions.check(&mut problems);
        self.admin.check(&mut problems);
        self.limits.check(&mut problems);
        self.supervision.check(&mut problems);
        relay::check_entries(&self.relays, &self.sessions, &mut problems);
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Invalid(problems)) }
    }

    /// As a file that reads back the same, without comments.
    ///
    /// # Errors
    /// Text, if it cannot be written as TOML: a defect of ours.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|e| e.to_string())
    }

    /// A commented file with every field, its default and its range.
    #[must_use]
    pub fn example() -> String {
        fields::example()
    }
}
