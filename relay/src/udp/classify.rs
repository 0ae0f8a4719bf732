//! Classifies the packets of a batch and finds their sessions, in stages over all lanes, before any packet is served.

use super::{NO_SESSION, UdpRelay};
use oxide::flow::{FlowKey, FlowKeys};
use oxide::packet::{Endpoint, Flow, LANES, lanes};
use oxide::queue::{Batch, Verdict};

/// Holds the result of the look-ups of a batch: masks of lanes, and columns.
pub(super) struct LookupResult {
    /// Lanes with packets for an entry; `keys` has their keys.
    pub(super) clients: u64,
    pub(super) keys: FlowKeys,
    /// Lanes with packets for one of the queue's source ports; `sources` has the index of the source address.
    pub(super) answers: u64,
    pub(super) sources: [u8; LANES],
    /// Lanes of both kinds with a session; `slots` has its slot.
    pub(super) found: u64,
    pub(super) slots: [u32; LANES],
}

impl LookupResult {
    /// Returns the slot of the session of `lane`.
    #[inline]
    pub(super) fn slot(&self, lane: usize) -> Option<u32> {
        (self.found & 1 << lane != 0).then_some(self.slots[lane])
    }
}

impl UdpRelay {
    /// Runs the first stage: the kind of each lane. Packets that are neither a client's nor an answer get a verdict.
    pub(super) fn classify(&self, batch: &mut Batch<'_>) -> LookupResult {
        let (clients, answers, found) = (0, 0, 0);
        let (keys, sources, slots) = (FlowKeys::default(), [u8::MAX; LANES], [0; LANES]);
        let mut lookup = LookupResult { clients, keys, answers, sources, found, slots };
        let columns = batch.columns();
        let live = batch.live();
        for lane in lanes(live & !columns.udp) {
            batch.drop(lane, columns.reject_reason[lane]);
        }
        // Most packets of a batch are for the same entry as the packet before.
        let mut last: Option<(Endpoint, u16)> = None;
        for lane in lanes(live & columns.udp) {
            let Flow { source, destination } = &columns.flow[lane];
            if let Some((listen, entry)) = last
                && listen == *destination
            {
                lookup.keys.set(lane, &FlowKey { remote: *source, local: entry });
                lookup.clients |= 1 << lane;
                continue;
            }
            // The plan keeps listening ports and source ports apart.
            if self.own_ports.contains(destination.port) {
                if let Some((at, ports)) = self.source_of(destination) {
                    ports.prefetch(self.space.index(destination.port));
                    // At most `SOURCES`.
                    lookup.sources[lane] = at as u8;
                }
                lookup.answers |= 1 << lane;
            } else if self.space.contains(destination.port) {
                batch.decide(lane, Verdict::HandOver(self.space.owner(destination.port)));
            } else if let Some(&entry) = self.listens.get(destination) {
                last = Some((*destination, entry));
                lookup.keys.set(lane, &FlowKey { remote: *source, local: entry });
                lookup.clients |= 1 << lane;
            } else {
                batch.decide(lane, NO_SESSION);
            }
        }
        lookup
    }

    /// Runs the second stage: finds the sessions and prefetches all of them.
    pub(super) fn look_up(&self, batch: &Batch<'_>, lookup: &mut LookupResult) {
        lookup.found = self.sessions.look_up(&lookup.keys, lookup.clients, &mut lookup.slots);
        for lane in lanes(lookup.answers) {
            let Flow { source, destination } = &batch.columns().flow[lane];
            let ports = self.sources.get(usize::from(lookup.sources[lane]));
            if let Some(slot) = ports.and_then(|ports| ports.slot(self.space.index(destination.port), source)) {
                self.sessions.prefetch(slot);
                lookup.slots[lane] = slot;
                lookup.found |= 1 << lane;
            }
        }
    }
}
