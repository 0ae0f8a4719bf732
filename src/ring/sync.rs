//! Contains the memory operations of a ring, in one place so that a model checker can replace them.

pub(super) use std::sync::atomic::{AtomicU32, Ordering, fence};

/// Holds one cell: `std`'s cell with closed access, so that a model checker can observe it. It is transparent, so that
/// it can be placed over memory that the kernel mapped.
#[derive(Debug)]
#[repr(transparent)]
pub struct RingCell<T>(std::cell::UnsafeCell<T>);

impl<T> RingCell<T> {
    pub(super) fn new(value: T) -> Self {
        Self(std::cell::UnsafeCell::new(value))
    }

    #[inline]
    pub(super) fn with<R>(&self, f: impl FnOnce(*const T) -> R) -> R {
        f(self.0.get())
    }

    #[inline]
    pub(super) fn with_mut<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.0.get())
    }
}
