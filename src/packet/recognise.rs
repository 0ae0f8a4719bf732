//! Recognises packets that [`parse`](super::parse()) refuses because the relay does not forward them: with tags,
//! options or extension headers, TCP, ICMP. It is for other handlers; the relay does not need it.
//!
//! | layer | recognised |
//! |---|---|
//! | Ethernet | up to two tags (802.1Q, 802.1ad, and the older 0x9100) |
//! | IPv4 | options of any length; header checksum, lengths, TTL and source as in `parse`; no fragment |
//! | IPv6 | up to eight extension headers: hop-by-hop options (first), destination options, routing (no segments left), authentication (RFC 8200 section 4, RFC 4302); no fragment |
//! | transport | UDP as in `parse`; TCP with a whole header (RFC 9293); ICMP and ICMPv6 of 8 bytes or more (RFC 792, RFC 4443) |
//!
//! It reads only the bytes of the frame. Truncated or inconsistent packets are not recognised.

use super::checksum::Sum;
use super::parse::{MAPPED, answerable_ipv4, answerable_ipv6, mapped};
use super::{Endpoint, Flow, UDP};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const TAGS: usize = 2;
const EXTENSION_HEADERS: usize = 8;

/// Names the content of an IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// UDP.
    Udp,
    /// TCP.
    Tcp,
    /// ICMP over IPv4, or ICMPv6 over IPv6.
    Icmp,
}

/// Describes a well-formed, unfragmented IP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognised {
    /// Number of VLAN tags before the EtherType: 0 to 2.
    pub tags: u8,
    /// Whether it is IPv4; otherwise it is IPv6.
    pub ipv4: bool,
    /// Content of the packet.
    pub transport: Transport,
    /// Offset of the IP header from the start of the frame, in bytes.
    pub l3: u8,
    /// Offset of the transport header from the start of the frame, in bytes.
    pub l4: u8,
    /// Length of the frame without Ethernet padding or trailer, in bytes.
    pub length: u16,
    /// Source and destination. ICMP has no ports, so they are zero.
    pub flow: Flow,
}

/// Holds the values of an IP header.
struct Network {
    ipv4: bool,
    /// Bytes up to the transport header.
    header: usize,
    /// Bytes of the whole packet.
    length: usize,
    protocol: u8,
    source: [u8; 16],
    destination: [u8; 16],
}

/// Recognises a whole `frame`, from the destination MAC on and without frame check sequence. Every packet that
/// [`parse`](super::parse()) accepts is recognised with the same values.
#[must_use]
pub fn recognise(frame: &[u8]) -> Option<Recognised> {
    let (l3, ether_type) = link(frame)?;
    let ip = frame.get(l3..)?;
    let network = match ether_type {
        0x0800 => ipv4(ip)?,
        0x86dd => ipv6(ip)?,
        _ => return None,
    };
    let payload = ip.get(network.header..network.length)?;
    let (transport, ports) = transport(network.ipv4, network.protocol, payload)?;
    let [source, destination] = [(network.source, ports.0), (network.destination, ports.1)];
    let end = |(address, port)| Endpoint { address, port };
    Some(Recognised {
        tags: ((l3 - 14) / 4) as u8,
        ipv4: network.ipv4,
        transport,
        l3: l3 as u8,
        l4: u8::try_from(l3 + network.header).ok()?,
        length: u16::try_from(l3 + network.length).ok()?,
        flow: Flow { source: end(source), destination: end(destination) },
    })
}

/// Returns the offset of the IP header, and the EtherType before it.
fn link(frame: &[u8]) -> Option<(usize, u16)> {
    let mut at = 12;
    for _ in 0..TAGS {
        match be16(frame, at)? {
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            _ => break,
        }
    }
    Some((at + 2, be16(frame, at)?))
}

fn ipv4(ip: &[u8]) -> Option<Network> {
    let first = *ip.first()?;
    let header = ip.get(..usize::from(first & 0x0f) * 4)?;
    let fixed = *header.first_chunk::<20>()?;
    let length = usize::from(be16(ip, 2)?);
    let fragment = be16(ip, 6)? & 0x3fff != 0;
    let [.., a, b, c, d, e, f, g, h] = fixed;
    let (source, destination) = (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]));
    let fits = (header.len()..=ip.len()).contains(&length);
    // The sum over the whole header with its checksum is all ones if the checksum is valid.
    let right = first >> 4 == 4 && Sum::default().bytes(header).fold() == 0xffff;
    (right && fits && !fragment && fixed[8] > 0 && answerable_ipv4(source)).then(|| Network {
        ipv4: true,
        header: header.len(),
        length,
        protocol: fixed[9],
        source: mapped(source),
        destination: mapped(destination),
    })
}

fn ipv6(ip: &[u8]) -> Option<Network> {
    let fixed = ip.first_chunk::<40>()?;
    let length = 40 + usize::from(be16(ip, 4)?);
    let (source, destination) = (*ip.get(8..)?.first_chunk::<16>()?, *ip.get(24..)?.first_chunk::<16>()?);
    let from = u128::from_be_bytes(source);
    if fixed[0] >> 4 != 6
        || length > ip.len()
        || fixed[7] == 0
        || !answerable_ipv6(from)
        || u128::from_be_bytes(destination) >> 32 == MAPPED
    {
        return None;
    }
    let (mut header, mut next) = (40, fixed[6]);
    for _ in 0..EXTENSION_HEADERS {
        let Some([following, size, _, segments]) = ip.get(header..length)?.first_chunk::<4>() else { break };
        let size = usize::from(*size);
        header += match next {
            0 if header == 40 => (size + 1) * 8,
            60 => (size + 1) * 8,
            43 if *segments == 0 => (size + 1) * 8,
            51 if size > 0 => (size + 2) * 4,
            _ => break,
        };
        next = *following;
    }
    Some(Network { ipv4: false, header, length, protocol: next, source, destination })
}

/// Returns the content and its ports. `payload` is the whole content of the IP packet.
fn transport(ipv4: bool, protocol: u8, payload: &[u8]) -> Option<(Transport, (u16, u16))> {
    let ports = (be16(payload, 0)?, be16(payload, 2)?);
    match protocol {
        UDP => {
            let whole = (8..=payload.len()).contains(&usize::from(be16(payload, 4)?));
            let summed = be16(payload, 6)? != 0 || ipv4;
            (whole && summed && ports.0 != 0).then_some((Transport::Udp, ports))
        }
        TCP => {
            let header = usize::from(payload.get(12)? >> 4) * 4;
            ((20..=payload.len()).contains(&header) && ports.0 != 0).then_some((Transport::Tcp, ports))
        }
        ICMP | ICMPV6 => ((protocol == ICMP) == ipv4 && payload.len() >= 8).then_some((Transport::Icmp, (0, 0))),
        _ => None,
    }
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests;
