//! Tests every verdict of a handler, and none: each frame returns to the pool, each packet is counted once.

use std::time::{Duration, Instant};

use oxide::net::Tables;
use oxide::port::sim::{SimBackend, SimInterface, SimNet};
use oxide::port::{Backend, Port, QueueId};
use oxide::queue::{Batch, Context, Datapath, DatapathParts, Handler, QueueInfo, QueuePeers, Verdict};
use oxide::simd::Processor;
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;

use super::live::LiveBackend;

/// Length of a header that is added before a packet or removed from it, bytes.
const HEADER: i16 = 20;

/// Gives the verdict that a packet's last byte selects.
struct Obedient;

impl Handler for Obedient {
    fn handle(&mut self, batch: &mut Batch<'_>, _: &mut Context<'_>) {
        for lane in 0..batch.len() {
            match batch.packet(lane).last() {
                Some(b'T') => batch.transmit(lane, PortIndex::P0),
                Some(b'D') => batch.drop(lane, DropReason::Handler),
                Some(b'H') => batch.decide(lane, Verdict::Hold),
                // Neither this queue nor this port exists.
                Some(b'O') => batch.decide(lane, Verdict::HandOver(9)),
                Some(b'X') => batch.transmit(lane, PortIndex::P7),
                Some(b'<') => {
                    assert!(batch.move_start(lane, -HEADER));
                    batch.packet_mut(lane)[..HEADER as usize].fill(b'h');
                    batch.transmit(lane, PortIndex::P0);
                }
                Some(b'>') => {
                    assert!(batch.move_start(lane, HEADER));
                    batch.transmit(lane, PortIndex::P0);
                }
                _ => {}
            }
        }
    }
}

struct Rig {
    net: SimNet,
    id: QueueId,
    datapath: Datapath<<LiveBackend as Backend>::Port, Obedient>,
    now: Instant,
    sent: Vec<Vec<u8>>,
}

impl Rig {
    fn new() -> Self {
        let (net, id) = (SimNet::new(&[SimInterface::new("sim0", 1)], 1), QueueId::new("sim0", 0));
        let (umem, ports) = LiveBackend(SimBackend::new(&net, std::slice::from_ref(&id))).open().unwrap();
        let now = Instant::now();
        let ports_info = ports.iter().map(|port| port.info().clone()).collect();
        let (processor, peers) = (Processor::detect(), QueuePeers::none());
        let info = QueueInfo {
            queue: 0,
            queues: 1,
            place: 0,
            ports: ports_info,
            rss: Vec::new(),
            changes: 0,
            seed: 1,
            processor,
        };
        let parts = DatapathParts {
            umem,
            ports: ports.into_iter().map(Some).collect(),
            handler: Obedient,
            processor,
            info,
            peers,
            batch_size: 64,
        };
        let mut datapath = Datapath::new(parts, now);
        datapath.set_tables(Box::new(Tables::new(1, net.links(), Vec::new(), Default::default())));
        datapath.steer(true).unwrap();
        let mut rig = Self { net, id, datapath, now, sent: Vec::new() };
        // The frames on the fill ring before the first packet.
        rig.turns(1);
        rig
    }

    fn turns(&mut self, turns: usize) {
        for _ in 0..turns {
            self.now += Duration::from_millis(10);
            self.net.advance(Duration::from_millis(10));
            self.datapath.turn(self.now).unwrap_or_else(|(_, error)| panic!("{error}"));
            assert!(self.datapath.balanced(), "{:?} {:?}", self.datapath.umem().census(), self.datapath.counters());
            let sent = &mut self.sent;
            self.net.drain_sent(&self.id, |packet| sent.push(packet.to_vec()));
        }
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.datapath.counters().drops.of(reason)
    }
}

fn packet(word: u8) -> Vec<u8> {
    let mut packet: Vec<u8> = (0..60).collect();
    packet[59] = word;
    packet
}

#[test]
fn every_verdict_returns_its_frame() {
    let mut rig = Rig::new();
    // Use more packets than frames, so that one leaked frame per round would stop everything.
    let rounds = 2 * u64::from(rig.datapath.umem().census().total);
    for _ in 0..rounds {
        b"?TDOX".iter().for_each(|word| rig.net.inject(&rig.id, &packet(*word)));
        rig.turns(1);
    }
    rig.turns(50);
    assert!(rig.datapath.quiescent(), "{:?}", rig.datapath.umem().census());
    assert_eq!(rig.datapath.umem().census().app, 0);
    assert_eq!(rig.sent.len() as u64, rounds);
    for (reason, times) in [(DropReason::NoVerdict, 1), (DropReason::Handler, 1), (DropReason::PortClosed, 2)] {
        assert_eq!(rig.dropped(reason), times * rounds, "{reason:?}");
    }
}

#[test]
fn held_frames_are_freed_after_timeout() {
    let mut rig = Rig::new();
    for _ in 0..100 {
        rig.net.inject(&rig.id, &packet(b'H'));
    }
    rig.turns(5);
    assert_eq!((rig.datapath.in_hand(), rig.dropped(DropReason::HoldFull)), (64, 36));
    rig.turns(300);
    assert_eq!((rig.datapath.in_hand(), rig.dropped(DropReason::NeighbourTimeout)), (0, 64));
    assert_eq!(rig.datapath.umem().census().app, 0);
}

#[test]
fn packet_is_sent_from_moved_start() {
    let mut rig = Rig::new();
    // Repeat often enough that frames are reused, each with its original start.
    let rounds = 3 * rig.datapath.umem().census().total;
    for _ in 0..rounds {
        b"<>T".iter().for_each(|word| rig.net.inject(&rig.id, &packet(*word)));
        rig.turns(1);
    }
    rig.turns(5);
    let longer = [&[b'h'; HEADER as usize][..], &packet(b'<')].concat();
    let shorter = packet(b'>')[HEADER as usize..].to_vec();
    for three in rig.sent.chunks(3) {
        assert_eq!(three, [longer.clone(), shorter.clone(), packet(b'T')]);
    }
    assert_eq!(rig.sent.len(), 3 * rounds as usize);
}
