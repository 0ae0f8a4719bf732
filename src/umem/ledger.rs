//! Where every frame is, at any time.
//!
//! One byte for each frame and one counter for each place. The byte costs a lookup in a table that
//! fits the L1 cache (4 Ki frames = 4 KiB), and is kept in release builds as well: the kernel accepts
//! a double fill without a word and returns bad TX addresses in completions, so an address that comes
//! back is believed only if the ledger has it there.

use super::{MAX_PORTS, PortIndex};

/// Where one frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameState {
    /// In the pool.
    Free,
    /// With the application: there is a `Frame` for it.
    App,
    /// Posted to the fill ring of a port, and not seen on its RX ring yet.
    Receive(PortIndex),
    /// Posted to the TX ring of a port, and not seen on its completion ring yet.
    Transmit(PortIndex),
    /// With a socket of this port that is closed, but perhaps still being taken down: the kernel may
    /// write to it, or read it, until the queue can be bound again.
    WrittenOff(PortIndex),
}

/// First code of [`FrameState::WrittenOff`], behind those of the ports' other places.
const WRITTEN_OFF: u8 = 2 + 2 * MAX_PORTS;
/// Number of codes.
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
        // Codes come from `code`, so the remainder changes none.
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

/// The kernel handed back something that is not ours to believe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadDescriptor {
    /// The address lies outside the registered memory.
    #[error("kernel returned address {address:#x}, outside the UMEM")]
    OutOfRegion {
        /// As returned.
        address: u64,
    },
    /// The packet would reach past the end of its frame.
    #[error("kernel returned {length} bytes at {address:#x}, past the end of the frame")]
    PastFrame {
        /// As returned.
        address: u64,
        /// As returned, bytes.
        length: u32,
    },
    /// The frame is not where it would have to be.
    #[error("kernel returned address {address:#x} of a frame that is {actual:?}, not {expected:?}")]
    WrongPlace {
        /// As returned.
        address: u64,
        /// What the ledger has.
        actual: FrameState,
        /// What it would have to have.
        expected: FrameState,
    },
}

/// The book itself. Entries move; they are never made or lost.
#[derive(Debug)]
pub(super) struct Ledger {
    places: Box<[u8]>,
    counts: [u32; PLACES],
}

impl Ledger {
    /// All frames free.
    #[must_use]
    pub(super) fn new(frames: u32) -> Self {
        let mut counts = [0; PLACES];
        counts[0] = frames;
        Self { places: vec![FrameState::Free.code(); frames as usize].into_boxed_slice(), counts }
    }

    /// Where frame `index` is.
    #[must_use]
    #[inline]
    pub(super) fn place(&self, index: u32) -> FrameState {
        FrameState::from_code(self.places[index as usize])
    }

    /// Checks where frame `index` is, for an `address` the kernel returned.
    ///
    /// # Errors
    /// [`BadDescriptor::WrongPlace`] if it is elsewhere.
    #[inline]
    pub(super) fn expect(&self, index: u32, place: FrameState, address: u64) -> Result<(), BadDescriptor> {
        if self.places[index as usize] == place.code() {
            return Ok(());
        }
        Err(BadDescriptor::WrongPlace { address, actual: self.place(index), expected: place })
    }

    /// Books a move.
    ///
    /// # Panics
    /// As [`put`](Self::put).
    #[inline]
    pub(super) fn moved(&mut self, index: u32, from: FrameState, to: FrameState) {
        self.put(index, from, to);
        self.count(1, from, to);
    }

    /// Books a move without its counters: [`count`](Self::count) follows for the whole batch.
    ///
    /// # Panics
    /// In debug builds, if the frame is not at `from`: a defect in this crate, since what the kernel
    /// says goes through [`expect`](Self::expect) first.
    #[inline]
    pub(super) fn put(&mut self, index: u32, from: FrameState, to: FrameState) {
        debug_assert_eq!(self.place(index), from, "frame {index} moved from where it is not");
        self.places[index as usize] = to.code();
    }

    /// The counters of `frames` moves.
    #[inline]
    pub(super) fn count(&mut self, frames: u32, from: FrameState, to: FrameState) {
        self.counts[usize::from(from.code())] -= frames;
        self.counts[usize::from(to.code())] += frames;
    }

    /// All counters at once.
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

    /// Frames at `place`.
    pub(super) fn at(&self, place: FrameState) -> u32 {
        self.counts[usize::from(place.code())]
    }

    /// Frames at the kernel for one port: to receive into, and to be sent.
    pub(super) fn at_port(&self, port: PortIndex) -> (u32, u32) {
        (self.at(FrameState::Receive(port)), self.at(FrameState::Transmit(port)))
    }
}

/// How many frames are where. `receive` covers fill and RX ring, `transmit` TX and completion ring:
/// which of the two a frame is on changes under our feet and is read from the rings when asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct FrameCounts {
    /// Frames in all.
    pub total: u32,
    /// In the pool.
    pub free: u32,
    /// With the application.
    pub app: u32,
    /// Fill + RX rings.
    pub receive: u32,
    /// TX + completion rings.
    pub transmit: u32,
    /// With closed sockets whose queue has not been bound again yet.
    #[serde(default)]
    pub written_off: u32,
}

impl FrameCounts {
    /// free + app + receive + transmit + written_off = total.
    #[must_use]
    pub fn balanced(&self) -> bool {
        [self.free, self.app, self.receive, self.transmit, self.written_off].into_iter().map(u64::from).sum::<u64>()
            == u64::from(self.total)
    }
}
