//! Runs the supervisor's thread: feeds the [`SupervisorCore`] and carries out its decisions.
//!
//! Controllers and observer run on this one thread. It never waits for an actor: it polls for exits, and it repeats
//! commands that found a full mailbox.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, tick};

use super::handle::{
    ActorStatus, NotReplaced, REQUESTS, Replacement, ReplacementReply, StopReport, Supervisor, SupervisorHandle,
    SupervisorRequest,
};
use super::link::{ActorMessage, ActorMessageBody, MESSAGE_CAPACITY};
use super::{
    Action, ActorController, ActorExit, ActorId, ActorState, CommandRefused, EngineHealth, Event, HandlerAge, Input,
    ObserverMessage, Settings, SupervisorCommand, SupervisorCore, SupervisorLink, Undelivered,
};
use crate::executor::panic_text;
use crate::heartbeat::{Heartbeat, HeartbeatMonitor};

/// Interval between two checks of heartbeats and exits.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same interval while an actor is known to be ending.
const LOOK_SOON: Duration = Duration::from_millis(1);
/// Time limit for the actors to end after the last handle was dropped without a stop.
const ORPHANED_STOP: Duration = Duration::from_secs(5);

/// Starts all `actors` under a new supervisor thread. That thread calls `observer`, which must not wait for the
/// supervisor.
///
/// # Errors
/// Returns the kernel's error if it creates no thread.
pub fn supervise<W: ActorController>(
    settings: Settings,
    actors: Vec<W>,
    observer: impl FnMut(ObserverMessage<W::Report>) + Send + 'static,
) -> std::io::Result<Supervisor<W::EngineMessage>> {
    let (requests_tx, requests) = bounded(REQUESTS);
    let handle = SupervisorHandle::new(requests_tx, actors.len());
    let thread = std::thread::Builder::new().name("oxide-super".to_owned()).spawn(move || {
        Loop::new(settings, actors, observer).run(requests);
    })?;
    Ok(Supervisor::new(handle, thread))
}

/// Holds what the loop needs of one actor, apart from its lifecycle.
struct ActorRecord<W> {
    controller: W,
    watch: Option<HeartbeatMonitor>,
    dropped: Arc<AtomicU64>,
    /// Commands that found a full mailbox, in their order.
    unsent: Vec<SupervisorCommand>,
    /// The actor dropped its link: it ends soon.
    ending: bool,
}

impl<W> ActorRecord<W> {
    fn at_end(&mut self) {
        self.watch = None;
        self.unsent.clear();
        self.ending = false;
    }
}

struct Loop<W: ActorController, O> {
    core: SupervisorCore,
    records: Vec<ActorRecord<W>>,
    observer: O,
    messages_tx: Sender<ActorMessage<W::Report>>,
    messages: Receiver<ActorMessage<W::Report>>,
    /// Actions that are decided and not carried out yet. A start that is refused at once adds actions. The queue puts
    /// them behind earlier ones, so that the observer receives events in order.
    todo: VecDeque<Action>,
    /// Callers that wait until these actors are settled.
    waiting: Vec<(Vec<ActorId>, Sender<StopReport>)>,
    /// Callers that wait, until this time, for new handlers of all live actors.
    replacing: Vec<(Instant, ReplacementReply)>,
}

impl<W: ActorController, O: FnMut(ObserverMessage<W::Report>)> Loop<W, O> {
    fn new(settings: Settings, actors: Vec<W>, observer: O) -> Self {
        let (messages_tx, messages) = bounded(MESSAGE_CAPACITY);
        let record = |controller| ActorRecord {
            controller,
            watch: None,
            dropped: Arc::default(),
            unsent: Vec::new(),
            ending: false,
        };
        Self {
            core: SupervisorCore::new(settings, actors.len()),
            records: actors.into_iter().map(record).collect(),
            observer,
            messages_tx,
            messages,
            todo: VecDeque::new(),
            waiting: Vec::new(),
            replacing: Vec::new(),
        }
    }

    fn run(mut self, mut requests: Receiver<SupervisorRequest<W::EngineMessage>>) {
        let look = tick(LOOK_EVERY);
        let message = self.messages.clone();
        self.take(Input::Start);
        while !(self.core.is_stopped() && self.waiting.is_empty()) {
            select! {
                recv(message) -> received => if let Ok(first) = received {
                    self.read(first);
                    // This reads the messages that have arrived meanwhile. The number is limited so that requests get
                    // their turn.
                    for more in message.try_iter().take(MESSAGE_CAPACITY) {
                        self.read(more);
                    }
                },
                recv(requests) -> received => match received {
                    Ok(request) => self.serve(request),
                    Err(_) => {
                        requests = never();
                        self.take(Input::Stop { within: ORPHANED_STOP });
                    }
                },
                recv(look) -> _ => self.look(),
                default(self.patience()) => {}
            }
            if self.records.iter().any(|record| record.ending) {
                self.look_for_ends();
            }
            if self.core.next_due().is_some_and(|due| due <= Instant::now()) {
                self.take(Input::Tick);
            }
            self.answer();
            self.answer_replaced();
        }
    }

    /// Returns the time until the next check is due.
    fn patience(&self) -> Duration {
        if self.records.iter().any(|record| record.ending) {
            return LOOK_SOON;
        }
        let due = self.core.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        due.map_or(LOOK_EVERY, |wait| wait.min(LOOK_EVERY))
    }

    fn read(&mut self, message: ActorMessage<W::Report>) {
        let ActorMessage { actor, generation, body } = message;
        match body {
            ActorMessageBody::State(report) => self.take(Input::StateReported { actor, generation, report }),
            ActorMessageBody::Report(report) => (self.observer)(ObserverMessage::Report { actor, generation, report }),
            ActorMessageBody::Ending => {
                let current = self.core.generation(actor) == generation && self.core.is_live(actor);
                if let Some(record) = self.records.get_mut(actor.0)
                    && current
                {
                    record.ending = true;
                }
            }
        }
    }

    fn serve(&mut self, request: SupervisorRequest<W::EngineMessage>) {
        // The caller may have gone, so a failed answer is ignored.
        match request {
            SupervisorRequest::Restart(actor, scope, port, reply) => {
                let result = self.core.restart(Instant::now(), actor, scope, port);
                let _ = reply.send(result.map(|actions| self.act(actions)));
            }
            SupervisorRequest::ReplaceHandlers(Replacement { reply, .. }) if self.core.is_stopping() => {
                let _ = reply.send(Err(CommandRefused::Stopping));
            }
            SupervisorRequest::ReplaceHandlers(Replacement { commit, by, reply }) => {
                commit();
                self.take(Input::ReplaceHandlers);
                self.replacing.push((by, reply));
            }
            SupervisorRequest::Drain(actors, within, reply) => {
                for &actor in &actors {
                    self.take(Input::Drain { actor, within });
                }
                self.waiting.push((actors, reply));
            }
            SupervisorRequest::Stop(within, reply) => {
                self.take(Input::Stop { within });
                self.waiting.push(((0..self.records.len()).map(ActorId).collect(), reply));
            }
            SupervisorRequest::Wake(actor) => self.take(Input::Wake { actor }),
            SupervisorRequest::EngineMessage(actor, message) => {
                if let Some(record) = self.records.get_mut(actor.0) {
                    record.controller.on_engine_message(message);
                }
            }
            SupervisorRequest::Status(reply) => drop(reply.send((self.core.health(), self.status()))),
        }
    }

    /// Checks heartbeats, exits and unsent commands, and calls the controllers' `tick`.
    fn look(&mut self) {
        let now = Instant::now();
        for n in 0..self.records.len() {
            let actor = ActorId(n);
            let live = self.core.is_live(actor);
            let Some(record) = self.records.get_mut(n) else { continue };
            record.controller.tick(now);
            let unsent = std::mem::take(&mut record.unsent);
            let age = record.watch.as_mut().map(|watch| watch.age(now));
            if live {
                for command in unsent {
                    self.send(actor, command);
                }
                if let Some(age) = age {
                    self.take(Input::Heartbeat { actor, age });
                }
            }
        }
        self.look_for_ends();
        self.take(Input::Tick);
    }

    fn look_for_ends(&mut self) {
        for n in 0..self.records.len() {
            let actor = ActorId(n);
            let Some(end) = self.records.get_mut(n).and_then(|record| record.controller.poll_end()) else { continue };
            // Messages that the actor sent before its exit are handled before the exit.
            self.read_waiting();
            if let Some(record) = self.records.get_mut(n) {
                record.at_end();
            }
            self.take(Input::Ended { actor, generation: self.core.generation(actor), end });
        }
    }

    fn read_waiting(&mut self) {
        for message in self.messages.clone().try_iter().take(MESSAGE_CAPACITY) {
            self.read(message);
        }
    }

    fn take(&mut self, input: Input) {
        let actions = self.core.handle(Instant::now(), input);
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        self.todo.extend(actions);
        while let Some(action) = self.todo.pop_front() {
            match action {
                Action::Start { actor, generation } => self.start(actor, generation),
                Action::Send { actor, command } => self.send(actor, command),
                Action::Abandon { actor } => {
                    if let Some(record) = self.records.get_mut(actor.0) {
                        record.controller.abandon();
                    }
                }
                Action::Emit(event) => {
                    self.log(&event);
                    let stopped = match event {
                        Event::Stalled { actor, .. } => Some((actor, true)),
                        Event::Recovered { actor } => Some((actor, false)),
                        _ => None,
                    };
                    if let Some((ActorId(n), stopped)) = stopped
                        && let Some(record) = self.records.get_mut(n)
                    {
                        record.controller.stalled(stopped);
                    }
                    (self.observer)(ObserverMessage::Event(event));
                }
            }
        }
    }

    fn start(&mut self, actor: ActorId, generation: u64) {
        let Some(record) = self.records.get_mut(actor.0) else { return };
        let (heartbeat, watch) = Heartbeat::new(Instant::now());
        let link =
            SupervisorLink::new(actor, generation, self.messages_tx.clone(), heartbeat, Arc::clone(&record.dropped));
        record.watch = Some(watch);
        // A panic in one controller must not end the supervisor.
        let started = catch_unwind(AssertUnwindSafe(|| record.controller.start(generation, link)))
            .unwrap_or_else(|payload| Err(ActorExit::Panicked(panic_text(payload))));
        if let Err(end) = started {
            record.at_end();
            self.todo.extend(self.core.handle(Instant::now(), Input::Ended { actor, generation, end }));
        }
    }

    fn send(&mut self, actor: ActorId, command: SupervisorCommand) {
        let Some(record) = self.records.get_mut(actor.0) else { return };
        // The command goes behind those that wait already: commands keep their order.
        if !record.unsent.is_empty() || record.controller.command(command) == Err(Undelivered::Busy) {
            record.unsent.push(command);
        }
    }

    fn answer(&mut self) {
        let (core, records) = (&self.core, &self.records);
        self.waiting.retain(|(actors, reply)| {
            if !actors.iter().all(|&actor| core.is_settled(actor)) {
                return true;
            }
            let still_live = actors.iter().filter(|&&actor| core.is_live(actor));
            let not_ended =
                still_live.filter_map(|w| records.get(w.0)).map(|s| s.controller.name().to_owned()).collect();
            let _ = reply.send(StopReport { not_ended });
            false
        });
    }

    /// Answers the callers that wait for new handlers, when all are there or the time is over.
    fn answer_replaced(&mut self) {
        if self.replacing.is_empty() {
            return;
        }
        let not_replaced = |n: usize| {
            let (actor, handler) = (ActorId(n), self.core.handler(ActorId(n)));
            let state = self.core.state(actor).cloned()?;
            (handler != HandlerAge::Newest).then_some(NotReplaced { actor, handler, state })
        };
        let without: Vec<NotReplaced> = (0..self.records.len()).filter_map(not_replaced).collect();
        let pending = without.iter().any(|one| one.handler == HandlerAge::Pending);
        let now = Instant::now();
        self.replacing.retain(|(by, reply)| {
            let wait = pending && now < *by;
            if !wait {
                let _ = reply.send(Ok(without.clone()));
            }
            wait
        });
    }

    fn status(&self) -> Vec<ActorStatus> {
        let status = |(n, record): (usize, &ActorRecord<W>)| {
            let actor = ActorId(n);
            ActorStatus {
                actor,
                name: record.controller.name().to_owned(),
                state: self.core.state(actor).cloned().unwrap_or(ActorState::Planned),
                generation: self.core.generation(actor),
                restarts: self.core.restarts(actor),
                stalled: self.core.is_stalled(actor),
                telemetry_dropped: record.dropped.load(Ordering::Relaxed),
            }
        };
        self.records.iter().enumerate().map(status).collect()
    }

    fn log(&self, event: &Event) {
        let name = |actor: &ActorId| self.records.get(actor.0).map_or("?", |record| record.controller.name());
        match event {
            Event::Changed { actor, from, to, cause, gap } => {
                let (actor, from, gap_ms) = (name(actor), from.name(), gap.map(|gap| gap.as_millis() as u64));
                match to {
                    ActorState::Failed { .. } => tracing::error!(actor, from, to = %to, %cause, "actor failed"),
                    ActorState::Restarting { .. } => tracing::warn!(actor, from, to = %to, %cause, "actor restarts"),
                    _ => tracing::info!(actor, from, to = %to, %cause, gap_ms, "actor changed its state"),
                }
            }
            Event::Stalled { actor, age } => {
                tracing::error!(actor = name(actor), age_ms = age.as_millis() as u64, "heartbeat stopped");
            }
            Event::Recovered { actor } => tracing::warn!(actor = name(actor), "heartbeat resumed"),
            Event::Health(EngineHealth::Degraded) => tracing::error!("engine degraded"),
            Event::Health(EngineHealth::Healthy) => tracing::info!("engine healthy"),
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
