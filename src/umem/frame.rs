//! The token of a frame that the application owns.

/// The right to one frame's bytes. Neither `Copy` nor `Clone`: sending it, freeing it or keeping it
/// are the only things that can be done, and each only once. A `Frame` that is forgotten stays in
/// [`Place::App`](super::Place::App) for ever, which the actor finds by its census.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a frame that is dropped on the floor is a leak: give it back or transmit it"]
pub struct Frame {
    umem: u32,
    index: u32,
    offset: u16,
    length: u16,
}

impl Frame {
    /// Only `Umem` calls this, and only for a frame in `Place::App` that has no other token.
    #[inline]
    pub(super) fn new(umem: u32, index: u32, offset: u16, length: u16) -> Self {
        Self { umem, index, offset, length }
    }

    #[inline]
    pub(super) fn umem(&self) -> u32 {
        self.umem
    }

    /// Number of the frame within its UMEM.
    #[must_use]
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Where the packet starts, bytes from the start of the frame.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// Length of the packet, bytes.
    #[must_use]
    #[inline]
    pub fn length(&self) -> u16 {
        self.length
    }

    #[inline]
    pub(super) fn set_length(&mut self, length: u16) {
        self.length = length;
    }
}
