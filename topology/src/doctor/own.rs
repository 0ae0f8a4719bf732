//! The relay of the configuration that is looked at, where it runs: what it holds is nobody else's.

use super::CheckStatus::{Pass, Unknown, Warn};
use super::traffic::UNASKED;
use super::{Check, CheckContext};

/// A running relay, as it answered on its control socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnRelay {
    /// State of the engine: `running`, `degraded`.
    pub state: String,
    /// Interface and number of each of its queues.
    pub queues: Vec<(String, u32)>,
    /// All its packet memory is on 2 MiB pages.
    pub huge_pages: bool,
    /// What it reports of its operation that an operator should know, a sentence each.
    pub notices: Vec<String>,
}

impl OwnRelay {
    pub(super) fn has(&self, interface: &str, queue: u32) -> bool {
        self.queues.iter().any(|(own, number)| own == interface && *number == queue)
    }

    pub(super) fn serves(&self, interface: &str) -> bool {
        self.queues.iter().any(|(own, _)| own == interface)
    }
}

pub(super) fn check(p: &CheckContext<'_>) -> Check {
    let wanted = "a relay of this configuration, if one runs, serves all its queues";
    let check = |status, observed: String| Check::new("relay", "relay", status, observed, wanted);
    match &p.probes.own {
        None if p.traffic.source_ports.is_empty() => {
            check(Unknown, UNASKED.to_owned()).remedy("oxide doctor --config FILE")
        }
        None => check(Pass, "none runs, or none that this user may ask".to_owned()),
        Some(own) if own.state == "running" && own.notices.is_empty() => {
            check(Pass, format!("running, {} queues", own.queues.len()))
        }
        Some(own) => {
            let notices = if own.notices.is_empty() { String::new() } else { format!(": {}", own.notices.join("; ")) };
            check(Warn, format!("{}{notices}", own.state)).remedy("oxide ctl queues, and the log, tell more")
        }
    }
}
