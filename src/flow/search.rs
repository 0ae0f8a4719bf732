//! Looks up the keys of a whole batch.

use super::{BucketPair, FlowKeys, FlowTable, Keyed};
use crate::packet::{LANES, lanes};
use crate::umem::prefetch;

/// Sets the keys in a stage of a look-up. It prefetches this number of bucket lines and flow lines at once, which is
/// about the number of misses that a core can have outstanding.
const IN_FLIGHT: usize = 16;

impl<T: Keyed> FlowTable<T> {
    /// Looks up the keys of the lanes in `live`. Returns a mask of the lanes that were found, and writes their slots to
    /// `found`; its other lanes are unspecified. The flows that were found are in the cache.
    pub fn look_up(&self, keys: &FlowKeys, live: u64, found: &mut [u32; LANES]) -> u64 {
        let mut hashes = [0; LANES];
        self.hash.lanes(keys, live, &mut hashes);
        self.hash.processor().recompiled(
            #[inline(always)]
            || self.search(keys, live, &hashes, found),
        )
    }

    /// Runs [`look_up`](Self::look_up) with the hashes of all live lanes, in three stages. Each stage is a group after
    /// the one before, so that lines are fetched while others are compared.
    #[inline(always)]
    fn search(&self, keys: &FlowKeys, live: u64, hashes: &[u64; LANES], found: &mut [u32; LANES]) -> u64 {
        let group = |number: usize| ((1 << IN_FLIGHT) - 1_u64).checked_shl((number * IN_FLIGHT) as u32).unwrap_or(0);
        let mut firsts = [0; LANES];
        // Lanes with a candidate.
        let mut hit = 0;
        for step in 0..LANES / IN_FLIGHT + 2 {
            for lane in lanes(live & group(step)) {
                firsts[lane] = self.first(hashes[lane]);
                prefetch(self.buckets.as_ptr().wrapping_add(firsts[lane]));
            }
            if let Some(before) = step.checked_sub(2) {
                hit &= !self.others(keys, hit & group(before), hashes, found);
            }
            if let Some(before) = step.checked_sub(1) {
                hit |= self.candidates(live & group(before), hashes, &firsts, found);
            }
        }
        hit
    }

    /// Finds for each lane in `of` a slot whose entry has the lane's tag, and prefetches it. Returns these lanes.
    #[inline(always)]
    fn candidates(&self, of: u64, hashes: &[u64; LANES], firsts: &[usize; LANES], found: &mut [u32; LANES]) -> u64 {
        // Lanes with a candidate, and lanes whose second bucket was prefetched.
        let (mut hit, mut spilled) = (0, 0);
        for lane in lanes(of) {
            let bucket = &self.buckets[firsts[lane]];
            if let Some(slot) = bucket.candidate(hashes[lane] as u8) {
                self.prefetch(slot);
                found[lane] = slot;
                hit |= 1 << lane;
            } else if bucket.spilled > 0 {
                prefetch(&self.buckets[self.place(hashes[lane]).second]);
                spilled |= 1 << lane;
            }
        }
        for lane in lanes(spilled) {
            let BucketPair { tag, second, .. } = self.place(hashes[lane]);
            if let Some(slot) = self.buckets[second].candidate(tag) {
                self.prefetch(slot);
                found[lane] = slot;
                hit |= 1 << lane;
            }
        }
        hit
    }

    /// Compares the keys. Returns the lanes in `of` that have no flow.
    #[inline(always)]
    fn others(&self, keys: &FlowKeys, of: u64, hashes: &[u64; LANES], found: &mut [u32; LANES]) -> u64 {
        let mut none = 0;
        for lane in lanes(of) {
            if self.get(found[lane]).is_some_and(|flow| keys.is(lane, flow.key())) {
                continue;
            }
            // Another flow with the same tag came first.
            match self.find_at(self.place(hashes[lane]), &keys.get(lane)) {
                Some(slot) => found[lane] = slot,
                None => none |= 1 << lane,
            }
        }
        none
    }
}
