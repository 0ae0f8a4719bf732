//! Tests that every malformed form of `docs/malformed.md` gets its verdict, for any memory after the frame, and that
//! the parser agrees with an independent one on all other frames.

#![allow(clippy::unwrap_used, missing_docs)]

#[path = "malformed/forms.rs"]
mod forms;
#[path = "malformed/oracle.rs"]
mod oracle;

use forms::{L3, forms, v4, v6};
use oxide::packet::{Endpoint, MacAddr, Parsed, Rewrite, Translation, Transport, parse, recognise, verify_udp};
use oxide::telemetry::DropReason;
use oxide::umem::{BadDescriptor, PageKind, PortIndex, Region, RingSizes, Umem, UmemLayout};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// Returns the verdict on `frame`, which must be the same for every kind of stale memory.
fn verdict(frame: &[u8]) -> Result<Parsed, DropReason> {
    let length = u16::try_from(frame.len()).unwrap();
    let over = |stale: [u8; 64]| {
        let head = std::array::from_fn(|i| frame.get(i).copied().unwrap_or(stale[i]));
        parse(&head, length)
    };
    let first = |frame: Vec<u8>| *frame.first_chunk().unwrap();
    let result = over([0; 64]);
    for stale in [[0xff; 64], first(v4().repeat(2)), first(v6()), std::array::from_fn(|i| (i * 37) as u8)] {
        assert_eq!(over(stale), result, "memory after the frame changes the result: {frame:02x?}");
    }
    result
}

/// Returns the frame's length according to its IP header.
fn length_by_ip(frame: &[u8]) -> usize {
    let word = |at: usize| usize::from(u16::from_be_bytes([frame[L3 + at], frame[L3 + at + 1]]));
    L3 + if frame[L3] >> 4 == 4 { word(2) } else { 40 + word(4) }
}

#[test]
fn each_malformed_form_gets_its_verdict() {
    for form in forms() {
        assert!(!form.frames.is_empty(), "{}", form.text);
        for frame in &form.frames {
            match (verdict(frame), form.reason) {
                (Ok(parsed), None) => assert_eq!(usize::from(parsed.length), length_by_ip(frame), "{}", form.text),
                (result, reason) => assert_eq!(result.err(), reason, "{}: {frame:02x?}", form.text),
            }
        }
    }
}

#[test]
fn document_and_tests_have_same_rows() {
    let document = include_str!("../docs/malformed.md");
    let rows = document.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [form, verdict] = cells[..] else { return None };
        (form != "form").then(|| (form.to_owned(), verdict.replace('`', "")))
    });
    let tested =
        forms().into_iter().map(|form| (form.text.to_owned(), form.reason.map_or("accepted", |r| r.name()).to_owned()));
    assert_eq!(rows.collect::<Vec<_>>(), tested.collect::<Vec<_>>());
}

/// Of a frame cut at every byte, only the whole frame is accepted.
#[test]
fn every_truncation_is_refused() {
    for (frame, headers) in [(v4(), L3 + 20), (v6(), L3 + 40)] {
        assert!(verdict(&frame).is_ok());
        for length in 0..frame.len() {
            let wanted = if length < headers { DropReason::Truncated } else { DropReason::IpLength };
            assert_eq!(verdict(&frame[..length]), Err(wanted), "{length} bytes");
        }
    }
}

/// A datagram of every size is parsed: whole, padded to Ethernet's 60 bytes, and cut by one byte.
#[test]
fn every_size_is_parsed() {
    for ipv4 in [true, false] {
        for size in 0..1500 {
            let payload = vec![0x5a; size];
            let mut frame = oxide::packet::build::UdpFrame::new(forms::flow(ipv4), &payload).to_vec().unwrap();
            let length = frame.len();
            frame.resize(length.max(60), 0);
            let parsed = verdict(&frame).unwrap();
            assert_eq!((usize::from(parsed.length), parsed.flow), (length, forms::flow(ipv4)));
            assert_eq!(verify_udp(&frame, &parsed), Ok(()));
            assert_eq!(verdict(&frame[..length - 1]), Err(DropReason::IpLength));
        }
    }
}

#[test]
fn every_single_bit_of_the_ipv4_header_is_protected() {
    for bit in 0..160 {
        let mut frame = v4();
        frame[L3 + bit / 8] ^= 1 << (bit % 8);
        assert!(verdict(&frame).is_err(), "bit {bit}");
    }
}

/// Tests rows of the section "After the parser" that do not test the rewrite itself.
#[test]
fn descriptors_longer_than_their_frame_are_refused() {
    let rings = RingSizes { fill: 128, rx: 64, tx: 64, completion: 64 };
    let layout = UmemLayout::new(2048, UmemLayout::frames_for(&rings, 1), 0, &rings, 1, 1500).unwrap();
    let mut umem = Umem::new(Region::map(layout.bytes(), PageKind::Base, None).unwrap(), layout).unwrap();
    let key = umem.simulated_port(PortIndex::P0).unwrap();
    let at = u64::from(umem.post_fill(&key).unwrap()) * 2048 + 256;
    for length in [1793, 2048, 4096, 9000, 65_536, u32::MAX - 2048] {
        assert!(matches!(umem.received(&key, at, length), Err(BadDescriptor::PastFrame { .. })), "{length}");
    }
    let frame = umem.received(&key, at, 1792).unwrap();
    umem.give(frame);
}

#[test]
fn wrong_checksum_is_detected_where_verified() {
    for (frame, last) in [(v4(), forms::V4 - 1), (v6(), forms::V6 - 1)] {
        let parsed = verdict(&frame).unwrap();
        assert_eq!(verify_udp(&frame, &parsed), Ok(()));
        let mut damaged = frame.clone();
        damaged[last] ^= 1;
        assert_eq!(verify_udp(&damaged, &parsed), Err(DropReason::UdpChecksum));
        assert_eq!(verify_udp(&frame[..last], &parsed), Err(DropReason::Truncated));
        assert_eq!(verify_udp(&[], &parsed), Err(DropReason::Truncated));
    }
}

/// Returns a valid frame with some bytes changed, cut or added, with or without a corrected header checksum.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff), Just(17), Just(0x45), Just(0x60)];
    let changes = prop::collection::vec((0usize..66, byte), 0..4);
    let size = prop_oneof![3 => Just(0isize), 1 => -80isize..80];
    (any::<bool>(), changes, size, prop::bool::weighted(0.8)).prop_map(|(ipv4, changes, grow, sum)| {
        let mut frame = if ipv4 { v4() } else { v6() };
        for (at, byte) in changes {
            if let Some(old) = frame.get_mut(at) {
                *old = byte;
            }
        }
        if sum && frame[12..14] == [8, 0] {
            frame = forms::summed(frame);
        }
        frame.resize(frame.len().saturating_add_signed(grow), 0x11);
        frame
    })
}

/// Both parsers accept the same frames with the same fields.
#[test]
fn independent_parser_agrees() {
    let accepted = std::cell::Cell::new(0);
    let config = ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() };
    let result = TestRunner::new(config).run(&mutated(), |frame| {
        let ours = verdict(&frame).ok();
        accepted.set(accepted.get() + u32::from(ours.is_some()));
        prop_assert_eq!(ours, oracle::parse(&frame));
        Ok(())
    });
    result.unwrap();
    assert!((2_000..18_000).contains(&accepted.get()), "one-sided: {} of 20000 accepted", accepted.get());
}

/// Returns frames with tags, options and extension headers before UDP, TCP, ICMP and others, with a few bytes changed,
/// cut or added.
fn extended() -> impl Strategy<Value = Vec<u8>> {
    let tag = prop_oneof![Just([0x81, 0]), Just([0x88, 0xa8]), Just([0x91, 0])].prop_map(|[a, b]| vec![a, b, 0, 7]);
    let tags = prop::collection::vec(tag, 0..4).prop_map(|tags| tags.concat());
    let kind = prop_oneof![4 => Just(60u8), 1 => Just(0), 1 => Just(43), 1 => Just(51), 1 => Just(44), 1 => Just(135)];
    let headers = prop_oneof![Just(vec![]), prop::collection::vec((kind, 1u8..4), 0..10)];
    let options = prop_oneof![Just(0usize), 1usize..11];
    let protocol = prop_oneof![3 => Just(17u8), 3 => Just(6), 2 => Just(1), 2 => Just(58), 1 => any::<u8>()];
    let changes = prop::collection::vec((0usize..120, any::<u8>()), 0..3);
    let size = prop_oneof![3 => Just(0isize), 1 => -80isize..80];
    (any::<bool>(), tags, headers, options, protocol, changes, size).prop_map(
        |(ipv4, tags, headers, options, protocol, changes, grow)| {
            let mut frame = forms::carrying(ipv4, protocol, options, &headers);
            frame.splice(12..12, tags);
            for (at, byte) in changes {
                if let Some(old) = frame.get_mut(at) {
                    *old = byte;
                }
            }
            frame.resize(frame.len().saturating_add_signed(grow), 0x11);
            frame
        },
    )
}

#[test]
fn independent_parser_recognises_same_packets() {
    let found = std::cell::RefCell::new(std::collections::HashMap::new());
    let config = ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() };
    let frames = prop_oneof![extended(), mutated()];
    let result = TestRunner::new(config).run(&frames, |frame| {
        let ours = recognise(&frame);
        if !ours.is_some_and(|found| found.transport == Transport::Icmp && is_timestamp(&frame, found.l4)) {
            prop_assert_eq!(ours, oracle::recognise(&frame));
        }
        if let Some(ours) = ours {
            let plain = ours.l4 - ours.l3 == if ours.ipv4 { 20 } else { 40 };
            let parsed = Parsed {
                ipv4: ours.ipv4,
                l3: ours.l3,
                l4: ours.l4,
                length: ours.length,
                last_hop: false,
                flow: ours.flow,
            };
            let same = plain && ours.tags == 0 && ours.transport == Transport::Udp;
            prop_assert_eq!(verdict(&frame).ok(), same.then_some(parsed));
            *found.borrow_mut().entry(format!("{:?} {} {plain}", ours.transport, ours.tags)).or_insert(0) += 1;
        } else {
            prop_assert!(verdict(&frame).is_err());
        }
        Ok(())
    });
    result.unwrap();
    // Three transport protocols, up to two tags, with and without options or extension headers.
    assert_eq!(found.borrow().len(), 18, "{found:?}");
}

/// Selects ICMP timestamps, for which etherparse requires exactly 20 bytes.
fn is_timestamp(frame: &[u8], l4: u8) -> bool {
    matches!(frame[usize::from(l4)], 13 | 14)
}

/// The independent parser agrees on the forms of the document.
#[test]
fn independent_parser_agrees_on_malformed_forms() {
    for form in forms() {
        for frame in &form.frames {
            assert_eq!(verdict(frame).ok(), oracle::parse(frame), "{}: {frame:02x?}", form.text);
        }
    }
}

fn some_rewrite(ipv4: bool) -> Rewrite {
    let flow = forms::flow(ipv4);
    let source = Endpoint { port: 20_001, ..flow.destination };
    Rewrite { source_mac: MacAddr([2; 6]), destination_mac: MacAddr([4; 6]), source, destination: flow.source }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A parsed frame can be rewritten, parses again with its new addresses, and is not changed beyond its headers.
    #[test]
    fn parsed_packet_can_be_rewritten(frame in mutated()) {
        let Ok(parsed) = verdict(&frame) else { return Ok(()) };
        let new = some_rewrite(parsed.ipv4);
        let mut after = frame.clone();
        // Never of two IP versions: the parser refuses IPv4-mapped addresses in IPv6 packets.
        let translation = Translation::new(&parsed.flow, &new).unwrap();
        let applied = translation.apply(&mut after, parsed.l3, parsed.l4, parsed.ipv4);
        let hops = frame[L3 + if parsed.ipv4 { 8 } else { 7 }];
        if hops == 1 {
            prop_assert_eq!((applied, after), (Err(DropReason::TtlExpired), frame));
            return Ok(());
        }
        prop_assert_eq!(applied, Ok(()));
        let again = verdict(&after).unwrap();
        prop_assert_eq!((again.flow.source, again.flow.destination), (new.source, new.destination));
        prop_assert_eq!((again.length, again.l4), (parsed.length, parsed.l4));
        prop_assert_eq!(verify_udp(&after, &again), verify_udp(&frame, &parsed));
        let body = usize::from(parsed.l4) + 8;
        prop_assert_eq!(&after[body..], &frame[body..]);
    }

    /// Random bytes of any length cause no panic, and no accepted packet reaches past the frame.
    #[test]
    fn random_bytes_do_not_panic(
        bytes in prop::collection::vec(any::<u8>(), 64),
        length: u16, ipv4 in any::<Option<bool>>(), l3: u8, l4: u8,
    ) {
        let mut head: [u8; 64] = *bytes.first_chunk().unwrap();
        match ipv4 {
            Some(true) => head[12..15].copy_from_slice(&[0x08, 0x00, 0x45]),
            Some(false) => head[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]),
            None => {}
        }
        if let Ok(parsed) = parse(&head, length) {
            prop_assert!(u16::from(parsed.l4) + 8 <= parsed.length && parsed.length <= length);
            let _ = verify_udp(&head, &parsed);
        }
        let ipv4 = ipv4.unwrap_or(true);
        let _ = Translation::new(&forms::flow(ipv4), &some_rewrite(ipv4)).unwrap().apply(&mut head, l3, l4, ipv4);
    }
}
