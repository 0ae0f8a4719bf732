//! The heartbeat: the actor counts its turns, the supervisor looks whether the count moves.
//!
//! A stopped count means a turn that does not end: a handler that loops or blocks. The actor's own waits are
//! bounded, so an idle actor still beats, a few times a second or more.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A counter alone on its cache lines, so that the watcher's look does not slow down what lies beside it.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Beats(AtomicU64);

/// The actor's end.
#[derive(Debug)]
pub struct Heartbeat(Arc<Beats>);

impl Heartbeat {
    /// A pulse, and the watch on it; at `now` the pulse counts as fresh.
    #[must_use]
    pub fn new(now: Instant) -> (Self, HeartbeatMonitor) {
        let beats = Arc::new(Beats::default());
        (Self(Arc::clone(&beats)), HeartbeatMonitor { beats, seen: 0, changed: now })
    }

    /// One turn done. About 1 ns.
    #[inline]
    pub fn beat(&self) {
        // One writer, so no atomic addition is needed; and nothing is ordered by it.
        let count = self.0.0.load(Ordering::Relaxed);
        self.0.0.store(count.wrapping_add(1), Ordering::Relaxed);
    }
}

/// The supervisor's end.
#[derive(Debug)]
pub struct HeartbeatMonitor {
    beats: Arc<Beats>,
    seen: u64,
    changed: Instant,
}

impl HeartbeatMonitor {
    /// How long the count has stood still, as far as this watch has looked: it can be too small by the time
    /// between two looks, never too large.
    pub fn age(&mut self, now: Instant) -> Duration {
        let count = self.count();
        if count != self.seen {
            self.seen = count;
            self.changed = now;
        }
        now.saturating_duration_since(self.changed)
    }

    /// Turns counted so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.beats.0.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn age_grows_until_the_count_moves() {
        let start = Instant::now();
        let (heartbeat, mut watch) = Heartbeat::new(start);
        assert_eq!(watch.age(start + 300 * MS), 300 * MS);
        heartbeat.beat();
        assert_eq!(watch.age(start + 400 * MS), Duration::ZERO);
        assert_eq!(watch.age(start + 1700 * MS), 1300 * MS);
        heartbeat.beat();
        heartbeat.beat();
        assert_eq!(watch.age(start + 1800 * MS), Duration::ZERO);
        assert_eq!(watch.count(), 3);
    }

    #[test]
    fn clock_going_backwards_does_not_panic() {
        let start = Instant::now();
        let (heartbeat, mut watch) = Heartbeat::new(start + 10 * MS);
        heartbeat.beat();
        assert_eq!(watch.age(start + 20 * MS), Duration::ZERO);
        assert_eq!(watch.age(start), Duration::ZERO);
    }

    #[test]
    fn dead_actor_leaves_monitor_usable() {
        let start = Instant::now();
        let (heartbeat, mut watch) = Heartbeat::new(start);
        heartbeat.beat();
        drop(heartbeat);
        assert_eq!(watch.age(start + MS), Duration::ZERO);
        assert_eq!(watch.age(start + 5 * MS), 4 * MS);
    }
}
