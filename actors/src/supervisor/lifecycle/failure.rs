//! Decides what follows a failure of an actor, its handler or one of its ports.

use super::ActorLifecycle;
use crate::policy::Decision;
use crate::supervisor::phase::{AfterExit, Phase, RebuildTarget, TransitionContext};
use crate::supervisor::{ActorExit, ActorState, Cause, FailReason, Failure, RestartScope, WaitReason};

impl ActorLifecycle {
    pub(in crate::supervisor) fn on_end(&mut self, cx: &mut TransitionContext<'_>, end: ActorExit) {
        if !self.is_live() {
            return;
        }
        self.recover(cx);
        let former = std::mem::replace(&mut self.phase, Phase::Idle);
        let failure = match (former, end) {
            (Phase::Ending { next, .. } | Phase::Overdue { next }, end) => {
                return self.after_exit(cx, next, Cause::Ended(end));
            }
            (Phase::Draining { .. }, end) => {
                return self.after_exit(cx, AfterExit::Rest(ActorState::Stopped), Cause::Ended(end));
            }
            (_, ActorExit::Waiting(message)) => {
                let why = WaitReason::Absent(message);
                self.phase = Phase::Waiting { retry: cx.after(cx.settings.retry_every) };
                return self.go(cx, ActorState::Waiting { why: why.clone() }, Cause::Waits(why));
            }
            (_, ActorExit::Refused(message)) => {
                let why = FailReason::Refused(message.clone());
                return self.go(cx, ActorState::Failed { why }, Cause::Refused(message));
            }
            (_, ActorExit::Done) => Failure::Ended,
            (_, ActorExit::AccountingFailed(message)) => Failure::Accounting(message),
            (_, ActorExit::Panicked(message)) => Failure::ActorPanic(message),
            (Phase::Opening, ActorExit::Failed(message)) => Failure::Open(message),
            (_, ActorExit::Failed(message)) => Failure::Error(message),
        };
        self.fail(cx, RestartScope::Queue, failure);
    }

    pub(super) fn soft_failed(&mut self, cx: &mut TransitionContext<'_>, failure: Failure) {
        let since = self.softened.map(|at| cx.now.saturating_duration_since(at));
        let quick = since.is_some_and(|since| since <= cx.settings.soft_again_within);
        self.quick = if quick { self.quick.saturating_add(1) } else { 0 };
        self.fail(cx, if self.quick >= 2 { RestartScope::Queue } else { RestartScope::Handler }, failure);
    }

    /// Answers the failure of a port. The actor continues without the port, so this never ends it.
    pub(super) fn part_failed(&mut self, cx: &mut TransitionContext<'_>, failure: Failure) {
        let (what, every) = (RebuildTarget::Parts, cx.settings.part_every);
        match self.budget.on_failure(cx.now) {
            Decision::RestartAfter(backoff) => {
                self.phase = Phase::RebuildPending { due: cx.after(backoff), what };
                self.go(cx, ActorState::Restarting { scope: RestartScope::Port, backoff }, Cause::Failed(failure));
            }
            Decision::GiveUp { restarts, window } => {
                self.phase = Phase::RebuildPending { due: cx.after(every), what };
                let why = WaitReason::PortBudget { failure: failure.clone(), restarts, window, every };
                self.go(cx, ActorState::Waiting { why }, Cause::Failed(failure));
            }
        }
    }

    /// Answers a failure within the budget.
    pub(super) fn fail(&mut self, cx: &mut TransitionContext<'_>, scope: RestartScope, failure: Failure) {
        match self.budget.on_failure(cx.now) {
            Decision::GiveUp { restarts, window } => {
                let why = FailReason::Budget { failure: failure.clone(), restarts, window };
                self.go(cx, ActorState::Failed { why: why.clone() }, Cause::Failed(failure));
                self.end(cx, cx.settings.end_within, AfterExit::Rest(ActorState::Failed { why }));
            }
            Decision::RestartAfter(backoff) => {
                let due = cx.after(backoff);
                self.go(cx, ActorState::Restarting { scope, backoff }, Cause::Failed(failure));
                match scope {
                    RestartScope::Handler => {
                        // The sessions that the handler took over may be the cause of the failure.
                        let what = RebuildTarget::Handler { inherit: self.quick == 0 };
                        self.phase = Phase::RebuildPending { due, what };
                    }
                    RestartScope::Port | RestartScope::Queue => {
                        self.end(cx, cx.settings.end_within, AfterExit::Start { due })
                    }
                }
            }
        }
    }
}
