//! Carries an actor's messages to its supervisor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;

use super::{ActorId, StateReport};
use crate::heartbeat::Heartbeat;

/// Maximum number of messages of all actors that the supervisor has not read yet.
pub(super) const MESSAGE_CAPACITY: usize = 1024;
/// Telemetry is dropped above this number of messages, so that state reports and reports do not wait.
const TELEMETRY_ROOM: usize = MESSAGE_CAPACITY / 2;

/// Holds one message to the supervisor.
#[derive(Debug)]
pub(super) struct ActorMessage<R> {
    pub(super) actor: ActorId,
    pub(super) generation: u64,
    pub(super) body: ActorMessageBody<R>,
}

#[derive(Debug)]
pub(super) enum ActorMessageBody<R> {
    State(StateReport),
    Report(R),
    /// The link was dropped: the actor is about to end.
    Ending,
}

/// Reports heartbeat, state and telemetry of one run of one actor. The actor owns it. When it is dropped, also by a
/// panic, the supervisor checks at once whether the actor has ended.
#[derive(Debug)]
pub struct SupervisorLink<R> {
    actor: ActorId,
    generation: u64,
    messages: Sender<ActorMessage<R>>,
    heartbeat: Heartbeat,
    dropped: Arc<AtomicU64>,
}

impl<R> SupervisorLink<R> {
    pub(super) fn new(
        actor: ActorId,
        generation: u64,
        messages: Sender<ActorMessage<R>>,
        heartbeat: Heartbeat,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Self { actor, generation, messages, heartbeat, dropped }
    }

    /// Returns the actor's identity.
    #[must_use]
    pub fn actor(&self) -> ActorId {
        self.actor
    }

    /// Returns the number of this run, from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Counts one turn. It costs about 1 ns.
    #[inline]
    pub fn beat(&self) {
        self.heartbeat.beat();
    }

    /// Reports a change of state to the supervisor. Waits for a free place if necessary, so the report is never lost.
    /// Returns false if the supervisor has ended.
    pub fn report_state(&self, report: StateReport) -> bool {
        self.send(ActorMessageBody::State(report))
    }

    /// Sends the observer a report that must not be lost, like [`SupervisorLink::report_state`].
    pub fn report(&self, report: R) -> bool {
        self.send(ActorMessageBody::Report(report))
    }

    /// Sends the observer a report that may be lost. If the supervisor is late, the report is dropped and counted,
    /// without waiting. A send to a sleeping supervisor costs about 8 us, so call this at most a few times a second.
    pub fn telemetry(&self, report: R) -> bool {
        let sent = self.messages.len() < TELEMETRY_ROOM
            && self.messages.try_send(self.message_of(ActorMessageBody::Report(report))).is_ok();
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Returns the number of dropped telemetry messages, over all runs of this actor.
    #[must_use]
    pub fn telemetry_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn send(&self, body: ActorMessageBody<R>) -> bool {
        self.messages.send(self.message_of(body)).is_ok()
    }

    fn message_of(&self, body: ActorMessageBody<R>) -> ActorMessage<R> {
        ActorMessage { actor: self.actor, generation: self.generation, body }
    }
}

impl<R> Drop for SupervisorLink<R> {
    fn drop(&mut self) {
        // This is only a hint: without it the supervisor sees the exit at its next check.
        let _ = self.messages.try_send(self.message_of(ActorMessageBody::Ending));
    }
}
