//! The packet memory of one queue actor: region, frames, pool, ledger.
//!
//! Owned by exactly one actor and never shared. A [`Frame`] is the only key to its bytes: it can
//! neither be copied nor made outside this room, so whoever has it owns the bytes. While the kernel
//! owns a frame there is no `Frame` value for it, only its [`FrameState`] in the ledger. The life of a
//! frame is drawn in `docs/frame-life.md`.

mod batch;
mod frame;
mod layout;
mod ledger;
mod observe;
mod port_index;
mod region;

pub use frame::Frame;
pub(crate) use layout::HELD_FRAMES;
pub use layout::{LayoutError, RingSizes, UmemLayout, XDP_HEADROOM};
pub use ledger::{BadDescriptor, FrameCounts, FrameState, Ledger};
pub use observe::PagesSeen;
pub use port_index::{MAX_PORTS, PortIndex, PortList};
pub(crate) use region::advise_huge_pages;
pub use region::prefetch;
pub use region::{HUGE_PAGE, PageKind, PageReport, Region, RegionError, choose_pages, dont_fork, with_node};

use std::sync::atomic::{AtomicU32, Ordering};

/// A region cut into frames, the stack of free ones, and the ledger over all of them.
#[derive(Debug)]
pub struct Umem {
    id: u32,
    region: Region,
    layout: UmemLayout,
    /// Last in, first out: the frame freed last is the one whose lines are still in the cache.
    free: Vec<u32>,
    ledger: Ledger,
}

impl Umem {
    /// Cuts `region` into frames; all of them start free.
    ///
    /// # Errors
    /// [`LayoutError::RegionTooSmall`] if the region does not hold the layout's frames.
    pub fn new(region: Region, layout: UmemLayout) -> Result<Self, LayoutError> {
        if region.len() < layout.bytes() {
            return Err(LayoutError::RegionTooSmall { wanted: layout.bytes(), got: region.len() });
        }
        static NEXT_ID: AtomicU32 = AtomicU32::new(0);
        Ok(Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            region,
            layout,
            free: (0..layout.frame_count()).rev().collect(),
            ledger: Ledger::new(layout.frame_count()),
        })
    }

    /// Sizes this memory was cut by.
    #[must_use]
    pub fn layout(&self) -> &UmemLayout {
        &self.layout
    }

    /// What pages the region got, and why.
    #[must_use]
    pub fn pages(&self) -> &PageReport {
        self.region.pages()
    }

    /// What pages the kernel says are there.
    #[must_use]
    pub fn pages_seen(&self) -> PagesSeen {
        self.region.seen()
    }

    /// Where the frames lie, for XDP_UMEM_REG: address and bytes.
    pub(crate) fn span(&self) -> (u64, u64) {
        (self.region.address(), self.layout.bytes() as u64)
    }

    /// Where all frames are now.
    #[must_use]
    pub fn census(&self) -> FrameCounts {
        self.ledger.census()
    }

    /// Takes a free frame for the application; its length is zero, its start behind the headroom.
    #[must_use]
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        self.ledger.moved(index, FrameState::Free, FrameState::App);
        Some(Frame::new(self.id, index, self.layout.data_offset(), 0))
    }

    /// Takes a frame back from the application.
    ///
    /// # Panics
    /// If the frame belongs to another memory: a defect in this crate, never reachable by packets.
    pub fn give(&mut self, frame: Frame) {
        self.own(&frame);
        self.ledger.moved(frame.index(), FrameState::App, FrameState::Free);
        self.free.push(frame.index());
    }

    /// The packet in `frame`.
    #[must_use]
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.own(frame);
        let at = self.layout.address(frame.index()) + usize::from(frame.offset());
        // SAFETY: `Frame`s are made only by `take` and `received`, for a frame in Place::App, with
        // offset + length checked against the frame size there, in `set_length` and in `move_start`; so
        // the range is inside the region. The kernel does not write frames in Place::App, and no other `Frame`
        // value exists for this index, so nobody writes while `frame` is borrowed.
        unsafe { self.region.slice(at, usize::from(frame.length())) }
    }

    /// The packet in `frame`, to write to.
    #[must_use]
    #[inline]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.own(frame);
        let at = self.layout.address(frame.index()) + usize::from(frame.offset());
        // SAFETY: as in `bytes`; and `frame` is borrowed mutably and is the only value for its
        // index, so this is the only reference to the range.
        unsafe { self.region.slice_mut(at, usize::from(frame.length())) }
    }

    /// The first 64 bytes from the start of the packet; what lies beyond its length is stale.
    #[must_use]
    #[inline]
    pub fn header_bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8; 64] {
        self.own(frame);
        let at = self.layout.address(frame.index()) + usize::from(frame.offset());
        // SAFETY: a frame's offset + 64 is always within the frame (data_offset by the layout's check,
        // `received` and `move_start` by their own), so 64 bytes lie inside the region; aliasing as in
        // `bytes`.
        let head = unsafe { self.region.slice(at, 64) };
        // The slice is 64 long by the call above; the static stands in for an impossible mismatch.
        head.first_chunk().unwrap_or(&[0; 64])
    }

    /// As [`header_bytes`](Self::header_bytes), to write to. What is written beyond the packet's length is nobody's.
    #[must_use]
    #[inline(always)]
    pub fn header_bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8; 64] {
        self.own(frame);
        let at = self.layout.address(frame.index()) + usize::from(frame.offset());
        // SAFETY: 64 bytes from the packet's start lie within the frame, as in `header_bytes`; and `frame` is borrowed
        // mutably and is the only value for its index, so this is the only reference to the range.
        let head = unsafe { self.region.slice_mut(at, 64) };
        // SAFETY: the slice is 64 bytes long by the call above, and an array of bytes has its alignment.
        unsafe { &mut *head.as_mut_ptr().cast() }
    }

    /// Asks the cache for the head of `frame`. No effect but time.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        self.region.prefetch(self.layout.address(frame.index()) + usize::from(frame.offset()));
    }

    /// Moves the start of the packet by `by` bytes, its end staying where it is: towards the front to make
    /// room for a header, whose bytes are stale until they are written; towards the end to take one off.
    /// `false`, and no change, if it would leave the frame or the packet.
    #[must_use]
    #[inline]
    pub fn move_start(&self, frame: &mut Frame, by: i16) -> bool {
        let offset = i32::from(frame.offset()) + i32::from(by);
        let length = i32::from(frame.length()) - i32::from(by);
        // 64: what `header_bytes` reads, whatever the packet's length. A frame has at most 4096 bytes.
        let fits = offset >= 0 && length >= 0 && offset + 64 <= self.layout.frame_size() as i32;
        if fits {
            frame.set_start(offset as u16, length as u16);
        }
        fits
    }

    /// Sets the packet's length, bytes from its start; `false`, and no change, if it would not fit.
    #[must_use]
    #[inline(always)]
    pub fn set_length(&self, frame: &mut Frame, length: u16) -> bool {
        let fits = u32::from(frame.offset()) + u32::from(length) <= self.layout.frame_size();
        if fits {
            frame.set_length(length);
        }
        fits
    }

    #[inline]
    fn own(&self, frame: &Frame) {
        assert!(frame.umem() == self.id, "frame of another UMEM");
    }
}

/// The kernel's side of the ledger: what ports report. Ports are in this crate; an application never
/// needs these.
impl Umem {
    /// Free -> the fill ring of `port`. The index of the frame to post, or `None` if all are in use.
    #[must_use]
    #[inline]
    pub fn post_fill(&mut self, port: PortIndex) -> Option<u32> {
        let index = self.free.pop()?;
        self.ledger.moved(index, FrameState::Free, FrameState::Receive(port));
        Some(index)
    }

    /// The kernel put `length` bytes at `address` on the RX ring of `port`.
    ///
    /// # Errors
    /// [`BadDescriptor`] if the address is not in a frame that was posted to this port's fill ring,
    /// or the packet would reach past its frame. The ledger is unchanged then.
    #[inline]
    pub fn received(&mut self, port: PortIndex, address: u64, length: u32) -> Result<Frame, BadDescriptor> {
        let frame = self.accept(port, address, length)?;
        self.ledger.count(1, FrameState::Receive(port), FrameState::App);
        Ok(frame)
    }

    /// Application -> the TX ring of `port`. Address and length for the descriptor.
    #[inline]
    pub fn post_transmit(&mut self, port: PortIndex, frame: Frame) -> (u64, u32) {
        self.own(&frame);
        self.ledger.moved(frame.index(), FrameState::App, FrameState::Transmit(port));
        let address = self.layout.address(frame.index()) + usize::from(frame.offset());
        (address as u64, u32::from(frame.length()))
    }

    /// The kernel returned `address` on the completion ring of `port`: the frame is free again.
    ///
    /// # Errors
    /// [`BadDescriptor`] if no frame of that address is with this port for sending; unchanged then.
    #[inline]
    pub fn completed(&mut self, port: PortIndex, address: u64) -> Result<(), BadDescriptor> {
        self.release(port, address)?;
        self.ledger.count(1, FrameState::Transmit(port), FrameState::Free);
        Ok(())
    }

    /// Every frame that `port` has at the kernel is free again. Only for a socket that the kernel cannot
    /// use any more, or never could: it was not bound. Returns how many were to be received into, and how
    /// many were to be sent.
    pub fn recall(&mut self, port: PortIndex) -> (u32, u32) {
        (
            self.move_all(FrameState::Receive(port), FrameState::Free),
            self.move_all(FrameState::Transmit(port), FrameState::Free),
        )
    }

    /// The socket of `port` is closed: what it had is neither ours nor anybody's, because the kernel takes
    /// a socket down late, some tens of milliseconds after it was closed, and works on its frames until
    /// then. Returns how many frames that are.
    pub fn write_off(&mut self, port: PortIndex) -> u32 {
        let off = FrameState::WrittenOff(port);
        self.move_all(FrameState::Receive(port), off) + self.move_all(FrameState::Transmit(port), off)
    }

    /// What was written off with an earlier socket of `port` is free again. Only when the queue could be
    /// bound anew, which proves that the earlier socket is gone (xp_assign_dev, net/xdp/xsk_buff_pool.c:
    /// EBUSY while the queue still has its pool). Returns how many frames that are.
    pub fn take_back(&mut self, port: PortIndex) -> u32 {
        self.move_all(FrameState::WrittenOff(port), FrameState::Free)
    }

    fn move_all(&mut self, from: FrameState, to: FrameState) -> u32 {
        let mut moved = 0;
        for index in 0..self.layout.frame_count() {
            if self.ledger.place(index) == from {
                self.ledger.moved(index, from, to);
                moved += 1;
                if to == FrameState::Free {
                    self.free.push(index);
                }
            }
        }
        moved
    }

    /// Frames of `port` at the kernel: to receive into, and to be sent.
    #[must_use]
    pub fn at_port(&self, port: PortIndex) -> (u32, u32) {
        self.ledger.at_port(port)
    }

    /// Writes what a simulated kernel received to a frame that was posted to the fill ring of `port`.
    ///
    /// # Errors
    /// [`BadDescriptor`], and no change, if the frame is not there, or the packet would not fit.
    pub(crate) fn kernel_write(&mut self, port: PortIndex, address: u64, packet: &[u8]) -> Result<(), BadDescriptor> {
        let at = self.kernel_holds(FrameState::Receive(port), address, packet.len())?;
        // SAFETY: the range is inside one frame, by `kernel_holds`. The frame is in Place::Receive, so
        // no `Frame` for it exists, and a real kernel is not in this process; `self` is borrowed
        // mutably, so no other reference to the region lives.
        unsafe { self.region.slice_mut(at, packet.len()) }.copy_from_slice(packet);
        Ok(())
    }

    /// What a simulated kernel sends: `length` bytes of a frame that was posted to the TX ring of `port`.
    ///
    /// # Errors
    /// [`BadDescriptor`] if the frame is not there, or the packet reaches past it.
    pub(crate) fn kernel_read(&self, port: PortIndex, address: u64, length: u32) -> Result<&[u8], BadDescriptor> {
        let at = self.kernel_holds(FrameState::Transmit(port), address, length as usize)?;
        // SAFETY: the range is inside one frame, by `kernel_holds`. The frame is in Place::Transmit, so
        // no `Frame` for it exists and nobody writes to it while `self` is borrowed.
        Ok(unsafe { self.region.slice(at, length as usize) })
    }

    /// Where `length` bytes at `address` lie within the region, if the frame is at `place`.
    fn kernel_holds(&self, place: FrameState, address: u64, length: usize) -> Result<usize, BadDescriptor> {
        let (index, offset) = self.locate(address)?;
        self.ledger.expect(index, place, address)?;
        if usize::from(offset) + length > self.layout.frame_size() as usize {
            return Err(BadDescriptor::PastFrame { address, length: length as u32 });
        }
        Ok(self.layout.address(index) + usize::from(offset))
    }

    /// Frame index and offset within the frame; `address` comes from the kernel and is not believed.
    #[inline]
    fn locate(&self, address: u64) -> Result<(u32, u16), BadDescriptor> {
        let (index, offset) = self.layout.locate(address);
        if index >= u64::from(self.layout.frame_count()) {
            return Err(BadDescriptor::OutOfRegion { address });
        }
        // index < frame_count, a u32.
        Ok((index as u32, offset))
    }
}

#[cfg(test)]
mod tests;
