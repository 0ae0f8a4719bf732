//! The two ends of an in-memory ring.

use std::mem::MaybeUninit;
use std::sync::Arc;

use super::cursor::{Cursor, RingSizeError};
use super::sync::{AtomicU32, Ordering, Slot, fence};

/// Set in the flags by a consumer that sleeps until it is woken (`XDP_RING_NEED_WAKEUP`,
/// include/uapi/linux/if_xdp.h).
const NEED_WAKEUP: u32 = 1;

/// Two lines of 64 bytes: CPUs prefetch lines in pairs, so that neighbours on one pair still disturb
/// each other.
#[derive(Debug)]
#[repr(align(128))]
struct Padded(AtomicU32);

#[derive(Debug)]
struct Shared<T> {
    producer: Padded,
    consumer: Padded,
    flags: Padded,
    slots: Box<[Slot<MaybeUninit<T>>]>,
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
        slots: (0..capacity).map(|_| Slot::new(MaybeUninit::uninit())).collect(),
    });
    Ok((Producer { shared: shared.clone(), cursor: producer }, Consumer { shared, cursor: consumer }))
}

/// The writing end. There is one for each ring: neither `Clone` nor `Sync`.
#[derive(Debug)]
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    cursor: Cursor,
}

// SAFETY: a producer touches only slots between the producer's index and consumer + capacity, and the
// ring's one consumer only those between consumer and producer (cursor.rs); the indices are handed
// over by release and acquire. So the thread that holds the producer is the only one at its slots,
// whichever thread it is. The values themselves are `Send`.
unsafe impl<T: Send> Send for Producer<T> {}

/// The reading end. There is one for each ring: neither `Clone` nor `Sync`.
#[derive(Debug)]
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    cursor: Cursor,
}

// SAFETY: as for `Producer`, with the two ends exchanged.
unsafe impl<T: Send> Send for Consumer<T> {}

impl<T: Copy> Producer<T> {
    /// Entries the ring holds when full.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Entries that the consumer has not released yet.
    #[must_use]
    pub fn waiting(&mut self) -> u32 {
        self.cursor.capacity() - self.cursor.refresh(&self.shared.consumer.0)
    }

    /// Up to `wanted` slots, fewer where the ring is fuller than that. Nothing is visible to the
    /// consumer before [`Reservation::commit`]; a reservation that is dropped has not happened.
    pub fn reserve(&mut self, wanted: u32) -> Reservation<'_, T> {
        let room = self.cursor.available(wanted, &self.shared.consumer.0);
        Reservation { producer: self, room, written: 0 }
    }

    /// Appends one entry and shows it to the consumer; `false`, and no change, if the ring is full.
    #[must_use]
    pub fn push(&mut self, entry: T) -> bool {
        let mut slot = self.reserve(1);
        slot.push(entry) && slot.commit() == 1
    }

    /// Whether the consumer sleeps until it is woken. Ask after a commit.
    #[must_use]
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        // Orders the commit before the look, as `Consumer::set_need_wakeup` orders its flag before
        // its next look at the ring: one of the two sees the other, so no entry lies unnoticed.
        fence(Ordering::SeqCst);
        self.shared.flags.0.load(Ordering::Relaxed) & NEED_WAKEUP != 0
    }
}

/// Slots of a ring that are being written.
#[derive(Debug)]
#[must_use = "nothing is sent without commit"]
pub struct Reservation<'a, T: Copy> {
    producer: &'a mut Producer<T>,
    room: u32,
    written: u32,
}

impl<T: Copy> Reservation<'_, T> {
    /// Slots still to be written, at most.
    #[must_use]
    pub fn room(&self) -> u32 {
        self.room - self.written
    }

    /// Writes the next slot; `false`, and no change, if there is no room.
    #[must_use]
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if self.written == self.room {
            return false;
        }
        let slot = &self.producer.shared.slots[self.producer.cursor.slot(self.written)];
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
        self.producer.cursor.advance(self.written, &self.producer.shared.producer.0);
        self.written
    }
}

impl<T: Copy> Consumer<T> {
    /// Entries the ring holds when full.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.cursor.capacity()
    }

    /// Entries that are there to be read.
    #[must_use]
    pub fn waiting(&mut self) -> u32 {
        self.cursor.refresh(&self.shared.producer.0)
    }

    /// Up to `wanted` entries, fewer where there are fewer. They stay on the ring until they are
    /// released.
    pub fn peek(&mut self, wanted: u32) -> Peeked<'_, T> {
        let count = self.cursor.available(wanted, &self.shared.producer.0);
        Peeked { consumer: self, count }
    }

    /// Takes the next entry.
    pub fn pop(&mut self) -> Option<T> {
        let next = self.peek(1);
        let entry = next.get(0)?;
        next.release(1);
        Some(entry)
    }

    /// Says whether the producer must wake this end after it has appended something.
    ///
    /// After raising it, look at the ring once more before sleeping: what was appended before the
    /// producer could see the flag comes without a wake.
    pub fn set_need_wakeup(&mut self, wanted: bool) {
        self.shared.flags.0.store(if wanted { NEED_WAKEUP } else { 0 }, Ordering::Relaxed);
        // Orders the flag before the next look at the ring; see `Producer::needs_wakeup`.
        fence(Ordering::SeqCst);
    }
}

/// Entries of a ring that are being read, oldest first.
#[derive(Debug)]
pub struct Peeked<'a, T: Copy> {
    consumer: &'a mut Consumer<T>,
    count: u32,
}

impl<T: Copy> Peeked<'_, T> {
    /// How many.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.count
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Entry `at`, the oldest being 0; `None` past the last.
    #[must_use]
    #[inline]
    pub fn get(&self, at: u32) -> Option<T> {
        if at >= self.count {
            return None;
        }
        let slot = &self.consumer.shared.slots[self.consumer.cursor.slot(at)];
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
        self.consumer.cursor.advance(count.min(self.count), &self.consumer.shared.consumer.0);
    }
}
