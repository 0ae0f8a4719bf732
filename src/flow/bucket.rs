//! One cache line of the index: eleven entries, and how many more would be here.

use crate::simd::equal_bytes;

/// Entries of a bucket: as many as fit a line of 64 bytes.
pub(super) const ENTRIES: usize = 11;
/// Tags are compared all at once; the last five belong to no entry.
const TAGS: usize = 16;
/// In the place of a slot: there is no entry. More than any table has.
const NONE: u32 = u32::MAX;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Some bits of each entry's hash; anything where there is none.
    tags: [u8; TAGS],
    /// Slot of each entry's flow.
    slots: [u32; ENTRIES],
    /// Number of entries that did not fit here and are in their second bucket.
    pub(super) spilled: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    pub(super) const EMPTY: Self = Self { tags: [0; TAGS], slots: [NONE; ENTRIES], spilled: 0 };

    /// The slot of the first entry with this tag; one that no table has may be that of no entry. Mostly there is
    /// none, or the right one.
    #[inline(always)]
    pub(super) fn candidate(&self, tag: u8) -> Option<u32> {
        self.slots.get(equal_bytes(&self.tags, tag).trailing_zeros() as usize).copied()
    }

    /// The slots of all entries with this tag, in order; of no entry as [`candidate`](Self::candidate).
    #[inline(always)]
    pub(super) fn candidates(&self, tag: u8) -> impl Iterator<Item = u32> + '_ {
        let mut mask = equal_bytes(&self.tags, tag);
        std::iter::from_fn(move || {
            let slot = self.slots.get(mask.trailing_zeros() as usize)?;
            mask &= mask.wrapping_sub(1);
            Some(*slot)
        })
    }

    /// Every entry's tag and slot.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u8, u32)> + '_ {
        self.tags.iter().zip(&self.slots).filter(|(_, slot)| **slot != NONE).map(|(tag, slot)| (*tag, *slot))
    }

    /// Adds an entry. Returns `false` if the bucket is full.
    pub(super) fn add(&mut self, tag: u8, slot: u32) -> bool {
        let mut places = self.tags.iter_mut().zip(&mut self.slots);
        let free = places.find(|(_, slot)| **slot == NONE);
        free.map(|place| (*place.0, *place.1) = (tag, slot)).is_some()
    }

    /// Takes out the entry of `slot`; `false` if it is not here.
    pub(super) fn take(&mut self, tag: u8, slot: u32) -> bool {
        let mut places = self.tags.iter_mut().zip(&mut self.slots);
        let found = places.find(|(other, at)| **other == tag && **at == slot);
        found.map(|place| (*place.0, *place.1) = (0, NONE)).is_some()
    }
}
