//! Holds packets that wait for a next hop or for another queue. Number and time are limited. Packets that wait for one
//! thing cannot use up the space of packets that wait for another.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::batch::HoldKey;
use crate::packet::LANES;
use crate::port::Burst;
use crate::umem::{Frame, HELD_FRAMES, PortIndex};

/// Limits the packets held at once. The frame pool is sized for it.
const CAPACITY: usize = HELD_FRAMES as usize;
/// Limits the held packets per key.
const PER_KEY: u16 = LANES as u16;
/// Limits the time that one packet is held. The kernel sends three neighbour requests, one per second.
const PATIENCE: Duration = Duration::from_secs(1);

struct HeldPacket {
    frame: Frame,
    from: PortIndex,
    deadline: Instant,
    key: HoldKey,
}

/// Holds packets in the order of arrival.
pub(super) struct Held {
    waiting: VecDeque<HeldPacket>,
    /// Counts the entries at the front that this round has not shown yet.
    to_show: usize,
    /// Counts the entries per [`HoldKey::bucket`].
    counts: [u16; HoldKey::BUCKETS],
}

impl Default for Held {
    fn default() -> Self {
        Self { waiting: VecDeque::with_capacity(CAPACITY), to_show: 0, counts: [0; HoldKey::BUCKETS] }
    }
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Holds `frame` under `key`. A frame that was held before keeps its deadline. At the total limit, the oldest frame
    /// of the key with the most frames is removed and returned.
    ///
    /// # Errors
    /// Returns `frame` if its key is at its limit, or if the total limit is reached and no key has at least two more
    /// frames.
    pub(super) fn hold(
        &mut self,
        frame: Frame,
        from: PortIndex,
        key: HoldKey,
        until: Option<Instant>,
        now: Instant,
    ) -> Result<Option<Frame>, Frame> {
        let count = self.counts[key.bucket()];
        if count >= PER_KEY {
            return Err(frame);
        }
        let mut evicted = None;
        if self.waiting.len() >= CAPACITY {
            let largest = self.counts.iter().zip(0_usize..).max().map_or(0, |(_, bucket)| bucket);
            if self.counts[largest] < count + 2 {
                return Err(frame);
            }
            evicted =
                self.waiting.iter().position(|entry| entry.key.bucket() == largest).and_then(|at| self.remove(at));
        }
        self.counts[key.bucket()] += 1;
        self.waiting.push_back(HeldPacket { frame, from, deadline: until.unwrap_or(now + PATIENCE), key });
        Ok(evicted.map(|entry| entry.frame))
    }

    fn remove(&mut self, at: usize) -> Option<HeldPacket> {
        let entry = self.waiting.remove(at)?;
        self.to_show -= usize::from(at < self.to_show);
        self.counts[entry.key.bucket()] -= 1;
        Some(entry)
    }

    /// Starts a round that shows every packet held now once.
    pub(super) fn begin_round(&mut self) {
        self.to_show = self.waiting.len();
    }

    /// Moves the next group of packets with the same port and deadline to `burst`.
    pub(super) fn next_group(&mut self, burst: &mut Burst) -> Option<(PortIndex, Instant)> {
        let mut group = None;
        while self.to_show > 0 && burst.room() > 0 {
            let front = self.waiting.front()?;
            let key = (front.from, front.deadline);
            if *group.get_or_insert(key) != key {
                break;
            }
            self.move_to(burst, 0)?;
        }
        group
    }

    /// Moves one packet to `burst`, which must have space.
    fn move_to(&mut self, burst: &mut Burst, at: usize) -> Option<()> {
        burst.push(self.remove(at)?.frame).ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::umem::{PageKind, Region, RingSizes, Umem, UmemLayout};

    fn key(n: u32) -> usize {
        HoldKey::new(n).bucket()
    }

    struct Lab {
        umem: Umem,
        held: Held,
        now: Instant,
    }

    impl Lab {
        fn new() -> Self {
            let rings = RingSizes::from_ring_size(64).unwrap();
            let layout = UmemLayout::new(2048, 1024, 0, &rings, 1, 0).unwrap();
            let umem = Umem::new(Region::map(layout.bytes(), PageKind::Base, None).unwrap(), layout).unwrap();
            Self { umem, held: Held::default(), now: Instant::now() }
        }

        /// Returns whether a packet was held, and the mark of the evicted packet. `mark` is the packet's length.
        fn hold(&mut self, key: u32, mark: u16) -> (bool, Option<u16>) {
            let mut frame = self.umem.take().unwrap();
            assert!(self.umem.set_length(&mut frame, mark));
            let held = self.held.hold(frame, PortIndex::default(), HoldKey::new(key), None, self.now);
            let kept = held.is_ok();
            let back = held.unwrap_or_else(Some);
            let mark = back.as_ref().map(|frame| frame.length());
            back.into_iter().for_each(|frame| self.umem.give(frame));
            (kept, mark.filter(|_| kept))
        }

        /// Returns the marks of the packets that are shown.
        fn show(&mut self, mut next: impl FnMut(&mut Held, &mut Burst) -> Option<(PortIndex, Instant)>) -> Vec<u16> {
            let (mut burst, mut marks) = (Burst::new(), Vec::new());
            while next(&mut self.held, &mut burst).is_some() {
                for frame in burst.drain() {
                    marks.push(frame.length());
                    self.umem.give(frame);
                }
            }
            marks
        }
    }

    #[test]
    fn dead_next_hop_leaves_room_for_others() {
        let mut lab = Lab::new();
        for _ in 0..100 {
            lab.hold(1, 60);
        }
        assert_eq!(lab.held.len(), 64);
        // Four unreachable next hops fill the capacity. A new key still gets space from the keys with the most packets.
        (2..5).for_each(|n| (0..100).for_each(|_| _ = lab.hold(n, 60)));
        assert_eq!(lab.held.len(), CAPACITY);
        for n in 5..40 {
            assert_eq!(lab.hold(n, 61), (true, Some(60)), "{n}");
        }
        assert_eq!(lab.held.len(), CAPACITY);
        let counts = &lab.held.counts;
        assert!((1..5).all(|n| (54..=56).contains(&counts[key(n)])), "{counts:?}");
        // A key cannot evict packets of a key that has as few.
        while lab.hold(5, 62).0 {}
        assert!((43..=46).contains(&lab.held.counts[key(5)]), "{}", lab.held.counts[key(5)]);
    }

    #[test]
    fn held_packets_are_shown_in_order() {
        let mut lab = Lab::new();
        for n in 0..90 {
            lab.hold(n % 3, 100 + n as u16);
        }
        lab.held.begin_round();
        let shown = lab.show(|held, burst| held.next_group(burst));
        assert_eq!(shown, (100..190).collect::<Vec<u16>>());
        assert_eq!((lab.held.len(), lab.held.counts.iter().sum::<u16>()), (0, 0));
    }
}
