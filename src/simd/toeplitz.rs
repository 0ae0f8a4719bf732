//! The hash that NICs choose receive queues by (Microsoft, "RSS hashing functions"): for every bit of
//! the input that is set, the 32 bits of the key that begin at that place are added without carry.

use super::Processor;
use crate::packet::{Flow, LANES};

/// Bytes of the longest input: two IPv6 addresses and two ports.
const INPUT: usize = 36;
/// Bytes of key that such an input uses.
const KEY: usize = INPUT + 4;

/// The inputs of a batch: byte `i` of all lanes, then byte `i + 1`.
#[derive(Debug, Clone)]
#[repr(align(64))]
pub struct Tuples {
    bytes: [[u8; LANES]; INPUT],
}

impl Default for Tuples {
    fn default() -> Self {
        Self { bytes: [[0; LANES]; INPUT] }
    }
}

impl Tuples {
    /// Sets the input of `lane`, below [`LANES`]: addresses and ports of an IPv4 or IPv6 flow. All
    /// lanes of one batch must be of one family.
    pub fn set(&mut self, lane: usize, flow: &Flow) {
        let mut input = [0; INPUT];
        let length = input_of(flow, &mut input);
        for (column, byte) in self.bytes.iter_mut().zip(&input[..length]) {
            column[lane] = *byte;
        }
    }
}

/// The hash of one key.
#[derive(Clone)]
pub struct Toeplitz {
    processor: Processor,
    /// Effect of each input byte, bit by bit, first bit first.
    effects: [[u32; 8]; INPUT],
    /// The same as matrices over single bits, one for each byte of the hash, its last byte first.
    matrices: [[u64; 4]; INPUT],
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

impl Toeplitz {
    /// The hash of a device's key; of what is beyond 40 bytes nothing depends. `None` if the key is
    /// shorter.
    #[must_use]
    pub fn new(processor: Processor, key: &[u8]) -> Option<Self> {
        let key: &[u8; KEY] = key.first_chunk()?;
        // The 32 bits of the key that begin at a bit.
        let window = |bit: usize| {
            let bytes = key[bit / 8..].iter().chain(&[0; 5]).take(5);
            let word = bytes.fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            (word >> (8 - bit % 8)) as u32
        };
        let effects: [[u32; 8]; INPUT] = std::array::from_fn(|byte| std::array::from_fn(|bit| window(byte * 8 + bit)));
        Some(Self { processor, effects, matrices: effects.map(|effects| matrices(&effects)) })
    }

    /// The hash of one flow's addresses and ports.
    #[must_use]
    pub fn one(&self, flow: &Flow) -> u32 {
        let mut input = [0; INPUT];
        let length = input_of(flow, &mut input);
        self.bytes(&input[..length])
    }

    /// The hash of any input of at most 36 bytes (of more, the first 36).
    #[must_use]
    pub fn bytes(&self, input: &[u8]) -> u32 {
        let mut hash = 0;
        for (byte, effects) in input.iter().zip(&self.effects) {
            for (bit, effect) in effects.iter().enumerate() {
                // All ones if the bit is set: no branch that random input would mislead.
                hash ^= effect & (u32::from(*byte >> (7 - bit)) & 1).wrapping_neg();
            }
        }
        hash
    }

    /// The hashes of all lanes, of the family given.
    pub fn lanes(&self, tuples: &Tuples, ipv4: bool, hashes: &mut [u32; LANES]) {
        let length = if ipv4 { 12 } else { INPUT };
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = self.processor.avx512() {
            return x86::lanes(token, &self.matrices[..length], &tuples.bytes[..length], hashes);
        }
        for (lane, hash) in hashes.iter_mut().enumerate() {
            let mut input = [0; INPUT];
            for (byte, column) in input.iter_mut().zip(&tuples.bytes[..length]) {
                *byte = column[lane];
            }
            *hash = self.bytes(&input[..length]);
        }
    }
}

/// Addresses and ports as they are on the wire. Returns how many bytes.
fn input_of(Flow { source, destination }: &Flow, input: &mut [u8; INPUT]) -> usize {
    let address = if source.is_ipv4() { 12..16 } else { 0..16 };
    let (a, b) = (&source.address[address.clone()], &destination.address[address]);
    let (c, d) = (source.port.to_be_bytes(), destination.port.to_be_bytes());
    let bytes = a.iter().chain(b).chain(&c).chain(&d);
    input.iter_mut().zip(bytes).map(|(to, from)| *to = *from).count()
}

/// Builds the matrices for `gf2p8affineqb`: bit `i` of the result is the parity of the input and byte `7 - i` of the matrix.
fn matrices(effects: &[u32; 8]) -> [u64; 4] {
    std::array::from_fn(|byte| {
        let row = |i: usize| {
            let bits = effects.iter().map(|effect| effect >> (byte * 8 + i) & 1);
            bits.fold(0, |row, bit| row << 1 | u64::from(bit))
        };
        (0..8).fold(0, |matrix, i| matrix | row(i) << (8 * (7 - i)))
    })
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::iter::zip;

    use safe_unaligned_simd::x86_64::{_mm512_loadu_si512, _mm512_storeu_si512};

    use crate::packet::LANES;

    fearless_simd::kernel!(
        /// One product of 64 bytes with a bit matrix for each byte of input and of hash.
        pub(super) fn lanes(avx512: Avx512, matrices: &[[u64; 4]], columns: &[[u8; LANES]], hashes: &mut [u32; LANES]) {
            let mut sums = [_mm512_setzero_si512(); 4];
            for (matrices, column) in zip(matrices, columns) {
                let column = _mm512_loadu_si512(column);
                for (sum, matrix) in zip(&mut sums, matrices) {
                    let matrix = _mm512_set1_epi64(*matrix as i64);
                    *sum = _mm512_xor_si512(*sum, _mm512_gf2p8affine_epi64_epi8::<0>(column, matrix));
                }
            }
            // Bytes of four registers to words: within each quarter, then the quarters in order.
            let (a, b) = (_mm512_unpacklo_epi8(sums[0], sums[1]), _mm512_unpackhi_epi8(sums[0], sums[1]));
            let (c, d) = (_mm512_unpacklo_epi8(sums[2], sums[3]), _mm512_unpackhi_epi8(sums[2], sums[3]));
            let (p, q) = (_mm512_unpacklo_epi16(a, c), _mm512_unpackhi_epi16(a, c));
            let (r, s) = (_mm512_unpacklo_epi16(b, d), _mm512_unpackhi_epi16(b, d));
            let (pq, rs) = (_mm512_shuffle_i32x4::<0x44>(p, q), _mm512_shuffle_i32x4::<0x44>(r, s));
            let (tu, vw) = (_mm512_shuffle_i32x4::<0xee>(p, q), _mm512_shuffle_i32x4::<0xee>(r, s));
            let quarters = [
                _mm512_shuffle_i32x4::<0x88>(pq, rs),
                _mm512_shuffle_i32x4::<0xdd>(pq, rs),
                _mm512_shuffle_i32x4::<0x88>(tu, vw),
                _mm512_shuffle_i32x4::<0xdd>(tu, vw),
            ];
            for (to, quarter) in zip(hashes.as_chunks_mut::<16>().0, quarters) {
                _mm512_storeu_si512(to, quarter);
            }
        }
    );
}

#[cfg(test)]
mod tests;
