//! A link: what happens to packets between one end of a wire and the other.
//!
//! ```text
//!   offer -> lost? -> rate: waits its turn on the wire -> delay, unless it overtakes -> arrived
//! ```
//!
//! The words are those of netem(8): loss by the Gilbert-Elliott model, reordering by letting a packet
//! skip the delay. A link goes one way; what goes the other way has a link of its own, and each draws
//! from a sequence of its own.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::Rng;

/// Parts per million of a whole.
const WHOLE: u32 = 1_000_000;
/// What may wait for the wire of a link with a rate, as time on that wire; more is lost.
const BUFFER: Duration = Duration::from_millis(50);
/// What Ethernet sends besides the frame: preamble, FCS, gap (IEEE 802.3 4.2.3, 20 + 4 bytes).
const OVERHEAD: u64 = 24;

/// Loss in bursts: a link is in a good or a bad state, and may change it with each packet (Gilbert 1960,
/// Elliott 1963). All in parts per million of packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Loss {
    /// Chance of going from good to bad.
    pub worsen_ppm: u32,
    /// Chance of going from bad to good.
    pub recover_ppm: u32,
    /// Packets lost while bad.
    pub bad_ppm: u32,
    /// Packets lost while good.
    pub good_ppm: u32,
}

impl Loss {
    /// Each packet by itself, with the same chance.
    #[must_use]
    pub fn independent(ppm: u32) -> Self {
        Self { good_ppm: ppm, ..Self::default() }
    }

    /// The share of packets that are lost in the long run, of 1.
    #[must_use]
    pub fn mean(&self) -> f64 {
        let [worsen, recover, bad, good] =
            [self.worsen_ppm, self.recover_ppm, self.bad_ppm, self.good_ppm].map(f64::from);
        let in_bad = if worsen > 0.0 { worsen / (worsen + recover) } else { 0.0 };
        (in_bad * bad + (1.0 - in_bad) * good) / f64::from(WHOLE)
    }
}

/// What a link does. The default is a wire: nothing is lost, and it takes no time.
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
    /// From the last bit on the wire to its arrival.
    pub delay: Duration,
    /// Packets that never arrive.
    pub loss: Loss,
    /// Packets, in parts per million, that overtake others by a delay drawn from nothing to the whole.
    pub reorder_ppm: u32,
    /// Bits per second; 0 for no limit. 50 ms of packets may wait for the wire.
    pub rate: u64,
}

/// A link that cannot be: which part, and what can be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "link {part:?}: {why}; write for instance delay=2ms,loss=ge:0.01/0.3,reorder=0.02,rate=1G (loss=ge:P/R[/B[/G]]: \
     chance to turn bad, to turn good again, loss while bad (1), loss while good (0); loss=P: each packet by itself)"
)]
pub struct LinkError {
    /// As written.
    part: String,
    /// What is wrong.
    why: &'static str,
}

impl FromStr for LinkSpec {
    type Err = LinkError;

    /// `delay=TIME`, `loss=P` or `loss=ge:P/R[/B[/G]]`, `reorder=P`, `rate=BITS`, separated by commas;
    /// times in ns, us, ms or s, rates in bits per second with k, M or G, chances from 0 to 1.
    fn from_str(text: &str) -> Result<Self, LinkError> {
        let mut spec = Self::default();
        for part in text.split(',').map(str::trim) {
            let wrong = |why| LinkError { part: part.to_owned(), why };
            let (name, value) =
                part.split_once('=').ok_or_else(|| wrong("a name, an equals sign and a value are wanted"))?;
            match name {
                "delay" => spec.delay = time(value).ok_or_else(|| wrong("a time such as 2ms is wanted, up to 60s"))?,
                "loss" => spec.loss = loss(value).ok_or_else(|| wrong("chances from 0 to 1 are wanted"))?,
                "reorder" => spec.reorder_ppm = chance(value).ok_or_else(|| wrong("a chance from 0 to 1 is wanted"))?,
                "rate" => spec.rate = rate(value).ok_or_else(|| wrong("bits per second are wanted, at least 8k"))?,
                _ => return Err(wrong("there is delay, loss, reorder and rate")),
            }
        }
        if spec.reorder_ppm > 0 && spec.delay.is_zero() {
            return Err(LinkError { part: text.to_owned(), why: "packets overtake only where there is a delay" });
        }
        Ok(spec)
    }
}

impl fmt::Display for LinkSpec {
    /// As it can be written.
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

/// What a link counts. At any time `offered = lost + overflowed + delivered + under_way`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct LinkCounters {
    /// Packets put on it.
    pub offered: u64,
    /// Of them: lost, by its [`Loss`].
    pub lost: u64,
    /// Of them: lost because too many waited for the wire.
    pub overflowed: u64,
    /// Of them: at the other end.
    pub delivered: u64,
    /// Of them: neither yet.
    pub under_way: u64,
    /// Packets that arrived before one that was offered earlier.
    pub overtaken: u64,
}

impl LinkCounters {
    /// The sum of both.
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

/// One way of a wire, with what is on it.
#[derive(Debug)]
pub struct SimLink<T> {
    spec: LinkSpec,
    rng: Rng,
    bad: bool,
    /// When the wire is free for the next packet, ns.
    free_at_ns: u64,
    /// In the order of arrival.
    under_way: VecDeque<UnderWay<T>>,
    /// The highest number that has arrived.
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
    /// An empty link; every choice follows from `rng`.
    #[must_use]
    pub fn new(spec: LinkSpec, rng: Rng) -> Self {
        let counters = LinkCounters::default();
        Self { spec, rng, bad: false, free_at_ns: 0, under_way: VecDeque::new(), newest: 0, counters }
    }

    /// Puts a packet of `bytes` bytes on the link; it is given back if the link loses it.
    ///
    /// # Errors
    /// The packet.
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
        // From the back: only a packet that overtakes goes further.
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

    /// The next packet that has arrived by now.
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

    /// What it counted.
    #[must_use]
    pub fn counters(&self) -> LinkCounters {
        LinkCounters { under_way: self.under_way.len() as u64, ..self.counters }
    }
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
