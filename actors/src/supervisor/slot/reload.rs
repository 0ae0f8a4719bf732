//! A new factory of handlers: which live actor has a former handler, and when that is replaced.

use std::time::Duration;

use super::Slot;
use crate::supervisor::phase::{Inside, Phase, Turn};
use crate::supervisor::roster::HandlerAge;
use crate::supervisor::{Command, Depth, State};

impl Slot {
    /// Compares the handler that serves here with the newest factory.
    pub(in crate::supervisor) fn handler(&self) -> HandlerAge {
        match &self.phase {
            Phase::Idle
            | Phase::Backoff { .. }
            | Phase::Waiting { .. }
            | Phase::Ending { .. }
            | Phase::Overdue { .. }
            | Phase::Parked { what: Inside::Handler { .. }, .. } => HandlerAge::None,
            _ if self.outdated && self.stalled => HandlerAge::Stalled,
            Phase::Mending { what: Inside::Handler { .. }, .. } => HandlerAge::Pending,
            _ if self.outdated => HandlerAge::Pending,
            _ => HandlerAge::Newest,
        }
    }

    /// Gives a live actor a handler of the newest factory. Starts nothing: a stopped or failed worker stays so.
    pub(in crate::supervisor) fn replace_handler(&mut self, turn: &mut Turn<'_>) {
        match self.phase {
            Phase::Idle
            | Phase::Backoff { .. }
            | Phase::Waiting { .. }
            | Phase::Ending { .. }
            | Phase::Overdue { .. }
            | Phase::Parked { what: Inside::Handler { .. }, .. } => {}
            // It goes on draining, with the sessions it has.
            Phase::Draining { .. } => turn.send(Command::RestartHandler { inherit: true }),
            Phase::Opening | Phase::Up | Phase::Parked { .. } | Phase::Mending { .. } => {
                self.outdated = true;
                self.replace_outdated(turn);
            }
        }
    }

    /// Replaces a handler of a former factory, unless the actor is opening or rebuilding something: then its next report
    /// leads here again, because it may have made its handler before the factory changed.
    pub(super) fn replace_outdated(&mut self, turn: &mut Turn<'_>) {
        let ready = matches!(self.phase, Phase::Up | Phase::Parked { what: Inside::Part(_) | Inside::Parts, .. });
        if self.outdated && ready && !self.stalled {
            self.mend(turn, Inside::Handler { inherit: true });
            self.go(turn, State::Restarting { depth: Depth::Soft, backoff: Duration::ZERO }, "told to restart");
        }
    }
}
