//! Defines the index of a port within its actor. It is bounded, so that every value has a state in the ledger.

use arrayvec::ArrayVec;

/// Limits the ports of one actor: each has one bit of a `u8` and its own states in the ledger.
pub const MAX_PORTS: u8 = 8;

/// Identifies a port within its actor, counted from zero in the order of the configuration's interfaces.
///
/// A number that no actor can have is not a value of this type:
///
/// ```
/// use oxide::umem::PortIndex;
///
/// assert_eq!(PortIndex::new(1), Some(PortIndex::P1));
/// assert_eq!(PortIndex::new(8), None);
/// assert_eq!(usize::from(PortIndex::P7), 7);
/// ```
///
/// ```compile_fail,E0308
/// let port: oxide::umem::PortIndex = 8;
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(u8)]
#[allow(missing_docs)] // The name of each variant is its number.
pub enum PortIndex {
    #[default]
    P0,
    P1,
    P2,
    P3,
    P4,
    P5,
    P6,
    P7,
}

/// Holds one value for each port of an actor, in order, at most [`MAX_PORTS`]. Collecting more values panics.
pub type PortList<T> = ArrayVec<T, { MAX_PORTS as usize }>;

impl PortIndex {
    /// Lists all port numbers in ascending order.
    pub const ALL: [Self; MAX_PORTS as usize] =
        [Self::P0, Self::P1, Self::P2, Self::P3, Self::P4, Self::P5, Self::P6, Self::P7];

    /// Returns the port with this number, or `None` from [`MAX_PORTS`] on.
    #[must_use]
    pub fn new(number: usize) -> Option<Self> {
        Self::ALL.get(number).copied()
    }

    /// Returns the first `count` port numbers, at most [`MAX_PORTS`].
    pub fn first(count: usize) -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().take(count)
    }

    /// Returns the number.
    #[must_use]
    #[inline]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// Returns the port's bit in a set of ports.
    #[must_use]
    #[inline]
    pub const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Reports whether the port is in `set`, one bit for each port.
    #[must_use]
    #[inline]
    pub const fn is_in(self, set: u8) -> bool {
        set & self.bit() != 0
    }
}

impl From<PortIndex> for usize {
    #[inline]
    fn from(port: PortIndex) -> usize {
        port as usize
    }
}

impl From<PortIndex> for u8 {
    #[inline]
    fn from(port: PortIndex) -> u8 {
        port.number()
    }
}

impl std::fmt::Display for PortIndex {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.number().fmt(f)
    }
}
