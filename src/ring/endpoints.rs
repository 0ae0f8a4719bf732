//! Defines the two ends of a ring, over any memory that holds one.

use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::sync::Arc;

use super::cursor::{Cursor, RingSizeError};
use super::sync::{AtomicU32, Ordering, RingCell, fence};

/// Marks a consumer that sleeps until it is woken (`XDP_RING_NEED_WAKEUP`, include/uapi/linux/if_xdp.h).
const NEED_WAKEUP: u32 = 1;

/// Pads a word to two lines of 64 bytes. CPUs prefetch lines in pairs, so two words in one pair would disturb each
/// other.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(AtomicU32);

/// Gives access to the three index words and the cells of one ring.
///
/// # Safety
/// The words and the cells are disjoint, do not move, and are valid as long as the value exists, on any thread. `slot`
/// is valid for every position below the capacity with which the ends on this memory were created.
pub unsafe trait RingMemory<T> {
    /// Returns the producer's index.
    fn producer(&self) -> &AtomicU32;
    /// Returns the consumer's index.
    fn consumer(&self) -> &AtomicU32;
    /// Returns the flags by which the consumer requests a wakeup.
    fn flags(&self) -> &AtomicU32;
    /// Returns the cell at position `at`.
    ///
    /// # Safety
    /// `at` must be below the ring's capacity.
    unsafe fn slot(&self, at: usize) -> &RingCell<MaybeUninit<T>>;
    /// Prefetches the cache line of the cell at `at`, for writing or for reading. It affects only the time, for any
    /// `at`. It does nothing unless the other end runs on another core.
    #[inline]
    fn prefetch(&self, _at: usize, _to_write: bool) {}
}

/// Counts the bytes in a cache line.
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

/// Holds a ring in ordinary memory, shared by its two ends.
#[derive(Debug)]
pub struct InMemory<T>(Arc<Shared<T>>);

// SAFETY: these are fields of one allocation, which the two ends keep alive by reference counts. The slice checks
// bounds.
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

/// Creates an empty ring of `capacity` entries with both indices at `start`. The kernel starts at zero. Tests start
/// anywhere, so that the wrap at 2^32 is always tested.
///
/// # Errors
/// Returns [`RingSizeError`] if `capacity` is not a power of two.
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

/// Writes entries to a ring. Each ring has one producer: it is neither `Clone` nor `Sync`.
#[derive(Debug)]
pub struct Producer<T, M = InMemory<T>> {
    memory: M,
    cursor: Cursor,
    /// Whether entries were committed since the last check of the consumer's flag.
    committed: bool,
    entries: PhantomData<*const T>,
}

// SAFETY: a producer accesses only cells between the producer's index and consumer + capacity, and the ring's one
// consumer only those between consumer and producer (cursor.rs). The indices are passed by release and acquire. So only
// the thread that holds the producer accesses its cells, and any thread may use the memory (`RingMemory`). The values
// are `Send`.
unsafe impl<T: Send, M: RingMemory<T>> Send for Producer<T, M> {}

/// Reads entries from a ring. Each ring has one consumer: it is neither `Clone` nor `Sync`.
#[derive(Debug)]
pub struct Consumer<T, M = InMemory<T>> {
    memory: M,
    cursor: Cursor,
    entries: PhantomData<*const T>,
}

// SAFETY: the argument for `Producer` holds, with the two ends exchanged.
unsafe impl<T: Send, M: RingMemory<T>> Send for Consumer<T, M> {}

impl<T, M> Producer<T, M> {
    /// Creates a producer. The cursor must be the only producer cursor of the ring, with the capacity of the memory.
    pub(super) fn over(memory: M, cursor: Cursor) -> Self {
        Self { memory, cursor, committed: false, entries: PhantomData }
    }
}

impl<T, M> Consumer<T, M> {
    /// Creates a consumer. The cursor must be the only consumer cursor of the ring, with the capacity of the memory.
    pub(super) fn over(memory: M, cursor: Cursor) -> Self {
        Self { memory, cursor, entries: PhantomData }
    }
}

impl<T: Copy, M: RingMemory<T>> Producer<T, M> {
    /// Returns the number of entries of a full ring.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Returns the number of entries that the consumer has not released yet.
    #[must_use]
    pub fn waiting(&mut self) -> u32 {
        self.cursor.capacity() - self.cursor.refresh(self.memory.consumer())
    }

    /// Reserves up to `wanted` cells, or fewer if the ring has less space. The consumer sees nothing before
    /// [`Reservation::commit`]. A reservation that is dropped has no effect.
    pub fn reserve(&mut self, wanted: u32) -> Reservation<'_, T, M> {
        let room = self.cursor.available(wanted, self.memory.consumer());
        Reservation { producer: self, room, written: 0 }
    }

    /// Appends one entry and publishes it to the consumer. Returns `false` without change if the ring is full.
    #[must_use]
    pub fn push(&mut self, entry: T) -> bool {
        let mut slot = self.reserve(1);
        slot.push(entry) && slot.commit() == 1
    }

    /// Prefetches the lines of the next `count` cells, which are in the cache of the consumer's core.
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
        // The fence orders the commit before this check, as `Consumer::set_need_wakeup` orders its flag before its next
        // check of the ring. One of the two sees the other, so no entry is missed. One fence suffices for all checks
        // until the next commit.
        if std::mem::take(&mut self.committed) {
            fence(Ordering::SeqCst);
        }
        self.memory.flags().load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// Holds cells of a ring that are being written.
#[derive(Debug)]
#[must_use = "entries are not sent without commit"]
pub struct Reservation<'a, T, M = InMemory<T>> {
    producer: &'a mut Producer<T, M>,
    room: u32,
    written: u32,
}

impl<T: Copy, M: RingMemory<T>> Reservation<'_, T, M> {
    /// Returns the number of cells that can still be written.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.room - self.written
    }

    /// Writes the next cell. Returns `false` without change if the ring is full.
    #[must_use]
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if self.written == self.room {
            return false;
        }
        // SAFETY: a cursor's positions are below its capacity, which is that of the memory.
        let slot = unsafe { self.producer.memory.slot(self.producer.cursor.slot(self.written)) };
        slot.with_mut(|at| {
            // SAFETY: `at` points into a valid cell. written < room, and by `Cursor::available` this producer owns
            // `room` cells from its index on: the consumer has released them (acquire) and reads none of them before
            // `commit` moves the index.
            unsafe { at.write(MaybeUninit::new(entry)) }
        });
        self.written += 1;
        true
    }

    /// Publishes the written entries to the consumer, and releases the other cells. Returns the number of entries.
    pub fn commit(self) -> u32 {
        if self.written > 0 {
            self.producer.cursor.advance(self.written, self.producer.memory.producer());
            self.producer.committed = true;
        }
        self.written
    }
}

impl<T: Copy, M: RingMemory<T>> Consumer<T, M> {
    /// Returns the number of entries of a full ring.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Returns the number of entries that can be read.
    #[must_use]
    pub fn waiting(&mut self) -> u32 {
        self.cursor.refresh(self.memory.producer())
    }

    /// Returns up to `wanted` entries. They stay on the ring until they are released.
    pub fn peek(&mut self, wanted: u32) -> Peeked<'_, T, M> {
        let count = self.cursor.available(wanted, self.memory.producer());
        Peeked { consumer: self, count }
    }

    /// Removes and returns the next entry.
    pub fn pop(&mut self) -> Option<T> {
        let next = self.peek(1);
        let entry = next.get(0)?;
        next.release(1);
        Some(entry)
    }

    /// Sets whether the producer must wake this consumer after it has appended entries.
    ///
    /// After setting it, read the ring once more before sleeping: entries that were appended before the
    /// producer saw the flag cause no wakeup.
    pub fn set_need_wakeup(&mut self, wanted: bool) {
        self.memory.flags().store(if wanted { NEED_WAKEUP } else { 0 }, Ordering::Relaxed);
        // The fence orders the flag before the next check of the ring; `Producer::needs_wakeup` is its counterpart.
        fence(Ordering::SeqCst);
    }
}

/// Holds entries of a ring that are being read, oldest first.
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

    /// Prefetches the lines of all entries at once, which are in the cache of the producer's core.
    #[inline]
    pub fn prefetch(&self) {
        for at in (0..self.count).step_by(per_line::<T>() as usize) {
            self.consumer.memory.prefetch(self.consumer.cursor.slot(at), false);
        }
    }

    /// Returns entry `at`, where 0 is the oldest, or `None` after the last.
    #[must_use]
    #[inline]
    pub fn get(&self, at: u32) -> Option<T> {
        if at >= self.count {
            return None;
        }
        // SAFETY: a cursor's positions are below its capacity, which is that of the memory.
        let slot = unsafe { self.consumer.memory.slot(self.consumer.cursor.slot(at)) };
        // SAFETY: `at` points into a valid cell. at < count, and the producer writes none of the `count` cells from the
        // consumer's index on before `release` moves that index.
        let entry = slot.with(|at| unsafe { at.read() });
        // SAFETY: these cells were written before the producer moved its index past them (release, and acquire in
        // `Cursor::refresh`). T is Copy, so reading does not change the cell.
        Some(unsafe { entry.assume_init() })
    }

    /// Returns all entries, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        (0..self.count).filter_map(|at| self.get(at))
    }

    /// Returns the cells of the oldest `count` entries to the producer. The other entries stay on the ring.
    pub fn release(self, count: u32) {
        let count = count.min(self.count);
        if count > 0 {
            self.consumer.cursor.advance(count, self.consumer.memory.consumer());
        }
    }
}
