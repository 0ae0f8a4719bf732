//! One cache line of the index: eleven entries, and how many more would be here.

/// Entries of a bucket: as many as fit a line of 64 bytes.
pub(super) const ENTRIES: usize = 11;
/// Tags are compared eight at a time, in words: the last five bytes are nobody's.
const TAGS: usize = 16;
/// In a place that is nobody's; no entry has it.
const NOBODY: u8 = 0xff;

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Bucket {
    /// Some bits of each entry's hash; zero where there is none.
    tags: [u8; TAGS],
    /// Where each entry's flow is.
    slots: [u32; ENTRIES],
    /// Entries that would be here, had there been room: they are in their second bucket.
    pub(super) spilled: u32,
}

const _: () = assert!(size_of::<Bucket>() == 64);

/// The tag of a hash: neither zero nor [`NOBODY`].
#[inline]
pub(super) fn tag_of(hash: u64) -> u8 {
    (hash as u8).clamp(1, NOBODY - 1)
}

impl Bucket {
    pub(super) const EMPTY: Self = {
        let mut tags = [NOBODY; TAGS];
        let mut at = 0;
        while at < ENTRIES {
            tags[at] = 0;
            at += 1;
        }
        Self { tags, slots: [0; ENTRIES], spilled: 0 }
    };

    /// A bit in the byte of each place with this tag, and perhaps in one right behind it: whoever asks looks at the
    /// flow's key as well. The first one is always true.
    #[inline]
    fn matching(&self, tag: u8) -> u128 {
        const LOW: u64 = u64::from_le_bytes([1; 8]);
        let (words, _) = self.tags.as_chunks::<8>();
        words.iter().enumerate().fold(0, |mask, (at, word)| {
            // A byte that is zero borrows from its highest bit (Bit Twiddling Hacks, "haszero").
            let differs = u64::from_le_bytes(*word) ^ (LOW * u64::from(tag));
            let zero = differs.wrapping_sub(LOW) & !differs & (LOW << 7);
            mask | u128::from(zero) << (64 * at)
        })
    }

    /// The slots of the entries with this tag: mostly none or one.
    #[inline]
    pub(super) fn candidates(&self, tag: u8) -> impl Iterator<Item = u32> + '_ {
        let mut mask = self.matching(tag);
        std::iter::from_fn(move || {
            let slot = self.slots.get(mask.trailing_zeros() as usize / 8)?;
            mask &= mask.wrapping_sub(1);
            Some(*slot)
        })
    }

    /// Every entry's tag and slot.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u8, u32)> + '_ {
        self.tags.iter().zip(&self.slots).filter(|(tag, _)| **tag != 0).map(|(tag, slot)| (*tag, *slot))
    }

    /// Adds an entry; `false` if there is no room.
    pub(super) fn add(&mut self, tag: u8, slot: u32) -> bool {
        let at = self.matching(0).trailing_zeros() as usize / 8;
        let (Some(free), Some(place)) = (self.tags.get_mut(at), self.slots.get_mut(at)) else { return false };
        (*free, *place) = (tag, slot);
        true
    }

    /// Takes out the entry of `slot`; `false` if it is not here.
    pub(super) fn take(&mut self, tag: u8, slot: u32) -> bool {
        let mut entries = self.tags.iter_mut().zip(&self.slots);
        let found = entries.find(|(other, at)| **other == tag && **at == slot);
        found.map(|(other, _)| *other = 0).is_some()
    }
}
