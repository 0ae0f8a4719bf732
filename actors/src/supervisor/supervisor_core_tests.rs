#![allow(clippy::unwrap_used, clippy::panic)]
use super::*;
use crate::supervisor::{Cause, FailReason, Failure, RestartCause, RestartScope, WaitReason};

#[path = "supervisor_core_cause_tests.rs"]
mod cause;
#[path = "supervisor_core_inside_tests.rs"]
mod inside;
#[path = "supervisor_core_order_tests.rs"]
mod orders;
#[path = "supervisor_core_random_tests.rs"]
mod random;
#[path = "supervisor_core_reload_tests.rs"]
mod reload;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const A: ActorId = ActorId(0);
const B: ActorId = ActorId(1);

const RESTART_HANDLER: SupervisorCommand = SupervisorCommand::RestartHandler { inherit: true };

/// Drives a supervisor core in virtual time.
struct Play {
    core: SupervisorCore,
    now: Instant,
}

impl Play {
    fn new(actors: usize) -> Self {
        Self { core: SupervisorCore::new(Settings::default(), actors), now: Instant::now() }
    }

    /// Creates actors that all run for the first time.
    fn running(actors: usize) -> Self {
        let mut play = Self::new(actors);
        play.take(Input::Start);
        for n in 0..actors {
            play.report_state(ActorId(n), StateReport::Running);
        }
        play
    }

    fn take(&mut self, input: Input) -> Vec<Action> {
        self.core.handle(self.now, input)
    }

    fn report_state(&mut self, actor: ActorId, report: StateReport) -> Vec<Action> {
        self.take(Input::StateReported { actor, generation: self.core.generation(actor), report })
    }

    fn end(&mut self, actor: ActorId, end: ActorExit) -> Vec<Action> {
        self.take(Input::Ended { actor, generation: self.core.generation(actor), end })
    }

    fn panics(&mut self, actor: ActorId) -> Vec<Action> {
        self.end(actor, ActorExit::Panicked("boom".into()))
    }

    fn soft_fails(&mut self, actor: ActorId) -> Vec<Action> {
        self.report_state(actor, StateReport::SoftFailed("handler".into()))
    }

    fn restart(&mut self, actor: ActorId, scope: RestartScope) -> Result<Vec<Action>, CommandRefused> {
        self.core.restart(self.now, actor, scope, 0)
    }

    fn restart_port(&mut self, actor: ActorId, port: u8) -> Result<Vec<Action>, CommandRefused> {
        self.core.restart(self.now, actor, RestartScope::Port, port)
    }

    fn after(&mut self, wait: Duration) -> Vec<Action> {
        self.now += wait;
        self.take(Input::Tick)
    }

    /// Advances to the next deadline, which must exist, and checks that nothing is decided just before it.
    fn next(&mut self) -> Vec<Action> {
        let due = self.core.next_due().unwrap();
        if due > self.now {
            self.now = due - Duration::from_nanos(1);
            assert_eq!(self.take(Input::Tick), []);
        }
        self.now = due;
        self.take(Input::Tick)
    }

    fn state(&self, actor: ActorId) -> ActorState {
        self.core.state(actor).unwrap().clone()
    }

    fn state_name(&self, actor: ActorId) -> &'static str {
        self.state(actor).name()
    }
}

fn start(actor: ActorId, generation: u64) -> Action {
    Action::Start { actor, generation }
}

fn send(actor: ActorId, command: SupervisorCommand) -> Action {
    Action::Send { actor, command }
}

/// Returns the actions without the events.
fn effects(actions: Vec<Action>) -> Vec<Action> {
    actions.into_iter().filter(|action| !matches!(action, Action::Emit(_))).collect()
}

fn gap_of(actions: &[Action]) -> Option<Duration> {
    actions.iter().find_map(|action| match action {
        Action::Emit(Event::Changed { gap, .. }) => *gap,
        _ => None,
    })
}

fn health_of(actions: &[Action]) -> Option<EngineHealth> {
    actions.iter().find_map(|action| match action {
        Action::Emit(Event::Health(health)) => Some(*health),
        _ => None,
    })
}

#[test]
fn every_actor_starts_once_and_runs_after_its_report() {
    let mut play = Play::new(2);
    assert_eq!(play.state(A), ActorState::Planned);
    assert_eq!(effects(play.take(Input::Start)), [start(A, 1), start(B, 1)]);
    assert_eq!(play.take(Input::Start), []);
    assert_eq!(play.state(A), ActorState::Opening);
    let (from, to) = (ActorState::Opening, ActorState::Running);
    let opened = Event::Changed { actor: A, from, to, cause: Cause::Opened, gap: None };
    assert_eq!(play.report_state(A, StateReport::Running), [Action::Emit(opened)]);
    assert_eq!(play.report_state(A, StateReport::Running), []);
    assert_eq!((play.state(A), play.state(B)), (ActorState::Running, ActorState::Opening));
    assert_eq!(play.core.restarts(A), 0);
}

#[test]
fn panic_restarts_after_backoff_with_gap_while_others_run() {
    let mut play = Play::running(2);
    play.after(SECOND);
    let actions = play.panics(A);
    let ActorState::Restarting { scope: RestartScope::Queue, backoff } = play.state(A) else { panic!("{actions:?}") };
    assert!(backoff >= 37 * MS && backoff <= 50 * MS, "{backoff:?}");
    assert!(matches!(&actions[..], [Action::Emit(Event::Changed { cause, .. })]
        if *cause == Cause::Failed(Failure::ActorPanic("boom".into()))));
    assert_eq!(effects(play.next()), [start(A, 2)]);
    play.after(20 * MS);
    let back = play.report_state(A, StateReport::Running);
    assert_eq!(gap_of(&back), Some(backoff + 20 * MS));
    assert_eq!((play.core.restarts(A), play.core.restarts(B)), (1, 0));
    assert_eq!(play.state(B), ActorState::Running);
    assert_eq!(play.core.health(), EngineHealth::Healthy);
}

#[test]
fn restart_storm_fails_actor_until_operator_restarts_it() {
    let mut play = Play::running(2);
    for run in 2..=6 {
        play.panics(A);
        assert_eq!(effects(play.next()), [start(A, run)]);
        play.report_state(A, StateReport::Running);
    }
    let actions = play.panics(A);
    let ActorState::Failed { why } = play.state(A) else { panic!("{actions:?}") };
    let boom = Failure::ActorPanic("boom".into());
    assert_eq!(why, FailReason::Budget { failure: boom, restarts: 5, window: 60 * SECOND });
    assert_eq!(health_of(&actions), Some(EngineHealth::Degraded));
    assert_eq!(play.core.next_due(), None);
    assert_eq!(play.after(1000 * SECOND), []);
    assert_eq!(play.state(B), ActorState::Running);

    let actions = play.restart(A, RestartScope::Handler).unwrap();
    assert_eq!(health_of(&actions), Some(EngineHealth::Healthy));
    assert_eq!(effects(actions), [start(A, 7)]);
    play.report_state(A, StateReport::Running);
    play.panics(A);
    assert_eq!(play.state_name(A), "restarting", "the budget is full again");
}

#[test]
fn refused_start_uses_budget_and_does_not_recurse() {
    let mut play = Play::new(1);
    play.take(Input::Start);
    for run in 2..=6 {
        assert_eq!(effects(play.end(A, ActorExit::Failed("EBUSY".into()))), []);
        assert_eq!(effects(play.next()), [start(A, run)]);
    }
    play.end(A, ActorExit::Failed("EBUSY".into()));
    assert_eq!(play.state_name(A), "failed");
}

#[test]
fn permanent_failure_is_not_restarted() {
    let mut play = Play::new(1);
    play.take(Input::Start);
    let actions = play.end(A, ActorExit::Refused("EPERM: give it CAP_NET_RAW".into()));
    assert_eq!(play.state(A), ActorState::Failed { why: FailReason::Refused("EPERM: give it CAP_NET_RAW".into()) });
    assert_eq!(health_of(&actions), Some(EngineHealth::Degraded));
    assert_eq!((effects(actions), play.core.next_due()), (vec![], None));
}

#[test]
fn unrequested_exit_is_a_failure() {
    let mut play = Play::running(1);
    play.end(A, ActorExit::Done);
    assert_eq!(play.state_name(A), "restarting");
}

#[test]
fn handler_failure_restarts_handler_only() {
    let mut play = Play::running(1);
    assert_eq!(effects(play.soft_fails(A)), []);
    let ActorState::Restarting { scope: RestartScope::Handler, backoff } = play.state(A) else {
        panic!("{:?}", play.state(A))
    };
    assert_eq!(play.soft_fails(A), [], "reported once");
    assert_eq!(effects(play.next()), [send(A, RESTART_HANDLER)]);
    let back = play.report_state(A, StateReport::Running);
    assert_eq!(gap_of(&back), Some(backoff));
    assert_eq!((play.core.generation(A), play.core.restarts(A)), (1, 1));
}

#[test]
fn handler_that_cannot_be_rebuilt_ends_its_actor() {
    for answers in [true, false] {
        let mut play = Play::running(1);
        play.soft_fails(A);
        play.next();
        let actions = if answers { play.soft_fails(A) } else { play.next() };
        assert_eq!(effects(actions), [send(A, SupervisorCommand::Stop)], "answers: {answers}");
        assert!(matches!(play.state(A), ActorState::Restarting { scope: RestartScope::Queue, .. }));
    }
}

#[test]
fn slow_handler_storm_exhausts_budget_and_ends_actor() {
    let mut play = Play::running(1);
    for _ in 0..5 {
        play.soft_fails(A);
        assert_eq!(effects(play.next()), [send(A, RESTART_HANDLER)]);
        play.report_state(A, StateReport::Running);
        play.after(2 * SECOND);
    }
    assert_eq!(effects(play.soft_fails(A)), [send(A, SupervisorCommand::Stop)]);
    assert_eq!(play.state_name(A), "failed");
    assert_eq!(effects(play.end(A, ActorExit::Done)), []);
    assert_eq!((play.state_name(A), play.core.is_live(A)), ("failed", false));
}

#[test]
fn dead_actor_with_failed_handler_is_restarted_whole() {
    let mut play = Play::running(1);
    play.soft_fails(A);
    play.panics(A);
    assert!(matches!(play.state(A), ActorState::Restarting { scope: RestartScope::Queue, .. }));
    assert_eq!(effects(play.next()), [start(A, 2)]);
}

#[test]
fn actor_that_cannot_open_yet_is_retried_without_event_or_budget() {
    let mut play = Play::running(1);
    let gone = || ActorExit::Waiting("eth0 is gone".into());
    play.end(A, gone());
    assert_eq!(play.state(A), ActorState::Waiting { why: WaitReason::Absent("eth0 is gone".into()) });
    for run in 2..=100 {
        assert_eq!(play.next(), [start(A, run)], "no event");
        assert_eq!(play.end(A, gone()), []);
    }
    assert_eq!(play.core.health(), EngineHealth::Healthy);
    assert_eq!(play.take(Input::Wake { actor: A }), [start(A, 101)]);
    assert_eq!(play.take(Input::Wake { actor: A }), []);
    assert_eq!(gap_of(&play.report_state(A, StateReport::Running)), Some(99 * SECOND));
    // The budget is full: five failures are still answered.
    for _ in 0..5 {
        play.panics(A);
        play.next();
    }
    assert_eq!(play.state_name(A), "opening");
}

#[test]
fn waiting_actor_reports_when_it_runs_again() {
    let mut play = Play::running(1);
    play.report_state(A, StateReport::Waiting("link down".into()));
    assert_eq!(play.state(A), ActorState::Waiting { why: WaitReason::Absent("link down".into()) });
    assert_eq!(play.after(5 * SECOND), []);
    assert_eq!(gap_of(&play.report_state(A, StateReport::Running)), Some(5 * SECOND));
    assert_eq!(play.core.generation(A), 1);
}

#[test]
fn stall_and_its_end_are_reported_once() {
    let mut play = Play::running(1);
    let heartbeat = |age| Input::Heartbeat { actor: A, age };
    assert_eq!(play.take(heartbeat(SECOND)), []);
    let age = SECOND + MS;
    let stalled = Action::Emit(Event::Stalled { actor: A, age });
    assert_eq!(play.take(heartbeat(age)), [stalled, Action::Emit(Event::Health(EngineHealth::Degraded))]);
    assert_eq!(play.take(heartbeat(20 * SECOND)), []);
    assert!(play.core.is_stalled(A));
    assert_eq!(
        play.state(A),
        ActorState::Running,
        "a thread cannot be killed: the stall is reported, and nothing restarts"
    );
    let recovered = Action::Emit(Event::Recovered { actor: A });
    assert_eq!(play.take(heartbeat(MS)), [recovered.clone(), Action::Emit(Event::Health(EngineHealth::Healthy))]);
    // An actor that ends is no longer stalled.
    play.take(heartbeat(age));
    assert_eq!(play.panics(A).first(), Some(&recovered));
    assert_eq!(play.take(heartbeat(age)), [], "an ended actor has no heartbeat");
}

#[test]
fn opening_allows_longer_heartbeat_gap() {
    let mut play = Play::new(1);
    play.take(Input::Start);
    assert_eq!(play.take(Input::Heartbeat { actor: A, age: 10 * SECOND }), []);
    assert_eq!(play.take(Input::Heartbeat { actor: A, age: 10 * SECOND + MS }).len(), 2);
}

#[test]
fn reports_of_former_runs_and_unknown_actors_are_ignored() {
    let mut play = Play::running(1);
    play.panics(A);
    play.next();
    let report = || StateReport::SoftFailed("late".into());
    assert_eq!(play.take(Input::StateReported { actor: A, generation: 1, report: report() }), []);
    assert_eq!(play.take(Input::Ended { actor: A, generation: 1, end: ActorExit::Done }), []);
    assert_eq!(play.take(Input::StateReported { actor: B, generation: 1, report: report() }), []);
    assert_eq!(play.take(Input::Heartbeat { actor: B, age: 9 * SECOND }), []);
    assert_eq!(play.state(A), ActorState::Opening);
    assert!(play.core.is_settled(B));
}
