//! The decisions of the supervisor, without threads, clocks or channels: inputs and the time go in, actions come out.

use std::time::{Duration, Instant};

use super::lifecycle::ActorLifecycle;
use super::phase::TransitionContext;
use super::{ActorExit, ActorId, ActorState, EngineHealth, Event, RestartScope, StateReport, SupervisorCommand};
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
    StateReported {
        /// Which.
        actor: ActorId,
        /// In which life; words of a former one are not heard.
        generation: u64,
        /// What.
        report: StateReport,
    },
    /// A worker's actor ended, or did not start.
    Ended {
        /// Which.
        actor: ActorId,
        /// In which life.
        generation: u64,
        /// How.
        end: ActorExit,
    },
    /// A live worker's heartbeat was looked at.
    Heartbeat {
        /// Which.
        actor: ActorId,
        /// How long it has stood.
        age: Duration,
    },
    /// Something a waiting worker may have waited for has come.
    Wake {
        /// Which.
        actor: ActorId,
    },
    /// Finish the work at hand, then stop; stays stopped until a restart is asked for.
    Drain {
        /// Which.
        actor: ActorId,
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
#[allow(clippy::large_enum_variant)] // one for each change of state: rare, and moved a few times
pub enum Action {
    /// Start this life; a refusal comes back as [`Input::Ended`].
    Start {
        /// Which.
        actor: ActorId,
        /// Its number, from 1.
        generation: u64,
    },
    /// Tell the live actor.
    Send {
        /// Which.
        actor: ActorId,
        /// What.
        command: SupervisorCommand,
    },
    /// It does not end: call [`ActorController::abandon`](super::ActorController::abandon).
    Abandon {
        /// Which.
        actor: ActorId,
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
pub enum CommandRefused {
    /// No such worker.
    #[error("there is no worker {actor:?}: there are {actors}, counted from 0")]
    Unknown {
        /// Asked for.
        actor: ActorId,
        /// There are.
        actors: usize,
    },
    /// It is being drained.
    #[error("worker {actor:?} is draining: restart it when it has stopped")]
    Draining {
        /// Which.
        actor: ActorId,
    },
    /// It has no handler yet.
    #[error("worker {actor:?} is opening and has no handler to restart yet: restart it hard, or wait")]
    Opening {
        /// Which.
        actor: ActorId,
    },
    /// Something inside it is being rebuilt.
    #[error("worker {actor:?} is being restarted already: wait until it runs")]
    RebuildInProgress {
        /// Which.
        actor: ActorId,
    },
    /// Its thread does not end.
    #[error("worker {actor:?} was told to end and still runs: only a restart of the process frees its thread")]
    StillRuns {
        /// Which.
        actor: ActorId,
    },
    /// All are being stopped.
    #[error("the engine is stopping: nothing is started any more")]
    Stopping,
}

/// All workers and what they are waited for.
#[derive(Debug)]
pub struct SupervisorCore {
    settings: Settings,
    lifecycles: Vec<ActorLifecycle>,
    health: EngineHealth,
    stopping: bool,
}

impl SupervisorCore {
    /// `actors` planned workers, none started.
    #[must_use]
    pub fn new(settings: Settings, actors: usize) -> Self {
        let lifecycles = (0..actors).map(|n| ActorLifecycle::new(&settings, ActorId(n))).collect();
        Self { settings, lifecycles, health: EngineHealth::Healthy, stopping: false }
    }

    /// Takes in what happened; says what to do about it. Unknown workers and former lives are not heard.
    #[must_use]
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        let mut out = Vec::new();
        match input {
            Input::Start if self.stopping => {}
            Input::Start => self.each(now, &mut out, ActorLifecycle::begin),
            Input::Tick => self.each(now, &mut out, ActorLifecycle::on_time),
            Input::Stop { within } => {
                self.stopping = true;
                self.each(now, &mut out, |lifecycle, cx| lifecycle.stop(cx, within));
            }
            Input::ReplaceHandlers if self.stopping => {}
            Input::ReplaceHandlers => self.each(now, &mut out, ActorLifecycle::replace_handler),
            Input::StateReported { actor, generation, report } => {
                self.one(now, &mut out, actor, |lifecycle, cx| {
                    if lifecycle.generation() == generation {
                        lifecycle.on_state(cx, report);
                    }
                });
            }
            Input::Ended { actor, generation, end } => {
                self.one(now, &mut out, actor, |lifecycle, cx| {
                    if lifecycle.generation() == generation {
                        lifecycle.on_end(cx, end);
                    }
                });
            }
            Input::Heartbeat { actor, age } => {
                self.one(now, &mut out, actor, |lifecycle, cx| lifecycle.on_heartbeat(cx, age))
            }
            Input::Wake { actor } => self.one(now, &mut out, actor, |lifecycle, cx| lifecycle.wake(cx)),
            Input::Drain { actor, within } => {
                self.one(now, &mut out, actor, |lifecycle, cx| lifecycle.drain(cx, within));
            }
        }
        self.update_health(&mut out);
        out
    }

    /// Restarts a worker because someone asks for it; the budget is not spent, and begins anew for one that
    /// was failed or stopped. A worker that has no living actor is started, whatever the scope. `port` is the part that
    /// [`RestartScope::Port`] is about; the other scopes do not read it.
    ///
    /// # Errors
    /// [`CommandRefused`].
    pub fn restart(
        &mut self,
        now: Instant,
        actor: ActorId,
        scope: RestartScope,
        port: u8,
    ) -> Result<Vec<Action>, CommandRefused> {
        if self.stopping {
            return Err(CommandRefused::Stopping);
        }
        let actors = self.lifecycles.len();
        let lifecycle = self.lifecycles.get_mut(actor.0).ok_or(CommandRefused::Unknown { actor, actors })?;
        let mut out = Vec::new();
        lifecycle.restart(
            &mut TransitionContext { now, actor, settings: &self.settings, out: &mut out },
            scope,
            port,
        )?;
        self.update_health(&mut out);
        Ok(out)
    }

    /// Number of workers.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lifecycles.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lifecycles.is_empty()
    }

    /// The whole.
    #[must_use]
    pub fn health(&self) -> EngineHealth {
        self.health
    }

    /// Where a worker is.
    #[must_use]
    pub fn state(&self, actor: ActorId) -> Option<&ActorState> {
        self.lifecycles.get(actor.0).map(ActorLifecycle::state)
    }

    /// Number of a worker's present or last life; 0: never started.
    #[must_use]
    pub fn generation(&self, actor: ActorId) -> u64 {
        self.lifecycles.get(actor.0).map_or(0, ActorLifecycle::generation)
    }

    /// Restarts of a worker so far, soft and hard, of itself and asked for.
    #[must_use]
    pub fn restarts(&self, actor: ActorId) -> u64 {
        self.lifecycles.get(actor.0).map_or(0, ActorLifecycle::restarts)
    }

    /// Whether a worker has an actor with a thread.
    #[must_use]
    pub fn is_live(&self, actor: ActorId) -> bool {
        self.lifecycles.get(actor.0).is_some_and(ActorLifecycle::is_live)
    }

    /// Which handler a worker has.
    #[must_use]
    pub fn handler(&self, actor: ActorId) -> HandlerAge {
        self.lifecycles.get(actor.0).map_or(HandlerAge::None, ActorLifecycle::handler)
    }

    /// Whether nothing more comes from a worker without a new order; one that does not end is at rest, yet live.
    #[must_use]
    pub fn is_settled(&self, actor: ActorId) -> bool {
        self.lifecycles.get(actor.0).is_none_or(ActorLifecycle::is_settled)
    }

    /// Whether a worker's heartbeat stands.
    #[must_use]
    pub fn is_stalled(&self, actor: ActorId) -> bool {
        self.lifecycles.get(actor.0).is_some_and(ActorLifecycle::is_stalled)
    }

    /// Whether all were told to stop: nothing is started any more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Whether all were told to stop and are at rest.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.lifecycles.iter().all(ActorLifecycle::is_settled)
    }

    /// When the next [`Input::Tick`] is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        self.lifecycles.iter().filter_map(ActorLifecycle::due).min()
    }

    fn each(
        &mut self,
        now: Instant,
        out: &mut Vec<Action>,
        mut act: impl FnMut(&mut ActorLifecycle, &mut TransitionContext<'_>),
    ) {
        for (n, lifecycle) in self.lifecycles.iter_mut().enumerate() {
            act(lifecycle, &mut TransitionContext { now, actor: ActorId(n), settings: &self.settings, out: &mut *out });
        }
    }

    fn one(
        &mut self,
        now: Instant,
        out: &mut Vec<Action>,
        actor: ActorId,
        act: impl FnOnce(&mut ActorLifecycle, &mut TransitionContext<'_>),
    ) {
        if let Some(lifecycle) = self.lifecycles.get_mut(actor.0) {
            act(lifecycle, &mut TransitionContext { now, actor, settings: &self.settings, out });
        }
    }

    fn update_health(&mut self, out: &mut Vec<Action>) {
        let bad = |lifecycle: &ActorLifecycle| {
            lifecycle.is_stalled() || matches!(lifecycle.state(), ActorState::Failed { .. })
        };
        let health = if self.lifecycles.iter().any(bad) { EngineHealth::Degraded } else { EngineHealth::Healthy };
        if health != self.health {
            self.health = health;
            out.push(Action::Emit(Event::Health(health)));
        }
    }
}

#[cfg(test)]
#[path = "supervisor_core_tests.rs"]
mod tests;
