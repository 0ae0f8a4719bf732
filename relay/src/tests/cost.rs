#![allow(clippy::unwrap_used)]
//! Measures the relay's own time per packet: the best of many rounds, printed but not asserted.
//! `cargo test --lib --config profile.dev.opt-level=3 relay::tests::cost -- --ignored --nocapture`

use std::time::Instant;

use super::{World, at, config};
use crate::{RelayPlan, UdpRelay};
use oxide::net::Tables;
use oxide::packet::build::UdpFrame;
use oxide::packet::{Columns, Flow, LANES};
use oxide::port::Burst;
use oxide::queue::{Batch, Context, Handler, Harness, NextHopRequests, QueueInfo, Verdict};
use oxide::simd::Processor;
use oxide::umem::{PageKind, PortIndex, Region, RingSizes, Umem, UmemLayout};

struct Bench {
    relay: UdpRelay,
    info: QueueInfo,
    tables: Tables,
    umem: Umem,
    /// Holds one batch; its bytes are replaced before each use.
    burst: Burst,
    columns: Box<Columns>,
    verdicts: [Verdict; LANES],
    requests: NextHopRequests,
    now: Instant,
}

impl Bench {
    fn new() -> Self {
        let plan = RelayPlan::new(&config("source_ports = \"1024-60000\""), &[]).unwrap();
        let info = Harness::info(2);
        let rings = RingSizes::from_ring_size(64).unwrap();
        let layout = UmemLayout::new(2048, UmemLayout::frames_for(&rings, 1), 0, &rings, 1, 0).unwrap();
        let mut umem = Umem::new(Region::map(layout.bytes(), PageKind::Base, None).unwrap(), layout).unwrap();
        let mut burst = Burst::new();
        for _ in 0..LANES {
            burst.push(umem.take().unwrap()).unwrap();
        }
        Self {
            relay: UdpRelay::new(&plan, &info),
            info,
            tables: World::default().tables(1),
            umem,
            burst,
            columns: Box::default(),
            verdicts: [Verdict::None; LANES],
            requests: NextHopRequests::default(),
            now: Instant::now(),
        }
    }

    /// Writes and parses one batch, and relays it if `relay` is set. Returns the number of sent packets.
    fn batch(&mut self, packets: &[Vec<u8>], relay: bool) -> usize {
        for (frame, packet) in self.burst.iter_mut().zip(packets) {
            assert!(self.umem.set_length(frame, packet.len() as u16));
            self.umem.bytes_mut(frame).copy_from_slice(packet);
        }
        Processor::detect().parse_frames(&self.umem, &self.burst, &mut self.columns);
        if relay {
            self.verdicts.fill(Verdict::None);
            let mut batch =
                Batch::new(&self.umem, &mut self.burst, &self.columns, &mut self.verdicts, PortIndex::P0, false);
            let mut cx = Context::new(self.now, &self.info, &self.tables, false, &mut self.requests);
            self.relay.handle(&mut batch, &mut cx);
        }
        self.verdicts.iter().filter(|verdict| matches!(verdict, Verdict::Transmit(_))).count()
    }

    /// Returns the CPU time of this thread, ns.
    fn cost(&mut self, batches: &[Vec<Vec<u8>>], relay: bool) -> f64 {
        let start = cpu_ns();
        for packets in batches {
            assert!(self.batch(packets, relay) == LANES || !relay);
        }
        cpu_ns() - start
    }
}

fn cpu_ns() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

#[test]
#[ignore = "prints a measurement"]
fn per_packet() {
    for (name, sessions) in [("64 sessions", 64u32), ("4 Ki sessions", 4096), ("32 Ki sessions", 32_768)] {
        let mut bench = Bench::new();
        // Use every session once, in an order that a hardware prefetcher cannot predict.
        let batches: Vec<Vec<Vec<u8>>> = (0..sessions)
            .map(|n| n.wrapping_mul(0x9e37_79b1) % sessions)
            .map(|n| {
                let from = format!("192.0.2.{}:{}", 2 + n % 8, 2000 + n / 8);
                let flow = Flow { source: at(&from).into(), destination: at("192.0.2.1:53").into() };
                UdpFrame::new(flow, &[0; 22]).to_vec().unwrap()
            })
            .collect::<Vec<_>>()
            .chunks(LANES)
            .map(<[_]>::to_vec)
            .collect();
        bench.cost(&batches, true);
        let rounds = (1 << 20) / sessions;
        let least = |bench: &mut Bench, relay| {
            (0..rounds).map(|_| bench.cost(&batches, relay)).fold(f64::MAX, f64::min) / f64::from(sessions)
        };
        let (with, without) = (least(&mut bench, true), least(&mut bench, false));
        println!("{name}: {:.1} ns per packet, plus {without:.1} ns to write and parse it", with - without);
        assert_eq!(bench.relay.sessions(), u64::from(sessions));
    }
}
