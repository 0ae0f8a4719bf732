//! The actor's line to its supervisor.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_channel::Sender;

use super::{Word, WorkerId};
use crate::pulse::Pulse;

/// Messages of all workers that the supervisor has not read yet, at most.
pub(super) const MAIL_CAPACITY: usize = 1024;
/// Telemetry is refused above this, so that words and reports find room without waiting.
const TELEMETRY_ROOM: usize = MAIL_CAPACITY / 2;

/// One message on the way to the supervisor.
#[derive(Debug)]
pub(super) struct Mail<R> {
    pub(super) worker: WorkerId,
    pub(super) generation: u64,
    pub(super) content: Content<R>,
}

#[derive(Debug)]
pub(super) enum Content<R> {
    Word(Word),
    Report(R),
    /// The link was dropped: the actor is about to end.
    Ending,
}

/// Beats, speaks and reports for one life of one worker. The actor owns it; when it is dropped, on a panic too, the
/// supervisor looks for the actor's end at once.
#[derive(Debug)]
pub struct Link<R> {
    worker: WorkerId,
    generation: u64,
    mail: Sender<Mail<R>>,
    pulse: Pulse,
    dropped: Arc<AtomicU64>,
}

impl<R> Link<R> {
    pub(super) fn new(
        worker: WorkerId,
        generation: u64,
        mail: Sender<Mail<R>>,
        pulse: Pulse,
        dropped: Arc<AtomicU64>,
    ) -> Self {
        Self { worker, generation, mail, pulse, dropped }
    }

    /// Which worker this is.
    #[must_use]
    pub fn worker(&self) -> WorkerId {
        self.worker
    }

    /// Which life of it, counted from 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// One turn done; about 1 ns.
    #[inline]
    pub fn beat(&self) {
        self.pulse.beat();
    }

    /// Tells the supervisor a change of state. Waits for room if need be, so it is never lost; false if no
    /// supervisor is left.
    pub fn say(&self, word: Word) -> bool {
        self.send(Content::Word(word))
    }

    /// Tells the observer something that must not be lost; as [`Link::say`].
    pub fn report(&self, report: R) -> bool {
        self.send(Content::Report(report))
    }

    /// Tells the observer something that may be lost: if the supervisor is behind it is dropped and counted,
    /// without waiting. A send to a sleeping supervisor costs about 8 us, so a few times a second at most.
    pub fn telemetry(&self, report: R) -> bool {
        let sent =
            self.mail.len() < TELEMETRY_ROOM && self.mail.try_send(self.mail_of(Content::Report(report))).is_ok();
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

    fn send(&self, content: Content<R>) -> bool {
        self.mail.send(self.mail_of(content)).is_ok()
    }

    fn mail_of(&self, content: Content<R>) -> Mail<R> {
        Mail { worker: self.worker, generation: self.generation, content }
    }
}

impl<R> Drop for Link<R> {
    fn drop(&mut self) {
        // Only a hint: without it the supervisor sees the end at its next look.
        let _ = self.mail.try_send(self.mail_of(Content::Ending));
    }
}
