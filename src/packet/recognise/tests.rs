#![allow(clippy::unwrap_used)]
use std::net::SocketAddr;

use super::*;
use crate::packet::build::UdpFrame;
use crate::packet::parse;

fn udp(ipv4: bool) -> Vec<u8> {
    let (from, to) = if ipv4 { ("192.0.2.1:9", "192.0.2.2:7") } else { ("[2001:db8::1]:9", "[2001:db8::2]:7") };
    let [source, destination] = [from, to].map(|at| at.parse::<SocketAddr>().unwrap().into());
    UdpFrame::new(Flow { source, destination }, b"payload").to_vec().unwrap()
}

#[test]
fn plain_datagrams_match_parser() {
    for frame in [udp(true), udp(false)] {
        let parsed = parse(&std::array::from_fn(|i| frame.get(i).copied().unwrap_or(0)), frame.len() as u16).unwrap();
        let found = recognise(&frame).unwrap();
        assert_eq!((found.tags, found.transport), (0, Transport::Udp));
        assert_eq!(
            (found.ipv4, found.l3, found.l4, found.length, found.flow),
            (parsed.ipv4, parsed.l3, parsed.l4, parsed.length, parsed.flow)
        );
    }
}

#[test]
fn vlan_tags_move_only_offsets() {
    for frame in [udp(true), udp(false)] {
        let plain = recognise(&frame).unwrap();
        let mut tagged = frame;
        for tags in 1..=3u8 {
            tagged.splice(12..12, [0x81, 0, 0, tags]);
            let moved = Recognised {
                tags,
                l3: plain.l3 + 4 * tags,
                l4: plain.l4 + 4 * tags,
                length: plain.length + 4 * u16::from(tags),
                ..plain
            };
            assert_eq!(recognise(&tagged), (tags <= 2).then_some(moved));
        }
    }
}

/// Checks an endless chain, and one that is too long for the column of offsets.
#[test]
fn extension_headers_are_bounded() {
    let with = |count: usize, units: u8| {
        let frame = udp(false);
        let mut header = vec![60; usize::from(units) * 8];
        header[1] = units - 1;
        let mut chain = header.repeat(count);
        let last = chain.len() - header.len();
        chain[last] = 17;
        let mut frame = [&frame[..54], &chain, &frame[54..]].concat();
        frame[20] = 60;
        let payload = frame.len() as u16 - 54;
        frame[18..20].copy_from_slice(&payload.to_be_bytes());
        recognise(&frame)
    };
    assert_eq!(with(1, 1).unwrap().l4, 62);
    assert_eq!(with(8, 3).unwrap().l4, 54 + 192);
    assert_eq!((with(9, 1), with(1, 26), with(8, 4)), (None, None, None));
}

#[test]
fn truncated_packets_are_not_recognised() {
    let mut tagged = udp(true);
    tagged.splice(12..12, [0x88, 0xa8, 0, 1, 0x81, 0, 0, 2]);
    for frame in [udp(true), udp(false), tagged] {
        assert!(recognise(&frame).is_some());
        for length in 0..frame.len() {
            assert_eq!(recognise(&frame[..length]), None);
        }
    }
}
