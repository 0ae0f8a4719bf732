//! What the last restart of a queue was: why, how deep, how long it took and what it cost.

use std::time::Duration;

use oxide_actors::supervisor::{self, State};
use serde::Serialize;

use super::handle::Depth;
use super::status::{QueueStatus, millis};

/// The last restart of a queue, of whatever depth.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LastRestart {
    /// What was rebuilt.
    pub depth: Depth,
    /// Why: the failure's words, or that somebody asked for it.
    pub cause: String,
    /// From the failure to running again, milliseconds; `None` while it is not back.
    pub gap_ms: Option<f64>,
    /// Packets that it cost, as far as they can be counted: the batch in hand, what was left on the rings of a socket that
    /// was closed, what came for a closed port, and what the kernel dropped at open sockets meanwhile. Packets that take the
    /// program's fallback while there is no socket are not known by queue: the interface counts them (`no_socket`).
    pub lost: u64,
}

impl QueueStatus {
    /// Its state has changed from `from` to `to`: a restart may have begun, or ended.
    pub(super) fn restarted(&mut self, from: &State, to: &State, cause: &str, gap: Option<Duration>) {
        let depth = match to {
            State::Restarting { depth: supervisor::Depth::Soft, .. } => Depth::Handler,
            State::Restarting { depth: supervisor::Depth::Part(_), .. } => Depth::Port,
            State::Restarting { depth: supervisor::Depth::Hard, .. } => Depth::Queue,
            // It closed a port by itself.
            State::Waiting { .. } if *from == State::Running => Depth::Port,
            State::Running => return self.is_back(gap),
            _ => return,
        };
        // An actor that ended by itself has said its last words before.
        let lost = if depth == Depth::Queue && self.heard.is_none() { self.last_lost } else { 0 };
        self.last_restart = Some(LastRestart { depth, cause: cause.to_owned(), gap_ms: None, lost });
    }

    /// So many packets were lost by what is being rebuilt.
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
        let LastRestart { depth, cause, lost, .. } = last;
        tracing::info!(queue = self.queue, ?depth, cause, gap_ms, lost, "restarted");
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::engine::sample;

    fn restarting(depth: supervisor::Depth) -> State {
        State::Restarting { depth, backoff: Duration::ZERO }
    }

    #[test]
    fn each_depth_tells_cause_gap_and_cost() {
        let mut queue = sample::status().queues.swap_remove(0);
        for (inside, depth) in [(supervisor::Depth::Soft, Depth::Handler), (supervisor::Depth::Part(1), Depth::Port)] {
            queue.restarted(&State::Running, &restarting(inside), "why", None);
            assert_eq!(queue.last_restart.as_ref().unwrap().gap_ms, None);
            queue.lost(7);
            queue.restarted(&restarting(inside), &State::Running, "back", Some(Duration::from_millis(30)));
            let last = queue.last_restart.clone().unwrap();
            assert_eq!(last, LastRestart { depth, cause: "why".to_owned(), gap_ms: Some(30.0), lost: 7 });
            // What comes later is another one's.
            queue.lost(0);
            assert_eq!((queue.last_restart.as_ref().unwrap().lost, queue.last_lost), (7, 0));
        }
    }

    #[test]
    fn an_actor_costs_what_it_had_whether_it_ended_before_or_after_the_word() {
        let hard = restarting(supervisor::Depth::Hard);
        for ended_by_itself in [true, false] {
            let mut queue = sample::status().queues.swap_remove(0);
            queue.heard = Some(std::time::Instant::now());
            if ended_by_itself {
                queue.retire();
            }
            queue.restarted(&State::Running, &hard, "frames are lost", None);
            queue.retire();
            queue.restarted(&State::Opening, &State::Running, "opened", Some(Duration::from_millis(80)));
            let last = queue.last_restart.clone().unwrap();
            assert_eq!((last.depth, last.gap_ms), (Depth::Queue, Some(80.0)));
            // In hand 3, on the rings 64 and 128: as the sample has it.
            assert_eq!((last.lost, queue.last_lost), (195, 195));
        }
    }
}
