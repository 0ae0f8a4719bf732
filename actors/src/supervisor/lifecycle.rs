//! Holds the state machine of one actor: its phase, and the effect of each input.
//!
//! [`ActorState`] is the public state. [`Phase`] is what the supervisor waits for. Only this module changes them.

mod failure;
mod reload;

use std::time::{Duration, Instant};

use super::phase::{AfterExit, Phase, RebuildTarget, TransitionContext};
use super::supervisor_core::{Action, CommandRefused, Settings};
use super::{
    ActorExit, ActorId, ActorState, Cause, Event, FailReason, Failure, RestartScope, StateReport, SupervisorCommand,
    WaitReason,
};
use crate::policy::RestartBudget;

#[derive(Debug)]
pub(super) struct ActorLifecycle {
    state: ActorState,
    phase: Phase,
    generation: u64,
    restarts: u64,
    budget: RestartBudget,
    /// Time at which it last left `Running`.
    down_since: Option<Instant>,
    /// Time of the last restart of the handler in this run: of the command, or of the handler's report after it.
    softened: Option<Instant>,
    /// Number of failures of the handler that each followed soon after a restart.
    quick: u8,
    stalled: bool,
    /// The live actor may have a handler of a former factory. The handler is replaced as soon as the actor can do it.
    outdated: bool,
}

impl ActorLifecycle {
    pub(super) fn new(settings: &Settings, actor: ActorId) -> Self {
        // Each actor has another seed. Otherwise actors that fail together would restart together.
        let seed = settings.seed ^ (actor.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            state: ActorState::Planned,
            phase: Phase::Idle,
            generation: 0,
            restarts: 0,
            budget: RestartBudget::new(settings.policy, seed),
            down_since: None,
            softened: None,
            quick: 0,
            stalled: false,
            outdated: false,
        }
    }

    pub(super) fn state(&self) -> &ActorState {
        &self.state
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(super) fn is_stalled(&self) -> bool {
        self.stalled
    }

    /// Returns whether this actor has a thread.
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Backoff { .. } | Phase::Waiting { .. })
    }

    /// Returns whether nothing more happens without a new command or a late exit.
    pub(super) fn is_settled(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Overdue { next: AfterExit::Rest(_) })
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle | Phase::Opening | Phase::Up | Phase::Overdue { .. } => None,
            Phase::RebuildPending { due: at, .. }
            | Phase::Rebuilding { by: at, .. }
            | Phase::Draining { by: at }
            | Phase::Ending { by: at, .. }
            | Phase::Backoff { due: at }
            | Phase::Waiting { retry: at } => Some(at),
        }
    }

    /// Starts the actor for the first time.
    pub(super) fn begin(&mut self, cx: &mut TransitionContext<'_>) {
        if matches!(self.state, ActorState::Planned) {
            self.start(cx, Cause::FirstStart);
        }
    }

    pub(super) fn on_state(&mut self, cx: &mut TransitionContext<'_>, report: StateReport) {
        self.take_word(cx, report);
        self.replace_outdated(cx);
    }

    fn take_word(&mut self, cx: &mut TransitionContext<'_>, report: StateReport) {
        match (&self.phase, report) {
            (Phase::Opening | Phase::Up | Phase::Rebuilding { .. }, StateReport::Running) => {
                let cause = match &self.phase {
                    Phase::Opening => Cause::Opened,
                    Phase::Rebuilding { what: RebuildTarget::Handler { .. }, .. } => {
                        self.softened = Some(cx.now);
                        Cause::HandlerRestarted
                    }
                    Phase::Rebuilding { .. } => Cause::PortOpened,
                    _ => Cause::Resumed,
                };
                self.phase = Phase::Up;
                self.go(cx, ActorState::Running, cause);
            }
            (Phase::Opening | Phase::Up | Phase::Rebuilding { .. }, StateReport::Waiting(why)) => {
                self.phase = Phase::Up;
                let why = WaitReason::Absent(why);
                self.go(cx, ActorState::Waiting { why: why.clone() }, Cause::Waits(why));
            }
            (Phase::Rebuilding { what: RebuildTarget::Handler { .. }, .. }, StateReport::SoftFailed(message)) => {
                self.fail(cx, RestartScope::Queue, Failure::HandlerPanic(message));
            }
            // If a port was due to reopen, the handler comes first: the actor reports the closed port again.
            (Phase::Opening | Phase::Up | Phase::Rebuilding { .. }, StateReport::SoftFailed(message))
            | (
                Phase::RebuildPending { what: RebuildTarget::Part(_) | RebuildTarget::Parts, .. },
                StateReport::SoftFailed(message),
            ) => {
                self.soft_failed(cx, Failure::HandlerPanic(message));
            }
            (Phase::Opening | Phase::Up, StateReport::PartFailed { cause, .. })
            | (
                Phase::Rebuilding { what: RebuildTarget::Part(_) | RebuildTarget::Parts, .. },
                StateReport::PartFailed { cause, .. },
            ) => {
                self.part_failed(cx, Failure::Port(cause));
            }
            // The handler is rebuilt, but some ports are still closed.
            (Phase::Rebuilding { .. }, StateReport::PartFailed { cause, .. }) => {
                self.softened = Some(cx.now);
                self.part_failed(cx, Failure::Port(cause));
            }
            (Phase::Draining { .. }, StateReport::Drained | StateReport::SoftFailed(_)) => {
                self.end(cx, cx.settings.end_within, AfterExit::Rest(ActorState::Stopped));
            }
            // The report is outdated: the actor sent it before it read a command.
            _ => {}
        }
    }

    /// Acts on a deadline that has passed.
    pub(super) fn on_time(&mut self, cx: &mut TransitionContext<'_>) {
        if self.due().is_none_or(|due| cx.now < due) {
            return;
        }
        match &self.phase {
            Phase::RebuildPending { what, .. } => self.start_rebuild(cx, *what),
            Phase::Rebuilding { what, .. } => {
                let handler = matches!(what, RebuildTarget::Handler { .. });
                let scope = if handler { RestartScope::Handler } else { RestartScope::Port };
                self.fail(cx, RestartScope::Queue, Failure::Late(scope, cx.settings.end_within));
            }
            Phase::Draining { .. } => self.end(cx, cx.settings.end_within, AfterExit::Rest(ActorState::Stopped)),
            Phase::Ending { next, .. } => {
                self.phase = Phase::Overdue { next: next.clone() };
                cx.out.push(Action::Abandon { actor: cx.actor });
                self.go(cx, ActorState::Failed { why: FailReason::StillRuns }, Cause::StillRuns);
            }
            Phase::Backoff { .. } => self.start(cx, Cause::BackoffOver),
            Phase::Waiting { .. } => self.start(cx, Cause::NextTry),
            Phase::Idle | Phase::Opening | Phase::Up | Phase::Overdue { .. } => {}
        }
    }

    pub(super) fn on_heartbeat(&mut self, cx: &mut TransitionContext<'_>, age: Duration) {
        let limit = match self.phase {
            Phase::Idle | Phase::Backoff { .. } | Phase::Waiting { .. } => return,
            Phase::Opening => cx.settings.open_within,
            _ => cx.settings.stall_after,
        };
        if age <= limit {
            self.recover(cx);
            self.replace_outdated(cx);
        } else if !self.stalled {
            self.stalled = true;
            cx.out.push(Action::Emit(Event::Stalled { actor: cx.actor, age }));
            if matches!(self.phase, Phase::Draining { .. }) {
                // The actor serves no client, so there is nothing to wait for.
                self.end(cx, cx.settings.end_within, AfterExit::Rest(ActorState::Stopped));
            }
        }
    }

    pub(super) fn restart(
        &mut self,
        cx: &mut TransitionContext<'_>,
        scope: RestartScope,
        port: u8,
    ) -> Result<(), CommandRefused> {
        let actor = cx.actor;
        let asked = |scope| ActorState::Restarting { scope, backoff: Duration::ZERO };
        if self.state == ActorState::Draining {
            return Err(CommandRefused::Draining { actor });
        }
        match (&mut self.phase, scope) {
            (Phase::Overdue { .. }, _) => return Err(CommandRefused::StillRuns { actor }),
            (Phase::Opening, RestartScope::Handler | RestartScope::Port) => {
                return Err(CommandRefused::Opening { actor });
            }
            // It is in progress already. (Draining was answered above.)
            (Phase::Rebuilding { what: RebuildTarget::Handler { .. }, .. }, RestartScope::Handler)
            | (Phase::Draining { .. }, _) => {}
            (Phase::Idle, _) => {
                self.budget.reset();
                self.start(cx, Cause::StartAsked);
            }
            (Phase::Backoff { .. } | Phase::Waiting { .. }, _) => self.start(cx, Cause::StartAsked),
            (Phase::Ending { next, .. }, _) => {
                *next = AfterExit::Start { due: cx.now };
                self.go(cx, asked(RestartScope::Queue), Cause::RestartAsked);
            }
            // A failed handler comes first. Only the actor knows that a port is closed, and it reports that again.
            (Phase::RebuildPending { what: RebuildTarget::Handler { .. }, .. }, RestartScope::Port) => {
                return Err(CommandRefused::RebuildInProgress { actor });
            }
            (Phase::Rebuilding { .. }, RestartScope::Port) => return Err(CommandRefused::RebuildInProgress { actor }),
            (Phase::Up | Phase::RebuildPending { .. } | Phase::Rebuilding { .. }, RestartScope::Handler) => {
                self.start_rebuild(cx, RebuildTarget::Handler { inherit: true });
                self.go(cx, asked(RestartScope::Handler), Cause::RestartAsked);
            }
            (Phase::Up | Phase::RebuildPending { .. }, RestartScope::Port) => {
                self.start_rebuild(cx, RebuildTarget::Part(port));
                self.go(cx, asked(scope), Cause::RestartAsked);
            }
            (
                Phase::Opening | Phase::Up | Phase::RebuildPending { .. } | Phase::Rebuilding { .. },
                RestartScope::Queue,
            ) => {
                self.go(cx, asked(RestartScope::Queue), Cause::RestartAsked);
                self.end(cx, cx.settings.end_within, AfterExit::Start { due: cx.now });
            }
        }
        Ok(())
    }

    /// Makes an actor that waits try again at once.
    pub(super) fn wake(&mut self, cx: &mut TransitionContext<'_>) {
        let waits = matches!(self.state, ActorState::Waiting { .. });
        match self.phase {
            Phase::Waiting { .. } => self.start(cx, Cause::WakeReason),
            Phase::Up | Phase::RebuildPending { what: RebuildTarget::Parts, .. } if waits => {
                self.start_rebuild(cx, RebuildTarget::Parts)
            }
            _ => {}
        }
    }

    pub(super) fn drain(&mut self, cx: &mut TransitionContext<'_>, within: Duration) {
        match &mut self.phase {
            Phase::Up if !self.stalled => {
                cx.send(SupervisorCommand::Drain { within });
                self.phase = Phase::Draining { by: cx.after(within) };
                self.go(cx, ActorState::Draining, Cause::DrainAsked);
            }
            Phase::Draining { by } => *by = (*by).min(cx.after(within)),
            // There is nothing to drain.
            _ => self.stop(cx, cx.settings.end_within),
        }
    }

    pub(super) fn stop(&mut self, cx: &mut TransitionContext<'_>, within: Duration) {
        match &mut self.phase {
            // The reason of a failure stays visible.
            Phase::Idle if matches!(self.state, ActorState::Failed { .. }) => {}
            Phase::Idle | Phase::Backoff { .. } | Phase::Waiting { .. } => {
                self.phase = Phase::Idle;
                self.go(cx, ActorState::Stopped, Cause::StopAsked);
            }
            Phase::Overdue { next } => *next = AfterExit::Rest(ActorState::Stopped),
            Phase::Ending { next, by } => {
                *by = cx.after(within);
                if matches!(next, AfterExit::Start { .. }) {
                    *next = AfterExit::Rest(ActorState::Stopped);
                    self.go(cx, ActorState::Draining, Cause::StopAsked);
                }
            }
            _ => {
                self.go(cx, ActorState::Draining, Cause::StopAsked);
                self.end(cx, within, AfterExit::Rest(ActorState::Stopped));
            }
        }
    }

    /// Stops the actor, if it has a thread. `next` follows its exit.
    fn end(&mut self, cx: &mut TransitionContext<'_>, within: Duration, next: AfterExit) {
        if self.is_live() {
            cx.send(SupervisorCommand::Stop);
            self.phase = Phase::Ending { by: cx.after(within), next };
        } else {
            self.after_exit(cx, next, Cause::Ended(ActorExit::Done));
        }
    }

    /// Continues with `next` after the actor has ended.
    fn after_exit(&mut self, cx: &mut TransitionContext<'_>, next: AfterExit, cause: Cause) {
        match next {
            // Even a start that is due waits for the next tick: a start that is refused at once must not recurse.
            AfterExit::Start { due } => self.phase = Phase::Backoff { due },
            AfterExit::Rest(state) => {
                self.phase = Phase::Idle;
                self.go(cx, state, cause);
            }
        }
    }

    fn start(&mut self, cx: &mut TransitionContext<'_>, cause: Cause) {
        self.restarts += u64::from(self.generation > 0);
        self.generation += 1;
        self.phase = Phase::Opening;
        self.softened = None;
        self.outdated = false;
        // Attempts of a waiting actor are not reported until one succeeds.
        if !matches!(self.state, ActorState::Waiting { .. }) {
            self.go(cx, ActorState::Opening, cause);
        }
        cx.out.push(Action::Start { actor: cx.actor, generation: self.generation });
    }

    /// Commands the actor to rebuild something inside it.
    fn start_rebuild(&mut self, cx: &mut TransitionContext<'_>, what: RebuildTarget) {
        // Attempts of a waiting actor do not count as restarts.
        self.restarts += u64::from(!matches!(self.state, ActorState::Waiting { .. }));
        self.phase = Phase::Rebuilding { by: cx.after(cx.settings.end_within), what };
        cx.send(match what {
            RebuildTarget::Handler { inherit } => {
                self.softened = Some(cx.now);
                self.outdated = false;
                SupervisorCommand::RestartHandler { inherit }
            }
            RebuildTarget::Part(part) => SupervisorCommand::RestartPart(part),
            RebuildTarget::Parts => SupervisorCommand::ReopenParts,
        });
    }

    fn recover(&mut self, cx: &mut TransitionContext<'_>) {
        if std::mem::take(&mut self.stalled) {
            cx.out.push(Action::Emit(Event::Recovered { actor: cx.actor }));
        }
    }

    fn go(&mut self, cx: &mut TransitionContext<'_>, to: ActorState, cause: Cause) {
        if self.state == to {
            return;
        }
        if self.state == ActorState::Running {
            self.down_since = Some(cx.now);
        }
        let gap = match to {
            ActorState::Running => self.down_since.take().map(|since| cx.now.saturating_duration_since(since)),
            // The stop was requested: the time until the next start is not a gap.
            ActorState::Stopped => self.down_since.take().and(None),
            _ => None,
        };
        let from = std::mem::replace(&mut self.state, to.clone());
        cx.out.push(Action::Emit(Event::Changed { actor: cx.actor, from, to, cause, gap }));
    }
}
