//! Counts restarts by scope and cause, and describes the last one.

use std::fmt;

use oxide_actors::supervisor::{ActorState, Cause, RestartCause, RestartScope};
use serde::Serialize;

/// Lists the restarts that can happen. [`QUEUE_RESTARTS`](crate::telemetry::metrics::QUEUE_RESTARTS) explains each
/// pair.
const ALL: [(RestartScope, RestartCause); 11] = [
    (RestartScope::Handler, RestartCause::Asked),
    (RestartScope::Handler, RestartCause::Panic),
    (RestartScope::Port, RestartCause::Asked),
    (RestartScope::Port, RestartCause::Port),
    (RestartScope::Queue, RestartCause::Asked),
    (RestartScope::Queue, RestartCause::Panic),
    (RestartScope::Queue, RestartCause::Leak),
    (RestartScope::Queue, RestartCause::Late),
    (RestartScope::Queue, RestartCause::Open),
    (RestartScope::Queue, RestartCause::Ended),
    (RestartScope::Queue, RestartCause::Error),
];

/// Counts the restarts of one queue, by scope and cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestartCounts([u64; ALL.len()]);

impl RestartCounts {
    /// Counts the change to the state `to` for the reason `cause`, if a restart begins with it.
    pub(super) fn count(&mut self, to: &ActorState, cause: &Cause) {
        let ActorState::Restarting { scope, .. } = to else { return };
        let at = cause.of_restart().and_then(|cause| ALL.iter().position(|one| *one == (*scope, cause)));
        if let Some(count) = at.and_then(|at| self.0.get_mut(at)) {
            *count += 1;
        }
    }

    /// Returns scope, cause and count of each pair, including those at zero.
    pub fn iter(&self) -> impl Iterator<Item = (RestartScope, RestartCause, u64)> + '_ {
        ALL.iter().zip(self.0).map(|((scope, cause), count)| (*scope, *cause, count))
    }
}

impl Serialize for RestartCounts {
    /// Serializes as `{"handler": {"asked": 1, ...}, ...}`.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut by_scope = std::collections::BTreeMap::<_, std::collections::BTreeMap<_, _>>::new();
        for (scope, cause, count) in self.iter() {
            by_scope.entry(scope).or_default().insert(cause, count);
        }
        by_scope.serialize(serializer)
    }
}

/// Describes the last restart of a queue at any scope.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LastRestart {
    /// States what was rebuilt.
    #[serde(rename = "depth")]
    pub scope: RestartScope,
    /// States the cause.
    pub cause: RestartCause,
    /// Holds the failure's message, or states that an operator requested the restart.
    pub detail: String,
    /// Measures the time from the failure until the queue runs again, in milliseconds; `None` until then.
    pub gap_ms: Option<f64>,
    /// Counts the packets lost: the batch in hand, the packets on the rings of a closed socket, the packets for a
    /// closed port, and the packets that the kernel dropped at open sockets meanwhile. It excludes packets that take
    /// the program's fallback while there is no socket; the interface counts those (`no_socket`).
    pub lost: u64,
}

impl fmt::Display for LastRestart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scope, detail, gap_ms, lost, .. } = self;
        match gap_ms {
            Some(gap) => write!(f, "{scope} restarted: {detail} ({gap:.1} ms, {lost} packets lost)"),
            None => write!(f, "{scope} restarts: {detail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use oxide_actors::supervisor::Failure;

    use super::*;

    #[test]
    fn restart_is_counted_once_under_its_scope_and_cause() {
        let restarting = |scope| ActorState::Restarting { scope, backoff: Duration::ZERO };
        let failed = |failure| Cause::Failed(failure);
        let text = || "restart requested; frames missing; not ready within 2 s; ended".to_owned();
        for (scope, cause, wanted) in [
            (RestartScope::Handler, Cause::RestartAsked, RestartCause::Asked),
            (RestartScope::Handler, failed(Failure::HandlerPanic(text())), RestartCause::Panic),
            (RestartScope::Port, Cause::RestartAsked, RestartCause::Asked),
            (RestartScope::Port, failed(Failure::Port(text())), RestartCause::Port),
            (RestartScope::Queue, Cause::RestartAsked, RestartCause::Asked),
            (RestartScope::Queue, failed(Failure::HandlerPanic(text())), RestartCause::Panic),
            (RestartScope::Queue, failed(Failure::ActorPanic(text())), RestartCause::Panic),
            (RestartScope::Queue, failed(Failure::Accounting(text())), RestartCause::Leak),
            (RestartScope::Queue, failed(Failure::Late(scope_of(), Duration::ZERO)), RestartCause::Late),
            (RestartScope::Queue, failed(Failure::Open(text())), RestartCause::Open),
            (RestartScope::Queue, failed(Failure::Ended), RestartCause::Ended),
            (RestartScope::Queue, failed(Failure::Error(text())), RestartCause::Error),
        ] {
            let mut counts = RestartCounts::default();
            counts.count(&restarting(scope), &cause);
            counts.count(&ActorState::Running, &Cause::Opened);
            let found: Vec<_> = counts.iter().filter(|(.., count)| *count > 0).collect();
            assert_eq!(found, [(scope, wanted, 1)], "{cause:?}");
        }
    }

    fn scope_of() -> RestartScope {
        RestartScope::Handler
    }

    #[test]
    fn every_cause_is_explained_at_its_metric() {
        let help = crate::telemetry::metrics::QUEUE_RESTARTS.help;
        for cause in RestartCause::ALL {
            assert!(help.contains(&format!("{} (", cause.name())), "{cause}: {help}");
        }
    }
}
