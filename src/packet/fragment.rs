//! Fragments of UDP datagrams: RFC 791 section 3.2, RFC 8200 section 4.5.
//!
//! | checked | IPv4 | IPv6 |
//! |---|---|---|
//! | headers | 20 bytes without options, checksum | 40 bytes, then the fragment header |
//! | carries | UDP | UDP |
//! | lengths | within the frame; a multiple of 8 unless it is the last one; ends within 65,535 bytes | same |
//! | TTL, hop limit | above zero | same |
//! | source | can be answered | same; no mapped destination |
//! | first fragment | a whole UDP header, source port above zero | same; checksum above zero |
//!
//! Owns nothing: functions over bytes that the caller owns.

use super::checksum;
use super::parse::{MAPPED, answerable_ipv4, answerable_ipv6, mapped};
use super::{Endpoint, Flow, Rewrite, UDP, rewrite};
use crate::telemetry::DropReason;

const L3: usize = 14;
const IPV4_HEADER: usize = 20;
const IPV6_HEADERS: usize = 48;
/// IPv6 next header of a fragment header.
const FRAGMENT: u8 = 44;

/// A well-formed fragment of a UDP datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fragment {
    /// States whether it is of IPv4; else of IPv6.
    pub ipv4: bool,
    /// Identifies the datagram, together with both addresses. At most 65,535 in IPv4.
    pub id: u32,
    /// Place of its data in the datagram, bytes.
    pub offset: u16,
    /// States whether fragments with larger offsets follow.
    pub more: bool,
    /// Offset of its data from the start of the frame, bytes: of the UDP header in a first fragment.
    pub l4: u8,
    /// Length of the frame without Ethernet padding or trailer, bytes.
    pub length: u16,
    /// Addresses, and the ports of a first fragment. A later one has none: they are zero.
    pub flow: Flow,
}

impl Fragment {
    /// Returns whether it holds the datagram's UDP header.
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }
}

/// Reads the fragment in a whole `frame`, from the destination MAC, without frame check sequence. Returns `None` for all
/// other packets, and for a fragment that fails a check of the [module](self).
#[must_use]
pub fn fragment(frame: &[u8]) -> Option<Fragment> {
    match frame.get(12..L3)? {
        [0x08, 0x00] => ipv4(frame),
        [0x86, 0xdd] => ipv6(frame),
        _ => None,
    }
}

fn ipv4(frame: &[u8]) -> Option<Fragment> {
    let header = frame.get(L3..)?.first_chunk::<IPV4_HEADER>()?;
    let word = be16(header, 6)?;
    let right = header[0] == 0x45 && checksum::ipv4_header_verifies(header) && header[9] == UDP && header[8] > 0;
    let (source, destination) = (be32(header, 12)?, be32(header, 16)?);
    if !right || word & 0x3fff == 0 || !answerable_ipv4(source) {
        return None;
    }
    let length = L3 + usize::from(be16(header, 2)?);
    let id = u32::from(be16(header, 4)?);
    let place = (id, (word & 0x1fff) * 8, word & 0x2000 != 0);
    finish(frame, true, L3 + IPV4_HEADER, length, place, mapped(source), mapped(destination))
}

fn ipv6(frame: &[u8]) -> Option<Fragment> {
    let header = frame.get(L3..)?.first_chunk::<IPV6_HEADERS>()?;
    let (source, destination) = (*header[8..].first_chunk::<16>()?, *header[24..].first_chunk::<16>()?);
    let right = header[0] >> 4 == 6 && header[6] == FRAGMENT && header[40] == UDP && header[7] > 0;
    let to_mapped = u128::from_be_bytes(destination) >> 32 == MAPPED;
    if !right || to_mapped || !answerable_ipv6(u128::from_be_bytes(source)) {
        return None;
    }
    let length = L3 + 40 + usize::from(be16(header, 4)?);
    let word = be16(header, 42)?;
    let place = (be32(header, 44)?, word & 0xfff8, word & 1 != 0);
    finish(frame, false, L3 + IPV6_HEADERS, length, place, source, destination)
}

fn finish(
    frame: &[u8],
    ipv4: bool,
    l4: usize,
    length: usize,
    (id, offset, more): (u32, u16, bool),
    source: [u8; 16],
    destination: [u8; 16],
) -> Option<Fragment> {
    let data = frame.get(l4..length)?;
    let whole = !more || data.len().is_multiple_of(8);
    if data.is_empty() || !whole || usize::from(offset) + data.len() > usize::from(u16::MAX) {
        return None;
    }
    let mut ports = [0; 2];
    if offset == 0 {
        ports = [be16(data, 0)?, be16(data, 2)?];
        let summed = ipv4 || be16(data, 6)? != 0;
        if data.len() < 8 || be16(data, 4)? < 8 || ports[0] == 0 || !summed {
            return None;
        }
    }
    let [source, destination] =
        [(source, ports[0]), (destination, ports[1])].map(|(address, port)| Endpoint { address, port });
    let length = u16::try_from(length).ok()?;
    Some(Fragment { ipv4, id, offset, more, l4: l4 as u8, length, flow: Flow { source, destination } })
}

/// Gives the fragment that `frame` begins with the identification `id`, of which IPv4 takes the low 16 bits. Returns
/// `None`, and changes nothing, if `frame` is shorter than its headers.
pub fn set_identification(frame: &mut [u8], ipv4: bool, id: u32) -> Option<()> {
    if ipv4 {
        let header = frame.get_mut(L3..)?.first_chunk_mut::<IPV4_HEADER>()?;
        header[4..6].copy_from_slice(&(id as u16).to_be_bytes());
        let sum = checksum::ipv4_header(header)?;
        header[10..12].copy_from_slice(&sum.to_be_bytes());
    } else {
        frame.get_mut(L3 + 44..L3 + 48)?.copy_from_slice(&id.to_be_bytes());
    }
    Some(())
}

/// Rewrites a later fragment: MACs and addresses of `new`, whose ports do not matter, one hop less, and the
/// identification `id`. The data stays as it is.
///
/// # Errors
/// [`DropReason::TtlExpired`] if no hop is left, [`DropReason::IpVersion`] if the addresses are of the other family,
/// [`DropReason::Truncated`] if `frame` is shorter than its headers. The frame is unchanged then.
pub fn rewrite_later(frame: &mut [u8], ipv4: bool, new: &Rewrite, id: u32) -> Result<(), DropReason> {
    if new.source.is_ipv4() != ipv4 || new.destination.is_ipv4() != ipv4 {
        return Err(DropReason::IpVersion);
    }
    let headers = frame.get_mut(..L3 + if ipv4 { IPV4_HEADER } else { IPV6_HEADERS }).ok_or(DropReason::Truncated)?;
    let (link, ip) = headers.split_at_mut(L3);
    if ipv4 {
        ip[8] = rewrite::one_hop_less(ip[8])?;
        ip[12..16].copy_from_slice(&new.source.address[12..]);
        ip[16..].copy_from_slice(&new.destination.address[12..]);
    } else {
        ip[7] = rewrite::one_hop_less(ip[7])?;
        ip[8..24].copy_from_slice(&new.source.address);
        ip[24..40].copy_from_slice(&new.destination.address);
    }
    link[..6].copy_from_slice(&new.destination_mac.0);
    link[6..12].copy_from_slice(&new.source_mac.0);
    set_identification(frame, ipv4, id).ok_or(DropReason::Truncated)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_be_bytes)
}

#[cfg(test)]
mod tests;
