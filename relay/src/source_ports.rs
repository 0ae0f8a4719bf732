//! Assigns this queue's source ports on one source address.

use std::collections::VecDeque;
use std::ops::Range;

use super::plan::mix;
use oxide::umem::prefetch;

/// Marks a port without a session.
const NONE: u32 = u32::MAX;

/// Records the session of each port, and the free ports in the order of their next use. Allocates only in `new`.
#[derive(Debug)]
pub(super) struct SourcePorts {
    pub(super) address: [u8; 16],
    first: u16,
    /// Slot of the session by port, or [`NONE`].
    slots: Vec<u32>,
    /// Free ports. A returned port goes to the end, because a late answer must not reach the next client.
    free: VecDeque<u16>,
}

impl SourcePorts {
    /// Starts with all `ports` free, in an order that depends on `seed` (RFC 6056: an outsider must not be able to guess
    /// the next port).
    pub(super) fn new(address: [u8; 16], ports: Range<u32>, seed: u64) -> Self {
        let mut free = Vec::with_capacity(ports.len());
        free.extend(ports.clone().filter_map(|port| u16::try_from(port).ok()));
        let mut random = seed;
        for last in (1..free.len()).rev() {
            random = mix(random);
            free.swap(last, (random % (last as u64 + 1)) as usize);
        }
        let slots = vec![NONE; free.len()];
        // An empty range has no first port; every look-up in it fails.
        Self { address, first: u16::try_from(ports.start).unwrap_or(u16::MAX), slots, free: free.into() }
    }

    /// Assigns a free port to the session in `slot`: the first of the next `tries` ports that `home` accepts. If it
    /// accepts none of them, the next free port is taken.
    pub(super) fn take(&mut self, slot: u32, tries: usize, home: impl Fn(u16) -> bool) -> Option<u16> {
        // Rejected ports go to the end. At the front they would soon be the only ports that are tried.
        for _ in 0..tries.min(self.free.len()) {
            if self.free.front().is_some_and(|&port| home(port)) {
                break;
            }
            self.free.rotate_left(1);
        }
        let port = self.free.pop_front()?;
        if let Some(entry) = self.slots.get_mut(usize::from(port - self.first)) {
            *entry = slot;
        }
        Some(port)
    }

    /// Takes this port for an inherited session. Returns false if another session has it or it is not in the range. Call
    /// [`rebuild_free_list`](Self::rebuild_free_list) before the next [`take`](Self::take).
    pub(super) fn claim(&mut self, port: u16, slot: u32) -> bool {
        let entry = self.slots.get_mut(usize::from(port.wrapping_sub(self.first)));
        entry.filter(|entry| **entry == NONE).map(|entry| *entry = slot).is_some()
    }

    /// Reverts [`claim`](Self::claim).
    pub(super) fn disclaim(&mut self, port: u16) {
        if let Some(entry) = self.slots.get_mut(usize::from(port.wrapping_sub(self.first))) {
            *entry = NONE;
        }
    }

    /// Removes claimed ports from the free list.
    pub(super) fn rebuild_free_list(&mut self) {
        let Self { slots, free, first, .. } = self;
        free.retain(|&port| slots.get(usize::from(port.wrapping_sub(*first))).is_some_and(|&slot| slot == NONE));
    }

    /// Returns a port that [`take`](Self::take) assigned.
    pub(super) fn give(&mut self, port: u16) {
        if let Some(entry) = self.slots.get_mut(usize::from(port.wrapping_sub(self.first)))
            && std::mem::replace(entry, NONE) != NONE
        {
            self.free.push_back(port);
        }
    }

    /// Prefetches the entry that [`slot`](Self::slot) reads.
    #[inline]
    pub(super) fn prefetch(&self, port: u16) {
        if let Some(entry) = self.slots.get(usize::from(port.wrapping_sub(self.first))) {
            prefetch(entry);
        }
    }

    /// Returns the slot of the session with this port.
    #[inline]
    pub(super) fn slot(&self, port: u16) -> Option<u32> {
        self.slots.get(usize::from(port.wrapping_sub(self.first))).copied().filter(|&slot| slot != NONE)
    }

    /// Returns true if no session has a port here.
    pub(super) fn unused(&self) -> bool {
        self.free.len() == self.slots.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<u32>() + self.free.capacity() * size_of::<u16>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(ports: &mut SourcePorts, slot: u32) -> Option<u16> {
        ports.take(slot, 0, |_| false)
    }

    #[test]
    fn preferred_port_comes_first_and_none_is_lost() {
        let mut ports = SourcePorts::new([0; 16], 2000..2100, 7);
        let odd = |port: u16| port % 2 == 1;
        let taken: Vec<u16> = (0..100).filter_map(|slot| ports.take(slot, 16, odd)).collect();
        assert!(taken[..40].iter().all(|&port| odd(port)), "{taken:?}");
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (2000..2100).collect::<Vec<u16>>());
    }

    #[test]
    fn each_port_is_used_once_then_the_oldest_again() {
        let mut ports = SourcePorts::new([0; 16], 65_530..65_536, 7);
        let taken: Vec<u16> = (0..6).filter_map(|slot| next(&mut ports, slot)).collect();
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (65_530..=65_535).collect::<Vec<u16>>());
        assert_eq!(next(&mut ports, 9), None);
        for (slot, &port) in taken.iter().enumerate() {
            assert_eq!(ports.slot(port), Some(slot as u32));
        }
        ports.give(taken[3]);
        ports.give(taken[1]);
        ports.give(taken[1]);
        assert_eq!(ports.slot(taken[3]), None);
        assert_eq!(
            (next(&mut ports, 10), next(&mut ports, 11), next(&mut ports, 12)),
            (Some(taken[3]), Some(taken[1]), None)
        );
    }

    #[test]
    fn foreign_ports_belong_to_no_session() {
        let mut ports = SourcePorts::new([0; 16], 2000..2002, 7);
        ports.give(1999);
        ports.give(2002);
        assert!(ports.unused());
        assert_eq!((ports.slot(1999), ports.slot(2002), ports.slot(0)), (None, None, None));
        let mut none = SourcePorts::new([0; 16], 65_536..65_536, 7);
        assert_eq!((next(&mut none, 0), none.slot(65_535)), (None, None));
    }

    #[test]
    fn the_order_depends_on_the_seed() {
        let order = |seed| {
            let mut ports = SourcePorts::new([0; 16], 1024..2024, seed);
            (0..1000).filter_map(|slot| next(&mut ports, slot)).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}
