//! The decisions of the supervisor, without threads, clocks or channels: inputs and the time go in, actions come out.

use std::time::{Duration, Instant};

use super::phase::Turn;
use super::slot::Slot;
use super::{Command, Depth, End, Event, Health, State, Word, WorkerId};
use crate::policy::RestartPolicy;

/// The supervisor's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Restart budget and backoff, of each worker by itself.
    pub policy: RestartPolicy,
    /// For the jitter of the backoff; the same seed decides the same.
    pub seed: u64,
    /// A heartbeat that stands longer is a stall.
    pub stall_after: Duration,
    /// The same while opening: memory is populated and a busy queue is tried again there.
    pub open_within: Duration,
    /// A handler that fails again within this time of its restart inherits nothing the next time, and the time after
    /// that takes its actor with it.
    pub soft_again_within: Duration,
    /// For an actor to end when told to, and for a handler to come back.
    pub end_within: Duration,
    /// Between two tries of a worker that could not open yet.
    pub retry_every: Duration,
    /// Between two tries of a part whose restarts are more than the budget. It is never given up: its actor goes on
    /// without it.
    pub part_every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            policy: RestartPolicy::default(),
            seed: 0,
            stall_after: Duration::from_secs(1),
            open_within: Duration::from_secs(10),
            soft_again_within: Duration::from_millis(100),
            end_within: Duration::from_secs(2),
            retry_every: Duration::from_secs(1),
            part_every: Duration::from_secs(5),
        }
    }
}

/// What the roster is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Start all that are planned.
    Start,
    /// A worker spoke.
    Said {
        /// Which.
        worker: WorkerId,
        /// In which life; words of a former one are not heard.
        generation: u64,
        /// What.
        word: Word,
    },
    /// A worker's actor ended, or did not start.
    Ended {
        /// Which.
        worker: WorkerId,
        /// In which life.
        generation: u64,
        /// How.
        end: End,
    },
    /// A live worker's heartbeat was looked at.
    Pulse {
        /// Which.
        worker: WorkerId,
        /// How long it has stood.
        age: Duration,
    },
    /// Something a waiting worker may have waited for has come.
    Wake {
        /// Which.
        worker: WorkerId,
    },
    /// Finish the work at hand, then stop; stays stopped until a restart is asked for.
    Drain {
        /// Which.
        worker: WorkerId,
        /// Then it is stopped all the same.
        within: Duration,
    },
    /// The factory of handlers is another one: replace the handler of each live worker by one of it. Starts nobody: a
    /// worker without an actor gets such a handler with its next start.
    ReplaceHandlers,
    /// Stop all, for good.
    Stop {
        /// Whoever still runs then is given up.
        within: Duration,
    },
    /// Time has passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Start this life; a refusal comes back as [`Input::Ended`].
    Start {
        /// Which.
        worker: WorkerId,
        /// Its number, from 1.
        generation: u64,
    },
    /// Tell the live actor.
    Send {
        /// Which.
        worker: WorkerId,
        /// What.
        command: Command,
    },
    /// It does not end: call [`Worker::abandon`](super::Worker::abandon).
    Abandon {
        /// Which.
        worker: WorkerId,
    },
    /// Tell the observer.
    Emit(Event),
}

/// Which handler a worker has, compared with the newest factory of handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandlerAge {
    /// One of the newest factory.
    Newest,
    /// A former one, perhaps, until the actor reports the new one.
    Pending,
    /// A former one, until the actor's heartbeat resumes.
    Stalled,
    /// No handler serves: the worker is stopped, failed, ending, or waits for its next start or its next handler.
    None,
}

/// Why a restart is not possible now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// No such worker.
    #[error("there is no worker {worker:?}: there are {workers}, counted from 0")]
    Unknown {
        /// Asked for.
        worker: WorkerId,
        /// There are.
        workers: usize,
    },
    /// It is being drained.
    #[error("worker {worker:?} is draining: restart it when it has stopped")]
    Draining {
        /// Which.
        worker: WorkerId,
    },
    /// It has no handler yet.
    #[error("worker {worker:?} is opening and has no handler to restart yet: restart it hard, or wait")]
    Opening {
        /// Which.
        worker: WorkerId,
    },
    /// Something inside it is being rebuilt.
    #[error("worker {worker:?} is being restarted already: wait until it runs")]
    Mending {
        /// Which.
        worker: WorkerId,
    },
    /// Its thread does not end.
    #[error("worker {worker:?} was told to end and still runs: only a restart of the process frees its thread")]
    StillRuns {
        /// Which.
        worker: WorkerId,
    },
    /// All are being stopped.
    #[error("the engine is stopping: nothing is started any more")]
    Stopping,
}

/// All workers and what they are waited for.
#[derive(Debug)]
pub struct Roster {
    settings: Settings,
    slots: Vec<Slot>,
    health: Health,
    stopping: bool,
}

impl Roster {
    /// `workers` planned workers, none started.
    #[must_use]
    pub fn new(settings: Settings, workers: usize) -> Self {
        let slots = (0..workers).map(|n| Slot::new(&settings, WorkerId(n))).collect();
        Self { settings, slots, health: Health::Healthy, stopping: false }
    }

    /// Takes in what happened; says what to do about it. Unknown workers and former lives are not heard.
    #[must_use]
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        match input {
            Input::Start if self.stopping => {}
            Input::Start => self.each(now, &mut out, Slot::begin),
            Input::Tick => self.each(now, &mut out, Slot::on_time),
            Input::Stop { within } => {
                self.stopping = true;
                self.each(now, &mut out, |slot, turn| slot.stop(turn, within));
            }
            Input::ReplaceHandlers if self.stopping => {}
            Input::ReplaceHandlers => self.each(now, &mut out, Slot::replace_handler),
            Input::Said { worker, generation, word } => {
                self.one(now, &mut out, worker, |slot, turn| {
                    if slot.generation() == generation {
                        slot.on_word(turn, word);
                    }
                });
            }
            Input::Ended { worker, generation, end } => {
                self.one(now, &mut out, worker, |slot, turn| {
                    if slot.generation() == generation {
                        slot.on_end(turn, end);
                    }
                });
            }
            Input::Pulse { worker, age } => self.one(now, &mut out, worker, |slot, turn| slot.on_pulse(turn, age)),
            Input::Wake { worker } => self.one(now, &mut out, worker, |slot, turn| slot.wake(turn)),
            Input::Drain { worker, within } => {
                self.one(now, &mut out, worker, |slot, turn| slot.drain(turn, within));
            }
        }
        self.judge(&mut out);
        out
    }

    /// Restarts a worker because someone asks for it; the budget is not spent, and begins anew for one that
    /// was failed or stopped. A worker that has no living actor is started, whatever the depth.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn restart(&mut self, now: Instant, worker: WorkerId, depth: Depth) -> Result<Vec<Action>, Refusal> {
        if self.stopping {
            return Err(Refusal::Stopping);
        }
        let workers = self.slots.len();
        let slot = self.slots.get_mut(worker.0).ok_or(Refusal::Unknown { worker, workers })?;
        let mut out = Vec::new();
        slot.restart(&mut Turn { now, worker, settings: &self.settings, out: &mut out }, depth)?;
        self.judge(&mut out);
        Ok(out)
    }

    /// Number of workers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// The whole.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health
    }

    /// Where a worker is.
    #[must_use]
    pub fn state(&self, worker: WorkerId) -> Option<&State> {
        self.slots.get(worker.0).map(Slot::state)
    }

    /// Number of a worker's present or last life; 0: never started.
    #[must_use]
    pub fn generation(&self, worker: WorkerId) -> u64 {
        self.slots.get(worker.0).map_or(0, Slot::generation)
    }

    /// Restarts of a worker so far, soft and hard, of itself and asked for.
    #[must_use]
    pub fn restarts(&self, worker: WorkerId) -> u64 {
        self.slots.get(worker.0).map_or(0, Slot::restarts)
    }

    /// Whether a worker has an actor with a thread.
    #[must_use]
    pub fn is_live(&self, worker: WorkerId) -> bool {
        self.slots.get(worker.0).is_some_and(Slot::is_live)
    }

    /// Which handler a worker has.
    #[must_use]
    pub fn handler(&self, worker: WorkerId) -> HandlerAge {
        self.slots.get(worker.0).map_or(HandlerAge::None, Slot::handler)
    }

    /// Whether nothing more comes from a worker without a new order; one that does not end is at rest, yet live.
    #[must_use]
    pub fn is_at_rest(&self, worker: WorkerId) -> bool {
        self.slots.get(worker.0).is_none_or(Slot::is_at_rest)
    }

    /// Whether a worker's heartbeat stands.
    #[must_use]
    pub fn is_stalled(&self, worker: WorkerId) -> bool {
        self.slots.get(worker.0).is_some_and(Slot::is_stalled)
    }

    /// Whether all were told to stop: nothing is started any more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether all were told to stop and are at rest.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.slots.iter().all(Slot::is_at_rest)
    }

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.slots.iter().filter_map(Slot::due).min()
    }

    fn each(&mut self, now: Instant, out: &mut Vec<Action>, mut act: impl FnMut(&mut Slot, &mut Turn<'_>)) {
        for (n, slot) in self.slots.iter_mut().enumerate() {
            act(slot, &mut Turn { now, worker: WorkerId(n), settings: &self.settings, out: &mut *out });
        }
    }

    fn one(
        &mut self,
        now: Instant,
        out: &mut Vec<Action>,
        worker: WorkerId,
        act: impl FnOnce(&mut Slot, &mut Turn<'_>),
    ) {
        if let Some(slot) = self.slots.get_mut(worker.0) {
            act(slot, &mut Turn { now, worker, settings: &self.settings, out });
        }
    }

    fn judge(&mut self, out: &mut Vec<Action>) {
        let bad = |slot: &Slot| slot.is_stalled() || matches!(slot.state(), State::Failed { .. });
        let health = if self.slots.iter().any(bad) { Health::Degraded } else { Health::Healthy };
        if health != self.health {
            self.health = health;
            out.push(Action::Emit(Event::Health(health)));
        }
    }
}

#[cfg(test)]
#[path = "roster_tests.rs"]
mod tests;
