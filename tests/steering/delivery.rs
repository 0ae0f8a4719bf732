//! Tests real packets to real AF_XDP sockets, one per queue.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use oxide::port::{Backend, Burst, Port, QueueId};
use oxide::umem::{PageKind, RingSizes, Umem};
use oxide::xdp::steering::{AttachMode, PassAll, Steering, SteeringOptions, Verdict, XskMapEntry};
use oxide::xdp::{PortOpenParams, XdpBackend, XdpOptions, XdpPort};

use crate::lab::{in_namespace, ip, veth};
use crate::packets::{PORT, V4, V4_PORT};

const FLOWS: u16 = 64;

/// Holds one queue's socket with its own memory. Fields drop in order, so rings come before memory.
struct Queue {
    port: XdpPort,
    umem: Umem,
}

impl Queue {
    fn open(slot: XskMapEntry) -> Self {
        let rings = RingSizes { fill: 256, rx: 128, tx: 64, completion: 64 };
        let options = XdpOptions { rings, pages: PageKind::Base, ..XdpOptions::default() };
        let id = QueueId::new("vb", slot.queue());
        let (umem, mut ports) =
            XdpBackend::new(options, vec![PortOpenParams { id, slot: Some(slot), generic: None }]).open().unwrap();
        let mut port = ports.remove(0);
        port.steer(true).unwrap();
        Self { port, umem }
    }

    /// Returns destination port and payload of all packets received so far.
    fn receive(&mut self) -> Vec<(u16, Vec<u8>)> {
        let mut burst = Burst::new();
        self.port.receive(&mut self.umem, &mut burst, usize::MAX);
        let packets = burst.drain().map(|frame| {
            let bytes = self.umem.bytes(&frame).to_vec();
            self.umem.give(frame);
            (u16::from_be_bytes([bytes[V4_PORT], bytes[V4_PORT + 1]]), bytes[42..].to_vec())
        });
        packets.collect()
    }
}

#[test]
fn listed_packets_reach_socket_of_their_queue() {
    in_namespace("listed_packets_reach_socket_of_their_queue", || {
        veth();
        ip("addr add 10.77.0.1/24 dev va");
        ip("neigh add 10.77.0.2 lladdr 02:00:00:00:00:0b dev va nud permanent");
        let _peer = PassAll::attach("va").unwrap();
        for attach in [AttachMode::Native, AttachMode::Generic] {
            let mut steering = Steering::attach("vb", &SteeringOptions { attach, ..Default::default() }).unwrap();
            steering.allow(V4.into(), [PORT..=PORT]).unwrap();
            let mut queues: Vec<Queue> = (0..4).map(|queue| Queue::open(steering.slot(queue).unwrap())).collect();

            for flow in 0..FLOWS {
                let sender = UdpSocket::bind("10.77.0.1:0").unwrap();
                sender.send_to(&flow.to_be_bytes(), (V4, PORT)).unwrap();
                sender.send_to(b"not listed", (V4, PORT + 1)).unwrap();
            }
            // A softirq delivers the packets, usually before send_to returns.
            let deadline = Instant::now() + Duration::from_secs(5);
            let mut received = vec![Vec::new(); 4];
            while received.iter().map(Vec::len).sum::<usize>() < usize::from(FLOWS) && Instant::now() < deadline {
                for (packets, queue) in received.iter_mut().zip(&mut queues) {
                    packets.append(&mut queue.receive());
                }
            }
            assert!(received.iter().filter(|packets| !packets.is_empty()).count() > 1, "flows spread over queues");
            let mut all = received.concat();
            all.sort();
            let wanted: Vec<_> = (0..FLOWS).map(|flow| (PORT, flow.to_be_bytes().to_vec())).collect();
            assert_eq!(all, wanted, "{attach}");
            let counters = steering.counters().unwrap();
            assert_eq!(counters.of(Verdict::Redirected), u64::from(FLOWS), "{attach}");
            assert_eq!(counters.of(Verdict::NotListed), u64::from(FLOWS), "{attach}");
        }
    });
}
