//! Receives the messages of actors without a supervisor thread. A simulation runs actors and the
//! [`SupervisorCore`](super::SupervisorCore) itself and reads the messages here.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, bounded};

use super::link::{ActorMessage, ActorMessageBody, MESSAGE_CAPACITY};
use super::{ActorId, Input, ObserverMessage, SupervisorLink};
use crate::heartbeat::{Heartbeat, HeartbeatMonitor};

/// Holds one message of an actor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkMessage<R> {
    /// An input of the [`SupervisorCore`](super::SupervisorCore).
    Input(Input),
    /// A message for the observer.
    ObserverMessage(ObserverMessage<R>),
}

/// Receives from any number of [`SupervisorLink`]s.
///
/// A message that must not be lost waits for a free place. With one thread, read all messages after each turn of an
/// actor.
#[derive(Debug)]
pub struct LinkReceiver<R> {
    sender: Sender<ActorMessage<R>>,
    messages: Receiver<ActorMessage<R>>,
    dropped: Arc<AtomicU64>,
}

impl<R> Default for LinkReceiver<R> {
    fn default() -> Self {
        let (sender, messages) = bounded(MESSAGE_CAPACITY);
        Self { sender, messages, dropped: Arc::default() }
    }
}

impl<R> LinkReceiver<R> {
    /// Creates a link for run `generation` of `actor`, and the monitor of its heartbeat, which counts as fresh at
    /// `now`.
    #[must_use]
    pub fn link(&self, actor: ActorId, generation: u64, now: Instant) -> (SupervisorLink<R>, HeartbeatMonitor) {
        let (heartbeat, watch) = Heartbeat::new(now);
        (SupervisorLink::new(actor, generation, self.sender.clone(), heartbeat, Arc::clone(&self.dropped)), watch)
    }

    /// Returns the next message, if there is one.
    pub fn try_recv(&self) -> Option<LinkMessage<R>> {
        loop {
            let ActorMessage { actor, generation, body } = self.messages.try_recv().ok()?;
            return Some(match body {
                ActorMessageBody::State(report) => {
                    LinkMessage::Input(Input::StateReported { actor, generation, report })
                }
                ActorMessageBody::Report(report) => {
                    LinkMessage::ObserverMessage(ObserverMessage::Report { actor, generation, report })
                }
                // The code that runs an actor sees its exit itself.
                ActorMessageBody::Ending => continue,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::supervisor::StateReport;

    #[test]
    fn messages_are_received_in_order() {
        let receiver = LinkReceiver::default();
        let now = Instant::now();
        let (first, mut watch) = receiver.link(ActorId(0), 1, now);
        let (second, _) = receiver.link(ActorId(1), 7, now);
        assert_eq!(receiver.try_recv(), None);
        first.beat();
        second.report_state(StateReport::Running);
        first.report("report");
        drop(first);
        second.telemetry("telemetry");
        let (actor, generation) = (ActorId(1), 7);
        assert_eq!(
            receiver.try_recv(),
            Some(LinkMessage::Input(Input::StateReported { actor, generation, report: StateReport::Running }))
        );
        let report = ObserverMessage::Report { actor: ActorId(0), generation: 1, report: "report" };
        assert_eq!(receiver.try_recv(), Some(LinkMessage::ObserverMessage(report)));
        let telemetry = ObserverMessage::Report { actor, generation, report: "telemetry" };
        assert_eq!(receiver.try_recv(), Some(LinkMessage::ObserverMessage(telemetry)));
        assert_eq!(receiver.try_recv(), None);
        assert_eq!(watch.count(), 1);
        let _ = watch.age(now);
    }
}
