//! Classic capture files (pcap, <https://www.tcpdump.org/manpages/pcap-savefile.5.html>): both byte orders, both
//! resolutions, Ethernet. Not pcapng.

use std::io::{self, Write};
use std::time::Duration;

/// Bytes of the file's header, and of each packet's.
const FILE_HEADER: usize = 24;
const PACKET_HEADER: usize = 16;
/// `LINKTYPE_ETHERNET`.
const ETHERNET: u32 = 1;
/// The first four bytes, in the writer's byte order: resolution of microseconds, of nanoseconds.
const MICROSECONDS: u32 = 0xa1b2_c3d4;
const NANOSECONDS: u32 = 0xa1b2_3c4d;
/// The first four bytes of a pcapng file, in any byte order.
const PCAPNG: u32 = 0x0a0d_0d0a;
/// The longest packet believed, bytes: tcpdump's own limit (`MAXIMUM_SNAPLEN`).
const LONGEST: u32 = 262_144;

/// Why a file is no capture that can be replayed, and the mend.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PcapError {
    /// Not even a header.
    #[error("{got} bytes are no capture file: its header alone has 24; was it written to the end?")]
    Short {
        /// Bytes there.
        got: usize,
    },
    /// The next format.
    #[error("this is a pcapng file: convert it, `editcap -F pcap IN OUT` or `tcpdump -r IN -w OUT`")]
    Pcapng,
    /// Something else.
    #[error(
        "this is no capture file: it begins with {magic:08x}, a pcap file with a1b2c3d4 or a1b23c4d in either byte order"
    )]
    Magic {
        /// The first four bytes.
        magic: u32,
    },
    /// Not Ethernet.
    #[error(
        "its packets are of link type {got}, not Ethernet (1): capture on an Ethernet interface, not on `any` or a tunnel"
    )]
    LinkType {
        /// As the file says.
        got: u32,
    },
    /// The file ends too early.
    #[error("packet {number} is cut off by the end of the file, {got} of {wanted} bytes: was it written to the end?")]
    CutOff {
        /// Counted from 1.
        number: usize,
        /// Bytes that are left.
        got: usize,
        /// Bytes that there would have to be.
        wanted: usize,
    },
    /// A length that cannot be.
    #[error("packet {number} says that it has {length} bytes, more than any packet: the file is damaged")]
    Length {
        /// Counted from 1.
        number: usize,
        /// As it says.
        length: u32,
    },
    /// Captured in part.
    #[error(
        "packet {number} was captured in part, {captured} of {length} bytes: capture whole packets, `tcpdump -s 0`"
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

/// One packet of a capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured<'a> {
    /// Since 1970.
    pub at: Duration,
    /// The whole frame, Ethernet header first.
    pub frame: &'a [u8],
}

/// The packets of a capture file, all of them, in order.
///
/// # Errors
/// [`PcapError`] with the first thing that is wrong.
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
    // The upper bits tell of an FCS, which few captures have.
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

/// Four bytes of a header, which are there.
fn word(header: &[u8], at: usize, swapped: bool) -> u32 {
    let bytes = header.get(at..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
    let word = u32::from_le_bytes(bytes);
    if swapped { word.swap_bytes() } else { word }
}

/// Writes a capture: little-endian, nanoseconds.
#[derive(Debug)]
pub struct PcapWriter<W> {
    out: W,
}

impl<W: Write> PcapWriter<W> {
    /// Writes the file's header.
    ///
    /// # Errors
    /// The writer's.
    pub fn new(mut out: W) -> io::Result<Self> {
        for word in [NANOSECONDS, 2 | 4 << 16, 0, 0, LONGEST, ETHERNET] {
            out.write_all(&word.to_le_bytes())?;
        }
        Ok(Self { out })
    }

    /// Writes one whole frame, with the time it was seen.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&mut self, at: Duration, frame: &[u8]) -> io::Result<()> {
        let length = frame.len() as u32;
        for word in [at.as_secs() as u32, at.subsec_nanos(), length, length] {
            self.out.write_all(&word.to_le_bytes())?;
        }
        self.out.write_all(frame)
    }

    /// Ends the file; what was buffered is written.
    ///
    /// # Errors
    /// The writer's.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
#[path = "pcap_tests.rs"]
mod tests;
