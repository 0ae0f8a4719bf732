//! Creates, expires and removes sessions of a queue. Only this module takes and returns slots and ports.

use std::net::IpAddr;
use std::num::NonZeroU16;

use arrayvec::ArrayVec;

use super::super::plan::{halves, mix};
use super::super::session::{CachedNextHop, Session, Sessions};
use super::super::source_ports::{SourcePorts, Wanted, tag};
use super::paths::Paths;
use super::{EntryRuntime, UdpRelay};
use oxide::flow::FlowKey;
use oxide::net::{Resolution, Tables};
use oxide::packet::{Endpoint, Flow, FlowChecksumDelta};
use oxide::port::Rss;
use oxide::queue::{Context, QueueInfo};
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;

/// Limits the slots checked for expired sessions, once per batch, if no slot or port is free.
const RECLAIM: usize = 64;
/// Source ports tried per queue before one is taken whose answers arrive at another queue. All tries fail once in
/// 3000 sessions: (1 - 1/q)^(8q) < e^-8.
const TRIES_PER_QUEUE: usize = 8;
/// Limits the source addresses in use at once.
pub(super) const SOURCES: usize = 64;

impl UdpRelay {
    /// Returns the client's session if it has a valid one; removes an invalid one.
    pub(super) fn current(&mut self, slot: Option<u32>, key: &FlowKey, cx: &Context<'_>) -> Option<u32> {
        let holds = |slot: u32| self.sessions.get(slot).is_some_and(|session| session.key == *key);
        // The session may have ended or begun earlier in this batch.
        let slot = match slot.filter(|&slot| holds(slot)) {
            Some(slot) => slot,
            None => self.sessions.find(key)?,
        };
        let session = self.sessions.get(slot)?;
        if self.expired(session) {
            self.remove_session(slot);
            self.counters.expired += 1;
            return None;
        }
        if !self.source_holds(session, cx.tables()) {
            self.remove_session(slot);
            self.counters.source_changed += 1;
            return None;
        }
        if self.health.is_some() && self.should_leave(key.local, self.upstreams.get(session.upstream)?.place) {
            self.remove_session(slot);
            self.counters.failed_over += 1;
            return None;
        }
        Some(slot)
    }

    fn should_leave(&mut self, entry: u16, upstream: u32) -> bool {
        let at = usize::from(entry);
        match (&mut self.health, self.plan.entries().get(at), self.entries.get(at)) {
            (Some(health), Some(planned), Some(served)) => {
                health.should_leave(planned, entry, served.first_upstream, upstream, self.now)
            }
            _ => false,
        }
    }

    /// Returns true if the session's source address is still assigned to this host. A removed address may come back: the
    /// session waits until the kernel prefers another address.
    fn source_holds(&self, session: &Session, tables: &Tables) -> bool {
        let Some(upstream) = self.upstreams.get(session.upstream) else { return false };
        if upstream.source == session.source && upstream.hop.fresh(self.generation) {
            return true;
        }
        let Some(source) = self.sources.get(usize::from(session.source)) else { return false };
        let source = Endpoint { address: source.address, port: 0 }.ip();
        tables.local(source) || self.plan.sources_for(upstream.server.ip(), tables).all(|address| address == source)
    }

    /// Checks that new sessions are allowed and that this client can be answered.
    pub(super) fn may_begin(&self, key: &FlowKey, cx: &Context<'_>) -> Result<(), DropReason> {
        let FlowKey { remote: client, local: entry } = key;
        if cx.draining() {
            return Err(DropReason::Draining);
        }
        let planned = self.plan.entries().get(usize::from(*entry)).ok_or(DropReason::NoSession)?;
        // A forged address: an answer would return to this host or loop endlessly.
        if cx.tables().local(client.ip()) || planned.upstreams.contains(client) {
            return Err(DropReason::BadSource);
        }
        Ok(())
    }

    /// Creates a session for a client that [may have one](Self::may_begin).
    pub(super) fn create(&mut self, key: &FlowKey, cx: &mut Context<'_>) -> Result<u32, DropReason> {
        let FlowKey { remote: client, local: entry } = key;
        let (Some(served), Some(planned)) =
            (self.entries.get(usize::from(*entry)), self.plan.entries().get(usize::from(*entry)))
        else {
            return Err(DropReason::NoSession);
        };
        let choice = match &mut self.health {
            None => planned.upstream_for(client),
            Some(health) => health.choose(planned, *entry, served.first_upstream, client, self.now),
        };
        let server = *planned.upstreams.get(choice).ok_or(DropReason::NoRoute)?;
        let upstream = server.ip();
        // At most 2^18 upstreams in all.
        let place = served.first_upstream + choice as u32;
        let leaves_by = leaves_by(upstream, cx).ok_or(DropReason::NoRoute)?;
        let sources: ArrayVec<IpAddr, SOURCES> = self.plan.sources_for(upstream, cx.tables()).take(SOURCES).collect();
        if sources.is_empty() {
            return Err(DropReason::NoRoute);
        }
        self.find_or_reclaim(|relay| relay.sessions.next_slot()).ok_or(DropReason::SessionsFull)?;
        // Clients spread over the addresses; an address without a free port passes them on to the next one.
        let first = halves(client).into_iter().fold(u64::from(client.port), |hash, word| mix(hash ^ word));
        let turn = (first % sources.len() as u64) as usize;
        let (before, from) = sources.split_at(turn);
        let (source, port) = self
            .find_or_reclaim(|relay| {
                from.iter().chain(before).find_map(|&address| relay.take_port(address, place, leaves_by, cx))
            })
            .ok_or(DropReason::PortsExhausted)?;
        let own = self.sources.get(source).ok_or(DropReason::PortsExhausted)?.address;
        let home = HomeQueue::new(cx.info(), leaves_by, server, own);
        let slot = self.sessions.next_slot().ok_or(DropReason::SessionsFull)?;
        let inserted = self.change(key, Endpoint { address: own, port: port.get() }, server).and_then(|change| {
            let (last_seen, to_client) = (self.now, CachedNextHop::UNKNOWN);
            let (source, answered) = (source as u8, false);
            let upstream = self.upstreams.slot(place, source, &self.sources);
            let session = Session { key: *key, port, source, answered, upstream, last_seen, change, to_client };
            self.sessions.insert(session).map_err(|_| DropReason::SessionsFull)
        });
        match inserted {
            Ok(_) => {
                self.counters.created += 1;
                self.counters.misdirected += u64::from(home.is_some_and(|home| !home.receives(port.get())));
            }
            Err(_) => {
                let server = self.server_number(place).ok_or(DropReason::SessionsFull)?;
                let ports = self.sources.get_mut(source).ok_or(DropReason::SessionsFull)?;
                ports.give(&self.space, port.get(), slot, server);
            }
        }
        inserted
    }

    /// Takes a free port of this source address for the next session, to the upstream at `place` of the plan's list, which
    /// is reached by `leaves_by`. Returns the place of the address and the port.
    fn take_port(
        &mut self,
        address: IpAddr,
        place: u32,
        leaves_by: PortIndex,
        cx: &Context<'_>,
    ) -> Option<(usize, NonZeroU16)> {
        let source = self.source(address_bytes(address))?;
        // Reclaiming an idle session may change which slot is next.
        let slot = self.sessions.next_slot()?;
        let number = self.server_number(place)?;
        let Self { sources, sessions, upstreams, space, .. } = self;
        let (server, ports) = (upstreams.get(place)?.server, sources.get_mut(source)?);
        let home = HomeQueue::new(cx.info(), leaves_by, server, ports.address);
        let tries = if home.is_some() { TRIES_PER_QUEUE * cx.info().queues.min(32) as usize } else { 0 };
        let wanted = Wanted { slot, server: number, tag: tag(&server) };
        let home = |port| home.is_some_and(|home| home.receives(port));
        let same = |slot| sends_to(sessions, upstreams, slot, &server);
        Some((source, NonZeroU16::new(ports.take(space, wanted, tries, home, same)?)?))
    }

    /// Takes this port for the session that will be in `slot`; `false` if it is not free for the upstream at `place`.
    pub(super) fn claim_port(&mut self, source: usize, port: u16, slot: u32, place: u32) -> Option<()> {
        let number = self.server_number(place)?;
        let Self { sources, sessions, upstreams, space, .. } = self;
        let server = upstreams.get(place)?.server;
        let wanted = Wanted { slot, server: number, tag: tag(&server) };
        let same = |slot| sends_to(sessions, upstreams, slot, &server);
        sources.get_mut(source)?.claim(space, port, wanted, same).then_some(())
    }

    /// Gives back the port of a session that was in `slot`.
    pub(super) fn give_port(&mut self, slot: u32, session: &Session) {
        let server = self.upstreams.get(session.upstream).and_then(|upstream| self.server_number(upstream.place));
        if let (Some(server), Some(ports)) = (server, self.sources.get_mut(usize::from(session.source))) {
            ports.give(&self.space, session.port.get(), slot, server);
        }
    }

    /// Returns the number of the server at `place` of the plan's list of upstreams.
    fn server_number(&self, place: u32) -> Option<u32> {
        self.servers.get(place as usize).copied()
    }

    fn distinct_servers(&self) -> usize {
        self.servers.iter().max().map_or(0, |&last| last as usize + 1)
    }

    /// Returns the checksum change of a session whose client's packets leave `from` a source address of the relay `to`
    /// the upstream.
    pub(super) fn change(&self, key: &FlowKey, from: Endpoint, to: Endpoint) -> Result<FlowChecksumDelta, DropReason> {
        let listen = self.entries.get(usize::from(key.local)).ok_or(DropReason::NoSession)?.listen;
        let came = Flow { source: key.remote, destination: listen };
        FlowChecksumDelta::new(&came, &Flow { source: from, destination: to })
    }

    /// Returns the index of a source address in `self.sources`. A new address gets its ports here, and may replace an
    /// unused address.
    pub(super) fn source(&mut self, address: [u8; 16]) -> Option<usize> {
        if let Some(at) = self.sources.iter().position(|source| source.address == address) {
            return Some(at);
        }
        let at = match self.sources.len() {
            full if full >= SOURCES => self.sources.iter().position(SourcePorts::unused)?,
            next => next,
        };
        let (space, bounds) = ((&self.space, self.place), (self.distinct_servers(), self.sessions.capacity()));
        let ports = SourcePorts::new(address, space, bounds, self.seed ^ at as u64);
        match self.sources.get_mut(at) {
            Some(unused) => *unused = ports,
            None => self.sources.push(ports),
        }
        Some(at)
    }

    /// Returns the result of `find`; if it is `None`, removes expired sessions and calls `find` once more.
    fn find_or_reclaim<T>(&mut self, mut find: impl FnMut(&mut Self) -> Option<T>) -> Option<T> {
        if let Some(found) = find(self) {
            return Some(found);
        }
        if std::mem::replace(&mut self.reclaimed, true) {
            return None;
        }
        self.sweep(RECLAIM);
        find(self)
    }

    /// Removes expired sessions among the next `steps` slots.
    pub(super) fn sweep(&mut self, mut steps: usize) {
        let now = self.now;
        while let Some((slot, left)) = {
            let entries = &self.entries;
            self.sessions.advance(steps, |session| is_over(entries, session, now))
        } {
            self.remove_session(slot);
            self.counters.expired += 1;
            steps = left;
        }
    }

    fn remove_session(&mut self, slot: u32) {
        self.batch_invalidated = true;
        if let Some(session) = self.sessions.remove(slot) {
            self.give_port(slot, &session);
            self.release_flow(&session.key);
        }
    }

    #[inline]
    pub(super) fn expired(&self, session: &Session) -> bool {
        is_over(&self.entries, session, self.now)
    }
}

/// Returns whether the session in `slot` sends to `server`.
fn sends_to(sessions: &Sessions, upstreams: &Paths, slot: u32, server: &Endpoint) -> bool {
    let upstream = sessions.get(slot).and_then(|session| upstreams.get(session.upstream));
    upstream.is_some_and(|upstream| upstream.server == *server)
}

/// Tests which source ports bring a server's answers to this queue.
#[derive(Clone, Copy)]
struct HomeQueue<'a> {
    rss: &'a Rss,
    queue: u32,
    server: Endpoint,
    own: [u8; 16],
}

impl<'a> HomeQueue<'a> {
    /// Makes the test for answers that arrive at `port`; `None` if its NIC does not report RSS.
    fn new(info: &'a QueueInfo, port: PortIndex, server: Endpoint, own: [u8; 16]) -> Option<Self> {
        let at = usize::from(port);
        let rss = info.rss.get(at)?.as_deref().filter(|rss| rss.covers(server.is_ipv4()))?;
        Some(Self { rss, queue: info.ports.get(at)?.id.queue, server, own })
    }

    fn receives(&self, port: u16) -> bool {
        let answer = Flow { source: self.server, destination: Endpoint { address: self.own, port } };
        self.rss.queue_of(&answer) == Some(self.queue)
    }
}

/// Returns the port that packets to `upstream` leave by, also if the MAC address is not known yet.
fn leaves_by(upstream: IpAddr, cx: &Context<'_>) -> Option<PortIndex> {
    match cx.tables().resolve(upstream) {
        Resolution::Hop(hop) => cx.port_of(hop.interface),
        Resolution::Unresolved { interface, .. } => cx.port_of(interface),
        Resolution::NoRoute => None,
    }
}

/// Returns true if a session has expired. The comparison is strict because the tick was rounded down: a session never
/// ends early.
#[inline]
pub(super) fn is_over(entries: &[EntryRuntime], session: &Session, now: u32) -> bool {
    let timeout = entries.get(usize::from(session.key.local)).map_or(0, |entry| match session.answered {
        false => entry.idle_timeout,
        true => entry.answer_grace,
    });
    now.wrapping_sub(session.last_seen) > timeout
}

pub(super) fn address_bytes(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
