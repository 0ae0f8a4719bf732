//! The right to say what became of a port's frames: one key for each port that is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use super::{FrameState, PortIndex, Umem};

/// Lets its holder move frames of one [`Umem`] between the application and the rings of one port.
///
/// There is one key for a port at a time. Dropping it closes the port; the frames that it posted stay posted until
/// [`Umem::write_off`]. A port keeps its key to itself: who has no key can neither take a frame from a kernel nor give
/// one to it.
///
/// A key is not copied, and nobody makes one but the memory:
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
/// A number is no key:
///
/// ```compile_fail,E0308
/// fn steal(umem: &mut oxide::umem::Umem, address: u64) {
///     let _frame = umem.received(oxide::umem::PortIndex::P0, address, 60);
/// }
/// ```
///
/// A key for a real kernel's port is made by who vouches for that kernel, in an `unsafe` block:
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
    /// The ports that have a key, a bit each; shared with the memory.
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

/// A port number is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PortTaken {
    /// The port is open: somebody has its key.
    #[error("port {0}: it is open; expected a closed port; to fix: drop the earlier port first")]
    Open(PortIndex),
    /// A real kernel had the port, and may still work on its frames.
    #[error(
        "port {0}: a kernel's socket had it; expected a number that only simulated ports had; to fix: use another one"
    )]
    Kernel(PortIndex),
}

impl Umem {
    /// Returns the key of a port behind which there is no kernel: its frames are read and written only by
    /// [`kernel_read`](Self::kernel_read) and [`kernel_write`](Self::kernel_write), which borrow this memory. Frames
    /// that an earlier key of the port left posted are written off.
    ///
    /// # Errors
    /// [`PortTaken`] if the port is open, or was a kernel's before.
    pub fn simulated_port(&mut self, port: PortIndex) -> Result<PortKey, PortTaken> {
        if port.is_in(self.kernel_ports) {
            return Err(PortTaken::Kernel(port));
        }
        self.claim(port, true)
    }

    /// Returns the key of a port whose rings are shared with a kernel, or with anything else that reads and writes the
    /// frames behind this process's back. Frames that an earlier key of the port left posted are written off.
    ///
    /// # Safety
    /// From now on, and after the key is dropped for as long as the other side uses this memory by it:
    /// - the other side gets only addresses that [`post_fill`](Self::post_fill) and
    ///   [`post_transmit`](Self::post_transmit), or their batch forms, returned for this key; it writes only to the
    ///   frames of the former, from their start to their end, and only reads those of the latter;
    /// - [`received`](Self::received) and [`completed`](Self::completed), or their batch forms, are called with this key
    ///   only for addresses that the other side has returned since, on the ring that they are for: it does not use that
    ///   frame any more;
    /// - the key is not given to code that does not keep to this.
    ///
    /// # Errors
    /// [`PortTaken::Open`].
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

    /// Checks that nobody has the key of `port`.
    ///
    /// # Errors
    /// [`PortTaken::Open`].
    pub fn check_closed(&self, port: PortIndex) -> Result<(), PortTaken> {
        if port.is_in(self.keys.load(Ordering::Acquire)) { Err(PortTaken::Open(port)) } else { Ok(()) }
    }

    /// Frees every frame that `port` has posted. Returns how many were to be received into, and how many were to be
    /// sent.
    ///
    /// # Safety
    /// Nobody uses the frames that were posted with any key of the port: the socket was never bound, or the kernel has
    /// finished with it. This is true of a port that was only simulated once its key is dropped.
    pub unsafe fn recall(&mut self, port: PortIndex) -> (u32, u32) {
        (
            self.move_all(FrameState::Receive(port), FrameState::Free),
            self.move_all(FrameState::Transmit(port), FrameState::Free),
        )
    }

    /// Writes off what `port` has posted: its socket is closed, and the frames are neither ours nor anybody's, because
    /// the kernel takes a socket down late, some tens of milliseconds after it was closed, and works on its frames until
    /// then. Returns how many frames that are.
    pub fn write_off(&mut self, port: PortIndex) -> u32 {
        let off = FrameState::WrittenOff(port);
        self.move_all(FrameState::Receive(port), off) + self.move_all(FrameState::Transmit(port), off)
    }

    /// Frees what was written off with earlier sockets of `port`. Returns how many frames that are.
    ///
    /// # Safety
    /// The kernel has finished with every earlier socket of the port: the queue of each could be bound anew
    /// (xp_assign_dev, net/xdp/xsk_buff_pool.c: EBUSY while the queue still has its pool), or its interface is gone.
    pub unsafe fn take_back(&mut self, port: PortIndex) -> u32 {
        self.move_all(FrameState::WrittenOff(port), FrameState::Free)
    }

    /// Frees what was written off with earlier keys of a simulated port: no kernel ever had this port.
    ///
    /// # Panics
    /// If the key is another memory's, or a kernel's: a defect in the port.
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

    /// What tells this memory from others.
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// The port of `key`, which is for this memory.
    #[inline]
    pub(super) fn port_of(&self, key: &PortKey) -> PortIndex {
        assert!(key.umem == self.id, "port of another UMEM");
        key.port
    }

    /// The same; and no kernel is behind the port.
    pub(super) fn simulated(&self, key: &PortKey) -> PortIndex {
        assert!(key.simulated, "a kernel's port is not simulated");
        self.port_of(key)
    }
}
