//! Defines value types that TOML does not have.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

/// Holds a value that the engine selects (`"auto"`), or that the operator set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice<T> {
    /// The engine selects the value (`"auto"`).
    #[default]
    Auto,
    /// The operator set this value.
    Fixed(T),
}

impl<T> Choice<T> {
    /// Returns the value if the operator set one.
    #[must_use]
    pub fn fixed(&self) -> Option<&T> {
        match self {
            Choice::Auto => None,
            Choice::Fixed(value) => Some(value),
        }
    }
}

impl<'de, T: DeserializeOwned> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        if value.as_str() == Some("auto") {
            return Ok(Choice::Auto);
        }
        T::deserialize(value).map(Choice::Fixed).map_err(D::Error::custom)
    }
}

impl<T: Serialize> Serialize for Choice<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Choice::Auto => serializer.serialize_str("auto"),
            Choice::Fixed(value) => value.serialize(serializer),
        }
    }
}

/// Holds the SCHED_FIFO priority of the queue threads. `None`, written `false`, means the default policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Realtime(pub Option<u8>);

impl<'de> Deserialize<'de> for Realtime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        match value.as_i64() {
            Some(0) => Ok(Self(None)),
            Some(priority) => u8::try_from(priority).map(|p| Self(Some(p))).map_err(D::Error::custom),
            None if value == Value::Bool(false) => Ok(Self(None)),
            None => Err(D::Error::custom("expected false or a priority")),
        }
    }
}

impl Serialize for Realtime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            None => serializer.serialize_bool(false),
            Some(priority) => serializer.serialize_u8(priority),
        }
    }
}

/// UDP ports in one or more ranges, in ascending order; no two ranges share a port. Written `"first-last"`, or as a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortRanges(Vec<PortRange>);

impl PortRanges {
    /// Returns these ranges, in order; `None` if there is none, or if two of them share a port.
    #[must_use]
    pub fn new(ranges: impl IntoIterator<Item = PortRange>) -> Option<Self> {
        let mut ranges: Vec<_> = ranges.into_iter().collect();
        ranges.sort_unstable_by_key(|range| range.first);
        let apart = ranges.windows(2).all(|pair| matches!(pair, [a, b] if a.last < b.first));
        (apart && !ranges.is_empty()).then_some(Self(ranges))
    }

    /// Returns the ranges, in ascending order; never empty.
    #[must_use]
    pub fn ranges(&self) -> &[PortRange] {
        &self.0
    }

    /// Counts the ports; 1 to 65536.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.0.iter().map(|range| range.count()).sum()
    }

    /// Returns whether `port` is in one of the ranges.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.0.iter().any(|range| range.contains(port))
    }
}

impl fmt::Display for PortRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, range) in self.0.iter().enumerate() {
            write!(f, "{}{range}", if at > 0 { ", " } else { "" })?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for PortRanges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ranges = match Value::deserialize(deserializer)? {
            Value::Array(list) => list.into_iter().map(PortRange::deserialize).collect::<Result<Vec<_>, _>>(),
            one => PortRange::deserialize(one).map(|range| vec![range]),
        };
        Self::new(ranges.map_err(D::Error::custom)?).ok_or_else(|| D::Error::custom("no range, or two share a port"))
    }
}

impl Serialize for PortRanges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.as_slice() {
            [one] => one.serialize(serializer),
            more => more.serialize(serializer),
        }
    }
}

/// Holds a range of UDP ports, both ends included, written `"first-last"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    first: u16,
    last: u16,
}

impl PortRange {
    /// Returns the range, or `None` if `first` is above `last`.
    #[must_use]
    pub const fn new(first: u16, last: u16) -> Option<Self> {
        if first <= last { Some(Self { first, last }) } else { None }
    }

    /// Returns the first port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Returns the last port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// Returns the number of ports, 1 to 65536.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.last as u32 - self.first as u32 + 1
    }

    /// Returns whether the range contains `port`.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Returns whether both ranges share a port.
    #[must_use]
    pub const fn overlaps(self, other: Self) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

impl From<PortRange> for RangeInclusive<u16> {
    fn from(range: PortRange) -> Self {
        range.first..=range.last
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl FromStr for PortRange {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const WANTED: &str = "expected two ports joined by a hyphen, the lower one first";
        let (first, last) = text.split_once('-').ok_or(WANTED)?;
        let port = |digits: &str| digits.trim().parse::<u16>().map_err(|_| WANTED);
        Self::new(port(first)?, port(last)?).ok_or(WANTED)
    }
}

impl<'de> Deserialize<'de> for PortRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl Serialize for PortRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
