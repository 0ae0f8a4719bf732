//! Tests the small API with the real kernel: one AF_XDP socket on a veth, a kernel UDP socket at the far end.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use netns::{Far, Lab, in_namespace, skip_unless_root};
use oxide::packet::reflect;
use oxide::port::{Burst, Mode, PortError};
use oxide::xdp::{Socket, SocketConfig, ZeroCopy};

const NEAR: &str = "02:00:00:00:00:0a";
const FAR: &str = "02:00:00:00:00:0b";

/// Creates `near` here and `far` in another namespace, with both IP versions and permanent neighbours.
fn link(lab: &Lab, queues: u32) -> Far {
    lab.veth("near", "far", queues, NEAR, FAR);
    let far = lab.second_namespace();
    lab.give("far", &far);
    for address in ["10.9.0.1/24", "fd09::1/64"] {
        lab.address("near", address);
    }
    lab.neighbour("near", "10.9.0.2", FAR);
    lab.neighbour("near", "fd09::2", FAR);
    far.run(|lab| {
        for address in ["10.9.0.2/24", "fd09::2/64"] {
            lab.address("far", address);
        }
        lab.neighbour("far", "10.9.0.1", NEAR);
        lab.neighbour("far", "fd09::1", NEAR);
    });
    far
}

fn config(address: &str) -> SocketConfig {
    SocketConfig::new("near", 0, address.parse().unwrap(), 7..=7)
}

/// Echoes until `count` packets are sent back; ends after ten seconds without a packet.
fn echo(socket: &mut Socket, count: usize) {
    let mut packets = Burst::new();
    let (mut sent, mut idle) = (0, 0);
    while sent < count {
        if !socket.poll(Duration::from_millis(100)).unwrap() {
            idle += 1;
            assert!(idle < 100, "{sent} of {count} echoed, then silence: {:?}", socket.stats());
        }
        socket.recv_batch(&mut packets).unwrap();
        for packet in packets.iter_mut() {
            assert!(reflect(socket.packet_mut(packet)), "not UDP");
        }
        while !packets.is_empty() {
            sent += socket.send_batch(&mut packets).unwrap();
        }
    }
}

fn ping(far: &Far, near: SocketAddr, count: u32) {
    far.run(move |_| {
        let bind: SocketAddr = if near.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
        let socket = UdpSocket::bind(bind).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        // Limit the packets in flight: a veth's ring holds 256.
        const WINDOW: u32 = 64;
        let mut answered = 0;
        let mut buffer = [0; 2048];
        for number in 0..count {
            let payload: Vec<u8> =
                number.to_be_bytes().iter().copied().cycle().take(1 + number as usize % 1400).collect();
            socket.send_to(&payload, near).unwrap();
            while number + 1 - answered >= WINDOW || (number + 1 == count && answered < count) {
                let (length, from) = socket.recv_from(&mut buffer).expect("no echo");
                assert_eq!(from, near);
                let expected: Vec<u8> =
                    answered.to_be_bytes().iter().copied().cycle().take(1 + answered as usize % 1400).collect();
                assert_eq!(&buffer[..length], expected, "echo {answered} differs");
                answered += 1;
            }
        }
    });
}

#[test]
fn echoes_every_datagram_unchanged_and_in_order() {
    if skip_unless_root("echoes_every_datagram_unchanged_and_in_order") {
        return;
    }
    in_namespace(|lab| {
        let far = link(lab, 1);
        for address in ["10.9.0.1", "fd09::1"] {
            let mut socket = Socket::open(config(address)).unwrap();
            assert_eq!(socket.info().mode, Mode::Copy, "veth has no zero-copy");
            assert!(socket.info().mode_reason.contains("zero-copy"), "{}", socket.info().mode_reason);
            let near = SocketAddr::new(address.parse::<IpAddr>().unwrap(), 7);
            std::thread::scope(|scope| {
                scope.spawn(|| ping(&far, near, 2000));
                echo(&mut socket, 2000);
            });
            socket.recv_batch(&mut Burst::new()).unwrap();
            let stats = socket.stats().unwrap();
            assert!(stats.census.balanced() && stats.census.app == 0 && stats.census.transmit == 0, "{stats:?}");
            assert_eq!((stats.port.rx_packets, stats.port.tx_packets), (2000, 2000));
            assert_eq!(stats.port.bad_descriptors, 0);
        }
    });
}

#[test]
fn queue_reopens_repeatedly_without_leak() {
    if skip_unless_root("queue_reopens_repeatedly_without_leak") {
        return;
    }
    in_namespace(|lab| {
        let far = link(lab, 1);
        for round in 0..5 {
            let mut socket = Socket::open(config("10.9.0.1")).unwrap_or_else(|e| panic!("round {round}: {e}"));
            std::thread::scope(|scope| {
                scope.spawn(|| ping(&far, "10.9.0.1:7".parse().unwrap(), 100));
                echo(&mut socket, 100);
            });
        }
        assert!(!lab.ip("link show dev near").contains("prog/xdp"), "the XDP program is still attached");
    });
}

#[test]
fn failed_open_reports_cause_and_remedy() {
    if skip_unless_root("failed_open_reports_cause_and_remedy") {
        return;
    }
    in_namespace(|lab| {
        let _far = link(lab, 1);
        let text = |config: SocketConfig| Socket::open(config).err().expect("opened").to_string();

        let mut absent = config("10.9.0.1");
        absent.id.interface = "nowhere".to_owned();
        assert!(text(absent).contains("nowhere"));

        let mut queue = config("10.9.0.1");
        queue.id.queue = 9;
        let message = text(queue);
        assert!(message.contains("near:9") && message.contains("ethtool -l near"), "{message}");

        let mut required = config("10.9.0.1");
        required.options.zero_copy = ZeroCopy::Require;
        assert!(matches!(Socket::open(required), Err(PortError::Mode { wanted: Mode::ZeroCopy, .. })));

        let mut large = config("10.9.0.1");
        lab.ip("link set near mtu 3000");
        assert!(text(large.clone()).contains("frame_size = 4096"));
        large.options.frame_size = 4096;
        drop(Socket::open(large).unwrap());

        lab.ip("link set near mtu 1500");
        lab.ip("link set near down");
        let message = text(config("10.9.0.1"));
        assert!(message.contains("ip link set dev near up"), "{message}");
        lab.ip("link set near up");

        let first = Socket::open(config("10.9.0.1")).unwrap();
        let message = text(config("10.9.0.1"));
        assert!(message.contains("near"), "{message}");
        eprintln!("second program: {message}");
        drop(first);
    });
}
