//! Uses rings in memory that the kernel laid out, or a test.

use std::any::Any;
use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use super::cursor::{Cursor, RingSizeError};
use super::endpoints::{Consumer, Producer, RingMemory};
use super::sync::{AtomicU32, Ordering, RingCell};

/// Holds the offsets of a ring's parts in bytes from the start of its memory (`struct xdp_ring_offset`,
/// include/uapi/linux/if_xdp.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingOffsets {
    /// Offset of the producer's index, a `u32`.
    pub producer: usize,
    /// Offset of the consumer's index, a `u32`.
    pub consumer: usize,
    /// Offset of the flags, a `u32`.
    pub flags: usize,
    /// Offset of the first cell.
    pub slots: usize,
}

/// Holds one ring in foreign memory, from which one of its ends is created.
#[derive(Debug)]
pub struct Mapped<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<RingCell<MaybeUninit<T>>>,
    /// Keeps the memory valid.
    _memory: Arc<dyn Any + Send + Sync>,
}

// SAFETY: by the contract of `Mapped::new`, the four places are valid and disjoint as long as `_memory` exists, which
// is as long as this value. Mapped memory is valid for all threads of the process.
unsafe impl<T> RingMemory<T> for Mapped<T> {
    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: valid and aligned by the contract of `new`; all access to the word is atomic.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: the argument for the producer's index holds.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn flags(&self) -> &AtomicU32 {
        // SAFETY: the argument for the producer's index holds.
        unsafe { self.flags.as_ref() }
    }

    #[inline]
    unsafe fn slot(&self, at: usize) -> &RingCell<MaybeUninit<T>> {
        // SAFETY: `at` is below the capacity by the caller's contract, and that number of cells exists by the contract
        // of `new`.
        let slot = unsafe { self.slots.add(at) };
        // SAFETY: the position is valid as above. The type is a cell, so a reference to it does not restrict writers.
        unsafe { slot.as_ref() }
    }

    #[inline]
    fn prefetch(&self, at: usize, to_write: bool) {
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let slot = self.slots.as_ptr().wrapping_add(at);
            if to_write {
                // `_MM_HINT_ET0` does not suffice. Without the target feature `prfchw` it becomes a prefetch for
                // reading, after which the first write needs a second transfer from the other core. SAFETY: PREFETCHW
                // of any address is a hint that never faults and changes no memory. CPUs without it treat it as a
                // no-operation.
                unsafe { std::arch::asm!("prefetchw [{}]", in(reg) slot, options(nostack, preserves_flags, readonly)) };
            } else {
                // SAFETY: the prefetch is a hint as above; SSE is part of x86-64.
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
    /// While `memory` exists, the three words and the cells of the capacity are readable, writable, aligned and
    /// disjoint after `start`. Any bits are a valid `T`. This process creates at most one producer and one consumer of
    /// the ring. The owner of the other end follows the protocol of `cursor.rs`.
    #[must_use]
    pub unsafe fn new(start: NonNull<u8>, at: &RingOffsets, memory: Arc<dyn Any + Send + Sync>) -> Self {
        // SAFETY: the offset is inside the caller's memory.
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
    /// Returns [`RingSizeError`] if `capacity` is not a power of two.
    pub fn producer(self, capacity: u32) -> Result<Producer<T, Self>, RingSizeError> {
        let mut cursor = Cursor::producer(capacity, RingMemory::producer(&self).load(Ordering::Relaxed))?;
        cursor.refresh(RingMemory::consumer(&self));
        Ok(Producer::over(self, cursor))
    }

    /// Creates the consumer; it continues at the current indices.
    ///
    /// # Errors
    /// Returns [`RingSizeError`] if `capacity` is not a power of two.
    pub fn consumer(self, capacity: u32) -> Result<Consumer<T, Self>, RingSizeError> {
        let mut cursor = Cursor::consumer(capacity, RingMemory::consumer(&self).load(Ordering::Relaxed))?;
        cursor.refresh(RingMemory::producer(&self));
        Ok(Consumer::over(self, cursor))
    }
}
