//! Parses and checks the headers of one frame. It is the scalar reference of every vector kernel.
//!
//! It accepts Ethernet II without tag, then IPv4 without options or IPv6 without extension headers, no fragments, then
//! UDP, with a source that can be answered. Every other frame is refused with one [`DropReason`]: that of the first
//! failed check in this order (`docs/malformed.md` lists the forms):
//!
//! | | IPv4 | IPv6 | reason |
//! |---|---|---|---|
//! | 1 | frame holds an Ethernet header | same | `Truncated` |
//! | 2 | EtherType 0x0800 | 0x86dd | `VlanTag` for a tag, else `EtherType` |
//! | 3 | frame holds 20 bytes more | 40 bytes more | `Truncated` |
//! | 4 | version 4 | version 6 | `IpVersion` |
//! | 5 | header length >= 20, within the frame | | `IpHeaderLength` |
//! | 6 | header length = 20 | | `IpOptions` |
//! | 7 | header checksum | | `IpChecksum` |
//! | 8 | total length >= 20, within the frame | payload length within the frame | `IpLength` |
//! | 9 | neither MF nor offset | next header not Fragment | `Fragment` |
//! | 10 | | next header not another extension header | `IpOptions` |
//! | 11 | protocol 17 | next header 17 | `Protocol` |
//! | 12 | TTL > 0 | hop limit > 0 | `TtlExpired` |
//! | 13 | UDP length >= 8, within the IP payload | same | `UdpLength` |
//! | 14 | | UDP checksum not zero | `UdpChecksumZero` |
//! | 15 | source can be answered | same; no mapped address | `BadSource` |
//!
//! The IPv4 checksum is checked before the fields it protects, as in Linux (`ip_rcv_core`). A UDP length below the IP
//! payload is valid: the remaining bytes are padding or UDP options (RFC 9868). The UDP checksum is not verified. A
//! relay updates it by RFC 1624, so that a wrong one stays wrong.

use super::checksum::{self, Sum};
use super::{Endpoint, Flow, UDP};
use crate::telemetry::DropReason;

/// Counts the bytes of an Ethernet header without tag.
const ETHERNET: u16 = 14;
const L3: usize = ETHERNET as usize;
const IPV4_HEADER: u16 = 20;
const IPV6_HEADER: u16 = 40;
const UDP_HEADER: u16 = 8;
/// Holds the upper 96 bits of `::ffff:0:0/96` (RFC 4291 section 2.5.5.2).
pub(super) const MAPPED: u128 = 0xffff;

/// Describes a well-formed IP/UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parsed {
    /// Whether it is IPv4; otherwise it is IPv6.
    pub ipv4: bool,
    /// Offset of the IP header from the start of the frame, in bytes.
    pub l3: u8,
    /// Offset of the UDP header from the start of the frame, in bytes.
    pub l4: u8,
    /// Length of the frame without Ethernet padding or trailer, in bytes.
    pub length: u16,
    /// Whether TTL or hop limit is 1, so that a router must not forward it.
    pub last_hop: bool,
    /// Source and destination.
    pub flow: Flow,
}

/// Parses a frame from its first 64 bytes and its real `length` in bytes, from the destination MAC on and without frame
/// check sequence. Bytes at or beyond `length` are stale and ignored.
///
/// # Errors
/// Returns the reason of the first failed check, in the order of the [module](self).
#[inline]
pub fn parse(bytes: &[u8; 64], length: u16) -> Result<Parsed, DropReason> {
    parse_with(bytes, length, |parsed| parsed)
}

/// Parses like [`parse()`] and calls `accept` on the result, once for each family. If `accept` stores to columns, the
/// offsets are constants, and no value is moved twice.
#[inline(always)]
pub(crate) fn parse_with<T>(bytes: &[u8; 64], length: u16, accept: impl FnOnce(Parsed) -> T) -> Result<T, DropReason> {
    // A frame too short for its EtherType is too short for either IP header as well.
    match be16::<12>(bytes) {
        0x0800 => ipv4(bytes, length).map(accept),
        0x86dd => ipv6(bytes, length).map(accept),
        _ if length < ETHERNET => Err(DropReason::Truncated),
        0x8100 | 0x88a8 | 0x9100 => Err(DropReason::VlanTag),
        _ => Err(DropReason::EtherType),
    }
}

/// Verifies the UDP checksum of a parsed frame. `frame` starts at the destination MAC. It reads the whole payload,
/// which a relay need not do.
///
/// # Errors
/// Returns [`DropReason::UdpChecksum`] if the checksum is wrong (zero means no checksum for IPv4, which is valid), or
/// [`DropReason::Truncated`] if `frame` is shorter than the parsed frame.
pub fn verify_udp(frame: &[u8], parsed: &Parsed) -> Result<(), DropReason> {
    let datagram = frame.get(usize::from(parsed.l4)..).ok_or(DropReason::Truncated)?;
    let header = datagram.first_chunk::<8>().ok_or(DropReason::Truncated)?;
    let [.., high, low, c, d] = *header;
    let length = u16::from_be_bytes([high, low]);
    let datagram = datagram.get(..usize::from(length)).ok_or(DropReason::Truncated)?;
    let Flow { source, destination } = parsed.flow;
    let pseudo = if parsed.ipv4 {
        if [c, d] == [0, 0] {
            return Ok(());
        }
        Sum::pseudo_ipv4(unmapped(source.address), unmapped(destination.address), length)
    } else {
        Sum::pseudo_ipv6(source.address, destination.address, length)
    };
    if checksum::udp_verifies(pseudo, datagram) { Ok(()) } else { Err(DropReason::UdpChecksum) }
}

#[inline(always)]
fn ipv4(bytes: &[u8; 64], length: u16) -> Result<Parsed, DropReason> {
    const L4: usize = L3 + IPV4_HEADER as usize;
    if length < ETHERNET + IPV4_HEADER {
        return Err(DropReason::Truncated);
    }
    let room = length - ETHERNET;
    let header = field::<L3, 20>(bytes);
    if header[0] != 0x45 {
        return Err(not_a_plain_ipv4_header(header[0], room));
    }
    if !checksum::ipv4_header_verifies(header) {
        return Err(DropReason::IpChecksum);
    }
    let total = be16::<{ L3 + 2 }>(bytes);
    if outside(total, IPV4_HEADER, room) {
        return Err(DropReason::IpLength);
    }
    // The mask covers MF and the offset. DF and the reserved bit do not matter.
    if be16::<{ L3 + 6 }>(bytes) & 0x3fff != 0 {
        return Err(DropReason::Fragment);
    }
    if header[9] != UDP {
        return Err(DropReason::Protocol);
    }
    if header[8] == 0 {
        return Err(DropReason::TtlExpired);
    }
    if outside(be16::<{ L4 + 4 }>(bytes), UDP_HEADER, total - IPV4_HEADER) {
        return Err(DropReason::UdpLength);
    }
    let source = u32::from_be_bytes(*field::<{ L3 + 12 }, 4>(bytes));
    let destination = u32::from_be_bytes(*field::<{ L3 + 16 }, 4>(bytes));
    let port = be16::<L4>(bytes);
    if (port == 0) | !answerable_ipv4(source) {
        return Err(DropReason::BadSource);
    }
    let flow = Flow {
        source: Endpoint { address: mapped(source), port },
        destination: Endpoint { address: mapped(destination), port: be16::<{ L4 + 2 }>(bytes) },
    };
    let last_hop = header[8] == 1;
    Ok(Parsed { ipv4: true, l3: L3 as u8, l4: L4 as u8, length: ETHERNET + total, last_hop, flow })
}

#[cold]
fn not_a_plain_ipv4_header(version_and_length: u8, room: u16) -> DropReason {
    let header_length = u16::from(version_and_length & 0x0f) * 4;
    match version_and_length >> 4 {
        4 if !(IPV4_HEADER..=room).contains(&header_length) => DropReason::IpHeaderLength,
        4 => DropReason::IpOptions,
        _ => DropReason::IpVersion,
    }
}

#[inline(always)]
fn ipv6(bytes: &[u8; 64], length: u16) -> Result<Parsed, DropReason> {
    const L4: usize = L3 + IPV6_HEADER as usize;
    let Some(room) = length.checked_sub(ETHERNET + IPV6_HEADER) else {
        return Err(DropReason::Truncated);
    };
    let header = field::<L3, 40>(bytes);
    if header[0] >> 4 != 6 {
        return Err(DropReason::IpVersion);
    }
    let payload = be16::<{ L3 + 4 }>(bytes);
    if payload > room {
        return Err(DropReason::IpLength);
    }
    if header[6] != UDP {
        return Err(not_udp_ipv6(header[6]));
    }
    if header[7] == 0 {
        return Err(DropReason::TtlExpired);
    }
    if outside(be16::<{ L4 + 4 }>(bytes), UDP_HEADER, payload) {
        return Err(DropReason::UdpLength);
    }
    if be16::<{ L4 + 6 }>(bytes) == 0 {
        return Err(DropReason::UdpChecksumZero);
    }
    // Integers instead of arrays let the compiler keep the addresses in registers.
    let source = u128::from_be_bytes(*field::<{ L3 + 8 }, 16>(bytes));
    let destination = u128::from_be_bytes(*field::<{ L3 + 24 }, 16>(bytes));
    let port = be16::<L4>(bytes);
    if (port == 0) | !answerable_ipv6(source) | (destination >> 32 == MAPPED) {
        return Err(DropReason::BadSource);
    }
    let flow = Flow {
        source: Endpoint { address: source.to_be_bytes(), port },
        destination: Endpoint { address: destination.to_be_bytes(), port: be16::<{ L4 + 2 }>(bytes) },
    };
    let (length, last_hop) = (ETHERNET + IPV6_HEADER + payload, header[7] == 1);
    Ok(Parsed { ipv4: false, l3: L3 as u8, l4: L4 as u8, length, last_hop, flow })
}

/// Returns the reason for a next header other than UDP. The list follows IANA's "IPv6 Extension Header Types".
#[cold]
fn not_udp_ipv6(next_header: u8) -> DropReason {
    match next_header {
        44 => DropReason::Fragment,
        0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 | 253 | 254 => DropReason::IpOptions,
        _ => DropReason::Protocol,
    }
}

/// Returns whether the source can be answered: not "this network" (0/8), loopback (127/8), multicast (224/4) or limited
/// broadcast (RFC 1122 section 3.2.1.3). Some networks use the rest of 240/4 as unicast.
#[inline]
pub(super) fn answerable_ipv4(source: u32) -> bool {
    let net = source >> 24;
    (net != 0) & (net != 127) & (net >> 4 != 14) & (source != u32::MAX)
}

/// Returns whether the source can be answered: not multicast, and not in `::/64`, from which nothing sends. That range
/// contains the unspecified address, loopback, and the mapped, translated and compatible forms of IPv4 addresses (RFC
/// 4291 sections 2.5 and 2.7), which a [`Flow`] would confuse with IPv4.
#[inline]
pub(super) fn answerable_ipv6(source: u128) -> bool {
    (source >> 120 != 0xff) & (source >> 64 != 0)
}

/// Returns whether `value` is below `least` or above `most`, in one branch: the sign of either difference.
#[inline]
fn outside(value: u16, least: u16, most: u16) -> bool {
    let [value, least, most] = [value, least, most].map(i32::from);
    ((value - least) | (most - value)) < 0
}

#[inline]
pub(super) fn mapped(address: u32) -> [u8; 16] {
    (MAPPED << 32 | u128::from(address)).to_be_bytes()
}

fn unmapped([.., a, b, c, d]: [u8; 16]) -> [u8; 4] {
    [a, b, c, d]
}

/// Returns `N` bytes at `AT`. The compiler checks that they are among the 64 bytes.
#[inline(always)]
fn field<const AT: usize, const N: usize>(bytes: &[u8; 64]) -> &[u8; N] {
    const { assert!(AT + N <= 64) };
    bytes[AT..].first_chunk().unwrap_or(&[0; N])
}

#[inline(always)]
fn be16<const AT: usize>(bytes: &[u8; 64]) -> u16 {
    u16::from_be_bytes(*field::<AT, 2>(bytes))
}
