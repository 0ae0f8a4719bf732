//! One worker in the roster: its phase, and what each input makes of it.
//!
//! [`State`] is what the world sees; [`Phase`] is what the supervisor waits for. Only here do they change.

mod reload;

use std::time::{Duration, Instant};

use super::phase::{Inside, Next, Phase, Turn};
use super::roster::{Action, Refusal, Settings};
use super::{Command, Depth, End, Event, State, Word, WorkerId};
use crate::policy::{Decision, RestartBudget};

#[derive(Debug)]
pub(super) struct Slot {
    state: State,
    phase: Phase,
    generation: u64,
    restarts: u64,
    budget: RestartBudget,
    /// When it last left `Running`.
    down_since: Option<Instant>,
    /// When the handler was last told to restart, or came back from it, in this life.
    softened: Option<Instant>,
    /// Failures of the handler, each soon after the restart before it.
    quick: u8,
    stalled: bool,
    /// The live actor's handler may be one of a former factory, and is to be replaced as soon as the actor can do it.
    outdated: bool,
}

impl Slot {
    pub(super) fn new(settings: &Settings, worker: WorkerId) -> Self {
        // Another seed for each, or workers felled together would come back together.
        let seed = settings.seed ^ (worker.0 as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self {
            state: State::Planned,
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

    pub(super) fn state(&self) -> &State {
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

    /// Whether an actor of this slot has a thread.
    pub(super) fn is_live(&self) -> bool {
        !matches!(self.phase, Phase::Idle | Phase::Backoff { .. } | Phase::Waiting { .. })
    }

    /// Whether nothing more will come without a new order or a late end.
    pub(super) fn is_at_rest(&self) -> bool {
        matches!(self.phase, Phase::Idle | Phase::Overdue { next: Next::Rest(_) })
    }

    pub(super) fn due(&self) -> Option<Instant> {
        match self.phase {
            Phase::Idle | Phase::Opening | Phase::Up | Phase::Overdue { .. } => None,
            Phase::Parked { due: at, .. }
            | Phase::Mending { by: at, .. }
            | Phase::Draining { by: at }
            | Phase::Ending { by: at, .. }
            | Phase::Backoff { due: at }
            | Phase::Waiting { retry: at } => Some(at),
        }
    }

    /// The first start.
    pub(super) fn begin(&mut self, turn: &mut Turn<'_>) {
        if matches!(self.state, State::Planned) {
            self.start(turn, "started");
        }
    }

    pub(super) fn on_word(&mut self, turn: &mut Turn<'_>, word: Word) {
        self.take_word(turn, word);
        self.replace_outdated(turn);
    }

    fn take_word(&mut self, turn: &mut Turn<'_>, word: Word) {
        match (&self.phase, word) {
            (Phase::Opening | Phase::Up | Phase::Mending { .. }, Word::Running) => {
                let cause = match &self.phase {
                    Phase::Opening => "opened",
                    Phase::Mending { what: Inside::Handler { .. }, .. } => {
                        self.softened = Some(turn.now);
                        "handler restarted"
                    }
                    Phase::Mending { .. } => "opened again",
                    _ => "has what it waited for",
                };
                self.phase = Phase::Up;
                self.go(turn, State::Running, cause);
            }
            (Phase::Opening | Phase::Up | Phase::Mending { .. }, Word::Waiting(why)) => {
                self.phase = Phase::Up;
                self.go(turn, State::Waiting { why: why.clone() }, why);
            }
            (Phase::Mending { what: Inside::Handler { .. }, .. }, Word::SoftFailed(cause)) => {
                self.fail(turn, Depth::Hard, cause);
            }
            // Where a part was waited for, the handler comes first: the actor tells of the part again.
            (Phase::Opening | Phase::Up | Phase::Mending { .. }, Word::SoftFailed(cause))
            | (Phase::Parked { what: Inside::Part(_) | Inside::Parts, .. }, Word::SoftFailed(cause)) => {
                self.soft_failed(turn, cause);
            }
            (Phase::Opening | Phase::Up, Word::PartFailed { part, cause })
            | (Phase::Mending { what: Inside::Part(_) | Inside::Parts, .. }, Word::PartFailed { part, cause }) => {
                self.part_failed(turn, part, cause);
            }
            // The handler is back, but not all parts are.
            (Phase::Mending { .. }, Word::PartFailed { part, cause }) => {
                self.softened = Some(turn.now);
                self.part_failed(turn, part, cause);
            }
            (Phase::Draining { .. }, Word::Drained | Word::SoftFailed(_)) => {
                self.end(turn, turn.settings.end_within, Next::Rest(State::Stopped));
            }
            // Overtaken: it speaks from before a command it has not read yet.
            _ => {}
        }
    }

    fn soft_failed(&mut self, turn: &mut Turn<'_>, cause: String) {
        let since = self.softened.map(|at| turn.now.saturating_duration_since(at));
        let quick = since.is_some_and(|since| since <= turn.settings.soft_again_within);
        self.quick = if quick { self.quick.saturating_add(1) } else { 0 };
        self.fail(turn, if self.quick >= 2 { Depth::Hard } else { Depth::Soft }, cause);
    }

    /// The actor goes on without the part, so this never ends it.
    fn part_failed(&mut self, turn: &mut Turn<'_>, part: u8, cause: String) {
        let (what, wait) = (Inside::Parts, turn.settings.part_every);
        match self.budget.on_failure(turn.now) {
            Decision::RestartAfter(backoff) => {
                self.phase = Phase::Parked { due: turn.after(backoff), what };
                self.go(turn, State::Restarting { depth: Depth::Part(part), backoff }, cause);
            }
            Decision::GiveUp { restarts, window } => {
                self.phase = Phase::Parked { due: turn.after(wait), what };
                let why = format!("{cause}; {restarts} restarts within {window:?}, now one every {wait:?}");
                self.go(turn, State::Waiting { why }, cause);
            }
        }
    }

    pub(super) fn on_end(&mut self, turn: &mut Turn<'_>, end: End) {
        if !self.is_live() {
            return;
        }
        self.recover(turn);
        let cause = end.to_string();
        match std::mem::replace(&mut self.phase, Phase::Idle) {
            Phase::Ending { next, .. } | Phase::Overdue { next } => self.settle(turn, next, cause),
            Phase::Draining { .. } => self.settle(turn, Next::Rest(State::Stopped), cause),
            _ => match end {
                End::Waiting(why) => {
                    self.phase = Phase::Waiting { retry: turn.after(turn.settings.retry_every) };
                    self.go(turn, State::Waiting { why }, cause);
                }
                End::Refused(why) => self.go(turn, State::Failed { why }, cause),
                End::Done => self.fail(turn, Depth::Hard, "ended without being told to".to_owned()),
                End::Failed(_) | End::Panicked(_) => self.fail(turn, Depth::Hard, cause),
            },
        }
    }

    /// What the passing of time brings.
    pub(super) fn on_time(&mut self, turn: &mut Turn<'_>) {
        if self.due().is_none_or(|due| turn.now < due) {
            return;
        }
        match &self.phase {
            Phase::Parked { what, .. } => self.mend(turn, *what),
            Phase::Mending { what, .. } => {
                let what = if matches!(what, Inside::Handler { .. }) { "handler" } else { "part" };
                let cause = format!("{what} not back within {:?} of its restart", turn.settings.end_within);
                self.fail(turn, Depth::Hard, cause);
            }
            Phase::Draining { .. } => self.end(turn, turn.settings.end_within, Next::Rest(State::Stopped)),
            Phase::Ending { next, .. } => {
                self.phase = Phase::Overdue { next: next.clone() };
                turn.out.push(Action::Abandon { worker: turn.worker });
                let why = "told to end and still runs; its thread cannot be killed".to_owned();
                self.go(turn, State::Failed { why: why.clone() }, why);
            }
            Phase::Backoff { .. } => self.start(turn, "starting again"),
            Phase::Waiting { .. } => self.start(turn, "next try"),
            Phase::Idle | Phase::Opening | Phase::Up | Phase::Overdue { .. } => {}
        }
    }

    pub(super) fn on_pulse(&mut self, turn: &mut Turn<'_>, age: Duration) {
        let limit = match self.phase {
            Phase::Idle | Phase::Backoff { .. } | Phase::Waiting { .. } => return,
            Phase::Opening => turn.settings.open_within,
            _ => turn.settings.stall_after,
        };
        if age <= limit {
            self.recover(turn);
            self.replace_outdated(turn);
        } else if !self.stalled {
            self.stalled = true;
            turn.out.push(Action::Emit(Event::Stalled { worker: turn.worker, age }));
            if matches!(self.phase, Phase::Draining { .. }) {
                // It serves nobody, so nobody is waited for.
                self.end(turn, turn.settings.end_within, Next::Rest(State::Stopped));
            }
        }
    }

    pub(super) fn restart(&mut self, turn: &mut Turn<'_>, depth: Depth) -> Result<(), Refusal> {
        let worker = turn.worker;
        let asked = |depth| State::Restarting { depth, backoff: Duration::ZERO };
        if self.state == State::Draining {
            return Err(Refusal::Draining { worker });
        }
        match (&mut self.phase, depth) {
            (Phase::Overdue { .. }, _) => return Err(Refusal::StillRuns { worker }),
            (Phase::Opening, Depth::Soft | Depth::Part(_)) => return Err(Refusal::Opening { worker }),
            // Under way. (Draining was answered above.)
            (Phase::Mending { what: Inside::Handler { .. }, .. }, Depth::Soft) | (Phase::Draining { .. }, _) => {}
            (Phase::Idle, _) => {
                self.budget.reset();
                self.start(turn, "told to start");
            }
            (Phase::Backoff { .. } | Phase::Waiting { .. }, _) => self.start(turn, "told to start"),
            (Phase::Ending { next, .. }, _) => {
                *next = Next::Start { due: turn.now };
                self.go(turn, asked(Depth::Hard), "told to restart");
            }
            // The handler of a parked actor comes first: only the actor knows that a part is closed, and tells again.
            (Phase::Parked { what: Inside::Handler { .. }, .. }, Depth::Part(_)) => {
                return Err(Refusal::Mending { worker });
            }
            (Phase::Mending { .. }, Depth::Part(_)) => return Err(Refusal::Mending { worker }),
            (Phase::Up | Phase::Parked { .. } | Phase::Mending { .. }, Depth::Soft) => {
                self.mend(turn, Inside::Handler { inherit: true });
                self.go(turn, asked(Depth::Soft), "told to restart");
            }
            (Phase::Up | Phase::Parked { .. }, Depth::Part(part)) => {
                self.mend(turn, Inside::Part(part));
                self.go(turn, asked(depth), "told to restart");
            }
            (Phase::Opening | Phase::Up | Phase::Parked { .. } | Phase::Mending { .. }, Depth::Hard) => {
                self.go(turn, asked(Depth::Hard), "told to restart");
                self.end(turn, turn.settings.end_within, Next::Start { due: turn.now });
            }
        }
        Ok(())
    }

    /// Tries again at once what waits to be tried.
    pub(super) fn wake(&mut self, turn: &mut Turn<'_>) {
        let waits = matches!(self.state, State::Waiting { .. });
        match self.phase {
            Phase::Waiting { .. } => self.start(turn, "woken"),
            Phase::Up | Phase::Parked { what: Inside::Parts, .. } if waits => self.mend(turn, Inside::Parts),
            _ => {}
        }
    }

    pub(super) fn drain(&mut self, turn: &mut Turn<'_>, within: Duration) {
        match &mut self.phase {
            Phase::Up if !self.stalled => {
                turn.send(Command::Drain { within });
                self.phase = Phase::Draining { by: turn.after(within) };
                self.go(turn, State::Draining, "told to drain");
            }
            Phase::Draining { by } => *by = (*by).min(turn.after(within)),
            // Nothing in it to drain.
            _ => self.stop(turn, turn.settings.end_within),
        }
    }

    pub(super) fn stop(&mut self, turn: &mut Turn<'_>, within: Duration) {
        const CAUSE: &str = "told to stop";
        match &mut self.phase {
            // A failure stays to be read.
            Phase::Idle if matches!(self.state, State::Failed { .. }) => {}
            Phase::Idle | Phase::Backoff { .. } | Phase::Waiting { .. } => {
                self.phase = Phase::Idle;
                self.go(turn, State::Stopped, CAUSE);
            }
            Phase::Overdue { next } => *next = Next::Rest(State::Stopped),
            Phase::Ending { next, by } => {
                *by = turn.after(within);
                if matches!(next, Next::Start { .. }) {
                    *next = Next::Rest(State::Stopped);
                    self.go(turn, State::Draining, CAUSE);
                }
            }
            _ => {
                self.go(turn, State::Draining, CAUSE);
                self.end(turn, within, Next::Rest(State::Stopped));
            }
        }
    }

    /// Answers a failure by the budget.
    fn fail(&mut self, turn: &mut Turn<'_>, depth: Depth, cause: String) {
        match self.budget.on_failure(turn.now) {
            Decision::GiveUp { restarts, window } => {
                let why = format!("{cause}; given up after {restarts} restarts within {window:?}");
                self.go(turn, State::Failed { why: why.clone() }, cause);
                self.end(turn, turn.settings.end_within, Next::Rest(State::Failed { why }));
            }
            Decision::RestartAfter(backoff) => {
                let due = turn.after(backoff);
                self.go(turn, State::Restarting { depth, backoff }, cause);
                match depth {
                    Depth::Soft => {
                        // What it took over may be what fells it.
                        let what = Inside::Handler { inherit: self.quick == 0 };
                        self.phase = Phase::Parked { due, what };
                    }
                    Depth::Part(_) | Depth::Hard => self.end(turn, turn.settings.end_within, Next::Start { due }),
                }
            }
        }
    }

    /// Has the actor end, if there is one; then `next`.
    fn end(&mut self, turn: &mut Turn<'_>, within: Duration, next: Next) {
        if self.is_live() {
            turn.send(Command::Stop);
            self.phase = Phase::Ending { by: turn.after(within), next };
        } else {
            self.settle(turn, next, String::new());
        }
    }

    /// No actor lives: goes on to `next`.
    fn settle(&mut self, turn: &mut Turn<'_>, next: Next, cause: String) {
        match next {
            // Even one that is due starts by the next tick: a start that is refused at once must not recurse.
            Next::Start { due } => self.phase = Phase::Backoff { due },
            Next::Rest(state) => {
                self.phase = Phase::Idle;
                self.go(turn, state, cause);
            }
        }
    }

    fn start(&mut self, turn: &mut Turn<'_>, cause: &str) {
        self.restarts += u64::from(self.generation > 0);
        self.generation += 1;
        self.phase = Phase::Opening;
        self.softened = None;
        self.outdated = false;
        // Tries of one that waits are not news, until one succeeds.
        if !matches!(self.state, State::Waiting { .. }) {
            self.go(turn, State::Opening, cause);
        }
        turn.out.push(Action::Start { worker: turn.worker, generation: self.generation });
    }

    /// Tells the parked or running actor to rebuild something inside it.
    fn mend(&mut self, turn: &mut Turn<'_>, what: Inside) {
        // Tries of one that waits are not news.
        self.restarts += u64::from(!matches!(self.state, State::Waiting { .. }));
        self.phase = Phase::Mending { by: turn.after(turn.settings.end_within), what };
        turn.send(match what {
            Inside::Handler { inherit } => {
                self.softened = Some(turn.now);
                self.outdated = false;
                Command::RestartHandler { inherit }
            }
            Inside::Part(part) => Command::RestartPart(part),
            Inside::Parts => Command::MendParts,
        });
    }

    fn recover(&mut self, turn: &mut Turn<'_>) {
        if std::mem::take(&mut self.stalled) {
            turn.out.push(Action::Emit(Event::Recovered { worker: turn.worker }));
        }
    }

    fn go(&mut self, turn: &mut Turn<'_>, to: State, cause: impl Into<String>) {
        if self.state == to {
            return;
        }
        if self.state == State::Running {
            self.down_since = Some(turn.now);
        }
        let gap = match to {
            State::Running => self.down_since.take().map(|since| turn.now.saturating_duration_since(since)),
            // Ended on purpose: what follows is no gap.
            State::Stopped => self.down_since.take().and(None),
            _ => None,
        };
        let from = std::mem::replace(&mut self.state, to.clone());
        turn.out.push(Action::Emit(Event::Changed { worker: turn.worker, from, to, cause: cause.into(), gap }));
    }
}
