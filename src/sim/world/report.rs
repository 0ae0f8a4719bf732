//! What came of a run.

use std::time::Duration;

use super::World;
use crate::sim::SimReport;
use crate::telemetry::DropCounters;

impl World {
    pub(in crate::sim) fn report(mut self, real_time: Duration) -> SimReport {
        let mut drops = DropCounters::default();
        let (mut received, mut forwarded, mut bad_descriptors, mut hard_restarts) = (0, 0, 0, 0);
        let (mut arrived, mut left) = (0, 0);
        for actor in &mut self.actors {
            let counters = actor.counters();
            drops.merge(&counters.drops);
            received += counters.received;
            forwarded += counters.forwarded;
            hard_restarts += actor.ended.lives;
            bad_descriptors += actor.ended.bad_descriptors;
            bad_descriptors += actor.life().map_or(0, |life| life.bad_descriptors());
            for id in &actor.ids {
                let nic = self.net.counters(id);
                arrived += nic.arrived;
                left += nic.sent;
            }
        }
        let judge = self.judge;
        let through = judge.there + judge.back;
        let wires = self.wires;
        SimReport {
            seed: self.options.seed,
            queues: self.options.queues,
            sent: wires.sent,
            there: judge.there,
            answers: wires.answers,
            back: judge.back,
            links: wires.counters(),
            malformed: wires.malformed,
            strangers: wires.strangers,
            drops,
            lost_before: arrived - received,
            lost_after: forwarded - left,
            bad_descriptors,
            misdelivered: judge.misdelivered,
            soft_restarts: self.soft_restarts,
            hard_restarts,
            given_up: self.given_up,
            lost_completions: self.upsets.lost_completions,
            quiescent_points: self.quiescent_points,
            steps: judge.step,
            virtual_time: self.net.now(),
            real_time,
            packets_per_second: through as f64 / real_time.as_secs_f64().max(1e-9),
            fingerprint: judge.fingerprint,
            checks: judge.checks().collect(),
            failure: judge.failure,
        }
    }
}
