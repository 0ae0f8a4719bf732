//! Runs the table of docs/steering.md in the kernel by BPF_PROG_TEST_RUN. The fallback is DROP, so that a listed packet
//! without a socket differs from one that passes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use oxide::port::{Backend, Port, QueueId};
use oxide::umem::{PageKind, RingSizes, Umem};
use oxide::xdp::steering::{AttachMode, Fallback, Steering, SteeringOptions, Verdict};
use oxide::xdp::{PortOpenParams, XdpBackend, XdpOptions, XdpPort};
use proptest::prelude::*;

use crate::lab::{in_namespace, veth};
use crate::packets::*;

const XDP_DROP: u32 = 1;
const XDP_PASS: u32 = 2;
const XDP_REDIRECT: u32 = 4;

fn steering() -> Steering {
    veth();
    let options = SteeringOptions { attach: AttachMode::Native, fallback: Fallback::Drop, replace: false };
    let mut steering = Steering::attach("vb", &options).unwrap();
    steering.allow(V4.into(), [PORT..=PORT]).unwrap();
    steering.allow(V6.into(), [PORT..=PORT]).unwrap();
    steering
}

/// Holds bound AF_XDP sockets of queues 1 and 0 of `vb`, not yet in the map, and their memory.
fn sockets() -> (Umem, Vec<XdpPort>) {
    let rings = RingSizes { fill: 256, rx: 128, tx: 128, completion: 128 };
    let options = XdpOptions { rings, pages: PageKind::Base, ..XdpOptions::default() };
    let request = |queue| PortOpenParams { id: QueueId::new("vb", queue), slot: None, generic: None };
    XdpBackend::new(options, vec![request(1), request(0)]).open().unwrap()
}

/// Returns the verdict on one packet without a socket, from the counters, and checks its action.
#[track_caller]
fn verdict(steering: &Steering, packet: &[u8]) -> Verdict {
    let before = steering.counters().unwrap();
    let action = steering.test_run(packet, 0).unwrap();
    let after = steering.counters().unwrap();
    assert_eq!(after.total(), before.total() + 1);
    let counted = Verdict::ALL.iter().find(|&&v| after.of(v) > before.of(v)).unwrap();
    assert_eq!(action, if *counted == Verdict::NoSocket { XDP_DROP } else { XDP_PASS }, "{counted:?}");
    *counted
}

/// Packets of any form to a listed prefix go to the socket; the neighbours of the prefix do not.
#[test]
fn prefix_lists_packets_of_any_protocol() {
    in_namespace("prefix_lists_packets_of_any_protocol", || {
        let mut steering = steering();
        let four = |at, bytes: &[u8]| with(with(v4(b"twelve bytes"), V4_DESTINATION, [10, 99, 1, 255]), at, bytes);
        let inside: Ipv6Addr = "fd99::1:0:0:7".parse().unwrap();
        let six = |at, bytes: &[u8]| with(with(v6(b"twelve bytes"), V6_DESTINATION, inside.octets()), at, bytes);
        use Verdict::*;
        let table = [
            ("UDP", four(0, &[2]), NotListed, NoSocket),
            ("TCP", four(V4_PROTOCOL, &[6]), NotUdp, NoSocket),
            ("ICMP", four(V4_PROTOCOL, &[1]), NotUdp, NoSocket),
            ("later fragment", with(four(V4_FRAGMENT, &[0, 0xb9]), V4_PROTOCOL, [6]), Fragment, NoSocket),
            ("options", four(V4_VERSION, &[0x46]), Ipv4Options, NoSocket),
            ("IPv6", six(0, &[2]), NotListed, NoSocket),
            ("ICMPv6", six(V6_NEXT_HEADER, &[58]), NotUdp, NoSocket),
            ("hop-by-hop", six(V6_NEXT_HEADER, &[0]), Ipv6Extension, NoSocket),
            ("below the prefix", four(V4_DESTINATION, &[10, 98, 255, 255]), NotListed, NotListed),
            ("above the prefix", four(V4_DESTINATION, &[10, 99, 2, 0]), NotListed, NotListed),
            ("other IPv6 prefix", six(V6_DESTINATION + 1, &[0x9a]), NotListed, NotListed),
            (
                "mapped into IPv6",
                six(V6_DESTINATION, &Ipv4Addr::new(10, 99, 1, 1).to_ipv6_mapped().octets()),
                NotListed,
                NotListed,
            ),
            ("broadcast MAC", four(0, &[0xff; 6]), Multicast, Multicast),
            ("VLAN", tagged(four(0, &[2]), &[0x8100]), Vlan, Vlan),
            ("version 6 in an IPv4 frame", four(V4_VERSION, &[0x65]), Malformed, Malformed),
        ];
        for (name, packet, before, _) in &table {
            assert_eq!(verdict(&steering, packet), *before, "{name}, without a prefix");
        }
        steering.allow_prefix([10, 99, 0, 0].into(), 23).unwrap();
        steering.allow_prefix("fd99::".parse().unwrap(), 32).unwrap();
        for (name, packet, _, after) in &table {
            assert_eq!(verdict(&steering, packet), *after, "{name}, with a prefix");
        }
        for (address, length) in [("10.0.0.0", 33), ("224.0.0.0", 4), ("ff00::", 8), ("::ffff:10.0.0.0", 104)] {
            assert!(steering.allow_prefix(address.parse().unwrap(), length).is_err(), "{address}/{length}");
        }
    });
}

#[test]
fn verdicts() {
    in_namespace("verdicts", || {
        let steering = steering();
        let (a, b) = (v4(b"twelve bytes"), v6(b"twelve bytes"));
        let number = |n: u16| n.to_be_bytes();
        let four = |at, bytes: &[u8]| with(v4(b"twelve bytes"), at, bytes);
        let six = |at, bytes: &[u8]| with(v6(b"twelve bytes"), at, bytes);
        let mapped = V4.to_ipv6_mapped().octets();
        let neighbour_solicitation = with(six(V6_NEXT_HEADER, &[58]), 54, [135, 0]);
        use Verdict::*;
        let table = [
            ("listed, IPv4", a.clone(), NoSocket),
            ("listed, IPv6", b.clone(), NoSocket),
            ("no payload, IPv4", v4(b""), NoSocket),
            ("no payload, IPv6", v6(b""), NoSocket),
            ("padded, IPv4", padded(v4(b""), 60), NoSocket),
            ("padded, IPv6", padded(v6(b""), 64), NoSocket),
            ("full MTU, IPv4", v4(&[7; 1472]), NoSocket),
            ("full MTU, IPv6", v6(&[7; 1452]), NoSocket),
            ("do not fragment", four(V4_FRAGMENT, &number(0x4000)), NoSocket),
            ("DSCP and ECN", four(15, &[0xb9]), NoSocket),
            ("traffic class and flow label", six(14, &[0x6f, 0xff, 0xff, 0xff]), NoSocket),
            ("wrong IP checksum is the engine's to count", four(24, &[0, 0]), NoSocket),
            (
                "first fragment to another port",
                with(four(V4_FRAGMENT, &number(0x2000)), V4_PORT, number(PORT + 1)),
                Fragment,
            ),
            ("first fragment of TCP", with(four(V4_FRAGMENT, &number(0x2000)), V4_PROTOCOL, [6]), Fragment),
            ("last fragment of TCP", with(four(V4_FRAGMENT, &number(0x00b9)), V4_PROTOCOL, [6]), Fragment),
            ("middle fragment", four(V4_FRAGMENT, &number(0x20b9)), Fragment),
            ("last fragment", four(V4_FRAGMENT, &number(0x00b9)), Fragment),
            ("offset of one", four(V4_FRAGMENT, &number(1)), Fragment),
            ("largest offset", four(V4_FRAGMENT, &number(0x1fff)), Fragment),
            ("first fragment", four(V4_FRAGMENT, &number(0x2000)), NoSocket),
            ("middle fragment, IPv6", v6_fragment(b.clone(), 0x109), Fragment),
            ("last fragment, IPv6", v6_fragment(b.clone(), 0x108), Fragment),
            ("first fragment to another port, IPv6", with(v6_fragment(b.clone(), 1), V6_PORT + 8, number(1)), Fragment),
            ("first fragment of TCP, IPv6", with(v6_fragment(b.clone(), 1), 54, [6]), Fragment),
            ("first fragment without a UDP header, IPv6", v6_fragment(v6(b""), 1)[..68].to_vec(), Malformed),
            ("first fragment to a mapped address", with(v6_fragment(b.clone(), 1), V6_DESTINATION, mapped), Fragment),
            ("first fragment, IPv6", v6_fragment(b.clone(), 1), NoSocket),
            ("atomic fragment, IPv6", v6_fragment(b.clone(), 0), NoSocket),
            ("one option word", four(V4_VERSION, &[0x46]), Ipv4Options),
            ("all option words", four(V4_VERSION, &[0x4f]), Ipv4Options),
            ("header length 4", four(V4_VERSION, &[0x44]), Malformed),
            ("header length 0", four(V4_VERSION, &[0x40]), Malformed),
            ("version 6 in an IPv4 frame", four(V4_VERSION, &[0x65]), Malformed),
            ("version 4 in an IPv6 frame", six(14, &[0x45]), Malformed),
            ("total length 0", four(V4_LENGTH, &number(0)), Malformed),
            ("total length 27", four(V4_LENGTH, &number(27)), Malformed),
            ("total length 28", four(V4_LENGTH, &number(28)), NoSocket),
            ("total length one too large is the engine's to count", four(V4_LENGTH, &number(41)), NoSocket),
            ("total length 65535", four(V4_LENGTH, &number(65535)), NoSocket),
            ("payload length 0", six(V6_LENGTH, &number(0)), Malformed),
            ("payload length 7", six(V6_LENGTH, &number(7)), Malformed),
            ("payload length 8", six(V6_LENGTH, &number(8)), NoSocket),
            ("payload length one too large", six(V6_LENGTH, &number(21)), NoSocket),
            ("payload length 65535", six(V6_LENGTH, &number(65535)), NoSocket),
            ("TCP", four(V4_PROTOCOL, &[6]), NotUdp),
            ("ICMP", four(V4_PROTOCOL, &[1]), NotUdp),
            ("UDP-Lite", four(V4_PROTOCOL, &[136]), NotUdp),
            ("TCP over IPv6", six(V6_NEXT_HEADER, &[6]), NotUdp),
            ("neighbour solicitation, unicast", neighbour_solicitation, NotUdp),
            ("no next header", six(V6_NEXT_HEADER, &[59]), NotUdp),
            ("hop-by-hop", six(V6_NEXT_HEADER, &[0]), Ipv6Extension),
            ("destination options", six(V6_NEXT_HEADER, &[60]), Ipv6Extension),
            ("other port", four(V4_PORT, &number(PORT + 1)), NotListed),
            ("other port, IPv6", six(V6_PORT, &number(PORT - 1)), NotListed),
            ("the port as source", with(four(V4_PORT, &[0, 9]), 34, number(PORT)), NotListed),
            ("other address", four(V4_DESTINATION, &[10, 77, 0, 3]), NotListed),
            ("other address, IPv6", six(V6_DESTINATION, &Ipv6Addr::LOCALHOST.octets()), NotListed),
            ("our IPv4 address mapped into IPv6", six(V6_DESTINATION, &mapped), NotListed),
            ("multicast MAC", four(0, &[1, 0, 0x5e, 0, 0, 1]), Multicast),
            ("multicast MAC, IPv6", six(0, &[0x33, 0x33, 0, 0, 0, 1]), Multicast),
            ("broadcast MAC", four(0, &[0xff; 6]), Multicast),
            ("VLAN", tagged(a.clone(), &[0x8100]), Vlan),
            ("service VLAN", tagged(a.clone(), &[0x88a8]), Vlan),
            ("QinQ", tagged(a.clone(), &[0x88a8, 0x8100]), Vlan),
            ("QinQ of old", tagged(b.clone(), &[0x9100, 0x8100]), Vlan),
            ("ARP to us", four(ETHERTYPE, &number(0x0806)), OtherEthertype),
            ("802.3 length", four(ETHERTYPE, &number(46)), OtherEthertype),
            ("swapped EtherType", four(ETHERTYPE, &number(0x0008)), OtherEthertype),
            ("IPv6 header behind IPv4's EtherType", six(ETHERTYPE, &number(0x0800)), Malformed),
        ];
        for (name, packet, wanted) in table {
            assert_eq!(verdict(&steering, &packet), wanted, "{name}");
            assert_eq!(second_opinion(&packet, |to, port| steering.listed(to, port)), wanted, "{name}: second opinion");
        }
    });
}

/// Builds a fragment, with the values that the table changes.
type Form<'a> = (&'a dyn Fn(u16, u16) -> Vec<u8>, [u16; 3], usize, usize, usize);

/// Later fragments get the verdict of the first one of their datagram. Fragments of other datagrams do not.
#[test]
fn later_fragments_follow_their_first_one() {
    in_namespace("later_fragments_follow_their_first_one", || {
        use Verdict::*;
        let steering = steering();
        let four = |id: u16, word: u16| with(with(v4(&[1; 64]), 18, id.to_be_bytes()), V4_FRAGMENT, word.to_be_bytes());
        let six = |id: u16, word: u16| with(v6_fragment(v6(&[1; 64]), word), 60, id.to_be_bytes());
        // The more-fragments bit and an offset in the family's own form.
        let forms: [Form<'_>; 2] = [
            (&four, [0x2000, 0x2009, 9], V4_PORT, 29, V4_DESTINATION + 3),
            (&six, [1, 73, 72], V6_PORT + 8, 37, V6_DESTINATION + 15),
        ];
        for (fragment, [first, middle, last], port, source, destination) in forms {
            assert_eq!(verdict(&steering, &fragment(300, last)), Fragment, "before the first one");
            assert_eq!(verdict(&steering, &fragment(300, first)), NoSocket);
            for word in [middle, last, middle] {
                assert_eq!(verdict(&steering, &fragment(300, word)), NoSocket);
            }
            for (what, other) in [
                ("identification", fragment(301, last)),
                ("source", with(fragment(300, last), source, [99])),
                ("destination", with(fragment(300, last), destination, [99])),
            ] {
                assert_eq!(verdict(&steering, &other), Fragment, "another {what}");
            }
            // The host's own datagram takes the identification over.
            let own = with(fragment(300, first), port, (PORT + 1).to_be_bytes());
            assert_eq!((verdict(&steering, &own), verdict(&steering, &fragment(300, last))), (Fragment, Fragment));
        }
        // The same bytes in the other family are another datagram.
        let mapped = |mut frame: Vec<u8>| {
            frame[22..54].fill(0);
            frame[32..34].fill(0xff);
            frame[48..50].fill(0xff);
            frame[34..38].copy_from_slice(&[10, 77, 0, 1]);
            frame[50..54].copy_from_slice(&V4.octets());
            with(frame, 58, [0, 0, 1, 44])
        };
        assert_eq!(verdict(&steering, &four(300, 0x2000)), NoSocket);
        assert_eq!(verdict(&steering, &mapped(six(0, 72))), Fragment);
    });
}

#[test]
fn later_fragments_follow_for_two_seconds() {
    in_namespace("later_fragments_follow_for_two_seconds", || {
        let steering = steering();
        let fragment = |word: u16| with(v4(b"twelve bytes"), V4_FRAGMENT, word.to_be_bytes());
        assert_eq!(verdict(&steering, &fragment(0x2000)), Verdict::NoSocket);
        std::thread::sleep(Duration::from_millis(2100));
        assert_eq!(verdict(&steering, &fragment(9)), Verdict::Fragment);
    });
}

#[test]
fn truncated_headers_are_malformed() {
    in_namespace("truncated_headers_are_malformed", || {
        let steering = steering();
        for (packet, headers) in [(v4(b"twelve bytes"), 42), (v6(b"twelve bytes"), 62)] {
            // The kernel runs no program on less than an Ethernet header, and the verifier has proved the bounds.
            for length in 0..14 {
                assert!(steering.test_run(&packet[..length], 0).is_err(), "{length} bytes");
            }
            for length in 14..=packet.len() {
                let wanted = if length < headers { Verdict::Malformed } else { Verdict::NoSocket };
                assert_eq!(verdict(&steering, &packet[..length]), wanted, "{length} bytes");
            }
        }
    });
}

#[test]
fn every_port_ethertype_and_protocol() {
    in_namespace("every_port_ethertype_and_protocol", || {
        let mut steering = steering();
        // Ports at the first and last bit of a byte, and a range over several bytes.
        let listed = |port: u16| [0, 1, 7, 8, 65535].contains(&port) || (1000..=1100).contains(&port) || port == PORT;
        for address in [IpAddr::from(V4), V6.into()] {
            steering.allow(address, [0..=1, 7..=8, 65535..=65535, 1000..=1100]).unwrap();
        }
        for (packet, at) in [(v4(b"x"), V4_PORT), (v6(b"x"), V6_PORT)] {
            for port in 0..=u16::MAX {
                let action = steering.test_run(&with(packet.clone(), at, port.to_be_bytes()), 0).unwrap();
                assert_eq!(action == XDP_DROP, listed(port), "port {port}");
            }
        }
        let before = steering.counters().unwrap();
        for ethertype in 0..=u16::MAX {
            let action = steering.test_run(&with(v4(b"x"), ETHERTYPE, ethertype.to_be_bytes()), 0).unwrap();
            assert_eq!(action == XDP_DROP, ethertype == 0x0800, "EtherType {ethertype:#06x}");
        }
        let after = steering.counters().unwrap();
        let rise = |verdict| after.of(verdict) - before.of(verdict);
        assert_eq!(rise(Verdict::OtherEthertype), 65536 - 5);
        assert_eq!((rise(Verdict::Vlan), rise(Verdict::Malformed), rise(Verdict::NoSocket)), (3, 1, 1));

        for protocol in 0..=u8::MAX {
            let wanted = if protocol == 17 { Verdict::NoSocket } else { Verdict::NotUdp };
            assert_eq!(verdict(&steering, &with(v4(b"x"), V4_PROTOCOL, [protocol])), wanted, "protocol {protocol}");
            let wanted = match protocol {
                17 => Verdict::NoSocket,
                44 => Verdict::Fragment,
                0 | 43 | 50 | 51 | 60 | 135 | 139 | 140 => Verdict::Ipv6Extension,
                _ => Verdict::NotUdp,
            };
            assert_eq!(verdict(&steering, &with(v6(b"x"), V6_NEXT_HEADER, [protocol])), wanted, "header {protocol}");
        }
        for bit in 0..32 {
            let other = (V4.to_bits() ^ 1 << bit).to_be_bytes();
            assert_eq!(verdict(&steering, &with(v4(b"x"), V4_DESTINATION, other)), Verdict::NotListed);
        }
        for bit in 0..128 {
            let other = (V6.to_bits() ^ 1 << bit).to_be_bytes();
            assert_eq!(verdict(&steering, &with(v6(b"x"), V6_DESTINATION, other)), Verdict::NotListed);
        }
    });
}

#[test]
fn damaged_packets_match_second_implementation() {
    in_namespace("damaged_packets_match_second_implementation", || {
        let steering = steering();
        let damage = prop::collection::vec((0_usize..62, any::<u8>()), 0..4);
        let packet = (any::<bool>(), 0_usize..80, damage, 0_usize..110);
        proptest!(ProptestConfig { cases: 4000, failure_persistence: None, ..Default::default() }, |((six, payload, damage, length) in packet)| {
            let mut packet = if six { v6(&vec![1; payload]) } else { v4(&vec![1; payload]) };
            for (at, byte) in damage {
                if let Some(place) = packet.get_mut(at) {
                    *place = byte;
                }
            }
            // Half of the packets are cut or padded.
            if length < 55 {
                packet.resize(14 + 2 * length, 0);
            }
            let wanted = second_opinion(&packet, |to, port| steering.listed(to, port));
            let found = verdict(&steering, &packet);
            let followed = follows_another(&packet) && found == Verdict::NoSocket;
            prop_assert!(found == wanted || followed, "{:?}, not {:?}: {:02x?}", found, wanted, packet);
        });
    });
}

#[test]
fn socket_in_xskmap_entry_gets_the_packet() {
    in_namespace("socket_in_xskmap_entry_gets_the_packet", || {
        let steering = steering();
        let packet = v4(b"x");
        let other = with(v4(b"x"), V4_PORT, [0, 9]);
        // Bind them, or kernel 7.3 refuses them with ENOBUFS. test_run only needs a socket, on any queue.
        let (_memory, mut sockets) = sockets();
        let (second, first) = (sockets.remove(1), sockets.remove(0));
        let slot = steering.slot(1).unwrap();
        assert_eq!(steering.test_run(&packet, 1).unwrap(), XDP_DROP);
        slot.insert(first.fd().unwrap()).unwrap();
        assert_eq!(steering.test_run(&packet, 1).unwrap(), XDP_REDIRECT);
        assert_eq!(steering.test_run(&other, 1).unwrap(), XDP_PASS);
        assert_eq!(steering.test_run(&packet, 0).unwrap(), XDP_DROP, "the slot of another queue");

        slot.remove().unwrap();
        assert_eq!(steering.test_run(&packet, 1).unwrap(), XDP_DROP);
        slot.remove().unwrap();

        // A new socket replaces the old one.
        slot.insert(first.fd().unwrap()).unwrap();
        slot.insert(second.fd().unwrap()).unwrap();
        drop(first);
        assert_eq!(steering.test_run(&packet, 1).unwrap(), XDP_REDIRECT);
        let counters = steering.counters().unwrap();
        let of = |verdict| counters.of(verdict);
        assert_eq!((of(Verdict::Redirected), of(Verdict::NoSocket), of(Verdict::NotListed)), (2, 3, 1));
        assert_eq!(counters.total(), 6);

        // Closing it empties the slot, once no child process of another test has a copy.
        drop(second);
        let deadline = Instant::now() + Duration::from_secs(5);
        while steering.test_run(&packet, 1).unwrap() == XDP_REDIRECT && Instant::now() < deadline {}
        assert_eq!(steering.test_run(&packet, 1).unwrap(), XDP_DROP);
    });
}
