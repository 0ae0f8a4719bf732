//! What the batch processor writes and handlers read: one column per fact, one lane per packet.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU64;

use super::Transport;
use crate::telemetry::DropReason;

/// Packets in a batch. A set of packets is one `u64`.
pub const LANES: usize = 64;

/// The lanes of a mask, lowest first.
#[inline(always)]
pub fn lanes(mut mask: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        // Of what is not zero the compiler knows that it is below 64.
        let lane = NonZeroU64::new(mask)?.trailing_zeros();
        mask &= mask - 1;
        Some(lane as usize)
    })
}

/// An IEEE 802 MAC address.
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

/// One end of a UDP flow. IPv4 is kept in its mapped form (`::ffff:a.b.c.d`), so that one key serves
/// both families; a native IPv6 packet with a mapped address never gets this far
/// ([`DropReason::BadSource`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Endpoint {
    /// Address, network byte order.
    pub address: [u8; 16],
    /// Port, host byte order.
    pub port: u16,
}

impl Endpoint {
    /// The address as `std` has it: IPv4 for a mapped one.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        IpAddr::V6(Ipv6Addr::from(self.address)).to_canonical()
    }

    /// Whether this is an IPv4 end.
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

/// The two ends of a datagram, as it came in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Flow {
    /// Who sent it.
    pub source: Endpoint,
    /// Whom it was sent to.
    pub destination: Endpoint,
}

/// The columns of a batch. Lane `i` of every column and bit `i` of every mask speak of packet `i`;
/// what is not said of a lane is unspecified.
pub struct Columns {
    /// Whole, well-formed, unfragmented, option-free IP/UDP datagrams: only these have a flow. Neither tags nor
    /// extension headers: their IP header begins at 14, their UDP header at 34 (IPv4) or 54 (IPv6).
    pub udp: u64,
    /// Of [`udp`](Self::udp): IPv4.
    pub ipv4: u64,
    /// Of [`udp`](Self::udp): IPv6.
    pub ipv6: u64,
    /// Of [`udp`](Self::udp): TTL or hop limit is 1, so that a router must not forward it (RFC 1812 section 5.3.1, RFC
    /// 8200 section 3).
    pub last_hop: u64,
    /// Not of [`udp`](Self::udp), but whole and recognised: UDP behind VLAN tags, IPv4 options or IPv6 extension
    /// headers. Like [`tcp`](Self::tcp) and [`icmp`](Self::icmp), these lanes have facts **and** a fault: the relay
    /// drops them for it, a handler that can do more looks here first.
    pub udp_extended: u64,
    /// Recognised: TCP.
    pub tcp: u64,
    /// Recognised: ICMP and ICMPv6. Their flows have no ports.
    pub icmp: u64,
    /// Of these three: with one or two VLAN tags, which end where [`l3`](Self::l3) says.
    pub tagged: u64,
    /// Why a lane is not in [`udp`](Self::udp); stale for lanes that are.
    pub reject_reason: [DropReason; LANES],
    /// Offset of the IP header from the start of the frame, bytes.
    pub l3: [u8; LANES],
    /// Offset of the UDP (TCP, ICMP) header from the start of the frame, bytes.
    pub l4: [u8; LANES],
    /// Length of the frame without Ethernet padding or trailer, bytes.
    pub length: [u16; LANES],
    /// Who to whom.
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
    /// Puts a lane that is not in [`udp`](Self::udp) where it belongs, if the whole `frame` is something that is
    /// [recognised](super::recognise()). Its fault stays. `lane` is below [`LANES`]; the masks must not have it yet.
    pub fn recognise(&mut self, lane: usize, frame: &[u8]) {
        let Some(found) = super::recognise(frame) else { return };
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
