//! The loop of the simulation: time, faults, traffic, actors, kernel, wires, supervisor.

mod report;
mod rest;
mod upsets;
mod wires;

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use oxide_actors::mailbox::Address;
use oxide_actors::supervisor::{Action, Depth, Event, Input, Roster, Settings, State, WorkerId};

use super::actor::SimActor;
use super::app::App;
use super::judge::{Checker, Judge};
use super::traffic::Traffic;
use super::{Application, SimOptions, Watch};
use crate::port::QueueId;
use crate::port::sim::{Driver, Rng, SimInterface, SimNet};
use crate::queue::Parcel;
use upsets::Upsets;
use wires::Wires;

/// The interfaces, in the order of ports.
const INTERFACES: [&str; 2] = ["clients", "servers"];
/// Steps between two quiescent points.
const EPOCH: u64 = 4096;
/// The longest time of one step, ns.
const STEP_NS: u64 = 200_000;
/// Steps between two looks at the heartbeats.
const PULSE_EVERY: u64 = 64;

pub(super) struct World {
    pub(super) options: SimOptions,
    pub(super) net: SimNet,
    pub(super) actors: Vec<SimActor>,
    pub(super) roster: Roster,
    pub(super) judge: Judge,
    pub(super) now: Instant,
    pub(super) wires: Wires,
    quiescent_points: u64,
    soft_restarts: u64,
    /// Times at which a queue's budget was used up.
    given_up: u64,
    /// When each worker was restarted of itself, of late.
    pub(super) restarts: Vec<VecDeque<Instant>>,
    upsets: Upsets,
    rng: Rng,
    traffic: Traffic,
    addresses: Vec<Option<Address<Parcel>>>,
    app: Rc<App>,
    /// The step at which next hops that were asked for are known.
    known_at: Option<u64>,
}

impl World {
    pub(super) fn new(options: &SimOptions) -> Self {
        let mut options = SimOptions { queues: options.queues.clamp(1, 64), ..options.clone() };
        if options.replay.is_some() {
            // What was made is known from the handlers: a capture's packets do not say which they are.
            options.application = Application::CheckedRelay;
        }
        let queues = options.queues;
        let mut rng = Rng::part(options.seed, u64::MAX);
        let interfaces = INTERFACES.map(|name| SimInterface {
            driver: if rng.chance(500_000) { Driver::Copy } else { Driver::ZeroCopy },
            ..SimInterface::new(name, queues)
        });
        let net = SimNet::new(&interfaces, options.seed);
        // Where time begins makes no difference to anything: only differences are looked at.
        let now = Instant::now();
        let app = Rc::new(App::new(&options));
        let actor = |queue| {
            let ids = INTERFACES.map(|name| QueueId::new(name, queue)).to_vec();
            SimActor::new(queue, queues, ids, &net, &app, now)
        };
        let traffic = Traffic::new(queues, app.service());
        let is_calm = |queue| options.only.is_some_and(|only| only != queue);
        let calm = (0..traffic.flows() as u32).map(|flow| traffic.stays_within(flow, is_calm)).collect();
        let settings = Settings { seed: options.seed, ..Settings::default() };
        Self {
            actors: (0..queues).map(actor).collect(),
            roster: Roster::new(settings, queues as usize),
            judge: Judge::new(calm, app.rule()),
            now,
            wires: Wires::new(&options),
            quiescent_points: 0,
            soft_restarts: 0,
            given_up: 0,
            restarts: vec![VecDeque::new(); queues as usize],
            upsets: Upsets::new(queues),
            rng,
            traffic,
            addresses: vec![None; queues as usize],
            app,
            known_at: None,
            net,
            options,
        }
    }

    pub(super) fn run(&mut self, watch: &mut dyn Watch) {
        self.decide(Input::Start);
        self.settle(watch);
        while self.wires.sent < self.options.packets && self.judge.failure.is_none() {
            self.step(true, watch);
            if self.judge.step.is_multiple_of(EPOCH) {
                self.settle(watch);
                watch.progress(self.wires.sent);
            }
        }
        self.settle(watch);
        watch.progress(self.wires.sent);
    }

    fn step(&mut self, traffic: bool, watch: &mut dyn Watch) {
        self.judge.step += 1;
        let time = Duration::from_nanos(1 + self.rng.below(STEP_NS));
        self.advance(time);
        self.upset();
        if traffic {
            self.clients_send();
        }
        self.come_off_links();
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
            self.go_onto_links(queue, watch);
        }
        said.into_iter().for_each(|input| self.decide(input));
        self.ask();
        self.supervise();
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.net.advance(by);
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
                Action::Emit(Event::Changed { to: State::Failed { .. }, .. }) => self.given_up += 1,
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
}
