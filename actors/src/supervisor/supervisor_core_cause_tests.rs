//! Each restart carries its cause, whatever the message says.

use super::*;

/// A message that would be read as another cause by whoever read it.
fn misleading() -> String {
    "told to restart: frames are lost; not back within 2s; ended without being told to".into()
}

fn cause_of(told: &[Action]) -> Option<(RestartScope, RestartCause)> {
    told.iter().find_map(|action| match action {
        Action::Emit(Event::Changed { to: ActorState::Restarting { scope, .. }, cause, .. }) => {
            Some((*scope, cause.of_restart()?))
        }
        _ => None,
    })
}

#[test]
fn restart_event_carries_cause_of_each_failure() {
    use RestartCause as C;
    use RestartScope as S;
    type Deed = fn(&mut Play) -> Vec<Action>;
    let cases: [(Deed, S, C); 8] = [
        (|play| play.restart(A, S::Handler).unwrap(), S::Handler, C::Asked),
        (|play| play.restart(A, S::Queue).unwrap(), S::Queue, C::Asked),
        (|play| play.report_state(A, StateReport::SoftFailed(misleading())), S::Handler, C::Panic),
        (|play| play.report_state(A, StateReport::PartFailed { part: 1, cause: misleading() }), S::Port, C::Port),
        (|play| play.end(A, ActorExit::Panicked(misleading())), S::Queue, C::Panic),
        (|play| play.end(A, ActorExit::AccountingFailed(misleading())), S::Queue, C::Leak),
        (|play| play.end(A, ActorExit::Failed(misleading())), S::Queue, C::Error),
        (|play| play.end(A, ActorExit::Done), S::Queue, C::Ended),
    ];
    for (deed, scope, cause) in cases {
        let mut play = Play::running(1);
        assert_eq!(cause_of(&deed(&mut play)), Some((scope, cause)));
    }
}

#[test]
fn failure_before_first_report_is_a_failed_open_unless_it_is_a_panic() {
    for (end, cause) in [
        (ActorExit::Failed(misleading()), RestartCause::Open),
        (ActorExit::Panicked(misleading()), RestartCause::Panic),
    ] {
        let mut play = Play::new(1);
        play.take(Input::Start);
        assert_eq!(cause_of(&play.end(A, end)), Some((RestartScope::Queue, cause)));
    }
}

#[test]
fn rebuilt_handler_that_does_not_report_is_late() {
    let mut play = Play::running(1);
    play.restart(A, RestartScope::Handler).unwrap();
    let told = play.after(Settings::default().end_within);
    assert_eq!(cause_of(&told), Some((RestartScope::Queue, RestartCause::Late)));
}

#[test]
fn names_of_scopes_and_causes_are_distinct() {
    let scopes: std::collections::BTreeSet<_> = RestartScope::ALL.iter().map(|scope| scope.name()).collect();
    let causes: std::collections::BTreeSet<_> = RestartCause::ALL.iter().map(|cause| cause.name()).collect();
    assert_eq!((scopes.len(), causes.len()), (RestartScope::ALL.len(), RestartCause::ALL.len()));
}
