//! Rings in memory that the kernel laid out, or a test in its place.

use std::any::Any;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use super::cursor::{Cursor, RingSizeError};
use super::endpoints::{Consumer, Producer, RingMemory};
use super::sync::{AtomicU32, Ordering, RingCell};

/// Offsets of a ring's parts, bytes from the start of its memory (`struct xdp_ring_offset`,
/// include/uapi/linux/if_xdp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingOffsets {
    /// The producer's index, a `u32`.
    pub producer: usize,
    /// The consumer's index, a `u32`.
    pub consumer: usize,
    /// The flags, a `u32`.
    pub flags: usize,
    /// The first slot.
    pub slots: usize,
}

/// One ring in foreign memory, to be made into one of its ends.
#[derive(Debug)]
pub struct Mapped<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<RingCell<MaybeUninit<T>>>,
    /// Keeps the memory where it is.
    _memory: Arc<dyn Any + Send + Sync>,
}

// SAFETY: by the promise of `Mapped::new` the four places are valid and disjoint, and stay so as long as
// `_memory` lives, which is as long as this; memory that is mapped is so for all threads of the process.
unsafe impl<T> RingMemory<T> for Mapped<T> {
    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: valid and aligned by the promise of `new`; all access to the word is atomic.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as for the producer's index.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as for the producer's index.
        unsafe { self.flags.as_ref() }
    }

    #[inline]
    unsafe fn slot(&self, at: usize) -> &RingCell<MaybeUninit<T>> {
        // SAFETY: `at` is below the capacity by the caller's promise, and that many slots are there by
        // that of `new`.
        let slot = unsafe { self.slots.add(at) };
        // SAFETY: as above; a slot is a cell, so that a reference to it says nothing of who writes it.
        unsafe { slot.as_ref() }
    }

    #[inline]
    fn prefetch(&self, at: usize, to_write: bool) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let slot = self.slots.as_ptr().wrapping_add(at);
            if to_write {
                // Not `_MM_HINT_ET0`: without the target feature `prfchw` that becomes a prefetch to read, after which
                // the first write asks the other core once more.
                // SAFETY: PREFETCHW of any address is a hint that faults never and changes no memory; CPUs without it
                // take it for no operation.
                unsafe { std::arch::asm!("prefetchw [{}]", in(reg) slot, options(nostack, preserves_flags, readonly)) };
            } else {
                // SAFETY: as above; SSE is part of x86-64.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(slot.cast()) };
            }
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = (at, to_write);
    }
}

impl<T: Copy> Mapped<T> {
    /// Creates the ring at `start` with the offsets `at`.
    ///
    /// # Safety
    /// As long as `memory` lives, the three words and as many slots as the capacity of the end that is
    /// made of this lie readable, writable, aligned and disjoint behind `start`. Any bits are a `T`. This
    /// process makes at most one producer and one consumer of the ring, and whoever has the other end
    /// keeps to the protocol of `cursor.rs`.
    #[must_use]
    pub unsafe fn new(start: NonNull<u8>, at: &RingOffsets, memory: Arc<dyn Any + Send + Sync>) -> Self {
        // SAFETY: inside the caller's memory.
        let place = |offset| unsafe { start.add(offset) };
        Self {
            producer: place(at.producer).cast(),
            consumer: place(at.consumer).cast(),
            flags: place(at.flags).cast(),
            slots: place(at.slots).cast(),
            _memory: memory,
        }
    }

    /// Creates the producer; it continues at the current indices.
    ///
    /// # Errors
    /// [`RingSizeError`] if `capacity` is not a power of two.
    pub fn producer(self, capacity: u32) -> Result<Producer<T, Self>, RingSizeError> {
        let mut cursor = Cursor::producer(capacity, RingMemory::producer(&self).load(Ordering::Relaxed))?;
        cursor.refresh(RingMemory::consumer(&self));
        Ok(Producer::over(self, cursor))
    }

    /// Creates the consumer; it continues at the current indices.
    ///
    /// # Errors
    /// [`RingSizeError`] if `capacity` is not a power of two.
    pub fn consumer(self, capacity: u32) -> Result<Consumer<T, Self>, RingSizeError> {
        let mut cursor = Cursor::consumer(capacity, RingMemory::consumer(&self).load(Ordering::Relaxed))?;
        cursor.refresh(RingMemory::producer(&self));
        Ok(Consumer::over(self, cursor))
    }
}
