//! The replay window: which counters of a session were received.
//!
//! A ring of bits, indexed by the counter. One word of the ring is always being cleared ahead, so a window of `bits`
//! accepts counters up to `bits - 64` behind the latest, as the kernel's does. The window is looked at before a packet
//! is decrypted, so that a duplicate costs a bit test, and marked after it, so that a forged packet changes nothing.

/// Smallest width, bits: that of the kernel and of wireguard-go.
pub const BITS_MIN: usize = 8_192;
/// Largest width, bits.
pub const BITS_MAX: usize = 65_536;
/// First counter that may not be used: 2^64 - 2^13 - 1 (white paper, section 6.2).
pub const COUNTER_LIMIT: u64 = u64::MAX - (1 << 13);

/// Reports why a counter is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Replayed {
    /// The packet was received before.
    #[error("packet was received before")]
    Duplicate,
    /// The packet is older than the window reaches.
    #[error("packet is older than the replay window")]
    TooOld,
    /// The counter must not be used.
    #[error("counter is beyond its limit")]
    CounterLimit,
}

/// Records the received counters of one session.
pub struct ReplayWindow {
    words: Box<[u64]>,
    /// One more than the largest marked counter; zero before the first.
    next: u64,
}

impl ReplayWindow {
    /// Returns an empty window. `bits` is rounded up to a power of two from [`BITS_MIN`] to [`BITS_MAX`].
    #[must_use]
    pub fn new(bits: usize) -> Self {
        let bits = bits.clamp(BITS_MIN, BITS_MAX).next_power_of_two();
        Self { words: vec![0; bits / 64].into(), next: 0 }
    }

    /// Returns how far a counter may be behind the latest one.
    #[must_use]
    pub fn reach(&self) -> u64 {
        64 * (self.words.len() as u64 - 1)
    }

    /// Checks a counter; changes nothing.
    ///
    /// # Errors
    /// [`Replayed`] if the packet must be dropped without decryption.
    #[inline]
    pub fn check(&self, counter: u64) -> Result<(), Replayed> {
        if counter >= COUNTER_LIMIT {
            return Err(Replayed::CounterLimit);
        }
        if counter >= self.next {
            return Ok(());
        }
        if self.next - 1 - counter > self.reach() {
            return Err(Replayed::TooOld);
        }
        let (word, bit) = self.place(counter);
        if self.words[word] & bit == 0 { Ok(()) } else { Err(Replayed::Duplicate) }
    }

    /// Records the counter of an authentic packet.
    ///
    /// # Errors
    /// As [`check`](Self::check), which is repeated: a caller that forgot it cannot accept a packet twice.
    pub fn mark(&mut self, counter: u64) -> Result<(), Replayed> {
        self.check(counter)?;
        if counter >= self.next {
            let newest = self.next.saturating_sub(1) / 64;
            // More than the whole ring need not be cleared twice.
            let fresh = (counter / 64 - newest).min(self.words.len() as u64);
            for step in 0..fresh {
                let (word, _) = self.place((counter / 64 - step) * 64);
                self.words[word] = 0;
            }
            self.next = counter + 1;
        }
        let (word, bit) = self.place(counter);
        self.words[word] |= bit;
        Ok(())
    }

    fn place(&self, counter: u64) -> (usize, u64) {
        // The length is a power of two.
        ((counter / 64) as usize & (self.words.len() - 1), 1 << (counter % 64))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    /// The vectors of WireGuard's own self-test (wireguard-go `replay/replay_test.go`, the kernel's
    /// `selftest/counter.c`), by their names there: LIM is the reach plus one, MAX the first forbidden counter.
    const VECTORS: &str = include_str!("replay_vectors.txt");

    fn number(text: &str, reach: u64) -> u64 {
        let lim = reach + 1;
        text.split_inclusive(['+', '-'])
            .fold((0, '+'), |(sum, sign): (u64, char), part| {
                let digits = part.trim_end_matches(['+', '-']);
                let value = match digits.split_once('*') {
                    Some(("LIM", times)) => lim * times.parse::<u64>().unwrap(),
                    _ if digits == "LIM" => lim,
                    _ if digits == "WINDOW" => reach,
                    _ if digits == "MAX" => COUNTER_LIMIT,
                    _ => digits.parse().unwrap(),
                };
                let sum = if sign == '+' { sum + value } else { sum - value };
                (sum, part.chars().last().unwrap())
            })
            .0
    }

    #[test]
    fn vectors_of_the_wireguard_self_test_pass_at_every_width() {
        for bits in [8_192, 16_384, 65_536] {
            let mut window = ReplayWindow::new(bits);
            let reach = window.reach();
            for line in VECTORS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
                let words: Vec<&str> = line.split_whitespace().collect();
                let n = |at: usize| number(words[at], reach);
                match words[0] {
                    "init" => window = ReplayWindow::new(bits),
                    "ok" => assert_eq!(window.mark(n(1)), Ok(()), "{bits}: {line}"),
                    "no" => assert!(window.mark(n(1)).is_err(), "{bits}: {line}"),
                    "up" => (n(1)..=n(2)).for_each(|c| assert_eq!(window.mark(c), Ok(()), "{bits}: {line}: {c}")),
                    "down" => {
                        (n(2)..=n(1)).rev().for_each(|c| assert_eq!(window.mark(c), Ok(()), "{bits}: {line}: {c}"))
                    }
                    other => panic!("unknown word {other}"),
                }
            }
        }
    }

    #[test]
    fn counter_overflow_is_refused() {
        let mut window = ReplayWindow::new(BITS_MAX);
        assert_eq!(window.mark(COUNTER_LIMIT - 1), Ok(()));
        for counter in [COUNTER_LIMIT, u64::MAX - 1, u64::MAX] {
            assert_eq!(window.mark(counter), Err(Replayed::CounterLimit));
        }
        assert_eq!(window.check(COUNTER_LIMIT - 2), Ok(()));
        assert_eq!(window.check(0), Err(Replayed::TooOld));
    }

    proptest! {
        #[test]
        fn window_agrees_with_a_set(start in prop_oneof![0..10_u64, 0..COUNTER_LIMIT - 200_000], steps in prop::collection::vec(
            prop_oneof![0..40_000_u64, 0..200_u64, 8_000..8_300_u64], 1..200)) {
            let (mut window, mut seen, mut largest) = (ReplayWindow::new(BITS_MIN), BTreeSet::new(), None::<u64>);
            for step in steps {
                let counter = start + step;
                let old = largest.is_some_and(|largest| counter + window.reach() < largest);
                let expected = if old { Err(Replayed::TooOld) } else if seen.contains(&counter) { Err(Replayed::Duplicate) } else { Ok(()) };
                prop_assert_eq!(window.check(counter), expected);
                prop_assert_eq!(window.mark(counter), expected);
                if expected.is_ok() {
                    seen.insert(counter);
                    largest = largest.max(Some(counter));
                }
            }
        }
    }
}
