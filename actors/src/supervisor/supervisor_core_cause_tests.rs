//! Checks that each restart carries its cause, with any message.

use super::*;

/// Returns a message that looks like other causes.
fn misleading() -> String {
    "restart requested: frames are missing; did not report within 2s; ended without a request".into()
}

fn cause_of(actions: &[Action]) -> Option<(RestartScope, RestartCause)> {
    actions.iter().find_map(|action| match action {
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
    type Step = fn(&mut Play) -> Vec<Action>;
    let cases: [(Step, S, C); 8] = [
        (|play| play.restart(A, S::Handler).unwrap(), S::Handler, C::Asked),
        (|play| play.restart(A, S::Queue).unwrap(), S::Queue, C::Asked),
        (|play| play.report_state(A, StateReport::SoftFailed(misleading())), S::Handler, C::Panic),
        (|play| play.report_state(A, StateReport::PartFailed { part: 1, cause: misleading() }), S::Port, C::Port),
        (|play| play.end(A, ActorExit::Panicked(misleading())), S::Queue, C::Panic),
        (|play| play.end(A, ActorExit::AccountingFailed(misleading())), S::Queue, C::Leak),
        (|play| play.end(A, ActorExit::Failed(misleading())), S::Queue, C::Error),
        (|play| play.end(A, ActorExit::Done), S::Queue, C::Ended),
    ];
    for (step, scope, cause) in cases {
        let mut play = Play::running(1);
        assert_eq!(cause_of(&step(&mut play)), Some((scope, cause)));
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
    let actions = play.after(Settings::default().end_within);
    assert_eq!(cause_of(&actions), Some((RestartScope::Queue, RestartCause::Late)));
}

#[test]
fn names_of_scopes_and_causes_are_distinct() {
    let scopes: std::collections::BTreeSet<_> = RestartScope::ALL.iter().map(|scope| scope.name()).collect();
    let causes: std::collections::BTreeSet<_> = RestartCause::ALL.iter().map(|cause| cause.name()).collect();
    assert_eq!((scopes.len(), causes.len()), (RestartScope::ALL.len(), RestartCause::ALL.len()));
}
