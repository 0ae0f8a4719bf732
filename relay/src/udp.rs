//! One queue's relay: looks each packet up, then sends it on with new addresses.
//!
//! | direction | found by | refreshes the session | leaves as |
//! |---|---|---|---|
//! | client to upstream | (client, entry), made if new | yes (RFC 4787 REQ-6) | source address and port -> upstream |
//! | upstream to client | source address and port; the sender must be the session's upstream | no | listen address -> client |
//!
//! Where client and upstream are of different families, the IP header is replaced as well
//! ([`translate`](oxide::packet::translate)).
//!
//! A session whose idle time is over is gone, whether its slot was swept yet or not. A session keeps its source
//! address and port for as long as that address is this host's, whatever the kernel prefers for new flows. Once the
//! address is gone and there is another one, the session ends: its answers would not come to us any more.

mod admission;
mod classify;
mod family_translation;
mod fast_path;
mod forward;
mod inherit;
mod paths;
mod session_lifecycle;

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use foldhash::fast::FixedState;

use super::counters::RelayCounters;
use super::gate::Gate;
use super::health::{Policy, UpstreamHealth};
use super::limit::RateLimits;
use super::plan::{Entry, RelayPlan, Slices};
use super::session::{Session, Sessions};
use super::source_ports::SourcePorts;
use classify::LookupResult;
use oxide::flow::{FlowHash, FlowKey};
use oxide::packet::{Endpoint, Flow};
use oxide::queue::{Batch, Context, Handler, QueueInfo, Replaced, SessionInfo, Verdict};
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;
use paths::Paths;

/// The relay's clock: steps of [`Handler::tick`]. Wraps after 13 years.
const TICK: Duration = Duration::from_millis(100);
/// Next hops in use are asked for this often, in ticks, so that the kernel keeps them (half a minute).
const ASK_EVERY: u32 = 300;
/// Upstreams whose next hop is asked for in one tick.
const RESOLVE_EARLY: usize = 16;
/// Slots looked at in one tick: all of them within a second, but never more than 256 KiB of memory.
const SWEEP: usize = 4096;
const SWEEP_ROUND: usize = 10;

const NO_SESSION: Verdict = Verdict::Drop(DropReason::NoSession);
const LIMITED: Verdict = Verdict::Drop(DropReason::RateLimited);
const NO_ROUTE: Verdict = Verdict::Drop(DropReason::NoRoute);

/// The relay of one queue.
pub struct UdpRelay {
    listens: HashMap<Endpoint, u16, FixedState>,
    entries: Vec<EntryRuntime>,
    /// Of all entries' idle timeouts, in ticks.
    shortest_idle: u32,
    /// Whether answers shorten the life of some entry's sessions.
    any_grace: bool,
    /// Of all entries, one after the other; then those that sessions reach from other source addresses as well.
    upstreams: Paths,
    plan: RelayPlan,
    slices: Slices,
    queue: u32,
    /// Position of this queue among those served: whose ports and shares are its own.
    place: u32,
    seed: u64,
    sessions: Sessions,
    sources: Vec<SourcePorts>,
    counters: RelayCounters,
    /// When the clock stood at zero: the first batch or tick.
    epoch: Option<Instant>,
    now: u32,
    /// The tables and ports seen last, and the period of [`ASK_EVERY`] it was in.
    seen: (u64, u32, u32),
    /// Rises whenever `seen` changes: next hops copied before are looked up again.
    generation: u32,
    /// Next hops asked for since.
    asked: ArrayVec<(u32, IpAddr), 16>,
    /// Upstreams whose next hop was asked for since, in the order of the list.
    resolved_early: usize,
    /// What clients may send and be sent; `None` where nothing is limited.
    limits: Option<Box<RateLimits>>,
    /// Which upstreams answer; `None` where nobody wants to know.
    health: Option<Box<UpstreamHealth>>,
    /// Asked before a session is made, at the entries that are gated, or at all.
    gate: Option<Box<dyn Gate>>,
    gates_all: bool,
    /// Since the epoch, for the limits.
    now_ns: u64,
    /// No room was found in this batch: further new sessions need not look again.
    reclaimed: bool,
    /// What was seen of this batch at first may not hold any more: a session has ended, so that a slot may be
    /// another's, or an upstream's packets leave from another address.
    batch_invalidated: bool,
    /// No packet is ordinary.
    #[cfg(test)]
    force_slow_path: bool,
}

/// What each packet of an entry needs.
struct EntryRuntime {
    listen: Endpoint,
    /// Place of its first upstream in the list of all.
    first_upstream: u32,
    /// In ticks.
    idle_timeout: u32,
    /// The same once a session was answered; 0 where answers make no difference.
    answer_grace: u32,
    /// Clients must pass the gate.
    gated: bool,
}

impl UdpRelay {
    /// Makes the relay of `queue`, with memory for all its sessions. Its share of ports, sessions and rates goes by
    /// [`QueueInfo::place`]; see [`RelayPlan::check_queues`].
    #[must_use]
    pub fn new(plan: &RelayPlan, queue: &QueueInfo) -> Self {
        let mut upstreams = Vec::new();
        let mut entries = Vec::new();
        let mut listens = HashMap::with_hasher(FixedState::with_seed(queue.seed));
        for (at, entry) in plan.entries().iter().enumerate() {
            // The configuration has at most 1024 entries of 256 upstreams.
            listens.insert(entry.listen, at as u16);
            entries.push(EntryRuntime {
                listen: entry.listen,
                first_upstream: upstreams.len() as u32,
                idle_timeout: ticks(entry.idle_timeout),
                answer_grace: entry.answer_grace.map_or(0, |grace| ticks(grace).max(1)),
                gated: entry.gated,
            });
            upstreams.extend(entry.upstreams.iter().copied());
        }
        let entry_of = plan.entries().iter().zip(0..).flat_map(|(entry, at)| entry.upstreams.iter().map(move |_| at));
        let health = UpstreamHealth::new(plan.entries().iter().map(policy).collect(), entry_of.collect());
        Self {
            listens,
            shortest_idle: entries.iter().map(EntryRuntime::shortest_idle).min().unwrap_or(0),
            any_grace: entries.iter().any(|entry| entry.answer_grace > 0),
            entries,
            upstreams: Paths::new(upstreams),
            plan: plan.clone(),
            slices: plan.slices(queue.queues),
            queue: queue.queue,
            place: queue.place,
            seed: queue.seed,
            sessions: Sessions::new(plan.capacity_per_queue(queue.queues), FlowHash::new(queue.processor, queue.seed)),
            sources: Vec::new(),
            counters: RelayCounters::default(),
            epoch: None,
            now: 0,
            seen: (0, 0, 0),
            generation: 0,
            asked: ArrayVec::new(),
            resolved_early: 0,
            limits: plan.limits(queue.place, queue.queues, queue.seed),
            health,
            gate: plan.gate().map(|gate| Box::new(gate) as Box<dyn Gate>),
            gates_all: false,
            now_ns: 0,
            reclaimed: false,
            batch_invalidated: false,
            #[cfg(test)]
            force_slow_path: false,
        }
    }

    /// Serves every packet the long way, as the reference for the short one.
    #[cfg(test)]
    pub(super) fn force_slow_path(mut self) -> Self {
        self.force_slow_path = true;
        self
    }

    /// What became of sessions so far.
    #[must_use]
    pub fn counters(&self) -> RelayCounters {
        let shared_bucket = self.limits.as_ref().map_or(0, |limits| limits.shared_bucket());
        let (upstream_down, upstream_up) =
            self.health.as_ref().map_or((0, 0), |health| (health.went_down, health.came_up));
        RelayCounters { shared_bucket, upstream_down, upstream_up, ..self.counters }
    }

    fn refresh(&mut self, cx: &Context<'_>) {
        let epoch = *self.epoch.get_or_insert(cx.now());
        let since = cx.now().saturating_duration_since(epoch);
        self.now = ticks(since);
        // Wraps after 584 years.
        self.now_ns = since.as_nanos() as u64;
        (self.reclaimed, self.batch_invalidated) = (false, false);
        if let Some(health) = &mut self.health {
            health.look(self.now);
        }
        let seen = (cx.tables().generation, cx.info().changes, self.now / ASK_EVERY);
        if seen != self.seen {
            self.seen = seen;
            self.generation = self.generation.wrapping_add(1);
            self.asked.clear();
            self.resolved_early = 0;
        }
    }

    /// The source address of ours that this is, and its place.
    #[inline]
    fn source_of(&self, at: &Endpoint) -> Option<(usize, &SourcePorts)> {
        self.sources.iter().enumerate().find(|(_, source)| source.address == at.address)
    }

    /// The slot of the session that has this source address and port.
    fn slot_of(&self, at: &Endpoint) -> Option<u32> {
        self.source_of(at)?.1.slot(at.port)
    }

    /// Serves a packet of any kind.
    #[cold]
    #[inline(never)]
    fn serve(&mut self, batch: &mut Batch<'_>, lane: usize, lookup: &LookupResult, cx: &mut Context<'_>) -> Verdict {
        let slot = lookup.slot(lane);
        let outcome = if lookup.clients & 1 << lane != 0 {
            self.serve_client(batch, lane, &lookup.keys.get(lane), slot, cx)
        } else {
            self.serve_answer(batch, lane, slot, cx)
        };
        outcome.map_or_else(|verdict| verdict, Verdict::Transmit)
    }

    fn serve_client(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        key: &FlowKey,
        slot: Option<u32>,
        cx: &mut Context<'_>,
    ) -> Result<PortIndex, Verdict> {
        let old = &batch.columns().flow[lane];
        // A packet that was held has paid.
        if let Some(limits) = self.limits.as_mut().filter(|_| !batch.was_held())
            && !limits.admit(&key.remote, key.local, self.now_ns, ip_bytes(batch, lane))
        {
            return Err(LIMITED);
        }
        let mut length = batch.columns().length[lane];
        let (slot, new) = match self.current(slot, key, cx) {
            Some(slot) => (slot, false),
            None => {
                self.may_begin(key, cx).map_err(Verdict::Drop)?;
                length = self.admit_new_client(batch, lane, key.local, cx)?;
                (self.create(key, cx).map_err(Verdict::Drop)?, true)
            }
        };
        let now = self.now;
        let session = self.sessions.get_mut(slot).ok_or(NO_SESSION)?;
        let first = new || session.last_seen != now;
        (session.last_seen, session.answered) = (now, false);
        let Session { port, source, upstream, change, .. } = *session;
        let target = self.upstream_next_hop(upstream, source, old.source.is_ipv4(), cx)?;
        let source = Endpoint { address: target.address, port: port.get() };
        let new = Flow { source, destination: target.server };
        let sent = self.send(batch, lane, length, &new, (target.hop, change));
        if let (Some(health), Ok(_), true) = (&mut self.health, sent, first) {
            health.sent(key.local, target.place, slot, now);
        }
        sent
    }

    fn serve_answer(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        slot: Option<u32>,
        cx: &mut Context<'_>,
    ) -> Result<PortIndex, Verdict> {
        let old = &batch.columns().flow[lane];
        // The session may have ended, or begun, earlier in this batch.
        let holds = |slot: u32| {
            self.sessions.get(slot).is_some_and(|s| {
                let source = self.sources.get(usize::from(s.source));
                s.port.get() == old.destination.port && source.is_some_and(|s| s.address == old.destination.address)
            })
        };
        let slot = slot.filter(|&slot| holds(slot)).or_else(|| self.slot_of(&old.destination)).ok_or(NO_SESSION)?;
        let session = self.sessions.get(slot).ok_or(NO_SESSION)?;
        if self.expired(session) {
            return Err(NO_SESSION);
        }
        let upstream = self.upstreams.get(session.upstream).filter(|upstream| upstream.server == old.source);
        let place = upstream.ok_or(Verdict::Drop(DropReason::WrongPeer))?.place;
        if let Some(health) = &mut self.health {
            health.answered(place);
        }
        if let Some(limits) = self.limits.as_mut().filter(|_| !batch.was_held())
            && !limits.admit_reply(&session.key.remote, self.now_ns, ip_bytes(batch, lane))
        {
            return Err(LIMITED);
        }
        let listen = self.entries.get(usize::from(session.key.local)).ok_or(NO_SESSION)?.listen;
        let new = Flow { source: listen, destination: session.key.remote };
        let (mut hop, change) = (session.to_client, session.change.reversed());
        if !hop.fresh(self.generation) {
            hop = self.resolve(old.source.is_ipv4(), &new.destination, cx)?;
            self.sessions.get_mut(slot).ok_or(NO_SESSION)?.to_client = hop;
        }
        let sent = self.send(batch, lane, batch.columns().length[lane], &new, (hop, change));
        if self.any_grace && sent.is_ok() {
            self.note_answer(slot);
        }
        sent
    }

    /// The session in `slot` was answered: where its entry says so, it ends soon if its client sends nothing more.
    fn note_answer(&mut self, slot: u32) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(slot) else { return };
        if self.entries.get(usize::from(session.key.local)).is_some_and(|entry| entry.answer_grace > 0) {
            (session.last_seen, session.answered) = (now, true);
        }
    }
}

impl EntryRuntime {
    fn shortest_idle(&self) -> u32 {
        if self.answer_grace > 0 { self.idle_timeout.min(self.answer_grace) } else { self.idle_timeout }
    }
}

impl Handler for UdpRelay {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        self.refresh(cx);
        let mut lookup = self.classify(batch);
        self.look_up(batch, &mut lookup);
        // In order of arrival, whether ordinary or not: what comes out is what one packet at a time gives.
        let mut rest = lookup.clients | lookup.answers;
        let mut fast = self.fast_path_lanes(batch, &lookup);
        while rest != 0 {
            let (lane, first) = (rest.trailing_zeros() as usize, rest & rest.wrapping_neg());
            if self.batch_invalidated {
                fast = 0;
            }
            let of_client = lookup.clients & first != 0;
            if fast & first == 0 || of_client && !self.stays(lookup.slots[lane]) {
                let verdict = self.serve(batch, lane, &lookup, cx);
                batch.decide(lane, verdict);
                rest ^= first;
                continue;
            }
            let alike = fast & if of_client { lookup.clients } else { lookup.answers };
            // All before the next one that is not alike; if there is none (zero), all.
            let others = rest & !if self.all_stay() { alike } else { first };
            let run = rest & (others & others.wrapping_neg()).wrapping_sub(1);
            if of_client {
                self.send_to_upstreams(batch, run, &lookup);
            } else {
                self.send_to_clients(batch, run, &lookup);
            }
            rest &= !run;
        }
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
        self.refresh(cx);
        self.sweep(self.sessions.capacity().div_ceil(SWEEP_ROUND).min(SWEEP));
        self.log_health();
        self.resolve_next_hops_early(cx);
    }

    fn sessions(&self) -> u64 {
        self.sessions.len() as u64
    }

    fn counts(&self, count: &mut dyn FnMut(&'static str, u64)) {
        self.counters().report(count);
    }

    fn describe_sessions(&self, limit: usize, into: &mut Vec<SessionInfo>) {
        self.describe(limit, into);
    }

    fn inherit(&mut self, former: &mut Self, _why: Replaced) -> Result<u64, String> {
        Ok(self.take_over(former))
    }

    fn memory_bytes(&self) -> u64 {
        let ports: usize = self.sources.iter().map(SourcePorts::memory_bytes).sum();
        let limits = self.limits.as_ref().map_or(0, |limits| limits.memory_bytes());
        let upstreams = self.upstreams.memory_bytes();
        (size_of::<Self>() + self.sessions.memory_bytes() + upstreams + ports + limits) as u64
    }
}

impl UdpRelay {
    /// Logs which upstreams went down or came up.
    fn log_health(&mut self) {
        let Some(health) = &mut self.health else { return };
        for (place, down) in health.changes() {
            let first = |entry: &&EntryRuntime| entry.first_upstream <= place;
            let at = self.entries.iter().take_while(first).count().saturating_sub(1);
            let Some(entry) = self.plan.entries().get(at) else { continue };
            let upstream = self.entries.get(at).and_then(|e| entry.upstreams.get((place - e.first_upstream) as usize));
            let Some(upstream) = upstream.map(|upstream| std::net::SocketAddr::from(*upstream)) else { continue };
            let (entry, queue, others) = (entry.name.as_str(), self.queue, entry.upstreams.len() - 1);
            if down {
                tracing::warn!(queue, entry, %upstream, others, "upstream does not answer");
            } else {
                tracing::info!(queue, entry, %upstream, "upstream answers again");
            }
        }
    }
}

fn policy(entry: &Entry) -> Policy {
    let (sessions, silence) = entry.down_after;
    Policy { sessions, silence: ticks(silence), failover: entry.failover }
}

/// Length of a parsed packet without its Ethernet header.
#[inline]
fn ip_bytes(batch: &Batch<'_>, lane: usize) -> u16 {
    let columns = batch.columns();
    columns.length[lane].saturating_sub(u16::from(columns.l3[lane]))
}

fn ticks(time: Duration) -> u32 {
    // Wraps on purpose; differences stay right.
    (time.as_millis() / TICK.as_millis()) as u32
}
