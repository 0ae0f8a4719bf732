//! Real packets into real AF_XDP sockets, one per queue.

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use oxide::xdp::steering::{AttachMode, PassAll, Slot, Steering, SteeringOptions, Verdict};
use xsk_rs::config::{LibxdpFlags, SocketConfig, UmemConfig};
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, Socket, TxQueue, Umem};

use crate::lab::{in_namespace, ip, veth};
use crate::packets::{PORT, V4, V4_PORT};

const FLOWS: u16 = 64;

/// One queue's socket with its own memory. Rings before memory: fields drop in this order.
struct Queue {
    rx: RxQueue,
    _others: (TxQueue, FillQueue, CompQueue),
    umem: Umem,
}

impl Queue {
    fn open(index: u32) -> Option<Self> {
        let (umem, frames) = Umem::new(UmemConfig::default(), 128.try_into().unwrap(), false).unwrap();
        let config = SocketConfig::builder().libxdp_flags(LibxdpFlags::XSK_LIBXDP_FLAGS_INHIBIT_PROG_LOAD).build();
        // SAFETY: this memory is bound once, and no program is loaded by the library.
        let socket = unsafe { Socket::new(config, &umem, &"vb".parse().unwrap(), index) };
        let (tx, rx, rings) = socket.ok()?;
        let (mut fill, completion) = rings.unwrap();
        // SAFETY: these frames are of this memory, and are given to the kernel here and nowhere else.
        let filled = unsafe { fill.produce(&frames) };
        assert_eq!(filled, frames.len());
        Some(Self { rx, _others: (tx, fill, completion), umem })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as `self.rx`, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.rx.fd().as_raw_fd()) }
    }

    /// Destination port and payload of everything received so far.
    fn receive(&mut self) -> Vec<(u16, Vec<u8>)> {
        let mut descriptors = [FrameDesc::default(); 128];
        // SAFETY: the descriptors take what the kernel returns, frames of this queue's memory.
        let count = unsafe { self.rx.consume(&mut descriptors) };
        let packet = |descriptor| {
            // SAFETY: the frame was just consumed and is not given back to the kernel in this test.
            let bytes = unsafe { self.umem.data(descriptor) }.contents().to_vec();
            (u16::from_be_bytes([bytes[V4_PORT], bytes[V4_PORT + 1]]), bytes[42..].to_vec())
        };
        descriptors[..count].iter().map(packet).collect()
    }
}

#[test]
fn listed_packets_reach_their_queues_socket() {
    in_namespace("listed_packets_reach_their_queues_socket", || {
        veth();
        ip("addr add 10.77.0.1/24 dev va");
        ip("neigh add 10.77.0.2 lladdr 02:00:00:00:00:0b dev va nud permanent");
        let _peer = PassAll::attach("va").unwrap();
        for attach in [AttachMode::Native, AttachMode::Generic] {
            let mut steering = Steering::attach("vb", &SteeringOptions { attach, ..Default::default() }).unwrap();
            steering.allow(V4.into(), [PORT..=PORT]).unwrap();
            let mut queues: Vec<Queue> = (0..4).map(open_when_free).collect();
            let slots: Vec<Slot> = (0..4).map(|queue| steering.slot(queue).unwrap()).collect();
            for (slot, queue) in slots.iter().zip(&queues) {
                slot.insert(queue.fd()).unwrap();
            }

            for flow in 0..FLOWS {
                let sender = UdpSocket::bind("10.77.0.1:0").unwrap();
                sender.send_to(&flow.to_be_bytes(), (V4, PORT)).unwrap();
                sender.send_to(b"not listed", (V4, PORT + 1)).unwrap();
            }
            // Delivery is by softirq, usually before send_to returns.
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

/// The kernel gives a queue free some milliseconds after its socket is closed.
fn open_when_free(index: u32) -> Queue {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        match Queue::open(index) {
            Some(queue) => return queue,
            None => assert!(Instant::now() < deadline, "queue {index} stays busy"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}
