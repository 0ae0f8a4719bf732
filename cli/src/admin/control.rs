//! Defines what the admin endpoints need of the process.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use super::protocol::{ControlError, ControlRequest, MAX_SESSIONS, queue_id};
use super::{NodeView, scrape};
use oxide::engine::{EngineStatus, PendingQueue, RestartScope};
use oxide::port::QueueId;
use oxide::queue::SessionInfo;
use oxide_relay::TakenOver;
use oxide_relay::config::{Config, ConfigChange, ReloadAction};

/// Operates a running relay. The methods are called on threads that may wait.
pub trait Control: Send + Sync + 'static {
    /// Returns the status of the engine.
    fn status(&self) -> EngineStatus;

    /// Returns the plan in use, as JSON.
    fn plan(&self) -> Value;

    /// Returns the configuration in use.
    fn config(&self) -> Config;

    /// Returns at most `limit` sessions of one queue, or of each queue.
    ///
    /// # Errors
    /// Returns [`ControlError`].
    fn sessions(&self, queue: Option<&QueueId>, limit: usize) -> Result<Vec<SessionInfo>, ControlError>;

    /// Starts to rebuild a queue and returns at once.
    ///
    /// # Errors
    /// Returns [`ControlError`].
    fn restart(&self, queue: &QueueId, depth: RestartScope) -> Result<(), ControlError>;

    /// Stops or resumes the reception of new packets on a port.
    ///
    /// # Errors
    /// Returns [`ControlError`].
    fn pause(&self, queue: &QueueId, paused: bool) -> Result<(), ControlError>;

    /// Drains a queue and waits until it has stopped. Without a queue it begins to drain the whole relay, which then
    /// ends.
    ///
    /// # Errors
    /// Returns [`ControlError`].
    fn drain(&self, queue: Option<&QueueId>, within: Option<Duration>) -> Result<(), ControlError>;

    /// Returns the log filter. If a filter is given, sets it first.
    ///
    /// # Errors
    /// Returns [`ControlError`] if the filter is invalid.
    fn log(&self, filter: Option<&str>) -> Result<String, ControlError>;

    /// Reads the configuration file again and applies the changes that need no restart.
    ///
    /// # Errors
    /// Returns [`ControlError`] if the file is invalid; nothing has changed then.
    fn reload(&self) -> Result<Reloaded, ControlError>;
}

/// Reports the result of a reload.
#[derive(Debug, Clone, Serialize)]
pub struct Reloaded {
    /// Fields that differ, and the action that applies it.
    pub changes: Vec<ConfigChange>,
    /// Queues that do not have their new handler yet.
    pub pending: Vec<PendingQueue>,
    /// Sessions that the new handlers took over, and those that ended; `None` if no handler was replaced.
    pub sessions: Option<TakenOver>,
}

impl Reloaded {
    /// Returns the changes that need a restart.
    pub fn waiting(&self) -> impl Iterator<Item = &ConfigChange> {
        self.changes.iter().filter(|change| change.effect > ReloadAction::Handler)
    }

    /// Returns one line for each change and for each queue without its new handler, or one line if nothing has
    /// changed.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        if self.changes.is_empty() {
            return vec!["nothing has changed".to_owned()];
        }
        let changes = self.changes.iter().map(ToString::to_string);
        let sessions =
            self.sessions.map(|TakenOver { kept, lost, .. }| format!("sessions: {kept} taken over, {lost} lost"));
        changes.chain(sessions).chain(self.pending.iter().map(ToString::to_string)).collect()
    }
}

/// Carries out `request`.
///
/// # Errors
/// Returns [`ControlError`].
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
            Ok(format!("{queue}: restart begun; `oxide ctl queues` shows the result").into())
        }
        ControlRequest::Pause { queue } => {
            control.pause(&queue_id(queue)?, true)?;
            Ok(format!("{queue}: paused; it receives no new packets until it is resumed").into())
        }
        ControlRequest::Resume { queue } => {
            control.pause(&queue_id(queue)?, false)?;
            Ok(format!("{queue}: resumed").into())
        }
        ControlRequest::Drain { queue, within_s } => {
            let id = queue.as_deref().map(queue_id).transpose()?;
            control.drain(id.as_ref(), within_s.map(|s| Duration::from_secs(u64::from(s))))?;
            Ok(match queue {
                Some(queue) => format!("{queue}: drained and stopped; `oxide ctl restart` starts it again").into(),
                None => "draining; the relay ends afterwards".into(),
            })
        }
        ControlRequest::Log { filter } => Ok(control.log(filter.as_deref())?.into()),
        ControlRequest::Reload {} => {
            let reloaded = control.reload()?;
            Ok(json!({ "changes": reloaded.changes, "pending": reloaded.pending, "text": reloaded.lines() }))
        }
    }
}

/// Returns whether `request` may take as long as its own time limit.
pub(super) fn may_wait(request: &ControlRequest) -> bool {
    matches!(request, ControlRequest::Drain { .. })
}
