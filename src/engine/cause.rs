//! Why queues are restarted, as a closed set that can be counted: the words themselves are in the log and the status.

use oxide_actors::supervisor::{self, ActorState};
use serde::Serialize;

/// What is restarted, and why: the words of the API and the metrics, each explained at
/// [`QUEUE_RESTARTS`](crate::telemetry::metrics::QUEUE_RESTARTS).
const ALL: [(&str, &str); 10] = [
    ("handler", "asked"),
    ("handler", "panic"),
    ("port", "asked"),
    ("port", "port"),
    ("queue", "asked"),
    ("queue", "panic"),
    ("queue", "leak"),
    ("queue", "late"),
    ("queue", "open"),
    ("queue", "ended"),
];

/// Restarts of one queue, by depth and cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestartCounts([u64; ALL.len()]);

impl RestartCounts {
    /// A queue goes from `from` to `to` for this reason: if that is a restart, it is counted.
    pub(super) fn count(&mut self, from: &ActorState, to: &ActorState, words: &str) {
        let ActorState::Restarting { depth, .. } = to else { return };
        let asked = words.starts_with("told to");
        let (depth, cause) = match depth {
            supervisor::RestartDepth::Soft => ("handler", if asked { "asked" } else { "panic" }),
            supervisor::RestartDepth::Part(_) => ("port", if asked { "asked" } else { "port" }),
            supervisor::RestartDepth::Hard if asked => ("queue", "asked"),
            supervisor::RestartDepth::Hard => ("queue", of_queue(from, words)),
        };
        if let Some(at) = ALL.iter().position(|one| *one == (depth, cause)) {
            self.0[at] += 1;
        }
    }

    /// Depth, cause and count of each, also of those at zero.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        ALL.iter().zip(self.0).map(|((depth, cause), count)| (*depth, *cause, count))
    }
}

fn of_queue(from: &ActorState, words: &str) -> &'static str {
    if words.starts_with("frames are lost") {
        "leak"
    } else if words.contains("not back within") {
        "late"
    } else if words.starts_with("ended") {
        "ended"
    } else if matches!(from, ActorState::Opening) && !words.starts_with("panicked") {
        "open"
    } else {
        "panic"
    }
}

impl Serialize for RestartCounts {
    /// As `{"handler": {"asked": 1, ...}, ...}`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut by_depth = std::collections::BTreeMap::<_, std::collections::BTreeMap<_, _>>::new();
        for (depth, cause, count) in self.iter() {
            by_depth.entry(depth).or_default().insert(cause, count);
        }
        by_depth.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oxide_actors::supervisor::{ActorExit, RestartDepth};

    use super::*;
    use crate::queue::QueueExit;

    #[test]
    fn each_restart_is_counted_under_one_cause() {
        let restarting = |depth| ActorState::Restarting { depth, backoff: Duration::ZERO };
        let leaked = QueueExit::Leaked.end().to_string();
        let panicked = ActorExit::Panicked("oh".to_owned()).to_string();
        for (from, depth, words, wanted) in [
            (ActorState::Running, RestartDepth::Soft, "told to restart", ("handler", "asked")),
            (ActorState::Running, RestartDepth::Soft, "index out of bounds", ("handler", "panic")),
            (ActorState::Running, RestartDepth::Part(1), "told to restart", ("port", "asked")),
            (ActorState::Running, RestartDepth::Part(0), "the socket is lost", ("port", "port")),
            (ActorState::Running, RestartDepth::Hard, "told to restart", ("queue", "asked")),
            (ActorState::Running, RestartDepth::Hard, leaked.as_str(), ("queue", "leak")),
            (ActorState::Running, RestartDepth::Hard, "index out of bounds", ("queue", "panic")),
            (ActorState::Opening, RestartDepth::Hard, panicked.as_str(), ("queue", "panic")),
            (ActorState::Opening, RestartDepth::Hard, "EBUSY", ("queue", "open")),
            (
                restarting(RestartDepth::Soft),
                RestartDepth::Hard,
                "handler not back within 2s of its restart",
                ("queue", "late"),
            ),
            (ActorState::Running, RestartDepth::Hard, "ended without being told to", ("queue", "ended")),
        ] {
            let mut counts = RestartCounts::default();
            counts.count(&from, &restarting(depth), words);
            counts.count(&restarting(depth), &ActorState::Running, "opened");
            let found: Vec<_> = counts.iter().filter(|(.., count)| *count > 0).collect();
            assert_eq!(found, [(wanted.0, wanted.1, 1)], "{words}");
        }
    }
}
