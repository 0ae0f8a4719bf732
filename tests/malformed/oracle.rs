//! What the parser should say, by another parser (etherparse) and the address types of `std`.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice};
use oxide::packet::{Flow, Parsed};

pub(crate) fn parse(frame: &[u8]) -> Option<Parsed> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Udp(udp)) = &sliced.transport else { return None };
    if !sliced.link_exts.is_empty() {
        return None;
    }
    // etherparse takes a UDP or IPv6 length of zero for "up to the end of the slice".
    if udp.length() < 8 {
        return None;
    }
    let (from, to, ipv4, header, payload) = match sliced.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header().to_header();
            // Not `calc_header_checksum`: it forgets the reserved flag. 0xffff and 0 are the same number.
            let words = ip.header().slice().chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
            let same = words.sum::<u32>() % 0xffff == 0;
            let plain = header.options.is_empty() && header.protocol == IpNumber::UDP && !ip.is_payload_fragmented();
            let from = ip.header().source_addr();
            let answerable =
                !(from.octets()[0] == 0 || from.is_loopback() || from.is_multicast() || from.is_broadcast());
            if !(same && plain && answerable && header.time_to_live > 0) {
                return None;
            }
            let payload = header.total_len.checked_sub(20)?;
            (IpAddr::from(from), IpAddr::from(ip.header().destination_addr()), true, 20, payload)
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header().to_header();
            let (from, to) = (header.source_addr(), header.destination_addr());
            let answerable = !from.is_multicast() && from.segments()[..4] != [0; 4];
            let plain = ip.extensions().is_empty() && header.next_header == IpNumber::UDP;
            let said = header.payload_length >= 8 && udp.checksum() != 0;
            if !(plain && answerable && said && header.hop_limit > 0 && to.to_ipv4_mapped().is_none()) {
                return None;
            }
            (IpAddr::from(from), IpAddr::from(to), false, 40, header.payload_length)
        }
        _ => return None,
    };
    if udp.source_port() == 0 {
        return None;
    }
    let flow = Flow {
        source: SocketAddr::new(from, udp.source_port()).into(),
        destination: SocketAddr::new(to, udp.destination_port()).into(),
    };
    Some(Parsed { ipv4, l3: 14, l4: 14 + header, length: 14 + u16::from(header) + payload, flow })
}
