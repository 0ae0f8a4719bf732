//! Records the last restart of a queue: cause, scope, duration and lost packets.

use std::time::Duration;

use oxide_actors::supervisor::{ActorState, Cause, RestartCause, RestartScope};

use super::cause::LastRestart;
use super::status::{QueueStatus, millis};

impl QueueStatus {
    /// Records that a restart begins or ends with the state change from `from` to `to`.
    pub(super) fn restarted(&mut self, from: &ActorState, to: &ActorState, cause: &Cause, gap: Option<Duration>) {
        let scope = match to {
            ActorState::Restarting { scope, .. } => *scope,
            // The actor closed a port by itself.
            ActorState::Waiting { .. } if *from == ActorState::Running => RestartScope::Port,
            ActorState::Running => return self.is_back(gap),
            _ => return,
        };
        // An actor that ended by itself has sent its final counters before.
        let lost = if scope == RestartScope::Queue && self.heard.is_none() { self.last_lost } else { 0 };
        let detail = cause.to_string();
        let cause = cause.of_restart().unwrap_or(RestartCause::Port);
        self.last_restart = Some(LastRestart { scope, cause, detail, gap_ms: None, lost });
    }

    /// Records that a new handler runs: the number of sessions it took over, or why it took none.
    pub(super) fn replaced(&mut self, kept: Result<u64, String>) {
        if kept.is_err() {
            self.restart_handler_counts();
        }
        let kept =
            kept.map_or_else(|why| format!("no session taken over: {why}"), |n| format!("{n} sessions taken over"));
        if !std::mem::take(&mut self.handler_back) {
            "handler restarted".clone_into(&mut self.last_event);
        }
        self.last_event = format!("{}, {kept}", self.last_event);
    }

    /// Adds the packets that a failure or rebuild lost.
    pub(super) fn lost(&mut self, packets: u64) {
        self.last_lost = packets;
        if let Some(last) = self.last_restart.as_mut().filter(|last| last.gap_ms.is_none()) {
            last.lost += packets;
        }
    }

    fn is_back(&mut self, gap: Option<Duration>) {
        let Some(gap_ms) = gap.map(millis) else { return };
        self.last_gap_ms = Some(gap_ms);
        let Some(last) = self.last_restart.as_mut().filter(|last| last.gap_ms.is_none()) else { return };
        last.gap_ms = Some(gap_ms);
        let LastRestart { scope, cause, detail, lost, .. } = last;
        tracing::info!(queue = self.queue, depth = %scope, %cause, detail, gap_ms, lost, "restarted");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use oxide_actors::supervisor::Failure;

    use super::*;
    use crate::engine::sample;

    fn restarting(scope: RestartScope) -> ActorState {
        ActorState::Restarting { scope, backoff: Duration::ZERO }
    }

    fn failed(message: &str) -> Cause {
        Cause::Failed(Failure::HandlerPanic(message.to_owned()))
    }

    #[test]
    fn each_scope_reports_cause_gap_and_cost() {
        let mut queue = sample::status().queues.swap_remove(0);
        for scope in [RestartScope::Handler, RestartScope::Port] {
            queue.restarted(&ActorState::Running, &restarting(scope), &failed("why"), None);
            assert_eq!(queue.last_restart.as_ref().unwrap().gap_ms, None);
            queue.lost(7);
            queue.restarted(
                &restarting(scope),
                &ActorState::Running,
                &Cause::PortOpened,
                Some(Duration::from_millis(30)),
            );
            let last = queue.last_restart.clone().unwrap();
            assert_eq!(
                last,
                LastRestart {
                    scope,
                    cause: RestartCause::Panic,
                    detail: "why".to_owned(),
                    gap_ms: Some(30.0),
                    lost: 7
                }
            );
            // Later losses belong to the next restart.
            queue.lost(0);
            assert_eq!((queue.last_restart.as_ref().unwrap().lost, queue.last_lost), (7, 0));
        }
    }

    #[test]
    fn restart_summary_fits_one_line() {
        let mut queue = sample::status().queues.swap_remove(0);
        let soft = restarting(RestartScope::Handler);
        queue.changed(&ActorState::Running, &soft, &failed("index 9"), None);
        assert_eq!(queue.last_event, "index 9");
        queue.lost(3);
        queue.changed(&soft, &ActorState::Running, &Cause::HandlerRestarted, Some(Duration::from_millis(50)));
        queue.replaced(Ok(12));
        let line = "handler restarted: index 9 (50.0 ms, 3 packets lost), 12 sessions taken over";
        assert_eq!(queue.last_event, line);
    }

    #[test]
    fn lost_packets_are_counted_before_and_after_state_report() {
        let hard = restarting(RestartScope::Queue);
        for ended_by_itself in [true, false] {
            let mut queue = sample::status().queues.swap_remove(0);
            queue.heard = Some(std::time::Instant::now());
            if ended_by_itself {
                queue.retire();
            }
            queue.restarted(
                &ActorState::Running,
                &hard,
                &Cause::Failed(Failure::Accounting("2 frames".to_owned())),
                None,
            );
            queue.retire();
            queue.restarted(
                &ActorState::Opening,
                &ActorState::Running,
                &Cause::Opened,
                Some(Duration::from_millis(80)),
            );
            let last = queue.last_restart.clone().unwrap();
            assert_eq!((last.scope, last.cause, last.gap_ms), (RestartScope::Queue, RestartCause::Leak, Some(80.0)));
            // The sample has 3 packets in hand, and 64 and 128 on the rings.
            assert_eq!((last.lost, queue.last_lost), (195, 195));
        }
    }
}
