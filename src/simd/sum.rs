//! Computes the sum of the Internet checksum over a payload.

use super::Processor;
use crate::packet::checksum::Sum;

/// Sets the number of bytes from which each kernel is faster than the one before it.
#[cfg(target_arch = "x86_64")]
const RECOMPILED: usize = 128;
#[cfg(target_arch = "x86_64")]
const DOT_PRODUCTS: usize = 512;
/// Limits the bytes of one sum to the longest datagram. Twice as many would overflow the sum of dot products.
#[cfg(target_arch = "x86_64")]
const LONGEST: usize = 1 << 16;

#[inline]
pub(super) fn sum(processor: Processor, data: &[u8]) -> Sum {
    #[cfg(target_arch = "x86_64")]
    if data.len() >= RECOMPILED {
        if let Some(token) = processor.avx512()
            && (DOT_PRODUCTS..=LONGEST).contains(&data.len())
        {
            return x86::dot_products(token, data);
        }
        if let Some(token) = processor.avx2() {
            return x86::recompiled(token, data);
        }
    }
    let _ = processor;
    plain(data)
}

/// Adds eight bytes at a time, with a separate sum for each half, so that the two additions of a step are independent.
#[inline(never)]
fn plain(data: &[u8]) -> Sum {
    let (words, tail) = data.as_chunks::<8>();
    let (low, high) = words.iter().fold((0, 0), |(low, high), word| {
        let word = u64::from_ne_bytes(*word);
        (low + (word & 0xffff_ffff), high + (word >> 32))
    });
    Sum::of_words(low + high).bytes(tail)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use safe_unaligned_simd::x86_64::_mm512_loadu_si512;

    use crate::packet::checksum::Sum;

    fearless_simd::kernel!(
        /// Computes [`Sum::bytes`] compiled with AVX2, so that the compiler widens words when it loads them.
        pub(super) fn recompiled(avx2: Avx2, data: &[u8]) -> Sum {
            Sum::default().bytes(data)
        }
    );

    fearless_simd::kernel!(
        /// Adds 32 words with one dot product with ones. The instruction treats words as signed, so 2^15 is subtracted
        /// from each and added to the sum. It needs at least 128 bytes and at most [`LONGEST`](super::LONGEST).
        ///
        /// The bytes before the first full cache line are added first, so that no other load crosses a line.
        pub(super) fn dot_products(avx512: Avx512, data: &[u8]) -> Sum {
            let (words, odd) = data.as_chunks::<2>();
            let bytes = words.as_flattened();
            let before_line = bytes.as_ptr().addr().wrapping_neg() % 64;
            let skipped = if before_line.is_multiple_of(2) { before_line } else { 0 };
            let (Some(start), Some(end), Some(lines)) = (bytes.first_chunk(), bytes.last_chunk(), bytes.get(skipped..))
            else {
                return super::plain(data);
            };
            let (blocks, tail) = lines.as_chunks::<64>();
            let (ones, half) = (_mm512_set1_epi16(1), _mm512_set1_epi16(i16::MIN));
            let add = |sum, words| _mm512_dpwssd_epi32(sum, _mm512_xor_si512(words, half), ones);
            // These are the bytes of the first and of the last 64 that are in no block. There usually are some, and a
            // branch costs more than adding zero.
            let [mut first, mut second] =
                [((1 << skipped) - 1, start), (!(u64::MAX >> tail.len()), end)].map(|(new, from)| {
                    let words = _mm512_maskz_mov_epi8(new, _mm512_loadu_si512::<[u8; 64]>(from));
                    add(_mm512_setzero_si512(), words)
                });
            let (pairs, last) = blocks.as_chunks::<2>();
            for [a, b] in pairs {
                first = add(first, _mm512_loadu_si512(a));
                second = add(second, _mm512_loadu_si512(b));
            }
            for a in last {
                second = add(second, _mm512_loadu_si512(a));
            }
            let summed = (blocks.len() as i64 + 2) * (32 << 15);
            let sum = i64::from(_mm512_reduce_add_epi32(_mm512_add_epi32(first, second))) + summed;
            // The first byte of a word is its low byte.
            Sum::of_words(sum as u64 + odd.first().map_or(0, |byte| u64::from(*byte)))
        }
    );
}
