//! A relay that is not there, for tests of the doors.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::{Value, json};

use super::control::{Control, Reloaded};
use super::protocol::Trouble;
use oxide::engine::{EngineStatus, RestartScope, sample};
use oxide::port::QueueId;
use oxide::queue::SessionInfo;
use oxide_relay::config::{Config, EngineConfig};

/// Writes down what it is told; knows `eth0:0` and `eth0:1`.
#[derive(Default)]
pub(crate) struct Fake {
    pub(crate) told: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, queue: &QueueId, what: String) -> Result<(), Trouble> {
        if queue.interface != "eth0" || queue.queue > 1 {
            return Err(Trouble::refused(format!("no queue {queue}; there are: eth0:0, eth0:1")));
        }
        self.told.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(what);
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

    fn sessions(&self, queue: Option<&QueueId>, _: usize) -> Result<Vec<SessionInfo>, Trouble> {
        queue.map_or(Ok(()), |queue| self.note(queue, "sessions".into())).map(|()| Vec::new())
    }

    fn restart(&self, queue: &QueueId, depth: RestartScope) -> Result<(), Trouble> {
        self.note(queue, format!("restart {queue} {depth:?}"))
    }

    fn pause(&self, queue: &QueueId, paused: bool) -> Result<(), Trouble> {
        self.note(queue, format!("pause {queue} {paused}"))
    }

    fn drain(&self, queue: Option<&QueueId>, within: Option<Duration>) -> Result<(), Trouble> {
        std::thread::sleep(within.unwrap_or_default());
        queue.map_or(Ok(()), |queue| self.note(queue, format!("drain {queue}")))
    }

    fn log(&self, filter: Option<&str>) -> Result<String, Trouble> {
        Ok(filter.unwrap_or("info").to_owned())
    }

    fn reload(&self) -> Result<Reloaded, Trouble> {
        Ok(Reloaded { changes: Vec::new(), pending: Vec::new() })
    }
}
