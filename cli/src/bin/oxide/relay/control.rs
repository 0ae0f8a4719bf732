//! Implements the operations on the running relay.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use oxide::engine::{EngineError, EngineHandle, EngineStatus, RestartScope, read_tables};
use oxide::net::Tables;
use oxide::port::QueueId;
use oxide::queue::SessionInfo;
use oxide_cli::admin::notify::Notifier;
use oxide_cli::admin::protocol::ControlError;
use oxide_cli::admin::{Control, Reloaded};
use oxide_relay::config::{Config, ReloadAction};
use oxide_relay::{RelayPlan, UdpRelay, UsedSources};
use serde_json::Value;

use super::Event;
use crate::log::LogControl;

pub(super) struct RelayControl {
    pub(super) handle: EngineHandle,
    pub(super) path: PathBuf,
    pub(super) config: Mutex<Config>,
    /// Plan of the current handlers. The next plan takes over its secrets.
    pub(super) plan: Mutex<Arc<RelayPlan>>,
    pub(super) log: LogControl,
    /// Addresses of sessions, kept over reloads.
    pub(super) sources: Arc<UsedSources>,
    pub(super) notifier: Notifier,
    /// Sends to the main thread, which alone may end the engine.
    pub(super) notify: flume::Sender<Event>,
}

impl RelayControl {
    /// Returns the maximum duration of a drain, from the current configuration.
    pub(super) fn drain_within(&self) -> Duration {
        Duration::from_secs(u64::from(self.lock().sessions.drain_s))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Config> {
        self.config.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reloads the file. All checks come before the first change. The error states whether anything changed.
    fn try_reload(&self) -> Result<Reloaded, String> {
        self.take_over_file().map_err(|error| match error {
            NotReloaded::Unchanged(text) => format!("nothing has changed: {text}"),
            NotReloaded::InPart(text) => format!("partly changed: {text}"),
        })
    }

    fn take_over_file(&self) -> Result<Reloaded, NotReloaded> {
        let mut config = self.lock();
        let file = super::file::load(&self.path)?;
        crate::preflight::log(&file);
        let changes = config.changes(&file);
        let next = config.adopting(&file, ReloadAction::Queue);
        next.check().map_err(|e| format!("the changes do not fit the running configuration: {e}"))?;
        let (mut pending, mut sessions) = (Vec::new(), None);
        if changes.iter().any(|change| change.effect == ReloadAction::Handler) {
            let tables = read_tables().map_err(|e| e.to_string())?;
            let mut former = self.plan.lock().unwrap_or_else(PoisonError::into_inner);
            let plan = plan(&next, &tables, Some(&former))?;
            let queues = self.handle.plan().actors.len() as u32;
            plan.check_queues(queues).map_err(|e| e.to_string())?;
            let (handlers, destinations, used) = (Arc::clone(&plan), Arc::clone(&plan), Arc::clone(&self.sources));
            let factory = move |info: &_| UdpRelay::new(&handlers, info);
            let report = self.handle.reload(factory, move |tables| destinations.destinations(tables, &used));
            pending = report?.pending;
            sessions = Some(plan.taken_over());
            *former = plan;
        }
        self.handle.configure(&next.engine).map_err(|e| e.to_string())?;
        *config = next;
        Ok(Reloaded { changes, pending, sessions })
    }
}

/// Describes why a reload failed.
enum NotReloaded {
    /// Nothing has changed.
    Unchanged(String),
    /// The list of destinations is neither the former one nor the new one.
    InPart(String),
}

impl From<String> for NotReloaded {
    fn from(text: String) -> Self {
        Self::Unchanged(text)
    }
}

impl From<EngineError> for NotReloaded {
    fn from(error: EngineError) -> Self {
        let text = error.to_string();
        if matches!(error, EngineError::DestinationsInPart { .. }) { Self::InPart(text) } else { Self::Unchanged(text) }
    }
}

/// Returns the relay's plan for `config` on this host. It keeps the secrets of `former`.
pub(super) fn plan(config: &Config, tables: &Tables, former: Option<&RelayPlan>) -> Result<Arc<RelayPlan>, String> {
    let own: Vec<IpAddr> = tables.links.iter().flat_map(|link| &link.addresses).map(|(address, _)| *address).collect();
    let plan = RelayPlan::new(config, &own).map_err(|e| e.to_string())?;
    Ok(Arc::new(match former {
        Some(former) => plan.following(former),
        None => plan,
    }))
}

fn refused(error: EngineError) -> ControlError {
    match error {
        EngineError::NotReached { .. } | EngineError::NoAnswer { .. } => ControlError::busy(error.to_string()),
        _ => ControlError::refused(error.to_string()),
    }
}

impl Control for RelayControl {
    fn status(&self) -> EngineStatus {
        self.handle.status()
    }

    fn plan(&self) -> Value {
        serde_json::to_value(self.handle.plan()).unwrap_or_default()
    }

    fn config(&self) -> Config {
        self.lock().clone()
    }

    fn sessions(&self, queue: Option<&QueueId>, limit: usize) -> Result<Vec<SessionInfo>, ControlError> {
        if let Some(queue) = queue {
            return self.handle.sessions(queue, limit).map_err(refused);
        }
        let mut all = Vec::new();
        for port in self.handle.plan().actors.iter().filter_map(|actor| actor.ports.first()) {
            let room = limit - all.len().min(limit);
            if room == 0 {
                break;
            }
            // A queue that does not run has no sessions to list; `queues` shows the reason.
            let id = QueueId::new(port.interface.clone(), port.queue);
            all.extend(self.handle.sessions(&id, room).unwrap_or_default());
        }
        Ok(all)
    }

    fn restart(&self, queue: &QueueId, depth: RestartScope) -> Result<(), ControlError> {
        self.handle.restart(queue, depth).map_err(refused)
    }

    fn pause(&self, queue: &QueueId, paused: bool) -> Result<(), ControlError> {
        self.handle.pause(queue, paused).map_err(refused)
    }

    fn drain(&self, queue: Option<&QueueId>, within: Option<Duration>) -> Result<(), ControlError> {
        let within = within.unwrap_or_else(|| self.drain_within()).min(Duration::from_secs(3600));
        match queue {
            Some(queue) => self.handle.drain_queue(queue, within).map_err(refused),
            None => {
                self.notify.try_send(Event::Drain(within)).map_err(|_| ControlError::refused("relay: already ending"))
            }
        }
    }

    fn log(&self, filter: Option<&str>) -> Result<String, ControlError> {
        (self.log)(filter).map_err(ControlError::bad)
    }

    fn reload(&self) -> Result<Reloaded, ControlError> {
        self.notifier.reloading();
        let reloaded = self.try_reload();
        self.notifier.reloaded();
        match &reloaded {
            Ok(done) => done.lines().iter().for_each(|line| tracing::info!("reload: {line}")),
            Err(error) => tracing::error!(error, "reload failed"),
        }
        reloaded.map_err(ControlError::refused)
    }
}
