#![allow(clippy::unwrap_used)]
//! Tests that a batch, mostly on the fast path, has the same result as its packets one by one on the slow path.

use std::time::Duration;

use proptest::prelude::*;

use super::model::{Packet, Shape, Step, frame, step, world};
use super::{World, config, ends_unchecked};
use crate::{RelayPlan, UdpRelay};
use oxide::queue::{Handler, HandlerOutcome, Harness, QueueInfo};

/// Selects the features besides sessions.
#[derive(Debug, Clone, Copy)]
struct Extras {
    limits: bool,
    health: bool,
    failover: bool,
    grace: bool,
}

fn extras() -> impl Strategy<Value = Extras> {
    any::<[bool; 4]>().prop_map(|[limits, health, failover, grace]| Extras {
        limits,
        health,
        failover: health && failover,
        grace,
    })
}

struct Twins {
    /// Gets whole batches.
    fast: Harness<UdpRelay>,
    /// Gets one packet at a time, on the slow path.
    slow: Harness<UdpRelay>,
    seen: Vec<(String, u16)>,
    generation: u64,
}

impl Twins {
    /// Has few slots and few ports, so that both run out.
    fn new(queue: u32, extras: Extras) -> Self {
        let mut config = config("capacity = 64\nidle_timeout_s = 120\nsource_ports = \"61000-61015\"");
        if extras.limits {
            let limits = &mut config.limits;
            (limits.source_packets_per_s, limits.reply_packets_per_s, limits.burst_ms) = (40, 40, 200);
            config.relays[0].packets_per_s = 100;
        }
        if extras.health {
            for relay in &mut config.relays {
                (relay.down_after_sessions, relay.down_after_ms, relay.failover) = (2, 1000, Some(extras.failover));
            }
        }
        if extras.grace {
            config.relays.iter_mut().step_by(2).for_each(|relay| relay.answer_grace_ms = 60_000);
        }
        config.check().unwrap();
        let plan = RelayPlan::new(&config, &[]).unwrap();
        let harness = |make: &dyn Fn(&QueueInfo) -> UdpRelay| {
            let info = QueueInfo { queue, queues: 4, place: queue, ..Harness::info(2) };
            Harness::new(info, World::default().tables(1), make).unwrap()
        };
        let fast = harness(&|info| UdpRelay::new(&plan, info));
        let slow = harness(&|info| UdpRelay::new(&plan, info).force_slow_path());
        Self { fast, slow, seen: Vec::new(), generation: 1 }
    }

    fn batch(&mut self, port: u8, again: bool, packets: &[(Packet, Shape)]) -> Result<(), TestCaseError> {
        let frames: Vec<_> = packets.iter().map(|(packet, shape)| frame(&self.seen, packet, shape)).collect();
        let feed = |harness: &mut Harness<UdpRelay>, frames: &[Vec<u8>]| match again {
            false => harness.feed(port, frames),
            true => harness.feed_again(port, frames),
        };
        let quick = feed(&mut self.fast, &frames);
        let plain: Vec<_> = frames.chunks(1).flat_map(|one| feed(&mut self.slow, one)).collect();
        for ((quick, plain), packet) in quick.iter().zip(&plain).zip(packets) {
            prop_assert_eq!(quick, plain, "{:?}", packet);
            if let (HandlerOutcome::Transmit(1, sent), Packet::Client { .. }) = (quick, &packet.0) {
                let source = ends_unchecked(sent).0;
                let known = (source.ip().to_string(), source.port());
                if !self.seen.contains(&known) {
                    self.seen.push(known);
                }
            }
        }
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match step {
            Step::Batch(port, packets) => {
                self.batch(*port, false, packets)?;
                // Held packets come again and were already counted.
                self.batch(*port, true, &packets[..packets.len() / 4])?;
            }
            Step::Wait(ms) => self.both(|harness| harness.advance(Duration::from_millis(u64::from(*ms)))),
            Step::Tick => self.both(Harness::tick),
            Step::Tables { sources, known, small_mtu, routes } => {
                self.generation += 1;
                let generation = self.generation;
                let world = world(*sources, *known, *small_mtu, *routes);
                self.both(|harness| harness.set_tables(world.tables(generation)));
            }
            Step::Draining(draining) => self.both(|harness| harness.set_draining(*draining)),
        }
        Ok(())
    }

    fn both(&mut self, change: impl Fn(&mut Harness<UdpRelay>)) {
        change(&mut self.fast);
        change(&mut self.slow);
    }

    /// Returns sessions with their ticks, and counters.
    fn state(harness: &Harness<UdpRelay>) -> (Vec<oxide::queue::SessionInfo>, crate::RelayCounters) {
        let mut sessions = Vec::new();
        harness.handler().describe_sessions(100, &mut sessions);
        (sessions, harness.handler().counters())
    }
}

proptest! {
    /// Verdicts, bytes, sessions and counters are equal.
    #[test]
    fn batch_equals_its_packets_one_by_one(
        queue in 0u32..4, extras in extras(), steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut twins = Twins::new(queue, extras);
        for step in &steps {
            twins.step(step)?;
            prop_assert_eq!(Twins::state(&twins.fast), Twins::state(&twins.slow));
        }
    }
}
