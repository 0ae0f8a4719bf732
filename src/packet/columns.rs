//! Defines the columns that the batch processor writes and handlers read: one per header field, with one lane per
//! packet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;

use super::Transport;
use crate::telemetry::DropReason;

/// Limits the packets in a batch. A set of packets is one `u64`.
pub const LANES: usize = 64;

/// Returns the lanes in a mask, lowest first.
#[inline(always)]
pub fn lanes(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        // The type NonZeroU64 lets the compiler know that the lane is below 64.
        let lane = NonZeroU64::new(mask)?.trailing_zeros();
        mask &= mask - 1;
        Some(lane as usize)
    })
}

/// Holds an IEEE 802 MAC address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct MacAddr(pub [u8; 6]);

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl serde::Serialize for MacAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Holds address and port of one end of a UDP flow. IPv4 addresses have their mapped form (`::ffff:a.b.c.d`), so that
/// one key serves both families. Native IPv6 packets with a mapped address are dropped before
/// ([`DropReason::BadSource`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Endpoint {
    /// Address in network byte order.
    pub address: [u8; 16],
    /// Port in host byte order.
    pub port: u16,
}

impl Endpoint {
    /// Returns the address as a `std` type. A mapped address is returned as IPv4.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.address)).to_canonical()
    }

    /// Returns whether the address is IPv4.
    #[must_use]
    #[inline]
    pub const fn is_ipv4(&self) -> bool {
        u128::from_be_bytes(self.address) >> 32 == 0xffff
    }
}

impl From<SocketAddr> for Endpoint {
    fn from(at: SocketAddr) -> Self {
        let address = match at.ip() {
            IpAddr::V4(v4) => Ipv4Addr::to_ipv6_mapped(&v4).octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        Self { address, port: at.port() }
    }
}

impl From<Endpoint> for SocketAddr {
    fn from(at: Endpoint) -> Self {
        SocketAddr::new(at.ip(), at.port)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&SocketAddr::from(*self), f)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Holds both ends of a received datagram.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Flow {
    /// Sender of the datagram.
    pub source: Endpoint,
    /// Receiver of the datagram.
    pub destination: Endpoint,
}

/// Holds the columns of a batch. Lane `i` of every column and bit `i` of every mask belong to packet `i`. Values of
/// other lanes are unspecified.
pub struct Columns {
    /// Complete, well-formed, unfragmented IP/UDP datagrams without options; only these have a flow. They have neither
    /// tags nor extension headers: the IP header begins at 14, the UDP header at 34 (IPv4) or 54 (IPv6).
    pub udp: u64,
    /// Lanes of [`udp`](Self::udp) with IPv4.
    pub ipv4: u64,
    /// Lanes of [`udp`](Self::udp) with IPv6.
    pub ipv6: u64,
    /// Lanes of [`udp`](Self::udp) whose TTL or hop limit is 1, so that a router must not forward them (RFC 1812
    /// section
    /// 5.3.1, RFC 8200 section 3).
    pub last_hop: u64,
    /// Recognised packets that are not in [`udp`](Self::udp): UDP after VLAN tags, IPv4 options or IPv6 extension
    /// headers. Like [`tcp`](Self::tcp) and [`icmp`](Self::icmp), these lanes have values **and** a reject reason. The
    /// relay drops them for that reason; a handler that supports them checks these masks first.
    pub udp_extended: u64,
    /// Recognised TCP packets.
    pub tcp: u64,
    /// Recognised ICMP and ICMPv6 packets. Their flows have no ports.
    pub icmp: u64,
    /// Lanes of well-formed fragments of UDP datagrams. Only the first fragment of a datagram has ports;
    /// [`fragment`](super::fragment::fragment) reads the rest.
    pub fragments: u64,
    /// Lanes of `udp_extended`, `tcp` and `icmp` with one or two VLAN tags, which end at the offset [`l3`](Self::l3).
    pub tagged: u64,
    /// Reason why a lane is not in [`udp`](Self::udp); stale for lanes that are.
    pub reject_reason: [DropReason; LANES],
    /// Offset of the IP header from the start of the frame, in bytes.
    pub l3: [u8; LANES],
    /// Offset of the UDP (TCP, ICMP) header from the start of the frame, in bytes.
    pub l4: [u8; LANES],
    /// Length of the frame without Ethernet padding or trailer, in bytes.
    pub length: [u16; LANES],
    /// Source and destination.
    pub flow: [Flow; LANES],
}

impl Default for Columns {
    fn default() -> Self {
        Self {
            udp: 0,
            ipv4: 0,
            ipv6: 0,
            last_hop: 0,
            udp_extended: 0,
            tcp: 0,
            icmp: 0,
            fragments: 0,
            tagged: 0,
            reject_reason: [DropReason::Truncated; LANES],
            l3: [0; LANES],
            l4: [0; LANES],
            length: [0; LANES],
            flow: [Flow::default(); LANES],
        }
    }
}

impl Columns {
    /// Adds a lane that is not in [`udp`](Self::udp) to the mask of its kind, if the whole `frame` is
    /// [recognised](super::recognise()). Its reject reason stays. `lane` is below [`LANES`] and not in these masks yet.
    pub fn recognise(&mut self, lane: usize, frame: &[u8]) {
        let Some(found) = super::recognise(frame) else { return self.note_fragment(lane, frame) };
        let mask = match found.transport {
            Transport::Udp => &mut self.udp_extended,
            Transport::Tcp => &mut self.tcp,
            Transport::Icmp => &mut self.icmp,
        };
        *mask |= 1 << lane;
        self.tagged |= u64::from(found.tags > 0) << lane;
        (self.l3[lane], self.l4[lane]) = (found.l3, found.l4);
        (self.length[lane], self.flow[lane]) = (found.length, found.flow);
    }

    fn note_fragment(&mut self, lane: usize, frame: &[u8]) {
        let Some(found) = super::fragment::fragment(frame) else { return };
        self.fragments |= 1 << lane;
        (self.l3[lane], self.l4[lane]) = (14, found.l4);
        (self.length[lane], self.flow[lane]) = (found.length, found.flow);
    }
}

#[cfg(test)]
mod tests {
    use super::lanes;

    #[test]
    fn mask_iterates_its_lanes() {
        assert_eq!(lanes(0).count(), 0);
        assert_eq!(lanes(1 | 1 << 5 | 1 << 63).collect::<Vec<_>>(), [0, 5, 63]);
        assert_eq!(lanes(u64::MAX).count(), 64);
    }
}
