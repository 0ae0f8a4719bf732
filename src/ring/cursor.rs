//! Contains all index arithmetic of the rings.
//!
//! Both indices of a ring run through all of `u32` and wrap. A cell's position is its index modulo the
//! capacity. One cursor type serves both ends, because both need the same answer: how far may the own index go?
//!
//! ```text
//!                 own index                     limit                         own <= limit, wrapping
//!  producer     producer (next to write)     consumer + capacity             limit - own = slots to write
//!  consumer     consumer (next to read)      producer                        limit - own = entries to read
//! ```
//!
//! The limit is a cached copy: the other end's index is read again only when the copy does not suffice, so
//! that its cache line does not move between the cores at every call.

use super::sync::{AtomicU32, Ordering};

/// Reports a capacity that no ring can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("ring: {got} entries are not possible; expected a power of two up to 2147483648")]
pub struct RingSizeError {
    /// Requested number of entries.
    pub got: u32,
}

/// Holds one end's view of a ring's two indices.
#[derive(Debug)]
pub(super) struct Cursor {
    own: u32,
    limit: u32,
    /// Added to the peer's index to get the limit: the capacity for a producer, zero for a consumer.
    lead: u32,
    mask: u32,
}

impl Cursor {
    /// Creates the producer's cursor of an empty ring whose indices are both `start`.
    pub(super) fn producer(capacity: u32, start: u32) -> Result<Self, RingSizeError> {
        let mask = mask(capacity)?;
        Ok(Self { own: start, limit: start.wrapping_add(capacity), lead: capacity, mask })
    }

    /// Creates the consumer's cursor of an empty ring whose indices are both `start`.
    pub(super) fn consumer(capacity: u32, start: u32) -> Result<Self, RingSizeError> {
        Ok(Self { own: start, limit: start, lead: 0, mask: mask(capacity)? })
    }

    /// Returns the number of cells in the ring.
    #[inline]
    pub(super) fn capacity(&self) -> u32 {
        // The sum cannot overflow: the mask of a power of two is below u32::MAX.
        self.mask + 1
    }

    /// Returns how far the index may go according to the cached limit.
    #[inline]
    fn cached(&self) -> u32 {
        // The other end writes its index. Any value of it makes at most the whole ring available.
        self.limit.wrapping_sub(self.own).min(self.capacity())
    }

    /// Returns how far the index may go, up to `wanted`. Reads `peer` only if the cached limit is too close.
    ///
    /// The load is an acquire, so that the other end's work on the cells before it moved its index is visible: it
    /// wrote the entries (for a consumer), or has finished reading the cells (for a producer).
    #[inline]
    pub(super) fn available(&mut self, wanted: u32, peer: &AtomicU32) -> u32 {
        if self.cached() < wanted {
            self.refresh(peer);
        }
        self.cached().min(wanted)
    }

    /// Returns how far the index may go according to the other end's current index.
    #[inline]
    pub(super) fn refresh(&mut self, peer: &AtomicU32) -> u32 {
        self.limit = peer.load(Ordering::Acquire).wrapping_add(self.lead);
        self.cached()
    }

    /// Returns the position of the cell `ahead` places from the index.
    #[inline]
    pub(super) fn slot(&self, ahead: u32) -> usize {
        (self.own.wrapping_add(ahead) & self.mask) as usize
    }

    /// Moves the index by `count`, which must have been available, and publishes it to the other end.
    ///
    /// The store is a release, so that an end that sees the index also sees the work on the cells before it. It is the
    /// counterpart of the acquire in [`refresh`](Self::refresh).
    #[inline]
    pub(super) fn advance(&mut self, count: u32, own: &AtomicU32) {
        debug_assert!(count <= self.cached(), "the index must stay below the limit");
        self.own = self.own.wrapping_add(count);
        own.store(self.own, Ordering::Release);
    }
}

fn mask(capacity: u32) -> Result<u32, RingSizeError> {
    if capacity.is_power_of_two() { Ok(capacity - 1) } else { Err(RingSizeError { got: capacity }) }
}
