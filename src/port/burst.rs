//! Holds a batch of frames in hand.

use std::ops::{Deref, DerefMut};

use arrayvec::ArrayVec;

use crate::packet::LANES;
use crate::umem::Frame;

/// Holds up to [`LANES`] frames in order.
///
/// Dropping a burst with frames in it leaks them: give them back or transmit them first.
#[derive(Debug, Default)]
pub struct Burst(ArrayVec<Frame, LANES>);

impl Burst {
    /// Returns an empty burst.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the number of frames that still fit.
    #[must_use]
    pub fn room(&self) -> usize {
        self.0.remaining_capacity()
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// Returns the frame if the burst is full.
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        self.0.try_push(frame).map_err(|full| full.element())
    }

    /// Removes and returns the last frame.
    pub fn pop(&mut self) -> Option<Frame> {
        self.0.pop()
    }

    /// Removes and returns the first `n` frames in order. The remaining frames move to the front.
    pub fn drain_front(&mut self, n: usize) -> impl Iterator<Item = Frame> + '_ {
        self.0.drain(..n.min(self.0.len()))
    }

    /// Removes and returns all frames in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Frame> + '_ {
        self.0.drain(..)
    }
}

impl Deref for Burst {
    type Target = [Frame];

    fn deref(&self) -> &[Frame] {
        &self.0
    }
}

impl DerefMut for Burst {
    fn deref_mut(&mut self) -> &mut [Frame] {
        &mut self.0
    }
}
