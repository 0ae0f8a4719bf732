//! The memory operations of a ring, in one place so that a model checker can stand in for them.

pub(super) use std::sync::atomic::{AtomicU32, Ordering, fence};

/// A slot: `std`'s cell, with the access closed in so that a checker can watch it. Transparent, so that
/// one can be laid over memory that the kernel mapped.
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
