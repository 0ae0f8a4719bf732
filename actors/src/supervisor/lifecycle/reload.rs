//! Tracks which live actor has a handler of a former factory, and when that is replaced.

use std::time::Duration;

use super::ActorLifecycle;
use crate::supervisor::phase::{Phase, RebuildTarget, TransitionContext};
use crate::supervisor::supervisor_core::HandlerAge;
use crate::supervisor::{ActorState, Cause, RestartScope, SupervisorCommand};

impl ActorLifecycle {
    /// Compares the handler that serves here with the newest factory.
    pub(in crate::supervisor) fn handler(&self) -> HandlerAge {
        match &self.phase {
            Phase::Idle
            | Phase::Backoff { .. }
            | Phase::Waiting { .. }
            | Phase::Ending { .. }
            | Phase::Overdue { .. }
            | Phase::RebuildPending { what: RebuildTarget::Handler { .. }, .. } => HandlerAge::None,
            _ if self.outdated && self.stalled => HandlerAge::Stalled,
            Phase::Rebuilding { what: RebuildTarget::Handler { .. }, .. } => HandlerAge::Pending,
            _ if self.outdated => HandlerAge::Pending,
            _ => HandlerAge::Newest,
        }
    }

    /// Gives a live actor a handler of the newest factory. It starts nothing: a stopped or failed actor stays so.
    pub(in crate::supervisor) fn replace_handler(&mut self, cx: &mut TransitionContext<'_>) {
        match self.phase {
            Phase::Idle
            | Phase::Backoff { .. }
            | Phase::Waiting { .. }
            | Phase::Ending { .. }
            | Phase::Overdue { .. }
            | Phase::RebuildPending { what: RebuildTarget::Handler { .. }, .. } => {}
            // It continues to drain, with its sessions.
            Phase::Draining { .. } => cx.send(SupervisorCommand::RestartHandler { inherit: true }),
            Phase::Opening | Phase::Up | Phase::RebuildPending { .. } | Phase::Rebuilding { .. } => {
                self.outdated = true;
                self.replace_outdated(cx);
            }
        }
    }

    /// Replaces a handler of a former factory. It does nothing while the actor opens or rebuilds something, because
    /// the actor may have created its handler before the factory changed. The actor's next report calls this again.
    pub(super) fn replace_outdated(&mut self, cx: &mut TransitionContext<'_>) {
        let ready = matches!(
            self.phase,
            Phase::Up | Phase::RebuildPending { what: RebuildTarget::Part(_) | RebuildTarget::Parts, .. }
        );
        if self.outdated && ready && !self.stalled {
            self.start_rebuild(cx, RebuildTarget::Handler { inherit: true });
            self.go(
                cx,
                ActorState::Restarting { scope: RestartScope::Handler, backoff: Duration::ZERO },
                Cause::RestartAsked,
            );
        }
    }
}
