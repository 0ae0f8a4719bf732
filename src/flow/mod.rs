//! The flow table: fixed memory, keyed hash, look-up of a whole batch at once.
//!
//! ```text
//!  key --hash--> first bucket   [tag slot | tag slot | ... 11 entries ... | spilled]   one cache line each
//!           \--> second bucket  (read only if the first has spilled)
//!                     |
//!                     v slot
//!  slots  [flow][flow][    ][flow] ...      free: slots that hold nothing, last in, first out
//!              ^ the hand: goes round, some slots in each tick, and ends what is idle
//! ```
//!
//! One queue's handler owns a [`FlowTable`]. [`FlowTable::new`] allocates all memory. The table can be passed to
//! the next handler. It has no clock: a flow that expires when idle stores a time stamp in its own cache line,
//! and [`FlowTable::advance`] receives a predicate for expired flows.
//!
//! A look-up of 64 keys runs in stages: hash all keys and prefetch the buckets; compare tags and prefetch the flows;
//! compare keys. Each stage runs sixteen keys behind the one before, so that cache misses overlap with
//! comparisons and the flows are in the cache when they are used.
//!
//! Bounds: an insertion reads and writes two buckets, and if both are full (one in a thousand
//! when the table is) tries to move each of their entries to its other bucket, once.

#![forbid(unsafe_code)]

mod bucket;
mod search;
mod verify;

use bucket::Bucket;
pub use verify::Inconsistent;

pub use crate::simd::{FlowHash, FlowKey, FlowKeys};
use crate::umem::{advise_huge_pages, prefetch};

/// Flows for which there is a bucket, when the table is full: six of eleven entries are taken, and one bucket
/// in fifty has spilled.
const LOAD: usize = 6;

/// Something that is found by a key of its own.
pub trait Keyed {
    /// Returns the key that identifies the flow. It must not change while the flow is in a table.
    fn key(&self) -> &FlowKey;
}

/// Holds flows of type `T`, at most a fixed number. See the [module](self).
///
/// A flow lives in a slot, a number below [`capacity`](Self::capacity) that stays its own until it is
/// [removed](Self::remove). With `size_of::<Option<T>>()` at 64 bytes a flow is one cache line.
pub struct FlowTable<T> {
    hash: FlowHash,
    buckets: Box<[Bucket]>,
    slots: Box<[Option<T>]>,
    free: Vec<u32>,
    /// Slot at which the next sweep for idle flows begins.
    hand: u32,
    /// A change has begun and not ended: after a panic, the table is not to be trusted.
    changing: bool,
}

/// The two buckets of a key, and its tag.
#[derive(Clone, Copy)]
struct BucketPair {
    tag: u8,
    first: usize,
    second: usize,
}

impl<T: Keyed> FlowTable<T> {
    /// An empty table for `capacity` flows, all of whose memory is taken now. `hash` must have a seed
    /// of its own.
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

    /// Bytes of memory that a table for `capacity` flows takes.
    #[must_use]
    pub fn bytes_for(capacity: u32) -> usize {
        buckets_for(capacity) * size_of::<Bucket>() + capacity as usize * (size_of::<Option<T>>() + size_of::<u32>())
    }

    /// Flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Returns whether the table is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Slots, taken or not.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of memory; does not change.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        size_of_val(&*self.buckets) + size_of_val(&*self.slots) + self.free.capacity() * size_of::<u32>()
    }

    /// The flow in `slot`.
    #[must_use]
    #[inline]
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    /// The flow in `slot`, to change anything but its key.
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

    /// The slot of the flow with this key.
    #[must_use]
    #[inline]
    pub fn find(&self, key: &FlowKey) -> Option<u32> {
        self.find_at(self.place(self.hash.one(key)), key)
    }

    /// The slot that [`insert`](Self::insert) will use; `None` if the table is full.
    #[must_use]
    pub fn next_slot(&self) -> Option<u32> {
        self.free.last().copied()
    }

    /// Inserts a flow whose key is not in the table and returns its slot.
    ///
    /// # Errors
    /// Returns the flow itself if all slots are taken, or if both buckets of its key are full, which does not
    /// happen by chance.
    pub fn insert(&mut self, flow: T) -> Result<u32, T> {
        debug_assert!(self.find(flow.key()).is_none(), "{:?} is there already", flow.key());
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

    /// Takes out the flow in `slot`.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        let place = self.place(self.hash.one(self.get(slot)?.key()));
        self.changing = true;
        self.leave(place, slot);
        let flow = self.slots.get_mut(slot as usize)?.take();
        self.free.push(slot);
        self.changing = false;
        flow
    }

    /// Moves the hand on by at most `steps` slots, stopping behind the first flow that `ended` picks.
    /// Returns its slot and the steps that are left. The hand comes to every slot once in
    /// [`capacity`](Self::capacity) steps.
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

    /// Two buckets, and a tag.
    #[inline]
    fn place(&self, hash: u64) -> BucketPair {
        let first = self.first(hash);
        let second = spread(hash & 0xffff_ffff, self.buckets.len());
        let next = if first + 1 < self.buckets.len() { first + 1 } else { 0 };
        BucketPair { tag: hash as u8, first, second: if second == first { next } else { second } }
    }

    /// The first bucket, by the upper half of the hash.
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

    /// Moves one entry of a full bucket to its other bucket. Returns `false` if no other bucket has room.
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

/// 32 bits of a hash, spread evenly over `count` places by multiplication.
#[inline(always)]
fn spread(half: u64, count: usize) -> usize {
    ((half * count as u64) >> 32) as usize
}

#[cfg(test)]
mod tests;
