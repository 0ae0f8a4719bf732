//! Inner packets: the part of their headers that a tunnel needs, padding, ECN (RFC 6040) and DSCP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Describes an inner packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Inner {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Length without padding, bytes.
    pub length: usize,
    /// DSCP and ECN: the TOS byte, or the traffic class.
    pub traffic_class: u8,
}

/// Reports that a decrypted packet is neither IPv4 nor IPv6, or is shorter than it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("inner packet of {length} bytes: not a whole IPv4 or IPv6 packet")]
pub struct NotIp {
    /// Length of what was decrypted, bytes.
    pub length: usize,
}

impl Inner {
    /// Reads the header of a packet that may have padding behind it.
    ///
    /// # Errors
    /// [`NotIp`].
    pub fn parse(packet: &[u8]) -> Result<Self, NotIp> {
        Self::read(packet).filter(|inner| inner.length <= packet.len()).ok_or(NotIp { length: packet.len() })
    }

    fn read(packet: &[u8]) -> Option<Self> {
        let be16 = |at: usize| Some(usize::from(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?)));
        match packet.first()? >> 4 {
            4 => {
                let header = 4 * usize::from(packet[0] & 15);
                let (length, traffic_class) = (be16(2)?, *packet.get(1)?);
                let address = |at: usize| Some(Ipv4Addr::from(*packet.get(at..)?.first_chunk::<4>()?).into());
                let (source, destination) = (address(12)?, address(16)?);
                (header >= 20 && length >= header).then_some(Self { source, destination, length, traffic_class })
            }
            6 => {
                let traffic_class = packet[0] << 4 | packet.get(1)? >> 4;
                let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?).into());
                let (source, destination) = (address(8)?, address(24)?);
                Some(Self { source, destination, length: 40 + be16(4)?, traffic_class })
            }
            _ => None,
        }
    }
}

/// Returns the length to which a packet is padded: a multiple of 16, but not more than the tunnel's MTU.
#[must_use]
pub fn padded(length: usize, mtu: usize) -> usize {
    if length >= mtu { length } else { length.next_multiple_of(16).min(mtu) }
}

/// Chooses the DSCP of outer headers. The inner DSCP is never changed (RFC 2983, pipe model).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DscpPolicy {
    /// Zero: an observer learns nothing about the packet. WireGuard does the same.
    #[default]
    Zero,
    /// The DSCP of the inner packet.
    Copy,
    /// Always this value, of which six bits count.
    Fixed(u8),
}

/// Returns the outer TOS byte or traffic class for an inner one (RFC 6040, section 4.1, normal mode).
#[must_use]
pub fn outer_class(inner: u8, policy: DscpPolicy) -> u8 {
    let dscp = match policy {
        DscpPolicy::Zero => 0,
        DscpPolicy::Copy => inner & 0xfc,
        DscpPolicy::Fixed(dscp) => dscp << 2,
    };
    dscp | inner & 3
}

/// Returns the ECN field of a decapsulated packet (RFC 6040, section 4.2); `None` if the packet must be dropped, because
/// the network reported congestion to a packet that cannot carry the report.
#[must_use]
pub fn inner_ecn(inner: u8, outer: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    match (inner & 3, outer & 3) {
        (NOT_ECT, CE) => None,
        (NOT_ECT, _) => Some(NOT_ECT),
        (_, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}

/// Applies the ECN field of the outer header to a decapsulated packet, with its IPv4 checksum. Returns `false` if the
/// packet must be dropped.
#[must_use]
pub fn apply_outer_ecn(packet: &mut [u8], outer: u8) -> bool {
    match packet {
        [version, tos, rest @ ..] if *version >> 4 == 4 => {
            let Some(ecn) = inner_ecn(*tos, outer) else { return false };
            let old = u16::from_be_bytes([*version, *tos]);
            *tos = *tos & 0xfc | ecn;
            let new = u16::from_be_bytes([*version, *tos]);
            if let Some(checksum) = rest.get_mut(8..10)
                && old != new
            {
                // RFC 1624, equation 3.
                let sum = u32::from(!u16::from_be_bytes([checksum[0], checksum[1]])) + u32::from(!old) + u32::from(new);
                let sum = (sum & 0xffff) + (sum >> 16);
                checksum.copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
            }
            true
        }
        [version, class, ..] if *version >> 4 == 6 => {
            let Some(ecn) = inner_ecn(*class >> 4, outer) else { return false };
            *class = *class & 0xcf | ecn << 4;
            true
        }
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn ipv4(tos: u8) -> Vec<u8> {
        let mut packet = vec![0x45, tos, 0, 24, 1, 2, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 1, 2, 3, 4];
        let checksum = !sum(&packet[..20]);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet
    }

    fn sum(header: &[u8]) -> u16 {
        let sum: u32 = header.as_chunks().0.iter().map(|two| u32::from(u16::from_be_bytes(*two))).sum();
        ((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn ecn_follows_the_table_of_rfc_6040() {
        // Rows: inner Not-ECT, ECT(1), ECT(0), CE; columns: outer Not-ECT, ECT(1), ECT(0), CE.
        let table = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        for (inner, row) in (0..).zip(table) {
            for (outer, expected) in (0..).zip(row) {
                assert_eq!(inner_ecn(inner, outer), expected, "inner {inner}, outer {outer}");
                let mut packet = ipv4(0xb8 | inner);
                assert_eq!(apply_outer_ecn(&mut packet, outer), expected.is_some());
                assert_eq!(packet[1], 0xb8 | expected.unwrap_or(inner), "the DSCP stays");
                assert_eq!(sum(&packet[..20]), 0xffff, "inner {inner}, outer {outer}: checksum");
                let mut packet = [&[0x6f, inner << 4 | 5][..], &[0; 38]].concat();
                assert_eq!(apply_outer_ecn(&mut packet, outer), expected.is_some());
                assert_eq!(packet[..2], [0x6f, expected.unwrap_or(inner) << 4 | 5]);
            }
        }
    }

    #[test]
    fn outer_class_carries_ecn_and_the_wanted_dscp() {
        assert_eq!(outer_class(0xb9, DscpPolicy::Zero), 1);
        assert_eq!(outer_class(0xb9, DscpPolicy::Copy), 0xb9);
        assert_eq!(outer_class(0xb9, DscpPolicy::Fixed(8)), 0x21);
    }

    #[test]
    fn padding_is_a_multiple_of_16_below_the_mtu() {
        for (length, expected) in
            [(0, 0), (1, 16), (16, 16), (1_400, 1_408), (1_419, 1_420), (1_420, 1_420), (1_500, 1_500)]
        {
            assert_eq!(padded(length, 1_420), expected, "{length}");
        }
    }

    #[test]
    fn lengths_and_addresses_are_read() {
        let mut packet = ipv4(0);
        packet.extend([0; 8]);
        let inner = Inner::parse(&packet).unwrap();
        assert_eq!((inner.length, inner.source, inner.destination), (24, [10, 0, 0, 1].into(), [10, 0, 0, 2].into()));
        for (at, value) in [(0, 0x44), (0, 0x55), (2, 1), (3, 19)] {
            let mut wrong = packet.clone();
            wrong[at] = value;
            assert!(Inner::parse(&wrong).is_err(), "byte {at} = {value}");
        }
    }

    proptest! {
        #[test]
        fn parse_and_ecn_accept_any_bytes(mut packet in prop::collection::vec(any::<u8>(), 0..80), outer: u8) {
            if let Ok(inner) = Inner::parse(&packet) {
                prop_assert!(inner.length >= 20 && inner.length <= packet.len());
            }
            let length = packet.len();
            let _ = apply_outer_ecn(&mut packet, outer);
            prop_assert_eq!(packet.len(), length);
        }
    }
}
