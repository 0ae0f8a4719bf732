//! Compares the fast relay with the slow reference over random histories.
#![allow(clippy::unwrap_used, dead_code, missing_docs)]

#[path = "../relay/src/tests/model.rs"]
mod model;
#[path = "../relay/src/tests/world.rs"]
mod world;

use std::time::Duration;

use model::{Packet, Shape, Step, frame, step, world as changed};
use oxide::port::PortInfo;
use oxide::queue::{HandlerOutcome, Harness, QueueInfo};
use oxide_relay::config::Config;
use oxide_relay::{RelayPlan, UdpRelay};
use oxide_sim::reference::{Reference, Seen};
use proptest::prelude::*;
use world::{World, config_text, ends_unchecked};

/// Holds the fast relay, the reference, and the source ports seen so far.
struct Pair {
    fast: Harness<UdpRelay>,
    slow: Reference,
    ports: Vec<PortInfo>,
    seen: Vec<(String, u16)>,
    draining: bool,
    generation: u64,
}

impl Pair {
    /// Has few slots and few ports, so that both run out.
    fn new(queue: u32) -> Self {
        let plan = RelayPlan::new(&config("capacity = 64\nidle_timeout_s = 120\nsource_ports = \"61000-61015\""), &[])
            .unwrap();
        let info = QueueInfo { queue, queues: 4, place: queue, ..Harness::info(2) };
        let (slow, ports) = (Reference::new(&plan, &info), info.ports.clone());
        let fast = Harness::new(info, World::default().tables(1), |info| UdpRelay::new(&plan, info)).unwrap();
        Self { fast, slow, ports, seen: Vec::new(), draining: false, generation: 1 }
    }

    fn batch(&mut self, port: u8, packets: &[(Packet, Shape)]) -> Result<(), TestCaseError> {
        let frames: Vec<_> = packets.iter().map(|(packet, shape)| frame(&self.seen, packet, shape)).collect();
        let outcomes = self.fast.feed(port, &frames);
        for ((frame, outcome), packet) in frames.iter().zip(&outcomes).zip(packets) {
            let (now, tables, draining) = (self.fast.now(), self.fast.tables(), self.draining);
            let seen = Seen { now, tables, ports: &self.ports, draining, packet: frame };
            if let Err(why) = self.slow.check(&seen, outcome) {
                return Err(TestCaseError::fail(format!("{packet:?}: {why}")));
            }
            if let (HandlerOutcome::Transmit(1, sent), Packet::Client { entry, .. }) = (outcome, &packet.0) {
                let source = ends_unchecked(sent).0;
                let known = (source.ip().to_string(), source.port());
                // A damaged port may belong to another entry.
                prop_assert!(packet.1.damage.is_some() || matches!(*entry, 2 | 4) == source.is_ipv6());
                if !self.seen.contains(&known) {
                    self.seen.push(known);
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Batch(port, packets) => self.batch(*port, packets)?,
            Step::Wait(ms) => self.fast.advance(Duration::from_millis(u64::from(*ms))),
            Step::Tick => {
                self.fast.tick();
                self.slow.advance(self.fast.now());
            }
            Step::Tables { sources, known, small_mtu, routes } => {
                self.generation += 1;
                let world = changed(*sources, *known, *small_mtu, *routes);
                self.fast.set_tables(world.tables(self.generation));
            }
            Step::Draining(draining) => {
                self.draining = *draining;
                self.fast.set_draining(*draining);
            }
        }
        Ok(())
    }
}

fn config(sessions: &str) -> Config {
    Config::from_toml(&config_text(sessions)).unwrap()
}

proptest! {
    /// Every packet gets the verdict and the bytes that the reference predicts.
    #[test]
    fn fast_and_slow_path_agree(queue in 0u32..4, steps in prop::collection::vec(step(), 1..60)) {
        let mut pair = Pair::new(queue);
        for step in &steps {
            pair.step(step)?;
        }
    }
}
