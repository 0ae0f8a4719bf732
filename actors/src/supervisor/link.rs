//! The actor's line to its supervisor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;

use super::{ActorId, StateReport};
use crate::heartbeat::Heartbeat;

/// Messages of all workers that the supervisor has not read yet, at most.
pub(super) const MESSAGE_CAPACITY: usize = 1024;
/// Telemetry is refused above this, so that words and reports find room without waiting.
const TELEMETRY_ROOM: usize = MESSAGE_CAPACITY / 2;

/// One message on the way to the supervisor.
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

/// Beats, speaks and reports for one life of one worker. The actor owns it; when it is dropped, on a panic too, the
/// supervisor looks for the actor's end at once.
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

    /// Which worker this is.
    #[must_use]
    pub fn actor(&self) -> ActorId {
        self.actor
    }

    /// Which life of it, counted from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// One turn done; about 1 ns.
    #[inline]
    pub fn beat(&self) {
        self.heartbeat.beat();
    }

    /// Tells the supervisor a change of state. Waits for room if need be, so it is never lost; false if no
    /// supervisor is left.
    pub fn report_state(&self, report: StateReport) -> bool {
        self.send(ActorMessageBody::State(report))
    }

    /// Tells the observer something that must not be lost; as [`SupervisorLink::report_state`].
    pub fn report(&self, report: R) -> bool {
        self.send(ActorMessageBody::Report(report))
    }

    /// Tells the observer something that may be lost: if the supervisor is behind it is dropped and counted,
    /// without waiting. A send to a sleeping supervisor costs about 8 us, so a few times a second at most.
    pub fn telemetry(&self, report: R) -> bool {
        let sent = self.messages.len() < TELEMETRY_ROOM
            && self.messages.try_send(self.message_of(ActorMessageBody::Report(report))).is_ok();
        if !sent {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        sent
    }

    /// Telemetry dropped so far, over all lives of this worker.
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
        // Only a hint: without it the supervisor sees the end at its next look.
        let _ = self.messages.try_send(self.message_of(ActorMessageBody::Ending));
    }
}
