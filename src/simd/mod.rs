//! Batch kernels behind one dispatch.
//!
//! A [`Processor`] is a small value that each queue actor makes once. It owns no state, allocates
//! nothing and counts nothing: 64 lanes go in, [`Columns`] and `u64` masks come out. Today it has one
//! level, scalar with a prefetch schedule; vector kernels will stand behind the same face.

#![forbid(unsafe_code)]

mod hash;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::packet::{self, Columns, LANES, checksum};
use crate::umem::{Frame, Umem};
pub use hash::{FlowHash, FlowKey};

/// How far ahead the head of a frame is asked for. Measured on Zen 5: 8 ahead hides DRAM as well as
/// 32 does; 16 or more is slower while frames are in L2, because heads at 2 KiB stride share few
/// sets of L1, which holds 24 of them.
const PREFETCH_AHEAD: usize = 8;

/// A set of kernels, named for the instructions they need.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Level {
    /// Plain code, one packet at a time.
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
    /// Every level.
    pub const ALL: [Level; 5] = [Level::Scalar, Level::Sse42, Level::Avx2, Level::Avx512, Level::Neon];

    /// The name in configuration and reports.
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

    /// Bytes in one register of this level.
    #[must_use]
    pub const fn vector_width_bytes(self) -> usize {
        match self {
            Level::Scalar => 8,
            Level::Sse42 | Level::Neon => 16,
            Level::Avx2 => 32,
            Level::Avx512 => 64,
        }
    }

    /// Packets whose headers one step of a kernel works on: 32-bit lanes in a register.
    #[must_use]
    pub const fn parallel_packets(self) -> usize {
        match self {
            Level::Scalar => 1,
            _ => self.vector_width_bytes() / 4,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The batch processor of one queue actor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Processor {
    level: Level,
}

impl Default for Processor {
    fn default() -> Self {
        Self::detect()
    }
}

impl Processor {
    /// The best level that this build has kernels for and this CPU can run.
    #[must_use]
    pub fn detect() -> Self {
        Self { level: Level::Scalar }
    }

    /// A level of the caller's choice; `None` if this build has no kernels for it, or this CPU cannot
    /// run them.
    #[must_use]
    pub fn with_level(level: Level) -> Option<Self> {
        (level == Level::Scalar).then_some(Self { level })
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

    /// Why this level, for the start-up summary.
    #[must_use]
    pub fn why(&self) -> &'static str {
        "this version has no vector kernels: headers are parsed one by one, prefetched 8 ahead"
    }

    /// Parses the lanes in `live`: lane `i` is the frame that starts with `heads[i]` and is
    /// `lengths[i]` bytes long, as [`packet::parse()`] takes them.
    ///
    /// Sets the masks of `columns` (no lane outside `live` is in them), and for each live lane either
    /// its facts or its fault; other lanes' columns stay as they were. Prefetches nothing: for heads
    /// that are in the cache. Lanes without a frame may point at any head.
    pub fn parse(&self, heads: &[&[u8; 64]; LANES], lengths: &[u16; LANES], live: u64, columns: &mut Columns) {
        let mut lanes = Lanes::new(columns);
        for (lane, (head, length)) in heads.iter().zip(lengths).enumerate() {
            if live & 1 << lane != 0 {
                lanes.parse(lane, head, *length);
            }
        }
        lanes.finish();
    }

    /// Parses `frames`, lane `i` being `frames[i]`, asking for each head 8 frames before it is read.
    /// Frames beyond [`LANES`] have no lane and are not looked at.
    ///
    /// The window keeps at most nine heads on their way, so this one pass over 64 frames does not push
    /// them out of L1 before they are read; stages that read the heads again should work on groups of
    /// at most 16.
    pub fn parse_frames(&self, umem: &Umem, frames: &[Frame], columns: &mut Columns) {
        debug_assert!(frames.len() <= LANES, "{} frames in {LANES} lanes", frames.len());
        for frame in frames.iter().take(PREFETCH_AHEAD) {
            umem.prefetch(frame);
        }
        let mut lanes = Lanes::new(columns);
        for (lane, frame) in frames.iter().take(LANES).enumerate() {
            if let Some(ahead) = frames.get(lane + PREFETCH_AHEAD) {
                umem.prefetch(ahead);
            }
            lanes.parse(lane, umem.head(frame), frame.length());
        }
        lanes.finish();
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

/// Columns being filled, with the masks in registers.
struct Lanes<'a> {
    columns: &'a mut Columns,
    ipv4: u64,
    ipv6: u64,
}

impl<'a> Lanes<'a> {
    fn new(columns: &'a mut Columns) -> Self {
        Self { columns, ipv4: 0, ipv6: 0 }
    }

    /// Parses one frame; `lane` is below [`LANES`].
    #[inline(always)]
    fn parse(&mut self, lane: usize, head: &[u8; 64], length: u16) {
        let Self { columns, ipv4, ipv6 } = self;
        let accepted = packet::parse_with(head, length, |parsed| {
            *(if parsed.ipv4 { ipv4 } else { ipv6 }) |= 1 << lane;
            columns.l3[lane] = parsed.l3;
            columns.l4[lane] = parsed.l4;
            columns.length[lane] = parsed.length;
            columns.flow[lane] = parsed.flow;
        });
        if let Err(reason) = accepted {
            columns.fault[lane] = reason;
        }
    }

    fn finish(self) {
        (self.columns.ipv4, self.columns.ipv6) = (self.ipv4, self.ipv6);
        self.columns.udp = self.ipv4 | self.ipv6;
    }
}

#[cfg(test)]
mod tests;
