//! Records the state of every frame at any time.
//!
//! It has one byte for each frame and one counter for each state. The byte costs a lookup in a table that fits the L1
//! cache (4 Ki frames = 4 KiB), and release builds keep it as well. The kernel accepts a double fill without an error,
//! and it returns bad TX addresses in completions. So an address from the kernel is accepted only if the ledger has its
//! frame in the expected state.

use super::{MAX_PORTS, PortIndex};

/// Names the state of one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameState {
    /// The frame is in the pool.
    Free,
    /// The application owns it: there is a `Frame` for it.
    App,
    /// It was posted to the fill ring of a port, and has not returned on its RX ring yet.
    Receive(PortIndex),
    /// It was posted to the TX ring of a port, and has not returned on its completion ring yet.
    Transmit(PortIndex),
    /// It was with a socket of this port that is closed. The kernel may read or write it until the queue can be bound
    /// again.
    WrittenOff(PortIndex),
}

/// Holds the first code of [`FrameState::WrittenOff`], after the codes of the other states.
const WRITTEN_OFF: u8 = 2 + 2 * MAX_PORTS;
/// Counts the codes.
const PLACES: usize = (WRITTEN_OFF + MAX_PORTS) as usize;

impl FrameState {
    const fn code(self) -> u8 {
        match self {
            FrameState::Free => 0,
            FrameState::App => 1,
            FrameState::Receive(port) => 2 + 2 * port.number(),
            FrameState::Transmit(port) => 3 + 2 * port.number(),
            FrameState::WrittenOff(port) => WRITTEN_OFF + port.number(),
        }
    }

    fn from_code(code: u8) -> Self {
        // All codes come from `code`, so the remainder changes none.
        let port = |number: u8| PortIndex::ALL[(number % MAX_PORTS) as usize];
        match code {
            0 => FrameState::Free,
            1 => FrameState::App,
            off if off >= WRITTEN_OFF => FrameState::WrittenOff(port(off - WRITTEN_OFF)),
            even if even % 2 == 0 => FrameState::Receive(port((even - 2) / 2)),
            odd => FrameState::Transmit(port((odd - 3) / 2)),
        }
    }
}

/// Reports an invalid descriptor from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadDescriptor {
    /// The address is outside the registered memory.
    #[error("invalid address from the kernel: {address:#x}; expected one within the UMEM")]
    OutOfRegion {
        /// Returned address.
        address: u64,
    },
    /// The packet exceeds the end of its frame.
    #[error("invalid length from the kernel: {length} bytes at {address:#x}; expected the end within the frame")]
    PastFrame {
        /// Returned address.
        address: u64,
        /// Returned length, in bytes.
        length: u32,
    },
    /// The frame is in another state.
    #[error(
        "unexpected address from the kernel: {address:#x} of a frame in state {actual:?}; expected state {expected:?}"
    )]
    WrongPlace {
        /// Returned address.
        address: u64,
        /// State in the ledger.
        actual: FrameState,
        /// Expected state.
        expected: FrameState,
    },
}

/// Records all frames. A frame changes its state; it is never created or lost.
#[derive(Debug)]
pub(super) struct Ledger {
    places: Box<[u8]>,
    counts: [u32; PLACES],
}

impl Ledger {
    /// Creates a ledger in which all frames are free.
    #[must_use]
    pub(super) fn new(frames: u32) -> Self {
        let mut counts = [0; PLACES];
        counts[0] = frames;
        Self { places: vec![FrameState::Free.code(); frames as usize].into_boxed_slice(), counts }
    }

    /// Returns the state of frame `index`.
    #[must_use]
    #[inline]
    pub(super) fn place(&self, index: u32) -> FrameState {
        FrameState::from_code(self.places[index as usize])
    }

    /// Checks the state of frame `index`, for an `address` that the kernel returned.
    ///
    /// # Errors
    /// Returns [`BadDescriptor::WrongPlace`] if the frame is in another state.
    #[inline]
    pub(super) fn expect(&self, index: u32, place: FrameState, address: u64) -> Result<(), BadDescriptor> {
        if self.places[index as usize] == place.code() {
            return Ok(());
        }
        Err(BadDescriptor::WrongPlace { address, actual: self.place(index), expected: place })
    }

    /// Records a state change.
    ///
    /// # Panics
    /// Panics like [`put`](Self::put).
    #[inline]
    pub(super) fn moved(&mut self, index: u32, from: FrameState, to: FrameState) {
        self.put(index, from, to);
        self.count(1, from, to);
    }

    /// Records a state change without its counters. A call of [`count`](Self::count) follows for the whole batch.
    ///
    /// # Panics
    /// Panics in debug builds if the frame is not in state `from`. That is a defect in this crate, because addresses
    /// from the kernel are checked with [`expect`](Self::expect) first.
    #[inline]
    pub(super) fn put(&mut self, index: u32, from: FrameState, to: FrameState) {
        debug_assert_eq!(self.place(index), from, "frame {index} is in another state");
        self.places[index as usize] = to.code();
    }

    /// Updates the counters for `frames` state changes.
    #[inline]
    pub(super) fn count(&mut self, frames: u32, from: FrameState, to: FrameState) {
        self.counts[usize::from(from.code())] -= frames;
        self.counts[usize::from(to.code())] += frames;
    }

    /// Returns all counters.
    #[must_use]
    pub(super) fn census(&self) -> FrameCounts {
        let (live, written_off) = self.counts.split_at(usize::from(WRITTEN_OFF));
        let sum = |first: usize| live[first..].iter().step_by(2).sum();
        FrameCounts {
            total: self.places.len() as u32,
            free: live[0],
            app: live[1],
            receive: sum(2),
            transmit: sum(3),
            written_off: written_off.iter().sum(),
        }
    }

    /// Counts the frames in state `place`.
    pub(super) fn at(&self, place: FrameState) -> u32 {
        self.counts[usize::from(place.code())]
    }

    /// Counts the frames with the kernel for one port: for reception, and for transmission.
    pub(super) fn at_port(&self, port: PortIndex) -> (u32, u32) {
        (self.at(FrameState::Receive(port)), self.at(FrameState::Transmit(port)))
    }
}

/// Holds the number of frames in each state. `receive` covers the fill and the RX ring, `transmit` the TX and the
/// completion ring. The ring on which a frame is changes at any time, so it is read from the rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct FrameCounts {
    /// Number of all frames.
    pub total: u32,
    /// Frames in the pool.
    pub free: u32,
    /// Frames with the application.
    pub app: u32,
    /// Frames on the fill and RX rings.
    pub receive: u32,
    /// Frames on the TX and completion rings.
    pub transmit: u32,
    /// Frames with closed sockets whose queue has not been bound again yet.
    #[serde(default)]
    pub written_off: u32,
}

impl FrameCounts {
    /// Returns whether free + app + receive + transmit + written_off = total.
    #[must_use]
    pub fn balanced(&self) -> bool {
        [self.free, self.app, self.receive, self.transmit, self.written_off].into_iter().map(u64::from).sum::<u64>()
            == u64::from(self.total)
    }
}
