#![allow(clippy::unwrap_used)]
//! Tests defects that only the fast path could have. The first packet of a session takes the slow path.

use super::*;

fn relay_with(sessions: &str, change: impl FnOnce(&mut Config)) -> Harness<UdpRelay> {
    let mut config = config(sessions);
    change(&mut config);
    config.check().unwrap();
    let plan = RelayPlan::new(&config, &[]).unwrap();
    Harness::new(Harness::info(2), World::default().tables(1), |info| UdpRelay::new(&plan, info)).unwrap()
}

fn request(payload: usize) -> Vec<u8> {
    datagram("192.0.2.7:4000", "192.0.2.1:53", &vec![7; payload])
}

fn answer_to(source: &str, port: u16, payload: usize) -> Vec<u8> {
    datagram("198.51.100.2:53", &format!("{source}:{port}"), &vec![7; payload])
}

fn answer(port: u16, payload: usize) -> Vec<u8> {
    answer_to("198.51.100.1", port, payload)
}

fn transmitted(outcomes: &[HandlerOutcome]) -> usize {
    outcomes.iter().filter(|outcome| matches!(outcome, HandlerOutcome::Transmit(..))).count()
}

/// Has a timeout below the half minute after which next hops are resolved again.
#[test]
fn short_timeout_ends_session_with_fresh_next_hop() {
    let mut harness = relay_with("", |config| config.relays[0].idle_timeout_s = Some(1));
    let port = source_port(&mut harness, "192.0.2.7:4000");
    harness.advance(Duration::from_secs(1));
    assert_eq!(source_port(&mut harness, "192.0.2.7:4000"), port);
    harness.advance(Duration::from_millis(1100));
    assert_ne!(source_port(&mut harness, "192.0.2.7:4000"), port);
}

/// The slot of a look-up has another session, with the same port of another address, when the packet is served.
#[test]
fn late_answer_to_other_address_does_not_reach_new_session_of_slot() {
    let mut harness = relay("source_ports = \"61000-61000\"");
    assert_eq!(source_port(&mut harness, "192.0.2.7:4000"), 61_000);
    harness.set_tables(World { server_side: vec!["198.51.100.9", "2001:db8:2::1"], ..World::default() }.tables(2));
    let (new, late) = (answer_to("198.51.100.9", 61_000, 4), answer(61_000, 4));
    let outcomes = harness.feed(CLIENTS, &[request(4), new, late]);
    assert_eq!((transmitted(&outcomes), &outcomes[2]), (2, &HandlerOutcome::Drop(DropReason::NoSession)));
}

/// The same, with an answer that would take the fast path if it came first.
#[test]
fn answer_after_session_end_is_dropped() {
    let mut harness = relay("source_ports = \"61000-61000\"");
    assert_eq!(source_port(&mut harness, "192.0.2.7:4000"), 61_000);
    harness.set_tables(World { server_side: vec!["198.51.100.9", "2001:db8:2::1"], ..World::default() }.tables(2));
    sent(one(&mut harness, SERVERS, &answer(61_000, 4)));
    let outcomes = harness.feed(CLIENTS, &[answer(61_000, 4), request(4), answer(61_000, 4)]);
    assert_eq!((transmitted(&outcomes), &outcomes[2]), (2, &HandlerOutcome::Drop(DropReason::NoSession)));
}

/// The same, with another port of the same address.
#[test]
fn late_answer_to_other_port_does_not_reach_new_session_of_slot() {
    let ports = "source_ports = \"61000-61001\"";
    let mut harness = relay_with(ports, |config| config.relays[0].idle_timeout_s = Some(1));
    let first = source_port(&mut harness, "192.0.2.7:4000");
    harness.advance(Duration::from_millis(1200));
    // A returned port is used last.
    let second = 61_000 + u16::from(first == 61_000);
    let outcomes = harness.feed(CLIENTS, &[request(4), answer(second, 4), answer(first, 4)]);
    assert_eq!((transmitted(&outcomes), &outcomes[2]), (2, &HandlerOutcome::Drop(DropReason::NoSession)));
}

/// Packets of 20 + 8 + 972 bytes: ten pass in total, the first one on the slow path.
#[test]
fn limits_count_ip_bytes() {
    let limit = |config: &mut Config| {
        (config.relays[0].bytes_per_s, config.limits.reply_bytes_per_s, config.limits.burst_ms) =
            (10_000, 10_000, 1000);
    };
    let mut harness = relay_with("", limit);
    let port = ends(&sent(one(&mut harness, CLIENTS, &request(972))).1).0.port();
    assert_eq!(transmitted(&harness.feed(CLIENTS, &vec![request(972); 20])), 9);
    sent(one(&mut harness, SERVERS, &answer(port, 972)));
    assert_eq!(transmitted(&harness.feed(SERVERS, &vec![answer(port, 972); 20])), 9);
}

#[test]
fn held_packet_is_paid_and_limited_packet_refreshes_nothing() {
    let mut harness = relay_with("", |config| {
        let limits = &mut config.limits;
        (limits.source_packets_per_s, limits.reply_packets_per_s, limits.burst_ms) = (1, 1, 1);
    });
    let port = source_port(&mut harness, "192.0.2.7:4000");
    sent(one(&mut harness, SERVERS, &answer(port, 4)));
    assert_eq!(transmitted(&harness.feed_again(CLIENTS, &vec![request(4); 5])), 5);
    assert_eq!(transmitted(&harness.feed_again(SERVERS, &vec![answer(port, 4); 5])), 5);
    harness.advance(Duration::from_millis(500));
    assert_eq!(one(&mut harness, CLIENTS, &request(4)), HandlerOutcome::Drop(DropReason::RateLimited));
    assert_eq!(one(&mut harness, SERVERS, &answer(port, 4)), HandlerOutcome::Drop(DropReason::RateLimited));
    let mut list = Vec::new();
    harness.handler().describe_sessions(9, &mut list);
    assert_eq!(list.iter().map(|one| one.idle).collect::<Vec<_>>(), [Duration::from_millis(500)]);
}

/// Answers leave by the interface of their client.
#[test]
fn answer_leaves_by_client_interface() {
    for (port, client, mac) in [(CLIENTS, "192.0.2.7:4000", CLIENT_MAC), (SERVERS, "198.51.100.7:4000", SERVER_MAC)] {
        let mut harness = relay("");
        let from = ends(&sent(one(&mut harness, port, &datagram(client, "192.0.2.1:53", b"?"))).1).0.port();
        for _ in 0..3 {
            let (out, back) = sent(one(&mut harness, SERVERS, &answer(from, 4)));
            assert_eq!((out, ends(&back)), (port, (at("192.0.2.1:53"), at(client))));
            assert_eq!((&back[..6], &back[6..12]), (&mac.0[..], &[2, 0, 0, 0, 1, port][..]));
        }
    }
}

/// All sessions of an upstream share its next hop, except those with another source address.
#[test]
fn session_keeps_source_of_its_start() {
    let mut harness = relay("");
    let old = source_port(&mut harness, "192.0.2.7:4000");
    harness.set_tables(World { server_side: vec!["198.51.100.9", "2001:db8:2::1"], ..World::default() }.tables(2));
    let other = datagram("192.0.2.8:4000", "192.0.2.1:53", b"?");
    let source = |(_, frame): (u8, Vec<u8>)| ends(&frame).0;
    let began = source(sent(one(&mut harness, CLIENTS, &other)));
    assert_eq!(began.ip(), at("198.51.100.9:0").ip());
    let moved = source(sent(one(&mut harness, CLIENTS, &request(4))));
    assert_eq!((moved.ip(), harness.handler().counters().source_changed), (began.ip(), 1));
    assert_eq!(one(&mut harness, SERVERS, &answer(old, 4)), HandlerOutcome::Drop(DropReason::NoSession));
    sent(one(&mut harness, SERVERS, &answer_to("198.51.100.9", moved.port(), 4)));
}

/// The same while the host has no address, so that every session keeps its own: in one batch, in both directions.
#[test]
fn sessions_keep_addresses_while_host_has_none() {
    let mut harness = relay_with("", |config| config.relays[2].upstreams.truncate(1));
    let [a, b] =
        ["[2001:db8:1::7]:4000", "[2001:db8:1::8]:4000"].map(|from| datagram(from, "[2001:db8:1::1]:53", b"?"));
    let source = |outcome: HandlerOutcome| ends(&sent(outcome).1).0;
    let old = source(one(&mut harness, CLIENTS, &a));
    harness.set_tables(World { server_side: vec!["2001:db8:2::9"], ..World::default() }.tables(2));
    let new = source(one(&mut harness, CLIENTS, &b));
    assert_eq!([old.ip(), new.ip()], [ip("2001:db8:2::1"), ip("2001:db8:2::9")]);
    let none = World { client_side: vec!["192.0.2.1"], server_side: vec!["198.51.100.1"], ..World::default() };
    harness.set_tables(none.tables(3));
    for _ in 0..3 {
        let outcomes = harness.feed(CLIENTS, &[&a, &b, &b, &a, &a, &b].map(Vec::clone));
        let sources: Vec<_> = outcomes.into_iter().map(source).collect();
        assert_eq!(sources, [old, new, new, old, old, new]);
    }
}

/// New tables apply to the next packet, in both directions.
#[test]
fn changed_next_hop_is_resolved_again() {
    let mut harness = relay("");
    let port = source_port(&mut harness, "192.0.2.7:4000");
    for _ in 0..3 {
        sent(one(&mut harness, CLIENTS, &request(80)));
        sent(one(&mut harness, SERVERS, &answer(port, 80)));
    }
    harness.set_tables(World { mtu: 100, ..World::default() }.tables(2));
    assert_eq!(one(&mut harness, SERVERS, &answer(port, 80)), HandlerOutcome::Drop(DropReason::TooBig));
    assert_eq!(one(&mut harness, CLIENTS, &request(80)), HandlerOutcome::Drop(DropReason::TooBig));
    for _ in 0..3 {
        sent(one(&mut harness, SERVERS, &answer(port, 72)));
        sent(one(&mut harness, CLIENTS, &request(72)));
    }
    assert_eq!(one(&mut harness, SERVERS, &answer(port, 73)), HandlerOutcome::Drop(DropReason::TooBig));
    assert_eq!(one(&mut harness, CLIENTS, &request(73)), HandlerOutcome::Drop(DropReason::TooBig));
}

/// With an answer grace time, the port is free soon after the answer. A client that sends again keeps it.
#[test]
fn answered_session_ends_after_its_grace() {
    let mut harness = relay_with("", |config| config.relays[0].answer_grace_ms = 2000);
    let port = source_port(&mut harness, "192.0.2.7:4000");
    for _ in 0..3 {
        sent(one(&mut harness, SERVERS, &answer(port, 4)));
        harness.advance(Duration::from_millis(1900));
        assert_eq!(source_port(&mut harness, "192.0.2.7:4000"), port);
    }
    // Without an answer the whole idle timeout applies.
    harness.advance(Duration::from_secs(200));
    sent(one(&mut harness, SERVERS, &answer(port, 4)));
    harness.advance(Duration::from_millis(2100));
    assert_eq!(one(&mut harness, SERVERS, &answer(port, 4)), HandlerOutcome::Drop(DropReason::NoSession));
    (0..16).for_each(|_| harness.tick());
    assert_eq!(harness.handler().sessions(), 0);
    // A session of another entry stays.
    let other = datagram("192.0.2.7:4000", "192.0.2.1:54", b"?");
    let source = ends(&sent(one(&mut harness, CLIENTS, &other)).1).0;
    let back = datagram("198.51.100.2:54", &source.to_string(), b"!");
    sent(one(&mut harness, SERVERS, &back));
    harness.advance(Duration::from_secs(200));
    sent(one(&mut harness, SERVERS, &back));
}
