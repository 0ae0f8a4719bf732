//! The loop of the simulation: time, faults, traffic, actors, kernel, wire, supervisor.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use oxide_actors::mailbox::Address;
use oxide_actors::supervisor::{Action, Depth, Event, Input, Roster, Settings, State, WorkerId};

use super::actor::SimActor;
use super::app::App;
use super::forward::{CLIENTS, SERVERS};
use super::judge::{Checker, Judge};
use super::traffic::{HOPS, Label, Traffic, Way};
use super::{Application, SimOptions, SimReport};
use crate::packet::{Flow, parse};
use crate::port::sim::{Driver, Faults, Rng, SimInterface, SimNet};
use crate::port::{Port, QueueId};
use crate::queue::Parcel;
use crate::telemetry::DropCounters;

/// The interfaces, in the order of ports.
const INTERFACES: [&str; 2] = ["clients", "servers"];
/// Steps between two quiescent points.
const EPOCH: u64 = 4096;
/// The longest time of one step, ns.
const STEP_NS: u64 = 200_000;
/// Packets under way at a queue above which clients send it no more, unless they mean to overload it.
const BACKLOG: u64 = 96;
/// Steps between two looks at the heartbeats.
const PULSE_EVERY: u64 = 64;

pub(super) struct World {
    pub(super) options: SimOptions,
    pub(super) net: SimNet,
    pub(super) actors: Vec<SimActor>,
    pub(super) roster: Roster,
    pub(super) judge: Judge,
    pub(super) now: Instant,
    pub(super) sent: u64,
    pub(super) answers: u64,
    pub(super) quiescent_points: u64,
    pub(super) soft_restarts: u64,
    /// When each worker was restarted of itself, of late.
    pub(super) restarts: Vec<VecDeque<Instant>>,
    /// Faults are on.
    faulty: bool,
    rng: Rng,
    traffic: Traffic,
    addresses: Vec<Option<Address<Parcel>>>,
    /// When an interface comes back that is down or deleted.
    back_at: [Option<Instant>; 2],
    app: Rc<App>,
    /// The step at which next hops that were asked for are known.
    known_at: Option<u64>,
    frame: Vec<u8>,
}

impl World {
    pub(super) fn new(options: &SimOptions) -> Self {
        let options = SimOptions { queues: options.queues.clamp(1, 64), ..options.clone() };
        let mut rng = Rng::part(options.seed, u64::MAX);
        let interfaces = INTERFACES.map(|name| SimInterface {
            driver: if rng.chance(500_000) { Driver::Copy } else { Driver::ZeroCopy },
            ..SimInterface::new(name, options.queues)
        });
        let net = SimNet::new(&interfaces, options.seed);
        net.set_all_faults(options.faults);
        // Where time begins makes no difference to anything: only differences are looked at.
        let now = Instant::now();
        let app = Rc::new(App::new(&options));
        let actor = |queue| {
            let ids = INTERFACES.map(|name| QueueId::new(name, queue)).to_vec();
            SimActor::new(queue, options.queues, ids, &net, &app, now)
        };
        let traffic = Traffic::new(options.queues, app.service());
        let settings = Settings { seed: options.seed, ..Settings::default() };
        Self {
            actors: (0..options.queues).map(actor).collect(),
            roster: Roster::new(settings, options.queues as usize),
            judge: Judge::new(traffic.flows(), app.rule()),
            now,
            sent: 0,
            answers: 0,
            quiescent_points: 0,
            soft_restarts: 0,
            restarts: vec![VecDeque::new(); options.queues as usize],
            faulty: true,
            rng,
            traffic,
            addresses: vec![None; options.queues as usize],
            back_at: [None; 2],
            app,
            known_at: None,
            frame: Vec::new(),
            net,
            options,
        }
    }

    pub(super) fn run(&mut self, progress: &mut impl FnMut(u64)) {
        self.decide(Input::Start);
        self.settle();
        while self.sent < self.options.packets && self.judge.failure.is_none() {
            self.step(true);
            if self.judge.step.is_multiple_of(EPOCH) {
                self.settle();
                progress(self.sent);
            }
        }
        self.settle();
        progress(self.sent);
    }

    fn step(&mut self, traffic: bool) {
        self.judge.step += 1;
        let time = Duration::from_nanos(1 + self.rng.below(STEP_NS));
        self.advance(time);
        if self.faulty {
            self.chaos();
        }
        if traffic {
            for queue in 0..self.actors.len() {
                self.clients_send(queue);
            }
        }
        // Who comes first is drawn anew each time.
        let first = self.rng.below(self.actors.len() as u64) as usize;
        let mut said = Vec::new();
        for n in 0..self.actors.len() {
            let at = (first + n) % self.actors.len();
            if let Some(address) = self.actors[at].turn(self.now, &mut said) {
                self.announce(at, Some(address));
            }
            self.actors[at].run_kernel();
        }
        for queue in 0..self.actors.len() {
            self.wire(queue);
        }
        said.into_iter().for_each(|input| self.decide(input));
        self.ask();
        self.supervise();
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.net.advance(by);
    }

    fn clients_send(&mut self, queue: usize) {
        let count = self.rng.below(64);
        let overload = self.faulty && self.rng.chance(self.options.chaos.overload_ppm);
        // Clients of a queue that is down try now and then.
        let down = self.actors[queue].life().is_none() && !self.rng.chance(20_000);
        let count = match self.backlog(queue) {
            _ if down => 0,
            _ if overload => 400,
            backlog if backlog < BACKLOG => count,
            _ => 0,
        };
        for _ in 0..count.min(self.options.packets - self.sent) {
            let label = self.traffic.pick(queue as u32, &mut self.rng);
            self.traffic.write(label, &mut self.frame);
            self.net.inject(&self.actors[queue].ids[usize::from(CLIENTS)], &self.frame);
            self.sent += 1;
        }
    }

    /// Packets that wait at a queue's busiest port: at the NIC, and on the rings.
    fn backlog(&mut self, queue: usize) -> u64 {
        let Self { actors, net, .. } = self;
        let actor = &mut actors[queue];
        let waiting = actor.ids.iter().map(|id| net.counters(id).waiting).max().unwrap_or(0);
        let Some(life) = actor.life() else { return waiting };
        let rings = life.worker.kernel_side().1.map(|port| port.occupancy());
        waiting + rings.map(|at| u64::from(at.rx.max(at.tx))).max().unwrap_or(0)
    }

    /// What left is judged; servers answer.
    fn wire(&mut self, queue: usize) {
        let Self { actors, net, judge, traffic, frame, answers, .. } = self;
        let ids = &actors[queue].ids;
        net.drain_sent(&ids[usize::from(CLIENTS)], |packet| _ = judge.left(CLIENTS, packet, traffic));
        let mut asked: Vec<(Label, Flow)> = Vec::new();
        net.drain_sent(&ids[usize::from(SERVERS)], |packet| {
            let label = judge.left(SERVERS, packet, traffic);
            asked.extend(label.zip(ends(packet)));
        });
        for (label, Flow { source, destination }) in asked {
            let back = Flow { source: destination, destination: source };
            traffic.write_between(back, Label { way: Way::Back, ..label }, HOPS, frame);
            let at = traffic.answered_at(label.flow, queue as u32);
            net.inject(&actors[at as usize].ids[usize::from(SERVERS)], frame);
            *answers += 1;
        }
    }

    fn announce(&mut self, of: usize, address: Option<Address<Parcel>>) {
        for (at, actor) in self.actors.iter_mut().enumerate() {
            if let Some(life) = actor.life() {
                if at == of {
                    // A new actor learns of all that are up.
                    for (peer, known) in self.addresses.iter().enumerate().filter(|&(peer, _)| peer != of) {
                        life.worker.set_peer(peer as u32, known.clone());
                    }
                } else {
                    life.worker.set_peer(of as u32, address.clone());
                }
            }
        }
        self.addresses[of] = address;
    }

    /// Faults that are not the kernel's.
    fn chaos(&mut self) {
        let chaos = self.options.chaos;
        let queue = self.rng.below(self.actors.len() as u64) as usize;
        if self.rng.chance(chaos.panic_ppm) {
            self.actors[queue].fuse.set(true);
        }
        if self.rng.chance(chaos.stall_ppm) {
            self.actors[queue].stalled = 1 + self.rng.below(100) as u32;
            if self.rng.chance(100_000) {
                // Longer than the heartbeat may stand; nobody else misses it, because nobody runs meanwhile.
                self.advance(Duration::from_millis(1200));
            }
        }
        if self.rng.chance(chaos.restart_ppm) {
            let depth = if self.rng.chance(500_000) { Depth::Soft } else { Depth::Hard };
            self.restart(WorkerId(queue), depth);
        }
        if self.rng.chance(chaos.flood_ppm)
            && let Some(life) = self.actors[queue].life()
        {
            for _ in 0..50 {
                life.worker.set_paused(0, true);
                let tables = self.app.tables(&self.net);
                life.worker.set_tables(Box::new(tables));
                life.worker.set_paused(0, false);
            }
        }
        if self.rng.chance(chaos.neighbour_ppm) {
            self.app.set_known(false);
            self.publish();
        }
        for (at, interface) in INTERFACES.into_iter().enumerate() {
            if self.back_at[at].is_some_and(|due| self.now >= due) {
                self.bring_back(at);
            }
            let (link, device) = (self.rng.chance(chaos.link_ppm), self.rng.chance(chaos.device_ppm));
            if self.back_at[at].is_none() && (link || device) {
                if device {
                    self.net.delete(interface);
                    self.publish();
                } else {
                    self.net.set_link(interface, false);
                }
                self.back_at[at] = Some(self.now + Duration::from_nanos(self.rng.below(30_000_000)));
            }
        }
    }

    fn bring_back(&mut self, interface: usize) {
        self.back_at[interface] = None;
        self.net.set_link(INTERFACES[interface], true);
        self.net.create(INTERFACES[interface]);
        self.publish();
    }

    /// As the engine does with netlink's news.
    fn publish(&mut self) {
        for worker in 0..self.actors.len() {
            let tables = self.app.tables(&self.net);
            if let Some(life) = self.actors[worker].life() {
                life.worker.set_tables(Box::new(tables));
            }
            self.decide(Input::Wake { worker: WorkerId(worker) });
        }
    }

    fn supervise(&mut self) {
        if self.judge.step.is_multiple_of(PULSE_EVERY) {
            for at in 0..self.actors.len() {
                let actor = &self.actors[at];
                if actor.is_live() {
                    let age = self.now.duration_since(actor.last_beat);
                    self.decide(Input::Pulse { worker: actor.id, age });
                }
            }
        }
        if self.roster.next_due().is_some_and(|due| self.now >= due) {
            self.decide(Input::Tick);
        }
    }

    fn decide(&mut self, input: Input) {
        if let Input::Ended { worker, .. } = &input {
            self.announce(worker.0, None);
        }
        let actions = self.roster.handle(self.now, input);
        self.apply(actions);
    }

    /// Handlers asked for next hops: known some steps later. What the reference found is reported.
    fn ask(&mut self) {
        let mut asked = false;
        for actor in &mut self.actors {
            if let Some(life) = actor.life() {
                asked |= life.worker.requests().count() > 0;
            }
        }
        if asked && self.known_at.is_none() {
            self.known_at = Some(self.judge.step + 1 + self.rng.below(20));
        }
        if self.known_at.is_some_and(|step| self.judge.step >= step) {
            self.known_at = None;
            self.app.set_known(true);
            self.publish();
        }
        if self.options.application == Application::CheckedRelay {
            let complaint = self.app.complaint();
            self.judge.check(Checker::Reference, complaint.is_none(), || complaint.unwrap_or_default());
        }
    }

    pub(super) fn apply(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start { worker, generation } => self.actors[worker.0].start(generation, self.now),
                Action::Send { worker, command } => {
                    if let Some(answer) = self.actors[worker.0].obey(command, self.now) {
                        self.decide(answer);
                    }
                }
                Action::Emit(Event::Changed { worker, to: State::Restarting { depth, backoff }, .. }) => {
                    self.soft_restarts += u64::from(depth == Depth::Soft);
                    self.judge.sessions_lost = true;
                    self.judge.mark(worker.0 as u64 ^ backoff.as_nanos() as u64);
                    self.restarted(worker, backoff);
                }
                // An actor that does not end would need a thread that does not.
                Action::Abandon { .. } | Action::Emit(_) => {}
            }
        }
    }

    /// A quiescent point: faults end, traffic ends, everything comes to rest and is checked; then the
    /// faults begin again, with a budget of restarts that has had its window to forget.
    fn settle(&mut self) {
        if self.judge.failure.is_some() {
            return;
        }
        self.faulty = false;
        self.net.set_all_faults(Faults::none());
        self.restore();
        self.come_to_rest();
        self.check_everything();
        self.app.forget();
        self.judge.sessions_lost = false;
        self.quiescent_points += 1;
        self.advance(Duration::from_secs(61));
        self.decide(Input::Tick);
        for actor in &mut self.actors {
            actor.last_beat = self.now;
        }
        self.net.set_all_faults(self.options.faults);
        self.faulty = true;
    }

    fn restore(&mut self) {
        self.app.set_known(true);
        for interface in 0..INTERFACES.len() {
            self.bring_back(interface);
        }
        for actor in &mut self.actors {
            actor.stalled = 0;
            actor.fuse.set(false);
        }
        for worker in (0..self.actors.len()).map(WorkerId) {
            if matches!(self.roster.state(worker), Some(State::Failed { .. })) {
                self.restart(worker, Depth::Hard);
            }
        }
    }

    /// As an operator would.
    fn restart(&mut self, worker: WorkerId, depth: Depth) {
        if matches!(self.roster.state(worker), Some(State::Failed { .. })) {
            // Its budget begins anew.
            self.restarts[worker.0].clear();
        }
        // A refusal is a right answer: the queue is opening, or about to end.
        if let Ok(actions) = self.roster.restart(self.now, worker, depth) {
            self.apply(actions);
        }
    }

    fn come_to_rest(&mut self) {
        /// The longest backoff, a try of what was waited for, and time to open.
        const WITHIN: Duration = Duration::from_secs(10);
        let since = self.now;
        let mut steps = 0u64;
        while !self.at_rest() {
            if self.now.duration_since(since) > WITHIN || self.judge.failure.is_some() {
                let states: Vec<_> = (0..self.actors.len()).map(|at| self.state_of(at)).collect();
                self.judge.check(Checker::Recovery, false, || format!("not at rest after {WITHIN:?}: {states:?}"));
                return;
            }
            self.step(false);
            steps += 1;
            if steps > 2_000 {
                // Whatever waits now waits for the clock.
                self.advance(Duration::from_millis(1));
            }
        }
        self.judge.check(Checker::Recovery, true, String::new);
    }

    fn at_rest(&mut self) -> bool {
        (0..self.actors.len()).all(|at| {
            let running = matches!(self.roster.state(WorkerId(at)), Some(State::Running));
            let actor = &mut self.actors[at];
            let waiting = actor.ids.iter().any(|id| self.net.counters(id).waiting > 0);
            let rings_empty = actor.life().is_some_and(|life| {
                let received = life.worker.kernel_side().1.any(|port| port.occupancy().rx > 0);
                life.worker.quiescent() && life.worker.parked().is_none() && !received
            });
            running && !waiting && rings_empty
        })
    }

    fn state_of(&mut self, at: usize) -> String {
        let state = self.roster.state(WorkerId(at)).map(ToString::to_string).unwrap_or_default();
        let actor = &mut self.actors[at];
        let waiting: Vec<_> = actor.ids.iter().map(|id| self.net.counters(id).waiting).collect();
        let census = actor.life().map(|life| life.worker.umem().census());
        format!("queue {at} {state}, {waiting:?} packets waiting, {census:?}")
    }

    pub(super) fn report(mut self, real_time: Duration) -> SimReport {
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
        SimReport {
            seed: self.options.seed,
            queues: self.options.queues,
            sent: self.sent,
            there: judge.there,
            answers: self.answers,
            back: judge.back,
            drops,
            lost_before: arrived - received,
            lost_after: forwarded - left,
            bad_descriptors,
            misdelivered: judge.misdelivered,
            soft_restarts: self.soft_restarts,
            hard_restarts,
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

/// The ends of a frame that is right.
fn ends(frame: &[u8]) -> Option<Flow> {
    let head = std::array::from_fn(|at| frame.get(at).copied().unwrap_or(0));
    parse(&head, u16::try_from(frame.len()).ok()?).ok().map(|parsed| parsed.flow)
}
