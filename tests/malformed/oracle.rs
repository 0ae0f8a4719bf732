//! Computes the expected result of the parsers with another parser (etherparse) and the address types of `std`.

use std::net::{IpAddr, SocketAddr};

use etherparse::{Ipv4Slice, Ipv6ExtensionSlice, Ipv6Slice, LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use oxide::packet::{Flow, Parsed, Recognised, Transport};

/// Returns the plain UDP part of a recognised packet.
pub(crate) fn parse(frame: &[u8]) -> Option<Parsed> {
    let Recognised { tags, ipv4, transport, l3, l4, length, flow } = recognise(frame)?;
    let plain = tags == 0 && l4 - l3 == if ipv4 { 20 } else { 40 };
    let last_hop = 1
        == match SlicedPacket::from_ethernet(frame).ok()?.net? {
            NetSlice::Ipv4(ip) => ip.header().ttl(),
            NetSlice::Ipv6(ip) => ip.header().hop_limit(),
            _ => return None,
        };
    (plain && transport == Transport::Udp).then_some(Parsed { ipv4, l3, l4, length, last_hop, flow })
}

pub(crate) fn recognise(frame: &[u8]) -> Option<Recognised> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let tags = sliced.link_exts.len();
    if tags > 2 || !sliced.link_exts.iter().all(|tag| matches!(tag, LinkExtSlice::Vlan(_))) {
        return None;
    }
    let l3 = 14 + 4 * tags;
    let (ipv4, (from, to, header, payload)) = match sliced.net? {
        NetSlice::Ipv4(ip) => (true, ipv4(&ip)?),
        NetSlice::Ipv6(ip) => (false, ipv6(&ip)?),
        _ => return None,
    };
    // etherparse takes a UDP or IPv6 length of zero for "up to the end of the slice".
    let (transport, ports) = match sliced.transport? {
        TransportSlice::Udp(udp) if udp.length() >= 8 && payload >= 8 && (ipv4 || udp.checksum() != 0) => {
            (Transport::Udp, (udp.source_port(), udp.destination_port()))
        }
        TransportSlice::Tcp(tcp) if payload >= tcp.slice().len() => {
            (Transport::Tcp, (tcp.source_port(), tcp.destination_port()))
        }
        TransportSlice::Icmpv4(_) if ipv4 => (Transport::Icmp, (0, 0)),
        TransportSlice::Icmpv6(_) if !ipv4 && payload >= 8 => (Transport::Icmp, (0, 0)),
        _ => return None,
    };
    if transport != Transport::Icmp && ports.0 == 0 {
        return None;
    }
    let flow = Flow { source: SocketAddr::new(from, ports.0).into(), destination: SocketAddr::new(to, ports.1).into() };
    let (l4, length) = (u8::try_from(l3 + header).ok()?, (l3 + header + payload) as u16);
    Some(Recognised { tags: tags as u8, ipv4, transport, l3: l3 as u8, l4, length, flow })
}

/// Returns addresses, bytes of headers, and bytes after them.
type Network = (IpAddr, IpAddr, usize, usize);

fn ipv4(ip: &Ipv4Slice<'_>) -> Option<Network> {
    let header = ip.header().to_header();
    // Not `calc_header_checksum`: it forgets the reserved flag. 0xffff and 0 are the same number.
    let words = ip.header().slice().chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1]));
    let same = words.sum::<u32>() % 0xffff == 0;
    let from = ip.header().source_addr();
    let answerable = !(from.octets()[0] == 0 || from.is_loopback() || from.is_multicast() || from.is_broadcast());
    let whole = ip.extensions().auth.is_none() && !ip.is_payload_fragmented() && header.time_to_live > 0;
    let (length, to) = (ip.header().slice().len(), ip.header().destination_addr());
    (same && answerable && whole).then_some((from.into(), to.into(), length, usize::from(header.total_len) - length))
}

fn ipv6(ip: &Ipv6Slice<'_>) -> Option<Network> {
    let header = ip.header().to_header();
    let (from, to) = (header.source_addr(), header.destination_addr());
    let answerable = !from.is_multicast() && from.segments()[..4] != [0; 4];
    let extensions: Vec<_> = ip.extensions().clone().into_iter().collect();
    let known = extensions.iter().all(|extension| match extension {
        Ipv6ExtensionSlice::Fragment(_) => false,
        Ipv6ExtensionSlice::Routing(header) => header.payload().get(1) == Some(&0),
        _ => true,
    });
    let behind = usize::from(header.payload_length).checked_sub(ip.extensions().slice().len())?;
    (answerable && known && extensions.len() <= 8 && header.hop_limit > 0 && to.to_ipv4_mapped().is_none()).then_some((
        from.into(),
        to.into(),
        40 + ip.extensions().slice().len(),
        behind,
    ))
}
