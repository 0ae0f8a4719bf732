//! Checks a table's invariants.

use std::collections::HashSet;

use super::{FlowTable, Keyed};

/// Reports a violated invariant of a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Inconsistent {
    /// A panic interrupted a change.
    #[error("flow table: a change was interrupted")]
    Broken,
    /// Some slots are neither free nor in use, or both.
    #[error("flow table: {taken} slots in use and {free} free; expected {capacity} in all")]
    Slots {
        /// Number of slots with a flow.
        taken: usize,
        /// Number of free slots.
        free: usize,
        /// Number of all slots.
        capacity: usize,
    },
    /// A flow cannot be found by its key, or has more than one entry.
    #[error("flow table: the flow in slot {slot} has {entries} index entries; expected 1")]
    Entries {
        /// Slot of the flow.
        slot: u32,
        /// Number of entries that lead to it.
        entries: usize,
    },
    /// The index has entries without a flow.
    #[error("flow table: {entries} index entries; expected {flows}, the number of flows")]
    Index {
        /// Number of all entries.
        entries: usize,
        /// Number of all flows.
        flows: usize,
    },
    /// A bucket's count of spilled entries is wrong.
    #[error("flow table: bucket {bucket} counts {counted} spilled entries; expected {spilled}")]
    Spilled {
        /// Number of the bucket.
        bucket: usize,
        /// Number in the bucket.
        counted: u32,
        /// Actual number.
        spilled: u32,
    },
}

impl<T: Keyed> FlowTable<T> {
    /// Checks that the last change was completed. This suffices before a table is inherited from a handler that
    /// panicked. The check has no cost.
    ///
    /// # Errors
    /// Returns [`Inconsistent::Broken`].
    pub fn verify(&self) -> Result<(), Inconsistent> {
        if self.changing { Err(Inconsistent::Broken) } else { Ok(()) }
    }

    /// Checks everything: [`verify`](Self::verify), each slot, each entry, each count. It is for tests and simulations,
    /// because it reads all memory and allocates.
    ///
    /// # Errors
    /// Returns the first violated invariant.
    pub fn audit(&self) -> Result<(), Inconsistent> {
        self.verify()?;
        let taken = self.slots.iter().flatten().count();
        let free: HashSet<u32> = self.free.iter().copied().filter(|slot| self.get(*slot).is_none()).collect();
        if taken + free.len() != self.capacity() || free.len() != self.free.len() {
            return Err(Inconsistent::Slots { taken, free: free.len(), capacity: self.capacity() });
        }
        let mut spilled = vec![0; self.buckets.len()];
        for (slot, flow) in self.iter_from(0) {
            let place = self.place(self.hash.one(flow.key()));
            let in_bucket = |at: usize| self.buckets[at].entries().filter(|&entry| entry == (place.tag, slot)).count();
            let (first, second) = (in_bucket(place.first), in_bucket(place.second));
            let entries = if place.first == place.second { first } else { first + second };
            if entries != 1 || self.find(flow.key()) != Some(slot) {
                return Err(Inconsistent::Entries { slot, entries });
            }
            spilled[place.first] += u32::from(first == 0);
        }
        let entries = self.buckets.iter().map(|bucket| bucket.entries().count()).sum();
        if entries != taken {
            return Err(Inconsistent::Index { entries, flows: taken });
        }
        let counts = self.buckets.iter().map(|bucket| bucket.spilled).zip(spilled);
        match counts.enumerate().find(|(_, (counted, spilled))| counted != spilled) {
            None => Ok(()),
            Some((bucket, (counted, spilled))) => Err(Inconsistent::Spilled { bucket, counted, spilled }),
        }
    }
}
