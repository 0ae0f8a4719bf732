//! Imitates a relay for tests of the admin endpoints.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::control::{Control, Reloaded};
use super::protocol::ControlError;
use oxide::engine::{EngineStatus, RestartScope, sample};
use oxide::port::QueueId;
use oxide::queue::SessionInfo;
use oxide_relay::config::{Config, EngineConfig};

/// Records each command. It has the queues `eth0:0` and `eth0:1`.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) commands: Mutex<Vec<String>>,
}

impl Fake {
    fn record(&self, queue: &QueueId, what: String) -> Result<(), ControlError> {
        if queue.interface != "eth0" || queue.queue > 1 {
            return Err(ControlError::refused(format!("no queue {queue}; there are: eth0:0, eth0:1")));
        }
        self.commands.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(what);
        Ok(())
    }
}

impl Control for Fake {
    fn status(&self) -> EngineStatus {
        sample::status()
    }

    fn plan(&self) -> Value {
        json!({ "schema": 1 })
    }

    fn config(&self) -> Config {
        Config::from_engine(EngineConfig::new(["eth0"])).unwrap_or_else(|_| unreachable!())
    }

    fn sessions(&self, queue: Option<&QueueId>, _: usize) -> Result<Vec<SessionInfo>, ControlError> {
        queue.map_or(Ok(()), |queue| self.record(queue, "sessions".into())).map(|()| Vec::new())
    }

    fn restart(&self, queue: &QueueId, depth: RestartScope) -> Result<(), ControlError> {
        self.record(queue, format!("restart {queue} {depth:?}"))
    }

    fn pause(&self, queue: &QueueId, paused: bool) -> Result<(), ControlError> {
        self.record(queue, format!("pause {queue} {paused}"))
    }

    fn drain(&self, queue: Option<&QueueId>, within: Option<Duration>) -> Result<(), ControlError> {
        std::thread::sleep(within.unwrap_or_default());
        queue.map_or(Ok(()), |queue| self.record(queue, format!("drain {queue}")))
    }

    fn log(&self, filter: Option<&str>) -> Result<String, ControlError> {
        Ok(filter.unwrap_or("info").to_owned())
    }

    fn reload(&self) -> Result<Reloaded, ControlError> {
        Ok(Reloaded { changes: Vec::new(), pending: Vec::new(), sessions: None })
    }
}
