//! One cache line of the index: ten entries, and how many more would be here.

/// Entries of a bucket: as many as fit a line of 64 bytes.
pub(super) const ENTRIES: usize = 10;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Some bits of each entry's hash; zero where there is none.
    tags: [u16; ENTRIES],
    /// Where each entry's flow is.
    slots: [u32; ENTRIES],
    /// Entries that would be here, had there been room: they are in their second bucket.
    pub(super) spilled: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

impl Bucket {
    pub(super) const EMPTY: Self = Self { tags: [0; ENTRIES], slots: [0; ENTRIES], spilled: 0 };

    /// A bit for each entry with this tag.
    #[inline]
    pub(super) fn matching(&self, tag: u16) -> u32 {
        self.tags.iter().enumerate().fold(0, |mask, (at, other)| mask | u32::from(*other == tag) << at)
    }

    /// The slots of the entries with this tag: almost always none or one.
    #[inline]
    pub(super) fn candidates(&self, tag: u16) -> impl Iterator<Item = u32> + '_ {
        let mut mask = self.matching(tag);
        std::iter::from_fn(move || {
            let slot = self.slots.get(mask.trailing_zeros() as usize)?;
            mask &= mask.wrapping_sub(1);
            Some(*slot)
        })
    }

    /// Every entry's tag and slot.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u16, u32)> + '_ {
        self.tags.iter().zip(&self.slots).filter(|(tag, _)| **tag != 0).map(|(tag, slot)| (*tag, *slot))
    }

    /// Adds an entry; `false` if there is no room.
    pub(super) fn add(&mut self, tag: u16, slot: u32) -> bool {
        let at = self.matching(0).trailing_zeros() as usize;
        let (Some(free), Some(place)) = (self.tags.get_mut(at), self.slots.get_mut(at)) else { return false };
        (*free, *place) = (tag, slot);
        true
    }

    /// Takes out the entry of `slot`; `false` if it is not here.
    pub(super) fn take(&mut self, tag: u16, slot: u32) -> bool {
        let mut entries = self.tags.iter_mut().zip(&self.slots);
        let found = entries.find(|(other, at)| **other == tag && **at == slot);
        found.map(|(other, _)| *other = 0).is_some()
    }
}
