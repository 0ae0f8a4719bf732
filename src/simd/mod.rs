//! Contains the batch kernels, which one value selects by level.
//!
//! A [`Processor`] is a small value that each queue actor creates once. It owns no state, allocates
//! nothing and counts nothing: 64 lanes go in, [`Columns`] and `u64` masks come out. The level selects
//! the kernel once per batch.
//!
//! | file | operation | scalar reference |
//! |---|---|---|
//! | `parse.rs` | headers, 8 frames at a time, with prefetch of the next ones | [`packet::parse()`] |
//! | `hash.rs` | keyed hash of a flow table's keys | AES in the tests; another, scalar hash below AVX-512 |
//! | `toeplitz.rs` | the hash by which a NIC chooses queues | [`Toeplitz::one`] |
//! | `bytes.rs` | the tags of a flow table's bucket | |
//! | `sum.rs` | Internet checksum of a payload | [`checksum::Sum`] |
//!
//! A kernel stays only while it is faster than scalar code with prefetch; `docs/simd.md` has the figures and the
//! rejected kernels. Intrinsics are safe inside a function with their target features, and a token of `fearless_simd`
//! proves that the CPU has them. So this module contains no `unsafe`.

#![forbid(unsafe_code)]

mod bytes;
mod hash;
mod level;
mod parse;
mod sum;
mod toeplitz;

pub(crate) use bytes::equal_bytes;
pub use hash::{FlowHash, FlowKey, FlowKeys};
pub use level::Level;
pub use toeplitz::{Toeplitz, Tuples};

use crate::packet::{Columns, LANES, checksum};
use crate::umem::{Frame, Umem};

/// Processes the batches of one queue actor.
#[derive(Debug, Clone, Copy)]
pub struct Processor {
    level: Level,
    /// Proof that the CPU has the instructions.
    cpu: fearless_simd::Level,
}

impl Default for Processor {
    fn default() -> Self {
        Self::detect()
    }
}

impl PartialEq for Processor {
    fn eq(&self, other: &Self) -> bool {
        self.level == other.level
    }
}

impl Eq for Processor {}

impl Processor {
    /// Returns a processor of the best level that this CPU can run.
    #[must_use]
    pub fn detect() -> Self {
        let cpu = fearless_simd::Level::new();
        let level = Level::ALL.into_iter().rfind(|level| level.runs_on(cpu)).unwrap_or(Level::Scalar);
        Self { level, cpu }
    }

    /// Returns a processor of the given level, or `None` if this CPU cannot run it.
    #[must_use]
    pub fn with_level(level: Level) -> Option<Self> {
        let cpu = fearless_simd::Level::new();
        level.runs_on(cpu).then_some(Self { level, cpu })
    }

    /// Returns all levels that this CPU can run, the lowest first.
    pub fn levels() -> impl Iterator<Item = Level> {
        let cpu = fearless_simd::Level::new();
        Level::ALL.into_iter().filter(move |level| level.runs_on(cpu))
    }

    /// Returns the level in force.
    #[must_use]
    pub fn capability(&self) -> Level {
        self.level
    }

    /// Returns the size of a register of the level in force, in bytes.
    #[must_use]
    pub fn vector_width_bytes(&self) -> usize {
        self.level.vector_width_bytes()
    }

    /// Returns the number of packets processed in one step at the level in force.
    #[must_use]
    pub fn parallel_packets(&self) -> usize {
        self.level.parallel_packets()
    }

    /// Describes the level in use and the available ones, for the start-up summary.
    #[must_use]
    pub fn why(&self) -> String {
        let levels: Vec<&str> = Self::levels().map(Level::name).collect();
        format!("{} (this CPU has {})", self.level, levels.join(", "))
    }

    /// Returns the proof of AVX2, if the level in force has it.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn avx2(self) -> Option<fearless_simd::Avx2> {
        if matches!(self.level, Level::Avx2 | Level::Avx512) { self.cpu.as_avx2() } else { None }
    }

    /// Returns the proof of AVX-512, if it is the level in force.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn avx512(self) -> Option<fearless_simd::Avx512> {
        if self.level == Level::Avx512 { self.cpu.as_avx512() } else { None }
    }

    /// Runs `work` compiled for AVX2 and its companions (BMI, LZCNT), if the level has them. Code that is not inlined
    /// into `work` does not change.
    #[inline(always)]
    pub(crate) fn recompiled<T>(self, work: impl FnOnce() -> T) -> T {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = self.avx2() {
            return fearless_simd::Simd::vectorize(token, work);
        }
        work()
    }

    /// Parses the lanes in `live` like [`packet::parse()`](crate::packet::parse()). Lane `i` is the frame that starts
    /// with `headers[i]` and has `lengths[i]` bytes.
    ///
    /// It sets the masks `udp`, `ipv4` and `ipv6` of `columns`, which contain no lane outside `live`. For each live
    /// lane it sets the values or the reject reason; everything else in the columns is unspecified. Lanes without a
    /// frame may point to any bytes. Headers are prefetched 8 lanes before they are read, so that one pass over 64
    /// frames does not evict them from L1 before. Stages that read the headers again should work on groups of at most
    /// 16.
    pub fn parse(&self, headers: &[&[u8; 64]; LANES], lengths: &[u16; LANES], live: u64, columns: &mut Columns) {
        parse::lanes(*self, headers, lengths, live, columns);
    }

    /// Parses `frames`, where lane `i` is `frames[i]`, and [recognises](crate::packet::recognise()) packets other than
    /// plain UDP. Frames beyond [`LANES`] have no lane and are ignored.
    pub fn parse_frames(&self, umem: &Umem, frames: &[Frame], columns: &mut Columns) {
        debug_assert!(frames.len() <= LANES, "{} frames in {LANES} lanes", frames.len());
        let (mut headers, mut lengths) = ([&[0; 64]; LANES], [0; LANES]);
        // The headers are prefetched while the list of all headers is built.
        frames.iter().take(parse::AHEAD).for_each(|frame| umem.prefetch(frame));
        for ((frame, header), length) in frames.iter().zip(&mut headers).zip(&mut lengths) {
            (*header, *length) = (umem.header_bytes(frame), frame.length());
        }
        // A shift by 64 would overflow, so 64 lanes use all ones.
        let live = u64::MAX.checked_shr((LANES - frames.len().min(LANES)) as u32).unwrap_or(0);
        self.parse(&headers, &lengths, live, columns);
        (columns.udp_extended, columns.tcp, columns.icmp, columns.tagged) = (0, 0, 0, 0);
        columns.fragments = 0;
        let others = live & !columns.udp;
        if others != 0 {
            for (lane, frame) in frames.iter().enumerate().filter(|(lane, _)| others >> lane & 1 != 0) {
                columns.recognise(lane, umem.bytes(frame));
            }
        }
    }

    /// Returns the sum of `data` for an Internet checksum, like [`checksum::Sum::bytes`]. It is meant for payloads.
    #[must_use]
    #[inline]
    pub fn sum(&self, data: &[u8]) -> checksum::Sum {
        sum::sum(*self, data)
    }

    /// Computes the header checksums of IPv4 headers with options: `checksums[i]` is that of `headers[i]` with its own
    /// field as zero, or `None` if that is no complete header. It stops at the end of the shorter list, returns the
    /// number of headers, and allocates nothing.
    pub fn batch_ipv4_checksum(&self, headers: &[&[u8]], checksums: &mut [Option<u16>]) -> usize {
        let pairs = headers.iter().zip(checksums);
        pairs.map(|(header, checksum)| *checksum = checksum::ipv4_header(header)).count()
    }

    /// Copies `sources[i]` to the start of `destinations[i]` in order, until one does not fit or the shorter list ends.
    /// Returns the number of complete copies. It allocates nothing.
    ///
    /// It is a `copy_from_slice` at every level. Hand-written vector loops were equally fast for 1400 bytes and slower
    /// for
    /// 64.
    pub fn batch_copy(&self, sources: &[&[u8]], destinations: &mut [&mut [u8]]) -> usize {
        let pairs = sources.iter().zip(destinations);
        pairs.map_while(|(from, to)| to.get_mut(..from.len()).map(|to| to.copy_from_slice(from))).count()
    }
}

#[cfg(test)]
mod tests;
