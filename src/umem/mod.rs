//! The packet memory of one queue actor: region, frames, pool, ledger.
//!
//! Owned by exactly one actor and never shared. A [`Frame`] is the only key to its bytes: it can
//! neither be copied nor made outside this room, so whoever has it owns the bytes. While the kernel
//! owns a frame there is no `Frame` value for it, only its [`FrameState`] in the ledger. A [`PortKey`] is the only right to
//! move frames between the two. The life of a frame is drawn in `docs/frame-life.md`.

mod batch;
mod frame;
mod layout;
mod ledger;
mod observe;
mod port_index;
mod port_key;
mod region;

pub use frame::Frame;
pub(crate) use layout::HELD_FRAMES;
pub use layout::{LayoutError, RingSizes, UmemLayout, XDP_HEADROOM};
pub use ledger::{BadDescriptor, FrameCounts, FrameState};
pub use observe::PagesSeen;
pub use port_index::{MAX_PORTS, PortIndex, PortList};
pub use port_key::{PortKey, PortTaken};
pub use region::prefetch;
pub use region::{HUGE_PAGE, PageKind, PageReport, Region, RegionError, choose_pages, with_node};
pub(crate) use region::{advise_huge_pages, dont_fork};

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use ledger::Ledger;

/// A region cut into frames, the stack of free ones, and the ledger over all of them.
#[derive(Debug)]
pub struct Umem {
    id: u32,
    region: Region,
    layout: UmemLayout,
    /// Last in, first out: the frame freed last is the one whose lines are still in the cache.
    free: Vec<u32>,
    ledger: Ledger,
    /// Ports that have a key, a bit each.
    keys: Arc<AtomicU8>,
    /// Ports that a kernel has, or had.
    kernel_ports: u8,
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
            keys: Arc::default(),
            kernel_ports: 0,
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

    /// Where the frames lie, as a port registers it with a kernel (XDP_UMEM_REG): address and bytes.
    #[must_use]
    pub fn span(&self) -> (u64, u64) {
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

/// The kernel's side of the ledger: what ports report, each with its key. An application never needs these.
///
/// Each of them panics if the key is another memory's: a defect in the port, never reachable by packets.
impl Umem {
    /// Free -> the fill ring of the port. The index of the frame to post, or `None` if all are in use.
    #[must_use]
    #[inline]
    pub fn post_fill(&mut self, key: &PortKey) -> Option<u32> {
        let port = self.port_of(key);
        let index = self.free.pop()?;
        self.ledger.moved(index, FrameState::Free, FrameState::Receive(port));
        Some(index)
    }

    /// The kernel put `length` bytes at `address` on the RX ring of the port.
    ///
    /// # Errors
    /// [`BadDescriptor`] if the address is not in a frame that was posted to this port's fill ring,
    /// or the packet would reach past its frame. The ledger is unchanged then.
    #[inline]
    pub fn received(&mut self, key: &PortKey, address: u64, length: u32) -> Result<Frame, BadDescriptor> {
        let port = self.port_of(key);
        let frame = self.accept(port, address, length)?;
        self.ledger.count(1, FrameState::Receive(port), FrameState::App);
        Ok(frame)
    }

    /// Application -> the TX ring of the port. Address and length for the descriptor.
    #[inline]
    pub fn post_transmit(&mut self, key: &PortKey, frame: Frame) -> (u64, u32) {
        let port = self.port_of(key);
        self.own(&frame);
        self.ledger.moved(frame.index(), FrameState::App, FrameState::Transmit(port));
        let address = self.layout.address(frame.index()) + usize::from(frame.offset());
        (address as u64, u32::from(frame.length()))
    }

    /// The kernel returned `address` on the completion ring of the port: the frame is free again.
    ///
    /// # Errors
    /// [`BadDescriptor`] if no frame of that address is with this port for sending; unchanged then.
    #[inline]
    pub fn completed(&mut self, key: &PortKey, address: u64) -> Result<(), BadDescriptor> {
        let port = self.port_of(key);
        self.release(port, address)?;
        self.ledger.count(1, FrameState::Transmit(port), FrameState::Free);
        Ok(())
    }

    /// Frames of `port` at the kernel: to receive into, and to be sent.
    #[must_use]
    pub fn at_port(&self, port: PortIndex) -> (u32, u32) {
        self.ledger.at_port(port)
    }

    /// Writes what a simulated kernel received to a frame that was posted to the fill ring of its port.
    ///
    /// # Errors
    /// [`BadDescriptor`], and no change, if the frame is not there, or the packet would not fit.
    pub fn kernel_write(&mut self, key: &PortKey, address: u64, packet: &[u8]) -> Result<(), BadDescriptor> {
        let port = self.simulated(key);
        let at = self.kernel_holds(FrameState::Receive(port), address, packet.len())?;
        // SAFETY: the range is inside one frame, by `kernel_holds`. The frame is in Place::Receive of a port that
        // no kernel ever had, so no `Frame` for it exists and no kernel writes to it; `self` is borrowed
        // mutably, so no other reference to the region lives.
        unsafe { self.region.slice_mut(at, packet.len()) }.copy_from_slice(packet);
        Ok(())
    }

    /// What a simulated kernel sends: `length` bytes of a frame that was posted to the TX ring of its port.
    ///
    /// # Errors
    /// [`BadDescriptor`] if the frame is not there, or the packet reaches past it.
    pub fn kernel_read(&self, key: &PortKey, address: u64, length: u32) -> Result<&[u8], BadDescriptor> {
        let port = self.simulated(key);
        let at = self.kernel_holds(FrameState::Transmit(port), address, length as usize)?;
        // SAFETY: the range is inside one frame, by `kernel_holds`. The frame is in Place::Transmit, so
        // no `Frame` for it exists, and nobody writes to it while `self` is borrowed.
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
