//! `[admin]`: what operators reach of a running relay.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::Problem;

/// How operators reach a running relay.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct AdminConfig {
    /// Where HTTP is served.
    pub http: ListenSetting<SocketAddr>,
    /// Whether `http` may be an address that other hosts reach.
    pub allow_remote: bool,
    /// Path of the control socket.
    pub socket: ListenSetting<PathBuf>,
    /// How much of its privileges the process gives up before it opens anything.
    pub sandbox: SandboxLevel,
}

/// A way in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ListenSetting<T> {
    /// At the default place; without it, and told, where that cannot be had.
    #[default]
    Auto,
    /// None.
    Off,
    /// Here, or no start.
    At(T),
}

/// `sandbox`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxLevel {
    /// Each layer that the kernel has.
    #[default]
    Auto,
    /// Each layer, or no start.
    Require,
    /// None.
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

/// Where a [`ListenSetting`] may be.
pub trait ListenAddress: Sized {
    /// Reads it.
    fn read(text: &str) -> Option<Self>;
    /// As [`read`](Self::read) reads it.
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
        // Bytes of sun_path (unix(7)), less the terminating zero and what is appended while it is made.
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
                "other hosts would read this relay's configuration, queues and clients' addresses, without a password",
                "write http = \"127.0.0.1:9797\", or allow_remote = true if a firewall decides who reaches it",
            ));
        }
    }
}
