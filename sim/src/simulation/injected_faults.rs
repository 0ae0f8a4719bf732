//! Injects faults into actors, sockets, links, devices and the clock.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use oxide_actors::supervisor::{ActorId, ActorState, RestartScope};

use super::{INTERFACES, Simulation};
use crate::{FaultRates, InjectedFault};
use oxide::port::sim::KernelFaultRates;
use oxide::queue::ActorCommand;
use oxide::umem::PortIndex;

/// Number of panics of one storm: more than the restart budget.
const STORM: u32 = 12;
/// Errors of bind(2): a retry fixes the transient ones, not the final ones.
const TRANSIENT: [i32; 4] = [libc::EBUSY, libc::EAGAIN, libc::EINTR, libc::ENOMEM];
const FINAL: [i32; 3] = [libc::EPERM, libc::EINVAL, libc::EOPNOTSUPP];
/// Errors of a kick after which a port cannot be used any more.
const KICKS: [i32; 4] = [libc::EIO, libc::EINVAL, libc::EOPNOTSUPP, libc::EBADF];

pub(super) struct InjectedFaults {
    /// Enables faults.
    pub(super) on: bool,
    /// Time at which a deleted interface or a link that is down returns; `None` if it is up.
    back_at: [Option<Instant>; 2],
    /// Counts the remaining panics of a storm, by queue.
    storms: Vec<u32>,
    /// Counts completions that never came.
    pub(super) lost_completions: u64,
}

impl InjectedFaults {
    pub(super) fn new(queues: u32) -> Self {
        Self { on: true, back_at: [None; 2], storms: vec![0; queues as usize], lost_completions: 0 }
    }
}

impl Simulation {
    fn draw_faults(&self) -> FaultRates {
        let fault_rates = self.options.fault_rates;
        if self.options.only.is_some() { fault_rates.of_one_queue() } else { fault_rates }
    }

    /// Decides at random whether `fault` affects `queue` in this step.
    pub(super) fn strikes(&mut self, fault: InjectedFault, queue: usize) -> bool {
        let may = self.options.only.is_none_or(|only| only as usize == queue);
        self.injected.on && may && self.rng.chance(self.draw_faults().ppm(fault))
    }

    /// Injects the faults of this step.
    pub(super) fn inject_fault(&mut self) {
        if !self.injected.on || self.options.fault_rates == FaultRates::none() {
            return;
        }
        let fault_rates = self.draw_faults();
        let drawn = self.rng.below(self.actors.len() as u64) as usize;
        let queue = self.options.only.map_or(drawn, |only| only as usize);
        self.inject_actor_fault(queue, fault_rates);
        self.inject_kernel_fault(queue, fault_rates);
        self.inject_shared_fault(fault_rates);
    }

    fn inject_actor_fault(&mut self, queue: usize, fault_rates: FaultRates) {
        if self.rng.chance(fault_rates.ppm(InjectedFault::Panic)) {
            self.actors[queue].arm_panic();
        }
        if self.rng.chance(fault_rates.ppm(InjectedFault::Storm)) {
            self.injected.storms[queue] = STORM;
        }
        let mut backoff = false;
        for (storm, actor) in self.injected.storms.iter_mut().zip(&mut self.actors) {
            if *storm > 0 && !actor.arm_panic() {
                *storm -= 1;
            }
            backoff |= *storm > 0
                && actor.run_actor().is_none_or(|queue_actor| queue_actor.datapath.handler_panic().is_some());
        }
        if backoff {
            // Backoffs are as long as thousands of steps.
            self.advance(Duration::from_millis(5));
        }
        if self.rng.chance(fault_rates.ppm(InjectedFault::Stall)) {
            self.actors[queue].stalled = 1 + self.rng.below(100) as u32;
            if self.options.only.is_none() && self.rng.chance(100_000) {
                // Longer than the heartbeat timeout. No other actor is affected, because none runs meanwhile.
                self.advance(Duration::from_millis(1200));
            }
        }
        if self.rng.chance(fault_rates.ppm(InjectedFault::Restart)) {
            let (scope, port) = match self.rng.below(4) {
                0 => (RestartScope::Handler, 0),
                1 => (RestartScope::Port, 0),
                2 => (RestartScope::Port, 1),
                _ => (RestartScope::Queue, 0),
            };
            self.restart(ActorId(queue), scope, port);
        }
        if self.rng.chance(fault_rates.ppm(InjectedFault::Flood)) {
            for _ in 0..50 {
                let tables = Box::new(self.app.tables(&self.net));
                let flood = [
                    ActorCommand::Pause(PortIndex::P0, true),
                    ActorCommand::Tables(tables),
                    ActorCommand::Pause(PortIndex::P0, false),
                ];
                flood.into_iter().for_each(|command| self.actors[queue].send(command));
            }
        }
    }

    fn inject_kernel_fault(&mut self, queue: usize, fault_rates: FaultRates) {
        let id = self.actors[queue].ids[self.rng.below(2) as usize].clone();
        if self.rng.chance(fault_rates.ppm(InjectedFault::Socket)) {
            self.net.kill_socket(&id);
        }
        if self.rng.chance(fault_rates.ppm(InjectedFault::Errno)) {
            let draw = self.rng.next() as usize;
            self.net.fail_next_kick(&id, KICKS[draw % KICKS.len()]);
            if self.rng.chance(250_000) {
                self.net.refuse_open(&id, FINAL[draw % FINAL.len()], 1);
            } else {
                self.net.refuse_open(&id, TRANSIENT[draw % TRANSIENT.len()], 1 + draw / 8 % 20);
            }
        }
        if self.rng.chance(fault_rates.ppm(InjectedFault::Memory)) {
            // The supervisor's next attempt ends it, or an operator's restart if the budget is used up.
            let times = 1 + self.rng.below(8) as usize;
            self.net.refuse_open(&id, libc::ENOMEM, times);
            self.restart(ActorId(queue), RestartScope::Queue, 0);
        }
    }

    fn inject_shared_fault(&mut self, fault_rates: FaultRates) {
        if self.rng.chance(fault_rates.ppm(InjectedFault::Neighbour)) {
            self.app.set_known(false);
            self.publish();
        }
        if self.rng.chance(fault_rates.ppm(InjectedFault::Clock)) {
            let by = Duration::from_nanos(self.rng.below(120_000_000_000));
            self.advance(by);
            self.invariants.mark(by.as_nanos() as u64);
        }
        for (at, interface) in INTERFACES.into_iter().enumerate() {
            if self.injected.back_at[at].is_some_and(|due| self.now >= due) {
                self.bring_back(at);
            }
            let (link, device) = (
                self.rng.chance(fault_rates.ppm(InjectedFault::Link)),
                self.rng.chance(fault_rates.ppm(InjectedFault::Device)),
            );
            if self.injected.back_at[at].is_none() && (link || device) {
                if device {
                    self.net.delete(interface);
                    self.publish();
                } else {
                    self.net.set_link(interface, false);
                }
                self.injected.back_at[at] = Some(self.now + Duration::from_nanos(self.rng.below(30_000_000)));
            }
        }
    }

    fn bring_back(&mut self, interface: usize) {
        self.injected.back_at[interface] = None;
        self.net.set_link(INTERFACES[interface], true);
        self.net.create(INTERFACES[interface]);
        self.publish();
    }

    /// Ends all faults and repairs what they changed.
    pub(super) fn stop_faults(&mut self) {
        self.injected.on = false;
        self.net.set_all_faults(KernelFaultRates::none());
        self.app.set_known(true);
        for interface in 0..INTERFACES.len() {
            self.bring_back(interface);
        }
        self.injected.storms.fill(0);
        for actor in &mut self.actors {
            actor.stalled = 0;
            actor.fuse.store(false, Ordering::Relaxed);
            actor.ids.iter().for_each(|id| self.net.repair(id));
        }
        self.revive();
    }

    /// Restarts failed queues. A queue whose actor has not ended yet needs another call.
    pub(super) fn revive(&mut self) {
        for worker in (0..self.actors.len()).map(ActorId) {
            if matches!(self.core.state(worker), Some(ActorState::Failed { .. })) {
                self.restart(worker, RestartScope::Queue, 0);
            }
        }
    }

    /// Enables faults again.
    pub(super) fn go_on(&mut self) {
        self.injected.on = true;
        for actor in &self.actors {
            if self.options.only.is_none_or(|only| only == actor.queue) {
                actor.ids.iter().for_each(|id| self.net.set_faults(id, self.options.faults));
            }
        }
    }

    /// Restarts an actor as an operator does.
    pub(super) fn restart(&mut self, worker: ActorId, scope: RestartScope, port: u8) {
        if matches!(self.core.state(worker), Some(ActorState::Failed { .. })) {
            // A restart by an operator gives a new budget.
            self.restarts[worker.0].clear();
        }
        // The core may refuse, because the queue is opening or about to end.
        if let Ok(actions) = self.core.restart(self.now, worker, scope, port) {
            self.apply(actions);
        }
    }
}
