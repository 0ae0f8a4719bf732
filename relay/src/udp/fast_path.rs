//! Serves nearly all packets on the fast path.
//!
//! A packet takes the fast path if its session was found and is valid, the next hop is known, the IP version does not
//! change, the packet fits the MTU, and its hop limit is above one. The fast path does the same as
//! [`serve_client`](UdpRelay::serve_client) and [`serve_answer`](UdpRelay::serve_answer), in the same order. It first
//! runs all checks of a batch, then all effects, so that each of the two loops is short.

use super::{EntryRuntime, LIMITED, LookupResult, UdpRelay, ip_bytes};
use crate::session::{CachedNextHop, Session, Upstream};
use oxide::packet::{FixedHeaderRewrite, lanes};
use oxide::queue::Batch;
use oxide::umem::PortIndex;

impl UdpRelay {
    /// Returns the lanes for the fast path, without the check of [`stays`](Self::stays). The result is valid until
    /// `batch_invalidated` is set.
    #[inline]
    pub(super) fn fast_path_lanes(&self, batch: &Batch<'_>, lookup: &LookupResult) -> u64 {
        #[cfg(test)]
        if self.force_slow_path {
            return 0;
        }
        let found = lookup.found & !batch.columns().last_hop;
        let mut fast = 0;
        for lane in lanes(found & lookup.clients) {
            let Some(session) = self.sessions.get(lookup.slots[lane]) else { continue };
            let Some(upstream) = self.upstreams.get(session.upstream) else { continue };
            let goes = upstream.source == session.source && self.goes(session, &upstream.hop, batch, lane);
            fast |= u64::from(goes) << lane;
        }
        for lane in lanes(found & lookup.answers) {
            let Some(session) = self.sessions.get(lookup.slots[lane]) else { continue };
            let Some(upstream) = self.upstreams.get(session.upstream) else { continue };
            let flow = &batch.columns().flow[lane];
            debug_assert_eq!(session.port.get(), flow.destination.port);
            let goes = upstream.server == flow.source && self.goes(session, &session.to_client, batch, lane);
            fast |= u64::from(goes) << lane;
        }
        fast
    }

    /// Returns true if the session is valid, and the packet in `lane` fits the MTU and keeps its IP version.
    #[inline(always)]
    fn goes(&self, session: &Session, hop: &CachedNextHop, batch: &Batch<'_>, lane: usize) -> bool {
        hop.generation == self.generation
            && batch.columns().length[lane] <= hop.frame
            && (self.now.wrapping_sub(session.last_seen) <= self.shortest_idle || self.holds(session))
    }

    /// Returns true if the session has not expired by its own entry's timeout.
    #[cold]
    #[inline(never)]
    fn holds(&self, session: &Session) -> bool {
        !self.expired(session)
    }

    /// Returns true if the session in `slot` stays with its upstream. Each packet may change that if health is checked.
    #[inline]
    pub(super) fn stays(&self, slot: u32) -> bool {
        let Some(health) = self.health.as_ref().filter(|health| !health.all_stay()) else { return true };
        let upstream = |session: &Session| self.upstreams.get(session.upstream).map(|upstream| upstream.place);
        let session = self.sessions.get(slot);
        session.is_some_and(|session| upstream(session).is_some_and(|place| health.stays(session.key.local, place)))
    }

    /// Serves clients' packets, all of them [on the fast path](Self::fast_path_lanes).
    #[inline]
    pub(super) fn send_to_upstreams(&mut self, batch: &mut Batch<'_>, of: u64, lookup: &LookupResult) {
        let of = if self.limits.is_none() { of } else { self.admitted(batch, of, lookup) };
        let ipv4 = batch.columns().ipv4;
        let mut first = self.rewrite_for_upstreams::<true>(batch, of & ipv4, lookup);
        first |= self.rewrite_for_upstreams::<false>(batch, of & !ipv4, lookup);
        if self.health.is_some() && first != 0 {
            self.note_sent(first, lookup);
        }
    }

    /// Returns the lanes whose session has sent nothing before in this tick.
    #[inline]
    fn rewrite_for_upstreams<const IPV4: bool>(
        &mut self,
        batch: &mut Batch<'_>,
        of: u64,
        lookup: &LookupResult,
    ) -> u64 {
        let mut first = 0;
        for lane in lanes(of) {
            let Some(session) = self.sessions.get_mut(lookup.slots[lane]) else { continue };
            first |= u64::from(session.last_seen != self.now) << lane;
            (session.last_seen, session.answered) = (self.now, false);
            let Some(Upstream { server, address, hop, .. }) = self.upstreams.get(session.upstream) else {
                continue;
            };
            debug_assert_eq!(
                self.sources.get(usize::from(session.source)).map(|source| source.address),
                Some(*address)
            );
            let new = FixedHeaderRewrite {
                macs: &hop.macs,
                source: (address, session.port.get()),
                destination: (&server.address, server.port),
                change: session.change,
            };
            send::<IPV4>(batch, lane, hop.port, &new);
        }
        first
    }

    /// Records that the sessions of these lanes have sent to their upstreams.
    fn note_sent(&mut self, of: u64, lookup: &LookupResult) {
        let Some(health) = &mut self.health else { return };
        for lane in lanes(of) {
            if let Some(session) = self.sessions.get(lookup.slots[lane])
                && let Some(upstream) = self.upstreams.get(session.upstream)
            {
                health.sent(session.key.local, upstream.place, lookup.slots[lane], self.now);
            }
        }
    }

    /// Records that the upstreams of these lanes' sessions have answered.
    fn note_answered(&mut self, of: u64, lookup: &LookupResult) {
        let Some(health) = &mut self.health else { return };
        for lane in lanes(of) {
            if let Some(session) = self.sessions.get(lookup.slots[lane])
                && let Some(upstream) = self.upstreams.get(session.upstream)
            {
                health.answered(upstream.place);
            }
        }
    }

    /// Returns true if no session has to move to another upstream.
    #[inline(always)]
    pub(super) fn all_stay(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.all_stay())
    }

    /// Serves answers, all of them [on the fast path](Self::fast_path_lanes).
    #[inline]
    pub(super) fn send_to_clients(&mut self, batch: &mut Batch<'_>, of: u64, lookup: &LookupResult) {
        // An answer proves that the upstream is up, even if a limit drops it.
        if self.health.as_ref().is_some_and(|health| health.waits()) {
            self.note_answered(of, lookup);
        }
        let of = if self.limits.is_none() { of } else { self.admitted(batch, of, lookup) };
        if self.any_grace {
            lanes(of).for_each(|lane| self.note_answer(lookup.slots[lane]));
        }
        let ipv4 = batch.columns().ipv4;
        self.rewrite_for_clients::<true>(batch, of & ipv4, lookup);
        self.rewrite_for_clients::<false>(batch, of & !ipv4, lookup);
    }

    #[inline]
    fn rewrite_for_clients<const IPV4: bool>(&self, batch: &mut Batch<'_>, of: u64, lookup: &LookupResult) {
        for lane in lanes(of) {
            let Some(session) = self.sessions.get(lookup.slots[lane]) else { continue };
            let Some(EntryRuntime { listen, .. }) = self.entries.get(usize::from(session.key.local)) else { continue };
            let client = &session.key.remote;
            let new = FixedHeaderRewrite {
                macs: &session.to_client.macs,
                source: (&listen.address, listen.port),
                destination: (&client.address, client.port),
                change: session.change.reversed(),
            };
            send::<IPV4>(batch, lane, session.to_client.port, &new);
        }
    }

    /// Returns the lanes that are within the limits; the others get a verdict.
    fn admitted(&mut self, batch: &mut Batch<'_>, of: u64, lookup: &LookupResult) -> u64 {
        let mut admitted = of;
        for lane in lanes(of) {
            let (of_client, slot) = (lookup.clients & 1 << lane != 0, lookup.slots[lane]);
            let Some(Session { key, .. }) = self.sessions.get(slot) else { continue };
            // A held packet was already counted.
            if let Some(limits) = self.limits.as_mut().filter(|_| !batch.was_held()) {
                let (now, bytes) = (self.now_ns, ip_bytes(batch, lane));
                let admits = if of_client {
                    limits.admit(&key.remote, key.local, now, bytes)
                } else {
                    limits.admit_reply(&key.remote, now, bytes)
                };
                if !admits {
                    batch.decide(lane, LIMITED);
                    admitted ^= 1 << lane;
                }
            }
        }
        admitted
    }
}

/// Writes the new addresses and sends the packet. Its length comes from its headers, without Ethernet padding.
#[inline(always)]
fn send<const IPV4: bool>(batch: &mut Batch<'_>, lane: usize, port: PortIndex, new: &FixedHeaderRewrite<'_>) {
    if let Some(head) = batch.transmit_headers(lane, batch.columns().length[lane], port) {
        new.apply(head, IPV4);
    }
}
