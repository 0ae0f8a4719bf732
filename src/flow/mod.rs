//! Implements the flow table: fixed memory, a keyed hash, and the look-up of a whole batch at once.
//!
//! ```text
//!  key --hash--> first bucket   [tag slot | tag slot | ... 11 entries ... | spilled]   one cache line each
//!           \--> second bucket  (read only if the first has spilled)
//!                     |
//!                     v slot
//!  slots  [flow][flow][    ][flow] ...      free: stack of empty slots
//!              ^ the hand: visits some slots in each tick, in a circle, and removes idle flows
//! ```
//!
//! One queue's handler owns a [`FlowTable`]. [`FlowTable::new`] allocates all memory. The table can be passed to
//! the next handler. It has no clock: a flow that expires when idle stores a time stamp in its own cache line,
//! and [`FlowTable::advance`] receives a predicate for expired flows.
//!
//! A look-up of 64 keys runs in stages: it hashes all keys and prefetches the buckets, compares tags and prefetches the
//! flows, and compares keys. Each stage runs sixteen keys after the one before. So cache misses overlap with
//! comparisons, and the flows are in the cache when they are used.
//!
//! The cost of an insertion is bounded. It reads and writes two buckets. If both are full (one insertion in a thousand
//! into a full table), it tries once to move each of their entries to its other bucket.

#![forbid(unsafe_code)]

mod bucket;
mod search;
mod verify;

use bucket::Bucket;
pub use verify::Inconsistent;

pub use crate::simd::{FlowHash, FlowKey, FlowKeys};
use crate::umem::{advise_huge_pages, prefetch};

/// Sets the flows per bucket of a full table: six of eleven entries are in use, and one bucket in fifty has spilled.
const LOAD: usize = 6;

/// Gives a flow its key.
pub trait Keyed {
    /// Returns the key that identifies the flow. It must not change while the flow is in a table.
    fn key(&self) -> &FlowKey;
}

/// Holds flows of type `T`, at most a fixed number. The [module](self) describes it.
///
/// Each flow has a slot, a number below [`capacity`](Self::capacity), until it is [removed](Self::remove). If
/// `size_of::<Option<T>>()` is 64 bytes, a flow is one cache line.
pub struct FlowTable<T> {
    hash: FlowHash,
    buckets: Box<[Bucket]>,
    slots: Box<[Option<T>]>,
    free: Vec<u32>,
    /// Slot at which the next sweep for idle flows begins.
    hand: u32,
    /// Whether a change has begun and not ended. If so after a panic, the table must not be used.
    changing: bool,
}

/// Holds the two buckets of a key, and its tag.
#[derive(Clone, Copy)]
struct BucketPair {
    tag: u8,
    first: usize,
    second: usize,
}

impl<T: Keyed> FlowTable<T> {
    /// Creates an empty table for `capacity` flows and allocates all its memory. `hash` must have its own seed.
    #[must_use]
    pub fn new(capacity: u32, hash: FlowHash) -> Self {
        Self {
            hash,
            buckets: filled(buckets_for(capacity), || Bucket::EMPTY),
            slots: filled(capacity as usize, || None),
            free: (0..capacity).rev().collect(),
            hand: 0,
            changing: false,
        }
    }

    /// Returns the memory of a table for `capacity` flows, in bytes.
    #[must_use]
    pub fn bytes_for(capacity: u32) -> usize {
        buckets_for(capacity) * size_of::<Bucket>() + capacity as usize * (size_of::<Option<T>>() + size_of::<u32>())
    }

    /// Returns the number of flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Returns whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the number of slots, in use or not.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Returns the memory of the table in bytes, which never changes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.buckets) + size_of_val(&*self.slots) + self.free.capacity() * size_of::<u32>()
    }

    /// Returns the flow in `slot`.
    #[must_use]
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// Returns the flow in `slot` for changes to everything except its key.
    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    /// Prefetches a slot that will be read soon.
    #[inline]
    pub fn prefetch(&self, slot: u32) {
        // A prefetch of a slot that does not exist has no effect.
        prefetch(self.slots.as_ptr().wrapping_add(slot as usize));
    }

    /// Returns the slot of the flow with this key.
    #[must_use]
    #[inline]
    pub fn find(&self, key: &FlowKey) -> Option<u32> {
        self.find_at(self.place(self.hash.one(key)), key)
    }

    /// Returns the slot that [`insert`](Self::insert) will use, or `None` if the table is full.
    #[must_use]
    pub fn next_slot(&self) -> Option<u32> {
        self.free.last().copied()
    }

    /// Inserts a flow whose key is not in the table and returns its slot.
    ///
    /// # Errors
    /// Returns the flow if all slots are in use, or if both buckets of its key are full, which does not happen by
    /// chance.
    pub fn insert(&mut self, flow: T) -> Result<u32, T> {
        debug_assert!(self.find(flow.key()).is_none(), "{:?} is already in the table", flow.key());
        let Some(&slot) = self.free.last() else { return Err(flow) };
        self.changing = true;
        let place = self.place(self.hash.one(flow.key()));
        let entered = self.enter(place, slot)
            || self.make_room(place.first) && self.enter(place, slot)
            || self.make_room(place.second) && self.enter(place, slot);
        let outcome = if entered {
            self.free.pop();
            self.slots[slot as usize] = Some(flow);
            Ok(slot)
        } else {
            Err(flow)
        };
        self.changing = false;
        outcome
    }

    /// Removes and returns the flow in `slot`.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let place = self.place(self.hash.one(self.get(slot)?.key()));
        self.changing = true;
        self.leave(place, slot);
        let flow = self.slots.get_mut(slot as usize)?.take();
        self.free.push(slot);
        self.changing = false;
        flow
    }

    /// Moves the hand by at most `steps` slots and stops after the first flow for which `ended` returns true. Returns
    /// its slot and the remaining steps. The hand visits every slot once in [`capacity`](Self::capacity) steps.
    pub fn advance(&mut self, steps: usize, ended: impl Fn(&T) -> bool) -> Option<(u32, usize)> {
        let mut steps = steps.min(self.slots.len());
        while steps > 0 {
            steps -= 1;
            let at = self.hand;
            self.hand = if (at as usize) + 1 < self.slots.len() { at + 1 } else { 0 };
            if self.get(at).is_some_and(&ended) {
                return Some((at, steps));
            }
        }
        None
    }

    /// Iterates over every flow and its slot, from slot `from` on. A reader that shows some at a time continues
    /// after the last slot it saw.
    pub fn iter_from(&self, from: u32) -> impl Iterator<Item = (u32, &T)> {
        let slots = self.slots.iter().enumerate().skip(from as usize);
        slots.filter_map(|(slot, flow)| Some((slot as u32, flow.as_ref()?)))
    }

    /// Returns the two buckets and the tag of a hash.
    #[inline]
    fn place(&self, hash: u64) -> BucketPair {
        let first = self.first(hash);
        let second = spread(hash & 0xffff_ffff, self.buckets.len());
        let next = if first + 1 < self.buckets.len() { first + 1 } else { 0 };
        BucketPair { tag: hash as u8, first, second: if second == first { next } else { second } }
    }

    /// Returns the first bucket, selected by the upper half of the hash.
    #[inline(always)]
    fn first(&self, hash: u64) -> usize {
        spread(hash >> 32, self.buckets.len())
    }

    fn find_at(&self, BucketPair { tag, first, second }: BucketPair, key: &FlowKey) -> Option<u32> {
        let bucket = &self.buckets[first];
        let here = bucket.candidates(tag).find(|&slot| self.holds(slot, key));
        let there = || self.buckets[second].candidates(tag).find(|&slot| self.holds(slot, key));
        here.or_else(|| if bucket.spilled > 0 { there() } else { None })
    }

    #[inline]
    fn holds(&self, slot: u32, key: &FlowKey) -> bool {
        self.get(slot).is_some_and(|flow| flow.key() == key)
    }

    /// Adds an entry to the first bucket, or else to the second.
    fn enter(&mut self, BucketPair { tag, first, second }: BucketPair, slot: u32) -> bool {
        if self.buckets[first].add(tag, slot) {
            return true;
        }
        let entered = second != first && self.buckets[second].add(tag, slot);
        self.buckets[first].spilled += u32::from(entered);
        entered
    }

    fn leave(&mut self, BucketPair { tag, first, second }: BucketPair, slot: u32) {
        if !self.buckets[first].take(tag, slot) && self.buckets[second].take(tag, slot) {
            self.buckets[first].spilled -= 1;
        }
    }

    /// Moves one entry of a full bucket to its other bucket. Returns `false` if no other bucket has space.
    fn make_room(&mut self, full: usize) -> bool {
        let bucket = self.buckets[full];
        for (tag, slot) in bucket.entries() {
            let Some(flow) = self.get(slot) else { continue };
            let place = self.place(self.hash.one(flow.key()));
            let spills = place.first == full;
            let other = if spills { place.second } else { place.first };
            if other == full || !self.buckets[other].add(tag, slot) {
                continue;
            }
            self.buckets[full].take(tag, slot);
            let first = &mut self.buckets[place.first];
            first.spilled = if spills { first.spilled + 1 } else { first.spilled - 1 };
            return true;
        }
        false
    }
}

fn buckets_for(capacity: u32) -> usize {
    (capacity as usize).div_ceil(LOAD).max(1)
}

/// Allocates memory on huge pages if the kernel has them. A table of a million flows is read in random order and
/// would otherwise cost a page walk per line.
fn filled<T>(count: usize, value: impl FnMut() -> T) -> Box<[T]> {
    let mut memory = Vec::with_capacity(count);
    advise_huge_pages(memory.spare_capacity_mut());
    memory.resize_with(count, value);
    memory.into()
}

/// Maps 32 bits of a hash evenly to `count` positions by a multiplication.
#[inline(always)]
fn spread(half: u64, count: usize) -> usize {
    ((half * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests;
