//! Owns the packet memory of one actor: region, frames, pool, ledger.
//!
//! Exactly one actor owns it, and it is never shared. A [`Frame`] is the only access to its bytes. It cannot be copied,
//! or created outside this module, so its holder owns the bytes. While the kernel owns a frame, there is no `Frame`
//! value for it, only its [`FrameState`] in the ledger. Only a [`PortKey`] permits moves between the two.
//! `docs/frame-life.md` shows the life of a frame.

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

/// Holds a region that is divided into frames, the stack of free frames, and the ledger.
#[derive(Debug)]
pub struct Umem {
    id: u32,
    region: Region,
    layout: UmemLayout,
    /// Free frames as a stack, because the frame freed last is most likely in the cache.
    free: Vec<u32>,
    ledger: Ledger,
    /// Ports that have a key, as a bit mask.
    keys: Arc<AtomicU8>,
    /// Ports that have or had a kernel, as a bit mask.
    kernel_ports: u8,
}

impl Umem {
    /// Divides `region` into frames, all free.
    ///
    /// # Errors
    /// Returns [`LayoutError::RegionTooSmall`] if the region does not hold the layout's frames.
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

    /// Returns the sizes of this memory.
    #[must_use]
    pub fn layout(&self) -> &UmemLayout {
        &self.layout
    }

    /// Returns the kind of pages of the region, with the reason.
    #[must_use]
    pub fn pages(&self) -> &PageReport {
        self.region.pages()
    }

    /// Returns the pages that the kernel reports.
    #[must_use]
    pub fn pages_seen(&self) -> PagesSeen {
        self.region.seen()
    }

    /// Returns address and size in bytes of the frames, as a port registers them with a kernel (XDP_UMEM_REG).
    #[must_use]
    pub fn span(&self) -> (u64, u64) {
        (self.region.address(), self.layout.bytes() as u64)
    }

    /// Returns the number of frames in each state.
    #[must_use]
    pub fn census(&self) -> FrameCounts {
        self.ledger.census()
    }

    /// Takes a free frame for the application. Its length is zero, and its start is after the headroom.
    #[must_use]
    pub fn take(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        self.ledger.moved(index, FrameState::Free, FrameState::App);
        Some(Frame::new(self.id, index, self.layout.data_offset(), 0))
    }

    /// Takes a frame back from the application.
    ///
    /// # Panics
    /// Panics if the frame belongs to another memory. That is a defect in this crate, which packets cannot trigger.
    pub fn give(&mut self, frame: Frame) {
        self.own(&frame);
        self.ledger.moved(frame.index(), FrameState::App, FrameState::Free);
        self.free.push(frame.index());
    }

    /// Returns the packet in `frame`.
    #[must_use]
    #[inline]
    pub fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.own(frame);
        let at = self.layout.address(frame.index()) + usize::from(frame.offset());
        // SAFETY: only `take` and `received` create `Frame`s, for a frame in FrameState::App. They, `set_length` and
        // `move_start` check offset + length against the frame size, so the range is inside the region. The kernel does
        // not write frames in FrameState::App, and no other `Frame` value exists for this index, so nothing writes
        // while `frame` is borrowed.
        unsafe { self.region.slice(at, usize::from(frame.length())) }
    }

    /// Returns the packet in `frame` for writing.
    #[must_use]
    #[inline]
    pub fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.own(frame);
        let at = self.layout.address(frame.index()) + usize::from(frame.offset());
        // SAFETY: the conditions of `bytes` hold. `frame` is also borrowed mutably and is the only value for its index,
        // so this is the only reference to the range.
        unsafe { self.region.slice_mut(at, usize::from(frame.length())) }
    }

    /// Returns the first 64 bytes from the start of the packet. Bytes beyond its length are stale.
    #[must_use]
    #[inline]
    pub fn header_bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8; 64] {
        self.own(frame);
        let at = self.layout.address(frame.index()) + usize::from(frame.offset());
        // SAFETY: a frame's offset + 64 is always within the frame (data_offset by the layout's check, `received` and
        // `move_start` by their own), so 64 bytes are inside the region. Aliasing is excluded as in `bytes`.
        let bytes = unsafe { self.region.slice(at, 64) };
        // The slice has 64 bytes by the call above, so the default is never used.
        bytes.first_chunk().unwrap_or(&[0; 64])
    }

    /// Returns the first 64 bytes like [`header_bytes`](Self::header_bytes), for writing. Bytes beyond the packet's
    /// length are not part of the packet.
    #[must_use]
    #[inline(always)]
    pub fn header_bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8; 64] {
        self.own(frame);
        let at = self.layout.address(frame.index()) + usize::from(frame.offset());
        // SAFETY: 64 bytes from the packet's start are within the frame, as in `header_bytes`. `frame` is borrowed
        // mutably and is the only value for its index, so this is the only reference to the range.
        let bytes = unsafe { self.region.slice_mut(at, 64) };
        // SAFETY: the slice is 64 bytes long by the call above, and an array of bytes has its alignment.
        unsafe { &mut *bytes.as_mut_ptr().cast() }
    }

    /// Prefetches the headers of `frame`. It affects only the time.
    #[inline]
    pub fn prefetch(&self, frame: &Frame) {
        self.region.prefetch(self.layout.address(frame.index()) + usize::from(frame.offset()));
    }

    /// Moves the start of the packet by `by` bytes; its end does not move. A negative value adds space for a header,
    /// whose bytes are stale until they are written. A positive value removes a header. Returns `false` and changes
    /// nothing if the start would leave the frame or the packet.
    #[must_use]
    #[inline]
    pub fn move_start(&self, frame: &mut Frame, by: i16) -> bool {
        let offset = i32::from(frame.offset()) + i32::from(by);
        let length = i32::from(frame.length()) - i32::from(by);
        // `header_bytes` reads 64 bytes, whatever the packet's length. A frame has at most 4096 bytes.
        let fits = offset >= 0 && length >= 0 && offset + 64 <= self.layout.frame_size() as i32;
        if fits {
            frame.set_start(offset as u16, length as u16);
        }
        fits
    }

    /// Sets the packet's length in bytes from its start. Returns `false` and changes nothing if it does not fit.
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

/// Implements the kernel side of the ledger, which ports use with their keys. An application never needs these methods.
///
/// Each method panics if the key belongs to another memory. That is a defect in the port, which packets cannot trigger.
impl Umem {
    /// Moves a free frame to the fill ring of the port. Returns its index, or `None` if no frame is free.
    #[must_use]
    #[inline]
    pub fn post_fill(&mut self, key: &PortKey) -> Option<u32> {
        let port = self.port_of(key);
        let index = self.free.pop()?;
        self.ledger.moved(index, FrameState::Free, FrameState::Receive(port));
        Some(index)
    }

    /// Takes a packet of `length` bytes at `address` that the kernel put on the RX ring of the port.
    ///
    /// # Errors
    /// Returns a [`BadDescriptor`] if the address is not in a frame that was posted to this port's fill ring, or if the
    /// packet exceeds its frame. The ledger does not change then.
    #[inline]
    pub fn received(&mut self, key: &PortKey, address: u64, length: u32) -> Result<Frame, BadDescriptor> {
        let port = self.port_of(key);
        let frame = self.accept(port, address, length)?;
        self.ledger.count(1, FrameState::Receive(port), FrameState::App);
        Ok(frame)
    }

    /// Moves a frame to the TX ring of the port. Returns address and length for the descriptor.
    #[inline]
    pub fn post_transmit(&mut self, key: &PortKey, frame: Frame) -> (u64, u32) {
        let port = self.port_of(key);
        self.own(&frame);
        self.ledger.moved(frame.index(), FrameState::App, FrameState::Transmit(port));
        let address = self.layout.address(frame.index()) + usize::from(frame.offset());
        (address as u64, u32::from(frame.length()))
    }

    /// Frees the frame at `address`, which the kernel returned on the completion ring of the port.
    ///
    /// # Errors
    /// Returns a [`BadDescriptor`] if this port sends no frame at that address. The ledger does not change then.
    #[inline]
    pub fn completed(&mut self, key: &PortKey, address: u64) -> Result<(), BadDescriptor> {
        let port = self.port_of(key);
        self.release(port, address)?;
        self.ledger.count(1, FrameState::Transmit(port), FrameState::Free);
        Ok(())
    }

    /// Counts the frames of `port` with the kernel: for reception, and for transmission.
    #[must_use]
    pub fn at_port(&self, port: PortIndex) -> (u32, u32) {
        self.ledger.at_port(port)
    }

    /// Writes a packet of a simulated kernel to a frame that was posted to the fill ring of its port.
    ///
    /// # Errors
    /// Returns a [`BadDescriptor`] and changes nothing if the frame is in another state or the packet does not fit.
    pub fn kernel_write(&mut self, key: &PortKey, address: u64, packet: &[u8]) -> Result<(), BadDescriptor> {
        let port = self.simulated(key);
        let at = self.kernel_holds(FrameState::Receive(port), address, packet.len())?;
        // SAFETY: the range is inside one frame, by `kernel_holds`. The frame is in FrameState::Receive of a port that
        // never had a kernel, so no `Frame` for it exists and no kernel writes to it. `self` is borrowed mutably, so no
        // other reference to the region exists.
        unsafe { self.region.slice_mut(at, packet.len()) }.copy_from_slice(packet);
        Ok(())
    }

    /// Returns the packet that a simulated kernel sends: `length` bytes of a frame on the TX ring of its port.
    ///
    /// # Errors
    /// Returns a [`BadDescriptor`] if the frame is in another state or the packet exceeds it.
    pub fn kernel_read(&self, key: &PortKey, address: u64, length: u32) -> Result<&[u8], BadDescriptor> {
        let port = self.simulated(key);
        let at = self.kernel_holds(FrameState::Transmit(port), address, length as usize)?;
        // SAFETY: the range is inside one frame, by `kernel_holds`. The frame is in FrameState::Transmit, so no `Frame`
        // for it exists, and nothing writes to it while `self` is borrowed.
        Ok(unsafe { self.region.slice(at, length as usize) })
    }

    /// Returns the position of `length` bytes at `address` within the region, if the frame is in state `place`.
    fn kernel_holds(&self, place: FrameState, address: u64, length: usize) -> Result<usize, BadDescriptor> {
        let (index, offset) = self.locate(address)?;
        self.ledger.expect(index, place, address)?;
        if usize::from(offset) + length > self.layout.frame_size() as usize {
            return Err(BadDescriptor::PastFrame { address, length: length as u32 });
        }
        Ok(self.layout.address(index) + usize::from(offset))
    }

    /// Returns frame index and offset within the frame. `address` comes from the kernel, so it is checked.
    #[inline]
    fn locate(&self, address: u64) -> Result<(u32, u16), BadDescriptor> {
        let (index, offset) = self.layout.locate(address);
        if index >= u64::from(self.layout.frame_count()) {
            return Err(BadDescriptor::OutOfRegion { address });
        }
        // The check above ensures index < frame_count, which is a u32.
        Ok((index as u32, offset))
    }
}

#[cfg(test)]
mod tests;
