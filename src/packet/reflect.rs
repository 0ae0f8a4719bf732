//! Turns a packet into an answer to its sender, for echoes and tests.

/// Swaps source and destination of an Ethernet frame in place: the MAC addresses, and for UDP over IPv4 without options
/// or IPv6 without extension headers also addresses and ports. Checksums stay valid, because their sums do not depend
/// on the order. For other frames, only the MAC addresses are swapped.
///
/// Returns whether addresses and ports were swapped as well.
pub fn reflect(frame: &mut [u8]) -> bool {
    let Some((macs, rest)) = frame.split_at_mut_checked(12) else { return false };
    let (to, from) = macs.split_at_mut(6);
    to.swap_with_slice(from);
    // The bytes are EtherType, version and header length, and the protocol of either family.
    let (addresses, length) = match rest {
        [0x08, 0x00, 0x45, _, ..] if rest.get(11) == Some(&super::UDP) => (14, 4),
        [0x86, 0xdd, v, ..] if *v >> 4 == 6 && rest.get(8) == Some(&super::UDP) => (10, 16),
        _ => return false,
    };
    let Some((ends, ports)) = rest.get_mut(addresses..).and_then(|r| r.split_at_mut_checked(2 * length)) else {
        return false;
    };
    let Some((source, destination)) = ports.get_mut(..4).map(|p| p.split_at_mut(2)) else { return false };
    source.swap_with_slice(destination);
    let (source, destination) = ends.split_at_mut(length);
    source.swap_with_slice(destination);
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::reflect;
    use crate::packet::build::UdpFrame;
    use crate::packet::{Flow, parse, verify_udp};

    #[test]
    fn reflected_packet_parses_with_valid_checksums() {
        for (a, b) in [("10.0.0.1:7", "10.0.0.2:9"), ("[fd00::1]:7", "[fd00::2]:9")] {
            let (a, b): (std::net::SocketAddr, std::net::SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            let flow = Flow { source: a.into(), destination: b.into() };
            let mut frame = UdpFrame::new(flow, b"payload of an odd length").to_vec().unwrap();
            let (to, from): ([u8; 6], [u8; 6]) = (frame[..6].try_into().unwrap(), frame[6..12].try_into().unwrap());
            assert!(reflect(&mut frame));
            let bytes = &mut [0u8; 64];
            let n = frame.len().min(64);
            bytes[..n].copy_from_slice(&frame[..n]);
            let parsed = parse(bytes, frame.len() as u16).unwrap();
            assert_eq!(parsed.flow, Flow { source: b.into(), destination: a.into() });
            assert!(verify_udp(&frame, &parsed).is_ok());
            assert_eq!((&frame[..6], &frame[6..12]), (&from[..], &to[..]));
        }
    }

    #[test]
    fn short_and_foreign_frames_are_unchanged() {
        for length in 0..60 {
            let mut frame = vec![0x45; length];
            assert!(!reflect(&mut frame));
        }
    }
}
