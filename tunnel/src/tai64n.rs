//! TAI64N timestamps: they order the initiations of one peer.

use std::time::Duration;

/// Seconds between the label's zero and 1970, with the ten leap seconds of 1972, which all implementations use.
const UNIX_EPOCH: u64 = 0x4000_0000_0000_000a;
/// Nanoseconds are rounded down to 16.8 ms, so that a timestamp does not show when exactly a packet was made.
const COARSE: u32 = !((1 << 24) - 1);

/// Holds a timestamp as it is on the wire: big-endian, so that the order of the bytes is that of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Tai64n([u8; 12]);

impl Tai64n {
    /// Returns the timestamp of a time since 1970.
    #[must_use]
    pub fn from_unix(time: Duration) -> Self {
        Self::join(UNIX_EPOCH.wrapping_add(time.as_secs()), time.subsec_nanos() & COARSE)
    }

    /// Returns the timestamp with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 12]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes of the timestamp.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        self.0
    }

    /// Returns `now`, or the next timestamp after this one if `now` is not later: the system clock may have gone back.
    #[must_use]
    pub fn next(self, now: Self) -> Self {
        if now > self { now } else { self.successor() }
    }

    fn successor(self) -> Self {
        let [a, b, c, d, e, f, g, h, nanoseconds @ ..] = self.0;
        let seconds = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
        match u32::from_be_bytes(nanoseconds) {
            n if n < 999_999_999 => Self::join(seconds, n + 1),
            _ => Self::join(seconds.wrapping_add(1), 0),
        }
    }

    fn join(seconds: u64, nanoseconds: u32) -> Self {
        let mut bytes = [0; 12];
        bytes[..8].copy_from_slice(&seconds.to_be_bytes());
        bytes[8..].copy_from_slice(&nanoseconds.to_be_bytes());
        Self(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_bytes_is_order_of_time() {
        let at = |ms| Tai64n::from_unix(Duration::from_millis(ms));
        assert_eq!(at(1_000).to_bytes(), [0x40, 0, 0, 0, 0, 0, 0, 0x0b, 0, 0, 0, 0]);
        assert!(at(0) < at(17) && at(999) < at(1_000) && at(1_000) < at(1_000_000_000));
    }

    #[test]
    fn clock_gone_backwards_gives_later_timestamps() {
        let late = Tai64n::from_unix(Duration::from_secs(1_700_000_000));
        let early = Tai64n::from_unix(Duration::from_secs(1_600_000_000));
        let mut last = late;
        for _ in 0..3 {
            let next = last.next(early);
            assert!(next > last);
            last = next;
        }
        assert_eq!(late.next(late), late.successor());
        let edge = Tai64n::join(5, 999_999_999);
        assert_eq!(edge.successor(), Tai64n::join(6, 0));
    }
}
