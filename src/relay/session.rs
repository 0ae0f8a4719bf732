//! One queue's sessions: a slab of fixed size, found by client.

use std::hash::{BuildHasher, Hasher};

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use super::plan::halves;
use crate::packet::{AddressChange, Endpoint, MacAddr};
use crate::umem::PortIndex;

/// Where a direction of a session leaves, a copy from the tables; and what its addresses do to checksums.
#[derive(Debug, Clone, Copy)]
pub(super) struct NextHop {
    /// When it was copied from the tables, by the relay's count: one that is missed would have to be 2^32
    /// counts away.
    pub(super) generation: u32,
    /// Largest IP packet, bytes.
    pub(super) mtu: u16,
    pub(super) addresses: AddressChange,
    /// Next hop's MAC.
    pub(super) mac: MacAddr,
    /// Outgoing port; [`NextHop::UNKNOWN`] has none.
    pub(super) port: PortIndex,
}

impl NextHop {
    pub(super) const UNKNOWN: Self =
        Self { generation: 0, mtu: 0, addresses: AddressChange::NONE, mac: MacAddr([0; 6]), port: PortIndex::MAX };

    /// Whether it may be used at this count.
    #[inline]
    pub(super) fn fresh(&self, generation: u32) -> bool {
        self.generation == generation && self.port != PortIndex::MAX
    }
}

/// One client at one entry. Exactly one cache line.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
pub(super) struct Session {
    pub(super) client: Endpoint,
    pub(super) entry: u16,
    /// Source port toward the upstream.
    pub(super) port: u16,
    /// Which of the relay's source addresses.
    pub(super) source: u8,
    pub(super) live: bool,
    /// Place in the relay's list of all upstreams.
    pub(super) upstream: u32,
    /// When the client was last heard, in ticks of the relay's clock.
    pub(super) last_seen: u32,
    pub(super) to_upstream: NextHop,
    pub(super) to_client: NextHop,
}

const _: () = assert!(size_of::<Session>() == 64);

const EMPTY: Session = Session {
    client: Endpoint { address: [0; 16], port: 0 },
    entry: 0,
    port: 0,
    source: 0,
    live: false,
    upstream: 0,
    last_seen: 0,
    to_upstream: NextHop::UNKNOWN,
    to_client: NextHop::UNKNOWN,
};

/// All memory is taken by [`Sessions::new`].
pub(super) struct Sessions {
    slots: Vec<Session>,
    free: Vec<u32>,
    index: HashTable<u32>,
    /// Seeded for each handler, so that collisions cannot be prepared.
    hasher: FixedState,
    /// Where the next look for idle sessions begins.
    hand: usize,
}

impl Sessions {
    pub(super) fn new(capacity: u32, seed: u64) -> Self {
        Self {
            slots: vec![EMPTY; capacity as usize],
            free: (0..capacity).rev().collect(),
            // Twice the room: a table that is at most half full cleans up its tombstones in place and never grows.
            index: HashTable::with_capacity(2 * capacity as usize),
            hasher: FixedState::with_seed(seed),
            hand: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.slots.capacity() * size_of::<Session>()
            + self.free.capacity() * size_of::<u32>()
            + self.index.allocation_size()
    }

    #[inline]
    pub(super) fn hash(&self, client: &Endpoint, entry: u16) -> u64 {
        hash(&self.hasher, client, entry)
    }

    /// The slot of a client's session; `hash` is [`hash`](Self::hash) of both.
    #[inline]
    pub(super) fn find(&self, hash: u64, client: &Endpoint, entry: u16) -> Option<u32> {
        let same = |&slot: &u32| self.get(slot).is_some_and(|s| s.client == *client && s.entry == entry);
        self.index.find(hash, same).copied()
    }

    /// The live session in `slot`.
    #[inline]
    pub(super) fn get(&self, slot: u32) -> Option<&Session> {
        self.slots.get(slot as usize).filter(|session| session.live)
    }

    /// The live session in `slot`, to change anything but its client and entry.
    #[inline]
    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.slots.get_mut(slot as usize).filter(|session| session.live)
    }

    /// The live sessions from slot `from` on, each with its slot.
    pub(super) fn iter_from(&self, from: u32) -> impl Iterator<Item = (u32, &Session)> {
        let slots = self.slots.iter().zip(0_u32..).skip(from as usize);
        slots.filter(|(session, _)| session.live).map(|(session, slot)| (slot, session))
    }

    /// The slot that [`insert`](Self::insert) will use; `None` if all are taken.
    pub(super) fn next_slot(&self) -> Option<u32> {
        self.free.last().copied()
    }

    /// Puts a session that is not there yet into [`next_slot`](Self::next_slot).
    pub(super) fn insert(&mut self, session: Session) {
        let Some(slot) = self.free.pop() else { return };
        let hash = self.hash(&session.client, session.entry);
        let Self { slots, index, hasher, .. } = self;
        if let Some(place) = slots.get_mut(slot as usize) {
            *place = Session { live: true, ..session };
        }
        debug_assert!(index.len() < index.capacity());
        index.insert_unique(hash, slot, |&slot| {
            slots.get(slot as usize).map_or(0, |s| self::hash(hasher, &s.client, s.entry))
        });
    }

    /// Ends the session in `slot` and returns it.
    pub(super) fn remove(&mut self, slot: u32) -> Option<Session> {
        let session = *self.get(slot)?;
        let hash = self.hash(&session.client, session.entry);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == slot) {
            found.remove();
        }
        if let Some(place) = self.slots.get_mut(slot as usize) {
            place.live = false;
        }
        self.free.push(slot);
        Some(session)
    }

    /// Moves the hand on by at most `steps` slots, stopping behind the first live session that `ended`
    /// picks. Returns its slot and the steps that are left.
    pub(super) fn advance(&mut self, steps: usize, ended: impl Fn(&Session) -> bool) -> Option<(u32, usize)> {
        let mut steps = steps.min(self.slots.len());
        while steps > 0 {
            steps -= 1;
            let at = self.hand;
            self.hand = if at + 1 < self.slots.len() { at + 1 } else { 0 };
            if self.get(at as u32).is_some_and(&ended) {
                return Some((at as u32, steps));
            }
        }
        None
    }

    /// Slots, taken or not.
    pub(super) fn capacity(&self) -> usize {
        self.slots.len()
    }
}

#[inline]
fn hash(hasher: &FixedState, client: &Endpoint, entry: u16) -> u64 {
    let [high, low] = halves(client);
    let mut state = hasher.build_hasher();
    state.write_u64(high);
    state.write_u64(low);
    state.write_u32(u32::from(client.port) << 16 | u32::from(entry));
    state.finish()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn session(n: u32) -> Session {
        let client = Endpoint { address: u128::from(n).to_be_bytes(), port: (n % 7) as u16 };
        Session { client, entry: (n % 3) as u16, ..EMPTY }
    }

    /// Filling and emptying many times over leaves tombstones behind; the table must not grow by them.
    #[test]
    fn never_grows() {
        let capacity = 100;
        let mut sessions = Sessions::new(capacity, 1);
        let bytes = sessions.memory_bytes();
        for round in 0..200 {
            for n in 0..capacity {
                sessions.insert(session(round * 31 + n));
            }
            assert_eq!((sessions.next_slot(), sessions.len()), (None, 100));
            for n in 0..capacity {
                let wanted = session(round * 31 + n);
                let hash = sessions.hash(&wanted.client, wanted.entry);
                let slot = sessions.find(hash, &wanted.client, wanted.entry).unwrap();
                assert_eq!(sessions.remove(slot).unwrap().client, wanted.client);
                assert!(sessions.find(hash, &wanted.client, wanted.entry).is_none());
                assert!(sessions.remove(slot).is_none());
            }
            assert_eq!(sessions.len(), 0);
        }
        assert_eq!(sessions.memory_bytes(), bytes);
    }

    #[test]
    fn the_hand_sees_every_slot_once_a_round() {
        let mut sessions = Sessions::new(10, 1);
        for n in 0..10 {
            sessions.insert(session(n));
        }
        let mut seen = Vec::new();
        let mut steps = 10;
        while let Some((slot, left)) = sessions.advance(steps, |s| s.client.address[15] % 2 == 0) {
            seen.push(slot);
            steps = left;
        }
        assert_eq!(seen.len(), 5);
        assert_eq!(sessions.advance(3, |_| false), None);
        assert_eq!(sessions.advance(10, |_| true), Some((3, 9)));
    }
}
