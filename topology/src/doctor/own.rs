//! Describes the running relay of the checked configuration: its own sockets and programs are no conflicts.

use super::CheckStatus::{Pass, Unknown, Warn};
use super::traffic::UNASKED;
use super::{Check, CheckContext};

/// Holds the answers of a running relay's control socket.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnRelay {
    /// State of the engine: `running`, `degraded`.
    pub state: String,
    /// Interface and number of each queue.
    pub queues: Vec<(String, u32)>,
    /// Whether all its packet memory uses 2 MiB pages.
    pub huge_pages: bool,
    /// Messages for the operator, one sentence each.
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
        None => check(Pass, "none runs, or this user may not query it".to_owned()),
        Some(own) if own.state == "running" && own.notices.is_empty() => {
            check(Pass, format!("running, {} queues", own.queues.len()))
        }
        Some(own) => {
            let notices = if own.notices.is_empty() { String::new() } else { format!(": {}", own.notices.join("; ")) };
            check(Warn, format!("{}{notices}", own.state)).remedy("see oxide ctl queues and the log")
        }
    }
}
