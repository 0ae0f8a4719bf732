//! Declares `[admin]`: admin endpoints and sandbox.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Problem;

/// Configures admin endpoints and sandbox.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AdminConfig {
    /// Address of the HTTP server.
    pub http: ListenSetting<SocketAddr>,
    /// Allows an address of `http` that other hosts can reach.
    pub allow_remote: bool,
    /// Path of the control socket.
    pub socket: ListenSetting<PathBuf>,
    /// Privileges that the process gives up before it opens a queue.
    pub sandbox: SandboxLevel,
}

/// Configures a listener.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListenSetting<T> {
    /// Listens on the default address; if it cannot, starts without the listener and reports it.
    #[default]
    Auto,
    /// Has no listener.
    Off,
    /// Listens on this address, or refuses to start.
    At(T),
}

/// Selects the layers of the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxLevel {
    /// Uses each layer that the kernel has.
    #[default]
    Auto,
    /// Uses each layer, or refuses to start.
    Require,
    /// Uses no layer.
    Off,
}

impl<'de, T: ListenAddress> Deserialize<'de> for ListenSetting<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            other => T::read(other).map(Self::At).ok_or_else(|| D::Error::custom("not a place")),
        }
    }
}

impl<T: ListenAddress> Serialize for ListenSetting<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Off => serializer.serialize_str("off"),
            Self::At(place) => serializer.collect_str(&place.write()),
        }
    }
}

/// Is an address of a [`ListenSetting`].
pub trait ListenAddress: Sized {
    /// Parses the address; `None` if it is invalid.
    fn read(text: &str) -> Option<Self>;
    /// Formats the address for [`read`](Self::read).
    fn write(&self) -> String;
}

impl ListenAddress for SocketAddr {
    fn read(text: &str) -> Option<Self> {
        text.parse().ok()
    }

    fn write(&self) -> String {
        self.to_string()
    }
}

impl ListenAddress for PathBuf {
    fn read(text: &str) -> Option<Self> {
        // Size of sun_path (unix(7)) minus the terminating zero and a suffix that is used while the socket is created.
        (text.starts_with('/') && text.len() <= 100).then(|| text.into())
    }

    fn write(&self) -> String {
        self.display().to_string()
    }
}

impl AdminConfig {
    /// Returns the defaults with these two listeners.
    #[must_use]
    pub fn new(http: ListenSetting<SocketAddr>, socket: ListenSetting<PathBuf>) -> Self {
        Self { http, socket, ..Self::default() }
    }

    pub(super) fn check(&self, problems: &mut Vec<Problem>) {
        if let ListenSetting::At(address) = self.http
            && !address.ip().to_canonical().is_loopback()
            && !self.allow_remote
        {
            problems.push(Problem::new(
                "admin.http",
                format!("\"{address}\""),
                "other hosts could read configuration, queues and clients' addresses without a password",
                "write http = \"127.0.0.1:9797\", or allow_remote = true if a firewall limits access",
            ));
        }
    }
}
