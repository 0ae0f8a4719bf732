//! Where the lines of actors end that nobody's thread supervises: whoever turns actors and the
//! [`Roster`](super::Roster) by hand, as a simulation does, hears here what they say.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::link::{Content, MAIL_CAPACITY, Mail};
use super::{Input, Link, Notice, WorkerId};
use crate::pulse::{Pulse, PulseWatch};

/// What an actor said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard<R> {
    /// Something for the roster to decide about.
    Input(Input),
    /// Something for the observer.
    Notice(Notice<R>),
}

/// The other end of any number of [`Link`]s.
///
/// What a link must not lose waits for room here: on one thread, listen after each turn of an actor.
#[derive(Debug)]
pub struct Line<R> {
    sender: Sender<Mail<R>>,
    mail: Receiver<Mail<R>>,
    dropped: Arc<AtomicU64>,
}

impl<R> Default for Line<R> {
    fn default() -> Self {
        let (sender, mail) = bounded(MAIL_CAPACITY);
        Self { sender, mail, dropped: Arc::default() }
    }
}

impl<R> Line<R> {
    /// A link for life `generation` of `worker`, and the watch on its heart, which counts as fresh at `now`.
    #[must_use]
    pub fn link(&self, worker: WorkerId, generation: u64, now: Instant) -> (Link<R>, PulseWatch) {
        let (pulse, watch) = Pulse::new(now);
        (Link::new(worker, generation, self.sender.clone(), pulse, Arc::clone(&self.dropped)), watch)
    }

    /// What was said next, if anything was.
    pub fn heard(&self) -> Option<Heard<R>> {
        loop {
            let Mail { worker, generation, content } = self.mail.try_recv().ok()?;
            return Some(match content {
                Content::Word(word) => Heard::Input(Input::Said { worker, generation, word }),
                Content::Report(report) => Heard::Notice(Notice::Report { worker, generation, report }),
                // Whoever turns an actor sees its end.
                Content::Ending => continue,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::Word;

    #[test]
    fn what_links_say_is_heard_in_its_order() {
        let line = Line::default();
        let now = Instant::now();
        let (first, mut watch) = line.link(WorkerId(0), 1, now);
        let (second, _) = line.link(WorkerId(1), 7, now);
        assert_eq!(line.heard(), None);
        first.beat();
        second.say(Word::Running);
        first.report("report");
        drop(first);
        second.telemetry("telemetry");
        let (worker, generation) = (WorkerId(1), 7);
        assert_eq!(line.heard(), Some(Heard::Input(Input::Said { worker, generation, word: Word::Running })));
        let report = Notice::Report { worker: WorkerId(0), generation: 1, report: "report" };
        assert_eq!(line.heard(), Some(Heard::Notice(report)));
        let telemetry = Notice::Report { worker, generation, report: "telemetry" };
        assert_eq!(line.heard(), Some(Heard::Notice(telemetry)));
        assert_eq!(line.heard(), None);
        assert_eq!(watch.count(), 1);
        let _ = watch.age(now);
    }
}
