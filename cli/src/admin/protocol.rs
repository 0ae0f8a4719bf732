//! What is said over the control socket: one request and one answer, each a line of JSON.
//!
//! ```text
//! {"do":"restart","queue":"eth0:3","depth":"handler"}
//! {"ok":"eth0:3: restart under way"}
//! {"do":"restart","queue":"eth9:0"}
//! {"error":{"code":"refused","text":"no queue eth9:0; there are: eth0:0, eth0:1"}}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

use oxide::engine::RestartScope;
use oxide::port::QueueId;

/// Longest request, bytes, its line feed included.
pub const MAX_REQUEST: usize = 4096;
/// Most sessions in one answer.
pub const MAX_SESSIONS: usize = 1000;

/// What an operator asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ControlRequest {
    /// Everything the engine says of itself.
    Status {},
    /// Each queue in short: [`NodeView`](super::NodeView).
    Queues {},
    /// Sessions of a queue, or some of each.
    Sessions {
        /// `interface:queue`; all queues without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue: Option<String>,
        /// At most so many, and at most [`MAX_SESSIONS`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// Rebuild a queue, as deep as told.
    Restart {
        /// `interface:queue`.
        queue: String,
        /// How deep.
        #[serde(default = "whole_queue")]
        depth: RestartScope,
    },
    /// Take no new packets of a port.
    Pause {
        /// `interface:queue`.
        queue: String,
    },
    /// Take them again.
    Resume {
        /// `interface:queue`.
        queue: String,
    },
    /// Start no new sessions, serve those there are for a while, then stop: a queue, or the whole relay.
    Drain {
        /// `interface:queue`; the whole relay, which ends then, without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue: Option<String>,
        /// How long sessions are still served, seconds; as configured without it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within_s: Option<u32>,
    },
    /// What is logged; set first if a filter is given.
    Log {
        /// As for `--log`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<String>,
    },
    /// Read the configuration file again.
    Reload {},
    /// The plan it runs by.
    Plan {},
    /// The configuration in force.
    Config {},
    /// Prometheus text.
    Metrics {},
}

fn whole_queue() -> RestartScope {
    RestartScope::Queue
}

/// What comes back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlResponse {
    /// As asked.
    Ok(Value),
    /// Not done, and why.
    Error(ControlError),
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct ControlError {
    /// What kind of trouble.
    pub code: ControlErrorKind,
    /// In words, with the mend.
    pub text: String,
}

/// Kinds of trouble, one for each exit code of `oxide ctl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ControlErrorKind {
    /// The relay understood and does not do it.
    Refused,
    /// The request makes no sense.
    BadRequest,
    /// Too many requests are under way, or it took too long: try again.
    Busy,
}

impl ControlError {
    /// The relay does not do it.
    #[must_use]
    pub fn refused(text: impl Into<String>) -> Self {
        Self { code: ControlErrorKind::Refused, text: text.into() }
    }

    /// The request makes no sense.
    #[must_use]
    pub fn bad(text: impl Into<String>) -> Self {
        Self { code: ControlErrorKind::BadRequest, text: text.into() }
    }

    /// Try again.
    #[must_use]
    pub fn busy(text: impl Into<String>) -> Self {
        Self { code: ControlErrorKind::Busy, text: text.into() }
    }
}

/// Reads `interface:queue`.
///
/// # Errors
/// [`ControlError`] that says how it is written.
pub fn queue_id(text: &str) -> Result<QueueId, ControlError> {
    let parts = text.rsplit_once(':').and_then(|(interface, queue)| Some((interface, queue.parse().ok()?)));
    match parts {
        Some((interface, queue)) if !interface.is_empty() => Ok(QueueId::new(interface, queue)),
        _ => Err(ControlError::bad(format!("{text:?} names no queue; write interface:queue, such as eth0:3"))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn requests_read_back_and_unknown_ones_are_refused() {
        for request in [
            ControlRequest::Status {},
            ControlRequest::Sessions { queue: None, limit: Some(3) },
            ControlRequest::Restart { queue: "eth0:3".into(), depth: RestartScope::Handler },
            ControlRequest::Drain { queue: Some("eth0:3".into()), within_s: Some(3) },
            ControlRequest::Log { filter: Some("debug".into()) },
            ControlRequest::Reload {},
        ] {
            let line = serde_json::to_string(&request).unwrap();
            assert_eq!(serde_json::from_str::<ControlRequest>(&line).unwrap(), request, "{line}");
        }
        let default: ControlRequest = serde_json::from_str(r#"{"do":"restart","queue":"a:0"}"#).unwrap();
        assert_eq!(default, ControlRequest::Restart { queue: "a:0".into(), depth: RestartScope::Queue });
        for bad in ["", "{}", "[]", r#"{"do":"reboot"}"#, r#"{"do":"restart"}"#, r#"{"do":"reload","force":true}"#] {
            assert!(serde_json::from_str::<ControlRequest>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn queues_by_name() {
        assert_eq!(queue_id("eth0:3").unwrap(), QueueId::new("eth0", 3));
        for bad in ["eth0", ":3", "eth0:", "eth0:x", "eth0:-1", ""] {
            assert!(queue_id(bad).unwrap_err().text.contains("eth0:3"), "{bad}");
        }
    }
}
