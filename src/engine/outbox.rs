//! Queues the engine's messages for an actor in order, also while its mailbox is full.

use std::collections::VecDeque;

use oxide_actors::mailbox::{Address, SendError};

use crate::queue::{self, Handover};
use crate::xdp::PortOpenParams;

/// Limits the handovers that wait for one actor.
pub(super) const HANDOVERS: usize = 512;
/// Counts the bytes of one actor's inbox, which is allocated at start.
pub(super) const INBOX_BYTES: u64 = (HANDOVERS * size_of::<Handover>()) as u64;
/// Limits the messages that wait behind a full mailbox. A new message replaces those it supersedes, so only injected
/// faults can exceed the limit.
const WAITING: usize = 64;

/// Carries a command to an actor with AF_XDP ports.
pub(super) type ActorCommand = queue::ActorCommand<PortOpenParams>;

pub(super) struct Outbox {
    address: Address<ActorCommand>,
    waiting: VecDeque<ActorCommand>,
}

impl Outbox {
    pub(super) fn new(address: Address<ActorCommand>) -> Self {
        Self { address, waiting: VecDeque::new() }
    }

    /// Queues `command` after all earlier ones, and drops the ones that it supersedes.
    pub(super) fn enqueue(&mut self, command: ActorCommand) {
        self.waiting.retain(|earlier| !command.supersedes(earlier));
        if self.waiting.len() < WAITING {
            self.waiting.push_back(command);
        }
        self.deliver();
    }

    /// Moves waiting commands to the mailbox. Returns whether none remains.
    pub(super) fn deliver(&mut self) -> bool {
        while let Some(command) = self.waiting.pop_front() {
            match self.address.try_send(command) {
                Ok(()) => {}
                Err(SendError::Timeout(command)) => {
                    self.waiting.push_front(command);
                    return false;
                }
                // The actor has ended, and the next one starts with the current state.
                Err(SendError::Closed(_)) => self.waiting.clear(),
            }
        }
        true
    }

    /// Returns the address if no command waits, so that a direct send keeps the order.
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
        let mut received = Vec::new();
        while let Some(command) = mailbox.try_recv() {
            received.push(match command {
                ActorCommand::Steer => "steer",
                ActorCommand::Drain => "drain",
                ActorCommand::Pause(PortIndex::P0, false) => "resume",
                ActorCommand::Pause(PortIndex::P1, true) => "pause",
                ActorCommand::Tables(_) => "tables",
                _ => "something else",
            });
            outbox.deliver();
        }
        assert_eq!(received, ["steer", "drain", "resume", "pause", "tables"]);
        assert!(outbox.up_to_date().is_some());
    }
}
