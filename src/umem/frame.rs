//! Defines the token of a frame that the application owns.

use std::marker::PhantomData;

/// Gives access to one frame's bytes. It is neither `Copy` nor `Clone`: its owner can only send, free or keep it, and
/// each only once. A `Frame` that is forgotten stays in [`FrameState::App`](super::FrameState::App), which the actor
/// detects by its frame counts.
///
/// A frame is used only once:
///
/// ```compile_fail,E0382
/// fn twice(umem: &mut oxide::umem::Umem, frame: oxide::umem::Frame) {
///     umem.give(frame);
///     umem.give(frame);
/// }
/// ```
///
/// A frame cannot be copied:
///
/// ```compile_fail,E0599
/// fn copy(frame: &oxide::umem::Frame) -> oxide::umem::Frame {
///     frame.clone()
/// }
/// ```
///
/// A frame cannot reach the UMEM of another actor, because it stays on its thread, and an actor's thread has one UMEM.
/// If a thread has several, as in a test, each call checks the frame's UMEM and panics:
///
/// ```compile_fail,E0277
/// fn to_another(frame: oxide::umem::Frame, other: std::sync::mpsc::Sender<oxide::umem::Frame>) {
///     std::thread::spawn(move || other.send(frame));
/// }
/// ```
///
/// Code outside this module cannot create one:
///
/// ```compile_fail,E0624
/// let frame = oxide::umem::Frame::new(0, 0, 256, 60);
/// ```
///
/// Its bytes cannot be read while they are written:
///
/// ```compile_fail,E0502
/// fn alias(umem: &oxide::umem::Umem, frame: &mut oxide::umem::Frame) {
///     let old = umem.bytes(frame);
///     let new = umem.bytes_mut(frame);
///     new[0] = old[1];
/// }
/// ```
///
/// Its bytes cannot be read after the frame or its UMEM is dropped:
///
/// ```compile_fail,E0505
/// fn outlived(umem: oxide::umem::Umem, frame: &oxide::umem::Frame) -> u8 {
///     let bytes = umem.bytes(frame);
///     drop(umem);
///     bytes[0]
/// }
/// ```
///
/// ```compile_fail,E0505
/// fn late(umem: &mut oxide::umem::Umem, frame: oxide::umem::Frame) -> u8 {
///     let bytes = umem.bytes(&frame);
///     drop(frame);
///     bytes[0]
/// }
/// ```
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a dropped frame is a leak: give it back or transmit it"]
pub struct Frame {
    umem: u32,
    index: u32,
    offset: u16,
    length: u16,
    /// Makes the type neither `Send` nor `Sync`.
    stays: PhantomData<*mut ()>,
}

impl Frame {
    /// Creates a token. Only `Umem` calls this, for a frame in `FrameState::App` without another token.
    #[inline]
    pub(super) fn new(umem: u32, index: u32, offset: u16, length: u16) -> Self {
        Self { umem, index, offset, length, stays: PhantomData }
    }

    #[inline]
    pub(super) fn umem(&self) -> u32 {
        self.umem
    }

    /// Returns the number of the frame within its UMEM.
    #[must_use]
    #[inline]
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Returns the start of the packet, in bytes from the start of the frame.
    #[must_use]
    #[inline]
    pub fn offset(&self) -> u16 {
        self.offset
    }

    /// Returns the length of the packet in bytes.
    #[must_use]
    #[inline]
    pub fn length(&self) -> u16 {
        self.length
    }

    #[inline]
    pub(super) fn set_start(&mut self, offset: u16, length: u16) {
        (self.offset, self.length) = (offset, length);
    }

    #[inline]
    pub(super) fn set_length(&mut self, length: u16) {
        self.length = length;
    }
}
