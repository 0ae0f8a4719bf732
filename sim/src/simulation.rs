//! Runs the loop of the simulation: time, faults, traffic, actors, kernel, wires, supervisor.

mod injected_faults;
mod quiescence;
mod report;
mod wires;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oxide_actors::mailbox::Address;
use oxide_actors::supervisor::{
    Action, ActorId, ActorState, Event, Input, LinkMessage, LinkReceiver, ObserverMessage, RestartScope, Settings,
    SupervisorCore,
};

use super::actor::SimActor;
use super::app::App;
use super::invariants::{Checker, InvariantChecker};
use super::traffic::Traffic;
use super::{Application, SimOptions, Watch};
use injected_faults::InjectedFaults;
use oxide::port::QueueId;
use oxide::port::sim::{Driver, Rng, SimInterface, SimNet};
use oxide::queue::{ActorCommand, Handover, Report};
use wires::Wires;

/// Names the interfaces, in the order of ports.
const INTERFACES: [&str; 2] = ["clients", "servers"];
/// Steps between two quiescent points.
const EPOCH: u64 = 4096;
/// Limits the virtual time of one step, ns.
const STEP_NS: u64 = 200_000;
/// Is one second less than the relay's idle timeout. Without faults no packet is in flight for a second.
const SESSIONS_END: Duration = Duration::from_secs(119);
/// Steps between two heartbeat checks.
const PULSE_EVERY: u64 = 64;

pub(super) struct Simulation {
    pub(super) options: SimOptions,
    pub(super) net: SimNet,
    pub(super) actors: Vec<SimActor>,
    pub(super) core: SupervisorCore,
    pub(super) invariants: InvariantChecker,
    pub(super) now: Instant,
    pub(super) wires: Wires,
    quiescent_points: u64,
    soft_restarts: u64,
    /// Counts port restarts while the actor continued.
    port_restarts: u64,
    /// Counts how often a queue used up its budget.
    given_up: u64,
    /// Lists the recent automatic restarts of each actor.
    pub(super) restarts: Vec<VecDeque<Instant>>,
    injected: InjectedFaults,
    rng: Rng,
    traffic: Traffic,
    /// Holds the handover address of each queue.
    directory: Vec<Option<Address<Handover>>>,
    /// Receives state reports and other messages of the actors.
    link_receiver: LinkReceiver<Report>,
    app: Arc<App>,
    /// Is the time of the last quiescent point.
    settled_at: Instant,
    /// Is the step at which requested next hops become known.
    known_at: Option<u64>,
}

impl Simulation {
    pub(super) fn new(options: &SimOptions) -> Self {
        let mut options = SimOptions { queues: options.queues.clamp(1, 64), ..options.clone() };
        if options.replay.is_some() {
            // Packets of a capture have no label, so the checker needs the frames that the handlers made.
            options.application = Application::CheckedRelay;
        }
        let queues = options.queues;
        let mut rng = Rng::part(options.seed, u64::MAX);
        let interfaces = INTERFACES.map(|name| SimInterface {
            driver: if rng.chance(500_000) { Driver::Copy } else { Driver::ZeroCopy },
            ..SimInterface::new(name, queues)
        });
        let net = SimNet::new(&interfaces, options.seed);
        // The start time does not matter: the simulation uses only differences.
        let now = Instant::now();
        let app = Arc::new(App::new(&options));
        let actor = |queue| {
            let ids = INTERFACES.map(|name| QueueId::new(name, queue)).to_vec();
            SimActor::new(queue, queues, ids, &net, &app)
        };
        let traffic = Traffic::new(queues, app.service());
        let is_fault_free = |queue| options.only.is_some_and(|only| only != queue);
        let fault_free = (0..traffic.flows() as u32).map(|flow| traffic.stays_within(flow, is_fault_free)).collect();
        let settings = Settings { seed: options.seed, ..Settings::default() };
        Self {
            actors: (0..queues).map(actor).collect(),
            core: SupervisorCore::new(settings, queues as usize),
            invariants: InvariantChecker::new(fault_free, app.rule()),
            now,
            wires: Wires::new(&options),
            quiescent_points: 0,
            soft_restarts: 0,
            port_restarts: 0,
            given_up: 0,
            restarts: vec![VecDeque::new(); queues as usize],
            injected: InjectedFaults::new(queues),
            rng,
            traffic,
            directory: vec![None; queues as usize],
            link_receiver: LinkReceiver::default(),
            app,
            settled_at: now,
            known_at: None,
            net,
            options,
        }
    }

    pub(super) fn run(&mut self, watch: &mut dyn Watch) {
        self.decide(Input::Start);
        self.settle_until_quiescent(watch);
        while self.wires.sent < self.options.packets && self.invariants.failure.is_none() {
            self.step(true, watch);
            if self.invariants.step.is_multiple_of(EPOCH) {
                self.settle_until_quiescent(watch);
                watch.progress(self.wires.sent);
            }
        }
        self.settle_until_quiescent(watch);
        watch.progress(self.wires.sent);
    }

    fn step(&mut self, traffic: bool, watch: &mut dyn Watch) {
        self.invariants.step += 1;
        let time = Duration::from_nanos(1 + self.rng.below(STEP_NS));
        self.advance(time);
        self.inject_fault();
        if traffic {
            self.clients_send();
        }
        self.come_off_links();
        // Choose at random which actor runs first.
        let first = self.rng.below(self.actors.len() as u64) as usize;
        let mut ended = Vec::new();
        for n in 0..self.actors.len() {
            let at = (first + n) % self.actors.len();
            ended.extend(self.actors[at].turn(self.now).map(|end| (at, end)));
            self.actors[at].run_kernel();
        }
        for queue in 0..self.actors.len() {
            self.go_onto_links(queue, watch);
        }
        // Process an actor's messages before its end.
        self.listen();
        for (at, end) in ended {
            let SimActor { id: actor, generation, .. } = self.actors[at];
            self.decide(Input::Ended { actor, generation, end });
        }
        self.resolve();
        self.supervise();
    }

    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.net.advance(by);
    }

    /// Sends a queue's handover address to all other actors, as the engine does when an actor starts or ends.
    fn announce(&mut self, of: usize, address: Option<Address<Handover>>) {
        for (_, actor) in self.actors.iter_mut().enumerate().filter(|&(at, _)| at != of) {
            actor.send(ActorCommand::Peer { place: of as u32, address: address.clone() });
        }
        self.directory[of] = address;
    }

    /// Sends new tables to all actors, as the engine does after a netlink notice.
    fn publish(&mut self) {
        for worker in 0..self.actors.len() {
            let tables = self.app.tables(&self.net);
            self.actors[worker].send(ActorCommand::Tables(Box::new(tables)));
            self.decide(Input::Wake { actor: ActorId(worker) });
        }
    }

    /// Passes state reports to the supervisor core and reads the reports of the actors.
    fn listen(&mut self) {
        while let Some(heard) = self.link_receiver.try_recv() {
            match heard {
                LinkMessage::Input(input) => self.decide(input),
                LinkMessage::ObserverMessage(ObserverMessage::Report { actor, report, .. }) => self.read(actor, report),
                LinkMessage::ObserverMessage(ObserverMessage::Event(_)) => {}
            }
        }
    }

    fn read(&mut self, worker: ActorId, report: Report) {
        match report {
            Report::Resolve { .. } if self.known_at.is_none() => {
                self.known_at = Some(self.invariants.step + 1 + self.rng.below(20));
            }
            Report::Ports(_) => self.port_restarts += 1,
            Report::FinalSnapshot(last) => self.actors[worker.0].ended.add(&last),
            Report::Replaced(Err(_)) => self.invariants.sessions_lost(worker.0 as u32, self.options.queues),
            _ => {}
        }
    }

    fn supervise(&mut self) {
        if self.invariants.step.is_multiple_of(PULSE_EVERY) {
            for at in 0..self.actors.len() {
                let (actor, now) = (ActorId(at), self.now);
                if let Some(age) = self.actors[at].watch.as_mut().map(|watch| watch.age(now)) {
                    self.decide(Input::Heartbeat { actor, age });
                }
            }
        }
        if self.core.next_due().is_some_and(|due| self.now >= due) {
            self.decide(Input::Tick);
        }
        // Sessions that are idle for two minutes end. Only after a jump of the clock can answers still be in flight.
        if self.now.duration_since(self.settled_at) >= SESSIONS_END {
            (0..self.options.queues).for_each(|queue| self.invariants.sessions_lost(queue, self.options.queues));
        }
    }

    fn decide(&mut self, input: Input) {
        if let Input::Ended { actor, .. } = &input {
            self.invariants.sessions_lost(actor.0 as u32, self.options.queues);
            self.announce(actor.0, None);
        }
        let actions = self.core.handle(self.now, input);
        self.apply(actions);
    }

    /// Makes requested next hops known after some steps, and reports a difference that the reference found.
    fn resolve(&mut self) {
        if self.known_at.is_some_and(|step| self.invariants.step >= step) {
            self.known_at = None;
            self.app.set_known(true);
            self.publish();
        }
        if self.options.application == Application::CheckedRelay {
            let complaint = self.app.complaint();
            self.invariants.check(Checker::Reference, complaint.is_none(), || complaint.unwrap_or_default());
        }
    }

    pub(super) fn apply(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Start { actor, generation } => self.start(actor, generation),
                Action::Send { actor, command } => self.actors[actor.0].command(command),
                // Its packets take the fallback: until a new run starts, or until the heartbeat resumes.
                Action::Abandon { actor } | Action::Emit(Event::Stalled { actor, .. }) => {
                    self.actors[actor.0].ids.iter().for_each(|id| self.net.steer_away(id));
                }
                Action::Emit(Event::Recovered { actor }) => self.actors[actor.0].send(ActorCommand::Steer),
                Action::Emit(Event::Changed { to: ActorState::Failed { .. }, .. }) => self.given_up += 1,
                Action::Emit(Event::Changed { actor, to: ActorState::Restarting { scope, backoff }, .. }) => {
                    self.soft_restarts += u64::from(scope == RestartScope::Handler);
                    self.invariants.mark(actor.0 as u64 ^ backoff.as_nanos() as u64);
                    self.restarted(actor, backoff);
                }
                Action::Emit(_) => {}
            }
        }
    }

    fn start(&mut self, actor: ActorId, generation: u64) {
        match self.actors[actor.0].start(generation, &self.link_receiver, &self.directory, self.now) {
            Ok(address) => self.announce(actor.0, Some(address)),
            Err(end) => self.decide(Input::Ended { actor, generation, end }),
        }
    }
}
