//! Brings the simulation to a quiescent point: faults and traffic stop, all work finishes, everything is checked.

use std::time::Duration;

use oxide_actors::supervisor::{ActorId, ActorState, Input, RestartScope};

use super::{INTERFACES, Simulation};
use crate::Watch;
use crate::invariants::Checker;
use oxide::port::Port;
use oxide::umem::PortIndex;

/// Limits the time to a quiescent point: the longest backoff, one retry, and the time to open.
const WITHIN: Duration = Duration::from_secs(10);

impl Simulation {
    /// Reaches and checks a quiescent point. Then the time of a budget window passes and the faults resume.
    pub(super) fn settle_until_quiescent(&mut self, watch: &mut dyn Watch) {
        if self.invariants.failure.is_some() {
            return;
        }
        self.stop_faults();
        self.come_to_rest(watch);
        self.check_everything();
        self.reopen_leaking(watch);
        self.app.forget();
        self.invariants.at_rest();
        self.quiescent_points += 1;
        self.advance(Duration::from_secs(61));
        self.decide(Input::Tick);
        self.settled_at = self.now;
        self.go_on();
    }

    /// Restarts ports with frames whose completions never came: the kernel keeps them until the socket is closed.
    fn reopen_leaking(&mut self, watch: &mut dyn Watch) {
        for port in PortIndex::first(INTERFACES.len()) {
            let lost = |world: &Self, at: usize| world.net.holdings(&world.actors[at].ids[usize::from(port)]).lost;
            let leaking: Vec<usize> = (0..self.actors.len()).filter(|&at| lost(self, at) > 0).collect();
            for &at in &leaking {
                self.injected.lost_completions += u64::from(lost(self, at));
                self.restart(ActorId(at), RestartScope::Port, port.number());
            }
            if !leaking.is_empty() && self.invariants.failure.is_none() {
                self.come_to_rest(watch);
                self.check_everything();
                let left: u32 = leaking.iter().map(|&at| lost(self, at)).sum();
                self.invariants
                    .check(Checker::Recovery, left == 0, || format!("{left} frames are lost after a restart"));
            }
        }
    }

    /// Frames of a queue whose completions never come.
    pub(crate) fn lost_frames(&self, at: usize) -> u32 {
        self.actors[at].ids.iter().map(|id| self.net.holdings(id).lost).sum()
    }

    fn come_to_rest(&mut self, watch: &mut dyn Watch) {
        let (since, within) = (self.now, WITHIN + self.round_trip());
        let mut steps = 0u64;
        while !self.at_rest() {
            if self.now.duration_since(since) > within || self.invariants.failure.is_some() {
                let states: Vec<_> = (0..self.actors.len()).map(|at| self.state_of(at)).collect();
                self.invariants
                    .check(Checker::Recovery, false, || format!("work not finished after {within:?}: {states:?}"));
                return;
            }
            self.revive();
            self.step(false, watch);
            steps += 1;
            if steps > 2_000 {
                // All remaining work waits for the clock.
                self.advance(Duration::from_millis(1));
            }
        }
        self.invariants.check(Checker::Recovery, true, String::new);
    }

    fn at_rest(&mut self) -> bool {
        (0..self.actors.len()).all(|at| {
            let running = matches!(self.core.state(ActorId(at)), Some(ActorState::Running));
            let lost = self.lost_frames(at);
            let actor = &mut self.actors[at];
            let waiting = actor.ids.iter().any(|id| self.net.waiting(id) > 0);
            let done = actor.run_actor().is_some_and(|queue_actor| {
                let received = queue_actor.datapath.kernel_side().1.any(|port| port.occupancy().rx > 0);
                let census = queue_actor.datapath.umem().census();
                let nothing = census.app == 0 && census.transmit == lost && !queue_actor.datapath.has_handovers();
                nothing && queue_actor.datapath.handler_panic().is_none() && !received
            });
            running && !waiting && done
        }) && self.wires.are_empty()
    }

    fn state_of(&mut self, at: usize) -> String {
        let state = self.core.state(ActorId(at)).map(ToString::to_string).unwrap_or_default();
        let actor = &mut self.actors[at];
        let waiting: Vec<_> = actor.ids.iter().map(|id| self.net.waiting(id)).collect();
        let census = actor.run_actor().map(|queue_actor| queue_actor.datapath.umem().census());
        format!("queue {at} {state}, {waiting:?} packets waiting, {census:?}")
    }
}
