//! Checks invariants of the supervisor core with random histories of three actors.
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

/// Models the actors and the observer around the supervisor core.
#[derive(Default)]
struct Model {
    alive: [bool; 3],
    generation: [u64; 3],
    stopping: bool,
    health: Option<EngineHealth>,
    /// Number of the newest factory, then the factory of each actor's handler.
    factory: u64,
    handler: [u64; 3],
}

impl Model {
    fn carry_out(
        &mut self,
        play: &Play,
        states: &mut [ActorState; 3],
        actions: Vec<Action>,
    ) -> Result<(), TestCaseError> {
        for action in actions {
            match action {
                Action::Start { actor: ActorId(w), generation } => {
                    prop_assert!(!self.alive[w], "started while its former run lives");
                    prop_assert!(!self.stopping, "started after the stop");
                    prop_assert_eq!(generation, self.generation[w] + 1);
                    (self.alive[w], self.generation[w]) = (true, generation);
                    // The handler is created at once: later changes of the factory do not affect it.
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
        let mut model = Model::default();
        let mut states = [ActorState::Planned, ActorState::Planned, ActorState::Planned];
        let actions = play.take(Input::Start);
        model.carry_out(&play, &mut states, actions)?;
        for step in moves {
            let actions = match step {
                Move::Wait(ms) => play.after(Duration::from_millis(ms)),
                Move::Say(w, report) if model.alive[w] => play.report_state(ActorId(w), report),
                Move::Stale(w, report) => {
                    let generation = model.generation[w].wrapping_sub(1);
                    play.take(Input::StateReported { actor: ActorId(w), generation, report })
                }
                Move::End(w, end) if model.alive[w] => {
                    model.alive[w] = false;
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
                    model.factory += 1;
                    let actions = play.take(Input::ReplaceHandlers);
                    let starts = actions.iter().any(|action| matches!(action, Action::Start { .. }));
                    prop_assert!(!starts, "a reload starts no actor");
                    actions
                }
                Move::Stop(ms) => {
                    model.stopping = true;
                    play.take(Input::Stop { within: Duration::from_millis(ms) })
                }
            };
            model.carry_out(&play, &mut states, actions)?;
        }
        // After every live actor has reported and sent a heartbeat, none has a former handler, unless it is ending.
        for w in (0..3).filter(|&w| model.alive[w]).collect::<Vec<_>>() {
            for input in [Input::Heartbeat { actor: ActorId(w), age: Duration::ZERO }, Input::Tick] {
                let actions = play.take(input);
                model.carry_out(&play, &mut states, actions)?;
            }
            for _ in 0..2 {
                let actions = play.report_state(ActorId(w), StateReport::Running);
                model.carry_out(&play, &mut states, actions)?;
            }
            match play.core.handler(ActorId(w)) {
                HandlerAge::Newest => prop_assert_eq!(model.handler[w], model.factory),
                age => prop_assert_eq!(age, HandlerAge::None),
            }
        }
        // A stop always ends, even if no actor follows its commands.
        model.stopping = true;
        let actions = play.take(Input::Stop { within: SECOND });
        model.carry_out(&play, &mut states, actions)?;
        let actions = play.after(SECOND);
        model.carry_out(&play, &mut states, actions)?;
        prop_assert!(play.core.is_stopped());
        prop_assert_eq!(play.core.next_due(), None);
    }
}
