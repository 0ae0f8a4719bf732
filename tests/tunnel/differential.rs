//! Every message in both roles, cookies, rekey, reorder and replay, against each independent implementation.

use std::time::Duration;

use oxide_tunnel::{PrivateKey, PublicKey};

use crate::node::{Node, address, packet};
use crate::oracle::{Boringtun, Gotatun, Oracle, Received};

const OWN: [u8; 32] = [0x11; 32];
const PEER: [u8; 32] = [0x22; 32];
const PSK: [u8; 32] = [0x33; 32];
/// Source of what the oracle sends.
const THERE: &str = "192.0.2.2:2";
const PLENTY: u32 = 1_000;

fn pair<O: Oracle>(our_limit: u32, their_limit: u64) -> (Node, O) {
    let (own, peer) = (PrivateKey::from_bytes(OWN), PrivateKey::from_bytes(PEER));
    let oracle = O::make(PEER, *own.public().as_bytes(), PSK, their_limit);
    (Node::new(&own, peer.public(), PSK, our_limit), oracle)
}

/// Hands all datagrams over until both sides are silent; returns the packets that arrived here and there.
fn settle<O: Oracle>(node: &mut Node, oracle: &mut O, mut to_node: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
    let (mut here, mut there) = (Vec::new(), Vec::new());
    for _ in 0..10 {
        for datagram in std::mem::take(&mut to_node) {
            here.extend(node.receive(&datagram, address(THERE)).unwrap());
        }
        let to_oracle = node.take();
        if to_oracle.is_empty() {
            return (here, there);
        }
        for datagram in to_oracle {
            let Received { to_network, to_tunnel, refused } = oracle.receive(&datagram);
            assert!(!refused, "refused: {datagram:02x?}");
            to_node.extend(to_network);
            there.extend(to_tunnel);
        }
    }
    panic!("the two sides do not become silent");
}

/// Sends a packet in both directions.
fn exchange<O: Oracle>(node: &mut Node, oracle: &mut O) {
    node.send(&packet(1));
    assert_eq!(settle(node, oracle, Vec::new()).1, [packet(1)]);
    let sent = oracle.send(&packet(2));
    assert_eq!(settle(node, oracle, sent).0, [packet(2)]);
}

fn our_initiation<O: Oracle>() -> (Node, O) {
    let (mut node, mut oracle) = pair::<O>(PLENTY, PLENTY.into());
    node.send(&packet(0));
    settle(&mut node, &mut oracle, Vec::new());
    exchange(&mut node, &mut oracle);
    (node, oracle)
}

fn their_initiation<O: Oracle>() -> (Node, O) {
    let (mut node, mut oracle) = pair::<O>(PLENTY, PLENTY.into());
    let initiation = oracle.initiate();
    settle(&mut node, &mut oracle, vec![initiation]);
    exchange(&mut node, &mut oracle);
    (node, oracle)
}

fn they_demand_a_cookie<O: Oracle>() {
    let (mut node, mut oracle) = pair::<O>(PLENTY, 0);
    node.send(&packet(0));
    let reply = oracle.receive(&node.take()[0]).to_network;
    assert_eq!(reply[0].len(), 64);
    assert_eq!(node.receive(&reply[0], address("198.51.100.9:9")), Ok(None));
    assert_eq!(node.peer.endpoint(), Some(address(THERE)), "a cookie reply does not move the endpoint");
    // Only the next attempt uses the cookie.
    node.advance(Duration::from_secs(6));
    node.poll();
    settle(&mut node, &mut oracle, Vec::new());
    exchange(&mut node, &mut oracle);
}

fn we_demand_a_cookie<O: Oracle>() {
    let (mut node, mut oracle) = pair::<O>(0, PLENTY.into());
    let first = oracle.initiate();
    assert!(node.receive(&first, address(THERE)).unwrap_err().contains("cookie"));
    let reply = node.take();
    assert_eq!((reply.len(), reply[0].len()), (1, 64));
    assert!(!oracle.receive(&reply[0]).refused);
    let second = oracle.initiate();
    settle(&mut node, &mut oracle, vec![second]);
    exchange(&mut node, &mut oracle);
}

fn rekey<O: Oracle>() {
    let (mut node, mut oracle) = our_initiation::<O>();
    // A packet of the old session is on the way while both sides change to the new one.
    let late = oracle.send(&packet(7)).remove(0);
    node.advance(Duration::from_secs(121));
    node.send(&packet(3));
    let (_, there) = settle(&mut node, &mut oracle, Vec::new());
    assert_eq!(there, [packet(3)], "the old session serves until the new one is there");
    assert_eq!(node.peer.indices().count(), 2);
    exchange(&mut node, &mut oracle);
    assert_eq!(node.receive(&late, address(THERE)), Ok(Some(packet(7))));
    // TAI64N of the oracle is the system's time and does not repeat within 17 ms.
    std::thread::sleep(Duration::from_millis(20));
    let again = oracle.initiate();
    settle(&mut node, &mut oracle, vec![again]);
    exchange(&mut node, &mut oracle);
}

fn reorder_and_replay<O: Oracle>() {
    let (mut node, mut oracle) = our_initiation::<O>();
    let mut sent: Vec<_> = (0..64).map(|number| oracle.send(&packet(number)).remove(0)).collect();
    sent.rotate_left(40);
    sent.reverse();
    let arrived: Vec<_> =
        sent.iter().map(|datagram| node.receive(datagram, address(THERE)).unwrap().unwrap()).collect();
    let mut sorted = arrived.clone();
    sorted.sort();
    assert_eq!(sorted, (0..64).map(packet).collect::<Vec<_>>());
    for datagram in &sent {
        let error = node.receive(datagram, address(THERE)).unwrap_err();
        assert!(error.contains("received before"), "{error}");
    }
    (100..164).for_each(|number| node.send(&packet(number)));
    let mut ours = node.take();
    ours.reverse();
    let arrived: Vec<_> = ours.iter().flat_map(|datagram| oracle.receive(datagram).to_tunnel).collect();
    assert_eq!(arrived, (100..164).rev().map(packet).collect::<Vec<_>>());
    assert!(ours.iter().all(|datagram| oracle.receive(datagram).to_tunnel.is_empty()));
}

fn altered_messages<O: Oracle>() {
    let (mut node, mut oracle) = our_initiation::<O>();
    let good = oracle.send(&packet(5)).remove(0);
    for at in 0..good.len() {
        let mut altered = good.clone();
        altered[at] ^= 0x40;
        assert!(node.receive(&altered, address(THERE)).is_err(), "byte {at}");
    }
    assert_eq!(node.receive(&good, address(THERE)), Ok(Some(packet(5))));
    let initiation = oracle.initiate();
    for at in 0..132 {
        let mut altered = initiation.clone();
        altered[at] ^= 0x40;
        assert!(node.receive(&altered, address(THERE)).is_err(), "byte {at}");
    }
    assert!(node.take().is_empty());
}

macro_rules! against {
    ($oracle:ident, $module:ident) => {
        mod $module {
            use super::*;

            #[test]
            fn handshake_begun_here_carries_packets_both_ways() {
                our_initiation::<$oracle>();
            }

            #[test]
            fn handshake_begun_there_carries_packets_both_ways() {
                their_initiation::<$oracle>();
            }

            #[test]
            fn cookie_of_the_other_side_is_used() {
                they_demand_a_cookie::<$oracle>();
            }

            #[test]
            fn cookie_of_ours_is_used_by_the_other_side() {
                we_demand_a_cookie::<$oracle>();
            }

            #[test]
            fn rekey_keeps_packets_on_the_way() {
                rekey::<$oracle>();
            }

            #[test]
            fn reordered_packets_arrive_once() {
                reorder_and_replay::<$oracle>();
            }

            #[test]
            fn altered_messages_have_no_effect() {
                altered_messages::<$oracle>();
            }
        }
    };
}

against!(Boringtun, boringtun);
against!(Gotatun, gotatun);

#[test]
fn wrong_preshared_key_gives_no_session() {
    let (own, peer) = (PrivateKey::from_bytes(OWN), PrivateKey::from_bytes(PEER));
    let mut oracle = Boringtun::make(PEER, *own.public().as_bytes(), [9; 32], PLENTY.into());
    let mut node = Node::new(&own, peer.public(), PSK, PLENTY);
    let initiation = oracle.initiate();
    node.receive(&initiation, address(THERE)).unwrap();
    assert!(oracle.receive(&node.take()[0]).refused);
    let key: PublicKey = peer.public();
    assert_eq!(key.as_bytes().len(), 32);
}
