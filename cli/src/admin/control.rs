//! What the doors need of the process behind them.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::protocol::{ControlError, ControlRequest, MAX_SESSIONS, queue_id};
use super::{NodeView, scrape};
use oxide::engine::{EngineStatus, PendingQueue, RestartScope};
use oxide::port::QueueId;
use oxide::queue::SessionInfo;
use oxide_relay::config::{Config, ConfigChange, ReloadAction};

/// A running relay, as its operators have it. Called on threads that may wait.
pub trait Control: Send + Sync + 'static {
    /// How it is.
    fn status(&self) -> EngineStatus;

    /// The plan it runs by, as JSON.
    fn plan(&self) -> Value;

    /// The configuration in force.
    fn config(&self) -> Config;

    /// At most `limit` sessions of one queue, or of each.
    ///
    /// # Errors
    /// [`ControlError`].
    fn sessions(&self, queue: Option<&QueueId>, limit: usize) -> Result<Vec<SessionInfo>, ControlError>;

    /// Rebuilds a queue; returns when it is under way.
    ///
    /// # Errors
    /// [`ControlError`].
    fn restart(&self, queue: &QueueId, depth: RestartScope) -> Result<(), ControlError>;

    /// Takes no new packets of a port, or takes them again.
    ///
    /// # Errors
    /// [`ControlError`].
    fn pause(&self, queue: &QueueId, paused: bool) -> Result<(), ControlError>;

    /// Drains a queue and waits for its end, or begins to drain the whole relay, which then ends.
    ///
    /// # Errors
    /// [`ControlError`].
    fn drain(&self, queue: Option<&QueueId>, within: Option<Duration>) -> Result<(), ControlError>;

    /// What is logged; set first if a filter is given.
    ///
    /// # Errors
    /// [`ControlError`] if the filter makes no sense.
    fn log(&self, filter: Option<&str>) -> Result<String, ControlError>;

    /// Reads the configuration file again and brings into force what can be.
    ///
    /// # Errors
    /// [`ControlError`]: the file is wrong, and nothing has changed.
    fn reload(&self) -> Result<Reloaded, ControlError>;
}

/// What a reload came to.
#[derive(Debug, Clone, Serialize)]
pub struct Reloaded {
    /// Every field that differed, with what brings it into force.
    pub changes: Vec<ConfigChange>,
    /// Queues that do not have their new handler yet.
    pub pending: Vec<PendingQueue>,
}

impl Reloaded {
    /// The changes that wait for a restart.
    pub fn waiting(&self) -> impl Iterator<Item = &ConfigChange> {
        self.changes.iter().filter(|change| change.effect > ReloadAction::Handler)
    }

    /// Returns a line for each change and for each queue that does not have it yet; one line where nothing has changed.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        if self.changes.is_empty() {
            return vec!["nothing has changed".to_owned()];
        }
        let changes = self.changes.iter().map(ToString::to_string);
        changes.chain(self.pending.iter().map(ToString::to_string)).collect()
    }
}

/// Carries out `request`.
///
/// # Errors
/// [`ControlError`].
pub fn answer(control: &dyn Control, request: &ControlRequest) -> Result<Value, ControlError> {
    let json = |value: Result<Value, serde_json::Error>| value.map_err(|e| ControlError::refused(e.to_string()));
    match request {
        ControlRequest::Status {} => json(serde_json::to_value(control.status())),
        ControlRequest::Queues {} => json(serde_json::to_value(NodeView::from(&control.status()))),
        ControlRequest::Plan {} => Ok(control.plan()),
        ControlRequest::Config {} => json(serde_json::to_value(control.config())),
        ControlRequest::Metrics {} => Ok(Value::String(scrape(&control.status()))),
        ControlRequest::Sessions { queue, limit } => {
            let queue = queue.as_deref().map(queue_id).transpose()?;
            let limit = limit.unwrap_or(100).min(MAX_SESSIONS);
            json(serde_json::to_value(control.sessions(queue.as_ref(), limit)?))
        }
        ControlRequest::Restart { queue, depth } => {
            control.restart(&queue_id(queue)?, *depth)?;
            Ok(format!("{queue}: restart under way; `oxide ctl queues` shows how it went").into())
        }
        ControlRequest::Pause { queue } => {
            control.pause(&queue_id(queue)?, true)?;
            Ok(format!("{queue}: takes no new packets, until it is resumed").into())
        }
        ControlRequest::Resume { queue } => {
            control.pause(&queue_id(queue)?, false)?;
            Ok(format!("{queue}: takes packets").into())
        }
        ControlRequest::Drain { queue, within_s } => {
            let id = queue.as_deref().map(queue_id).transpose()?;
            control.drain(id.as_ref(), within_s.map(|s| Duration::from_secs(u64::from(s))))?;
            Ok(match queue {
                Some(queue) => format!("{queue}: drained and stopped; a restart starts it again").into(),
                None => "draining; the relay ends after that".into(),
            })
        }
        ControlRequest::Log { filter } => Ok(control.log(filter.as_deref())?.into()),
        ControlRequest::Reload {} => {
            let reloaded = control.reload()?;
            Ok(json!({ "changes": reloaded.changes, "pending": reloaded.pending, "text": reloaded.lines() }))
        }
    }
}

/// Whether `request` may take as long as it was told to.
pub(super) fn may_wait(request: &ControlRequest) -> bool {
    matches!(request, ControlRequest::Drain { .. })
}
