#![allow(clippy::unwrap_used)]
use super::*;
use crate::packet::build::UdpFrame;
use crate::packet::{self, Endpoint, Flow};
use crate::telemetry::DropReason;
use crate::umem::{PageKind, Region, RingSizes, UmemLayout};
use proptest::prelude::*;

fn flow(ipv4: bool, port: u16) -> Flow {
    let end = |at: &str| Endpoint { port, ..at.parse::<std::net::SocketAddr>().unwrap().into() };
    if ipv4 {
        Flow { source: end("192.0.2.1:1"), destination: end("198.51.100.7:1") }
    } else {
        Flow { source: end("[2001:db8::1]:1"), destination: end("[2001:db8::7]:1") }
    }
}

/// Generates a header and a length: valid ones of both families, truncated ones, random bytes.
fn packet() -> impl Strategy<Value = ([u8; 64], u16)> {
    let hops = prop_oneof![2 => Just(64), 1 => Just(1), 1 => Just(2)];
    let right = (any::<bool>(), 1u16.., hops, 0usize..200, any::<[u8; 32]>());
    let right = right.prop_map(|(ipv4, port, hops, size, stale)| {
        let frame = UdpFrame::new(flow(ipv4, port), &vec![7; size]).to_vec().unwrap();
        let mut header = std::array::from_fn(|i| frame.get(i).copied().unwrap_or(stale[i % 32]));
        header[if ipv4 { 22 } else { 21 }] = hops;
        if ipv4 {
            repair(&mut header);
        }
        (header, frame.len() as u16)
    });
    let cut = (right.clone(), any::<u16>()).prop_map(|((header, length), at)| (header, at % length));
    // One field at a time is set to the values next to its limits.
    let near = (right.clone(), 12usize..44, prop_oneof![Just(0u8), Just(0xff), any::<u8>()]);
    let near = near.prop_map(|((mut header, length), at, byte)| {
        header[at] = byte;
        repair(&mut header);
        (header, length)
    });
    let lengths = (right.clone(), 0u16..80).prop_map(|((mut header, length), total)| {
        header[16..18].copy_from_slice(&total.to_be_bytes());
        repair(&mut header);
        (header, length)
    });
    let udp = (right.clone(), 0u16..80).prop_map(|((mut header, length), udp)| {
        header[38..40].copy_from_slice(&udp.to_be_bytes());
        (header, length)
    });
    let tagged =
        (right.clone(), prop_oneof![Just(17u8), Just(6), Just(1)]).prop_map(|((mut header, length), protocol)| {
            header[23] = protocol;
            repair(&mut header);
            header.copy_within(12..60, 16);
            header[12..16].copy_from_slice(&[0x81, 0, 0, 7]);
            (header, length + 4)
        });
    let other = (right.clone(), prop_oneof![Just(6u8), Just(1)]).prop_map(|((mut header, length), protocol)| {
        header[if header[12] == 8 { 23 } else { 20 }] = protocol;
        header[46] = 0x50;
        repair(&mut header);
        (header, length)
    });
    let noise = (prop::array::uniform32(any::<[u8; 2]>()), any::<u16>());
    let noise = noise.prop_map(|(bytes, length)| (std::array::from_fn(|i| bytes[i / 2][i % 2]), length));
    prop_oneof![4 => right, 2 => cut, 3 => near, 2 => lengths, 2 => udp, 2 => tagged, 2 => other, 1 => noise]
}

/// Sets a valid IPv4 header checksum, even if other fields are invalid.
fn repair(header: &mut [u8; 64]) {
    header[24..26].fill(0);
    let sum = crate::packet::checksum::Sum::default().bytes(&header[14..34]).checksum();
    header[24..26].copy_from_slice(&sum.to_be_bytes());
}

fn check(lane: usize, (header, length): &([u8; 64], u16), columns: &Columns) {
    let bit = |mask: u64| mask >> lane & 1 == 1;
    match packet::parse(header, *length) {
        Ok(parsed) => {
            assert!(bit(columns.udp) && bit(columns.ipv4) == parsed.ipv4 && bit(columns.ipv6) != parsed.ipv4);
            assert_eq!(bit(columns.last_hop), parsed.last_hop);
            assert_eq!((columns.l3[lane], columns.l4[lane]), (parsed.l3, parsed.l4));
            assert_eq!((columns.length[lane], columns.flow[lane]), (parsed.length, parsed.flow));
        }
        Err(reason) => {
            assert!(!bit(columns.udp | columns.ipv4 | columns.ipv6 | columns.last_hop));
            assert_eq!(columns.reject_reason[lane], reason);
        }
    }
}

/// Checks that a packet other than plain UDP is in the mask of its kind, or in none.
fn check_others(lane: usize, frame: &[u8], columns: &Columns) {
    let bit = |mask: u64| mask >> lane & 1 == 1;
    let masks = [bit(columns.udp_extended), bit(columns.tcp), bit(columns.icmp)];
    match packet::recognise(frame).filter(|_| !bit(columns.udp)) {
        None => {
            assert_eq!((masks, bit(columns.tagged)), ([false; 3], false));
            let fragment = packet::fragment::fragment(frame);
            assert_eq!(bit(columns.fragments), fragment.is_some());
            if let Some(found) = fragment {
                assert_eq!((columns.l4[lane], columns.length[lane]), (found.l4, found.length));
                assert_eq!(columns.flow[lane], found.flow);
            }
        }
        Some(found) => {
            let kinds = [packet::Transport::Udp, packet::Transport::Tcp, packet::Transport::Icmp];
            assert_eq!((masks, bit(columns.tagged)), (kinds.map(|kind| kind == found.transport), found.tags > 0));
            assert_eq!((columns.l3[lane], columns.l4[lane]), (found.l3, found.l4));
            assert_eq!((columns.length[lane], columns.flow[lane]), (found.length, found.flow));
        }
    }
}

/// Returns columns that are full of values of an earlier batch.
fn stale() -> Columns {
    Columns {
        udp: u64::MAX,
        ipv4: u64::MAX,
        ipv6: u64::MAX,
        last_hop: u64::MAX,
        udp_extended: u64::MAX,
        tcp: u64::MAX,
        icmp: u64::MAX,
        fragments: u64::MAX,
        tagged: u64::MAX,
        reject_reason: [DropReason::Handler; LANES],
        l3: [1; LANES],
        l4: [2; LANES],
        length: [3; LANES],
        flow: [flow(true, 9); LANES],
    }
}

proptest! {
    #[test]
    fn lanes_equal_reference(packets in prop::collection::vec(packet(), LANES), live: u64) {
        let headers: [&[u8; 64]; LANES] = std::array::from_fn(|i| &packets[i].0);
        let lengths = std::array::from_fn(|i| packets[i].1);
        for level in Processor::levels() {
            let mut columns = stale();
            Processor::with_level(level).unwrap().parse(&headers, &lengths, live, &mut columns);
            prop_assert_eq!((columns.udp & !live, columns.ipv4 & columns.ipv6), (0, 0));
            for (lane, packet) in packets.iter().enumerate() {
                if live >> lane & 1 == 1 {
                    check(lane, packet, &columns);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn frames_equal_reference(packets in prop::collection::vec(packet(), 0..=LANES)) {
        let rings = RingSizes { fill: 128, rx: 64, tx: 64, completion: 64 };
        let layout = UmemLayout::new(2048, UmemLayout::frames_for(&rings, 1), 0, &rings, 1, 1500).unwrap();
        let mut umem = Umem::new(Region::map(layout.bytes(), PageKind::Base, None).unwrap(), layout).unwrap();
        let mut packets = packets;
        let frames: Vec<Frame> = packets.iter_mut().map(|(header, length)| {
            let mut frame = umem.take().unwrap();
            assert!(umem.set_length(&mut frame, 1792));
            umem.bytes_mut(&mut frame)[..64].copy_from_slice(header);
            *length = (*length).min(1792);
            assert!(umem.set_length(&mut frame, *length));
            frame
        }).collect();
        let mut columns = stale();
        Processor::detect().parse_frames(&umem, &frames, &mut columns);
        for (lane, packet) in packets.iter().enumerate() {
            check(lane, packet, &columns);
            check_others(lane, umem.bytes(&frames[lane]), &columns);
        }
        let lanes = if frames.len() == LANES { u64::MAX } else { (1 << frames.len()) - 1 };
        prop_assert_eq!(columns.udp & !lanes, 0);
        prop_assert_eq!(columns.udp, columns.ipv4 ^ columns.ipv6);
        frames.into_iter().for_each(|frame| umem.give(frame));
    }
}

proptest! {
    /// Checks every length and alignment, and that bytes beyond the end do not matter.
    #[test]
    fn sums_equal_reference(data in prop::collection::vec(any::<u8>(), 0..1600), start in 0usize..70, ones: bool) {
        let data = if ones { vec![0xff; data.len()] } else { data };
        let data = &data[start.min(data.len())..];
        let wanted = data.chunks(2).fold(0u64, |sum, word| {
            sum + u64::from(u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]))
        });
        let wanted = (0..4).fold(wanted, |sum, _| (sum >> 16) + (sum & 0xffff)) as u16;
        for level in Processor::levels() {
            prop_assert_eq!(Processor::with_level(level).unwrap().sum(data).fold(), wanted, "{}", level);
        }
    }
}

/// Checks the example of RFC 1071 section 3, once and repeated many times.
#[test]
fn rfc_1071() {
    let example = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    for level in Processor::levels() {
        let processor = Processor::with_level(level).unwrap();
        assert_eq!(processor.sum(&example).fold(), 0xddf2);
        let long = example.repeat(100);
        let wanted = (0..4).fold(100 * 0xddf2_u64, |sum, _| (sum >> 16) + (sum & 0xffff)) as u16;
        assert_eq!(processor.sum(&long).fold(), wanted);
        for length in [100, 200, 65_535, 65_536, 65_537, 300_000] {
            let sum = |byte| processor.sum(&vec![byte; length]).fold();
            // The sum is 0x8080 = 2^15 + 2^7 for each word, modulo 65535. An odd last byte is a first byte.
            let wanted = (0x8080 * (length as u64 / 2) + 0x8000 * (length as u64 % 2)) % 0xffff;
            assert_eq!((sum(0), u64::from(sum(0x80)) % 0xffff), (0, wanted), "{length} B, {level}");
            assert_eq!(sum(0xff), if length % 2 == 0 { 0xffff } else { 0xff00 }, "{length} B, {level}");
        }
    }
}

#[test]
fn levels_are_what_this_cpu_has() {
    let levels: Vec<Level> = Processor::levels().collect();
    println!("levels of this CPU: {levels:?}");
    for level in Level::ALL {
        let wanted = levels.contains(&level).then_some(level);
        assert_eq!(Processor::with_level(level).map(|p| p.capability()), wanted);
        assert_eq!(serde_json::to_string(&level).unwrap(), format!("\"{level}\""));
        assert_eq!(serde_json::from_str::<Level>(&format!("\"{level}\"")).unwrap(), level);
    }
    assert_eq!(levels.first(), Some(&Level::Scalar));
    assert_eq!(levels.last(), Some(&Processor::detect().capability()));
    let faces = Level::ALL.map(|level| (level.vector_width_bytes(), level.parallel_packets()));
    assert_eq!(faces, [(8, 1), (16, 4), (32, 8), (64, 16), (16, 4)]);
    assert!(Processor::detect().why().contains("this CPU has scalar"));
}

#[test]
fn batch_checksums_keep_their_places() {
    let frame = UdpFrame::new(flow(true, 7), b"").to_vec().unwrap();
    let right = u16::from_be_bytes([frame[24], frame[25]]);
    let mut out = [Some(1); 4];
    let done = Processor::detect().batch_ipv4_checksum(&[&frame[14..34], &frame[14..33], &frame[14..]], &mut out);
    assert_eq!((done, out), (3, [Some(right), None, Some(right), Some(1)]));
    assert_eq!(Processor::detect().batch_ipv4_checksum(&[&[], &[]], &mut out[..1]), 1);
}

#[test]
fn batch_copy_is_whole_or_not_at_all() {
    let (mut a, mut b, mut c) = ([0; 4], [0; 2], [0; 4]);
    let done = Processor::detect().batch_copy(&[b"abc", b"def", b"ghi"], &mut [&mut a, &mut b, &mut c]);
    assert_eq!((done, &a, b, c), (1, b"abc\0", [0; 2], [0; 4]));
}
