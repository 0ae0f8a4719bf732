//! Holds sets of CPU numbers in the kernel's notation: `0-3,8`.
//!
//! This module has the only parser and printer of CPU lists.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Upper bound of CPU numbers. The kernel's largest `NR_CPUS` is 8192. The bound prevents that a list such as
/// `0-4294967295` in a file uses all memory.
pub const MAX_CPUS: u32 = 8192;

/// Holds a set of CPU (hardware thread) numbers of the operating system. JSON and text use the kernel's list format
/// (Documentation/admin-guide/kernel-parameters, "cpu lists"): `0-3,8`.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuList(BTreeSet<u32>);

/// Describes why a CPU list cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CpuListError {
    /// A part is neither a number nor a range.
    #[error("cpu list {list:?}: {part:?} is neither a number nor a range; expected a list such as 0-3,8")]
    Syntax {
        /// The whole list.
        list: String,
        /// Part with the error.
        part: String,
    },
    /// The first number of a range exceeds the last.
    #[error("cpu list {list:?}: the range {part:?} runs backwards; expected the lower number first")]
    Backwards {
        /// The whole list.
        list: String,
        /// Part with the error.
        part: String,
    },
    /// A number exceeds the kernel's limit.
    #[error("cpu list {list:?}: {part:?} exceeds the largest cpu number ({})", MAX_CPUS - 1)]
    TooLarge {
        /// The whole list.
        list: String,
        /// Part with the error.
        part: String,
    },
}

impl CpuList {
    /// Creates the empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns whether `cpu` is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.0.contains(&cpu)
    }

    /// Adds `cpu`. Returns false if the set contained it already.
    pub fn insert(&mut self, cpu: u32) -> bool {
        self.0.insert(cpu)
    }

    /// Returns the number of CPUs in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the numbers in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.0.iter().copied()
    }

    /// Returns the lowest number.
    #[must_use]
    pub fn first(&self) -> Option<u32> {
        self.0.first().copied()
    }

    /// Returns the CPUs that are in both sets.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self(self.0.intersection(&other.0).copied().collect())
    }

    /// Returns the CPUs that are in either set.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self(self.0.union(&other.0).copied().collect())
    }

    /// Returns the CPUs that are in this set and not in `other`.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        Self(self.0.difference(&other.0).copied().collect())
    }
}

impl FromIterator<u32> for CpuList {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        Self(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if(|&next| last.checked_add(1) == Some(next)) {
                last = next;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for CpuList {
    type Err = CpuListError;

    /// Parses the kernel's list format. White space around the parts is ignored. The empty text is the empty set.
    fn from_str(list: &str) -> Result<Self, CpuListError> {
        let mut cpus = BTreeSet::new();
        let mut named = 0;
        for part in list.trim().split(',').map(str::trim) {
            if part.is_empty() && list.trim().is_empty() {
                break;
            }
            let owned = || (list.to_owned(), part.to_owned());
            let number = |text: &str| -> Result<u32, CpuListError> {
                let (list, part) = owned();
                let value: u32 = text.trim().parse().map_err(|_| CpuListError::Syntax { list, part })?;
                let (list, part) = owned();
                if value < MAX_CPUS { Ok(value) } else { Err(CpuListError::TooLarge { list, part }) }
            };
            match part.split_once('-') {
                None => {
                    cpus.insert(number(part)?);
                }
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if first > last {
                        let (list, part) = owned();
                        return Err(CpuListError::Backwards { list, part });
                    }
                    // Without this limit a list that repeats every number would take minutes to read.
                    named += last - first;
                    if named > 4 * MAX_CPUS {
                        let (list, part) = owned();
                        return Err(CpuListError::TooLarge { list, part });
                    }
                    cpus.extend(first..=last);
                }
            }
        }
        Ok(Self(cpus))
    }
}

impl Serialize for CpuList {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for CpuList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn cpu_list_parses_kernel_format() {
        let cpus: CpuList = "0-2,8, 10-11\n".parse().unwrap();
        assert_eq!(cpus.iter().collect::<Vec<_>>(), [0, 1, 2, 8, 10, 11]);
        assert_eq!("".parse::<CpuList>().unwrap(), CpuList::new());
        for bad in ["x", "1-", "-1", "3-1", "0-4294967295", "8192", "1,,2", ","] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_back(cpus in proptest::collection::btree_set(0..MAX_CPUS, 0..40)) {
            let list = CpuList(cpus);
            prop_assert_eq!(list.to_string().parse::<CpuList>().unwrap(), list);
        }
    }
}
