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

    fearless_simd::kernel!(
        /// 64 bytes in two dot products: one with the even bytes, one with the odd. At least 64 bytes.
        pub(super) fn dot_products(avx512: Avx512, data: &[u8]) -> Sum {
            let zero = _mm512_setzero_si512();
            let (mut first, mut second) = ([zero; 2], [zero; 2]);
            let even = _mm512_set1_epi32(0x0001_0001);
            let odd = _mm512_set1_epi32(0x0100_0100);
            let (blocks, tail) = data.as_chunks::<64>();
            let (pairs, last) = blocks.as_chunks::<2>();
            for [a, b] in pairs {
                let (a, b) = (_mm512_loadu_si512(a), _mm512_loadu_si512(b));
                first[0] = _mm512_dpbusd_epi32(first[0], a, even);
                first[1] = _mm512_dpbusd_epi32(first[1], b, even);
                second[0] = _mm512_dpbusd_epi32(second[0], a, odd);
                second[1] = _mm512_dpbusd_epi32(second[1], b, odd);
            }
            for a in last {
                let a = _mm512_loadu_si512(a);
                first[0] = _mm512_dpbusd_epi32(first[0], a, even);
                second[0] = _mm512_dpbusd_epi32(second[0], a, odd);
            }
            if let (false, Some(end)) = (tail.is_empty(), data.last_chunk::<64>()) {
                // The last 64 bytes, without those that are summed already. In an odd number of bytes the
                // first of a pair is an odd one here.
                let new = u64::MAX << (64 - tail.len());
                let end = _mm512_maskz_mov_epi8(new, _mm512_loadu_si512(end));
                let (even, odd) = if tail.len().is_multiple_of(2) { (even, odd) } else { (odd, even) };
                first[0] = _mm512_dpbusd_epi32(first[0], end, even);
                second[0] = _mm512_dpbusd_epi32(second[0], end, odd);
            }
            let total = |lanes: [__m512i; 2]| _mm512_reduce_add_epi32(_mm512_add_epi32(lanes[0], lanes[1])) as u32;
            Sum::of_bytes(total(first), total(second))
        }
    );
}
