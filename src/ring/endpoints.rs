//! The two ends of a ring, over any memory that holds one.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::Arc;

use super::cursor::{Cursor, RingSizeError};
use super::sync::{AtomicU32, Ordering, RingCell, fence};

/// Set in the flags by a consumer that sleeps until it is woken (`XDP_RING_NEED_WAKEUP`,
/// include/uapi/linux/if_xdp.h).
const NEED_WAKEUP: u32 = 1;

/// Two lines of 64 bytes: CPUs prefetch lines in pairs, so that neighbours on one pair still disturb
/// each other.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(AtomicU32);

/// Gives access to the three words and the cells of one ring.
///
/// # Safety
/// The words and the slots are disjoint, stay where they are, and are valid as long as the value lives,
/// on whichever thread it is used. `slot` is valid for every place below the capacity that the ends on
/// this memory were made with.
pub unsafe trait RingMemory<T> {
    /// The producer's index.
    fn producer(&self) -> &AtomicU32;
    /// The consumer's index.
    fn consumer(&self) -> &AtomicU32;
    /// Flags by which the consumer requests a wakeup.
    fn flags(&self) -> &AtomicU32;
    /// Slot `at`.
    ///
    /// # Safety
    /// `at` must be below the ring's capacity.
    unsafe fn slot(&self, at: usize) -> &RingCell<MaybeUninit<T>>;
    /// Prefetches the cache line of slot `at`, for writing or for reading. Has no effect other than time
    /// for any `at`; does nothing unless the other end runs on another core.
    #[inline]
    fn prefetch(&self, _at: usize, _to_write: bool) {}
}

/// Bytes in a cache line.
const LINE: u32 = 64;

/// Returns how many entries of type `T` share a cache line.
const fn per_line<T>() -> u32 {
    let size = size_of::<T>() as u32;
    if size == 0 || size > LINE { 1 } else { LINE / size }
}

#[derive(Debug)]
struct Shared<T> {
    producer: Padded,
    consumer: Padded,
    flags: Padded,
    slots: Box<[RingCell<MaybeUninit<T>>]>,
}

/// Ordinary memory, shared by the two ends.
#[derive(Debug)]
pub struct InMemory<T>(Arc<Shared<T>>);

// SAFETY: fields of one allocation that the two ends keep alive by counting; a slice checks its bounds.
unsafe impl<T> RingMemory<T> for InMemory<T> {
    #[inline]
    fn producer(&self) -> &AtomicU32 {
        &self.0.producer.0
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        &self.0.consumer.0
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        &self.0.flags.0
    }

    #[inline]
    unsafe fn slot(&self, at: usize) -> &RingCell<MaybeUninit<T>> {
        &self.0.slots[at]
    }
}

/// An empty ring of `capacity` entries, both indices at `start`. The kernel starts at zero; tests
/// start anywhere, so that the wrap at 2^32 is always near.
///
/// # Errors
/// [`RingSizeError`] if `capacity` is not a power of two.
pub fn pair<T: Copy>(capacity: u32, start: u32) -> Result<(Producer<T>, Consumer<T>), RingSizeError> {
    let (producer, consumer) = (Cursor::producer(capacity, start)?, Cursor::consumer(capacity, start)?);
    let shared = Arc::new(Shared {
        producer: Padded(AtomicU32::new(start)),
        consumer: Padded(AtomicU32::new(start)),
        flags: Padded(AtomicU32::new(0)),
        slots: (0..capacity).map(|_| RingCell::new(MaybeUninit::uninit())).collect(),
    });
    let memory = InMemory(Arc::clone(&shared));
    Ok((Producer::over(memory, producer), Consumer::over(InMemory(shared), consumer)))
}

/// The writing end. There is one for each ring: neither `Clone` nor `Sync`.
#[derive(Debug)]
pub struct Producer<T, M = InMemory<T>> {
    memory: M,
    cursor: Cursor,
    /// Something was committed since the last look at the consumer's flag.
    committed: bool,
    entries: PhantomData<*const T>,
}

// SAFETY: a producer touches only slots between the producer's index and consumer + capacity, and the
// ring's one consumer only those between consumer and producer (cursor.rs); the indices are handed
// over by release and acquire. So the thread that holds the producer is the only one at its slots,
// whichever thread it is; the memory may be used on any (`RingMemory`). The values themselves are `Send`.
unsafe impl<T: Send, M: RingMemory<T>> Send for Producer<T, M> {}

/// The reading end. There is one for each ring: neither `Clone` nor `Sync`.
#[derive(Debug)]
pub struct Consumer<T, M = InMemory<T>> {
    memory: M,
    cursor: Cursor,
    entries: PhantomData<*const T>,
}

// SAFETY: as for `Producer`, with the two ends exchanged.
unsafe impl<T: Send, M: RingMemory<T>> Send for Consumer<T, M> {}

impl<T, M> Producer<T, M> {
    /// The cursor must be the ring's only producer's, and its capacity that of the memory.
    pub(super) fn over(memory: M, cursor: Cursor) -> Self {
        Self { memory, cursor, committed: false, entries: PhantomData }
    }
}

impl<T, M> Consumer<T, M> {
    /// The cursor must be the ring's only consumer's, and its capacity that of the memory.
    pub(super) fn over(memory: M, cursor: Cursor) -> Self {
        Self { memory, cursor, entries: PhantomData }
    }
}

impl<T: Copy, M: RingMemory<T>> Producer<T, M> {
    /// Entries the ring holds when full.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Entries that the consumer has not released yet.
    #[must_use]
    pub fn waiting(&mut self) -> u32 {
        self.cursor.capacity() - self.cursor.refresh(self.memory.consumer())
    }

    /// Up to `wanted` slots, fewer where the ring is fuller than that. Nothing is visible to the
    /// consumer before [`Reservation::commit`]; a reservation that is dropped has not happened.
    pub fn reserve(&mut self, wanted: u32) -> Reservation<'_, T, M> {
        let room = self.cursor.available(wanted, self.memory.consumer());
        Reservation { producer: self, room, written: 0 }
    }

    /// Appends one entry and shows it to the consumer; `false`, and no change, if the ring is full.
    #[must_use]
    pub fn push(&mut self, entry: T) -> bool {
        let mut slot = self.reserve(1);
        slot.push(entry) && slot.commit() == 1
    }

    /// Prefetches the lines of the next `count` slots, which the consumer's core holds.
    #[inline]
    pub fn prefetch(&self, count: u32) {
        for ahead in (0..count).step_by(per_line::<T>() as usize) {
            self.memory.prefetch(self.cursor.slot(ahead), true);
        }
    }

    /// Returns whether the consumer sleeps until it is woken. Call it after a commit.
    #[must_use]
    #[inline]
    pub fn needs_wakeup(&mut self) -> bool {
        // Orders the commit before the look, as `Consumer::set_need_wakeup` orders its flag before
        // its next look at the ring: one of the two sees the other, so no entry lies unnoticed. One
        // fence does for all looks until the next commit.
        if std::mem::take(&mut self.committed) {
            fence(Ordering::SeqCst);
        }
        self.memory.flags().load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// Slots of a ring that are being written.
#[derive(Debug)]
#[must_use = "nothing is sent without commit"]
pub struct Reservation<'a, T, M = InMemory<T>> {
    producer: &'a mut Producer<T, M>,
    room: u32,
    written: u32,
}

impl<T: Copy, M: RingMemory<T>> Reservation<'_, T, M> {
    /// Slots still to be written, at most.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.room - self.written
    }

    /// Writes the next slot. Returns `false` without change if the ring is full.
    #[must_use]
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if self.written == self.room {
            return false;
        }
        // SAFETY: a cursor's places are below its capacity, which is that of the memory.
        let slot = unsafe { self.producer.memory.slot(self.producer.cursor.slot(self.written)) };
        slot.with_mut(|at| {
            // SAFETY: `at` points into a live slot. written < room, and `room` slots from the producer's
            // index on are ours by `Cursor::available`: the consumer has released them (acquire) and
            // reads none of them before `commit` moves the index.
            unsafe { at.write(MaybeUninit::new(entry)) }
        });
        self.written += 1;
        true
    }

    /// Shows what was written to the consumer, gives the rest back. Returns how many were written.
    pub fn commit(self) -> u32 {
        if self.written > 0 {
            self.producer.cursor.advance(self.written, self.producer.memory.producer());
            self.producer.committed = true;
        }
        self.written
    }
}

impl<T: Copy, M: RingMemory<T>> Consumer<T, M> {
    /// Entries the ring holds when full.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Entries that are there to be read.
    #[must_use]
    pub fn waiting(&mut self) -> u32 {
        self.cursor.refresh(self.memory.producer())
    }

    /// Up to `wanted` entries, fewer where there are fewer. They stay on the ring until they are
    /// released.
    pub fn peek(&mut self, wanted: u32) -> Peeked<'_, T, M> {
        let count = self.cursor.available(wanted, self.memory.producer());
        Peeked { consumer: self, count }
    }

    /// Takes the next entry.
    pub fn pop(&mut self) -> Option<T> {
        let next = self.peek(1);
        let entry = next.get(0)?;
        next.release(1);
        Some(entry)
    }

    /// Sets whether the producer must wake this end after it has appended something.
    ///
    /// After setting it, read the ring once more before sleeping: entries that were appended before the
    /// producer saw the flag cause no wakeup.
    pub fn set_need_wakeup(&mut self, wanted: bool) {
        self.memory.flags().store(if wanted { NEED_WAKEUP } else { 0 }, Ordering::Relaxed);
        // Orders the flag before the next look at the ring; see `Producer::needs_wakeup`.
        fence(Ordering::SeqCst);
    }
}

/// Entries of a ring that are being read, oldest first.
#[derive(Debug)]
pub struct Peeked<'a, T, M = InMemory<T>> {
    consumer: &'a mut Consumer<T, M>,
    count: u32,
}

impl<T: Copy, M: RingMemory<T>> Peeked<'_, T, M> {
    /// Returns the number of entries.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Returns whether there are no entries.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Prefetches the lines of all entries at once, which the producer's core holds.
    #[inline]
    pub fn prefetch(&self) {
        for at in (0..self.count).step_by(per_line::<T>() as usize) {
            self.consumer.memory.prefetch(self.consumer.cursor.slot(at), false);
        }
    }

    /// Entry `at`, the oldest being 0; `None` past the last.
    #[must_use]
    #[inline]
    pub fn get(&self, at: u32) -> Option<T> {
        if at >= self.count {
            return None;
        }
        // SAFETY: a cursor's places are below its capacity, which is that of the memory.
        let slot = unsafe { self.consumer.memory.slot(self.consumer.cursor.slot(at)) };
        // SAFETY: `at` points into a live slot. at < count, and the producer writes none of the `count`
        // slots from the consumer's index on before `release` moves that index.
        let entry = slot.with(|at| unsafe { at.read() });
        // SAFETY: those slots were written before the producer moved its index past them (release, and
        // acquire in `Cursor::refresh`). T is Copy: reading leaves the slot as it is.
        Some(unsafe { entry.assume_init() })
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        (0..self.count).filter_map(|at| self.get(at))
    }

    /// Gives the slots of the oldest `count` entries back to the producer; the rest stays on the ring.
    pub fn release(self, count: u32) {
        let count = count.min(self.count);
        if count > 0 {
            self.consumer.cursor.advance(count, self.consumer.memory.consumer());
        }
    }
}
