//! Checks what is rebuilt inside a live actor: its handler and its ports.
use super::*;

const REOPEN_PARTS: SupervisorCommand = SupervisorCommand::ReopenParts;

fn part_fails(play: &mut Play, part: u8) -> Vec<Action> {
    play.report_state(A, StateReport::PartFailed { part, cause: "socket lost".into() })
}

fn soft_then_again_after(quiet: Duration) -> (Play, Vec<Action>) {
    let mut play = Play::running(1);
    play.soft_fails(A);
    play.next();
    play.report_state(A, StateReport::Running);
    play.after(quiet);
    play.soft_fails(A);
    let actions = effects(play.next());
    (play, actions)
}

#[test]
fn handler_failing_again_inherits_nothing_then_ends_its_actor() {
    let (_, actions) = soft_then_again_after(101 * MS);
    assert_eq!(actions, [send(A, RESTART_HANDLER)]);
    let (mut play, actions) = soft_then_again_after(100 * MS);
    assert_eq!(actions, [send(A, SupervisorCommand::RestartHandler { inherit: false })]);
    play.report_state(A, StateReport::Running);
    assert_eq!(effects(play.soft_fails(A)), [send(A, SupervisorCommand::Stop)]);
    let ActorState::Restarting { scope: RestartScope::Queue, backoff } = play.state(A) else {
        panic!("{:?}", play.state(A))
    };
    // The actor ends before the delay is over, and the delay still applies.
    play.after(MS);
    assert_eq!(effects(play.end(A, ActorExit::Done)), []);
    assert_eq!(effects(play.after(backoff - MS)), [start(A, 2)]);
    // A new run has a clean handler: its first failure restarts only the handler.
    play.report_state(A, StateReport::Running);
    play.soft_fails(A);
    assert!(matches!(play.state(A), ActorState::Restarting { scope: RestartScope::Handler, .. }));
}

#[test]
fn failed_part_reopens_and_reports_gap() {
    let mut play = Play::running(1);
    assert_eq!(effects(part_fails(&mut play, 1)), []);
    let ActorState::Restarting { scope: RestartScope::Port, backoff } = play.state(A) else {
        panic!("{:?}", play.state(A))
    };
    // A second port that fails is reopened at the same time.
    assert_eq!(part_fails(&mut play, 0), []);
    assert_eq!(effects(play.next()), [send(A, REOPEN_PARTS)]);
    assert_eq!(gap_of(&play.report_state(A, StateReport::Running)), Some(backoff));
    assert_eq!((play.core.generation(A), play.core.restarts(A)), (1, 1));
}

#[test]
fn part_is_retried_without_end_and_never_ends_its_actor() {
    let mut play = Play::running(1);
    for _ in 0..5 {
        part_fails(&mut play, 1);
        assert_eq!(effects(play.next()), [send(A, REOPEN_PARTS)]);
    }
    for _ in 0..20 {
        assert_eq!(effects(part_fails(&mut play, 1)), []);
        let (before, waits) = (play.now, play.state_name(A) == "waiting");
        assert_eq!(effects(play.next()), [send(A, REOPEN_PARTS)]);
        // The window moves on, so the budget allows a restart again at times.
        assert!(!waits || play.now - before == Settings::default().part_every);
    }
    play.report_state(A, StateReport::Running);
    assert_eq!((play.state(A), play.core.generation(A)), (ActorState::Running, 1));
}

#[test]
fn part_without_interface_uses_no_budget_and_is_woken() {
    let mut play = Play::running(1);
    part_fails(&mut play, 1);
    play.next();
    let restarts = play.core.restarts(A);
    for _ in 0..100 {
        play.report_state(A, StateReport::Waiting("eth1 is gone".into()));
        assert_eq!(play.state_name(A), "waiting");
        assert_eq!(effects(play.take(Input::Wake { actor: A })), [send(A, REOPEN_PARTS)]);
        assert_eq!(play.take(Input::Wake { actor: A }), [], "the rebuild is in progress");
    }
    play.report_state(A, StateReport::Running);
    assert_eq!((play.state(A), play.core.restarts(A)), (ActorState::Running, restarts));
}

#[test]
fn failed_handler_is_rebuilt_before_closed_part() {
    let mut play = Play::running(1);
    part_fails(&mut play, 1);
    play.soft_fails(A);
    assert_eq!(effects(play.next()), [send(A, RESTART_HANDLER)]);
    // The handler is rebuilt, and the actor reports the port that is still closed.
    assert_eq!(effects(part_fails(&mut play, 1)), []);
    assert_eq!(effects(play.next()), [send(A, REOPEN_PARTS)]);
    play.report_state(A, StateReport::Running);
    assert_eq!((play.state(A), play.core.generation(A)), (ActorState::Running, 1));
}

#[test]
fn requested_part_restart_uses_no_budget() {
    let mut play = Play::new(1);
    play.take(Input::Start);
    assert_eq!(play.restart_port(A, 0), Err(CommandRefused::Opening { actor: A }));
    play.report_state(A, StateReport::Running);
    for _ in 0..50 {
        assert_eq!(effects(play.restart_port(A, 0).unwrap()), [send(A, SupervisorCommand::RestartPart(0))]);
        assert_eq!(play.restart_port(A, 1), Err(CommandRefused::RebuildInProgress { actor: A }));
        assert_eq!(play.state(A), ActorState::Restarting { scope: RestartScope::Port, backoff: Duration::ZERO });
        play.report_state(A, StateReport::Running);
    }
    // A port that does not report ends the actor, because the actor does not answer at all.
    play.restart_port(A, 0).unwrap();
    assert_eq!(effects(play.next()), [send(A, SupervisorCommand::Stop)]);
}
