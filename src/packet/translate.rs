//! Translates a parsed datagram from IPv4 to IPv6 and back in place (RFC 7915).
//!
//! ```text
//!   IPv4:                  | Ethernet 14 | IPv4 20 | UDP 8 | payload     UDP header and payload
//!   IPv6: | Ethernet 14 | IPv6 40                  | UDP 8 | payload     do not move
//! ```
//!
//! | field | to IPv6 | to IPv4 |
//! |---|---|---|
//! | traffic class, TOS | copied with ECN | copied |
//! | flow label | 0 | |
//! | hop limit, TTL | reduced by one | reduced by one |
//! | identification | | 0, with DF set: an atomic datagram (RFC 6864 section 4.1) |
//! | lengths | payload length = total length - 20 | total length = payload length + 20 |
//! | IPv4 header checksum | | computed |
//! | UDP checksum | updated by the change, or computed if it was absent (RFC 7915 section 4.5) | updated by the change |
//!
//! The parser refuses fragments, options and extension headers, so they do not occur here. The module owns nothing.

use super::checksum::{self, Sum};
use super::{FlowChecksumDelta, Rewrite, UDP, rewrite};
use crate::telemetry::DropReason;

/// Counts the bytes by which an IPv6 header is longer than an IPv4 header without options.
pub const GROWTH: i16 = 20;

/// Replaces the IPv4 header of a datagram by an IPv6 header with the ends of `new`. `frame` starts [`GROWTH`] bytes
/// before the packet. The parsed offsets `l3` and `l4` count from the start of the packet. The new packet starts with
/// `frame`. `change` leads from the packet's flow to the ends of `new`.
///
/// # Errors
/// Returns [`DropReason::TtlExpired`] if no hop is left, or [`DropReason::Truncated`] if the offsets are not those of a
/// parsed IPv4 frame. It writes nothing then.
pub fn to_ipv6(
    frame: &mut [u8],
    (l3, l4): (u8, u8),
    new: &Rewrite,
    change: FlowChecksumDelta,
) -> Result<(), DropReason> {
    let (l3, l4, growth) = (usize::from(l3), usize::from(l4), GROWTH as usize);
    let header = frame.get(growth + l3..growth + l4).and_then(|ip| ip.first_chunk::<20>());
    let ip = *header.filter(|_| l4 == l3 + 20 && l3 >= 14).ok_or(DropReason::Truncated)?;
    let payload = u16::from_be_bytes([ip[2], ip[3]]).checked_sub(20).ok_or(DropReason::Truncated)?;
    // The frame must hold a UDP header and the bytes of its length field.
    let udp = growth + l4;
    let datagram = datagram(frame, udp).ok_or(DropReason::Truncated)?;
    let hops = rewrite::one_hop_less(ip[8])?;
    let (high, low) = (ip[1] >> 4, ip[1] << 4);
    let [p, q] = payload.to_be_bytes();
    link(frame, growth, l3, 0, [0x86, 0xdd], new);
    let (before, _) = frame.split_at_mut(udp);
    if let Some(to) = before.get_mut(l3..).and_then(|ip| ip.first_chunk_mut::<40>()) {
        to[..8].copy_from_slice(&[0x60 | high, low, 0, 0, p, q, UDP, hops]);
        to[8..24].copy_from_slice(&new.source.address);
        to[24..].copy_from_slice(&new.destination.address);
    }
    let none = udp_header(frame, udp, new, change);
    if none {
        let pseudo = Sum::pseudo_ipv6(new.source.address, new.destination.address, datagram as u16);
        let sum = frame.get(udp..udp + datagram).and_then(|whole| checksum::udp(pseudo, whole));
        if let (Some(sum), Some(field)) = (sum, frame.get_mut(udp + 6..udp + 8)) {
            field.copy_from_slice(&sum.to_be_bytes());
        }
    }
    Ok(())
}

/// Replaces the IPv6 header of a datagram by an IPv4 header with the ends of `new`. `frame` is the parsed packet. The
/// new packet starts [`GROWTH`] bytes into it. `change` leads from the packet's flow to the ends of `new`.
///
/// # Errors
/// Returns [`DropReason::TtlExpired`] if no hop is left, [`DropReason::IpLength`] if the datagram is too long for IPv4,
/// or [`DropReason::Truncated`] if the offsets are not those of a parsed IPv6 frame. It writes nothing then.
pub fn to_ipv4(
    frame: &mut [u8],
    (l3, l4): (u8, u8),
    new: &Rewrite,
    change: FlowChecksumDelta,
) -> Result<(), DropReason> {
    let (l3, l4, growth) = (usize::from(l3), usize::from(l4), GROWTH as usize);
    let header = frame.get(l3..l4).and_then(|ip| ip.first_chunk::<40>());
    let ip = *header.filter(|_| l4 == l3 + 40 && l3 >= 14).ok_or(DropReason::Truncated)?;
    datagram(frame, l4).ok_or(DropReason::Truncated)?;
    let total = u16::from_be_bytes([ip[4], ip[5]]).checked_add(20).ok_or(DropReason::IpLength)?;
    let hops = rewrite::one_hop_less(ip[7])?;
    let class = ip[0] << 4 | ip[1] >> 4;
    let [t, u] = total.to_be_bytes();
    let [.., a, b, c, d] = new.source.address;
    let [.., e, f, g, h] = new.destination.address;
    link(frame, 0, l3, growth, [0x08, 0x00], new);
    if let Some(to) = frame.get_mut(growth + l3..l4).and_then(|ip| ip.first_chunk_mut::<20>()) {
        *to = [0x45, class, t, u, 0, 0, 0x40, 0, hops, UDP, 0, 0, a, b, c, d, e, f, g, h];
        let sum = Sum::default().bytes(to).checksum();
        to[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    udp_header(frame, l4, new, change);
    Ok(())
}

/// Returns the length of the datagram whose UDP header is at `at`, if `frame` holds it.
fn datagram(frame: &[u8], at: usize) -> Option<usize> {
    let header = frame.get(at..)?.first_chunk::<8>()?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    (length >= 8 && frame.len() >= at + length).then_some(length)
}

/// Moves the `length` bytes before the IP header, tags included, and sets the new MAC addresses and EtherType. The
/// caller has checked that both positions are within the frame.
fn link(frame: &mut [u8], from: usize, length: usize, to: usize, ether_type: [u8; 2], new: &Rewrite) {
    frame.copy_within(from..from + length, to);
    if let Some(header) = frame.get_mut(to..to + length) {
        header[..6].copy_from_slice(&new.destination_mac.0);
        header[6..12].copy_from_slice(&new.source_mac.0);
        header[length - 2..].copy_from_slice(&ether_type);
    }
}

/// Sets the new ports, and updates the checksum by the change. Returns whether the checksum was absent. Both pseudo
/// headers have the same length and protocol, so only addresses and ports matter.
fn udp_header(frame: &mut [u8], at: usize, new: &Rewrite, change: FlowChecksumDelta) -> bool {
    let Some(udp) = frame.get_mut(at..).and_then(|udp| udp.first_chunk_mut::<8>()) else { return false };
    udp[..2].copy_from_slice(&new.source.port.to_be_bytes());
    udp[2..4].copy_from_slice(&new.destination.port.to_be_bytes());
    let checksum = u16::from_be_bytes([udp[6], udp[7]]);
    udp[6..].copy_from_slice(&change.l4().apply_udp(checksum).to_be_bytes());
    checksum == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::packet::build::UdpFrame;
    use crate::packet::{Endpoint, Flow, MacAddr, parse, verify_udp};
    use proptest::prelude::*;

    fn end(ipv4: bool) -> impl Strategy<Value = Endpoint> {
        (any::<u128>(), 1u16..).prop_map(move |(bits, port)| {
            let address =
                if ipv4 { 0xffff << 32 | (bits & 0x1fff_ffff | 0x4000_0000) } else { bits >> 8 | 0x20 << 120 };
            Endpoint { address: address.to_be_bytes(), port }
        })
    }

    fn flow(ipv4: bool) -> impl Strategy<Value = Flow> {
        (end(ipv4), end(ipv4)).prop_map(|(source, destination)| Flow { source, destination })
    }

    /// Translates like the relay. Returns the packet or the drop reason.
    fn translated(packet: &[u8], new: &Rewrite) -> Result<Vec<u8>, DropReason> {
        let parsed = parsed(packet).unwrap();
        let flow = Flow { source: new.source, destination: new.destination };
        let change = FlowChecksumDelta::new(&parsed.flow, &flow).unwrap();
        let at = (parsed.l3, parsed.l4);
        if parsed.ipv4 {
            let mut frame = [&[0xaa; 20], packet].concat();
            to_ipv6(&mut frame, at, new, change).map(|()| frame)
        } else {
            let mut frame = packet.to_vec();
            to_ipv4(&mut frame, at, new, change).map(|()| frame.split_off(20))
        }
    }

    fn parsed(frame: &[u8]) -> Result<crate::packet::Parsed, DropReason> {
        parse(&std::array::from_fn(|i| frame.get(i).copied().unwrap_or(0xee)), frame.len() as u16)
    }

    fn built(flow: Flow, hop_limit: u8, traffic_class: u8, payload: &[u8]) -> Vec<u8> {
        UdpFrame { hop_limit, traffic_class, ..UdpFrame::new(flow, payload) }.to_vec().unwrap()
    }

    fn rewrite(flow: Flow) -> Rewrite {
        let (source_mac, destination_mac) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        Rewrite { source_mac, destination_mac, source: flow.source, destination: flow.destination }
    }

    proptest! {
        /// Checks that a translated datagram equals one built for the new ends, and that the reverse translation
        /// restores it.
        #[test]
        fn translated_packet_equals_newly_built_packet(
            (old, new) in any::<bool>().prop_flat_map(|ipv4| (flow(ipv4), flow(!ipv4))),
            hops in 3u8.., class: u8, none: bool, payload in prop::collection::vec(any::<u8>(), 0..100),
            padding in 0usize..20,
        ) {
            let mut before = built(old, hops, class, &payload);
            if none && old.source.is_ipv4() {
                before[40..42].fill(0);
            }
            before.extend(std::iter::repeat_n(0xee, padding));
            let mut wanted = built(new, hops - 1, class, &payload);
            wanted.extend(std::iter::repeat_n(0xee, padding));
            let after = translated(&before, &rewrite(new)).unwrap();
            prop_assert_eq!(&after, &wanted);
            prop_assert_eq!(verify_udp(&after, &parsed(&after).unwrap()), Ok(()));
            let mut back = built(old, hops - 2, class, &payload);
            back.extend(std::iter::repeat_n(0xee, padding));
            prop_assert_eq!(translated(&after, &rewrite(old)).unwrap(), back);
        }

        /// Checks that damage is kept: a translator must not correct what it did not check.
        #[test]
        fn damaged_checksum_stays_damaged(
            (old, new) in any::<bool>().prop_flat_map(|ipv4| (flow(ipv4), flow(!ipv4))), at in 0usize..50, bit in 0u8..8,
        ) {
            let mut before = built(old, 64, 0, &[7; 50]);
            let payload = before.len() - 50;
            before[payload + at] ^= 1 << bit;
            let after = translated(&before, &rewrite(new)).unwrap();
            prop_assert_eq!(verify_udp(&after, &parsed(&after).unwrap()), Err(DropReason::UdpChecksum));
        }
    }

    fn two_flows() -> [Flow; 2] {
        [("192.0.2.1:9", "192.0.2.2:7"), ("[2001:db8::1]:9", "[2001:db8::2]:7")].map(|(a, b)| {
            let [a, b] = [a, b].map(|at| at.parse::<std::net::SocketAddr>().unwrap().into());
            Flow { source: a, destination: b }
        })
    }

    /// Checks all 65535 values of the checksum, before and after.
    #[test]
    fn updated_checksum_equals_full_computation() {
        let [four, six] = two_flows();
        for (old, new) in [(four, six), (six, four)] {
            for word in 0..=u16::MAX {
                let payload = word.to_be_bytes();
                let after = translated(&built(old, 64, 0, &payload), &rewrite(new)).unwrap();
                assert_eq!(after, built(new, 63, 0, &payload), "{word:#x}");
            }
        }
    }

    #[test]
    fn untranslatable_packet_is_unchanged() {
        let [four, six] = two_flows();
        for (old, new) in [(four, six), (six, four)] {
            let packet = built(old, 1, 0, b"last hop");
            assert_eq!(translated(&packet, &rewrite(new)), Err(DropReason::TtlExpired));
            let change = FlowChecksumDelta::new(&old, &Flow { ..new }).unwrap();
            for length in 0..packet.len() {
                for at in [(14, 34), (14, 54), (13, 33), (0, 20), (255, 255), (34, 14)] {
                    let (mut a, mut b) = (packet[..length].to_vec(), packet[..length].to_vec());
                    assert!(to_ipv6(&mut a, at, &rewrite(new), change).is_err());
                    assert!(to_ipv4(&mut b, at, &rewrite(new), change).is_err());
                    assert_eq!((&a[..], &b[..]), (&packet[..length], &packet[..length]));
                }
            }
        }
        // These datagrams are shorter than their header, or longer than the frame.
        for (old, new, at) in [(four, six, (14, 34)), (six, four, (14, 54))] {
            let packet = built(old, 64, 0, b"payload");
            let change = FlowChecksumDelta::new(&old, &new).unwrap();
            for (length, wanted) in [(0, false), (7, false), (8, true), (15, true), (16, false), (u16::MAX, false)] {
                let mut frame = match old.source.is_ipv4() {
                    true => [&[0xaa; 20], &packet[..]].concat(),
                    false => packet.clone(),
                };
                let field = frame.len() - 11;
                frame[field..field + 2].copy_from_slice(&length.to_be_bytes());
                let before = frame.clone();
                let done = match old.source.is_ipv4() {
                    true => to_ipv6(&mut frame, at, &rewrite(new), change),
                    false => to_ipv4(&mut frame, at, &rewrite(new), change),
                };
                assert_eq!(done, if wanted { Ok(()) } else { Err(DropReason::Truncated) }, "{length}");
                assert_eq!(frame == before, !wanted, "{length}");
            }
        }
        // The longest IPv6 datagram is too long for IPv4.
        let mut long = built(six, 64, 0, &[0; 8]);
        long[18..20].copy_from_slice(&65_520u16.to_be_bytes());
        let change = FlowChecksumDelta::new(&six, &four).unwrap();
        assert_eq!(to_ipv4(&mut long, (14, 54), &rewrite(four), change), Err(DropReason::IpLength));
    }
}
