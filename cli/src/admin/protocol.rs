//! Defines the messages of the control socket: one request and one answer, each a line of JSON.
//!
//! ```text
//! {"do":"restart","queue":"eth0:3","depth":"handler"}
//! {"ok":"eth0:3: restart begun"}
//! {"do":"restart","queue":"eth9:0"}
//! {"error":{"code":"refused","text":"no queue eth9:0; there are: eth0:0, eth0:1"}}
//! ```

use serde::{Deserialize, Serialize};
use serde_json::Value;

use oxide::engine::RestartScope;
use oxide::port::QueueId;

/// Maximum length of a request in bytes, with its line feed.
pub const MAX_REQUEST: usize = 4096;
/// Maximum number of sessions in one answer.
pub const MAX_SESSIONS: usize = 1000;

/// Holds a request of an operator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum ControlRequest {
    /// Returns the full status of the engine.
    Status {},
    /// Returns a summary of each queue: [`NodeView`](super::NodeView).
    Queues {},
    /// Returns sessions of one queue, or of each queue.
    Sessions {
        /// Queue as `interface:queue`. `None` selects all queues.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue: Option<String>,
        /// Maximum number of sessions, at most [`MAX_SESSIONS`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        limit: Option<usize>,
    },
    /// Rebuilds a queue, or a part of it.
    Restart {
        /// Queue as `interface:queue`.
        queue: String,
        /// Scope of the restart.
        #[serde(default = "whole_queue")]
        depth: RestartScope,
    },
    /// Stops the reception of new packets on a port.
    Pause {
        /// Queue as `interface:queue`.
        queue: String,
    },
    /// Resumes the reception on a paused port.
    Resume {
        /// Queue as `interface:queue`.
        queue: String,
    },
    /// Starts no new sessions, serves the existing ones for a while, then stops a queue or the whole relay.
    Drain {
        /// Queue as `interface:queue`. `None` selects the whole relay, which then ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        queue: Option<String>,
        /// Time limit for existing sessions in seconds. `None` selects the configured value.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        within_s: Option<u32>,
    },
    /// Returns the log filter. If a filter is given, sets it first.
    Log {
        /// Filter as for `--log`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        filter: Option<String>,
    },
    /// Reads the configuration file again.
    Reload {},
    /// Returns the plan in use.
    Plan {},
    /// Returns the configuration in use.
    Config {},
    /// Returns the metrics as Prometheus text.
    Metrics {},
}

fn whole_queue() -> RestartScope {
    RestartScope::Queue
}

/// Holds the answer to a request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ControlResponse {
    /// The relay executed the request; its result.
    Ok(Value),
    /// The relay did not execute the request.
    Error(ControlError),
}

/// Describes why a request failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{text}")]
pub struct ControlError {
    /// Kind of the error.
    pub code: ControlErrorKind,
    /// Message with the remedy.
    pub text: String,
}

/// Lists the kinds of errors, one for each exit code of `oxide ctl`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ControlErrorKind {
    /// The relay understood the request and refuses it.
    Refused,
    /// The request is invalid.
    BadRequest,
    /// Too many requests are in progress, or the request took too long.
    Busy,
}

impl ControlError {
    /// Creates an error for a refused request.
    #[must_use]
    pub fn refused(text: impl Into<String>) -> Self {
        Self { code: ControlErrorKind::Refused, text: text.into() }
    }

    /// Creates an error for an invalid request.
    #[must_use]
    pub fn bad(text: impl Into<String>) -> Self {
        Self { code: ControlErrorKind::BadRequest, text: text.into() }
    }

    /// Creates an error for a busy relay.
    #[must_use]
    pub fn busy(text: impl Into<String>) -> Self {
        Self { code: ControlErrorKind::Busy, text: text.into() }
    }
}

/// Reads `interface:queue`.
///
/// # Errors
/// Returns [`ControlError`] with the expected form.
pub fn queue_id(text: &str) -> Result<QueueId, ControlError> {
    let parts = text.rsplit_once(':').and_then(|(interface, queue)| Some((interface, queue.parse().ok()?)));
    match parts {
        Some((interface, queue)) if !interface.is_empty() => Ok(QueueId::new(interface, queue)),
        _ => Err(ControlError::bad(format!("queue: invalid: {text:?}; expected INTERFACE:QUEUE, such as eth0:3"))),
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
