#![allow(clippy::unwrap_used, clippy::panic)]
//! Fragmented datagrams: relayed in both directions, whatever their order and queue.

use super::*;
use oxide::packet::build::fragments;
use oxide::packet::fragment::fragment;

/// Puts fragments together again, as a receiver does; checks the sums.
fn reassembled(parts: &[Vec<u8>]) -> Vec<u8> {
    let mut all: Vec<_> = parts.iter().map(|part| (fragment(part).unwrap(), part)).collect();
    all.sort_by_key(|(found, _)| found.offset);
    let first = all[0].0;
    let same = |part: &&Vec<u8>| part[..12] == parts[0][..12];
    assert!(parts.iter().filter(same).count() == parts.len(), "one way");
    assert!(all.iter().all(|(found, _)| (found.id, found.ipv4) == (first.id, first.ipv4)), "one datagram");
    let mut payload = Vec::new();
    for (found, part) in &all {
        assert_eq!(usize::from(found.offset), payload.len());
        payload.extend(&part[usize::from(found.l4)..usize::from(found.length)]);
    }
    let whole = UdpFrame::new(first.flow, &payload[8..]).to_vec().unwrap();
    let header = if first.ipv4 { 34 } else { 54 };
    assert_eq!(whole[header..], payload, "ports, length and checksum of the whole datagram");
    whole
}

fn cut(from: &str, to: &str, bytes: usize, id: u32) -> Vec<Vec<u8>> {
    let payload: Vec<u8> = (0..bytes).map(|n| (n * 13) as u8).collect();
    fragments(&datagram(from, to, &payload), 1500, id).unwrap()
}

fn all_sent(outcomes: Vec<HandlerOutcome>, port: u8) -> Vec<Vec<u8>> {
    let sent = outcomes.into_iter().map(|outcome| {
        let (by, bytes) = sent(outcome);
        assert_eq!(by, port);
        bytes
    });
    sent.collect()
}

const FLOWS: [(&str, &str, Option<&str>); 2] =
    [("192.0.2.7:4000", "192.0.2.1:53", Some("198.51.100.2:53")), ("[2001:db8:1::7]:4000", "[2001:db8:1::1]:53", None)];

#[test]
fn fragments_are_relayed_in_both_directions() {
    for (client, listen, upstream) in FLOWS {
        let mut harness = relay("");
        let mut asked = cut(client, listen, 3560, 77);
        asked[2].extend([0xee; 9]); // Ethernet padding
        let out = all_sent(harness.feed(CLIENTS, &asked), SERVERS);
        let (source, server) = ends(&reassembled(&out));
        assert!(upstream.is_none_or(|upstream| server == at(upstream)));
        assert_eq!(harness.handler().sessions(), 1);
        let answer = cut(&server.to_string(), &source.to_string(), 4000, 77);
        let back = reassembled(&all_sent(harness.feed(SERVERS, &answer), CLIENTS));
        assert_eq!(ends(&back), (at(listen), at(client)));
        assert_eq!(harness.handler().counters().fragments, 6);
        // A whole datagram goes by the same session.
        let (_, out) = sent(one(&mut harness, CLIENTS, &datagram(client, listen, b"?")));
        assert_eq!(ends(&out).0, source);
    }
}

#[test]
fn later_fragment_ahead_of_the_first_is_held_once() {
    for (client, listen, _) in FLOWS {
        let mut harness = relay("");
        let parts = cut(client, listen, 3000, 5);
        let early = harness.feed(CLIENTS, &parts[1..]);
        assert!(early.iter().all(|outcome| matches!(outcome, HandlerOutcome::Hold(_))), "{early:?}");
        let first = all_sent(harness.feed(CLIENTS, &parts[..1]), SERVERS);
        let rest = all_sent(harness.feed_again(CLIENTS, &parts[1..]), SERVERS);
        reassembled(&[first, rest].concat());

        let orphan = cut(client, listen, 3000, 6).remove(1);
        assert!(matches!(one(&mut harness, CLIENTS, &orphan), HandlerOutcome::Hold(_)));
        let outcome = harness.feed_again(CLIENTS, &[orphan]).remove(0);
        assert_eq!(outcome, HandlerOutcome::Drop(DropReason::FragmentOrphan));
    }
}

#[test]
fn later_fragments_share_the_fate_of_the_first() {
    let mut harness = relay("");
    // Of an answer that belongs to nobody.
    let stray = cut("198.51.100.2:53", "198.51.100.1:61005", 3000, 1);
    let outcomes = harness.feed(SERVERS, &stray);
    assert_eq!(outcomes, vec![HandlerOutcome::Drop(DropReason::NoSession); 3]);
    // Of a client whose upstream is of the other family.
    let other = cut("192.0.2.7:4000", "192.0.2.1:56", 3000, 2);
    assert_eq!(harness.feed(CLIENTS, &other), vec![HandlerOutcome::Drop(DropReason::Fragment); 3]);
    // Of a client whose upstream's next hop is not known yet.
    harness.set_tables(World { known: false, ..World::default() }.tables(2));
    let parts = cut("192.0.2.7:4000", "192.0.2.1:53", 3000, 3);
    let held = harness.feed(CLIENTS, &parts);
    assert!(held.iter().all(|outcome| matches!(outcome, HandlerOutcome::Hold(_))), "{held:?}");
    harness.set_tables(World::default().tables(3));
    reassembled(&all_sent(harness.feed_again(CLIENTS, &parts), SERVERS));
}

#[test]
fn datagrams_of_two_clients_get_two_identifications() {
    let mut harness = relay("");
    let ids: Vec<u32> = ["192.0.2.7:4000", "192.0.2.8:4000"]
        .iter()
        .map(|client| {
            let out = all_sent(harness.feed(CLIENTS, &cut(client, "192.0.2.1:53", 2000, 7)), SERVERS);
            reassembled(&out);
            fragment(&out[0]).unwrap().id
        })
        .collect();
    assert_ne!(ids[0], ids[1]);
}

#[test]
fn fragments_of_another_queue_are_handed_over() {
    for (client, listen, _) in FLOWS {
        let (mut first, mut second) = (relay_on(0, 2, ""), relay_on(1, 2, ""));
        let (_, out) = sent(one(&mut first, CLIENTS, &datagram(client, listen, b"?")));
        let (source, server) = ends(&out);
        let answer = cut(&server.to_string(), &source.to_string(), 3000, 9);
        let handed: Vec<Vec<u8>> = second
            .feed(SERVERS, &answer)
            .into_iter()
            .map(|outcome| match outcome {
                HandlerOutcome::HandOver(0, bytes) => bytes,
                other => panic!("{other:?}"),
            })
            .collect();
        let back = reassembled(&all_sent(first.feed(SERVERS, &handed), CLIENTS));
        assert_eq!(ends(&back), (at(listen), at(client)));
    }
}

#[test]
fn later_fragment_has_its_own_limits() {
    let mut harness = relay("");
    let mut parts = cut("192.0.2.7:4000", "192.0.2.1:53", 3000, 4);
    parts[1][22] = 1;
    parts[1][24..26].fill(0);
    let sum = oxide::packet::checksum::ipv4_header(&parts[1][14..]).unwrap();
    parts[1][24..26].copy_from_slice(&sum.to_be_bytes());
    let outcomes = harness.feed(CLIENTS, &parts);
    assert_eq!(outcomes[1], HandlerOutcome::Drop(DropReason::TtlExpired));
    assert!(matches!(outcomes[2], HandlerOutcome::Transmit(..)));
    harness.set_tables(World { mtu: 1280, ..World::default() }.tables(2));
    // The first one fits, the second does not.
    let payload = vec![7; 4000];
    let whole = datagram("192.0.2.7:4000", "192.0.2.1:53", &payload);
    let mut mixed = fragments(&whole, 1228, 8).unwrap();
    let long = fragments(&whole, 1500, 8).unwrap().remove(1);
    mixed[1] = long;
    let outcomes = harness.feed(CLIENTS, &mixed);
    assert!(matches!(outcomes[0], HandlerOutcome::Transmit(..)));
    assert_eq!(outcomes[1], HandlerOutcome::Drop(DropReason::TooBig));
}
