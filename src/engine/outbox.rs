//! What an actor is told past the supervisor, in order, also while its mailbox is full.

use std::collections::VecDeque;

use oxide_actors::mailbox::{Address, SendError};

use crate::queue::{self, Handover};
use crate::xdp::PortOpenParams;

/// Packets of other queues that may wait for one actor.
pub(super) const PARCELS: usize = 512;
/// Bytes of one actor's inbox, allocated at start.
pub(super) const INBOX_BYTES: u64 = (PARCELS * size_of::<Handover>()) as u64;
/// Messages that may wait beside a full mailbox. Newer ones take the place of what they make void, so that only faults
/// on purpose could be more.
const WAITING: usize = 64;

/// What is told to an actor over AF_XDP ports.
pub(super) type ActorCommand = queue::ActorCommand<PortOpenParams>;

pub(super) struct Outbox {
    address: Address<ActorCommand>,
    waiting: VecDeque<ActorCommand>,
}

impl Outbox {
    pub(super) fn new(address: Address<ActorCommand>) -> Self {
        Self { address, waiting: VecDeque::new() }
    }

    /// Says this after all that was said before.
    pub(super) fn enqueue(&mut self, command: ActorCommand) {
        self.waiting.retain(|earlier| !command.supersedes(earlier));
        if self.waiting.len() < WAITING {
            self.waiting.push_back(command);
        }
        self.deliver();
    }

    /// Whether nothing waits any more.
    pub(super) fn deliver(&mut self) -> bool {
        while let Some(command) = self.waiting.pop_front() {
            match self.address.try_send(command) {
                Ok(()) => {}
                Err(SendError::Timeout(command)) => {
                    self.waiting.push_front(command);
                    return false;
                }
                // It has ended, and the next one is told anew.
                Err(SendError::Closed(_)) => self.waiting.clear(),
            }
        }
        true
    }

    /// The address, once all is delivered that was said.
    pub(super) fn up_to_date(&mut self) -> Option<Address<ActorCommand>> {
        self.deliver().then(|| self.address.clone())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use oxide_actors::mailbox::mailbox;

    use super::*;
    use crate::umem::PortIndex;

    #[test]
    fn full_mailbox_loses_no_current_command() {
        let (address, mailbox) = mailbox(2).unwrap();
        let mut outbox = Outbox::new(address);
        outbox.enqueue(ActorCommand::Steer);
        outbox.enqueue(ActorCommand::Drain);
        for paused in [true, false, true, false] {
            outbox.enqueue(ActorCommand::Pause(PortIndex::P0, paused));
            outbox.enqueue(ActorCommand::Pause(PortIndex::P1, true));
            outbox.enqueue(ActorCommand::Tables(Box::default()));
        }
        assert!(outbox.up_to_date().is_none());
        let mut heard = Vec::new();
        while let Some(command) = mailbox.try_recv() {
            heard.push(match command {
                ActorCommand::Steer => "steer",
                ActorCommand::Drain => "drain",
                ActorCommand::Pause(PortIndex::P0, false) => "go on",
                ActorCommand::Pause(PortIndex::P1, true) => "pause",
                ActorCommand::Tables(_) => "tables",
                _ => "something else",
            });
            outbox.deliver();
        }
        assert_eq!(heard, ["steer", "drain", "go on", "pause", "tables"]);
        assert!(outbox.up_to_date().is_some());
    }
}
