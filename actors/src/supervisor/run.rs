//! The supervisor's thread: moves what the [`Roster`] is told and what it decides.
//!
//! Everything of it, workers and observer too, lives on this one thread. It never waits for an actor: ends are looked
//! for, commands that find a full mailbox are tried again.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, never, select, tick};

use super::handle::{
    NotReplaced, REQUESTS, Replacement, ReplacementReply, Request, Rested, Status, Supervisor, SupervisorHandle,
};
use super::link::{Content, MAIL_CAPACITY, Mail};
use super::{
    Action, Command, End, Event, HandlerAge, Health, Input, Link, Notice, Refusal, Roster, Settings, State,
    Undelivered, Worker, WorkerId,
};
use crate::executor::panic_text;
use crate::pulse::{Pulse, PulseWatch};

/// Between two looks at heartbeats and ends.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The same while an actor is known to be ending.
const LOOK_SOON: Duration = Duration::from_millis(1);
/// For the workers to end when the last handle was dropped without a stop.
const ORPHANED_STOP: Duration = Duration::from_secs(5);

/// Starts all `workers` under a new supervisor's thread. `observer` is called on that thread: it must not wait
/// for the supervisor.
///
/// # Errors
/// The kernel gave no thread.
pub fn supervise<W: Worker>(
    settings: Settings,
    workers: Vec<W>,
    observer: impl FnMut(Notice<W::Report>) + Send + 'static,
) -> std::io::Result<Supervisor<W::Note>> {
    let (requests_tx, requests) = bounded(REQUESTS);
    let handle = SupervisorHandle::new(requests_tx, workers.len());
    let thread = std::thread::Builder::new().name("oxide-super".to_owned()).spawn(move || {
        Loop::new(settings, workers, observer).run(requests);
    })?;
    Ok(Supervisor::new(handle, thread))
}

/// What the loop keeps of one worker beside the roster's slot.
struct Seat<W> {
    worker: W,
    watch: Option<PulseWatch>,
    dropped: Arc<AtomicU64>,
    /// Commands its mailbox had no room for, in their order.
    unsent: Vec<Command>,
    /// Its link is dropped: the end comes soon.
    ending: bool,
}

impl<W> Seat<W> {
    fn at_end(&mut self) {
        self.watch = None;
        self.unsent.clear();
        self.ending = false;
    }
}

struct Loop<W: Worker, O> {
    roster: Roster,
    seats: Vec<Seat<W>>,
    observer: O,
    mail_tx: Sender<Mail<W::Report>>,
    mail: Receiver<Mail<W::Report>>,
    /// Decided, not yet done. A start that is refused at once decides more; in a queue, that comes after what was
    /// decided before it, as the observer must hear it.
    todo: VecDeque<Action>,
    /// Who waits until which workers are at rest.
    waiting: Vec<(Vec<WorkerId>, Sender<Rested>)>,
    /// Who waits, until when, until every live worker has its new handler.
    replacing: Vec<(Instant, ReplacementReply)>,
}

impl<W: Worker, O: FnMut(Notice<W::Report>)> Loop<W, O> {
    fn new(settings: Settings, workers: Vec<W>, observer: O) -> Self {
        let (mail_tx, mail) = bounded(MAIL_CAPACITY);
        let seat = |worker| Seat { worker, watch: None, dropped: Arc::default(), unsent: Vec::new(), ending: false };
        Self {
            roster: Roster::new(settings, workers.len()),
            seats: workers.into_iter().map(seat).collect(),
            observer,
            mail_tx,
            mail,
            todo: VecDeque::new(),
            waiting: Vec::new(),
            replacing: Vec::new(),
        }
    }

    fn run(mut self, mut requests: Receiver<Request<W::Note>>) {
        let look = tick(LOOK_EVERY);
        let mail = self.mail.clone();
        self.tell(Input::Start);
        while !(self.roster.is_stopped() && self.waiting.is_empty()) {
            select! {
                recv(mail) -> received => if let Ok(first) = received {
                    self.read(first);
                    // What has come meanwhile, but not for ever: the rest has a right to its turn.
                    for more in mail.try_iter().take(MAIL_CAPACITY) {
                        self.read(more);
                    }
                },
                recv(requests) -> received => match received {
                    Ok(request) => self.serve(request),
                    Err(_) => {
                        requests = never();
                        self.tell(Input::Stop { within: ORPHANED_STOP });
                    }
                },
                recv(look) -> _ => self.look(),
                default(self.patience()) => {}
            }
            if self.seats.iter().any(|seat| seat.ending) {
                self.look_for_ends();
            }
            if self.roster.next_due().is_some_and(|due| due <= Instant::now()) {
                self.tell(Input::Tick);
            }
            self.answer();
            self.answer_replaced();
        }
    }

    /// How long nothing is due.
    fn patience(&self) -> Duration {
        if self.seats.iter().any(|seat| seat.ending) {
            return LOOK_SOON;
        }
        let due = self.roster.next_due().map(|due| due.saturating_duration_since(Instant::now()));
        due.map_or(LOOK_EVERY, |wait| wait.min(LOOK_EVERY))
    }

    fn read(&mut self, mail: Mail<W::Report>) {
        let Mail { worker, generation, content } = mail;
        match content {
            Content::Word(word) => self.tell(Input::Said { worker, generation, word }),
            Content::Report(report) => (self.observer)(Notice::Report { worker, generation, report }),
            Content::Ending => {
                let current = self.roster.generation(worker) == generation && self.roster.is_live(worker);
                if let Some(seat) = self.seats.get_mut(worker.0)
                    && current
                {
                    seat.ending = true;
                }
            }
        }
    }

    fn serve(&mut self, request: Request<W::Note>) {
        // Whoever asked may have gone; so no answer is waited for.
        match request {
            Request::Restart(worker, depth, reply) => {
                let result = self.roster.restart(Instant::now(), worker, depth);
                let _ = reply.send(result.map(|actions| self.act(actions)));
            }
            Request::ReplaceHandlers(Replacement { reply, .. }) if self.roster.is_stopping() => {
                let _ = reply.send(Err(Refusal::Stopping));
            }
            Request::ReplaceHandlers(Replacement { commit, by, reply }) => {
                commit();
                self.tell(Input::ReplaceHandlers);
                self.replacing.push((by, reply));
            }
            Request::Drain(workers, within, reply) => {
                for &worker in &workers {
                    self.tell(Input::Drain { worker, within });
                }
                self.waiting.push((workers, reply));
            }
            Request::Stop(within, reply) => {
                self.tell(Input::Stop { within });
                self.waiting.push(((0..self.seats.len()).map(WorkerId).collect(), reply));
            }
            Request::Wake(worker) => self.tell(Input::Wake { worker }),
            Request::Note(worker, note) => {
                if let Some(seat) = self.seats.get_mut(worker.0) {
                    seat.worker.note(note);
                }
            }
            Request::Status(reply) => drop(reply.send((self.roster.health(), self.status()))),
        }
    }

    /// The regular look at everything that does not speak by itself.
    fn look(&mut self) {
        let now = Instant::now();
        for n in 0..self.seats.len() {
            let worker = WorkerId(n);
            let live = self.roster.is_live(worker);
            let Some(seat) = self.seats.get_mut(n) else { continue };
            seat.worker.tick(now);
            let unsent = std::mem::take(&mut seat.unsent);
            let age = seat.watch.as_mut().map(|watch| watch.age(now));
            if live {
                for command in unsent {
                    self.send(worker, command);
                }
                if let Some(age) = age {
                    self.tell(Input::Pulse { worker, age });
                }
            }
        }
        self.look_for_ends();
        self.tell(Input::Tick);
    }

    fn look_for_ends(&mut self) {
        for n in 0..self.seats.len() {
            let worker = WorkerId(n);
            let Some(end) = self.seats.get_mut(n).and_then(|seat| seat.worker.poll_end()) else { continue };
            // What it said before its end comes before its end.
            self.read_waiting();
            if let Some(seat) = self.seats.get_mut(n) {
                seat.at_end();
            }
            self.tell(Input::Ended { worker, generation: self.roster.generation(worker), end });
        }
    }

    fn read_waiting(&mut self) {
        for mail in self.mail.clone().try_iter().take(MAIL_CAPACITY) {
            self.read(mail);
        }
    }

    fn tell(&mut self, input: Input) {
        let actions = self.roster.handle(Instant::now(), input);
        self.act(actions);
    }

    fn act(&mut self, actions: Vec<Action>) {
        self.todo.extend(actions);
        while let Some(action) = self.todo.pop_front() {
            match action {
                Action::Start { worker, generation } => self.start(worker, generation),
                Action::Send { worker, command } => self.send(worker, command),
                Action::Abandon { worker } => {
                    if let Some(seat) = self.seats.get_mut(worker.0) {
                        seat.worker.abandon();
                    }
                }
                Action::Emit(event) => {
                    self.log(&event);
                    let stands = match event {
                        Event::Stalled { worker, .. } => Some((worker, true)),
                        Event::Recovered { worker } => Some((worker, false)),
                        _ => None,
                    };
                    if let Some((WorkerId(n), stands)) = stands
                        && let Some(seat) = self.seats.get_mut(n)
                    {
                        seat.worker.stalled(stands);
                    }
                    (self.observer)(Notice::Event(event));
                }
            }
        }
    }

    fn start(&mut self, worker: WorkerId, generation: u64) {
        let Some(seat) = self.seats.get_mut(worker.0) else { return };
        let (pulse, watch) = Pulse::new(Instant::now());
        let link = Link::new(worker, generation, self.mail_tx.clone(), pulse, Arc::clone(&seat.dropped));
        seat.watch = Some(watch);
        // One worker's defect is not the supervisor's.
        let started = catch_unwind(AssertUnwindSafe(|| seat.worker.start(generation, link)))
            .unwrap_or_else(|payload| Err(End::Panicked(panic_text(payload))));
        if let Err(end) = started {
            seat.at_end();
            self.todo.extend(self.roster.handle(Instant::now(), Input::Ended { worker, generation, end }));
        }
    }

    fn send(&mut self, worker: WorkerId, command: Command) {
        let Some(seat) = self.seats.get_mut(worker.0) else { return };
        // Behind what waits already: commands keep their order.
        if !seat.unsent.is_empty() || seat.worker.command(command) == Err(Undelivered::Busy) {
            seat.unsent.push(command);
        }
    }

    fn answer(&mut self) {
        let (roster, seats) = (&self.roster, &self.seats);
        self.waiting.retain(|(workers, reply)| {
            if !workers.iter().all(|&worker| roster.is_at_rest(worker)) {
                return true;
            }
            let still_live = workers.iter().filter(|&&worker| roster.is_live(worker));
            let not_ended = still_live.filter_map(|w| seats.get(w.0)).map(|s| s.worker.name().to_owned()).collect();
            let _ = reply.send(Rested { not_ended });
            false
        });
    }

    /// Answers who waits for new handlers: all are there, or the time is over.
    fn answer_replaced(&mut self) {
        if self.replacing.is_empty() {
            return;
        }
        let not_replaced = |n: usize| {
            let (worker, handler) = (WorkerId(n), self.roster.handler(WorkerId(n)));
            let state = self.roster.state(worker).cloned()?;
            (handler != HandlerAge::Newest).then_some(NotReplaced { worker, handler, state })
        };
        let without: Vec<NotReplaced> = (0..self.seats.len()).filter_map(not_replaced).collect();
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

    fn status(&self) -> Vec<Status> {
        let status = |(n, seat): (usize, &Seat<W>)| {
            let worker = WorkerId(n);
            Status {
                worker,
                name: seat.worker.name().to_owned(),
                state: self.roster.state(worker).cloned().unwrap_or(State::Planned),
                generation: self.roster.generation(worker),
                restarts: self.roster.restarts(worker),
                stalled: self.roster.is_stalled(worker),
                telemetry_dropped: seat.dropped.load(Ordering::Relaxed),
            }
        };
        self.seats.iter().enumerate().map(status).collect()
    }

    fn log(&self, event: &Event) {
        let name = |worker: &WorkerId| self.seats.get(worker.0).map_or("?", |seat| seat.worker.name());
        match event {
            Event::Changed { worker, from, to, cause, gap } => {
                let (worker, from, gap_ms) = (name(worker), from.name(), gap.map(|gap| gap.as_millis() as u64));
                match to {
                    State::Failed { .. } => tracing::error!(worker, from, to = %to, cause, "worker failed"),
                    State::Restarting { .. } => tracing::warn!(worker, from, to = %to, cause, "worker restarts"),
                    _ => tracing::info!(worker, from, to = %to, cause, gap_ms, "worker"),
                }
            }
            Event::Stalled { worker, age } => {
                tracing::error!(worker = name(worker), age_ms = age.as_millis() as u64, "worker stalled");
            }
            Event::Recovered { worker } => tracing::warn!(worker = name(worker), "worker no longer stalled"),
            Event::Health(Health::Degraded) => tracing::error!("engine degraded"),
            Event::Health(Health::Healthy) => tracing::info!("engine healthy again"),
        }
    }
}

#[cfg(test)]
#[path = "run_tests.rs"]
mod tests;
