//! Reads and writes classic capture files (pcap, <https://www.tcpdump.org/manpages/pcap-savefile.5.html>): both byte
//! orders, both resolutions, Ethernet only. pcapng is not supported.

use std::io::{self, Write};
use std::time::Duration;

/// Sizes of the file header and of each packet's header, bytes.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
/// First four bytes in the writer's byte order, for a resolution of microseconds and of nanoseconds.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// First four bytes of a pcapng file, in any byte order.
const PCAPNG: u32 = 0x0a0d_0d0a;
/// Longest packet that is accepted, bytes: tcpdump's own limit (`MAXIMUM_SNAPLEN`).
const LONGEST: u32 = 262_144;

/// States why a file cannot be replayed, and the remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PcapError {
    /// The file is shorter than a header.
    #[error(
        "not a capture file: {got} bytes; expected a header of 24 bytes; to fix: check that the capture ended completely"
    )]
    Short {
        /// Length of the file, bytes.
        got: usize,
    },
    /// The file has the newer format.
    #[error("unsupported format: pcapng; expected pcap; to fix: `editcap -F pcap IN OUT` or `tcpdump -r IN -w OUT`")]
    Pcapng,
    /// The file has another format.
    #[error("not a capture file: begins with {magic:08x}; expected a1b2c3d4 or a1b23c4d in either byte order")]
    Magic {
        /// The first four bytes.
        magic: u32,
    },
    /// The packets are not Ethernet frames.
    #[error(
        "unsupported link type: {got}; expected 1 (Ethernet); to fix: capture on an Ethernet interface, not on `any` or a tunnel"
    )]
    LinkType {
        /// Link type of the file.
        got: u32,
    },
    /// The file ends too early.
    #[error(
        "packet {number}: cut off by the end of the file: {got} bytes; expected {wanted}; to fix: check that the capture ended completely"
    )]
    CutOff {
        /// Counted from 1.
        number: usize,
        /// Bytes left in the file.
        got: usize,
        /// Bytes expected.
        wanted: usize,
    },
    /// A packet has an impossible length.
    #[error(
        "packet {number}: invalid length: {length} bytes; expected at most 262144; to fix: replace the damaged file"
    )]
    Length {
        /// Counted from 1.
        number: usize,
        /// Length in the packet's header, bytes.
        length: u32,
    },
    /// A packet was captured only in part.
    #[error(
        "packet {number}: captured in part: {captured} bytes; expected {length}; to fix: capture whole packets with `tcpdump -s 0`"
    )]
    Snapped {
        /// Counted from 1.
        number: usize,
        /// Bytes in the file.
        captured: u32,
        /// Bytes on the wire.
        length: u32,
    },
}

/// Holds one packet of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured<'a> {
    /// Time of the capture since 1970.
    pub at: Duration,
    /// Whole frame, beginning with the Ethernet header.
    pub frame: &'a [u8],
}

/// Returns all packets of a capture file in order.
///
/// # Errors
/// Returns [`PcapError`] with the first error found.
pub fn read(file: &[u8]) -> Result<Vec<Captured<'_>>, PcapError> {
    let header: &[u8; FILE_HEADER] = file.first_chunk().ok_or(PcapError::Short { got: file.len() })?;
    let magic = word(header, 0, false);
    let (swapped, nanoseconds) = match (magic, magic.swap_bytes()) {
        (MICROSECONDS, _) => (false, false),
        (NANOSECONDS, _) => (false, true),
        (_, MICROSECONDS) => (true, false),
        (_, NANOSECONDS) => (true, true),
        (PCAPNG, _) => return Err(PcapError::Pcapng),
        _ => return Err(PcapError::Magic { magic: magic.swap_bytes() }),
    };
    // The upper bits describe an FCS, which few captures have.
    let link_type = word(header, 20, swapped) & 0x0fff_ffff;
    if link_type != ETHERNET {
        return Err(PcapError::LinkType { got: link_type });
    }
    let mut packets = Vec::new();
    let mut rest = &file[FILE_HEADER..];
    while !rest.is_empty() {
        let number = packets.len() + 1;
        let Some((header, after)) = rest.split_first_chunk::<PACKET_HEADER>() else {
            return Err(PcapError::CutOff { number, got: rest.len(), wanted: PACKET_HEADER });
        };
        let [seconds, fraction, captured, length] = [0, 4, 8, 12].map(|at| word(header, at, swapped));
        if captured > LONGEST || length > LONGEST {
            return Err(PcapError::Length { number, length: captured.max(length) });
        }
        if captured < length {
            return Err(PcapError::Snapped { number, captured, length });
        }
        let Some((frame, next)) = after.split_at_checked(captured as usize) else {
            return Err(PcapError::CutOff { number, got: after.len(), wanted: captured as usize });
        };
        let fraction = Duration::from_nanos(u64::from(fraction) * if nanoseconds { 1 } else { 1000 });
        packets.push(Captured { at: Duration::from_secs(seconds.into()) + fraction, frame });
        rest = next;
    }
    Ok(packets)
}

/// Reads four bytes of a header; the caller ensures that they exist.
fn word(header: &[u8], at: usize, swapped: bool) -> u32 {
    let bytes = header.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    let word = u32::from_le_bytes(bytes);
    if swapped { word.swap_bytes() } else { word }
}

/// Writes a capture in little-endian byte order with nanoseconds.
#[derive(Debug)]
pub struct PcapWriter<W> {
    out: W,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    /// Returns the writer's error.
    pub fn new(mut out: W) -> io::Result<Self> {
        for word in [NANOSECONDS, 2 | 4 << 16, 0, 0, LONGEST, ETHERNET] {
            out.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { out })
    }

    /// Writes one whole frame with its capture time.
    ///
    /// # Errors
    /// Returns the writer's error.
    pub fn write(&mut self, at: Duration, frame: &[u8]) -> io::Result<()> {
        let length = frame.len() as u32;
        for word in [at.as_secs() as u32, at.subsec_nanos(), length, length] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(frame)
    }

    /// Flushes the writer and returns it.
    ///
    /// # Errors
    /// Returns the writer's error.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
#[path = "pcap_tests.rs"]
mod tests;
