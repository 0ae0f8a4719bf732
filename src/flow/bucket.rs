//! Defines a bucket: one cache line of the index, with eleven entries and a count of spilled ones.

use crate::simd::equal_bytes;

/// Limits the entries of a bucket, which fit a line of 64 bytes.
pub(super) const ENTRIES: usize = 11;
/// Counts the tags, which are compared all at once. The last five belong to no entry.
const TAGS: usize = 16;
/// Marks a slot without an entry. The value is larger than any slot number.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Some bits of the hash of each entry; arbitrary without an entry.
    tags: [u8; TAGS],
    /// Slot of each entry's flow.
    slots: [u32; ENTRIES],
    /// Number of entries that did not fit here and are in their second bucket.
    pub(super) spilled: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    pub(super) const EMPTY: Self = Self { tags: [0; TAGS], slots: [NONE; ENTRIES], spilled: 0 };

    /// Returns the slot of the first entry with this tag. The result may be the invalid slot of an empty place. In most
    /// cases there is no such entry, or it is the right one.
    #[inline(always)]
    pub(super) fn candidate(&self, tag: u8) -> Option<u32> {
        self.slots.get(equal_bytes(&self.tags, tag).trailing_zeros() as usize).copied()
    }

    /// Returns the slots of all entries with this tag in order, possibly with the invalid slots of empty places.
    #[inline(always)]
    pub(super) fn candidates(&self, tag: u8) -> impl Iterator<Item = u32> + '_ {
        let mut mask = equal_bytes(&self.tags, tag);
        std::iter::from_fn(move || {
            let slot = self.slots.get(mask.trailing_zeros() as usize)?;
            mask &= mask.wrapping_sub(1);
            Some(*slot)
        })
    }

    /// Returns the tag and the slot of every entry.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u8, u32)> + '_ {
        self.tags.iter().zip(&self.slots).filter(|(_, slot)| **slot != NONE).map(|(tag, slot)| (*tag, *slot))
    }

    /// Adds an entry. Returns `false` if the bucket is full.
    pub(super) fn add(&mut self, tag: u8, slot: u32) -> bool {
        let mut places = self.tags.iter_mut().zip(&mut self.slots);
        let free = places.find(|(_, slot)| **slot == NONE);
        free.map(|place| (*place.0, *place.1) = (tag, slot)).is_some()
    }

    /// Removes the entry of `slot`. Returns `false` if it is not in this bucket.
    pub(super) fn take(&mut self, tag: u8, slot: u32) -> bool {
        let mut places = self.tags.iter_mut().zip(&mut self.slots);
        let found = places.find(|(other, at)| **other == tag && **at == slot);
        found.map(|place| (*place.0, *place.1) = (0, NONE)).is_some()
    }
}
