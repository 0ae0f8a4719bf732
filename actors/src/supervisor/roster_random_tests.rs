//! Random histories of three workers: what must hold whatever happens.
use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Move {
    Wait(u64),
    Say(usize, Word),
    Stale(usize, Word),
    End(usize, End),
    Pulse(usize, u64),
    Wake(usize),
    Drain(usize, u64),
    Restart(usize, Depth),
    Replace,
    Stop(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let worker = 0usize..3;
    let word = prop_oneof![
        4 => Just(Word::Running),
        1 => Just(Word::Waiting("w".into())),
        2 => Just(Word::SoftFailed("s".into())),
        1 => Just(Word::PartFailed { part: 1, cause: "p".into() }),
        1 => Just(Word::Drained),
    ];
    let end = prop_oneof![
        2 => Just(End::Done),
        1 => Just(End::Waiting("w".into())),
        1 => Just(End::Failed("f".into())),
        1 => Just(End::Panicked("p".into())),
        1 => Just(End::Refused("r".into())),
    ];
    let depth = prop_oneof![Just(Depth::Soft), Just(Depth::Part(0)), Just(Depth::Hard)];
    prop::collection::vec(
        prop_oneof![
            6 => (0u64..4000).prop_map(Move::Wait),
            6 => (worker.clone(), word.clone()).prop_map(|(w, word)| Move::Say(w, word)),
            1 => (worker.clone(), word).prop_map(|(w, word)| Move::Stale(w, word)),
            4 => (worker.clone(), end).prop_map(|(w, end)| Move::End(w, end)),
            1 => (worker.clone(), 0u64..20_000).prop_map(|(w, age)| Move::Pulse(w, age)),
            1 => worker.clone().prop_map(Move::Wake),
            1 => (worker.clone(), 0u64..5000).prop_map(|(w, within)| Move::Drain(w, within)),
            2 => (worker, depth).prop_map(|(w, depth)| Move::Restart(w, depth)),
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
    health: Option<Health>,
    /// Number of the newest factory, and the one that made each worker's handler.
    factory: u64,
    handler: [u64; 3],
}

impl World {
    fn obey(&mut self, play: &Play, states: &mut [State; 3], actions: Vec<Action>) -> Result<(), TestCaseError> {
        for action in actions {
            match action {
                Action::Start { worker: WorkerId(w), generation } => {
                    prop_assert!(!self.alive[w], "started beside its former life");
                    prop_assert!(!self.stopping, "started after the stop");
                    prop_assert_eq!(generation, self.generation[w] + 1);
                    (self.alive[w], self.generation[w]) = (true, generation);
                    // At once: later changes of the factory come too late for it.
                    self.handler[w] = self.factory;
                }
                Action::Send { worker, command: Command::RestartHandler { .. } } => {
                    prop_assert!(self.alive[worker.0]);
                    self.handler[worker.0] = self.factory;
                }
                Action::Send { worker, .. } | Action::Abandon { worker } => prop_assert!(self.alive[worker.0]),
                Action::Emit(Event::Changed { worker, from, to, gap, .. }) => {
                    prop_assert_eq!(&from, &states[worker.0]);
                    prop_assert_ne!(&from, &to);
                    prop_assert!(gap.is_none() || to == State::Running);
                    states[worker.0] = to;
                }
                Action::Emit(Event::Health(health)) => {
                    prop_assert_ne!(Some(health), self.health.or(Some(Health::Healthy)));
                    self.health = Some(health);
                }
                Action::Emit(_) => {}
            }
        }
        for (w, (state, alive)) in states.iter().zip(self.alive).enumerate() {
            prop_assert_eq!(&play.state(WorkerId(w)), state);
            prop_assert_eq!(play.roster.is_live(WorkerId(w)), alive);
        }
        let failed = states.iter().any(|state| state.name() == "failed");
        let stalled = (0..3).any(|w| play.roster.is_stalled(WorkerId(w)));
        prop_assert_eq!(play.roster.health() == Health::Degraded, failed || stalled);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn whatever_happens_lives_do_not_overlap_and_a_stop_is_final(moves in moves()) {
        let mut play = Play::new(3);
        let mut world = World::default();
        let mut states = [State::Planned, State::Planned, State::Planned];
        let told = play.tell(Input::Start);
        world.obey(&play, &mut states, told)?;
        for step in moves {
            let told = match step {
                Move::Wait(ms) => play.after(Duration::from_millis(ms)),
                Move::Say(w, word) if world.alive[w] => play.say(WorkerId(w), word),
                Move::Stale(w, word) => {
                    let generation = world.generation[w].wrapping_sub(1);
                    play.tell(Input::Said { worker: WorkerId(w), generation, word })
                }
                Move::End(w, end) if world.alive[w] => {
                    world.alive[w] = false;
                    play.end(WorkerId(w), end)
                }
                Move::Say(..) | Move::End(..) => Vec::new(),
                Move::Pulse(w, age) => play.tell(Input::Pulse { worker: WorkerId(w), age: Duration::from_millis(age) }),
                Move::Wake(w) => play.tell(Input::Wake { worker: WorkerId(w) }),
                Move::Drain(w, ms) => {
                    play.tell(Input::Drain { worker: WorkerId(w), within: Duration::from_millis(ms) })
                }
                Move::Restart(w, depth) => play.restart(WorkerId(w), depth).unwrap_or_default(),
                Move::Replace => {
                    world.factory += 1;
                    let told = play.tell(Input::ReplaceHandlers);
                    let starts = told.iter().any(|action| matches!(action, Action::Start { .. }));
                    prop_assert!(!starts, "a reload starts nobody");
                    told
                }
                Move::Stop(ms) => {
                    world.stopping = true;
                    play.tell(Input::Stop { within: Duration::from_millis(ms) })
                }
            };
            world.obey(&play, &mut states, told)?;
        }
        // Once every live actor has reported and its heart beats, none has a former handler, unless it is ending.
        for w in (0..3).filter(|&w| world.alive[w]).collect::<Vec<_>>() {
            for input in [Input::Pulse { worker: WorkerId(w), age: Duration::ZERO }, Input::Tick] {
                let told = play.tell(input);
                world.obey(&play, &mut states, told)?;
            }
            for _ in 0..2 {
                let told = play.say(WorkerId(w), Word::Running);
                world.obey(&play, &mut states, told)?;
            }
            match play.roster.handler(WorkerId(w)) {
                HandlerAge::Newest => prop_assert_eq!(world.handler[w], world.factory),
                age => prop_assert_eq!(age, HandlerAge::None),
            }
        }
        // However it stands: a stop comes to its end, even if nobody obeys.
        world.stopping = true;
        let told = play.tell(Input::Stop { within: SECOND });
        world.obey(&play, &mut states, told)?;
        let told = play.after(SECOND);
        world.obey(&play, &mut states, told)?;
        prop_assert!(play.roster.is_stopped());
        prop_assert_eq!(play.roster.next_due(), None);
    }
}
