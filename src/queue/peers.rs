//! Packets between queues: what RSS brought to one queue and belongs to another, copied.

use arrayvec::ArrayVec;
use oxide_actors::mailbox::{Address, Inbox};

use crate::telemetry::DropReason;
use crate::umem::PortIndex;

/// A packet on its way to another queue. Carried by value: nothing is allocated or freed per packet.
pub struct Handover {
    /// The port it came in by; the same number on each queue, since all serve the same interfaces.
    pub from: PortIndex,
    /// The whole frame.
    pub bytes: ArrayVec<u8, { Handover::CAPACITY }>,
}

impl Handover {
    /// Largest packet that can be handed over, bytes: what a 2 KiB frame holds.
    pub const CAPACITY: usize = 2048 - crate::umem::XDP_HEADROOM as usize;
}

/// One queue's inbox, and the addresses of all.
pub struct QueuePeers {
    inbox: Option<Inbox<Handover>>,
    /// By [place](super::QueueInfo::place); `None` for this queue itself and for those that are not running.
    addresses: Vec<Option<Address<Handover>>>,
}

impl QueuePeers {
    /// No other queues.
    #[must_use]
    pub fn none() -> Self {
        Self { inbox: None, addresses: Vec::new() }
    }

    /// With an inbox of its own; the others are told by [`set`](Self::set).
    #[must_use]
    pub fn new(inbox: Inbox<Handover>, queues: u32) -> Self {
        Self { inbox: Some(inbox), addresses: vec![None; queues as usize] }
    }

    /// Sets where packets for the queue at `place` go from now on.
    pub fn set(&mut self, place: u32, address: Option<Address<Handover>>) {
        if let Some(entry) = self.addresses.get_mut(place as usize) {
            *entry = address;
        }
    }

    pub(super) fn take(&self) -> Option<Handover> {
        let inbox = self.inbox.as_ref()?;
        if inbox.is_empty() { None } else { inbox.try_recv() }
    }

    /// Whether no packet waits in the inbox.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.inbox.as_ref().is_none_or(Inbox::is_empty)
    }

    pub(super) fn hand_over(&self, place: u32, from: PortIndex, packet: &[u8]) -> Result<(), DropReason> {
        let address = self.addresses.get(place as usize).and_then(Option::as_ref).ok_or(DropReason::PortClosed)?;
        let bytes = ArrayVec::try_from(packet).map_err(|_| DropReason::Oversized)?;
        address.try_send(Handover { from, bytes }).map_err(|_| DropReason::InboxFull)
    }
}
