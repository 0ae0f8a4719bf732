//! Packets that wait for a next hop. Bounded in number and in time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::packet::LANES;
use crate::port::Burst;
use crate::umem::{Frame, PortIndex};

/// Packets that may wait at once. One batch: the pool is sized for it.
const CAPACITY: usize = LANES;
/// How long one may wait. The kernel asks three times, a second apart, before it gives a neighbour up.
const PATIENCE: Duration = Duration::from_secs(1);

struct Entry {
    frame: Frame,
    from: PortIndex,
    deadline: Instant,
}

/// First in, first out.
pub(super) struct Held {
    waiting: VecDeque<Entry>,
    /// Entries at the front that this round has not shown yet.
    to_show: usize,
}

impl Default for Held {
    fn default() -> Self {
        Self { waiting: VecDeque::with_capacity(CAPACITY), to_show: 0 }
    }
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Keeps `frame`; one that was held before keeps its deadline.
    ///
    /// # Errors
    /// The frame, if there is no room.
    pub(super) fn hold(
        &mut self,
        frame: Frame,
        from: PortIndex,
        until: Option<Instant>,
        now: Instant,
    ) -> Result<(), Frame> {
        if self.waiting.len() >= CAPACITY {
            return Err(frame);
        }
        self.waiting.push_back(Entry { frame, from, deadline: until.unwrap_or(now + PATIENCE) });
        Ok(())
    }

    /// Starts a round: everything that waits now is shown once.
    pub(super) fn begin_round(&mut self) {
        self.to_show = self.waiting.len();
    }

    /// Moves the next run of packets with the same port and deadline to `burst`.
    pub(super) fn next_group(&mut self, burst: &mut Burst) -> Option<(PortIndex, Instant)> {
        let mut group = None;
        while self.to_show > 0 && burst.room() > 0 {
            let front = self.waiting.front()?;
            let key = (front.from, front.deadline);
            if *group.get_or_insert(key) != key {
                break;
            }
            self.to_show -= 1;
            // `front` was there; `burst` has room.
            if let Some(entry) = self.waiting.pop_front()
                && let Err(frame) = burst.push(entry.frame)
            {
                self.waiting.push_front(Entry { frame, ..entry });
                break;
            }
        }
        group
    }
}
