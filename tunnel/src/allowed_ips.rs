//! Allowed IPs: which peer owns an inner address. The longest prefix decides, in both directions.
//!
//! A peer with 10.0.0.0/8 may not use 10.1.2.3 while another peer has 10.1.0.0/16: each address has one owner.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Holds an address prefix. Bits beyond its length are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// Reports why prefixes cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PrefixError {
    /// The text is no prefix.
    #[error("prefix {0:?}: not an address and a length; expected for example 10.0.0.0/24 or fd00::/64")]
    Syntax(String),
    /// Two peers have the same prefix.
    #[error("prefix {0}: given to two peers; expected one owner; to fix: remove it from one of them")]
    Twice(Prefix),
}

impl Prefix {
    /// Returns the prefix of `address` with `length` bits; `None` if the address has fewer.
    #[must_use]
    pub fn new(address: IpAddr, length: u8) -> Option<Self> {
        let address = match address {
            IpAddr::V4(v4) if length <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Ipv4Addr::from_bits(v4.to_bits() & mask).into()
            }
            IpAddr::V6(v6) if length <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Ipv6Addr::from_bits(v6.to_bits() & mask).into()
            }
            _ => return None,
        };
        Some(Self { address, length })
    }

    /// Returns the first address.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Returns the length, bits.
    #[must_use]
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` is in the prefix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        Self::new(address, self.length) == Some(*self)
    }

    /// Returns the first and the last address as numbers.
    fn range(&self) -> (u128, u128) {
        match self.address {
            IpAddr::V4(v4) => {
                let first = v4.to_bits();
                (first.into(), (first | u32::MAX.checked_shr(self.length.into()).unwrap_or(0)).into())
            }
            IpAddr::V6(v6) => {
                let first = v6.to_bits();
                (first, first | u128::MAX.checked_shr(self.length.into()).unwrap_or(0))
            }
        }
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `address/length`, or an address alone. Bits beyond the length are cleared, as `wg` does.
    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let error = || PrefixError::Syntax(text.to_owned());
        let (address, length) = text.split_once('/').map_or((text, None), |(address, length)| (address, Some(length)));
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let length = match length {
            // Only digits: `u8::from_str` would take a plus sign.
            Some(length) if !length.bytes().all(|byte| byte.is_ascii_digit()) => return Err(error()),
            Some(length) => length.parse().map_err(|_| error())?,
            None if address.is_ipv4() => 32,
            None => 128,
        };
        Self::new(address, length).ok_or_else(error)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

/// Finds the owner of an inner address. Built once from all prefixes, then only read.
#[derive(Debug, Clone, Default)]
pub struct AllowedIps<T> {
    v4: Ranges<T>,
    v6: Ranges<T>,
}

/// Divides the addresses of one family into ranges: each begins at its `start` and ends before the next one.
#[derive(Debug, Clone)]
struct Ranges<T> {
    starts: Vec<u128>,
    owners: Vec<Option<T>>,
}

impl<T> Default for Ranges<T> {
    fn default() -> Self {
        Self { starts: Vec::new(), owners: Vec::new() }
    }
}

impl<T: Copy + PartialEq> AllowedIps<T> {
    /// Builds the table.
    ///
    /// # Errors
    /// [`PrefixError::Twice`] if two owners have the same prefix. Prefixes of different length may overlap.
    pub fn build(entries: impl IntoIterator<Item = (Prefix, T)>) -> Result<Self, PrefixError> {
        let (v4, v6) = entries.into_iter().partition(|(prefix, _): &(Prefix, T)| prefix.address.is_ipv4());
        Ok(Self { v4: Ranges::build(v4)?, v6: Ranges::build(v6)? })
    }

    /// Returns the owner of an address: that of the longest prefix which contains it.
    #[must_use]
    #[inline]
    pub fn owner(&self, address: IpAddr) -> Option<T> {
        match address {
            IpAddr::V4(v4) => self.v4.owner(v4.to_bits().into()),
            IpAddr::V6(v6) => self.v6.owner(v6.to_bits()),
        }
    }

    /// Returns the memory of the table, bytes.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        let entry = size_of::<u128>() + size_of::<Option<T>>();
        (self.v4.starts.capacity() + self.v6.starts.capacity()) * entry
    }
}

impl<T: Copy + PartialEq> Ranges<T> {
    fn build(mut entries: Vec<(Prefix, T)>) -> Result<Self, PrefixError> {
        // A prefix stands before those that it contains.
        entries.sort_by_key(|(prefix, _)| *prefix);
        for pair in entries.windows(2) {
            if let [(one, owner), (other, another)] = pair
                && one == other
                && owner != another
            {
                return Err(PrefixError::Twice(*one));
            }
        }
        let (mut ranges, mut open) = (Self::default(), Vec::<(u128, T)>::new());
        for (prefix, owner) in entries {
            let (first, last) = prefix.range();
            ranges.close(&mut open, Some(first));
            ranges.push(first, Some(owner));
            open.push((last, owner));
        }
        ranges.close(&mut open, None);
        Ok(ranges)
    }

    /// Ends the prefixes whose last address is before `next`: the range behind each belongs to the one around it.
    fn close(&mut self, open: &mut Vec<(u128, T)>, next: Option<u128>) {
        while let Some((last, _)) = open.pop_if(|(last, _)| next.is_none_or(|next| *last < next)) {
            if let Some(start) = last.checked_add(1) {
                self.push(start, open.last().map(|(_, owner)| *owner));
            }
        }
    }

    fn push(&mut self, start: u128, owner: Option<T>) {
        if self.starts.last() == Some(&start) {
            self.owners.pop();
        } else {
            self.starts.push(start);
        }
        self.owners.push(owner);
    }

    fn owner(&self, address: u128) -> Option<T> {
        let at = self.starts.partition_point(|start| *start <= address);
        self.owners.get(at.checked_sub(1)?).copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn table(entries: &[(&str, u32)]) -> AllowedIps<u32> {
        AllowedIps::build(entries.iter().map(|(prefix, peer)| (prefix.parse().unwrap(), *peer))).unwrap()
    }

    fn owner(table: &AllowedIps<u32>, address: &str) -> Option<u32> {
        table.owner(address.parse().unwrap())
    }

    #[test]
    fn longest_prefix_owns_an_address() {
        let table = table(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("10.1.2.3", 3), ("0.0.0.0/0", 4), ("fd00::/8", 5)]);
        for (address, peer) in [("10.0.0.1", 1), ("10.1.0.1", 2), ("10.1.2.3", 3), ("10.1.2.4", 2), ("10.2.0.0", 1)] {
            assert_eq!(owner(&table, address), Some(peer), "{address}");
        }
        assert_eq!(owner(&table, "11.0.0.0"), Some(4));
        assert_eq!(owner(&table, "255.255.255.255"), Some(4));
        assert_eq!(owner(&table, "fdff::1"), Some(5));
        assert_eq!(owner(&table, "fe00::1"), None);
        assert_eq!(owner(&table, "::ffff:10.0.0.1"), None, "0.0.0.0/0 does not cover IPv6");
    }

    #[test]
    fn peer_cannot_use_a_subset_that_another_peer_owns() {
        let table = table(&[("10.0.0.0/8", 1), ("10.1.0.0/16", 2)]);
        assert_ne!(owner(&table, "10.1.2.3"), Some(1), "the wide prefix of peer 1 does not own it");
        assert_ne!(owner(&table, "10.2.0.1"), Some(2));
    }

    #[test]
    fn prefix_with_two_owners_is_refused_and_named() {
        let entries = [("10.0.0.0/8", 1), ("10.0.0.9/8", 2)].map(|(prefix, peer)| (prefix.parse().unwrap(), peer));
        let error = AllowedIps::build(entries).unwrap_err();
        assert!(error.to_string().starts_with("prefix 10.0.0.0/8: given to two peers"), "{error}");
        assert!(AllowedIps::build(entries.map(|(prefix, _)| (prefix, 1))).is_ok(), "the same owner twice");
    }

    #[test]
    fn wrong_prefixes_are_refused() {
        for text in ["", "10.0.0.0/33", "fd00::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/+8", "10.0.0.0/8/9", "x/8"] {
            assert!(matches!(text.parse::<Prefix>(), Err(PrefixError::Syntax(_))), "{text}");
        }
        assert_eq!("10.1.2.3/8".parse::<Prefix>().unwrap().to_string(), "10.0.0.0/8");
    }

    fn prefix() -> impl Strategy<Value = Prefix> {
        let v4 = (any::<u32>(), 0..=32_u8)
            .prop_map(|(bits, length)| Prefix::new(Ipv4Addr::from_bits(bits & 0xf0f0_00ff).into(), length).unwrap());
        let v6 = (any::<u128>(), 0..=128_u8).prop_map(|(bits, length)| {
            Prefix::new(Ipv6Addr::from_bits(bits & 0xf0f0_0000_ffff).into(), length).unwrap()
        });
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn table_agrees_with_a_list(mut entries in prop::collection::vec((prefix(), 0..9_u32), 0..40), probes in prop::collection::vec(any::<(u32, u128)>(), 20)) {
            entries.sort();
            entries.dedup_by_key(|(prefix, _)| *prefix);
            let table = AllowedIps::build(entries.clone()).unwrap();
            let edges = entries.iter().map(|(prefix, _)| prefix.address());
            let random = probes.iter().flat_map(|(v4, v6)| [Ipv4Addr::from_bits(v4 & 0xf0f0_00ff).into(), IpAddr::from(Ipv6Addr::from_bits(v6 & 0xf0f0_0000_ffff))]);
            for address in edges.chain(random) {
                let expected = entries.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(prefix, _)| prefix.length());
                prop_assert_eq!(table.owner(address), expected.map(|(_, owner)| *owner), "{}", address);
            }
        }
    }
}
