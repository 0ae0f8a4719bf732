//! Holds the checks of a quiescent point and of each restart.

use std::collections::HashMap;
use std::time::Duration;

use oxide_actors::policy::RestartPolicy;
use oxide_actors::supervisor::ActorId;

use super::invariants::Checker;
use super::simulation::Simulation;
use super::{FaultRates, KernelFaultRates};
use oxide::queue::Handler;
use oxide::umem::PortIndex;

impl Simulation {
    pub(super) fn check_everything(&mut self) {
        for at in 0..self.actors.len() {
            self.check_frames(at);
            self.check_packets(at);
        }
        self.check_sessions();
        if self.options.faults == KernelFaultRates::none() && self.options.fault_rates == FaultRates::none() {
            let ([asked, answered], there, back) = (self.wires.came, self.invariants.there, self.invariants.back);
            let lossless = self.options.replay.is_some() || (there == asked && back == answered);
            self.invariants.check(Checker::Lossless, lossless, || {
                format!("{asked} packets of clients arrived, {there} left; {answered} of servers arrived, {back} left")
            });
        }
        let links = self.wires.counters();
        self.invariants.check(Checker::Links, links.offered == links.lost + links.overflowed + links.delivered, || {
            format!("links at a quiescent point: {links:?}")
        });
    }

    /// Checks that every frame is free or posted for reception, by the ledger and by the kernel's counts.
    fn check_frames(&mut self, at: usize) {
        let lost = self.lost_frames(at);
        let actor = &mut self.actors[at];
        let ids = actor.ids.clone();
        let Some(queue_actor) = actor.run_actor() else { return };
        let (census, balanced) = (queue_actor.datapath.umem().census(), queue_actor.datapath.balanced());
        let at_ports: Vec<_> =
            PortIndex::first(ids.len()).map(|port| queue_actor.datapath.umem().at_port(port)).collect();
        self.invariants.check(
            Checker::Ledger,
            balanced && census.app == 0 && census.transmit == lost && census.written_off == 0,
            || format!("queue {at}: balanced: {balanced}, frames: {census:?}, never completed: {lost}"),
        );
        for (id, (receive, transmit)) in ids.iter().zip(at_ports) {
            let held = self.net.holdings(id);
            self.invariants.check(Checker::Kernel, (held.receive, held.transmit) == (receive, transmit), || {
                format!(
                    "{id}: the kernel has {held:?}, the ledger {receive} for reception and {transmit} for transmission"
                )
            });
            let violations = self.net.violations(id);
            self.invariants.check(Checker::Kernel, violations.is_empty(), || format!("{id}: {violations:?}"));
        }
    }

    /// Checks that no two queues have a session of one client socket.
    fn check_sessions(&mut self) {
        let mut sessions = Vec::new();
        for actor in &mut self.actors {
            if let Some(queue_actor) = actor.run_actor() {
                queue_actor.datapath.handler().describe_sessions(usize::MAX, &mut sessions);
            }
        }
        let mut clients = HashMap::new();
        let second = sessions.iter().find_map(|it| Some((clients.insert((it.client, it.listen), it.queue)?, it)));
        self.invariants.check(Checker::Sessions, second.is_none(), || format!("a client has two sessions: {second:?}"));
    }

    /// Checks that every packet is accounted for. A closed socket loses at most the packets of its rings.
    fn check_packets(&mut self, at: usize) {
        let actor = &mut self.actors[at];
        let counters = actor.counters();
        let in_hand = actor.ended.in_hand;
        let (came, went) = (
            counters.received + counters.taken_over,
            counters.forwarded + counters.handed_over + counters.drops.total() + in_hand,
        );
        self.invariants.check(Checker::Packets, came == went, || {
            format!("queue {at}: {came} packets received, {went} accounted for: {counters:?}")
        });
        let (mut delivered, mut sent, mut closed) = (0, 0, 0);
        for id in &actor.ids {
            let nic = self.net.counters(id);
            delivered += nic.delivered;
            sent += nic.sent + nic.unsent;
            closed += nic.closed;
            let sum = nic.passed + nic.dropped + nic.refused + nic.delivered + nic.waiting;
            self.invariants.check(Checker::Packets, nic.arrived == sum, || format!("{id}: {nic:?}"));
        }
        // Each closed socket had rings of 256 entries in each direction.
        let most = closed * 256;
        let (on_rx, on_tx) = (delivered.wrapping_sub(counters.received), counters.forwarded.wrapping_sub(sent));
        self.invariants.check(Checker::Packets, on_rx <= most && on_tx <= most, || {
            format!(
                "queue {at}: {delivered} delivered, {} received; {} forwarded, {sent} sent; {closed} sockets closed",
                counters.received, counters.forwarded
            )
        });
    }

    /// Checks a restart of `worker` against budget and backoff. A `backoff` of zero is an operator's restart.
    pub(super) fn restarted(&mut self, worker: ActorId, backoff: Duration) {
        if backoff.is_zero() {
            return;
        }
        let RestartPolicy { max_restarts, window, backoff_min, backoff_max } = RestartPolicy::default();
        let now = self.now;
        let restarts = &mut self.restarts[worker.0];
        restarts.push_back(now);
        while restarts.front().is_some_and(|&at| now.duration_since(at) >= window) {
            restarts.pop_front();
        }
        let count = restarts.len();
        let kept = count <= max_restarts as usize && (backoff_min..=backoff_max).contains(&backoff);
        self.invariants.check(Checker::Budget, kept, || {
            format!("{worker:?}: restart number {count} within {window:?}, after a backoff of {backoff:?}")
        });
    }
}
