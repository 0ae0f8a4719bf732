//! Defects known from other implementations, by name.

use std::time::{Duration, Instant};

use oxide_tunnel::{
    AllowedIps, HandshakeError, HandshakeLimits, HandshakeOutput, Handshakes, IndexOwner, PeerConfig, PresharedKey,
    PrivateKey, Time,
};

use crate::node::{Node, address, packet};

const SOURCE: &str = "192.0.2.1:1";

fn key(n: u8) -> PrivateKey {
    PrivateKey::from_bytes([n; 32])
}

/// Two devices of the crate under test; the first knows where the second is.
fn pair(per_second: u32) -> (Node, Node) {
    (Node::new(&key(1), key(2).public(), [0; 32], per_second), Node::new(&key(2), key(1).public(), [0; 32], per_second))
}

fn settle(one: &mut Node, other: &mut Node) -> usize {
    let mut packets = 0;
    loop {
        let (to_other, to_one) = (one.take(), other.take());
        if to_other.is_empty() && to_one.is_empty() {
            return packets;
        }
        packets += to_other.iter().filter_map(|datagram| other.receive(datagram, address(SOURCE)).unwrap()).count();
        packets += to_one.iter().filter_map(|datagram| one.receive(datagram, address("192.0.2.2:2")).unwrap()).count();
    }
}

/// gotatun 0.7.2: a peer with a wide prefix used an address that belonged to another peer.
#[test]
fn allowed_ips_subset_is_not_spoofed() {
    let table = AllowedIps::build(
        [("10.0.0.0/8", 1), ("10.1.0.0/16", 2), ("fd00::/8", 1), ("fd00:1::/32", 2)]
            .map(|(prefix, peer)| (prefix.parse().unwrap(), peer)),
    );
    let table = table.unwrap();
    for (source, owner) in [("10.1.0.1", 2), ("10.2.0.1", 1), ("fd00:1::1", 2), ("fd00:2::1", 1)] {
        assert_eq!(table.owner(source.parse().unwrap()), Some(owner), "{source}");
    }
}

/// gotatun 0.8.0, boringtun 489: a cookie reply moved the endpoint.
#[test]
fn cookie_reply_does_not_move_the_endpoint() {
    let (mut one, mut other) = pair(0);
    one.send(&packet(1));
    let initiation = one.take();
    assert!(other.receive(&initiation[0], address(SOURCE)).is_err());
    let reply = other.take();
    one.receive(&reply[0], address("198.51.100.9:9")).unwrap();
    one.advance(Duration::from_secs(6));
    one.poll();
    let repeated = one.take_with_destination();
    assert_eq!(repeated[0].1, address("192.0.2.2:2"), "the initiation goes to the known endpoint");
    other.receive(&repeated[0].0, address(SOURCE)).expect("it has the cookie");
}

/// opnsense/core 9181: the clock of a client went backwards, and its initiations were refused for hours.
#[test]
fn clock_gone_backwards_does_not_lock_the_initiator_out() {
    let (mut one, mut other) = pair(1_000);
    one.send(&packet(1));
    settle(&mut one, &mut other);
    one.advance(Duration::from_secs(200));
    other.advance(Duration::from_secs(200));
    one.time.unix -= Duration::from_secs(1_000_000);
    one.send(&packet(1));
    settle(&mut one, &mut other);
    one.send(&packet(2));
    assert_eq!(settle(&mut one, &mut other), 1, "the second handshake was accepted");
}

/// Copies of an initiation, as a network or an attacker makes them.
#[test]
fn duplicate_initiation_is_answered_once() {
    let (mut one, mut other) = pair(1_000);
    one.send(&packet(1));
    let initiation = one.take();
    other.receive(&initiation[0], address(SOURCE)).unwrap();
    let (sessions, indices) = (other.peer.indices().count(), other.handshakes.indices());
    for source in [SOURCE, "198.51.100.9:9"] {
        other.advance(Duration::from_secs(1));
        let error = other.receive(&initiation[0], address(source)).unwrap_err();
        assert!(error.contains("timestamp is not newer"), "{error}");
    }
    assert_eq!(other.take().len(), 1, "one response");
    assert_eq!((other.peer.indices().count(), other.handshakes.indices()), (sessions, indices));
    assert_eq!(other.peer.endpoint(), Some(address(SOURCE)), "the copy's source is not the endpoint");
}

#[test]
fn initiations_of_one_peer_are_limited() {
    let (mut one, mut other) = pair(1_000);
    one.send(&packet(1));
    let first = one.take();
    one.advance(Duration::from_secs(6));
    one.poll();
    let second = one.take();
    other.receive(&first[0], address(SOURCE)).unwrap();
    other.advance(Duration::from_millis(19));
    assert!(other.receive(&second[0], address(SOURCE)).unwrap_err().contains("too soon"));
    other.advance(Duration::from_millis(1));
    other.receive(&second[0], address(SOURCE)).unwrap();
}

/// An attacker who sees no packets cannot hit a session by counting indices.
#[test]
fn guessed_session_index_reaches_no_session() {
    let (mut one, mut other) = pair(1_000);
    one.send(&packet(1));
    settle(&mut one, &mut other);
    let index = other.peer.indices().next().unwrap();
    for guess in (0..1_000).chain([index.wrapping_add(1), index.wrapping_sub(1)]).filter(|guess| *guess != index) {
        let mut datagram = [&[4, 0, 0, 0][..], &guess.to_le_bytes(), &[0; 24]].concat();
        assert!(other.receive(&datagram, address(SOURCE)).unwrap_err().contains("no session has its index"));
        // A response to it, too.
        datagram = [&[2, 0, 0, 0, 1, 0, 0, 0][..], &guess.to_le_bytes(), &[0; 80]].concat();
        assert!(other.receive(&datagram, address(SOURCE)).is_err());
    }
}

/// Initiations of ten thousand sources, with a right MAC1: nothing is kept for them, and one that has a cookie gets in.
#[test]
fn handshake_flood_keeps_memory_flat() {
    let (mut one, mut other) = pair(100);
    let stranger = key(3);
    let mut flood = Node::new(&stranger, key(2).public(), [0; 32], 100);
    flood.send(&packet(0));
    let initiation = flood.take().remove(0);
    let mut cookies = 0;
    for n in 0..10_000_u32 {
        let source = ([10, 0, (n >> 8) as u8, n as u8], 1_000 + (n >> 16) as u16).into();
        let error = other.receive(&initiation, source).unwrap_err();
        cookies += usize::from(error.contains("cookie"));
        assert!(error.contains("unknown peer") || error.contains("cookie"), "{error}");
    }
    assert_eq!(cookies, 9_900, "the first hundred are looked at");
    assert!(other.take().iter().all(|reply| reply.len() == 64));
    assert_eq!((other.handshakes.indices(), other.handshakes.peers()), (0, 1));
    one.send(&packet(1));
    assert!(other.receive(&one.take()[0], address(SOURCE)).unwrap_err().contains("cookie"));
    one.receive(&other.take()[0], address("192.0.2.2:2")).unwrap();
    one.advance(Duration::from_millis(5_500));
    one.poll();
    other.receive(&one.take()[0], address(SOURCE)).expect("the cookie is valid");
    assert_eq!(other.take()[0].len(), 92);
}

#[test]
fn unanswered_initiations_end_after_90_seconds() {
    let (mut one, _) = pair(1_000);
    one.send(&packet(1));
    let mut sent = one.take().len();
    for _ in 0..1_500 {
        one.advance(Duration::from_millis(100));
        one.poll();
        sent += one.take().len();
    }
    assert!((17..=18).contains(&sent), "{sent} initiations in 90 s");
    assert_eq!(one.handshakes.indices(), 0);
}

#[test]
fn both_sides_may_begin_at_once() {
    let (mut one, mut other) = pair(1_000);
    one.send(&packet(1));
    other.send(&packet(2));
    settle(&mut one, &mut other);
    one.send(&packet(3));
    other.send(&packet(4));
    assert_eq!(settle(&mut one, &mut other), 2);
}

#[test]
fn removed_peer_leaves_nothing() {
    let now = Instant::now();
    let time = Time { now, unix: Duration::from_secs(1_700_000_000) };
    let mut handshakes = Handshakes::new(key(1), IndexOwner::new(4).unwrap(), HandshakeLimits::default(), now).unwrap();
    let config = |n: u8| PeerConfig {
        public: key(n).public(),
        psk: PresharedKey::default(),
        endpoint: Some(address(SOURCE)),
        owner: u32::from(n) % 4,
    };
    let id = handshakes.add_peer(config(2)).unwrap();
    assert!(handshakes.add_peer(config(2)).unwrap_err().to_string().contains("given to two peers"));
    assert!(handshakes.add_peer(config(1)).unwrap_err().to_string().contains("of this device"));
    let mut out = Vec::new();
    handshakes.initiate(id, time, &mut out).unwrap();
    assert_eq!(handshakes.initiate(id, time, &mut out), Err(HandshakeError::Running));
    assert!(matches!(out.as_slice(), [HandshakeOutput::Send { .. }]));
    handshakes.remove_peer(id);
    assert_eq!((handshakes.indices(), handshakes.peers()), (0, 0));
    let later = Time { now: now + Duration::from_secs(60), ..time };
    handshakes.poll(later, &mut out);
    assert_eq!(out.len(), 1, "no repetition");
    assert_ne!(handshakes.add_peer(config(2)), Ok(id), "a number is never used again");
}
