//! Defines the levels, and finds those that a CPU can run.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Names a set of kernels by the instructions that they may use. If a level has no kernel of its own for an operation,
/// the kernel of the next lower level runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Level {
    /// Portable code, one packet at a time.
    #[serde(rename = "scalar")]
    Scalar,
    /// x86-64 with SSE4.2.
    #[serde(rename = "sse4.2")]
    Sse42,
    /// x86-64 with AVX2.
    #[serde(rename = "avx2")]
    Avx2,
    /// x86-64 with the AVX-512 of Ice Lake and later (F, BW, DQ, VL, VBMI, VNNI, GFNI, VAES).
    #[serde(rename = "avx512")]
    Avx512,
    /// AArch64.
    #[serde(rename = "neon")]
    Neon,
}

impl Level {
    /// Lists all levels. For each architecture the best one is last.
    pub const ALL: [Level; 5] = [Level::Scalar, Level::Sse42, Level::Avx2, Level::Avx512, Level::Neon];

    /// Returns the name in configuration and reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Level::Scalar => "scalar",
            Level::Sse42 => "sse4.2",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
            Level::Neon => "neon",
        }
    }

    /// Returns the size of a register of this level, in bytes.
    #[must_use]
    pub const fn vector_width_bytes(self) -> usize {
        match self {
            Level::Scalar => 8,
            Level::Sse42 | Level::Neon => 16,
            Level::Avx2 => 32,
            Level::Avx512 => 64,
        }
    }

    /// Returns the number of packets whose headers one register holds, which is the number of its 32-bit lanes. The
    /// real gain of a kernel is smaller and is measured.
    #[must_use]
    pub const fn parallel_packets(self) -> usize {
        match self {
            Level::Scalar => 1,
            _ => self.vector_width_bytes() / 4,
        }
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn runs_on(self, cpu: fearless_simd::Level) -> bool {
        match self {
            Level::Scalar => true,
            Level::Sse42 => cpu.as_sse4_2().is_some(),
            Level::Avx2 => cpu.as_avx2().is_some(),
            Level::Avx512 => cpu.as_avx512().is_some(),
            Level::Neon => false,
        }
    }

    #[cfg(target_arch = "aarch64")]
    pub(super) fn runs_on(self, cpu: fearless_simd::Level) -> bool {
        match self {
            Level::Scalar => true,
            Level::Neon => cpu.as_neon().is_some(),
            Level::Sse42 | Level::Avx2 | Level::Avx512 => false,
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub(super) fn runs_on(self, _: fearless_simd::Level) -> bool {
        self == Level::Scalar
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
