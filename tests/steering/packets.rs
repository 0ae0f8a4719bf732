//! Holds packets byte by byte, and an independent specification of their verdicts.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use oxide::xdp::steering::Verdict;

pub(crate) const V4: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
pub(crate) const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub(crate) const PORT: u16 = 4242;

/// Offsets of the fields that the table changes.
pub(crate) const ETHERTYPE: usize = 12;
pub(crate) const V4_VERSION: usize = 14;
pub(crate) const V4_LENGTH: usize = 16;
pub(crate) const V4_FRAGMENT: usize = 20;
pub(crate) const V4_PROTOCOL: usize = 23;
pub(crate) const V4_DESTINATION: usize = 30;
pub(crate) const V4_PORT: usize = 36;
pub(crate) const V6_LENGTH: usize = 18;
pub(crate) const V6_NEXT_HEADER: usize = 20;
pub(crate) const V6_DESTINATION: usize = 38;
pub(crate) const V6_PORT: usize = 56;

fn ethernet(ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 0x0b, 2, 0, 0, 0, 0, 0x0a];
    frame.extend(ethertype.to_be_bytes());
    frame
}

fn udp(payload: &[u8]) -> Vec<u8> {
    let mut datagram = 9999_u16.to_be_bytes().to_vec();
    datagram.extend(PORT.to_be_bytes());
    datagram.extend((8 + payload.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// Is a UDP packet over IPv4 to [`V4`], [`PORT`].
pub(crate) fn v4(payload: &[u8]) -> Vec<u8> {
    let datagram = udp(payload);
    let mut frame = ethernet(0x0800);
    let mut ip = vec![0x45, 0];
    ip.extend((20 + datagram.len() as u16).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1]);
    ip.extend(V4.octets());
    let sum: u32 = ip.chunks(2).map(|b| u32::from(b[0]) << 8 | u32::from(b[1])).sum();
    let sum = !((sum >> 16) + (sum & 0xffff)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ip);
    frame.extend(datagram);
    frame
}

/// Is a UDP packet over IPv6 to [`V6`], [`PORT`].
pub(crate) fn v6(payload: &[u8]) -> Vec<u8> {
    let datagram = udp(payload);
    let mut frame = ethernet(0x86dd);
    frame.extend([0x60, 0, 0, 0]);
    frame.extend((datagram.len() as u16).to_be_bytes());
    frame.extend([17, 64]);
    frame.extend(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).octets());
    frame.extend(V6.octets());
    frame.extend(datagram);
    frame
}

/// Returns the packet with other bytes at `at`.
pub(crate) fn with(mut packet: Vec<u8>, at: usize, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    packet[at..at + bytes.as_ref().len()].copy_from_slice(bytes.as_ref());
    packet
}

/// Returns the IPv6 packet behind a fragment header: `offset` as on the wire, in bytes, with the more-fragments bit.
pub(crate) fn v6_fragment(mut packet: Vec<u8>, offset: u16) -> Vec<u8> {
    let [high, low] = offset.to_be_bytes();
    packet.splice(54..54, [17, 0, high, low, 0, 0, 0, 7]);
    let length = (packet.len() - 54) as u16;
    with(with(packet, V6_LENGTH, length.to_be_bytes()), V6_NEXT_HEADER, [44])
}

/// Returns the packet with tags before its EtherType.
pub(crate) fn tagged(mut packet: Vec<u8>, tags: &[u16]) -> Vec<u8> {
    for &tag in tags.iter().rev() {
        let tag = [tag.to_be_bytes(), [0, 5]].concat();
        packet.splice(ETHERTYPE..ETHERTYPE, tag);
    }
    packet
}

/// Returns the packet with zeros at the end, as Ethernet pads to 60 bytes.
pub(crate) fn padded(mut packet: Vec<u8>, length: usize) -> Vec<u8> {
    packet.resize(length, 0);
    packet
}

/// Returns the verdict by docs/steering.md, written independently of the program, for a queue without a socket
/// and with no first fragment before.
pub(crate) fn second_opinion(frame: &[u8], listed: impl Fn(IpAddr, u16) -> bool) -> Verdict {
    let number = |at: usize| usize::from(u16::from_be_bytes([frame[at], frame[at + 1]]));
    let decide = |to: IpAddr, port: usize| {
        if listed(to, port as u16) { Verdict::NoSocket } else { Verdict::NotListed }
    };
    if frame.len() < 14 {
        return Verdict::Malformed;
    }
    if frame[0] % 2 == 1 {
        return Verdict::Multicast;
    }
    let rest = frame.len() - 14;
    match number(12) {
        0x8100 | 0x88a8 | 0x9100 => Verdict::Vlan,
        0x0800 => {
            if rest < 20 || frame[14] < 0x45 || frame[14] > 0x4f {
                Verdict::Malformed
            } else if frame[14] != 0x45 {
                Verdict::Ipv4Options
            } else if number(20) & 0x1fff != 0 || number(20) & 0x2000 != 0 && frame[23] != 17 {
                Verdict::Fragment
            } else if frame[23] != 17 {
                Verdict::NotUdp
            } else if number(16) < 28 || rest < 28 {
                Verdict::Malformed
            } else {
                let to: [u8; 4] = frame[30..34].try_into().unwrap();
                let verdict = decide(to.into(), number(36));
                if number(20) & 0x2000 != 0 && verdict == Verdict::NotListed { Verdict::Fragment } else { verdict }
            }
        }
        0x86dd => {
            if rest < 40 || frame[14] >> 4 != 6 {
                return Verdict::Malformed;
            }
            let to: [u8; 16] = frame[38..54].try_into().unwrap();
            let to = Ipv6Addr::from(to);
            let listed =
                |port| if to.to_ipv4_mapped().is_some() { Verdict::NotListed } else { decide(to.into(), port) };
            match frame[20] {
                44 if rest < 48 => Verdict::Malformed,
                44 if frame[54] != 17 || number(56) >= 8 => Verdict::Fragment,
                44 if rest < 56 || number(18) < 16 => Verdict::Malformed,
                44 if listed(number(64)) == Verdict::NoSocket => Verdict::NoSocket,
                44 => Verdict::Fragment,
                0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 => Verdict::Ipv6Extension,
                17 if number(18) < 8 || rest < 48 => Verdict::Malformed,
                17 => listed(number(56)),
                _ => Verdict::NotUdp,
            }
        }
        _ => Verdict::OtherEthertype,
    }
}

/// Whether what becomes of `frame` depends on a fragment before it: it is a later fragment of a UDP datagram.
pub(crate) fn follows_another(frame: &[u8]) -> bool {
    let at = |at: usize| frame.get(at).copied().unwrap_or(0);
    match (at(12), at(13)) {
        (8, 0) => at(23) == 17 && (at(20) & 0x1f != 0 || at(21) != 0),
        (0x86, 0xdd) => at(20) == 44 && at(54) == 17 && (at(56) != 0 || at(57) & 0xf8 != 0),
        _ => false,
    }
}
