//! Simulates a link: loss, rate, delay and reordering of packets in one direction of a wire.
//!
//! ```text
//!   offer -> lost? -> rate: waits for the wire -> delay, unless it overtakes -> arrived
//! ```
//!
//! The terms are those of netem(8): loss by the Gilbert-Elliott model, reordering by packets that skip the delay. A
//! link has one direction. The other direction has its own link, and each link draws from its own random sequence.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Rng;

/// Parts per million of a whole.
const WHOLE: u32 = 1_000_000;
/// Limits the backlog of a link with a rate, as time on the wire. Further packets are lost.
const BUFFER: Duration = Duration::from_millis(50);
/// Counts the bytes that Ethernet sends in addition to the frame: preamble, FCS, gap (IEEE 802.3 4.2.3, 20 + 4 bytes).
const OVERHEAD: u64 = 24;

/// Describes loss in bursts: a link is in a good or a bad state and may change it with each packet (Gilbert 1960,
/// Elliott 1963). All values are in parts per million of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Probability of a change from good to bad.
    pub worsen_ppm: u32,
    /// Probability of a change from bad to good.
    pub recover_ppm: u32,
    /// Rate of loss in the bad state.
    pub bad_ppm: u32,
    /// Rate of loss in the good state.
    pub good_ppm: u32,
}

impl Loss {
    /// Returns independent loss: each packet is lost with the same probability.
    #[must_use]
    pub fn independent(ppm: u32) -> Self {
        Self { good_ppm: ppm, ..Self::default() }
    }

    /// Returns the mean rate of loss, from 0 to 1.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let [worsen, recover, bad, good] =
            [self.worsen_ppm, self.recover_ppm, self.bad_ppm, self.good_ppm].map(f64::from);
        let in_bad = if worsen > 0.0 { worsen / (worsen + recover) } else { 0.0 };
        (in_bad * bad + (1.0 - in_bad) * good) / f64::from(WHOLE)
    }
}

/// Describes the behaviour of a link. The default link has no loss and no delay.
///
/// ```
/// use std::time::Duration;
/// use oxide::port::sim::LinkSpec;
///
/// let link: LinkSpec = "delay=2ms,loss=ge:0.01/0.3,reorder=0.02,rate=1G".parse()?;
/// assert_eq!(link.delay, Duration::from_millis(2));
/// assert_eq!((link.loss.worsen_ppm, link.loss.recover_ppm, link.loss.bad_ppm), (10_000, 300_000, 1_000_000));
/// assert_eq!((link.reorder_ppm, link.rate), (20_000, 1_000_000_000));
/// # Ok::<(), oxide::port::sim::LinkError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkSpec {
    /// Time from the last bit on the wire to the arrival.
    pub delay: Duration,
    /// Loss of packets.
    pub loss: Loss,
    /// Rate of packets, in parts per million, whose delay is drawn between 0 and the full delay, so that they overtake.
    pub reorder_ppm: u32,
    /// Rate in bits per second; 0 for no limit. Packets of 50 ms may wait for the wire.
    pub rate: u64,
}

/// Reports an invalid link, with the part at fault and an example.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "link {part:?}: {why}; expected for example delay=2ms,loss=ge:0.01/0.3,reorder=0.02,rate=1G (loss=ge:P/R[/B[/G]]: \
     probability of the bad state, of recovery, loss in the bad state (1), in the good state (0); \
     loss=P: independent loss)"
)]
pub struct LinkError {
    /// Part in the input.
    part: String,
    /// Problem with it.
    why: &'static str,
}

impl FromStr for LinkSpec {
    type Err = LinkError;

    /// Parses `delay=TIME`, `loss=P` or `loss=ge:P/R[/B[/G]]`, `reorder=P`, `rate=BITS`, separated by commas. Times
    /// have the unit ns, us, ms or s. Rates are in bits per second with k, M or G. Probabilities are from 0 to 1.
    fn from_str(text: &str) -> Result<Self, LinkError> {
        let mut spec = Self::default();
        for part in text.split(',').map(str::trim) {
            let wrong = |why| LinkError { part: part.to_owned(), why };
            let (name, value) = part.split_once('=').ok_or_else(|| wrong("expected name=value"))?;
            match name {
                "delay" => spec.delay = time(value).ok_or_else(|| wrong("expected a time such as 2ms, at most 60s"))?,
                "loss" => spec.loss = loss(value).ok_or_else(|| wrong("expected probabilities from 0 to 1"))?,
                "reorder" => {
                    spec.reorder_ppm = chance(value).ok_or_else(|| wrong("expected a probability from 0 to 1"))?
                }
                "rate" => spec.rate = rate(value).ok_or_else(|| wrong("expected bits per second, at least 8k"))?,
                _ => return Err(wrong("expected delay, loss, reorder or rate")),
            }
        }
        if spec.reorder_ppm > 0 && spec.delay.is_zero() {
            return Err(LinkError { part: text.to_owned(), why: "reordering needs a delay" });
        }
        Ok(spec)
    }
}

impl fmt::Display for LinkSpec {
    /// Writes the form that `from_str` parses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |ppm: u32| f64::from(ppm) / f64::from(WHOLE);
        let Loss { worsen_ppm, recover_ppm, bad_ppm, good_ppm } = self.loss;
        write!(f, "delay={}ns,", self.delay.as_nanos())?;
        write!(f, "loss=ge:{}/{}/{}/{},", of(worsen_ppm), of(recover_ppm), of(bad_ppm), of(good_ppm))?;
        write!(f, "reorder={}", of(self.reorder_ppm))?;
        if self.rate > 0 { write!(f, ",rate={}", self.rate) } else { Ok(()) }
    }
}

fn time(text: &str) -> Option<Duration> {
    let unit = text.find(|c: char| c.is_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let scale = match unit {
        "ns" => 1.0,
        "us" | "µs" => 1e3,
        "ms" => 1e6,
        "s" => 1e9,
        _ => return None,
    };
    let ns = number.trim().parse::<f64>().ok()? * scale;
    (0.0..=60e9).contains(&ns).then(|| Duration::from_nanos(ns.round() as u64))
}

fn chance(text: &str) -> Option<u32> {
    let share = text.trim().parse::<f64>().ok()?;
    (0.0..=1.0).contains(&share).then(|| (share * f64::from(WHOLE)).round() as u32)
}

fn rate(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, scale) = match text.char_indices().last()? {
        (at, 'k') => (&text[..at], 1e3),
        (at, 'M') => (&text[..at], 1e6),
        (at, 'G') => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let bits = number.parse::<f64>().ok()? * scale;
    (8e3..=1e15).contains(&bits).then(|| bits.round() as u64)
}

fn loss(text: &str) -> Option<Loss> {
    let Some(chances) = text.strip_prefix("ge:") else { return chance(text).map(Loss::independent) };
    let chances: Vec<u32> = chances.split('/').map(chance).collect::<Option<_>>()?;
    let [worsen_ppm, recover_ppm, ref rest @ ..] = chances[..] else { return None };
    let (bad_ppm, good_ppm) = match *rest {
        [] => (WHOLE, 0),
        [bad] => (bad, 0),
        [bad, good] => (bad, good),
        _ => return None,
    };
    Some(Loss { worsen_ppm, recover_ppm, bad_ppm, good_ppm })
}

/// Holds the counters of a link. At any time `offered = lost + overflowed + delivered + under_way`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct LinkCounters {
    /// Counts packets put on the link.
    pub offered: u64,
    /// Counts offered packets lost by its [`Loss`].
    pub lost: u64,
    /// Counts offered packets lost because too many waited for the wire.
    pub overflowed: u64,
    /// Counts offered packets that arrived at the other end.
    pub delivered: u64,
    /// Counts offered packets still on the link.
    pub under_way: u64,
    /// Counts packets that arrived after a packet that was offered later.
    pub overtaken: u64,
}

impl LinkCounters {
    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            offered: self.offered + other.offered,
            lost: self.lost + other.lost,
            overflowed: self.overflowed + other.overflowed,
            delivered: self.delivered + other.delivered,
            under_way: self.under_way + other.under_way,
            overtaken: self.overtaken + other.overtaken,
        }
    }
}

/// Simulates one direction of a wire, with the packets on it.
#[derive(Debug)]
pub struct SimLink<T> {
    spec: LinkSpec,
    rng: Rng,
    bad: bool,
    /// Time in ns from which the wire is free for the next packet.
    free_at_ns: u64,
    /// Packets on the link, in the order of arrival.
    under_way: VecDeque<UnderWay<T>>,
    /// Highest number that has arrived.
    newest: u64,
    counters: LinkCounters,
}

#[derive(Debug)]
struct UnderWay<T> {
    arrives_ns: u64,
    number: u64,
    packet: T,
}

impl<T> SimLink<T> {
    /// Creates an empty link. All its random choices come from `rng`.
    #[must_use]
    pub fn new(spec: LinkSpec, rng: Rng) -> Self {
        let counters = LinkCounters::default();
        Self { spec, rng, bad: false, free_at_ns: 0, under_way: VecDeque::new(), newest: 0, counters }
    }

    /// Puts a packet of `bytes` bytes on the link.
    ///
    /// # Errors
    /// Returns the packet if the link loses it.
    pub fn offer(&mut self, now_ns: u64, bytes: usize, packet: T) -> Result<(), T> {
        self.counters.offered += 1;
        if self.loses() {
            self.counters.lost += 1;
            return Err(packet);
        }
        let mut sent_ns = now_ns;
        if self.spec.rate > 0 {
            let begins = self.free_at_ns.max(now_ns);
            if begins - now_ns > BUFFER.as_nanos() as u64 {
                self.counters.overflowed += 1;
                return Err(packet);
            }
            let bits = 8 * (bytes as u64 + OVERHEAD);
            sent_ns = begins + (u128::from(bits) * 1_000_000_000).div_ceil(u128::from(self.spec.rate)) as u64;
            self.free_at_ns = sent_ns;
        }
        let delay_ns = self.spec.delay.as_nanos() as u64;
        let delay_ns = if self.rng.chance(self.spec.reorder_ppm) { self.rng.below(delay_ns) } else { delay_ns };
        let arrives_ns = sent_ns + delay_ns;
        // The search starts at the back, because only overtaking packets go further to the front.
        let at = self.under_way.iter().rposition(|other| other.arrives_ns <= arrives_ns).map_or(0, |at| at + 1);
        self.under_way.insert(at, UnderWay { arrives_ns, number: self.counters.offered, packet });
        Ok(())
    }

    fn loses(&mut self) -> bool {
        let Loss { worsen_ppm, recover_ppm, bad_ppm, good_ppm } = self.spec.loss;
        if self.rng.chance(if self.bad { recover_ppm } else { worsen_ppm }) {
            self.bad = !self.bad;
        }
        self.rng.chance(if self.bad { bad_ppm } else { good_ppm })
    }

    /// Returns the next packet that has arrived by `now_ns`.
    pub fn next(&mut self, now_ns: u64) -> Option<T> {
        if self.under_way.front()?.arrives_ns > now_ns {
            return None;
        }
        let UnderWay { number, packet, .. } = self.under_way.pop_front()?;
        self.counters.delivered += 1;
        self.counters.overtaken += u64::from(number < self.newest);
        self.newest = self.newest.max(number);
        Some(packet)
    }

    /// Returns the counters of the link.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        LinkCounters { under_way: self.under_way.len() as u64, ..self.counters }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
