#![allow(clippy::unwrap_used)]
use super::*;
use crate::packet::MacAddr;
use crate::packet::build::{UdpFrame, fragments};
use crate::packet::{parse, verify_udp};
use proptest::prelude::*;
use std::net::SocketAddr;

fn flow(ipv4: bool) -> Flow {
    let [a, b]: [&str; 2] =
        if ipv4 { ["192.0.2.1:4000", "198.51.100.7:53"] } else { ["[2001:db8::1]:4000", "[2001:db8::7]:53"] };
    let at = |text: &str| Endpoint::from(text.parse::<SocketAddr>().unwrap());
    Flow { source: at(a), destination: at(b) }
}

fn datagram(ipv4: bool, bytes: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..bytes).map(|n| (n * 7) as u8).collect();
    UdpFrame::new(flow(ipv4), &payload).to_vec().unwrap()
}

fn put(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    if frame[12] == 8 {
        let sum = checksum::ipv4_header(&frame[14..]).unwrap_or(0);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
    frame
}

#[test]
fn fragments_of_a_datagram_are_read() {
    for (ipv4, id) in [(true, 0xbeef), (false, 0xdead_beef)] {
        let whole = datagram(ipv4, 3000);
        assert_eq!(fragment(&whole), None, "not a fragment");
        let mut parts = fragments(&whole, 1500, id).unwrap();
        assert_eq!(parts.len(), 3);
        parts[2].extend([0xee; 9]); // Ethernet padding
        let mut offset = 0;
        for (at, part) in parts.iter().enumerate() {
            let found = fragment(part).unwrap();
            let padding = if at == 2 { 9 } else { 0 };
            assert_eq!((found.ipv4, found.id, found.more, found.offset), (ipv4, id, at < 2, offset));
            assert_eq!(usize::from(found.length), part.len() - padding);
            let ports = if at == 0 { [4000, 53] } else { [0, 0] };
            assert_eq!([found.flow.source.port, found.flow.destination.port], ports);
            let wanted = [flow(ipv4).source.address, flow(ipv4).destination.address];
            assert_eq!([found.flow.source.address, found.flow.destination.address], wanted);
            offset += found.length - u16::from(found.l4);
        }
        assert_eq!(offset, 3008);
    }
}

#[test]
fn malformed_fragments_are_refused() {
    let v4 = || fragments(&datagram(true, 3000), 1500, 7).unwrap();
    let v6 = || fragments(&datagram(false, 3000), 1500, 7).unwrap();
    assert!(fragment(&v4()[0]).is_some() && fragment(&v6()[1]).is_some());
    for (what, frame) in [
        ("IPv4, other protocol", put(v4()[0].clone(), 23, &[6])),
        ("IPv4, TTL zero", put(v4()[1].clone(), 22, &[0])),
        ("IPv4, multicast source", put(v4()[1].clone(), 26, &[224])),
        ("IPv4, header with options", put(v4()[1].clone(), 14, &[0x46])),
        ("IPv4, data not a multiple of 8", put(v4()[0].clone(), 16, &1499_u16.to_be_bytes())),
        ("IPv4, past the end of the frame", put(v4()[1].clone(), 16, &1508_u16.to_be_bytes())),
        ("IPv4, without data", put(v4()[1].clone(), 16, &20_u16.to_be_bytes())),
        ("IPv4, datagram too long", put(v4()[2].clone(), 20, &0x1fff_u16.to_be_bytes())),
        ("IPv4, source port zero", put(v4()[0].clone(), 34, &[0, 0])),
        ("IPv4, UDP length", put(v4()[0].clone(), 38, &[0, 7])),
        ("IPv4, header checksum", {
            let mut frame = v4()[1].clone();
            frame[24] ^= 1;
            frame
        }),
        ("IPv6, other protocol", put(v6()[0].clone(), 54, &[6])),
        ("IPv6, hop limit zero", put(v6()[1].clone(), 21, &[0])),
        ("IPv6, multicast source", put(v6()[1].clone(), 22, &[0xff])),
        ("IPv6, data not a multiple of 8", put(v6()[0].clone(), 18, &1455_u16.to_be_bytes())),
        ("IPv6, past the end of the frame", put(v6()[1].clone(), 18, &1464_u16.to_be_bytes())),
        ("IPv6, without data", put(v6()[1].clone(), 18, &8_u16.to_be_bytes())),
        ("IPv6, shorter than its header", put(v6()[1].clone(), 18, &7_u16.to_be_bytes())),
        ("IPv6, datagram too long", put(v6()[2].clone(), 56, &0xfff8_u16.to_be_bytes())),
        ("IPv6, no UDP checksum", put(v6()[0].clone(), 68, &[0, 0])),
    ] {
        assert_eq!(fragment(&frame), None, "{what}");
    }
    for frame in [v4(), v6()].concat() {
        (0..frame.len()).for_each(|length| assert_eq!(fragment(&frame[..length]), None, "{length} bytes"));
    }
}

/// Puts fragments together again, as a receiver does.
fn reassembled(parts: &[Vec<u8>], ipv4: bool) -> Vec<u8> {
    let mut all: Vec<_> = parts.iter().map(|part| (fragment(part).unwrap(), part)).collect();
    all.sort_by_key(|(found, _)| found.offset);
    assert!(all.iter().all(|(found, _)| found.id == all[0].0.id), "one datagram");
    let mut frame = parts[0][..if ipv4 { 34 } else { 54 }].to_vec();
    for (found, part) in all {
        frame.extend(&part[usize::from(found.l4)..usize::from(found.length)]);
    }
    let length = frame.len() as u16;
    if ipv4 {
        return put(put(frame, 16, &(length - 14).to_be_bytes()), 20, &[0, 0]);
    }
    put(put(frame, 18, &(length - 54).to_be_bytes()), 20, &[17])
}

proptest! {
    /// The first fragment rewritten like a datagram, the others by address: what a receiver puts together is the whole
    /// datagram rewritten, its checksum included.
    #[test]
    fn rewritten_fragments_make_up_the_rewritten_datagram(
        ipv4: bool, bytes in 1300usize..4000, mtu in 576u16..1300, id: u32, damaged: bool,
    ) {
        let mut whole = datagram(ipv4, bytes);
        if damaged {
            *whole.last_mut().unwrap() ^= 1;
        }
        let old = flow(ipv4);
        let new = Rewrite {
            source_mac: MacAddr([2; 6]),
            destination_mac: MacAddr([4; 6]),
            source: Endpoint { port: 61_000, ..old.destination },
            destination: Endpoint { port: 9, ..old.source },
        };
        let mut parts = fragments(&whole, mtu, 77).unwrap();
        let translation = rewrite::Translation::new(&old, &new).unwrap();
        for (at, part) in parts.iter_mut().enumerate() {
            if at == 0 {
                let l4 = fragment(part).unwrap().l4;
                translation.apply(part, 14, l4, ipv4).unwrap();
                set_identification(part, ipv4, id).unwrap();
            } else {
                rewrite_later(part, ipv4, &new, id).unwrap();
            }
        }
        let id = if ipv4 { id & 0xffff } else { id };
        prop_assert_eq!(fragment(&parts[1]).unwrap().id, id);
        let back = reassembled(&parts, ipv4);
        let found = parse(&std::array::from_fn(|at| back[at]), back.len() as u16).unwrap();
        prop_assert_eq!(found.flow, Flow { source: new.source, destination: new.destination });
        prop_assert_eq!(verify_udp(&back, &found).is_ok(), !damaged);
        translation.apply(&mut whole, 14, found.l4, ipv4).unwrap();
        prop_assert_eq!(&back[usize::from(found.l4)..], &whole[usize::from(found.l4)..]);
        prop_assert_eq!(&back[..12], &whole[..12]);
    }
}

#[test]
fn fragment_without_hops_is_unchanged() {
    for ipv4 in [true, false] {
        let part = fragments(&datagram(ipv4, 3000), 1500, 7).unwrap().remove(1);
        let mut part = put(part, if ipv4 { 22 } else { 21 }, &[1]);
        let (mac, Flow { source, destination }) = (MacAddr([2; 6]), flow(ipv4));
        let new = Rewrite { source_mac: mac, destination_mac: mac, source, destination };
        let before = part.clone();
        assert_eq!(rewrite_later(&mut part, ipv4, &new, 1), Err(DropReason::TtlExpired));
        assert_eq!(rewrite_later(&mut part, !ipv4, &new, 1), Err(DropReason::IpVersion));
        assert_eq!(rewrite_later(&mut part[..33], ipv4, &new, 1), Err(DropReason::Truncated));
        assert_eq!(part, before);
    }
}
