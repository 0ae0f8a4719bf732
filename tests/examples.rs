//! Tests the handlers of the examples without NIC, root and threads.
#![allow(clippy::unwrap_used, clippy::panic, dead_code, unreachable_pub)]

#[path = "../examples/blind_forwarder.rs"]
mod blind_forwarder;
#[path = "../examples/geneve.rs"]
mod geneve;
#[path = "../examples/turn_channel_data.rs"]
mod turn_channel_data;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

use oxide::net::{Link, LinkKind, Route, RouteKind, Tables};
use oxide::packet::build::UdpFrame;
use oxide::packet::{Flow, MacAddr, parse, verify_udp};
use oxide::queue::{Handler, HandlerOutcome, Harness, QueueInfo};
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;

const INSIDE: u8 = 0;
const OUTSIDE: u8 = 1;
const FAR: MacAddr = MacAddr([2, 0, 0, 0, 7, 7]);

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Returns two networks, 192.0.2.0/24 and 198.51.100.0/24, with matching IPv6 networks; .1 is this host, .7 a peer.
fn tables() -> Tables {
    let (mut links, mut routes, mut neighbours) = (Vec::new(), Vec::new(), HashMap::new());
    for (n, [v4, v6]) in [["192.0.2.", "2001:db8:1::"], ["198.51.100.", "2001:db8:2::"]].into_iter().enumerate() {
        let index = n as u32 + 1;
        let host = |net: &str, host: u8| -> IpAddr { format!("{net}{host}").parse().unwrap() };
        links.push(Link {
            index,
            name: format!("sim{n}"),
            mac: MacAddr([2, 0, 0, 0, 1, n as u8]),
            mtu: 1500,
            up: true,
            kind: LinkKind::Ethernet,
            addresses: vec![(host(v4, 1), 24), (host(v6, 1), 64)],
        });
        for (net, prefix) in [(v4, 24), (v6, 64)] {
            let network = if prefix == 24 { host(net, 0) } else { net.parse().unwrap() };
            routes.push(Route {
                destination: network,
                prefix,
                kind: RouteKind::Unicast,
                gateway: None,
                interface: index,
                preferred_source: None,
                metric: 0,
            });
            neighbours.insert((index, host(net, 7)), FAR);
            neighbours.insert((index, host(net, 8)), FAR);
        }
    }
    Tables::new(1, links, routes, neighbours)
}

fn harness<H: Handler>(make: impl FnOnce(&QueueInfo) -> H) -> Harness<H> {
    Harness::new(Harness::info(2), tables(), make).unwrap()
}

fn datagram(from: &str, to: &str, payload: &[u8]) -> Vec<u8> {
    let mut frame =
        UdpFrame::new(Flow { source: at(from).into(), destination: at(to).into() }, payload).to_vec().unwrap();
    frame.extend([0xee; 3]); // Ethernet padding
    frame
}

/// Returns port, flow and payload of a sent packet, after a check of its checksums.
#[track_caller]
fn sent(outcome: &HandlerOutcome) -> (u8, SocketAddr, SocketAddr, Vec<u8>) {
    let HandlerOutcome::Transmit(port, frame) = outcome else { panic!("not sent: {outcome:?}") };
    let parsed = parse(&std::array::from_fn(|i| frame.get(i).copied().unwrap_or(0)), frame.len() as u16).unwrap();
    verify_udp(frame, &parsed).unwrap();
    assert_eq!(frame.len(), usize::from(parsed.length), "no padding");
    assert_eq!(frame[..6], FAR.0);
    let payload = frame[usize::from(parsed.l4) + 8..].to_vec();
    (*port, parsed.flow.source.into(), parsed.flow.destination.into(), payload)
}

#[test]
fn blind_forwarder_forwards_both_directions() {
    let (listen, target) = ("192.0.2.1:51820", "198.51.100.7:51820");
    let mut harness = harness(|queue| blind_forwarder::BlindForwarder::new(at(listen), at(target), queue));
    let mut clients = HashMap::new();
    for n in 0..200 {
        let client = format!("192.0.2.7:{}", 4000 + n);
        let (port, source, to, payload) = sent(&harness.feed(INSIDE, &[datagram(&client, listen, b"hello")])[0]);
        assert_eq!((port, to, &payload[..]), (OUTSIDE, at(target), &b"hello"[..]));
        assert!(blind_forwarder::PORTS.contains(&source.port()));
        clients.insert(source, client);
    }
    assert!(clients.len() > 150);
    for (source, client) in clients {
        let answer = datagram(target, &source.to_string(), b"welcome");
        let (port, from, to, payload) = sent(&harness.feed(OUTSIDE, &[answer])[0]);
        assert_eq!((port, from, to, &payload[..]), (INSIDE, at(listen), at(&client), &b"welcome"[..]));
    }
    for (from, to) in [("198.51.100.8:51820", "198.51.100.1:61000"), (target, "198.51.100.1:60999")] {
        assert_eq!(harness.feed(OUTSIDE, &[datagram(from, to, b"?")]), [HandlerOutcome::Drop(DropReason::NoSession)]);
    }
    assert_eq!(harness.feed(INSIDE, &[[0; 60]]), [HandlerOutcome::Drop(DropReason::EtherType)]);
}

#[test]
fn answers_for_another_queue_are_handed_over() {
    let info = QueueInfo { queues: 4, queue: 1, place: 1, ..Harness::info(2) };
    let (listen, target) = (at("192.0.2.1:51820"), at("198.51.100.7:51820"));
    let make = |queue: &QueueInfo| blind_forwarder::BlindForwarder::new(listen, target, queue);
    let mut harness = Harness::new(info, tables(), make).unwrap();
    let answer = datagram("198.51.100.7:51820", "198.51.100.1:64100", b"!");
    assert_eq!(harness.feed(OUTSIDE, &[&answer]), [HandlerOutcome::HandOver(3, answer.clone())]);
}

#[test]
fn channel_data_passes_both_directions_in_all_families() {
    for (server, client, relayed, peer) in [
        ("192.0.2.1:3478", "192.0.2.7:4000", "198.51.100.1:50000", "198.51.100.7:7000"),
        ("[2001:db8:1::1]:3478", "[2001:db8:1::7]:4000", "198.51.100.1:50000", "198.51.100.7:7000"),
        ("192.0.2.1:3478", "192.0.2.7:4000", "[2001:db8:2::1]:50000", "[2001:db8:2::7]:7000"),
    ] {
        let channel = turn_channel_data::Channel {
            server: at(server).into(),
            client: at(client).into(),
            number: 0x4001,
            relayed: at(relayed).into(),
            peer: at(peer).into(),
        };
        let mut harness = harness(|_| channel);
        // Two bytes of padding, as over TCP, which must be ignored.
        let message = [&[0x40, 0x01, 0, 6][..], b"voicesXX"].concat();
        let out = sent(&harness.feed(INSIDE, &[datagram(client, server, &message)])[0]);
        assert_eq!(out, (OUTSIDE, at(relayed), at(peer), b"voices".to_vec()));
        let back = sent(&harness.feed(OUTSIDE, &[datagram(peer, relayed, b"answers")])[0]);
        let wanted = [&[0x40, 0x01, 0, 7][..], b"answers"].concat();
        assert_eq!(back, (INSIDE, at(server), at(client), wanted));

        for wrong in [&[0x40, 2, 0, 1, 7][..], &[0x40, 1, 0, 2, 7], &[0x40, 1, 0], &[0, 1, 0, 0, 0x21, 0x12]] {
            let outcome = harness.feed(INSIDE, &[datagram(client, server, wrong)]);
            assert_eq!(outcome, [HandlerOutcome::Drop(DropReason::Handler)], "{wrong:x?}");
        }
        let big = datagram(peer, relayed, &[0; 1472]);
        assert!(matches!(harness.feed(OUTSIDE, &[big])[0], HandlerOutcome::Drop(DropReason::TooBig)));
    }
}

#[test]
fn frame_passes_tunnel_unchanged() {
    for (here, there) in [("198.51.100.1", "198.51.100.7"), ("2001:db8:2::1", "2001:db8:2::7")] {
        let (here, there): (IpAddr, IpAddr) = (here.parse().unwrap(), there.parse().unwrap());
        let mut near = harness(|_| geneve::TunnelEnd::new(here, there, 100, PortIndex::P0));
        let mut frame = datagram("192.0.2.7:9", "192.0.2.9:7000", b"through the tunnel");
        let (port, from, to, payload) = sent(&near.feed(INSIDE, &[&frame])[0]);
        assert_eq!((port, from.ip(), to), (OUTSIDE, here, SocketAddr::new(there, geneve::GENEVE)));
        frame.truncate(frame.len() - 3);
        assert_eq!(payload, [&[0, 0, 0x65, 0x58, 0, 0, 100, 0][..], &frame].concat());

        // The answer of the other end, with a non-critical option of eight bytes.
        let tunnel = |header: &[u8], inner: &[u8]| {
            let flow = Flow {
                source: SocketAddr::new(there, 50_000).into(),
                destination: SocketAddr::new(here, geneve::GENEVE).into(),
            };
            UdpFrame::new(flow, &[header, inner].concat()).to_vec().unwrap()
        };
        let options = [2, 0, 0x65, 0x58, 0, 0, 100, 0, 1, 2, 3, 1, 9, 9, 9, 9];
        let outcome = near.feed(OUTSIDE, &[tunnel(&options, &frame)]);
        assert_eq!(outcome, [HandlerOutcome::Transmit(INSIDE, frame.clone())]);

        for (header, inner, reason) in [
            (&[0x40, 0, 0x65, 0x58, 0, 0, 100, 0][..], &frame[..], DropReason::Handler), // version 1
            (&[0, 0x40, 0x65, 0x58, 0, 0, 100, 0], &frame, DropReason::Handler),         // critical option
            (&[0, 0, 0x08, 0x00, 0, 0, 100, 0], &frame, DropReason::Handler),            // not Ethernet
            (&[0, 0, 0x65, 0x58, 0, 0, 101, 0], &frame, DropReason::Handler),            // another network
            (&[0, 0, 0x65, 0x58, 0, 0, 100], &[], DropReason::Truncated),
            (&[0, 0, 0x65, 0x58, 0, 0, 100, 0], &frame[..13], DropReason::Truncated),
            (&[63, 0, 0x65, 0x58, 0, 0, 100, 0], &frame, DropReason::Truncated),
        ] {
            let outcome = near.feed(OUTSIDE, &[tunnel(header, inner)]);
            assert_eq!(outcome, [HandlerOutcome::Drop(reason)], "{header:x?}");
        }
        let big = datagram("192.0.2.7:9", "192.0.2.9:7000", &[0; 1472]);
        assert_eq!(near.feed(INSIDE, &[big]), [HandlerOutcome::Drop(DropReason::TooBig)]);
    }
}
