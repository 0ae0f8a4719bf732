//! What happens to actors, sockets, links, devices and the clock.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use oxide_actors::supervisor::{ActorId, RestartDepth, State};

use super::{INTERFACES, World};
use crate::{Chaos, Upset};
use oxide::port::sim::Faults;
use oxide::queue::Command;
use oxide::umem::PortIndex;

/// Panics of one storm: more than any budget of restarts.
const STORM: u32 = 12;
/// Answers to binds: the first are mended by trying again, the others are not.
const TRANSIENT: [i32; 4] = [libc::EBUSY, libc::EAGAIN, libc::EINTR, libc::ENOMEM];
const FINAL: [i32; 3] = [libc::EPERM, libc::EINVAL, libc::EOPNOTSUPP];
/// Answers to kicks whose port is of no more use.
const KICKS: [i32; 4] = [libc::EIO, libc::EINVAL, libc::EOPNOTSUPP, libc::EBADF];

pub(super) struct Upsets {
    /// Faults are on.
    pub(super) on: bool,
    /// When an interface comes back that is down or deleted.
    back_at: [Option<Instant>; 2],
    /// Panics that are still to come, by queue.
    storms: Vec<u32>,
    /// Completions that never came.
    pub(super) lost_completions: u64,
}

impl Upsets {
    pub(super) fn new(queues: u32) -> Self {
        Self { on: true, back_at: [None; 2], storms: vec![0; queues as usize], lost_completions: 0 }
    }
}

impl World {
    fn chaos(&self) -> Chaos {
        let chaos = self.options.chaos;
        if self.options.only.is_some() { chaos.of_one_queue() } else { chaos }
    }

    /// Draws whether `upset` happens to `queue` now, of those that are drawn for each queue.
    pub(super) fn strikes(&mut self, upset: Upset, queue: usize) -> bool {
        let may = self.options.only.is_none_or(|only| only as usize == queue);
        self.upsets.on && may && self.rng.chance(self.chaos().ppm(upset))
    }

    /// What happens in this step.
    pub(super) fn upset(&mut self) {
        if !self.upsets.on || self.options.chaos == Chaos::none() {
            return;
        }
        let chaos = self.chaos();
        let drawn = self.rng.below(self.actors.len() as u64) as usize;
        let queue = self.options.only.map_or(drawn, |only| only as usize);
        self.upset_actor(queue, chaos);
        self.upset_kernel(queue, chaos);
        self.upset_all(chaos);
    }

    fn upset_actor(&mut self, queue: usize, chaos: Chaos) {
        if self.rng.chance(chaos.ppm(Upset::Panic)) {
            self.actors[queue].light();
        }
        if self.rng.chance(chaos.ppm(Upset::Storm)) {
            self.upsets.storms[queue] = STORM;
        }
        let mut backoff = false;
        for (storm, actor) in self.upsets.storms.iter_mut().zip(&mut self.actors) {
            if *storm > 0 && !actor.light() {
                *storm -= 1;
            }
            backoff |= *storm > 0 && actor.life().is_none_or(|life| life.datapath.handler_panic().is_some());
        }
        if backoff {
            // Backoffs are as long as thousands of steps.
            self.advance(Duration::from_millis(5));
        }
        if self.rng.chance(chaos.ppm(Upset::Stall)) {
            self.actors[queue].stalled = 1 + self.rng.below(100) as u32;
            if self.options.only.is_none() && self.rng.chance(100_000) {
                // Longer than the heartbeat may stand; nobody else misses it, because nobody runs meanwhile.
                self.advance(Duration::from_millis(1200));
            }
        }
        if self.rng.chance(chaos.ppm(Upset::Restart)) {
            let depth = [RestartDepth::Soft, RestartDepth::Part(0), RestartDepth::Part(1), RestartDepth::Hard]
                [self.rng.below(4) as usize];
            self.restart(ActorId(queue), depth);
        }
        if self.rng.chance(chaos.ppm(Upset::Flood)) {
            for _ in 0..50 {
                let tables = Box::new(self.app.tables(&self.net));
                let flood = [
                    Command::Pause(PortIndex::P0, true),
                    Command::Tables(tables),
                    Command::Pause(PortIndex::P0, false),
                ];
                flood.into_iter().for_each(|command| self.actors[queue].send(command));
            }
        }
    }

    fn upset_kernel(&mut self, queue: usize, chaos: Chaos) {
        let id = self.actors[queue].ids[self.rng.below(2) as usize].clone();
        if self.rng.chance(chaos.ppm(Upset::Socket)) {
            self.net.kill_socket(&id);
        }
        if self.rng.chance(chaos.ppm(Upset::Errno)) {
            let draw = self.rng.next() as usize;
            self.net.fail_next_kick(&id, KICKS[draw % KICKS.len()]);
            if self.rng.chance(250_000) {
                self.net.refuse_open(&id, FINAL[draw % FINAL.len()], 1);
            } else {
                self.net.refuse_open(&id, TRANSIENT[draw % TRANSIENT.len()], 1 + draw / 8 % 20);
            }
        }
        if self.rng.chance(chaos.ppm(Upset::Memory)) {
            // What ends it is the supervisor's next try, or an operator's once the budget is used up.
            let times = 1 + self.rng.below(8) as usize;
            self.net.refuse_open(&id, libc::ENOMEM, times);
            self.restart(ActorId(queue), RestartDepth::Hard);
        }
    }

    fn upset_all(&mut self, chaos: Chaos) {
        if self.rng.chance(chaos.ppm(Upset::Neighbour)) {
            self.app.set_known(false);
            self.publish();
        }
        if self.rng.chance(chaos.ppm(Upset::Clock)) {
            let by = Duration::from_nanos(self.rng.below(120_000_000_000));
            self.advance(by);
            self.judge.mark(by.as_nanos() as u64);
        }
        for (at, interface) in INTERFACES.into_iter().enumerate() {
            if self.upsets.back_at[at].is_some_and(|due| self.now >= due) {
                self.bring_back(at);
            }
            let (link, device) = (self.rng.chance(chaos.ppm(Upset::Link)), self.rng.chance(chaos.ppm(Upset::Device)));
            if self.upsets.back_at[at].is_none() && (link || device) {
                if device {
                    self.net.delete(interface);
                    self.publish();
                } else {
                    self.net.set_link(interface, false);
                }
                self.upsets.back_at[at] = Some(self.now + Duration::from_nanos(self.rng.below(30_000_000)));
            }
        }
    }

    fn bring_back(&mut self, interface: usize) {
        self.upsets.back_at[interface] = None;
        self.net.set_link(INTERFACES[interface], true);
        self.net.create(INTERFACES[interface]);
        self.publish();
    }

    /// Faults end.
    pub(super) fn calm_down(&mut self) {
        self.upsets.on = false;
        self.net.set_all_faults(Faults::none());
        self.app.set_known(true);
        for interface in 0..INTERFACES.len() {
            self.bring_back(interface);
        }
        self.upsets.storms.fill(0);
        for actor in &mut self.actors {
            actor.stalled = 0;
            actor.fuse.store(false, Ordering::Relaxed);
            actor.ids.iter().for_each(|id| self.net.repair(id));
        }
        self.revive();
    }

    /// Queues that were given up are started again. One whose actor has not ended yet has to be asked for once more.
    pub(super) fn revive(&mut self) {
        for worker in (0..self.actors.len()).map(ActorId) {
            if matches!(self.core.state(worker), Some(State::Failed { .. })) {
                self.restart(worker, RestartDepth::Hard);
            }
        }
    }

    /// Faults begin again.
    pub(super) fn go_on(&mut self) {
        self.upsets.on = true;
        for actor in &self.actors {
            if self.options.only.is_none_or(|only| only == actor.queue) {
                actor.ids.iter().for_each(|id| self.net.set_faults(id, self.options.faults));
            }
        }
    }

    /// As an operator would.
    pub(super) fn restart(&mut self, worker: ActorId, depth: RestartDepth) {
        if matches!(self.core.state(worker), Some(State::Failed { .. })) {
            // Its budget begins anew.
            self.restarts[worker.0].clear();
        }
        // A refusal is a right answer: the queue is opening, or about to end.
        if let Ok(actions) = self.core.restart(self.now, worker, depth) {
            self.apply(actions);
        }
    }
}
