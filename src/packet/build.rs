//! Builds complete, valid frames, for tests, the simulated port and probes. It is not for the hot path.

use super::checksum::{self, Sum};
use super::{Flow, MacAddr, UDP};

/// Describes a UDP datagram in an Ethernet frame. Its flow determines the family, IPv4 or IPv6.
///
/// ```
/// use oxide::packet::{Flow, build::UdpFrame, parse};
/// # use std::net::SocketAddr;
/// let from: SocketAddr = "192.0.2.1:4000".parse()?;
/// let to: SocketAddr = "198.51.100.7:53".parse()?;
/// let flow = Flow { source: from.into(), destination: to.into() };
/// let frame = UdpFrame::new(flow, b"hello").to_vec().ok_or("does not fit")?;
/// let bytes = std::array::from_fn(|i| frame.get(i).copied().unwrap_or(0));
/// assert_eq!(parse(&bytes, frame.len() as u16).map(|parsed| parsed.flow), Ok(flow));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct UdpFrame<'a> {
    /// Ethernet source address.
    pub source_mac: MacAddr,
    /// Ethernet destination address.
    pub destination_mac: MacAddr,
    /// Source and destination of the datagram.
    pub flow: Flow,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// DSCP in the upper six bits, ECN in the lower two.
    pub traffic_class: u8,
    /// Payload of the datagram.
    pub payload: &'a [u8],
}

impl<'a> UdpFrame<'a> {
    /// Describes a datagram with locally administered MAC addresses (`02:00:00:00:00:01` to `:02`), 64 hops and traffic
    /// class 0.
    #[must_use]
    pub fn new(flow: Flow, payload: &'a [u8]) -> Self {
        Self {
            source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            flow,
            hop_limit: 64,
            traffic_class: 0,
            payload,
        }
    }

    /// Returns the length of the frame in bytes, without padding.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // A frame is never empty.
    pub fn len(&self) -> usize {
        let ip = if self.flow.source.is_ipv4() { 20 } else { 40 };
        14 + ip + 8 + self.payload.len()
    }

    /// Writes the frame with its checksums to the start of `out`, and returns its length. Returns `None` and writes
    /// nothing if `out` or the length fields are too small, or if the two ends have different families.
    #[must_use]
    pub fn write(&self, out: &mut [u8]) -> Option<usize> {
        let (length, headers) = (self.len(), self.len() - self.payload.len());
        let udp_length = 8 + self.payload.len();
        let longest = if self.flow.source.is_ipv4() { 65_515 } else { 65_535 };
        if udp_length > longest || self.flow.source.is_ipv4() != self.flow.destination.is_ipv4() {
            return None;
        }
        out.get_mut(headers..length)?.copy_from_slice(self.payload);
        self.write_around(out.get_mut(..length)?)?;
        Some(length)
    }

    /// Writes the headers around a payload that is already in place, for tunnels. `frame` is the whole frame; the field
    /// [`payload`](Self::payload) is ignored. Returns `None` and writes nothing if `frame` is shorter than the headers,
    /// if the length fields are too small, or if the two ends have different families.
    #[must_use]
    pub fn write_around(&self, frame: &mut [u8]) -> Option<()> {
        let ipv4 = self.flow.source.is_ipv4();
        if self.flow.destination.is_ipv4() != ipv4 {
            return None;
        }
        let udp_length = u16::try_from(frame.len().checked_sub(if ipv4 { 34 } else { 54 })?).ok()?;
        if udp_length < 8 || ipv4 && udp_length > 65_515 {
            return None;
        }
        let (link, rest) = frame.split_first_chunk_mut::<14>()?;
        let pseudo = if ipv4 {
            let total = udp_length.checked_add(20)?;
            let (ip, _) = rest.split_first_chunk_mut::<20>()?;
            self.ipv4(ip, total, udp_length)
        } else {
            let (ip, _) = rest.split_first_chunk_mut::<40>()?;
            self.ipv6(ip, udp_length)
        };
        link[..6].copy_from_slice(&self.destination_mac.0);
        link[6..12].copy_from_slice(&self.source_mac.0);
        link[12..].copy_from_slice(if ipv4 { &[0x08, 0x00] } else { &[0x86, 0xdd] });
        let (_, datagram) = rest.split_at_mut(if ipv4 { 20 } else { 40 });
        let (header, _) = datagram.split_first_chunk_mut::<8>()?;
        header[..2].copy_from_slice(&self.flow.source.port.to_be_bytes());
        header[2..4].copy_from_slice(&self.flow.destination.port.to_be_bytes());
        header[4..6].copy_from_slice(&udp_length.to_be_bytes());
        let checksum = checksum::udp(pseudo, datagram)?;
        datagram[6..8].copy_from_slice(&checksum.to_be_bytes());
        Some(())
    }

    /// Returns the frame in new memory, or `None` in the cases of [`write`](Self::write).
    #[must_use]
    pub fn to_vec(&self) -> Option<Vec<u8>> {
        let mut out = vec![0; self.len()];
        self.write(&mut out).map(|_| out)
    }

    fn ipv4(&self, ip: &mut [u8; 20], total: u16, udp_length: u16) -> Sum {
        let [.., a, b, c, d] = self.flow.source.address;
        let [.., e, f, g, h] = self.flow.destination.address;
        let [t, u] = total.to_be_bytes();
        // DF is set, so the identification may be zero (RFC 6864).
        *ip = [0x45, self.traffic_class, t, u, 0, 0, 0x40, 0, self.hop_limit, UDP, 0, 0, a, b, c, d, e, f, g, h];
        let checksum = Sum::default().bytes(ip).checksum();
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        Sum::pseudo_ipv4([a, b, c, d], [e, f, g, h], udp_length)
    }

    fn ipv6(&self, ip: &mut [u8; 40], udp_length: u16) -> Sum {
        let [high, low] = [self.traffic_class >> 4, self.traffic_class << 4];
        let [t, u] = udp_length.to_be_bytes();
        ip[..8].copy_from_slice(&[0x60 | high, low, 0, 0, t, u, UDP, self.hop_limit]);
        ip[8..24].copy_from_slice(&self.flow.source.address);
        ip[24..].copy_from_slice(&self.flow.destination.address);
        Sum::pseudo_ipv6(self.flow.source.address, self.flow.destination.address, udp_length)
    }
}

/// Cuts a UDP datagram without options and extension headers into fragments whose IP packets have at most `mtu` bytes
/// each (RFC 791 section 3.2, RFC 8200 section 4.5). A datagram that fits is returned as it is. `None` if `frame` is
/// shorter than its headers, or `mtu` leaves less than 8 bytes of data.
#[must_use]
pub fn fragments(frame: &[u8], mtu: u16, id: u32) -> Option<Vec<Vec<u8>>> {
    let ipv4 = frame.get(12..14)? == [0x08, 0x00];
    let (header, grown) = if ipv4 { (34, 34) } else { (54, 62) };
    let (headers, data) = (frame.get(..header)?, frame.get(header..)?);
    if frame.len() - 14 <= usize::from(mtu) {
        return Some(vec![frame.to_vec()]);
    }
    let size = (usize::from(mtu) + 14).checked_sub(grown)? / 8 * 8;
    if size == 0 {
        return None;
    }
    let last = data.len().div_ceil(size) - 1;
    let cut = data.chunks(size).enumerate().map(|(at, chunk)| {
        let (place, more) = ((at * size) as u16, u16::from(at < last));
        let mut part = headers.to_vec();
        if ipv4 {
            let [length, id, word] = [(20 + chunk.len()) as u16, id as u16, (place / 8) | (more << 13)];
            part[16..18].copy_from_slice(&length.to_be_bytes());
            part[18..20].copy_from_slice(&id.to_be_bytes());
            part[20..22].copy_from_slice(&word.to_be_bytes());
            let sum = checksum::ipv4_header(&part[14..])?;
            part[24..26].copy_from_slice(&sum.to_be_bytes());
        } else {
            part[18..20].copy_from_slice(&((8 + chunk.len()) as u16).to_be_bytes());
            part[20] = 44;
            part.extend([UDP, 0]);
            part.extend((place | more).to_be_bytes());
            part.extend(id.to_be_bytes());
        }
        part.extend(chunk);
        Some(part)
    });
    cut.collect()
}
