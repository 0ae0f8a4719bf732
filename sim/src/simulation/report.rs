//! Builds the report of a run.

use std::time::Duration;

use oxide_actors::supervisor::ActorId;

use super::Simulation;
use crate::{SimQueue, SimReport};
use oxide::queue::Handler;
use oxide::telemetry::DropCounters;
use oxide::umem::FrameCounts;

impl Simulation {
    pub(crate) fn report(mut self, real_time: Duration) -> SimReport {
        let mut drops = DropCounters::default();
        let (mut received, mut forwarded, mut bad_descriptors, mut hard_restarts) = (0, 0, 0, 0);
        let (mut arrived, mut left) = (0, 0);
        for actor in &mut self.actors {
            let counters = actor.counters();
            drops.merge(&counters.drops);
            received += counters.received;
            forwarded += counters.forwarded;
            hard_restarts += actor.ended.generations;
            bad_descriptors += actor.bad_descriptors();
            for id in &actor.ids {
                let nic = self.net.counters(id);
                arrived += nic.arrived;
                left += nic.sent;
            }
        }
        let queue_reports = (0..self.actors.len()).map(|at| self.queue(at)).collect();
        let invariants = self.invariants;
        let through = invariants.there + invariants.back;
        let wires = self.wires;
        SimReport {
            seed: self.options.seed,
            queues: self.options.queues,
            sent: wires.sent,
            there: invariants.there,
            answers: wires.answers,
            back: invariants.back,
            links: wires.counters(),
            malformed: wires.malformed,
            one_time_clients: wires.one_time_clients,
            drops,
            lost_before: arrived - received,
            lost_after: forwarded - left,
            bad_descriptors,
            misdelivered: invariants.misdelivered,
            soft_restarts: self.soft_restarts,
            port_restarts: self.port_restarts,
            hard_restarts,
            given_up: self.given_up,
            lost_completions: self.injected.lost_completions,
            quiescent_points: self.quiescent_points,
            steps: invariants.step,
            virtual_time: self.net.now(),
            real_time,
            packets_per_second: through as f64 / real_time.as_secs_f64().max(1e-9),
            fingerprint: invariants.fingerprint,
            queue_reports,
            checks: invariants.checks().collect(),
            failure: invariants.failure,
        }
    }

    fn queue(&mut self, at: usize) -> SimQueue {
        let id = ActorId(at);
        let (restarts, state) = (self.core.restarts(id), self.core.state(id).map(ToString::to_string));
        let actor = &mut self.actors[at];
        let counters = actor.counters();
        let (sessions, census, balanced) = actor.run_actor().map_or((0, FrameCounts::default(), true), |queue_actor| {
            (
                queue_actor.datapath.handler().sessions(),
                queue_actor.datapath.umem().census(),
                queue_actor.datapath.balanced(),
            )
        });
        SimQueue {
            queue: actor.queue,
            rx_packets: counters.received,
            tx_packets: counters.forwarded,
            handed_over: counters.handed_over,
            sessions,
            restarts,
            state: state.unwrap_or_default(),
            census,
            balanced,
        }
    }
}
