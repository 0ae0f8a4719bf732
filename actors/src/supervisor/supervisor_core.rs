//! Decides for the supervisor, without threads, clocks or channels: inputs and the time go in, actions come out.

use std::time::{Duration, Instant};

use super::lifecycle::ActorLifecycle;
use super::phase::TransitionContext;
use super::{ActorExit, ActorId, ActorState, EngineHealth, Event, RestartScope, StateReport, SupervisorCommand};
use crate::policy::RestartPolicy;

/// Holds the supervisor's limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Restart budget and backoff of each actor.
    pub policy: RestartPolicy,
    /// Seed of the backoff's jitter; the same seed gives the same decisions.
    pub seed: u64,
    /// Maximum age of a heartbeat; an older one is a stall.
    pub stall_after: Duration,
    /// The same limit while opening, which populates memory and retries a busy queue.
    pub open_within: Duration,
    /// A handler that fails again within this time of its restart loses its sessions at the next restart. At the
    /// failure after that, the whole actor restarts.
    pub soft_again_within: Duration,
    /// Time limit for an actor to end after a request, and for a rebuilt handler to report.
    pub end_within: Duration,
    /// Interval between two attempts of an actor that could not open yet.
    pub retry_every: Duration,
    /// Interval between two attempts of a port that has exhausted the budget. The attempts never end; the actor
    /// continues without the port.
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

/// Holds one input of the decisions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// Starts all planned actors.
    Start,
    /// An actor reported its state.
    StateReported {
        /// Identifies the actor.
        actor: ActorId,
        /// Number of its run. Reports of former runs are ignored.
        generation: u64,
        /// Its report.
        report: StateReport,
    },
    /// An actor ended, or did not start.
    Ended {
        /// Identifies the actor.
        actor: ActorId,
        /// Number of its run.
        generation: u64,
        /// Exit of the run.
        end: ActorExit,
    },
    /// The heartbeat of a live actor was read.
    Heartbeat {
        /// Identifies the actor.
        actor: ActorId,
        /// Time since the last heartbeat.
        age: Duration,
    },
    /// Something that a waiting actor may need has appeared.
    Wake {
        /// Identifies the actor.
        actor: ActorId,
    },
    /// The actor finishes its work and stops. It stays stopped until a restart is requested.
    Drain {
        /// Identifies the actor.
        actor: ActorId,
        /// It is stopped after this time.
        within: Duration,
    },
    /// The factory of handlers has changed: each live actor replaces its handler. No actor is started: one without a
    /// thread gets a new handler at its next start.
    ReplaceHandlers,
    /// All actors stop, and none starts again.
    Stop {
        /// An actor that still runs after this time is abandoned.
        within: Duration,
    },
    /// Time has passed.
    Tick,
}

/// Holds one action. Actions are carried out in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // one for each change of state, so the size does not matter
pub enum Action {
    /// Starts this run; a refusal returns as [`Input::Ended`].
    Start {
        /// Identifies the actor.
        actor: ActorId,
        /// Number of the run, from 1.
        generation: u64,
    },
    /// Sends a command to the live actor.
    Send {
        /// Identifies the actor.
        actor: ActorId,
        /// The command.
        command: SupervisorCommand,
    },
    /// The actor does not end: calls [`ActorController::abandon`](super::ActorController::abandon).
    Abandon {
        /// Identifies the actor.
        actor: ActorId,
    },
    /// Sends an event to the observer.
    Emit(Event),
}

/// Compares the handler of an actor with the newest factory of handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum HandlerAge {
    /// A handler of the newest factory.
    Newest,
    /// Possibly a handler of a former factory, until the actor reports the new one.
    Pending,
    /// A handler of a former factory, until the actor's heartbeat resumes.
    Stalled,
    /// No handler serves: the actor is stopped, failed or ending, or waits for its next start or its next handler.
    None,
}

/// Describes why a restart is not possible now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CommandRefused {
    /// There is no such actor.
    #[error("actor {}: it does not exist; there are {actors} actors, counted from 0", .actor.0)]
    Unknown {
        /// Requested actor.
        actor: ActorId,
        /// Number of actors.
        actors: usize,
    },
    /// The actor is draining.
    #[error("actor {}: it is draining; to fix: restart it when it has stopped", .actor.0)]
    Draining {
        /// Identifies the actor.
        actor: ActorId,
    },
    /// The actor has no handler yet.
    #[error("actor {}: it is opening and has no handler yet; to fix: wait, or restart the whole queue", .actor.0)]
    Opening {
        /// Identifies the actor.
        actor: ActorId,
    },
    /// Something inside the actor is being rebuilt.
    #[error("actor {}: a restart is in progress; to fix: wait until it runs", .actor.0)]
    RebuildInProgress {
        /// Identifies the actor.
        actor: ActorId,
    },
    /// The actor's thread does not end.
    #[error("actor {}: it did not end in time and still runs; to fix: restart the process", .actor.0)]
    StillRuns {
        /// Identifies the actor.
        actor: ActorId,
    },
    /// All actors are being stopped.
    #[error("engine: it is stopping and starts no actor")]
    Stopping,
}

/// Holds the state machines of all actors.
#[derive(Debug)]
pub struct SupervisorCore {
    settings: Settings,
    lifecycles: Vec<ActorLifecycle>,
    health: EngineHealth,
    stopping: bool,
}

impl SupervisorCore {
    /// Creates `actors` planned actors, none started.
    #[must_use]
    pub fn new(settings: Settings, actors: usize) -> Self {
        let lifecycles = (0..actors).map(|n| ActorLifecycle::new(&settings, ActorId(n))).collect();
        Self { settings, lifecycles, health: EngineHealth::Healthy, stopping: false }
    }

    /// Takes one input and returns the actions that follow. Unknown actors and former runs are ignored.
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

    /// Restarts an actor on request. This does not use the budget; a failed or stopped actor gets a full budget. An
    /// actor without a thread is started, for every scope. [`RestartScope::Port`] rebuilds `port`; the other scopes
    /// ignore it.
    ///
    /// # Errors
    /// Returns [`CommandRefused`].
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

    /// Returns the number of actors.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lifecycles.len()
    }

    /// Returns whether there is no actor.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lifecycles.is_empty()
    }

    /// Returns the health of the engine.
    #[must_use]
    pub fn health(&self) -> EngineHealth {
        self.health
    }

    /// Returns the state of an actor.
    #[must_use]
    pub fn state(&self, actor: ActorId) -> Option<&ActorState> {
        self.lifecycles.get(actor.0).map(ActorLifecycle::state)
    }

    /// Returns the number of an actor's current or last run; 0 if it never started.
    #[must_use]
    pub fn generation(&self, actor: ActorId) -> u64 {
        self.lifecycles.get(actor.0).map_or(0, ActorLifecycle::generation)
    }

    /// Returns the number of an actor's restarts so far, of every scope, automatic or requested.
    #[must_use]
    pub fn restarts(&self, actor: ActorId) -> u64 {
        self.lifecycles.get(actor.0).map_or(0, ActorLifecycle::restarts)
    }

    /// Returns whether an actor has a thread.
    #[must_use]
    pub fn is_live(&self, actor: ActorId) -> bool {
        self.lifecycles.get(actor.0).is_some_and(ActorLifecycle::is_live)
    }

    /// Returns the age of an actor's handler.
    #[must_use]
    pub fn handler(&self, actor: ActorId) -> HandlerAge {
        self.lifecycles.get(actor.0).map_or(HandlerAge::None, ActorLifecycle::handler)
    }

    /// Returns whether nothing more happens to an actor without a new command. An abandoned actor is settled, but
    /// live.
    #[must_use]
    pub fn is_settled(&self, actor: ActorId) -> bool {
        self.lifecycles.get(actor.0).is_none_or(ActorLifecycle::is_settled)
    }

    /// Returns whether an actor's heartbeat has stopped.
    #[must_use]
    pub fn is_stalled(&self, actor: ActorId) -> bool {
        self.lifecycles.get(actor.0).is_some_and(ActorLifecycle::is_stalled)
    }

    /// Returns whether all actors were stopped: none starts any more.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Returns whether all actors were stopped and are settled.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.stopping && self.lifecycles.iter().all(ActorLifecycle::is_settled)
    }

    /// Returns the time of the next [`Input::Tick`].
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
