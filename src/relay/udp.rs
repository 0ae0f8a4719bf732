//! One queue's relay: looks each packet up, then sends it on with new addresses.
//!
//! | direction | found by | refreshes the session | leaves as |
//! |---|---|---|---|
//! | client to upstream | (client, entry), made if new | yes (RFC 4787 REQ-6) | source address and port -> upstream |
//! | upstream to client | source address and port; the sender must be the session's upstream | no | listen address -> client |
//!
//! A session whose idle time is over is gone, whether its slot was swept yet or not. A session whose
//! upstream is reached from another source address since the tables changed is gone as well: its
//! answers would not come to us any more.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use foldhash::fast::FixedState;

use super::plan::{RelayPlan, Slices};
use super::ports::SourcePorts;
use super::session::{NextHop, Session, Sessions};
use crate::net::{Resolution, Tables};
use crate::packet::{Endpoint, LANES, MacAddr, Rewrite, rewrite};
use crate::queue::{Batch, Context, Handler, QueueInfo, Verdict, lanes};
use crate::telemetry::DropReason;
use crate::umem::{MAX_PORTS, PortIndex};

/// The relay's clock: steps of [`Handler::tick`]. Wraps after 13 years.
const TICK: Duration = Duration::from_millis(100);
/// Next hops in use are asked for this often, in ticks, so that the kernel keeps them (half a minute).
const ASK_EVERY: u32 = 300;
/// Slots looked at in one tick: all of them within a second, but never more than 256 KiB of memory.
const SWEEP: usize = 4096;
const SWEEP_ROUND: usize = 10;
/// Slots looked at, once a batch, when there is no room for a new session.
const RECLAIM: usize = 64;
/// Source addresses in use at once; more than a host has toward its upstreams.
const SOURCES: usize = 64;

const STRAY: Verdict = Verdict::Drop(DropReason::NoSession);
const NO_ROUTE: Verdict = Verdict::Drop(DropReason::NoRoute);

/// What became of sessions. All monotonic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
#[non_exhaustive]
pub struct RelayCounters {
    /// Sessions made.
    pub created: u64,
    /// Sessions that ended because their client was silent.
    pub expired: u64,
    /// Sessions that ended because their source address was no longer the right one.
    pub moved: u64,
}

/// The relay of one queue.
pub struct UdpRelay {
    listens: HashMap<Endpoint, u16, FixedState>,
    entries: Vec<Served>,
    /// Of all entries, one after the other.
    upstreams: Vec<Endpoint>,
    plan: RelayPlan,
    slices: Slices,
    queue: u32,
    seed: u64,
    sessions: Sessions,
    sources: Vec<SourcePorts>,
    counters: RelayCounters,
    /// When the clock stood at zero: the first batch or tick.
    epoch: Option<Instant>,
    now: u32,
    /// The tables seen last, and the period of [`ASK_EVERY`] it was in.
    seen: (u64, u32),
    /// Rises whenever `seen` changes: next hops copied before are looked up again.
    generation: u32,
    /// Next hops asked for since.
    asked: ArrayVec<(u32, IpAddr), 16>,
    /// Hardware addresses of the ports, by the tables seen last.
    macs: ArrayVec<MacAddr, { MAX_PORTS as usize }>,
    /// No room was found in this batch: further new sessions need not look again.
    reclaimed: bool,
}

/// What each packet of an entry needs.
struct Served {
    listen: Endpoint,
    /// Place of its first upstream in the list of all.
    first_upstream: u32,
    /// In ticks.
    idle_timeout: u32,
}

/// What is known of a lane after the look-ups.
#[derive(Clone, Copy)]
enum Way {
    Client {
        entry: u16,
        slot: Option<u32>,
    },
    Answer {
        slot: Option<u32>,
    },
    /// The verdict has been given.
    Settled,
}

impl UdpRelay {
    /// The relay of `queue`, with memory for all its sessions. A queue with a number beyond
    /// [`QueueInfo::queues`] has no source ports and takes no sessions; see [`RelayPlan::check_queues`].
    #[must_use]
    pub fn new(plan: &RelayPlan, queue: &QueueInfo) -> Self {
        let mut upstreams = Vec::new();
        let mut entries = Vec::new();
        let mut listens = HashMap::with_hasher(FixedState::with_seed(queue.seed));
        for (at, entry) in plan.entries().iter().enumerate() {
            // The configuration has at most 1024 entries of 256 upstreams.
            listens.insert(entry.listen, at as u16);
            entries.push(Served {
                listen: entry.listen,
                first_upstream: upstreams.len() as u32,
                idle_timeout: ticks(entry.idle_timeout),
            });
            upstreams.extend_from_slice(&entry.upstreams);
        }
        Self {
            listens,
            entries,
            upstreams,
            plan: plan.clone(),
            slices: plan.slices(queue.queues),
            queue: queue.queue,
            seed: queue.seed,
            sessions: Sessions::new(plan.capacity_per_queue(queue.queues), queue.seed),
            sources: Vec::new(),
            counters: RelayCounters::default(),
            epoch: None,
            now: 0,
            seen: (0, 0),
            generation: 0,
            asked: ArrayVec::new(),
            macs: queue.ports.iter().take(usize::from(MAX_PORTS)).map(|port| port.mac).collect(),
            reclaimed: false,
        }
    }

    /// What became of sessions so far.
    #[must_use]
    pub fn counters(&self) -> RelayCounters {
        self.counters
    }

    fn refresh(&mut self, cx: &Context<'_>) {
        let epoch = *self.epoch.get_or_insert(cx.now());
        self.now = ticks(cx.now().saturating_duration_since(epoch));
        self.reclaimed = false;
        let seen = (cx.tables().generation, self.now / ASK_EVERY);
        if seen != self.seen {
            self.seen = seen;
            self.generation = self.generation.wrapping_add(1);
            self.asked.clear();
            for (mac, port) in self.macs.iter_mut().zip(&cx.info().ports) {
                *mac = cx.tables().link(port.ifindex).map_or(port.mac, |link| link.mac);
            }
        }
    }

    /// First stage: what each lane is, and where its session lies. Nothing here depends on the lane
    /// before, so the processor waits for several of these look-ups at once.
    fn look_up(&self, batch: &mut Batch<'_>) -> [Way; LANES] {
        let mut ways = [Way::Settled; LANES];
        let columns = batch.columns();
        let live = batch.live();
        for lane in lanes(live & !columns.udp) {
            batch.drop(lane, columns.fault[lane]);
        }
        for lane in lanes(live & columns.udp) {
            let flow = &columns.flow[lane];
            ways[lane] = if let Some(&entry) = self.listens.get(&flow.destination) {
                let hash = self.sessions.hash(&flow.source, entry);
                Way::Client { entry, slot: self.sessions.find(hash, &flow.source, entry) }
            } else {
                match self.slices.owner(flow.destination.port) {
                    Some(owner) if owner == self.queue => Way::Answer { slot: self.slot_of(&flow.destination) },
                    other => {
                        batch.decide(lane, other.map_or(STRAY, Verdict::HandOver));
                        Way::Settled
                    }
                }
            };
        }
        ways
    }

    /// The slot of the session that has this source address and port.
    fn slot_of(&self, at: &Endpoint) -> Option<u32> {
        self.sources.iter().find(|source| source.address == at.address)?.slot(at.port)
    }

    fn from_client(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        entry: u16,
        slot: Option<u32>,
        cx: &mut Context<'_>,
    ) -> Result<PortIndex, Verdict> {
        let client = batch.columns().flow[lane].source;
        let slot = match self.current(slot, &client, entry, cx) {
            Some(slot) => slot,
            None => self.create(&client, entry, cx).map_err(Verdict::Drop)?,
        };
        let now = self.now;
        let Some(session) = self.sessions.get_mut(slot) else { return Err(Verdict::None) };
        session.last_seen = now;
        let session = *session;
        let (Some(&upstream), Some(source)) =
            (self.upstreams.get(session.upstream as usize), self.sources.get(usize::from(session.source)))
        else {
            return Err(Verdict::None);
        };
        let from = Endpoint { address: source.address, port: session.port };
        let hop = match session.to_upstream {
            hop if hop.fresh(self.generation) => hop,
            _ => {
                let hop = self.resolve(upstream.ip(), cx)?;
                if let Some(session) = self.sessions.get_mut(slot) {
                    session.to_upstream = hop;
                }
                hop
            }
        };
        self.send(batch, lane, hop, from, upstream)
    }

    fn from_upstream(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        slot: Option<u32>,
        cx: &mut Context<'_>,
    ) -> Result<PortIndex, Verdict> {
        let flow = &batch.columns().flow[lane];
        // The session may have ended, or begun, earlier in this batch.
        let holds = |slot: u32| {
            self.sessions.get(slot).is_some_and(|s| {
                let source = self.sources.get(usize::from(s.source));
                s.port == flow.destination.port && source.is_some_and(|s| s.address == flow.destination.address)
            })
        };
        let slot = slot.filter(|&slot| holds(slot)).or_else(|| self.slot_of(&flow.destination)).ok_or(STRAY)?;
        let session = *self.sessions.get(slot).ok_or(STRAY)?;
        if self.expired(&session) {
            return Err(STRAY);
        }
        if self.upstreams.get(session.upstream as usize) != Some(&flow.source) {
            return Err(Verdict::Drop(DropReason::WrongPeer));
        }
        let hop = match session.to_client {
            hop if hop.fresh(self.generation) => hop,
            _ => {
                let hop = self.resolve(session.client.ip(), cx)?;
                if let Some(session) = self.sessions.get_mut(slot) {
                    session.to_client = hop;
                }
                hop
            }
        };
        let listen = self.entries.get(usize::from(session.entry)).ok_or(STRAY)?.listen;
        self.send(batch, lane, hop, listen, session.client)
    }

    /// New addresses, and out.
    #[inline]
    fn send(
        &self,
        batch: &mut Batch<'_>,
        lane: usize,
        hop: NextHop,
        source: Endpoint,
        destination: Endpoint,
    ) -> Result<PortIndex, Verdict> {
        let columns = batch.columns();
        let (l3, l4, length) = (columns.l3[lane], columns.l4[lane], columns.length[lane]);
        if length.saturating_sub(u16::from(l3)) > hop.mtu {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        let source_mac = *self.macs.get(usize::from(hop.port)).ok_or(NO_ROUTE)?;
        let new = Rewrite { source_mac, destination_mac: hop.mac, source, destination };
        let ipv4 = columns.ipv4 & 1 << lane != 0;
        rewrite::apply(batch.packet_mut(lane), l3, l4, ipv4, &columns.flow[lane], &new).map_err(Verdict::Drop)?;
        // Without Ethernet padding. Never longer than the frame, so it fits.
        let _ = batch.set_length(lane, length);
        Ok(hop.port)
    }

    /// The client's session, if it has one that still holds; ends one that does not.
    fn current(&mut self, slot: Option<u32>, client: &Endpoint, entry: u16, cx: &Context<'_>) -> Option<u32> {
        let holds = |slot: u32| self.sessions.get(slot).is_some_and(|s| s.client == *client && s.entry == entry);
        // It may have ended, or begun, earlier in this batch.
        let slot = match slot.filter(|&slot| holds(slot)) {
            Some(slot) => slot,
            None => self.sessions.find(self.sessions.hash(client, entry), client, entry)?,
        };
        let session = self.sessions.get(slot)?;
        if self.expired(session) {
            self.end(slot);
            self.counters.expired += 1;
            return None;
        }
        if !session.to_upstream.fresh(self.generation) && !self.source_holds(session, cx.tables()) {
            self.end(slot);
            self.counters.moved += 1;
            return None;
        }
        Some(slot)
    }

    fn source_holds(&self, session: &Session, tables: &Tables) -> bool {
        let Some(upstream) = self.upstreams.get(session.upstream as usize) else { return false };
        let Some(source) = self.sources.get(usize::from(session.source)) else { return false };
        // Without a route the answer is "none": the packet is dropped, and the session waits for the route.
        tables.source_for(upstream.ip()).is_none_or(|address| self::address(address) == source.address)
    }

    fn create(&mut self, client: &Endpoint, entry: u16, cx: &mut Context<'_>) -> Result<u32, DropReason> {
        if cx.draining() {
            return Err(DropReason::Draining);
        }
        let (Some(served), Some(planned)) =
            (self.entries.get(usize::from(entry)), self.plan.entries().get(usize::from(entry)))
        else {
            return Err(DropReason::NoSession);
        };
        // Forged: an answer to it would come back to us, or go round for ever.
        if cx.tables().local(client.ip()) || planned.upstreams.contains(client) {
            return Err(DropReason::BadSource);
        }
        let choice = planned.upstream_for(client);
        let upstream = planned.upstreams.get(choice).ok_or(DropReason::NoRoute)?.ip();
        // At most 2^18 upstreams in all.
        let place = served.first_upstream + choice as u32;
        if !reachable(upstream, cx) {
            return Err(DropReason::NoRoute);
        }
        let address = cx.tables().source_for(upstream).filter(|source| source.is_ipv4() == upstream.is_ipv4());
        let source = self.source(address.ok_or(DropReason::NoRoute)?).ok_or(DropReason::PortsExhausted)?;

        self.room(|relay| relay.sessions.next_slot()).ok_or(DropReason::SessionsFull)?;
        // Making room for a port may change which slot is next.
        let (slot, port) = self
            .room(|relay| {
                let slot = relay.sessions.next_slot()?;
                relay.sources.get_mut(source)?.take(slot).map(|port| (slot, port))
            })
            .ok_or(DropReason::PortsExhausted)?;
        self.sessions.insert(Session {
            client: *client,
            entry,
            port,
            source: source as u8,
            live: true,
            upstream: place,
            last_seen: self.now,
            to_upstream: NextHop::UNKNOWN,
            to_client: NextHop::UNKNOWN,
        });
        self.counters.created += 1;
        Ok(slot)
    }

    /// The place of a source address in `self.sources`, which gets its ports when it is first used, or
    /// takes the place of one that is not used any more.
    fn source(&mut self, address: IpAddr) -> Option<usize> {
        let address = self::address(address);
        if let Some(at) = self.sources.iter().position(|source| source.address == address) {
            return Some(at);
        }
        let seed = self.seed ^ self.sources.len() as u64;
        let ports = SourcePorts::new(address, self.slices.of(self.queue), seed);
        if self.sources.len() < SOURCES {
            self.sources.push(ports);
            return Some(self.sources.len() - 1);
        }
        let at = self.sources.iter().position(SourcePorts::unused)?;
        *self.sources.get_mut(at)? = ports;
        Some(at)
    }

    /// What `find` finds; if that is nothing, once more after idle sessions were looked for.
    fn room<T>(&mut self, mut find: impl FnMut(&mut Self) -> Option<T>) -> Option<T> {
        if let Some(found) = find(self) {
            return Some(found);
        }
        if std::mem::replace(&mut self.reclaimed, true) {
            return None;
        }
        self.sweep(RECLAIM);
        find(self)
    }

    /// Ends idle sessions among the next `steps` slots.
    fn sweep(&mut self, mut steps: usize) {
        let now = self.now;
        while let Some((slot, left)) = {
            let entries = &self.entries;
            self.sessions.advance(steps, |session| is_over(entries, session, now))
        } {
            self.end(slot);
            self.counters.expired += 1;
            steps = left;
        }
    }

    fn end(&mut self, slot: u32) {
        if let Some(session) = self.sessions.remove(slot)
            && let Some(ports) = self.sources.get_mut(usize::from(session.source))
        {
            ports.give(session.port);
        }
    }

    #[inline]
    fn expired(&self, session: &Session) -> bool {
        is_over(&self.entries, session, self.now)
    }

    fn resolve(&mut self, destination: IpAddr, cx: &mut Context<'_>) -> Result<NextHop, Verdict> {
        match cx.tables().resolve(destination) {
            Resolution::NoRoute => Err(NO_ROUTE),
            Resolution::Hop(hop) => {
                let port = cx.port_of(hop.interface).ok_or(NO_ROUTE)?;
                // The kernel does not see our traffic: what is not asked for, it forgets.
                if !self.asked.contains(&(hop.interface, hop.next_hop)) {
                    let _ = self.asked.try_push((hop.interface, hop.next_hop));
                    cx.resolve(hop.interface, hop.next_hop);
                }
                Ok(NextHop { generation: self.generation, mtu: hop.mtu, mac: hop.destination, port })
            }
            Resolution::Unresolved { interface, next_hop } => {
                cx.port_of(interface).ok_or(NO_ROUTE)?;
                cx.resolve(interface, next_hop);
                Err(Verdict::Hold)
            }
        }
    }
}

impl Handler for UdpRelay {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        self.refresh(cx);
        let ways = self.look_up(batch);
        for lane in lanes(batch.live() & batch.columns().udp) {
            let outcome = match ways[lane] {
                Way::Client { entry, slot } => self.from_client(batch, lane, entry, slot, cx),
                Way::Answer { slot } => self.from_upstream(batch, lane, slot, cx),
                Way::Settled => continue,
            };
            batch.decide(lane, outcome.map_or_else(|verdict| verdict, Verdict::Transmit));
        }
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
        self.refresh(cx);
        self.sweep(self.sessions.capacity().div_ceil(SWEEP_ROUND).min(SWEEP));
    }

    fn sessions(&self) -> u64 {
        self.sessions.len() as u64
    }

    fn memory_bytes(&self) -> u64 {
        let ports: usize = self.sources.iter().map(SourcePorts::memory_bytes).sum();
        (size_of::<Self>() + self.sessions.memory_bytes() + ports) as u64
    }
}

/// Whether packets to `upstream` leave by a port of ours, now or as soon as its MAC is known.
fn reachable(upstream: IpAddr, cx: &Context<'_>) -> bool {
    match cx.tables().resolve(upstream) {
        Resolution::Hop(hop) => cx.port_of(hop.interface).is_some(),
        Resolution::Unresolved { interface, .. } => cx.port_of(interface).is_some(),
        Resolution::NoRoute => false,
    }
}

/// Strictly longer: the stamp was rounded down, so a session never ends early.
#[inline]
fn is_over(entries: &[Served], session: &Session, now: u32) -> bool {
    let timeout = entries.get(usize::from(session.entry)).map_or(0, |entry| entry.idle_timeout);
    now.wrapping_sub(session.last_seen) > timeout
}

fn ticks(time: Duration) -> u32 {
    // Wraps on purpose; differences stay right.
    (time.as_millis() / TICK.as_millis()) as u32
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}
