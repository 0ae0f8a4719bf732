//! Inherits the state of the relay that is replaced, and describes sessions for operators.
//!
//! Sessions are copied one by one into new tables, and each is checked. After a panic the old tables may be in the
//! middle of a change, and after a reload the entries differ. Only the slots of the old tables are read; index and
//! free lists are built again. Rate buckets and down upstreams are inherited too, so that a new handler forgets neither
//! a flood nor a dead upstream. After a second panic within a short time the next handler inherits nothing.

use super::super::session::{CachedNextHop, Session};
use super::{TICK, UdpRelay};
use oxide::flow::FlowKey;
use oxide::packet::Endpoint;
use oxide::queue::SessionInfo;

/// Limits the slots read for one list of sessions: 4 MiB.
const LOOK_AT: usize = 65_536;

impl UdpRelay {
    /// Copies the sessions of `former` that this relay can serve, with their source ports. Returns their number.
    pub(super) fn take_over(&mut self, former: &mut Self) -> u64 {
        (self.epoch, self.now, self.counters) = (former.epoch, former.now, former.counters);
        let (entries, upstreams) = self.places_of(former);
        let (mut taken, mut refused) = (0, 0);
        for (_, session) in former.sessions.iter_from(0) {
            match self.adopt(former, session, &entries, &upstreams) {
                Some(()) => {
                    taken += 1;
                    self.keep_flow(session, &entries);
                }
                None => refused += 1,
            }
        }
        for source in &mut self.sources {
            source.rebuild_free_list(&self.space);
        }
        if let (Some(ours), Some(theirs)) = (&mut self.limits, &mut former.limits) {
            ours.take_over(theirs, &entries);
        }
        if let (Some(ours), Some(theirs)) = (&mut self.health, &former.health) {
            ours.take_over(theirs, &upstreams);
        }
        self.counters.not_taken_over += refused;
        self.plan.note_taken_over(taken, refused);
        if refused > 0 {
            tracing::warn!(queue = self.queue, taken, refused, "some sessions were not inherited");
        }
        taken
    }

    /// Returns the index here of each entry and each upstream of `former`; `None` if it is no longer served.
    fn places_of(&self, former: &Self) -> (Vec<Option<u16>>, Vec<Option<u32>>) {
        let mut upstreams = vec![None; former.upstreams.planned()];
        let entries = former.plan.entries().iter().zip(&former.entries).map(|(planned, old)| {
            let entry = self.listens.get(&old.listen).copied()?;
            let new = self.entries.get(usize::from(entry))?;
            let listed = &self.plan.entries().get(usize::from(entry))?.upstreams;
            for (at, upstream) in planned.upstreams.iter().enumerate() {
                // Most lists do not change.
                let same = (listed.get(at) == Some(upstream)).then_some(at);
                let now = same.or_else(|| listed.iter().position(|other| other == upstream));
                if let Some(place) = upstreams.get_mut(old.first_upstream as usize + at) {
                    *place = now.map(|now| new.first_upstream + now as u32);
                }
            }
            Some(entry)
        });
        let entries = entries.collect();
        (entries, upstreams)
    }

    fn adopt(
        &mut self,
        former: &Self,
        session: &Session,
        entries: &[Option<u16>],
        upstreams: &[Option<u32>],
    ) -> Option<()> {
        let entry = (*entries.get(usize::from(session.key.local))?)?;
        let place = (*upstreams.get(former.upstreams.get(session.upstream)?.place as usize)?)?;
        let address = former.sources.get(usize::from(session.source))?.address;
        let key = FlowKey { local: entry, ..session.key };
        let fits = self.own_ports.contains(session.port.get())
            && self.belongs(place, entry)
            && self.sessions.find(&key).is_none();
        let from = Endpoint { address, port: session.port.get() };
        let server = self.upstreams.get(place)?.server;
        let change = self.change(&key, from, server).ok().filter(|_| fits)?;
        let slot = self.sessions.next_slot()?;
        let source = self.source(address)?;
        self.claim_port(source, session.port.get(), slot, place)?;
        let (source, to_client) = (source as u8, CachedNextHop::UNKNOWN);
        let upstream = self.upstreams.slot(place, source, &self.sources);
        let copy = Session { key, upstream, source, change, to_client, ..*session };
        if self.sessions.insert(copy).is_err() {
            self.give_port(slot, &copy);
            return None;
        }
        Some(())
    }

    /// Returns true if the upstream with index `place` belongs to `entry`.
    fn belongs(&self, place: u32, entry: u16) -> bool {
        let first = self.entries.get(usize::from(entry)).map(|served| served.first_upstream);
        let count = self.plan.entries().get(usize::from(entry)).map_or(0, |planned| planned.upstreams.len());
        first.and_then(|first| place.checked_sub(first)).is_some_and(|at| (at as usize) < count)
    }

    pub(super) fn describe(&self, limit: usize, into: &mut Vec<SessionInfo>) {
        let slots = self.sessions.iter_from(0).take_while(|&(slot, _)| (slot as usize) < LOOK_AT);
        into.extend(slots.filter_map(|(_, session)| self.describe_one(session)).take(limit));
    }

    fn describe_one(&self, session: &Session) -> Option<SessionInfo> {
        let source =
            Endpoint { address: self.sources.get(usize::from(session.source))?.address, port: session.port.get() };
        Some(SessionInfo {
            queue: self.queue,
            client: session.key.remote.into(),
            listen: self.entries.get(usize::from(session.key.local))?.listen.into(),
            source: source.into(),
            upstream: self.upstreams.get(session.upstream)?.server.into(),
            idle: TICK * self.now.wrapping_sub(session.last_seen),
        })
    }
}

#[cfg(test)]
mod tests;
