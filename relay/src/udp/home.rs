//! The home queue of a client's flow, as this queue finds, claims and releases it.

use std::sync::Arc;

use super::UdpRelay;
use crate::flow_owners::{Claim, FlowOwners};
use crate::plan::RelayPlan;
use crate::session::Session;
use oxide::flow::FlowKey;
use oxide::queue::{Context, QueueInfo, Verdict};

/// This queue's access to the table of home queues.
pub(super) struct Home {
    /// `None` if there is one queue only.
    owners: Option<Arc<FlowOwners>>,
    place: u32,
    epoch: u16,
}

impl Home {
    pub(super) fn new(plan: &RelayPlan, queue: &QueueInfo) -> Self {
        let owners = (queue.queues > 1).then(|| Arc::clone(plan.owners()));
        let epoch = owners.as_ref().map_or(1, |owners| owners.next_epoch(queue.place));
        Self { owners, place: queue.place, epoch }
    }

    /// Ends the claims of former handlers of this queue that this one has not taken over.
    pub(super) fn begin(&self) {
        if let Some(owners) = &self.owners {
            owners.begin(self.place, self.epoch);
        }
    }
}

impl UdpRelay {
    /// Claims the flow of a client that has no session here.
    ///
    /// # Errors
    /// [`Verdict::HandOver`] if the session is at another queue, or [`Verdict::Hold`] if that cannot be found out now.
    pub(super) fn claim_flow(&mut self, key: &FlowKey, cx: &Context<'_>) -> Result<(), Verdict> {
        let (Some(owners), Some(entry)) = (&self.home.owners, self.entries.get(usize::from(key.local))) else {
            return Ok(());
        };
        let hash = owners.hash(&key.remote, &entry.listen);
        let running = |place| cx.takes_handovers(place);
        let claim = if cx.draining() {
            // A queue that drains makes no session, so it must not take the flow from others.
            let other = owners.owner(hash).filter(|&place| place != self.place && running(place));
            other.map_or(Claim::Full, Claim::Elsewhere)
        } else {
            owners.claim(hash, (self.place, self.home.epoch), running)
        };
        match claim {
            Claim::Ours | Claim::Full => Ok(()),
            Claim::Busy => Err(Verdict::Hold),
            Claim::Elsewhere(place) => {
                self.counters.client_handed_over += 1;
                Err(Verdict::HandOver(place))
            }
        }
    }

    /// Releases the flow of a client that has no session here.
    pub(super) fn release_flow(&self, key: &FlowKey) {
        if let (Some(owners), Some(entry)) = (&self.home.owners, self.entries.get(usize::from(key.local))) {
            owners.release(owners.hash(&key.remote, &entry.listen), self.place);
        }
    }

    /// Keeps the flow of a session that was taken over. `entries` are the places of the former handler's entries.
    pub(super) fn keep_flow(&self, session: &Session, entries: &[Option<u16>]) {
        let entry = entries.get(usize::from(session.key.local)).copied().flatten();
        let entry = entry.and_then(|entry| self.entries.get(usize::from(entry)));
        if let (Some(owners), Some(entry)) = (&self.home.owners, entry) {
            let hash = owners.hash(&session.key.remote, &entry.listen);
            let _ = owners.claim(hash, (self.place, self.home.epoch), |_| true);
        }
    }
}
