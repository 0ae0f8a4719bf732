//! Checks the replacement of all handlers: every live handler becomes one of the newest factory, and no actor is
//! started.
use super::*;

fn replace(play: &mut Play) -> Vec<Action> {
    effects(play.take(Input::ReplaceHandlers))
}

#[test]
fn reload_replaces_running_handlers() {
    let mut play = Play::running(2);
    assert_eq!(replace(&mut play), [send(A, RESTART_HANDLER), send(B, RESTART_HANDLER)]);
    assert_eq!(play.state(A), ActorState::Restarting { scope: RestartScope::Handler, backoff: Duration::ZERO });
    assert_eq!(play.core.handler(A), HandlerAge::Pending);
    play.report_state(A, StateReport::Running);
    assert_eq!((play.core.handler(A), play.core.handler(B)), (HandlerAge::Newest, HandlerAge::Pending));
    assert_eq!((play.state(A), play.core.generation(A)), (ActorState::Running, 1));
}

#[test]
fn reload_keeps_drained_worker_stopped() {
    let mut play = Play::running(1);
    play.take(Input::Drain { actor: A, within: SECOND });
    play.report_state(A, StateReport::Drained);
    play.end(A, ActorExit::Done);
    assert_eq!(play.state(A), ActorState::Stopped);
    assert_eq!(replace(&mut play), []);
    assert_eq!((play.state(A), play.core.handler(A)), (ActorState::Stopped, HandlerAge::None));
    assert_eq!(play.after(1000 * SECOND), []);
    assert_eq!(effects(play.restart(A, RestartScope::Handler).unwrap()), [start(A, 2)], "an operator starts it");
}

#[test]
fn reload_keeps_failed_worker_failed() {
    let mut play = Play::running(1);
    play.end(A, ActorExit::Refused("EPERM".into()));
    assert_eq!(replace(&mut play), []);
    assert_eq!((play.state_name(A), play.core.health()), ("failed", EngineHealth::Degraded));
    assert_eq!(play.core.handler(A), HandlerAge::None);
}

#[test]
fn reload_does_not_shorten_restart_delay() {
    let mut play = Play::running(1);
    play.panics(A);
    let due = play.core.next_due();
    assert_eq!(replace(&mut play), []);
    assert_eq!(play.core.next_due(), due);
    assert_eq!(effects(play.next()), [start(A, 2)]);
    assert_eq!(
        play.report_state(A, StateReport::Running).len(),
        1,
        "the new actor has the newest handler: no command follows"
    );
    // The same applies to a handler that waits for its restart, and to an actor that cannot open yet.
    play.soft_fails(A);
    assert_eq!((replace(&mut play), play.core.handler(A)), (vec![], HandlerAge::None));
    assert_eq!(effects(play.next()), [send(A, RESTART_HANDLER)]);
    play.end(A, ActorExit::Waiting("eth0 is gone".into()));
    assert_eq!((replace(&mut play), play.core.handler(A)), (vec![], HandlerAge::None));
}

#[test]
fn reload_during_drain_replaces_handler_and_continues_drain() {
    let mut play = Play::running(1);
    play.take(Input::Drain { actor: A, within: 9 * SECOND });
    assert_eq!(replace(&mut play), [send(A, RESTART_HANDLER)]);
    play.report_state(A, StateReport::Running);
    assert_eq!(play.state(A), ActorState::Draining);
    assert_eq!(effects(play.report_state(A, StateReport::Drained)), [send(A, SupervisorCommand::Stop)]);
    assert_eq!(replace(&mut play), []);
    play.end(A, ActorExit::Done);
    assert_eq!(play.state(A), ActorState::Stopped);
}

#[test]
fn second_reload_during_first_replaces_handler_again() {
    let mut play = Play::running(1);
    assert_eq!(replace(&mut play), [send(A, RESTART_HANDLER)]);
    // The former factory may have created the first handler already.
    assert_eq!(replace(&mut play), []);
    assert_eq!(replace(&mut play), [], "any number of reloads adds one command");
    assert_eq!(effects(play.report_state(A, StateReport::Running)), [send(A, RESTART_HANDLER)]);
    assert_eq!(play.core.handler(A), HandlerAge::Pending);
    assert_eq!(effects(play.report_state(A, StateReport::Running)), []);
    assert_eq!((play.state(A), play.core.handler(A)), (ActorState::Running, HandlerAge::Newest));
}

#[test]
fn reload_while_opening_replaces_handler_after_first_report() {
    for first in [
        StateReport::Running,
        StateReport::Waiting("eth1 is gone".into()),
        StateReport::PartFailed { part: 1, cause: "p".into() },
    ] {
        let mut play = Play::new(1);
        play.take(Input::Start);
        assert_eq!(replace(&mut play), [], "its mailbox is not read yet, and it may have made its handler");
        assert_eq!(play.core.handler(A), HandlerAge::Pending);
        assert_eq!(effects(play.report_state(A, first.clone())), [send(A, RESTART_HANDLER)], "{first:?}");
        play.report_state(A, first);
        assert_eq!(play.core.handler(A), HandlerAge::Newest);
    }
}

#[test]
fn reload_while_part_reopens_replaces_handler_after_it() {
    let mut play = Play::running(1);
    play.restart_port(A, 1).unwrap();
    assert_eq!(replace(&mut play), []);
    assert_eq!(effects(play.report_state(A, StateReport::Running)), [send(A, RESTART_HANDLER)]);
    play.report_state(A, StateReport::Running);
    // A closed port that waits for its next attempt does not delay the handler.
    play.report_state(A, StateReport::PartFailed { part: 1, cause: "socket lost".into() });
    assert_eq!(replace(&mut play), [send(A, RESTART_HANDLER)]);
}

#[test]
fn reload_of_stalled_worker_waits_for_its_heartbeat() {
    let mut play = Play::running(1);
    play.take(Input::Heartbeat { actor: A, age: 2 * SECOND });
    assert_eq!(replace(&mut play), [], "a deadline for an answer would end it");
    assert_eq!((play.state(A), play.core.handler(A)), (ActorState::Running, HandlerAge::Stalled));
    assert_eq!(play.after(100 * SECOND), []);
    assert_eq!(effects(play.take(Input::Heartbeat { actor: A, age: MS })), [send(A, RESTART_HANDLER)]);
    play.report_state(A, StateReport::Running);
    assert_eq!(play.core.handler(A), HandlerAge::Newest);
}

#[test]
fn new_actor_needs_no_replacement_left_from_former_one() {
    let mut play = Play::running(1);
    replace(&mut play);
    replace(&mut play);
    play.panics(A);
    assert_eq!(play.core.handler(A), HandlerAge::None);
    assert_eq!(effects(play.next()), [start(A, 2)]);
    assert_eq!(effects(play.report_state(A, StateReport::Running)), []);
    assert_eq!(play.core.handler(A), HandlerAge::Newest);
}
