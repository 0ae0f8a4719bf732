//! What waits for one port's TX ring: at most a batch, and not for ever.

use std::time::{Duration, Instant};

use super::counters::QueueCounters;
use crate::port::{Burst, Port};
use crate::telemetry::DropReason;
use crate::umem::{Frame, Umem};

/// How long packets may wait for a TX ring that does not move, before they are dropped and the port
/// stops pushing back. A NIC that is alive drains a full ring in a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(50);

/// How long a TX ring whose link is up may stand still before its port is given up. A kernel or a driver that
/// never completes what it took leaves the ring full for ever; only a new socket helps.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// How often it must have been tried in that time: a machine that was stopped has tried once.
const LOST_TRIES: u32 = 64;

#[derive(Default)]
pub(super) struct Outgoing {
    waiting: Burst,
    /// Since when nothing has moved.
    stuck_since: Option<Instant>,
    /// The ring did not move in time: packets are dropped at once, so that traffic to other ports goes on.
    stalled: bool,
    /// How often it was tried since nothing moves.
    tries: u32,
    /// The ring stands still for good, for all that can be seen from here.
    lost: bool,
}

impl Outgoing {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether a whole batch could be sent this way, or would be dropped at once.
    pub(super) fn ready(&self) -> bool {
        self.waiting.is_empty() || self.stalled
    }

    /// Whether only a new socket helps.
    pub(super) fn lost(&self) -> bool {
        self.lost
    }

    /// The link is down: it is no wonder that nothing moves. The count begins anew.
    pub(super) fn excuse(&mut self) {
        (self.stuck_since, self.tries, self.lost) = (None, 0, false);
    }

    /// Moves as much of `burst` as fits straight to the TX ring, if nothing waits for it; the rest stays.
    pub(super) fn pass<P: Port>(
        &mut self,
        burst: &mut Burst,
        port: &mut P,
        umem: &mut Umem,
        counters: &mut QueueCounters,
    ) {
        if self.waiting.is_empty() {
            let sent = port.transmit(umem, burst);
            counters.forwarded += sent as u64;
            if sent > 0 {
                (self.stuck_since, self.stalled, self.tries, self.lost) = (None, false, 0, false);
            }
        }
    }

    /// Queues `frame`, making room if need be.
    pub(super) fn push<P: Port>(
        &mut self,
        frame: Frame,
        port: &mut P,
        umem: &mut Umem,
        now: Instant,
        counters: &mut QueueCounters,
    ) {
        if self.waiting.room() == 0 {
            self.flush(port, umem, now, counters);
        }
        if let Err(frame) = self.waiting.push(frame) {
            counters.drops.count(DropReason::TxFull);
            umem.give(frame);
        }
    }

    /// Moves what fits to the TX ring.
    pub(super) fn flush<P: Port>(&mut self, port: &mut P, umem: &mut Umem, now: Instant, counters: &mut QueueCounters) {
        if self.waiting.is_empty() {
            return;
        }
        let sent = port.transmit(umem, &mut self.waiting);
        counters.forwarded += sent as u64;
        if sent > 0 {
            (self.stuck_since, self.stalled, self.tries, self.lost) = (None, false, 0, false);
        }
        if self.waiting.is_empty() {
            return;
        }
        let stuck = now.duration_since(*self.stuck_since.get_or_insert(now));
        self.tries += 1;
        self.lost = stuck >= LOST_AFTER && self.tries >= LOST_TRIES;
        if self.stalled || stuck >= PATIENCE {
            self.stalled = true;
            for frame in self.waiting.drain() {
                counters.drops.count(DropReason::TxFull);
                umem.give(frame);
            }
        }
    }
}
