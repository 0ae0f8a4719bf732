//! The Internet checksum's sum over a payload.

use super::Processor;
use crate::packet::checksum::Sum;

/// Bytes from which on the kernels beat the plain loop; both need 64.
#[cfg(target_arch = "x86_64")]
const WORTH_IT: usize = 128;

pub(super) fn sum(processor: Processor, data: &[u8]) -> Sum {
    #[cfg(target_arch = "x86_64")]
    if data.len() >= WORTH_IT {
        if let Some(token) = processor.avx512() {
            return x86::dot_products(token, data);
        }
        if let Some(token) = processor.avx2() {
            return x86::recompiled(token, data);
        }
    }
    let _ = processor;
    Sum::default().bytes(data)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;

    use safe_unaligned_simd::x86_64::_mm512_loadu_si512;

    use crate::packet::checksum::Sum;

    fearless_simd::kernel!(
        /// The plain loop, by a compiler that may use AVX2.
        pub(super) fn recompiled(avx2: Avx2, data: &[u8]) -> Sum {
            Sum::default().bytes(data)
        }
    );

    /// Bytes from which on it pays to align loads.
    const ALIGNED: usize = 512;

    fearless_simd::kernel!(
        /// 64 bytes in two dot products: one with the even bytes, one with the odd. At least 128 bytes. The bytes
        /// before the first whole cache line go first, so that no load has to read two lines.
        pub(super) fn dot_products(avx512: Avx512, data: &[u8]) -> Sum {
            let [even, odd] = [0x0001_0001, 0x0100_0100].map(|weights| _mm512_set1_epi32(weights));
            let mut sums = [_mm512_setzero_si512(); 4];
            let skipped = if data.len() < ALIGNED { 0 } else { data.as_ptr().addr().wrapping_neg() % 64 };
            let (Some(start), Some(end), Some(lines)) = (data.first_chunk(), data.last_chunk(), data.get(skipped..))
            else {
                return Sum::default().bytes(data);
            };
            if skipped > 0 {
                let start = _mm512_maskz_mov_epi8((1 << skipped) - 1, _mm512_loadu_si512::<[u8; 64]>(start));
                sums[0] = _mm512_dpbusd_epi32(sums[0], start, even);
                sums[1] = _mm512_dpbusd_epi32(sums[1], start, odd);
            }
            // Behind an odd number of bytes, the first of a pair is the second one.
            let (even, odd) = if skipped.is_multiple_of(2) { (even, odd) } else { (odd, even) };
            let (blocks, tail) = lines.as_chunks::<64>();
            let (pairs, last) = blocks.as_chunks::<2>();
            for [a, b] in pairs {
                let (a, b) = (_mm512_loadu_si512(a), _mm512_loadu_si512(b));
                sums[0] = _mm512_dpbusd_epi32(sums[0], a, even);
                sums[2] = _mm512_dpbusd_epi32(sums[2], b, even);
                sums[1] = _mm512_dpbusd_epi32(sums[1], a, odd);
                sums[3] = _mm512_dpbusd_epi32(sums[3], b, odd);
            }
            for a in last {
                let a = _mm512_loadu_si512(a);
                sums[0] = _mm512_dpbusd_epi32(sums[0], a, even);
                sums[1] = _mm512_dpbusd_epi32(sums[1], a, odd);
            }
            if !tail.is_empty() {
                // The last 64 bytes, without those that are summed already.
                let new = !(u64::MAX >> tail.len());
                let end = _mm512_maskz_mov_epi8(new, _mm512_loadu_si512::<[u8; 64]>(end));
                let (even, odd) = if tail.len().is_multiple_of(2) { (even, odd) } else { (odd, even) };
                sums[2] = _mm512_dpbusd_epi32(sums[2], end, even);
                sums[3] = _mm512_dpbusd_epi32(sums[3], end, odd);
            }
            let total = |a, b| _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)) as u32;
            Sum::of_bytes(total(sums[0], sums[2]), total(sums[1], sums[3]))
        }
    );
}
