#![allow(clippy::unwrap_used, clippy::panic)]
//! Tests the relay through the harness: input packets and output packets.

mod batches;
mod cost;
mod fast_path;
mod fragments;
mod gate;
mod health;
mod home;
mod inherit;
mod limits;
mod model;
mod plan;
mod world;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Duration;

use self::world::{CLIENT_MAC, SERVER_MAC, config_text, ends_unchecked, parsed};
pub(super) use self::world::{World, at, ip};
use super::{RelayPlan, UdpRelay};
use crate::config::Config;
use oxide::packet::build::UdpFrame;
use oxide::packet::{self, Flow};
use oxide::queue::{Handler, HandlerOutcome, Harness, QueueInfo, Replaced};
use oxide::telemetry::DropReason;

const CLIENTS: u8 = 0;
const SERVERS: u8 = 1;

pub(super) fn config(sessions: &str) -> Config {
    Config::from_toml(&config_text(sessions)).unwrap()
}

fn relay_on(queue: u32, queues: u32, sessions: &str) -> Harness<UdpRelay> {
    let plan = RelayPlan::new(&config(sessions), &[]).unwrap();
    let info = QueueInfo { queue, queues, place: queue, ..Harness::info(2) };
    Harness::new(info, World::default().tables(1), |info| UdpRelay::new(&plan, info)).unwrap()
}

fn relay(sessions: &str) -> Harness<UdpRelay> {
    relay_on(0, 1, sessions)
}

pub(super) fn datagram(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    UdpFrame::new(Flow { source: at(from).into(), destination: at(to).into() }, payload).to_vec().unwrap()
}

/// Returns the flow of a frame with correct checksums.
fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    packet::verify_udp(frame, &parsed(frame)).unwrap();
    ends_unchecked(frame)
}

fn one(harness: &mut Harness<UdpRelay>, port: u8, packet: &[u8]) -> HandlerOutcome {
    harness.feed(port, &[packet]).remove(0)
}

#[track_caller]
fn sent(outcome: HandlerOutcome) -> (u8, Vec<u8>) {
    match outcome {
        HandlerOutcome::Transmit(port, bytes) => (port, bytes),
        other => panic!("not sent: {other:?}"),
    }
}

/// Sends one packet to entry `a` and returns its new source port.
#[track_caller]
fn source_port(harness: &mut Harness<UdpRelay>, client: &str) -> u16 {
    ends(&sent(one(harness, CLIENTS, &datagram(client, "192.0.2.1:53", b"?"))).1).0.port()
}

#[test]
fn relays_both_directions_in_both_families() {
    for (client, listen, upstream, source) in [
        ("192.0.2.7:4000", "192.0.2.1:53", "198.51.100.2:53", "198.51.100.1"),
        ("[2001:db8:1::7]:4000", "[2001:db8:1::1]:53", "", "2001:db8:2::1"),
    ] {
        let mut harness = relay("");
        let mut request = datagram(client, listen, b"question");
        let length = request.len();
        request.resize(length + 9, 0xee); // Ethernet padding
        let (port, out) = sent(one(&mut harness, CLIENTS, &request));
        let (from, to) = ends(&out);
        assert_eq!((port, from.ip(), out.len()), (SERVERS, ip(source), length));
        assert!((8500..30_000).contains(&from.port()) || from.port() >= 61_000);
        if !upstream.is_empty() {
            assert_eq!(to, at(upstream));
        }
        assert_eq!((&out[..6], &out[6..12]), (&SERVER_MAC.0[..], &[2, 0, 0, 0, 1, 1][..]));
        assert!(out.ends_with(b"question"));

        let answer = datagram(&to.to_string(), &from.to_string(), b"answer");
        let (port, back) = sent(one(&mut harness, SERVERS, &answer));
        assert_eq!((port, ends(&back)), (CLIENTS, (at(listen), at(client))));
        assert_eq!((&back[..6], &back[6..12]), (&CLIENT_MAC.0[..], &[2, 0, 0, 0, 1, 0][..]));
        assert_eq!(harness.handler().sessions(), 1);
    }
}

#[test]
fn translates_families_and_back() {
    for (client, listen, upstream, source, grown) in [
        ("192.0.2.7:4000", "192.0.2.1:56", "[2001:db8:2::4]:53", "2001:db8:2::1", 20),
        ("[2001:db8:1::7]:4000", "[2001:db8:1::1]:54", "198.51.100.4:53", "198.51.100.1", -20),
    ] {
        let mut harness = relay("");
        let length = |frame: &[u8]| frame.len() as i32;
        let mut request = datagram(client, listen, b"question");
        request.extend([0xee; 9]); // Ethernet padding
        let (port, out) = sent(one(&mut harness, CLIENTS, &request));
        let (from, to) = ends(&out);
        assert_eq!((port, from.ip(), to), (SERVERS, ip(source), at(upstream)));
        assert_eq!((&out[..6], &out[6..12]), (&SERVER_MAC.0[..], &[2, 0, 0, 0, 1, 1][..]));
        assert_eq!(length(&out), length(&request) - 9 + grown);
        assert!(out.ends_with(b"question"));

        let answer = datagram(upstream, &from.to_string(), b"answer");
        let (port, back) = sent(one(&mut harness, SERVERS, &answer));
        assert_eq!((port, ends(&back)), (CLIENTS, (at(listen), at(client))));
        assert_eq!((&back[..6], &back[6..12]), (&CLIENT_MAC.0[..], &[2, 0, 0, 0, 1, 0][..]));
        assert_eq!(length(&back), length(&answer) - grown);
        assert_eq!(harness.handler().sessions(), 1);
    }
}

/// The outgoing MTU limits the packet after its translation.
#[test]
fn translated_packet_must_fit_after_growth() {
    let mut harness = relay("");
    harness.set_tables(World { mtu: 1280, ..World::default() }.tables(2));
    for (client, listen, header) in
        [("192.0.2.7:1", "192.0.2.1:56", 48), ("[2001:db8:1::7]:1", "[2001:db8:1::1]:54", 28)]
    {
        let fits = datagram(client, listen, &vec![0; 1280 - header]);
        assert_eq!(sent(one(&mut harness, CLIENTS, &fits)).1.len(), 14 + 1280);
        let big = datagram(client, listen, &vec![0; 1281 - header]);
        assert_eq!(one(&mut harness, CLIENTS, &big), HandlerOutcome::Drop(DropReason::TooBig));
        let flow = Flow { source: at(client).into(), destination: at(listen).into() };
        let tired = UdpFrame { hop_limit: 1, ..UdpFrame::new(flow, b"") }.to_vec().unwrap();
        assert_eq!(one(&mut harness, CLIENTS, &tired), HandlerOutcome::Drop(DropReason::TtlExpired));
    }
}

#[test]
fn one_client_at_one_entry_has_one_port() {
    let mut harness = relay("");
    let first = source_port(&mut harness, "192.0.2.7:4000");
    assert_eq!(source_port(&mut harness, "192.0.2.7:4000"), first);
    let mut ports =
        vec![first, source_port(&mut harness, "192.0.2.7:4001"), source_port(&mut harness, "192.0.2.8:4000")];
    let other = sent(one(&mut harness, CLIENTS, &datagram("192.0.2.7:4000", "192.0.2.1:54", b"")));
    ports.push(ends(&other.1).0.port());
    ports.sort_unstable();
    ports.dedup();
    assert_eq!((ports.len(), harness.handler().sessions()), (4, 4));
}

#[test]
fn batch_of_one_new_client_makes_one_session() {
    let mut harness = relay("");
    let packet = datagram("192.0.2.7:4000", "192.0.2.1:53", b"?");
    let outcomes = harness.feed(CLIENTS, &vec![packet; 64]);
    assert!(outcomes.iter().all(|outcome| *outcome == outcomes[0]));
    assert_eq!(harness.handler().counters().created, 1);
}

#[test]
fn idle_session_expires_although_answers_arrive() {
    let mut harness = relay("idle_timeout_s = 120");
    let port = source_port(&mut harness, "192.0.2.7:4000");
    let answer = datagram("198.51.100.2:53", &format!("198.51.100.1:{port}"), b"!");
    harness.advance(Duration::from_secs(120));
    sent(one(&mut harness, SERVERS, &answer));
    harness.advance(Duration::from_millis(100));
    assert_eq!(one(&mut harness, SERVERS, &answer), HandlerOutcome::Drop(DropReason::NoSession));
    assert_eq!(harness.handler().sessions(), 1);
    // The sweep visits all slots within the ticks of a second.
    (0..16).for_each(|_| harness.tick());
    assert_eq!((harness.handler().sessions(), harness.handler().counters().expired), (0, 1));
    // The client gets a new session with another port, so a late answer does not reach it.
    assert_ne!(source_port(&mut harness, "192.0.2.7:4000"), port);
}

#[test]
fn active_client_keeps_its_session() {
    let mut harness = relay("idle_timeout_s = 120");
    let port = source_port(&mut harness, "192.0.2.7:4000");
    for _ in 0..10 {
        harness.advance(Duration::from_secs(119));
        (0..10).for_each(|_| harness.tick());
        assert_eq!(source_port(&mut harness, "192.0.2.7:4000"), port);
    }
}

#[test]
fn full_table_refuses_new_clients_and_serves_others() {
    let mut harness = relay("capacity = 64\nidle_timeout_s = 120");
    let ports: Vec<u16> = (0..64).map(|n| source_port(&mut harness, &format!("192.0.2.7:{}", 4000 + n))).collect();
    let refused = datagram("192.0.2.8:1", "192.0.2.1:53", b"?");
    assert_eq!(one(&mut harness, CLIENTS, &refused), HandlerOutcome::Drop(DropReason::SessionsFull));
    assert_eq!(source_port(&mut harness, "192.0.2.7:4063"), ports[63]);
    // Expired sessions are reclaimed at once, without a tick.
    harness.advance(Duration::from_secs(121));
    sent(one(&mut harness, CLIENTS, &refused));
}

#[test]
fn each_upstream_and_source_address_has_all_ports() {
    let mut harness = relay("source_ports = [\"60000-60000\", \"61000-61001\"]");
    let mut back = Vec::new();
    // Three entries with an upstream each, two of them from the same source address.
    for listen in ["192.0.2.1:53", "192.0.2.1:54", "[2001:db8:1::1]:54"] {
        let client =
            |n: u16| if listen.starts_with('[') { format!("[2001:db8:1::7]:{n}") } else { format!("192.0.2.7:{n}") };
        let mut ports = Vec::new();
        for n in 4000..4003 {
            let (source, upstream) = ends(&sent(one(&mut harness, CLIENTS, &datagram(&client(n), listen, b"?"))).1);
            ports.push(source.port());
            back.push((datagram(&upstream.to_string(), &source.to_string(), b"!"), at(listen), at(&client(n))));
        }
        ports.sort_unstable();
        assert_eq!(ports, [60_000, 61_000, 61_001], "{listen}");
        let refused = one(&mut harness, CLIENTS, &datagram(&client(9), listen, b"?"));
        assert_eq!(refused, HandlerOutcome::Drop(DropReason::PortsExhausted));
    }
    // The sender of an answer tells the sessions of a port apart.
    for _ in 0..2 {
        for (answer, listen, client) in &back {
            assert_eq!(ends(&sent(one(&mut harness, SERVERS, answer)).1), (*listen, *client));
        }
        let stranger = datagram("198.51.100.9:53", "198.51.100.1:61000", b"!");
        assert_eq!(one(&mut harness, SERVERS, &stranger), HandlerOutcome::Drop(DropReason::WrongPeer));
        // Over a change of handlers, too.
        let plan = RelayPlan::new(&config("source_ports = \"60000-61001\""), &[]).unwrap();
        assert_eq!(harness.restart_handler(Replaced::Asked, |info| UdpRelay::new(&plan, info)), Ok(9));
    }
}

/// `sources` names the addresses; one that the host does not have is passed over.
#[test]
fn sessions_spread_over_configured_source_addresses() {
    let ports = "source_ports = \"61000-61003\"\nsources = [\"198.51.100.8\", \"198.51.100.9\", \"198.51.100.7\"]";
    let mut harness = relay(ports);
    let own = vec!["198.51.100.1", "198.51.100.8", "198.51.100.9", "2001:db8:2::1"];
    harness.set_tables(World { server_side: own, ..World::default() }.tables(2));
    let mut sessions = HashSet::new();
    for n in 0..8 {
        let out =
            sent(one(&mut harness, CLIENTS, &datagram(&format!("192.0.2.7:{}", 4000 + n), "192.0.2.1:53", b"?"))).1;
        assert!(sessions.insert(ends(&out).0));
    }
    let of = |own: &str| sessions.iter().filter(|source| source.ip() == ip(own)).count();
    assert_eq!((of("198.51.100.8"), of("198.51.100.9")), (4, 4));
    let packet = datagram("192.0.2.8:1", "192.0.2.1:53", b"?");
    assert_eq!(one(&mut harness, CLIENTS, &packet), HandlerOutcome::Drop(DropReason::PortsExhausted));
    // A family without a configured address has the one that the kernel prefers.
    let six = sent(one(&mut harness, CLIENTS, &datagram("[2001:db8:1::7]:1", "[2001:db8:1::1]:53", b"?"))).1;
    assert_eq!(ends(&six).0.ip(), ip("2001:db8:2::1"));
    // Without any of them, none is used instead.
    harness.set_tables(World::default().tables(3));
    assert_eq!(one(&mut harness, CLIENTS, &packet), HandlerOutcome::Drop(DropReason::NoRoute));
}

#[test]
fn drain_serves_sessions_and_starts_none() {
    let mut harness = relay("");
    let port = source_port(&mut harness, "192.0.2.7:4000");
    harness.set_draining(true);
    assert_eq!(source_port(&mut harness, "192.0.2.7:4000"), port);
    let new = datagram("192.0.2.7:4001", "192.0.2.1:53", b"?");
    assert_eq!(one(&mut harness, CLIENTS, &new), HandlerOutcome::Drop(DropReason::Draining));
}

#[test]
fn packets_without_session_have_distinct_reasons() {
    let mut harness = relay("");
    let port = source_port(&mut harness, "192.0.2.7:4000");
    for (from, to, reason) in [
        ("198.51.100.3:53", format!("198.51.100.1:{port}"), DropReason::WrongPeer),
        ("198.51.100.2:54", format!("198.51.100.1:{port}"), DropReason::WrongPeer),
        ("198.51.100.2:53", format!("198.51.100.9:{port}"), DropReason::NoSession),
        ("198.51.100.2:53", format!("198.51.100.1:{}", port ^ 1), DropReason::NoSession),
        ("198.51.100.2:53", "198.51.100.1:60999".to_owned(), DropReason::NoSession),
        ("192.0.2.7:4000", "192.0.2.1:57".to_owned(), DropReason::NoSession),
        // Forged sources: the host's own address and the upstream itself.
        ("198.51.100.1:4000", "192.0.2.1:53".to_owned(), DropReason::BadSource),
        ("198.51.100.2:53", "192.0.2.1:53".to_owned(), DropReason::BadSource),
        // The route uses an unserved interface.
        ("192.0.2.7:4000", "192.0.2.1:55".to_owned(), DropReason::NoRoute),
    ] {
        assert_eq!(one(&mut harness, SERVERS, &datagram(from, &to, b"!")), HandlerOutcome::Drop(reason), "{from} {to}");
    }
    assert_eq!(one(&mut harness, CLIENTS, &[0; 60]), HandlerOutcome::Drop(DropReason::EtherType));
    assert_eq!(harness.handler().sessions(), 1);
}

#[test]
fn answer_goes_to_queue_that_owns_the_port() {
    let ports = "source_ports = \"60000-60010\"";
    for (port, owner) in [(60000, Some(0)), (60002, Some(2)), (60007, Some(3)), (60010, Some(2)), (60011, None)] {
        let mut harness = relay_on(1, 4, ports);
        let answer = datagram("198.51.100.2:53", &format!("198.51.100.1:{port}"), b"!");
        let wanted = match owner {
            Some(owner) => HandlerOutcome::HandOver(owner, answer.clone()),
            None => HandlerOutcome::Drop(DropReason::NoSession),
        };
        assert_eq!(one(&mut harness, SERVERS, &answer), wanted, "{port}");
    }
    let mut harness = relay_on(1, 4, ports);
    assert!([60001, 60005, 60009].contains(&source_port(&mut harness, "192.0.2.7:4000")));
}

#[test]
fn unknown_next_hop_is_requested_and_packet_held() {
    let mut harness = relay("");
    harness.set_tables(World { known: false, ..World::default() }.tables(2));
    let packet = datagram("192.0.2.7:4000", "192.0.2.1:53", b"?");
    assert_eq!(harness.feed(CLIENTS, &[&packet, &packet]), vec![HandlerOutcome::Hold(packet.clone()); 2]);
    assert_eq!(harness.take_requests(), [(2, ip("198.51.100.2"))]);
    assert_eq!(harness.feed_again(CLIENTS, &[&packet]), [HandlerOutcome::Hold(packet.clone())]);
    harness.set_tables(World::default().tables(3));
    let (port, _) = sent(harness.feed_again(CLIENTS, &[&packet]).remove(0));
    assert_eq!((port, harness.handler().sessions()), (SERVERS, 1));
}

#[test]
fn next_hop_of_upstream_is_requested_before_first_client() {
    let mut harness = relay("");
    harness.set_tables(World { known: false, ..World::default() }.tables(2));
    let all = ["198.51.100.2", "2001:db8:2::2", "2001:db8:2::3", "2001:db8:2::4", "198.51.100.4"]
        .map(|upstream| (2, ip(upstream)));
    harness.tick();
    assert_eq!(harness.take_requests(), all);
    harness.tick();
    assert_eq!(harness.take_requests(), [], "one request lasts half a minute");
    harness.advance(std::time::Duration::from_secs(31));
    harness.tick();
    assert_eq!(harness.take_requests(), all, "next hops in use are requested again");
}

#[test]
fn unsendable_packets_have_reasons() {
    let mut harness = relay("");
    harness.set_tables(World { mtu: 100, ..World::default() }.tables(2));
    sent(one(&mut harness, CLIENTS, &datagram("192.0.2.7:1", "192.0.2.1:53", &[0; 72])));
    let big = datagram("192.0.2.7:1", "192.0.2.1:53", &[0; 73]);
    assert_eq!(one(&mut harness, CLIENTS, &big), HandlerOutcome::Drop(DropReason::TooBig));
    let flow = Flow { source: at("192.0.2.7:1").into(), destination: at("192.0.2.1:53").into() };
    let tired = UdpFrame { hop_limit: 1, ..UdpFrame::new(flow, b"") }.to_vec().unwrap();
    assert_eq!(one(&mut harness, CLIENTS, &tired), HandlerOutcome::Drop(DropReason::TtlExpired));
    harness.set_tables(World { routes: false, ..World::default() }.tables(3));
    let packet = datagram("192.0.2.7:1", "192.0.2.1:53", b"");
    assert_eq!(one(&mut harness, CLIENTS, &packet), HandlerOutcome::Drop(DropReason::NoRoute));
    assert_eq!(harness.handler().sessions(), 1);
}

#[test]
fn session_keeps_its_source_while_the_address_is_assigned() {
    let mut harness = relay("");
    let before = source_port(&mut harness, "192.0.2.7:4000");
    // Another address is preferred: first as an additional one, then as the only one.
    let sides = [vec!["198.51.100.9", "198.51.100.1"], vec!["198.51.100.1", "198.51.100.9"], vec!["198.51.100.1"]];
    for (generation, server_side) in (2..).zip(sides) {
        harness.set_tables(World { server_side, ..World::default() }.tables(generation));
        let (_, out) = sent(one(&mut harness, CLIENTS, &datagram("192.0.2.7:4000", "192.0.2.1:53", b"?")));
        assert_eq!(ends(&out).0, SocketAddr::new(ip("198.51.100.1"), before));
        let answer = datagram("198.51.100.2:53", &format!("198.51.100.1:{before}"), b"!");
        sent(one(&mut harness, SERVERS, &answer));
    }
    assert_eq!((harness.handler().sessions(), harness.handler().counters().source_changed), (1, 0));
}

#[test]
fn new_session_takes_the_preferred_source_while_others_keep_theirs() {
    let mut harness = relay("");
    let request = |client: &str| datagram(client, "192.0.2.1:53", b"?");
    let [old, new] = [request("192.0.2.7:4000"), request("192.0.2.8:4000")];
    let first = ends(&sent(one(&mut harness, CLIENTS, &old)).1).0;
    let both = World { server_side: vec!["198.51.100.9", "198.51.100.1"], ..World::default() };
    harness.set_tables(both.tables(2));
    for _ in 0..3 {
        // In one batch and in turns, each packet leaves with its own session's address.
        let outcomes = harness.feed(CLIENTS, &[&old, &new, &old, &new].map(Vec::clone));
        let sources: Vec<_> = outcomes.into_iter().map(|out| ends(&sent(out).1).0).collect();
        assert_eq!([sources[0], sources[2]], [first, first]);
        assert_eq!((sources[1].ip(), sources[1]), (ip("198.51.100.9"), sources[3]));
    }
    // The next handlers inherit both sessions, each with its address.
    let plan = RelayPlan::new(&config(""), &[]).unwrap();
    assert_eq!(harness.restart_handler(oxide::queue::Replaced::Asked, |info| UdpRelay::new(&plan, info)), Ok(2));
    let outcomes = harness.feed(CLIENTS, &[old, new]);
    let sources: Vec<_> = outcomes.into_iter().map(|out| ends(&sent(out).1).0.ip()).collect();
    assert_eq!(sources, [ip("198.51.100.1"), ip("198.51.100.9")]);
}

#[test]
fn new_source_address_moves_session() {
    let mut harness = relay("");
    let port = source_port(&mut harness, "192.0.2.7:4000");
    harness.set_tables(World { server_side: vec!["198.51.100.9", "2001:db8:2::1"], ..World::default() }.tables(2));
    let (_, out) = sent(one(&mut harness, CLIENTS, &datagram("192.0.2.7:4000", "192.0.2.1:53", b"?")));
    assert_eq!(ends(&out).0.ip(), ip("198.51.100.9"));
    let late = datagram("198.51.100.2:53", &format!("198.51.100.1:{port}"), b"!");
    assert_eq!(one(&mut harness, SERVERS, &late), HandlerOutcome::Drop(DropReason::NoSession));
    assert_eq!((harness.handler().sessions(), harness.handler().counters().source_changed), (1, 1));
}

#[test]
fn memory_is_allocated_before_first_packet() {
    let mut harness = relay_on(0, 4, "capacity = 65536\nsource_ports = \"20000-60000\"");
    let before = harness.handler().memory_bytes();
    assert!((1 << 20..3 << 20).contains(&before), "{before} bytes for 16384 sessions");
    // The ports of the two source addresses, for 4 sessions of each port: an index over all ports, and the free ones.
    harness.tick();
    let ports = 2 * 4 * (65_536 * 4 / 4 + 10_000 * 2);
    let with_ports = harness.handler().memory_bytes();
    assert!((ports..ports + 1024).contains(&(with_ports - before)), "{}", with_ports - before);
    for n in 0..2000 {
        source_port(&mut harness, &format!("192.0.2.7:{}", 1000 + n));
    }
    assert_eq!(harness.handler().memory_bytes(), with_ports);
}
