//! Session indices. They are random, so nobody can guess one, and still name the queue that owns their session: a
//! keyed hash of the index does. An index is drawn again until its hash names the wanted owner.

use std::collections::HashMap;
use std::hash::Hasher;

use siphasher::sip::SipHasher13;

use crate::entropy::{EntropyError, random};
use crate::handshakes::PeerId;

/// Draws before an index is given up: with 256 owners a draw misses all of them once in 10^27 times.
const DRAWS_PER_OWNER: u32 = 64;
/// Indices in use at once. More would make draws slow long before they fail.
const INDICES_MAX: usize = 1 << 24;

/// Tells which owner a session index belongs to. All owners have the same copy.
#[derive(Clone, Copy)]
pub struct IndexOwner {
    key: [u64; 2],
    owners: u32,
}

impl IndexOwner {
    /// Draws a key for `owners` owners, at least one.
    ///
    /// # Errors
    /// [`EntropyError`] if the system gives no random bytes.
    pub fn new(owners: u32) -> Result<Self, EntropyError> {
        let [first, second] = [random()?, random()?].map(u64::from_ne_bytes);
        Ok(Self { key: [first, second], owners: owners.max(1) })
    }

    /// Returns the number of owners.
    #[must_use]
    pub fn owners(&self) -> u32 {
        self.owners
    }

    /// Returns the owner of an index, below [`owners`](Self::owners). Any number has one, also one that is not in use.
    #[must_use]
    #[inline]
    pub fn owner(&self, index: u32) -> u32 {
        if self.owners == 1 {
            return 0;
        }
        let mut hasher = SipHasher13::new_with_keys(self.key[0], self.key[1]);
        hasher.write_u32(index);
        ((u128::from(hasher.finish()) * u128::from(self.owners)) >> 64) as u32
    }
}

/// Keeps the indices in use, with the peer of each.
pub(crate) struct Indices {
    owner: IndexOwner,
    used: HashMap<u32, PeerId>,
}

impl Indices {
    pub(crate) fn new(owner: IndexOwner) -> Self {
        Self { owner, used: HashMap::new() }
    }

    /// Draws a free index for a peer of `owner`; `None` if none was found.
    pub(crate) fn draw(&mut self, peer: PeerId, owner: u32) -> Result<Option<u32>, EntropyError> {
        if self.used.len() >= INDICES_MAX || owner >= self.owner.owners {
            return Ok(None);
        }
        for _ in 0..(DRAWS_PER_OWNER * self.owner.owners).div_ceil(16) {
            for four in random::<64>()?.as_chunks().0 {
                let index = u32::from_ne_bytes(*four);
                if self.owner.owner(index) == owner && !self.used.contains_key(&index) {
                    self.used.insert(index, peer);
                    return Ok(Some(index));
                }
            }
        }
        Ok(None)
    }

    pub(crate) fn release(&mut self, index: u32) {
        self.used.remove(&index);
    }

    pub(crate) fn release_peer(&mut self, peer: PeerId) {
        self.used.retain(|_, of| *of != peer);
    }

    pub(crate) fn peer(&self, index: u32) -> Option<PeerId> {
        self.used.get(&index).copied()
    }

    pub(crate) fn len(&self) -> usize {
        self.used.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn drawn_index_names_its_owner() {
        for owners in [1, 2, 3, 16, 255] {
            let owner = IndexOwner::new(owners).unwrap();
            let mut indices = Indices::new(owner);
            for wanted in (0..owners).cycle().take(300) {
                let index = indices.draw(PeerId::new(1), wanted).unwrap().unwrap();
                assert_eq!(owner.owner(index), wanted);
            }
            assert_eq!(indices.len(), 300, "each is drawn once");
            assert_eq!(indices.draw(PeerId::new(1), owners), Ok(None), "no such owner");
        }
    }

    #[test]
    fn indices_are_not_guessable() {
        let mut indices = Indices::new(IndexOwner::new(4).unwrap());
        let drawn: Vec<u32> = (0..256).map(|_| indices.draw(PeerId::new(1), 2).unwrap().unwrap()).collect();
        // Each bit is set in about half of them: 96 to 160 of 256 is missed by chance once in 10^4 runs per bit.
        for bit in 0..32 {
            let set = drawn.iter().filter(|index| *index >> bit & 1 == 1).count();
            assert!((80..=176).contains(&set), "bit {bit} is set in {set} of 256");
        }
        let near = drawn.windows(2).filter(|pair| pair[0].abs_diff(pair[1]) < 1 << 16).count();
        assert!(near < 3, "{near} of 255 follow each other closely");
    }

    #[test]
    fn released_index_has_no_peer() {
        let mut indices = Indices::new(IndexOwner::new(1).unwrap());
        let one = indices.draw(PeerId::new(1), 0).unwrap().unwrap();
        let two = indices.draw(PeerId::new(2), 0).unwrap().unwrap();
        assert_eq!((indices.peer(one), indices.peer(two)), (Some(PeerId::new(1)), Some(PeerId::new(2))));
        indices.release(one);
        indices.release_peer(PeerId::new(2));
        assert_eq!((indices.peer(one), indices.peer(two), indices.len()), (None, None, 0));
    }
}
