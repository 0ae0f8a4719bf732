//! Defines the key of an open port, which permits its holder to move the port's frames.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{FrameState, PortIndex, Umem};

/// Lets its holder move frames of one [`Umem`] between the application and the rings of one port.
///
/// A port has one key at a time. Dropping it closes the port; the frames that it posted stay posted until
/// [`Umem::write_off`]. A port keeps its key private. Code without the key can neither take a frame from a kernel nor
/// give one to it.
///
/// A key cannot be copied, and only the memory creates one:
///
/// ```compile_fail,E0599
/// fn copy(key: &oxide::umem::PortKey) -> oxide::umem::PortKey {
///     key.clone()
/// }
/// ```
///
/// ```compile_fail,E0451
/// use oxide::umem::{PortIndex, PortKey};
/// let key = PortKey { umem: 0, port: PortIndex::P0, simulated: true, keys: Default::default() };
/// ```
///
/// A number does not replace a key:
///
/// ```compile_fail,E0308
/// fn steal(umem: &mut oxide::umem::Umem, address: u64) {
///     let _frame = umem.received(oxide::umem::PortIndex::P0, address, 60);
/// }
/// ```
///
/// A key for a port with a real kernel needs an `unsafe` block, in which the caller guarantees the kernel's behaviour:
///
/// ```compile_fail,E0133
/// fn pretend(umem: &mut oxide::umem::Umem) {
///     let _key = umem.kernel_port(oxide::umem::PortIndex::P0);
/// }
/// ```
#[derive(Debug)]
pub struct PortKey {
    umem: u32,
    port: PortIndex,
    simulated: bool,
    /// Ports that have a key, as a bit mask shared with the memory.
    keys: Arc<AtomicU8>,
}

impl PortKey {
    /// Returns the port that the key is for.
    #[must_use]
    #[inline]
    pub fn port(&self) -> PortIndex {
        self.port
    }
}

impl Drop for PortKey {
    fn drop(&mut self) {
        self.keys.fetch_and(!self.port.bit(), Ordering::Release);
    }
}

/// Reports that a port index is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortTaken {
    /// The port is open, so its key exists.
    #[error("port {0}: already open; expected a closed port; to fix: drop the earlier port first")]
    Open(PortIndex),
    /// A real kernel had the port, and may still use its frames.
    #[error("port {0}: used by a kernel socket before; expected an index of simulated ports; to fix: use another one")]
    Kernel(PortIndex),
}

impl Umem {
    /// Returns the key of a port without a kernel. Only [`kernel_read`](Self::kernel_read) and
    /// [`kernel_write`](Self::kernel_write), which borrow this memory, read and write its frames. Frames that an
    /// earlier key of the port left posted are written off.
    ///
    /// # Errors
    /// Returns [`PortTaken`] if the port is open, or a kernel had it before.
    pub fn simulated_port(&mut self, port: PortIndex) -> Result<PortKey, PortTaken> {
        if port.is_in(self.kernel_ports) {
            return Err(PortTaken::Kernel(port));
        }
        self.claim(port, true)
    }

    /// Returns the key of a port whose rings are shared with a kernel, or with another party that reads and writes the
    /// frames outside this process's control. Frames that an earlier key of the port left posted are written off.
    ///
    /// # Safety
    /// The following holds from now on, and after the key is dropped until the other side stops to use this memory:
    /// - the other side gets only addresses that [`post_fill`](Self::post_fill) and
    ///   [`post_transmit`](Self::post_transmit), or their batch forms, returned for this key; it writes only to the
    ///   frames of the former, from their start to their end, and only reads those of the latter;
    /// - [`received`](Self::received) and [`completed`](Self::completed), or their batch forms, are called with this key
    ///   only for addresses that the other side has returned since, on the ring that they are for: it does not use that
    ///   frame any more;
    /// - no code that violates these conditions gets the key.
    ///
    /// # Errors
    /// Returns [`PortTaken::Open`] if the port is open.
    pub unsafe fn kernel_port(&mut self, port: PortIndex) -> Result<PortKey, PortTaken> {
        let key = self.claim(port, false)?;
        self.kernel_ports |= port.bit();
        Ok(key)
    }

    fn claim(&mut self, port: PortIndex, simulated: bool) -> Result<PortKey, PortTaken> {
        if port.is_in(self.keys.fetch_or(port.bit(), Ordering::AcqRel)) {
            return Err(PortTaken::Open(port));
        }
        self.write_off(port);
        Ok(PortKey { umem: self.id, port, simulated, keys: Arc::clone(&self.keys) })
    }

    /// Checks that `port` has no key.
    ///
    /// # Errors
    /// Returns [`PortTaken::Open`] if it has one.
    pub fn check_closed(&self, port: PortIndex) -> Result<(), PortTaken> {
        if port.is_in(self.keys.load(Ordering::Acquire)) { Err(PortTaken::Open(port)) } else { Ok(()) }
    }

    /// Frees every frame that `port` has posted. Returns the number of frames for reception and for transmission.
    ///
    /// # Safety
    /// No other party uses the frames that were posted with any key of the port: the socket was never bound, or the
    /// kernel has finished with it. This holds for a port that was only simulated once its key is dropped.
    pub unsafe fn recall(&mut self, port: PortIndex) -> (u32, u32) {
        (
            self.move_all(FrameState::Receive(port), FrameState::Free),
            self.move_all(FrameState::Transmit(port), FrameState::Free),
        )
    }

    /// Writes off the frames that `port` has posted, after its socket was closed. The kernel releases a socket some
    /// tens of milliseconds after its close and may use the frames until then. Returns the number of frames.
    pub fn write_off(&mut self, port: PortIndex) -> u32 {
        let off = FrameState::WrittenOff(port);
        self.move_all(FrameState::Receive(port), off) + self.move_all(FrameState::Transmit(port), off)
    }

    /// Frees the frames that were written off with earlier sockets of `port`. Returns their number.
    ///
    /// # Safety
    /// The kernel has finished with every earlier socket of the port: each queue could be bound again (xp_assign_dev,
    /// net/xdp/xsk_buff_pool.c: EBUSY while the queue still has its pool), or its interface was deleted.
    pub unsafe fn take_back(&mut self, port: PortIndex) -> u32 {
        self.move_all(FrameState::WrittenOff(port), FrameState::Free)
    }

    /// Frees the frames that were written off with earlier keys of a simulated port, which never had a kernel.
    ///
    /// # Panics
    /// Panics if the key belongs to another memory or to a kernel. That is a defect in the port.
    pub fn take_back_simulated(&mut self, key: &PortKey) -> u32 {
        self.move_all(FrameState::WrittenOff(self.simulated(key)), FrameState::Free)
    }

    fn move_all(&mut self, from: FrameState, to: FrameState) -> u32 {
        if self.ledger.at(from) == 0 {
            return 0;
        }
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

    /// Returns the identifier of this memory.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Returns the port of `key`, which must belong to this memory.
    #[inline]
    pub(super) fn port_of(&self, key: &PortKey) -> PortIndex {
        assert!(key.umem == self.id, "port of another UMEM");
        key.port
    }

    /// Returns the port of `key`, which must be simulated and belong to this memory.
    pub(super) fn simulated(&self, key: &PortKey) -> PortIndex {
        assert!(key.simulated, "a kernel's port is not simulated");
        self.port_of(key)
    }
}
