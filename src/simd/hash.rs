//! Implements the keyed hash of a flow table.
//!
//! A sender chooses addresses and ports and must not be able to choose collisions. At AVX-512 the hash is three
//! AES rounds over sixteen keys at once; at other levels two multiplications. The values differ between levels
//! and never leave the process.

use super::Processor;
use crate::packet::{Endpoint, LANES};

/// Identifies a flow: the sender, and a number that the owner chooses for its own end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlowKey {
    /// Address and port of the sender.
    pub remote: Endpoint,
    /// Number of the owner's end that receives the packet, such as the index of a relay entry.
    pub local: u16,
}

impl FlowKey {
    /// Returns port and local number in one word, in the order in which they are one word in memory.
    #[inline]
    fn ends(&self) -> u32 {
        u32::from(self.remote.port) | u32::from(self.local) << 16
    }
}

/// Holds the keys of a batch in columns.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct FlowKeys {
    addresses: [[u8; 16]; LANES],
    ends: [u32; LANES],
}

impl Default for FlowKeys {
    fn default() -> Self {
        Self { addresses: [[0; 16]; LANES], ends: [0; LANES] }
    }
}

impl FlowKeys {
    /// Sets the key of `lane`, below [`LANES`].
    #[inline]
    pub fn set(&mut self, lane: usize, key: &FlowKey) {
        self.addresses[lane] = key.remote.address;
        self.ends[lane] = key.ends();
    }

    /// Returns the key of `lane`, below [`LANES`].
    #[must_use]
    #[inline]
    pub fn get(&self, lane: usize) -> FlowKey {
        let (address, ends) = (self.addresses[lane], self.ends[lane]);
        FlowKey { remote: Endpoint { address, port: ends as u16 }, local: (ends >> 16) as u16 }
    }

    /// Returns whether the key of `lane` is `key`, with one branch for all fields.
    #[inline(always)]
    pub(crate) fn is(&self, lane: usize, key: &FlowKey) -> bool {
        let word = |address: [u8; 16]| u128::from_ne_bytes(address);
        let address = word(self.addresses[lane]) ^ word(key.remote.address);
        address | u128::from(self.ends[lane] ^ key.ends()) == 0
    }
}

/// Computes a hash of [`FlowKey`]s that cannot be predicted without its seed. It is not a cryptographic hash: its
/// values reveal the secrets.
#[derive(Clone, Copy)]
pub struct FlowHash {
    secrets: [[u8; 16]; 3],
    processor: Processor,
}

impl FlowHash {
    /// Creates the hash of `seed`, which must be random and secret. Two hashes are equal if seed and level are equal.
    #[must_use]
    pub fn new(processor: Processor, seed: u64) -> Self {
        let mut state = seed;
        let mut word = || u128::from(splitmix(&mut state));
        Self { secrets: std::array::from_fn(|_| (word() << 64 | word()).to_ne_bytes()), processor }
    }

    /// Returns the processor whose level it uses.
    #[inline]
    pub(crate) fn processor(&self) -> Processor {
        self.processor
    }

    /// Returns the hash of one key.
    #[must_use]
    #[inline]
    pub fn one(&self, key: &FlowKey) -> u64 {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = self.processor.avx512() {
            return x86::one(token, &self.secrets, &key.remote.address, key.ends());
        }
        folded(&self.secrets, &key.remote.address, key.ends())
    }

    /// Writes the hashes of the lanes in `live`. Those of other lanes are unspecified.
    #[inline]
    pub fn lanes(&self, keys: &FlowKeys, live: u64, hashes: &mut [u64; LANES]) {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = self.processor.avx512() {
            return x86::lanes(token, &self.secrets, &keys.addresses, &keys.ends, live, hashes);
        }
        for (lane, hash) in hashes.iter_mut().enumerate() {
            if live & 1 << lane != 0 {
                *hash = folded(&self.secrets, &keys.addresses[lane], keys.ends[lane]);
            }
        }
    }
}

/// Omits the secrets.
impl std::fmt::Debug for FlowHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowHash").finish_non_exhaustive()
    }
}

/// Computes two multiplications of 64 by 64 bits, each folded to 64, with a secret on either side. This is the form of
/// wyhash and foldhash.
#[inline]
fn folded(secrets: &[[u8; 16]; 3], address: &[u8; 16], ends: u32) -> u64 {
    let fold = |a: u64, b: u64| {
        let product = u128::from(a) * u128::from(b);
        product as u64 ^ (product >> 64) as u64
    };
    let [a, b, _] = secrets.map(u128::from_ne_bytes);
    let first = u128::from_ne_bytes(*address) ^ a;
    let second = u128::from(ends) ^ b;
    fold(fold(first as u64, (first >> 64) as u64) ^ (second >> 64) as u64, second as u64)
}

/// Computes one step of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Runs three rounds of AES (FIPS 197): `r(r(r(address ^ a) ^ ends) ^ b) ^ c`, with port and local number in each of
/// the four words. The hash is the lower half of the state. `docs/simd.md` states the reasons for three rounds.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::iter::zip;

    use safe_unaligned_simd::x86_64::{_mm_loadu_si128, _mm512_loadu_si512, _mm512_storeu_si512};

    use crate::packet::LANES;

    fearless_simd::kernel!(
        pub(super) fn one(avx512: Avx512, secrets: &[[u8; 16]; 3], address: &[u8; 16], ends: u32) -> u64 {
            let [a, b, c] = secrets.each_ref().map(|secret| _mm_loadu_si128(secret));
            let state = _mm_xor_si128(_mm_loadu_si128(address), a);
            let state = _mm_aesenc_si128(state, _mm_set1_epi32(ends as i32));
            _mm_cvtsi128_si64(_mm_aesenc_si128(_mm_aesenc_si128(state, b), c)) as u64
        }
    );

    fearless_simd::kernel!(
        /// Hashes sixteen keys in four registers, so that the rounds of one register overlap with those of the others.
        pub(super) fn lanes(
            avx512: Avx512,
            secrets: &[[u8; 16]; 3],
            addresses: &[[u8; 16]; LANES],
            ends: &[u32; LANES],
            live: u64,
            hashes: &mut [u64; LANES],
        ) {
            let [a, b, c] = secrets.each_ref().map(|secret| _mm512_broadcast_i32x4(_mm_loadu_si128(secret)));
            let addresses = addresses.as_flattened().as_chunks::<64>().0.as_chunks::<4>().0;
            let groups =
                zip(zip(addresses, ends.as_chunks::<16>().0), hashes.as_chunks_mut::<8>().0.as_chunks_mut::<2>().0);
            let quarter = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            let quarters = [0, 4, 8, 12].map(|first| _mm512_add_epi32(quarter, _mm512_set1_epi32(first)));
            let lower = _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14);
            for (group, ((addresses, ends), hashes)) in groups.enumerate() {
                if live >> (group * 16) == 0 {
                    break;
                }
                let ends = _mm512_loadu_si512(ends);
                let mut states = addresses.each_ref().map(|four| _mm512_xor_si512(_mm512_loadu_si512(four), a));
                for (state, quarter) in zip(&mut states, quarters) {
                    *state = _mm512_aesenc_epi128(*state, _mm512_permutexvar_epi32(quarter, ends));
                }
                for secret in [b, c] {
                    states = states.map(|state| _mm512_aesenc_epi128(state, secret));
                }
                let [first, second, third, fourth] = states;
                _mm512_storeu_si512(&mut hashes[0], _mm512_permutex2var_epi64(first, lower, second));
                _mm512_storeu_si512(&mut hashes[1], _mm512_permutex2var_epi64(third, lower, fourth));
            }
        }
    );
}

#[cfg(test)]
mod tests;
