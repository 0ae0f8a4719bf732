//! Reads the configuration from TOML and checks it as a whole; it never changes afterwards.
//!
//! A [`Config`] is always checked: every value is in range, and the values fit each other. Values that depend on the
//! machine (do the interfaces exist, is the MTU small enough) are checked at start. `docs/configuration.md` and
//! [`Config::example`] describe the fields.

mod admin;
mod bound;
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
pub use bound::SessionBound;
pub use changes::{ConfigChange, ReloadAction};
pub use limits::LimitsConfig;
pub use oxide::config::{
    Attach, Choice, ConfigError, EngineConfig, ExecutorKind, Fallback, PortRange, PortRanges, Problem, Realtime,
    SupervisionConfig,
};
pub use relay::{Affinity, GateKind, RelayConfig, SessionsConfig};

/// Holds the whole configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Config {
    /// NIC queues.
    pub engine: EngineConfig,
    /// Limits of sessions.
    #[serde(default)]
    pub sessions: SessionsConfig,
    /// Admin endpoints and sandbox.
    #[serde(default)]
    pub admin: AdminConfig,
    /// Rate limits per client network.
    #[serde(default)]
    pub limits: LimitsConfig,
    /// Restarts of failed queues.
    #[serde(default)]
    pub supervision: SupervisionConfig,
    /// Relay entries; empty for an engine with another handler.
    #[serde(default, rename = "relay", skip_serializing_if = "Vec::is_empty")]
    pub relays: Vec<RelayConfig>,
}

impl Config {
    /// Parses and checks `text`.
    ///
    /// # Errors
    /// Returns [`ConfigError::Syntax`] if the text is not TOML, and [`ConfigError::Invalid`] with all errors otherwise.
    /// Values are compared with each other only if all types are right.
    ///
    /// ```
    /// let config = oxide_relay::config::Config::from_toml("engine.interfaces = [\"eth0\"]")?;
    /// assert_eq!(config.engine.ring_size, 1024);
    /// let wrong = oxide_relay::config::Config::from_toml("engine = { interfaces = [\"eth0\"], rign_size = 64 }");
    /// assert!(wrong.unwrap_err().to_string().contains("engine.rign_size: no such field; to fix: write ring_size"));
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
        // All types are right here, so this fails only if the list of fields and the Rust types disagree.
        let config: Self = file.try_into().map_err(|e: toml::de::Error| ConfigError::Syntax(e.to_string()))?;
        config.check()?;
        Ok(config)
    }

    /// Reads, parses and checks a file.
    ///
    /// # Errors
    /// Returns [`ConfigError::Read`], or an error of [`from_toml`](Self::from_toml).
    pub fn load(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let text =
            std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::from_toml(&text)
    }

    /// Makes a configuration in code: `engine`, defaults for the rest, no relay entry.
    ///
    /// # Errors
    /// Returns [`ConfigError::Invalid`], as for a file.
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

    /// Checks all values and that they fit each other, for a configuration that was changed in code.
    ///
    /// # Errors
    /// Returns [`ConfigError::Invalid`] with all errors.
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

    /// Returns a file without comments that reads back as this configuration.
    ///
    /// # Errors
    /// Returns a text if the configuration cannot be written as TOML, which is a defect of this program.
    pub fn to_toml(&self) -> Result<String, String> {
        toml::to_string(self).map_err(|e| e.to_string())
    }

    /// Returns a commented file with every field, its default and its range.
    #[must_use]
    pub fn example() -> String {
        fields::example()
    }
}
