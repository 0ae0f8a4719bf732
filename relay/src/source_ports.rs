//! Assigns this queue's source ports on one source address.
//!
//! A port serves one session of each upstream server: the sender of an answer tells the sessions of one port apart.
//! Sessions lie in planes, arrays by port. A session goes to the first plane if its port is free there, so the other
//! planes stay empty until one queue has more sessions than ports.
//!
//! ```text
//!  port            p   q   r        an answer from server B to port p: the tag selects the plane,
//!  plane 0      [ A1 | A2 | B1 ]    the server of the session found is compared
//!  plane 1      [ B2 |    |    ]
//! ```

use std::collections::VecDeque;

use super::plan::mix;
use super::port_space::PortSpace;
use oxide::packet::Endpoint;
use oxide::umem::prefetch;

/// Marks a port without a session: tag 255, which no server has.
const NONE: u32 = u32::MAX;
/// Bits of a cell that hold the session's slot; the server's tag is above them. A table has at most 2^24 sessions.
const SLOT: u32 = 0x00ff_ffff;
/// Limits the free ports examined for one session, because nearly all ports may be taken.
const EXAMINED: usize = 8192;
/// Limits the planes.
const PLANES: usize = 64;

/// Describes the session that a port is wanted for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Slot of the session.
    pub(super) slot: u32,
    /// Number of its server.
    pub(super) server: u32,
    /// [Tag](tag) of that server.
    pub(super) tag: u8,
}

/// Returns a tag of a server's address and port, 0 to 254. It selects the plane in which the server's session probably is.
#[inline]
pub(super) fn tag(server: &Endpoint) -> u8 {
    let address = u128::from_ne_bytes(server.address);
    let word = (address >> 64) as u64 ^ address as u64 ^ u64::from(server.port) << 16;
    // The upper bits of a product depend on all bits of the factor.
    let bits = (word.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8;
    bits.min(254)
}

/// Records the session of each port, and the free ports in the order of their next use. Allocates only in `new`.
#[derive(Debug)]
pub(super) struct SourcePorts {
    pub(super) address: [u8; 16],
    planes: Vec<Plane>,
    place: u32,
    /// Ports of this queue.
    share: u32,
    /// Ports taken, by server.
    used: Vec<u32>,
    taken: u32,
    /// Sessions beyond the first plane.
    beyond_first: u32,
}

#[derive(Debug)]
struct Plane {
    /// By [`PortSpace::index`]: tag and slot of a session, or [`NONE`].
    cells: Vec<u32>,
    /// Free ports. A returned port goes to the end, because a late answer must not reach the next client.
    free: VecDeque<u16>,
}

impl Plane {
    /// Returns the slot of the session with the port at `index`, and the tag of its server.
    #[inline]
    fn get(&self, index: usize) -> Option<(u32, u8)> {
        let cell = *self.cells.get(index)?;
        (cell != NONE).then_some((cell & SLOT, (cell >> 24) as u8))
    }
}

impl SourcePorts {
    /// Creates the ports of the queue at `place`, all free, in an order that depends on `seed` (RFC 6056: an outsider must
    /// not be able to guess the next one). They serve `servers` servers and at most `sessions` sessions.
    pub(super) fn new(
        address: [u8; 16],
        (space, place): (&PortSpace, u32),
        (servers, sessions): (usize, usize),
        seed: u64,
    ) -> Self {
        let share = space.count_of(place);
        // Twice as many cells as sessions: a search for a free one is short.
        let fillable = 2 * sessions.div_ceil(share.max(1) as usize);
        let planes = servers.min(fillable).clamp(1, PLANES);
        let mut random = seed;
        let planes = (0..planes).map(|_| {
            let mut free = Vec::with_capacity(share as usize);
            free.extend(space.of(place));
            for last in (1..free.len()).rev() {
                random = mix(random);
                free.swap(last, (random % (last as u64 + 1)) as usize);
            }
            Plane { cells: vec![NONE; space.indices()], free: free.into() }
        });
        let planes = planes.collect();
        Self { address, planes, place, share, used: vec![0; servers], taken: 0, beyond_first: 0 }
    }

    /// Takes a free port: the first of the next `tries` for which `home` returns true, or the next one if there is none.
    /// `same` returns whether the session in a slot goes to the wanted server.
    pub(super) fn take(
        &mut self,
        space: &PortSpace,
        wanted: Wanted,
        tries: usize,
        home: impl Fn(u16) -> bool,
        same: impl Fn(u32) -> bool,
    ) -> Option<u16> {
        if *self.used.get(wanted.server as usize)? >= self.share {
            return None;
        }
        let mut left = EXAMINED;
        for at in 0..self.planes.len() {
            let found =
                self.search(at, tries, |ports, port| ports.is_free(space.index(port), wanted.tag, &same) && home(port));
            let found = found.or_else(|| {
                let all = self.planes.get(at).map_or(0, |plane| plane.free.len()).min(left);
                left -= all;
                self.search(at, all, |ports, port| ports.is_free(space.index(port), wanted.tag, &same))
            });
            if let Some(port) = found {
                self.set(at, space.index(port), wanted);
                return Some(port);
            }
        }
        None
    }

    /// Removes the first port that `fits` from the free ports of a plane, among the next `tries`. Ports passed over go to
    /// the end: at the front, they would be examined again by each search.
    fn search(&mut self, at: usize, tries: usize, fits: impl Fn(&Self, u16) -> bool) -> Option<u16> {
        let mut free = std::mem::take(&mut self.planes.get_mut(at)?.free);
        let mut found = None;
        for _ in 0..tries.min(free.len()) {
            match free.front() {
                Some(&port) if fits(self, port) => {
                    found = free.pop_front();
                    break;
                }
                _ => free.rotate_left(1),
            }
        }
        self.planes.get_mut(at)?.free = free;
        found
    }

    /// Returns whether no session of the server has the port at `index`, in any plane.
    fn is_free(&self, index: usize, tag: u8, same: impl Fn(u32) -> bool) -> bool {
        !self.at(index).any(|(slot, other)| other == tag && same(slot))
    }

    fn at(&self, index: usize) -> impl Iterator<Item = (u32, u8)> + '_ {
        self.planes.iter().filter_map(move |plane| plane.get(index))
    }

    fn set(&mut self, at: usize, index: usize, wanted: Wanted) {
        let cell = self.planes.get_mut(at).and_then(|plane| plane.cells.get_mut(index));
        if let (Some(cell), Some(used)) = (cell, self.used.get_mut(wanted.server as usize)) {
            *cell = u32::from(wanted.tag) << 24 | wanted.slot & SLOT;
            *used += 1;
            self.taken += 1;
            self.beyond_first += u32::from(at > 0);
        }
    }

    /// Takes this port for a session that is taken over. Returns `false` if the server has a session there, or if the port
    /// is not this queue's. Call [`rebuild_free_list`](Self::rebuild_free_list) before the next [`take`](Self::take).
    pub(super) fn claim(&mut self, space: &PortSpace, port: u16, wanted: Wanted, same: impl Fn(u32) -> bool) -> bool {
        let (index, known) = (space.index(port), (wanted.server as usize) < self.used.len());
        let ours = space.contains(port) && space.owner(port) == self.place;
        if !known || !ours || !self.is_free(index, wanted.tag, same) {
            return false;
        }
        let Some(at) = self.planes.iter().position(|plane| plane.get(index).is_none()) else { return false };
        self.set(at, index, wanted);
        true
    }

    /// Removes the ports that were claimed from the free ones.
    pub(super) fn rebuild_free_list(&mut self, space: &PortSpace) {
        for Plane { cells, free } in &mut self.planes {
            free.retain(|&port| cells.get(space.index(port)).is_some_and(|&cell| cell == NONE));
        }
    }

    /// Gives back a port that [`take`](Self::take) or [`claim`](Self::claim) gave to this session.
    pub(super) fn give(&mut self, space: &PortSpace, port: u16, slot: u32, server: u32) {
        let index = space.index(port);
        let has = |plane: &Plane| plane.get(index).is_some_and(|(other, _)| other == slot & SLOT);
        let Some(at) = self.planes.iter().position(has) else { return };
        let Some(plane) = self.planes.get_mut(at) else { return };
        if let Some(cell) = plane.cells.get_mut(index) {
            *cell = NONE;
        }
        plane.free.push_back(port);
        self.taken = self.taken.saturating_sub(1);
        self.beyond_first = self.beyond_first.saturating_sub(u32::from(at > 0));
        if let Some(used) = self.used.get_mut(server as usize) {
            *used = used.saturating_sub(1);
        }
    }

    /// Prefetches what [`slot`](Self::slot) reads.
    #[inline]
    pub(super) fn prefetch(&self, index: usize) {
        if let Some(cell) = self.planes.first().and_then(|plane| plane.cells.get(index)) {
            prefetch(cell);
        }
    }

    /// Returns the slot of the session that an answer of `server` to the port at `index` is probably for. The caller
    /// compares the session's server, and tries [`slots`](Self::slots) if it is another one.
    #[inline]
    pub(super) fn slot(&self, index: usize, server: &Endpoint) -> Option<u32> {
        if self.beyond_first == 0 {
            return self.planes.first()?.get(index).map(|(slot, _)| slot);
        }
        let tag = tag(server);
        self.at(index).find(|(_, other)| *other == tag).map(|(slot, _)| slot)
    }

    /// Returns the slots of all sessions that have the port at `index`.
    pub(super) fn slots(&self, index: usize) -> impl Iterator<Item = u32> + '_ {
        self.at(index).map(|(slot, _)| slot)
    }

    /// Returns whether no session has a port here.
    pub(super) fn unused(&self) -> bool {
        self.taken == 0
    }

    pub(super) fn memory_bytes(&self) -> usize {
        let planes = self.planes.iter().map(|p| p.cells.capacity() * size_of::<u32>() + p.free.capacity() * 2);
        planes.sum::<usize>() + self.used.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::HashMap;

    /// Ports of one queue, and the server of each slot.
    struct Lab {
        space: PortSpace,
        ports: SourcePorts,
        servers: HashMap<u32, u32>,
    }

    impl Lab {
        fn new(range: std::ops::RangeInclusive<u16>, servers: usize, seed: u64) -> Self {
            let space = PortSpace::new([range], [], 1);
            let ports = SourcePorts::new([0; 16], (&space, 0), (servers, 1000), seed);
            Self { space, ports, servers: HashMap::new() }
        }

        fn wanted(slot: u32, server: u32) -> Wanted {
            Wanted { slot, server, tag: server as u8 / 2 }
        }

        fn take_preferred(&mut self, slot: u32, server: u32, tries: usize, home: impl Fn(u16) -> bool) -> Option<u16> {
            let same = |slot: u32| self.servers[&slot] == server;
            let port = self.ports.take(&self.space, Self::wanted(slot, server), tries, home, same)?;
            self.servers.insert(slot, server);
            Some(port)
        }

        fn take(&mut self, slot: u32, server: u32) -> Option<u16> {
            self.take_preferred(slot, server, 0, |_| false)
        }

        fn give(&mut self, port: u16, slot: u32) {
            let server = self.servers.remove(&slot).unwrap_or(0);
            self.ports.give(&self.space, port, slot, server);
        }

        /// The slot of `server`'s session with this port.
        fn find(&self, port: u16, server: u32) -> Option<u32> {
            self.ports.slots(self.space.index(port)).find(|slot| self.servers[slot] == server)
        }
    }

    #[test]
    fn preferred_port_comes_first_and_none_is_lost() {
        let mut lab = Lab::new(2000..=2099, 1, 7);
        let odd = |port: u16| port % 2 == 1;
        let taken: Vec<u16> = (0..100).filter_map(|slot| lab.take_preferred(slot, 0, 16, odd)).collect();
        assert!(taken[..40].iter().all(|&port| odd(port)), "{taken:?}");
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (2000..2100).collect::<Vec<u16>>());
    }

    #[test]
    fn each_port_is_used_once_then_the_oldest_again() {
        let mut lab = Lab::new(65_530..=65_535, 1, 7);
        let taken: Vec<u16> = (0..6).filter_map(|slot| lab.take(slot, 0)).collect();
        let mut sorted = taken.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (65_530..=65_535).collect::<Vec<u16>>());
        assert_eq!(lab.take(9, 0), None);
        for (slot, &port) in (0..).zip(&taken) {
            assert_eq!(lab.ports.slot(lab.space.index(port), &Endpoint::default()), Some(slot));
        }
        lab.give(taken[3], 3);
        lab.give(taken[1], 1);
        lab.give(taken[1], 1);
        assert_eq!(lab.find(taken[3], 0), None);
        assert_eq!((lab.take(10, 0), lab.take(11, 0), lab.take(12, 0)), (Some(taken[3]), Some(taken[1]), None));
    }

    /// Each server has all ports, also where two servers have the same tag.
    #[test]
    fn port_serves_each_server_once() {
        let mut lab = Lab::new(3000..=3003, 5, 3);
        let mut slots = HashMap::new();
        for round in 0..4 {
            for server in 0..5 {
                let slot = round * 5 + server;
                let port = lab.take(slot, server).unwrap();
                assert_eq!(slots.insert((port, server), slot), None);
            }
        }
        assert!((0..5).all(|server| lab.take(99, server).is_none()));
        for (&(port, server), &slot) in &slots {
            assert_eq!(lab.find(port, server), Some(slot));
        }
        // A port that is given back is free for the server that had it only.
        let (&(port, server), &slot) = slots.iter().next().unwrap();
        lab.give(port, slot);
        assert_eq!(lab.take(50, (server + 1) % 5), None);
        assert_eq!(lab.take(51, server), Some(port));
        for (&(port, server), &slot) in &slots {
            lab.give(port, if lab.servers.contains_key(&slot) { slot } else { 51 });
            assert_eq!(lab.find(port, server), None);
        }
        assert!(lab.ports.unused());
    }

    #[test]
    fn claimed_port_is_not_given_out() {
        let mut lab = Lab::new(2000..=2003, 2, 7);
        let space = lab.space.clone();
        let mut claim = |port, slot, server| {
            let servers = &lab.servers;
            lab.ports.claim(&space, port, Lab::wanted(slot, server), |slot| servers[&slot] == server)
        };
        assert!(claim(2001, 1, 0));
        lab.servers.insert(1, 0);
        let mut claim = |port, slot, server| {
            let servers = &lab.servers;
            lab.ports.claim(&space, port, Lab::wanted(slot, server), |slot| servers[&slot] == server)
        };
        assert!(!claim(2001, 2, 0), "the server has a session there");
        assert!(!claim(1999, 2, 0) && !claim(2004, 2, 0) && !claim(2002, 2, 2), "no such port or server");
        assert!(claim(2001, 2, 1));
        lab.servers.insert(2, 1);
        lab.ports.rebuild_free_list(&space);
        let mut taken: Vec<u16> = (3..9).filter_map(|slot| lab.take(slot, 0)).collect();
        taken.sort_unstable();
        assert_eq!(taken, [2000, 2002, 2003]);
    }

    #[test]
    fn queue_without_ports_gives_none() {
        let space = PortSpace::new([2000..=2000], [], 2);
        let mut ports = SourcePorts::new([0; 16], (&space, 1), (1, 10), 7);
        assert_eq!(ports.take(&space, Lab::wanted(0, 0), 0, |_| true, |_| false), None);
        assert!(ports.unused());
    }

    #[test]
    fn order_depends_on_seed() {
        let order = |seed| {
            let mut lab = Lab::new(1024..=2023, 1, seed);
            (0..1000).filter_map(|slot| lab.take(slot, 0)).collect::<Vec<_>>()
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1), order(2));
    }
}
