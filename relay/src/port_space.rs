//! The source ports that sessions may have, and the queue that owns each of them.
//!
//! Port `p` belongs to the queue at place `p % queues`. A reload cannot change that, so other ranges move no port from one
//! queue to another: a session whose port is still allowed stays where it is.

use std::ops::RangeInclusive;

/// Words of a set of all ports.
const WORDS: usize = 65_536 / 64;

/// A set of UDP ports, 8 KiB.
#[derive(Debug, Clone)]
pub(super) struct PortSet(Box<[u64; WORDS]>);

impl PortSet {
    /// Returns the set of these ports.
    fn new(ports: impl IntoIterator<Item = u16>) -> Self {
        let mut words = Box::new([0; WORDS]);
        for port in ports {
            words[usize::from(port / 64)] |= 1 << (port % 64);
        }
        Self(words)
    }

    /// Returns whether `port` is in the set.
    #[inline(always)]
    pub(super) fn contains(&self, port: u16) -> bool {
        self.0[usize::from(port / 64)] >> (port % 64) & 1 == 1
    }
}

/// The source ports of all queues.
#[derive(Debug, Clone)]
pub struct PortSpace {
    allowed: PortSet,
    queues: u32,
    /// Replaces a division by `queues`; exact because ports are below 2^16 and queues below 2^16.
    reciprocal: u64,
}

impl PortSpace {
    /// Allows the ports of `ranges` without those in `excluded`.
    pub(super) fn new(
        ranges: impl IntoIterator<Item = RangeInclusive<u16>>,
        excluded: impl IntoIterator<Item = u16>,
        queues: u32,
    ) -> Self {
        let queues = queues.max(1);
        let excluded = PortSet::new(excluded);
        let allowed = PortSet::new(ranges.into_iter().flatten().filter(|&port| !excluded.contains(port)));
        Self { allowed, queues, reciprocal: (1 << 32) / u64::from(queues) + 1 }
    }

    /// Returns whether a session may have this port.
    #[inline]
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.allowed.contains(port)
    }

    /// Returns the place of the queue that owns `port`, whether a session may have the port or not.
    #[inline]
    #[must_use]
    pub fn owner(&self, port: u16) -> u32 {
        u32::from(port) - self.index(port) as u32 * self.queues
    }

    /// Returns the number of ports below `port` with the same owner: distinct and dense for the ports of one queue.
    #[inline]
    pub(super) fn index(&self, port: u16) -> usize {
        ((u64::from(port) * self.reciprocal) >> 32) as usize
    }

    /// Returns the number of indices that a queue has at most.
    pub(super) fn indices(&self) -> usize {
        65_536_usize.div_ceil(self.queues as usize)
    }

    /// Returns the ports of the queue at `place`, in ascending order; none if there is no such queue.
    pub fn of(&self, place: u32) -> impl Iterator<Item = u16> + '_ {
        let first = u16::try_from(place).ok().filter(|_| place < self.queues);
        let ports = first.into_iter().flat_map(|first| (first..=u16::MAX).step_by(self.queues as usize));
        ports.filter(|&port| self.contains(port))
    }

    /// Returns the ports of the queue at `place` as a set.
    pub(super) fn set_of(&self, place: u32) -> PortSet {
        PortSet::new(self.of(place))
    }

    /// Counts the ports of the queue at `place`.
    #[must_use]
    pub fn count_of(&self, place: u32) -> u32 {
        self.of(place).count() as u32
    }

    /// Returns all ports as ranges, in ascending order, with at least one port between two of them.
    pub(super) fn ranges(&self) -> Vec<RangeInclusive<u16>> {
        let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
        for port in (0..=u16::MAX).filter(|&port| self.contains(port)) {
            match ranges.last_mut() {
                Some(range) if range.end() + 1 == port => *range = *range.start()..=port,
                _ => ranges.push(port..=port),
            }
        }
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_one_owner_and_one_index() {
        for queues in [1, 2, 3, 7, 64, 255, 256] {
            let space = PortSpace::new([0..=u16::MAX], [], queues);
            for port in 0..=u16::MAX {
                assert_eq!(space.owner(port), u32::from(port) % queues, "{port} of {queues}");
                assert_eq!(space.index(port), usize::from(port) / queues as usize);
                assert!(space.index(port) < space.indices());
            }
            let counts: Vec<u32> = (0..queues).map(|place| space.count_of(place)).collect();
            assert_eq!(counts.iter().sum::<u32>(), 65_536);
            assert!(counts.iter().max().zip(counts.iter().min()).is_some_and(|(most, least)| most - least <= 1));
            assert_eq!(space.count_of(queues), 0);
        }
    }

    /// Neither other ranges nor ports that a relay listens on move a port to another queue.
    #[test]
    fn owner_does_not_depend_on_ranges() {
        let (narrow, wide) = (PortSpace::new([61_000..=65_535], [], 3), PortSpace::new([1024..=65_535], [2000], 3));
        for port in narrow.ranges().into_iter().flatten() {
            assert!(wide.contains(port));
            assert_eq!((wide.owner(port), wide.index(port)), (narrow.owner(port), narrow.index(port)));
        }
    }

    #[test]
    fn excluded_ports_split_ranges() {
        let space = PortSpace::new([100..=105, 200..=201, 106..=107], [103, 200, 300], 2);
        assert_eq!(space.ranges(), [100..=102, 104..=107, 201..=201]);
        assert_eq!(space.of(1).collect::<Vec<_>>(), [101, 105, 107, 201]);
        assert!(!space.contains(103) && !space.contains(300) && space.contains(201));
        let own = space.set_of(1);
        assert!(own.contains(101) && !own.contains(102) && !own.contains(103));
    }
}
