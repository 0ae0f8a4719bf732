//! Compares sixteen bytes at once, at every level.

/// Returns a mask with one bit for each byte equal to `wanted`; the first byte has the lowest bit.
#[inline(always)]
pub(crate) fn equal_bytes(bytes: &[u8; 16], wanted: u8) -> u32 {
    // SSE2 is part of x86-64, so this is decided at compile time and leaves no branch.
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = fearless_simd::Level::baseline().as_sse2() {
        return x86::equal_bytes(token, bytes, wanted);
    }
    bytes.iter().enumerate().fold(0, |mask, (at, byte)| mask | u32::from(*byte == wanted) << at)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{_mm_cmpeq_epi8, _mm_movemask_epi8, _mm_set1_epi8};

    use safe_unaligned_simd::x86_64::_mm_loadu_si128;

    fearless_simd::kernel!(
        #[inline(always)]
        pub(super) fn equal_bytes(sse2: Sse2, bytes: &[u8; 16], wanted: u8) -> u32 {
            let equal = _mm_cmpeq_epi8(_mm_loadu_si128(bytes), _mm_set1_epi8(wanted as i8));
            _mm_movemask_epi8(equal) as u32
        }
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn each_byte_has_its_bit(bytes: [u8; 16], at in 0usize..16, other: u8) {
            for wanted in [bytes[at], other] {
                let mask = equal_bytes(&bytes, wanted);
                for (at, byte) in bytes.iter().enumerate() {
                    prop_assert_eq!(mask >> at & 1 == 1, *byte == wanted);
                }
                prop_assert_eq!(mask >> 16, 0);
            }
        }
    }
}
