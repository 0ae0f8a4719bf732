//! Checks what operators request: stop, drain, restart.
use super::*;

#[test]
fn stop_during_backoff_starts_nothing() {
    let mut play = Play::running(1);
    play.panics(A);
    let actions = play.take(Input::Stop { within: SECOND });
    assert_eq!((effects(actions), play.state(A)), (vec![], ActorState::Stopped));
    assert!(play.core.is_stopped());
    assert_eq!(play.after(1000 * SECOND), []);
    assert_eq!(play.restart(A, RestartScope::Queue), Err(CommandRefused::Stopping));
    assert_eq!(play.take(Input::Start), []);
}

#[test]
fn stop_reaches_every_live_phase_and_waits_for_exits() {
    // The actors are opening, running, without handler, rebuilding, draining, ending for a restart, and waiting.
    let mut play = Play::new(7);
    play.take(Input::Start);
    let of = |n| ActorId(n);
    for n in 1..7 {
        play.report_state(of(n), StateReport::Running);
    }
    play.soft_fails(of(2));
    play.restart(of(3), RestartScope::Handler).unwrap();
    play.take(Input::Drain { actor: of(4), within: SECOND });
    play.restart(of(5), RestartScope::Queue).unwrap();
    play.report_state(of(6), StateReport::Waiting("link".into()));
    let actions = effects(play.take(Input::Stop { within: SECOND }));
    // The actor that was ending has its command already.
    let expected: Vec<Action> = [0, 1, 2, 3, 4, 6].map(|n| send(of(n), SupervisorCommand::Stop)).into();
    assert_eq!(actions, expected);
    for n in 0..7 {
        assert!(!play.core.is_stopped());
        assert_eq!(play.state(of(n)), ActorState::Draining);
        play.end(of(n), ActorExit::Done);
        assert_eq!(play.state(of(n)), ActorState::Stopped);
    }
    assert!(play.core.is_stopped());
}

#[test]
fn actor_that_does_not_end_in_time_is_abandoned_and_named() {
    let mut play = Play::running(2);
    play.take(Input::Stop { within: 3 * SECOND });
    play.end(B, ActorExit::Done);
    let actions = play.next();
    assert!(actions.contains(&Action::Abandon { actor: A }));
    assert_eq!(play.state_name(A), "failed");
    assert!(play.core.is_stopped() && play.core.is_live(A) && !play.core.is_live(B));
    // It may still end.
    play.end(A, ActorExit::Done);
    assert_eq!(play.state(A), ActorState::Stopped);
}

#[test]
fn actor_that_does_not_end_for_restart_is_failed_until_it_ends() {
    let mut play = Play::running(1);
    assert_eq!(effects(play.restart(A, RestartScope::Queue).unwrap()), [send(A, SupervisorCommand::Stop)]);
    let actions = play.next();
    assert_eq!(health_of(&actions), Some(EngineHealth::Degraded));
    assert_eq!(effects(actions), [Action::Abandon { actor: A }]);
    assert_eq!(play.restart(A, RestartScope::Queue), Err(CommandRefused::StillRuns { actor: A }));
    play.after(100 * SECOND);
    play.end(A, ActorExit::Done);
    assert_eq!(effects(play.next()), [start(A, 2)]);
    assert_eq!(health_of(&play.report_state(A, StateReport::Running)), None);
    assert_eq!((play.core.health(), play.state(A)), (EngineHealth::Healthy, ActorState::Running));
}

#[test]
fn requested_restart_is_immediate_and_uses_no_budget() {
    let mut play = Play::running(1);
    for run in 1..50 {
        let actions = play.restart(A, RestartScope::Handler).unwrap();
        assert_eq!(effects(actions), [send(A, RESTART_HANDLER)]);
        assert_eq!(play.state(A), ActorState::Restarting { scope: RestartScope::Handler, backoff: Duration::ZERO });
        assert_eq!(play.restart(A, RestartScope::Handler), Ok(vec![]), "it is in progress");
        play.report_state(A, StateReport::Running);
        assert_eq!(effects(play.restart(A, RestartScope::Queue).unwrap()), [send(A, SupervisorCommand::Stop)]);
        assert_eq!(effects(play.end(A, ActorExit::Done)), []);
        assert_eq!(effects(play.after(Duration::ZERO)), [start(A, run + 1)]);
        play.report_state(A, StateReport::Running);
    }
    assert_eq!(play.core.restarts(A), 2 * 49);
}

#[test]
fn requested_restart_during_backoff_shortens_it() {
    // A restart in the delay of a queue restart.
    let mut play = Play::running(1);
    play.panics(A);
    assert_eq!(effects(play.restart(A, RestartScope::Handler).unwrap()), [start(A, 2)]);
    assert_eq!(play.after(10 * SECOND), []);
    // A restart in the delay of a handler restart.
    let mut play = Play::running(1);
    play.soft_fails(A);
    assert_eq!(effects(play.restart(A, RestartScope::Handler).unwrap()), [send(A, RESTART_HANDLER)]);
    // A queue restart in the delay of a handler restart, and again while the actor ends.
    let mut play = Play::running(1);
    play.soft_fails(A);
    assert_eq!(effects(play.restart(A, RestartScope::Queue).unwrap()), [send(A, SupervisorCommand::Stop)]);
    assert_eq!(effects(play.restart(A, RestartScope::Queue).unwrap()), []);
    play.end(A, ActorExit::Done);
    assert_eq!(effects(play.after(Duration::ZERO)), [start(A, 2)]);
    // A queue restart while the handler is rebuilt.
    let mut play = Play::running(1);
    play.restart(A, RestartScope::Handler).unwrap();
    assert_eq!(effects(play.restart(A, RestartScope::Queue).unwrap()), [send(A, SupervisorCommand::Stop)]);
    // A restart while the actor ends because the budget is exhausted.
    let mut play = Play::running(1);
    for _ in 0..5 {
        play.panics(A);
        play.next();
        play.report_state(A, StateReport::Running);
    }
    play.soft_fails(A);
    assert_eq!(play.state_name(A), "failed");
    assert_eq!(effects(play.restart(A, RestartScope::Queue).unwrap()), []);
    play.end(A, ActorExit::Done);
    assert_eq!(effects(play.after(Duration::ZERO)), [start(A, 7)]);
}

#[test]
fn impossible_restarts_are_refused() {
    let mut play = Play::new(1);
    play.take(Input::Start);
    assert_eq!(play.restart(A, RestartScope::Handler), Err(CommandRefused::Opening { actor: A }));
    assert_eq!(effects(play.restart(A, RestartScope::Queue).unwrap()), [send(A, SupervisorCommand::Stop)]);
    assert_eq!(play.restart(B, RestartScope::Queue), Err(CommandRefused::Unknown { actor: B, actors: 1 }));
    let mut play = Play::running(1);
    play.take(Input::Drain { actor: A, within: SECOND });
    assert_eq!(play.restart(A, RestartScope::Queue), Err(CommandRefused::Draining { actor: A }));
    play.report_state(A, StateReport::Drained);
    assert_eq!(play.restart(A, RestartScope::Queue), Err(CommandRefused::Draining { actor: A }), "it still ends");
    play.end(A, ActorExit::Done);
    assert_eq!(effects(play.restart(A, RestartScope::Queue).unwrap()), [start(A, 2)]);
    assert_eq!(gap_of(&play.report_state(A, StateReport::Running)), None, "a requested stop is no gap");
}

#[test]
fn drain_ends_when_actor_is_empty_or_at_deadline() {
    for drained in [true, false] {
        let mut play = Play::running(1);
        let actions = effects(play.take(Input::Drain { actor: A, within: 30 * SECOND }));
        assert_eq!(actions, [send(A, SupervisorCommand::Drain { within: 30 * SECOND })]);
        assert_eq!(play.state(A), ActorState::Draining);
        assert!(!play.core.is_settled(A));
        let actions = if drained { play.report_state(A, StateReport::Drained) } else { play.after(30 * SECOND) };
        assert_eq!(effects(actions), [send(A, SupervisorCommand::Stop)]);
        assert_eq!(effects(play.end(A, ActorExit::Done)), []);
        assert_eq!(play.state(A), ActorState::Stopped);
        assert!(play.core.is_settled(A) && !play.core.is_stopped());
        assert_eq!(play.after(1000 * SECOND), []);
    }
}

#[test]
fn failure_during_drain_is_reported_and_not_restarted() {
    let mut play = Play::running(1);
    play.take(Input::Drain { actor: A, within: 30 * SECOND });
    let actions = play.panics(A);
    assert!(matches!(&actions[..], [Action::Emit(Event::Changed { cause, to: ActorState::Stopped, .. })]
        if *cause == Cause::Ended(ActorExit::Panicked("boom".into()))));
    assert_eq!(play.after(1000 * SECOND), []);

    let mut play = Play::running(1);
    play.take(Input::Drain { actor: A, within: 30 * SECOND });
    assert_eq!(effects(play.soft_fails(A)), [send(A, SupervisorCommand::Stop)]);
    play.end(A, ActorExit::Failed("late".into()));
    assert_eq!(play.state(A), ActorState::Stopped);
}

#[test]
fn drain_of_idle_actor_stops_it() {
    let drain = Input::Drain { actor: A, within: 30 * SECOND };
    let mut planned = Play::new(1);
    assert_eq!((effects(planned.take(drain.clone())), planned.state(A)), (vec![], ActorState::Stopped));
    let mut opening = Play::new(1);
    opening.take(Input::Start);
    assert_eq!(effects(opening.take(drain.clone())), [send(A, SupervisorCommand::Stop)]);
    let mut pausing = Play::running(1);
    pausing.panics(A);
    assert_eq!((effects(pausing.take(drain.clone())), pausing.state(A)), (vec![], ActorState::Stopped));
    let mut failed = Play::running(1);
    failed.end(A, ActorExit::Refused("no".into()));
    failed.take(drain);
    assert_eq!(
        failed.state(A),
        ActorState::Failed { why: FailReason::Refused("no".into()) },
        "the reason of a failure stays visible"
    );
}

#[test]
fn second_drain_only_shortens_and_endless_drain_does_not_overflow() {
    let mut play = Play::running(1);
    play.take(Input::Drain { actor: A, within: Duration::MAX });
    assert_eq!(play.after(1000 * SECOND), []);
    play.take(Input::Drain { actor: A, within: SECOND });
    play.take(Input::Drain { actor: A, within: 50 * SECOND });
    assert_eq!(effects(play.after(SECOND)), [send(A, SupervisorCommand::Stop)]);
    play.take(Input::Stop { within: Duration::MAX });
}

#[test]
fn stop_does_not_wait_for_stalled_actor() {
    let heartbeat = |age| Input::Heartbeat { actor: A, age };
    let patience = Settings::default().end_within;
    for stalls_first in [true, false] {
        let mut play = Play::running(1);
        let drain = Input::Drain { actor: A, within: 600 * SECOND };
        if stalls_first {
            play.take(heartbeat(2 * SECOND));
            assert_eq!(effects(play.take(drain)), [send(A, SupervisorCommand::Stop)]);
        } else {
            play.take(drain);
            assert_eq!(effects(play.take(heartbeat(2 * SECOND))), [send(A, SupervisorCommand::Stop)]);
        }
        assert_eq!(effects(play.after(patience)), [Action::Abandon { actor: A }]);
        assert!(
            play.core.is_settled(A) && play.core.is_live(A),
            "its thread lives, and the supervisor does not wait for it"
        );
        // It ended late.
        play.end(A, ActorExit::Done);
        assert_eq!(play.state(A), ActorState::Stopped);
    }
}
