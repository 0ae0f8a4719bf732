//! Random histories of three workers: what must hold whatever happens.
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Move {
    Wait(u64),
    Say(usize, StateReport),
    Stale(usize, StateReport),
    End(usize, ActorExit),
    Heartbeat(usize, u64),
    Wake(usize),
    Drain(usize, u64),
    Restart(usize, RestartScope),
    Replace,
    Stop(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let actor = 0usize..3;
    let report = prop_oneof![
        4 => Just(StateReport::Running),
        1 => Just(StateReport::Waiting("w".into())),
        2 => Just(StateReport::SoftFailed("s".into())),
        1 => Just(StateReport::PartFailed { part: 1, cause: "p".into() }),
        1 => Just(StateReport::Drained),
    ];
    let end = prop_oneof![
        2 => Just(ActorExit::Done),
        1 => Just(ActorExit::Waiting("w".into())),
        1 => Just(ActorExit::Failed("f".into())),
        1 => Just(ActorExit::AccountingFailed("a".into())),
        1 => Just(ActorExit::Panicked("p".into())),
        1 => Just(ActorExit::Refused("r".into())),
    ];
    let scope = prop_oneof![Just(RestartScope::Handler), Just(RestartScope::Port), Just(RestartScope::Queue)];
    prop::collection::vec(
        prop_oneof![
            6 => (0u64..4000).prop_map(Move::Wait),
            6 => (actor.clone(), report.clone()).prop_map(|(w, report)| Move::Say(w, report)),
            1 => (actor.clone(), report).prop_map(|(w, report)| Move::Stale(w, report)),
            4 => (actor.clone(), end).prop_map(|(w, end)| Move::End(w, end)),
            1 => (actor.clone(), 0u64..20_000).prop_map(|(w, age)| Move::Heartbeat(w, age)),
            1 => actor.clone().prop_map(Move::Wake),
            1 => (actor.clone(), 0u64..5000).prop_map(|(w, within)| Move::Drain(w, within)),
            2 => (actor, scope).prop_map(|(w, scope)| Move::Restart(w, scope)),
            2 => Just(Move::Replace),
            1 => (0u64..5000).prop_map(Move::Stop),
        ],
        0..200,
    )
}

/// The world the roster acts on: who lives, and what the observer believes.
#[derive(Default)]
struct World {
    alive: [bool; 3],
    generation: [u64; 3],
    stopping: bool,
    health: Option<EngineHealth>,
    /// Number of the newest factory, and the one that made each worker's handler.
    factory: u64,
    handler: [u64; 3],
}

impl World {
    fn carry_out(
        &mut self,
        play: &Play,
        states: &mut [ActorState; 3],
        actions: Vec<Action>,
    ) -> Result<(), TestCaseError> {
        for action in actions {
            match action {
                Action::Start { actor: ActorId(w), generation } => {
                    prop_assert!(!self.alive[w], "started beside its former life");
                    prop_assert!(!self.stopping, "started after the stop");
                    prop_assert_eq!(generation, self.generation[w] + 1);
                    (self.alive[w], self.generation[w]) = (true, generation);
                    // At once: later changes of the factory come too late for it.
                    self.handler[w] = self.factory;
                }
                Action::Send { actor, command: SupervisorCommand::RestartHandler { .. } } => {
                    prop_assert!(self.alive[actor.0]);
                    self.handler[actor.0] = self.factory;
                }
                Action::Send { actor, .. } | Action::Abandon { actor } => prop_assert!(self.alive[actor.0]),
                Action::Emit(Event::Changed { actor, from, to, gap, .. }) => {
                    prop_assert_eq!(&from, &states[actor.0]);
                    prop_assert_ne!(&from, &to);
                    prop_assert!(gap.is_none() || to == ActorState::Running);
                    states[actor.0] = to;
                }
                Action::Emit(Event::Health(health)) => {
                    prop_assert_ne!(Some(health), self.health.or(Some(EngineHealth::Healthy)));
                    self.health = Some(health);
                }
                Action::Emit(_) => {}
            }
        }
        for (w, (state, alive)) in states.iter().zip(self.alive).enumerate() {
            prop_assert_eq!(&play.state(ActorId(w)), state);
            prop_assert_eq!(play.core.is_live(ActorId(w)), alive);
        }
        let failed = states.iter().any(|state| state.name() == "failed");
        let stalled = (0..3).any(|w| play.core.is_stalled(ActorId(w)));
        prop_assert_eq!(play.core.health() == EngineHealth::Degraded, failed || stalled);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn random_histories_never_overlap_runs_and_stop_is_final(moves in moves()) {
        let mut play = Play::new(3);
        let mut world = World::default();
        let mut states = [ActorState::Planned, ActorState::Planned, ActorState::Planned];
        let told = play.take(Input::Start);
        world.carry_out(&play, &mut states, told)?;
        for step in moves {
            let told = match step {
                Move::Wait(ms) => play.after(Duration::from_millis(ms)),
                Move::Say(w, report) if world.alive[w] => play.report_state(ActorId(w), report),
                Move::Stale(w, report) => {
                    let generation = world.generation[w].wrapping_sub(1);
                    play.take(Input::StateReported { actor: ActorId(w), generation, report })
                }
                Move::End(w, end) if world.alive[w] => {
                    world.alive[w] = false;
                    play.end(ActorId(w), end)
                }
                Move::Say(..) | Move::End(..) => Vec::new(),
                Move::Heartbeat(w, age) => play.take(Input::Heartbeat { actor: ActorId(w), age: Duration::from_millis(age) }),
                Move::Wake(w) => play.take(Input::Wake { actor: ActorId(w) }),
                Move::Drain(w, ms) => {
                    play.take(Input::Drain { actor: ActorId(w), within: Duration::from_millis(ms) })
                }
                Move::Restart(w, scope) => play.restart(ActorId(w), scope).unwrap_or_default(),
                Move::Replace => {
                    world.factory += 1;
                    let told = play.take(Input::ReplaceHandlers);
                    let starts = told.iter().any(|action| matches!(action, Action::Start { .. }));
                    prop_assert!(!starts, "a reload starts nobody");
                    told
                }
                Move::Stop(ms) => {
                    world.stopping = true;
                    play.take(Input::Stop { within: Duration::from_millis(ms) })
                }
            };
            world.carry_out(&play, &mut states, told)?;
        }
        // Once every live actor has reported and its heart beats, none has a former handler, unless it is ending.
        for w in (0..3).filter(|&w| world.alive[w]).collect::<Vec<_>>() {
            for input in [Input::Heartbeat { actor: ActorId(w), age: Duration::ZERO }, Input::Tick] {
                let told = play.take(input);
                world.carry_out(&play, &mut states, told)?;
            }
            for _ in 0..2 {
                let told = play.report_state(ActorId(w), StateReport::Running);
                world.carry_out(&play, &mut states, told)?;
            }
            match play.core.handler(ActorId(w)) {
                HandlerAge::Newest => prop_assert_eq!(world.handler[w], world.factory),
                age => prop_assert_eq!(age, HandlerAge::None),
            }
        }
        // However it stands: a stop comes to its end, even if nobody obeys.
        world.stopping = true;
        let told = play.take(Input::Stop { within: SECOND });
        world.carry_out(&play, &mut states, told)?;
        let told = play.after(SECOND);
        world.carry_out(&play, &mut states, told)?;
        prop_assert!(play.core.is_stopped());
        prop_assert_eq!(play.core.next_due(), None);
    }
}
