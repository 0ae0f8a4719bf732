//! Passes copies of misdirected packets to the queue that owns their flow.

use arrayvec::ArrayVec;
use oxide_actors::mailbox::{Address, Inbox};

use crate::telemetry::DropReason;
use crate::umem::PortIndex;

/// Carries a packet to another queue. It moves by value, so no packet allocates or frees memory.
pub struct Handover {
    /// Port through which the packet arrived. The number is the same on each queue, since all serve the same
    /// interfaces.
    pub from: PortIndex,
    /// Bytes of the whole frame.
    pub bytes: ArrayVec<u8, { Handover::CAPACITY }>,
}

impl Handover {
    /// Limits a packet that can be handed over, in bytes: what a 2 KiB frame holds.
    pub const CAPACITY: usize = 2048 - crate::umem::XDP_HEADROOM as usize;
}

/// Holds one queue's inbox and the addresses of all other inboxes.
pub struct QueuePeers {
    inbox: Option<Inbox<Handover>>,
    /// Addresses by [place](super::QueueInfo::place); `None` for this queue and for queues that are not running.
    addresses: Vec<Option<Address<Handover>>>,
}

impl QueuePeers {
    /// Returns a value without inbox and without other queues.
    #[must_use]
    pub fn none() -> Self {
        Self { inbox: None, addresses: Vec::new() }
    }

    /// Returns a value with `inbox`. [`set`](Self::set) adds the addresses of the other queues.
    #[must_use]
    pub fn new(inbox: Inbox<Handover>, queues: u32) -> Self {
        Self { inbox: Some(inbox), addresses: vec![None; queues as usize] }
    }

    /// Sets the inbox address for packets of the queue at `place`.
    pub fn set(&mut self, place: u32, address: Option<Address<Handover>>) {
        if let Some(entry) = self.addresses.get_mut(place as usize) {
            *entry = address;
        }
    }

    pub(super) fn take(&self) -> Option<Handover> {
        let inbox = self.inbox.as_ref()?;
        if inbox.is_empty() { None } else { inbox.try_recv() }
    }

    /// Returns whether the inbox is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.as_ref().is_none_or(Inbox::is_empty)
    }

    /// Returns whether the queue at `place` is another queue that runs.
    pub(super) fn has(&self, place: u32) -> bool {
        self.addresses.get(place as usize).is_some_and(Option::is_some)
    }

    pub(super) fn hand_over(&self, place: u32, from: PortIndex, packet: &[u8]) -> Result<(), DropReason> {
        let address = self.addresses.get(place as usize).and_then(Option::as_ref).ok_or(DropReason::PortClosed)?;
        let bytes = ArrayVec::try_from(packet).map_err(|_| DropReason::Oversized)?;
        address.try_send(Handover { from, bytes }).map_err(|_| DropReason::InboxFull)
    }
}
