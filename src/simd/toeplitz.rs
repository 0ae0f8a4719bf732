//! Computes the hash by which NICs select receive queues (Microsoft, "RSS hashing functions"). For every set bit of the
//! input, the 32 bits of the key from that position on are added without carry.

use super::Processor;
use crate::packet::{Flow, LANES};

/// Counts the bytes of the longest input: two IPv6 addresses and two ports.
const INPUT: usize = 36;
/// Counts the bytes of the key that such an input uses.
const KEY: usize = INPUT + 4;

/// Holds the inputs of a batch: byte `i` of all lanes, then byte `i + 1`.
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
    /// Sets the input of `lane`, below [`LANES`]: addresses and ports of an IPv4 or IPv6 flow. All lanes of one batch
    /// must have the same family.
    pub fn set(&mut self, lane: usize, flow: &Flow) {
        let mut input = [0; INPUT];
        let length = input_of(flow, &mut input);
        for (column, byte) in self.bytes.iter_mut().zip(&input[..length]) {
            column[lane] = *byte;
        }
    }
}

/// Computes the hash for one key.
#[derive(Clone)]
pub struct Toeplitz {
    processor: Processor,
    /// Effect of each input byte, bit by bit, first bit first.
    effects: [[u32; 8]; INPUT],
    /// Effects as bit matrices, one for each byte of the hash, its last byte first.
    matrices: [[u64; 4]; INPUT],
}

impl std::fmt::Debug for Toeplitz {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Toeplitz").finish_non_exhaustive()
    }
}

impl Toeplitz {
    /// Creates the hash of a device's key. Bytes beyond 40 have no effect. Returns `None` if the key is shorter.
    #[must_use]
    pub fn new(processor: Processor, key: &[u8]) -> Option<Self> {
        let key: &[u8; KEY] = key.first_chunk()?;
        // The value is the 32 bits of the key from a bit on.
        let window = |bit: usize| {
            let bytes = key[bit / 8..].iter().chain(&[0; 5]).take(5);
            let word = bytes.fold(0u64, |word, byte| word << 8 | u64::from(*byte));
            (word >> (8 - bit % 8)) as u32
        };
        let effects: [[u32; 8]; INPUT] = std::array::from_fn(|byte| std::array::from_fn(|bit| window(byte * 8 + bit)));
        Some(Self { processor, effects, matrices: effects.map(|effects| matrices(&effects)) })
    }

    /// Returns the hash of one flow's addresses and ports.
    #[must_use]
    pub fn one(&self, flow: &Flow) -> u32 {
        let mut input = [0; INPUT];
        let length = input_of(flow, &mut input);
        self.bytes(&input[..length])
    }

    /// Returns the hash of any input of at most 36 bytes. Further bytes are ignored.
    #[must_use]
    pub fn bytes(&self, input: &[u8]) -> u32 {
        let mut hash = 0;
        for (byte, effects) in input.iter().zip(&self.effects) {
            for (bit, effect) in effects.iter().enumerate() {
                // The mask is all ones if the bit is set, so there is no branch that random input would mispredict.
                hash ^= effect & (u32::from(*byte >> (7 - bit)) & 1).wrapping_neg();
            }
        }
        hash
    }

    /// Writes the hashes of all lanes, for the given family.
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

/// Writes addresses and ports in network order. Returns the number of bytes.
fn input_of(Flow { source, destination }: &Flow, input: &mut [u8; INPUT]) -> usize {
    let address = if source.is_ipv4() { 12..16 } else { 0..16 };
    let (a, b) = (&source.address[address.clone()], &destination.address[address]);
    let (c, d) = (source.port.to_be_bytes(), destination.port.to_be_bytes());
    let bytes = a.iter().chain(b).chain(&c).chain(&d);
    input.iter_mut().zip(bytes).map(|(to, from)| *to = *from).count()
}

/// Builds the matrices for `gf2p8affineqb`: bit `i` of the result is the parity of the input and byte `7 - i` of the
/// matrix.
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
        /// Multiplies 64 bytes by a bit matrix, for each byte of the input and of the hash.
        pub(super) fn lanes(avx512: Avx512, matrices: &[[u64; 4]], columns: &[[u8; LANES]], hashes: &mut [u32; LANES]) {
            let mut sums = [_mm512_setzero_si512(); 4];
            for (matrices, column) in zip(matrices, columns) {
                let column = _mm512_loadu_si512(column);
                for (sum, matrix) in zip(&mut sums, matrices) {
                    let matrix = _mm512_set1_epi64(*matrix as i64);
                    *sum = _mm512_xor_si512(*sum, _mm512_gf2p8affine_epi64_epi8::<0>(column, matrix));
                }
            }
            // Bytes of four registers become words: first within each quarter, then the quarters in order.
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
