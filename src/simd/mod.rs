//! Batch kernels behind one dispatch.
//!
//! A [`Processor`] is a small value that each queue actor creates once. It owns no state, allocates
//! nothing and counts nothing: 64 lanes go in, [`Columns`] and `u64` masks come out. The level selects
//! the kernel once per batch.
//!
//! | file | operation | scalar reference |
//! |---|---|---|
//! | `parse.rs` | headers, 8 frames at a time, the next ones prefetched | [`packet::parse()`] |
//! | `hash.rs` | keyed hash of a flow table's keys | AES in the tests; below AVX-512 another, plain hash |
//! | `toeplitz.rs` | the hash by which a NIC chooses queues | [`Toeplitz::one`] |
//! | `bytes.rs` | the tags of a flow table's bucket | |
//! | `sum.rs` | Internet checksum of a payload | [`checksum::Sum`] |
//!
//! A kernel stays only while it beats plain code that prefetches; `docs/simd.md` has the figures and the rejected
//! kernels. Intrinsics are safe inside a function that has their target features, and a token of
//! `fearless_simd` proves that the CPU has them: this module contains no `unsafe`.

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

/// The batch processor of one queue actor.
#[derive(Debug, Clone, Copy)]
pub struct Processor {
    level: Level,
    /// Proof of the instructions that the CPU has.
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
    /// The best level that this CPU can run.
    #[must_use]
    pub fn detect() -> Self {
        let cpu = fearless_simd::Level::new();
        let level = Level::ALL.into_iter().rfind(|level| level.runs_on(cpu)).unwrap_or(Level::Scalar);
        Self { level, cpu }
    }

    /// A level of the caller's choice; `None` if this CPU cannot run it.
    #[must_use]
    pub fn with_level(level: Level) -> Option<Self> {
        let cpu = fearless_simd::Level::new();
        level.runs_on(cpu).then_some(Self { level, cpu })
    }

    /// Every level that this CPU can run, plainest first.
    pub fn levels() -> impl Iterator<Item = Level> {
        let cpu = fearless_simd::Level::new();
        Level::ALL.into_iter().filter(move |level| level.runs_on(cpu))
    }

    /// The level in force.
    #[must_use]
    pub fn capability(&self) -> Level {
        self.level
    }

    /// Bytes in one register of the level in force.
    #[must_use]
    pub fn vector_width_bytes(&self) -> usize {
        self.level.vector_width_bytes()
    }

    /// Packets worked on in one step at the level in force.
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

    /// Proof of AVX2, if the level in force has it.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn avx2(self) -> Option<fearless_simd::Avx2> {
        if matches!(self.level, Level::Avx2 | Level::Avx512) { self.cpu.as_avx2() } else { None }
    }

    /// Proof of AVX-512, if it is the level in force.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    fn avx512(self) -> Option<fearless_simd::Avx512> {
        if self.level == Level::Avx512 { self.cpu.as_avx512() } else { None }
    }

    /// Runs plain code as it was compiled for AVX2 and what comes with it (BMI, LZCNT), where the level has them. What
    /// is not inlined into `work`, and `work` itself, is as it always was.
    #[inline(always)]
    pub(crate) fn recompiled<T>(self, work: impl FnOnce() -> T) -> T {
        #[cfg(target_arch = "x86_64")]
        if let Some(token) = self.avx2() {
            return fearless_simd::Simd::vectorize(token, work);
        }
        work()
    }

    /// Parses the lanes in `live`: lane `i` is the frame that starts with `heads[i]` and is
    /// `lengths[i]` bytes long, as [`packet::parse()`](crate::packet::parse()) takes them.
    ///
    /// Sets the masks `udp`, `ipv4` and `ipv6` of `columns` (no lane outside `live` is in them), and for each live
    /// lane either its facts or its fault; all else in the columns is unspecified. Lanes without a frame may point
    /// at any head. Heads are asked for 8 lanes before they are read, so this one pass over 64 frames
    /// does not push them out of L1 before they are read; stages that read the heads again should work
    /// on groups of at most 16.
    pub fn parse(&self, headers: &[&[u8; 64]; LANES], lengths: &[u16; LANES], live: u64, columns: &mut Columns) {
        parse::lanes(*self, headers, lengths, live, columns);
    }

    /// Parses `frames`, lane `i` being `frames[i]`, and [recognises](crate::packet::recognise()) what is not plain UDP.
    /// Frames beyond [`LANES`] have no lane and are not looked at.
    pub fn parse_frames(&self, umem: &Umem, frames: &[Frame], columns: &mut Columns) {
        debug_assert!(frames.len() <= LANES, "{} frames in {LANES} lanes", frames.len());
        let (mut headers, mut lengths) = ([&[0; 64]; LANES], [0; LANES]);
        // Prefetched while the list of all headers is built.
        frames.iter().take(parse::AHEAD).for_each(|frame| umem.prefetch(frame));
        for ((frame, head), length) in frames.iter().zip(&mut headers).zip(&mut lengths) {
            (*head, *length) = (umem.header_bytes(frame), frame.length());
        }
        // A shift by 64 would overflow: 64 lanes are all ones.
        let live = u64::MAX.checked_shr((LANES - frames.len().min(LANES)) as u32).unwrap_or(0);
        self.parse(&headers, &lengths, live, columns);
        (columns.udp_extended, columns.tcp, columns.icmp, columns.tagged) = (0, 0, 0, 0);
        let others = live & !columns.udp;
        if others != 0 {
            for (lane, frame) in frames.iter().enumerate().filter(|(lane, _)| others >> lane & 1 != 0) {
                columns.recognise(lane, umem.bytes(frame));
            }
        }
    }

    /// The sum of `data` for an Internet checksum, as [`checksum::Sum::bytes`] makes it: for payloads.
    #[must_use]
    #[inline]
    pub fn sum(&self, data: &[u8]) -> checksum::Sum {
        sum::sum(*self, data)
    }

    /// Header checksums of IPv4 headers, options included: `checksums[i]` is that of `headers[i]` with
    /// its own field taken as zero, or `None` if that is no whole header. Stops at the end of the
    /// shorter list and returns how many headers it looked at. Allocates nothing.
    pub fn batch_ipv4_checksum(&self, headers: &[&[u8]], checksums: &mut [Option<u16>]) -> usize {
        let pairs = headers.iter().zip(checksums);
        pairs.map(|(header, checksum)| *checksum = checksum::ipv4_header(header)).count()
    }

    /// Copies `sources[i]` to the start of `destinations[i]`, in order, until one does not fit or the
    /// shorter list ends; returns how many were copied, each of them whole. Allocates nothing.
    ///
    /// It is a plain `copy_from_slice` at every level: own vector loops measured the same at 1400
    /// bytes and slower at 64.
    pub fn batch_copy(&self, sources: &[&[u8]], destinations: &mut [&mut [u8]]) -> usize {
        let pairs = sources.iter().zip(destinations);
        pairs.map_while(|(from, to)| to.get_mut(..from.len()).map(|to| to.copy_from_slice(from))).count()
    }
}

#[cfg(test)]
mod tests;
