//! Relays the packets of one queue: finds the session of each packet, then sends the packet with new addresses.
//!
//! | direction | found by | refreshes the session | leaves as |
//! |---|---|---|---|
//! | client to upstream | (client, entry), created if new | yes (RFC 4787 REQ-6) | source address and port -> upstream |
//! | upstream to client | source address and port; the sender must be the session's upstream | no | listen address -> client |
//!
//! If client and upstream have different IP versions, the IP header is replaced as well
//! ([`translate`](oxide::packet::translate)).
//!
//! An expired session is never used, even if its slot has not been freed yet. A session keeps its source address and
//! port while the address is assigned to this host, even if the kernel prefers another one for new flows. When the
//! address is removed and another one exists, the session ends, because its answers would not arrive any more.

mod admission;
mod classify;
mod family_translation;
mod fast_path;
mod forward;
mod fragments;
mod home;
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
use super::plan::{Entry, RelayPlan};
use super::port_space::{PortSet, PortSpace};
use super::session::{Session, Sessions};
use super::source_ports::SourcePorts;
use classify::LookupResult;
use fragments::FragmentTable;
use home::Home;
use oxide::flow::{FlowHash, FlowKey};
use oxide::packet::{Endpoint, Flow};
use oxide::queue::{Batch, Context, Handler, QueueInfo, Replaced, SessionInfo, Verdict};
use oxide::telemetry::DropReason;
use oxide::umem::PortIndex;
use paths::Paths;

/// Is the unit of the relay's clock: the period of [`Handler::tick`]. The clock wraps after 13 years.
const TICK: Duration = Duration::from_millis(100);
/// Ticks between two requests for a next hop in use (half a minute), so that the kernel keeps it.
const ASK_EVERY: u32 = 300;
/// Upstreams whose next hop is requested in one tick.
const RESOLVE_EARLY: usize = 16;
/// Limits the session slots checked in one tick: all within a second, but never more than 256 KiB of memory.
const SWEEP: usize = 4096;
const SWEEP_ROUND: usize = 10;

const NO_SESSION: Verdict = Verdict::Drop(DropReason::NoSession);
const LIMITED: Verdict = Verdict::Drop(DropReason::RateLimited);
const NO_ROUTE: Verdict = Verdict::Drop(DropReason::NoRoute);

/// Relays the packets of one queue.
pub struct UdpRelay {
    listens: HashMap<Endpoint, u16, FixedState>,
    entries: Vec<EntryRuntime>,
    /// Shortest idle timeout of all entries, in ticks.
    shortest_idle: u32,
    /// States whether some entry has an answer grace time.
    any_grace: bool,
    /// Upstreams of all entries in order, then pairs of an upstream and another source address.
    upstreams: Paths,
    plan: RelayPlan,
    space: PortSpace,
    /// Source ports that this queue owns.
    own_ports: PortSet,
    /// Number of the server at each place of the plan's list of upstreams: entries may have servers in common.
    servers: Vec<u32>,
    queue: u32,
    /// Position of this queue among the served ones; it selects the queue's ports and shares.
    place: u32,
    seed: u64,
    sessions: Sessions,
    home: Home,
    sources: Vec<SourcePorts>,
    counters: RelayCounters,
    /// Start of the clock: the first batch or tick.
    epoch: Option<Instant>,
    now: u32,
    /// Generation of the tables and of the ports, and the period of [`ASK_EVERY`], at the last refresh.
    seen: (u64, u32, u32),
    /// Increases when `seen` changes; next hops copied before are resolved again.
    generation: u32,
    /// Next hops requested in this generation.
    asked: ArrayVec<(u32, IpAddr), 16>,
    /// Number of upstreams whose next hop was requested in this generation, in list order.
    resolved_early: usize,
    /// Rate limits; `None` if nothing is limited.
    limits: Option<Box<RateLimits>>,
    /// Health of the upstreams; `None` if no entry checks it.
    health: Option<Box<UpstreamHealth>>,
    /// Decides about new sessions of gated entries, or of all entries if `gates_all` is set.
    gate: Option<Box<dyn Gate>>,
    gates_all: bool,
    /// Time since the epoch, ns, for the rate limits.
    now_ns: u64,
    fragments: FragmentTable,
    /// Largest IP packet, bytes, on the way of the packet that was served last.
    egress_mtu: u16,
    /// States that expired sessions were already reclaimed in this batch, so another attempt is useless.
    reclaimed: bool,
    /// States that the first look-up of this batch may be invalid: a session has ended, so its slot may belong to another
    /// one, or an upstream has another source address.
    batch_invalidated: bool,
    /// Sends every packet through the slow path.
    #[cfg(test)]
    force_slow_path: bool,
}

/// Holds the data of an entry that the packet path needs.
struct EntryRuntime {
    listen: Endpoint,
    /// Index of its first upstream in the list of all.
    first_upstream: u32,
    /// Idle timeout, in ticks.
    idle_timeout: u32,
    /// Idle timeout after an answer, in ticks; 0 if answers do not shorten it.
    answer_grace: u32,
    /// Requires clients to pass the gate.
    gated: bool,
}

impl UdpRelay {
    /// Makes the relay of `queue` and allocates memory for all its sessions. [`QueueInfo::place`] determines its share of
    /// ports, sessions and rates; see [`RelayPlan::check_queues`].
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
        let mut numbers = HashMap::with_hasher(FixedState::with_seed(queue.seed));
        let number = |server: &Endpoint| {
            let next = numbers.len() as u32;
            *numbers.entry(*server).or_insert(next)
        };
        let servers = upstreams.iter().map(number).collect();
        let space = plan.port_space(queue.queues);
        Self {
            listens,
            shortest_idle: entries.iter().map(EntryRuntime::shortest_idle).min().unwrap_or(0),
            any_grace: entries.iter().any(|entry| entry.answer_grace > 0),
            entries,
            upstreams: Paths::new(upstreams, plan.configured_sources()),
            plan: plan.clone(),
            own_ports: space.set_of(queue.place),
            space,
            servers,
            queue: queue.queue,
            place: queue.place,
            seed: queue.seed,
            sessions: Sessions::new(plan.capacity_per_queue(queue.queues), FlowHash::new(queue.processor, queue.seed)),
            home: Home::new(plan, queue),
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
            fragments: FragmentTable::new(queue.place, queue.queues, queue.seed),
            egress_mtu: 0,
            reclaimed: false,
            batch_invalidated: false,
            #[cfg(test)]
            force_slow_path: false,
        }
    }

    /// Sends every packet through the slow path, as a reference for the fast path.
    #[cfg(test)]
    pub(super) fn force_slow_path(mut self) -> Self {
        self.force_slow_path = true;
        self
    }

    /// Returns the event counters.
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

    /// Returns the source ports of this address and their index, if it is a source address of the relay.
    #[inline]
    fn source_of(&self, at: &Endpoint) -> Option<(usize, &SourcePorts)> {
        self.sources.iter().enumerate().find(|(_, source)| source.address == at.address)
    }

    /// Returns the slot of the session that has the destination of `answer` as its source, and sends to the answer's
    /// sender.
    ///
    /// # Errors
    /// [`NO_SESSION`], or [`DropReason::WrongPeer`] if all such sessions send to other servers.
    fn session_answered(&self, answer: &Flow) -> Result<u32, Verdict> {
        let (source, ports) = self.source_of(&answer.destination).ok_or(NO_SESSION)?;
        let mut others = NO_SESSION;
        for slot in ports.slots(self.space.index(answer.destination.port)) {
            let Some(session) = self.sessions.get(slot) else { continue };
            let holds = session.port.get() == answer.destination.port && usize::from(session.source) == source;
            if !holds || self.expired(session) {
                continue;
            }
            match self.upstreams.get(session.upstream) {
                Some(upstream) if upstream.server == answer.source => return Ok(slot),
                _ => others = Verdict::Drop(DropReason::WrongPeer),
            }
        }
        Err(others)
    }

    /// Serves one packet on the slow path.
    #[cold]
    #[inline(never)]
    fn serve(&mut self, batch: &mut Batch<'_>, lane: usize, lookup: &LookupResult, cx: &mut Context<'_>) -> Verdict {
        let slot = lookup.slot(lane);
        let outcome = if lookup.clients & 1 << lane != 0 {
            self.serve_client(batch, lane, &lookup.keys.get(lane), slot, cx)
        } else {
            self.serve_answer(batch, lane, cx)
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
        let found = self.current(slot, key, cx);
        if found.is_none() {
            self.claim_flow(key, cx)?;
        }
        // A held packet was already counted.
        if let Some(limits) = self.limits.as_mut().filter(|_| !batch.was_held())
            && !limits.admit(&key.remote, key.local, self.now_ns, ip_bytes(batch, lane))
        {
            if found.is_none() {
                self.release_flow(key);
            }
            return Err(LIMITED);
        }
        let new = found.is_none();
        let (slot, length) = match found {
            Some(slot) => (slot, batch.columns().length[lane]),
            None => self.begin(batch, lane, key, cx).inspect_err(|_| self.release_flow(key))?,
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

    /// Makes a session for a client without one. Returns its slot and the length of the packet.
    fn begin(
        &mut self,
        batch: &mut Batch<'_>,
        lane: usize,
        key: &FlowKey,
        cx: &mut Context<'_>,
    ) -> Result<(u32, u16), Verdict> {
        self.may_begin(key, cx).map_err(Verdict::Drop)?;
        let length = self.admit_new_client(batch, lane, key.local, cx)?;
        let slot = self.create(key, cx).map_err(Verdict::Drop)?;
        Ok((slot, length))
    }

    fn serve_answer(&mut self, batch: &mut Batch<'_>, lane: usize, cx: &mut Context<'_>) -> Result<PortIndex, Verdict> {
        let old = &batch.columns().flow[lane];
        // Not the slot of the look-up: the session may have ended, or begun, earlier in this batch.
        let slot = self.session_answered(old)?;
        let session = self.sessions.get(slot).ok_or(NO_SESSION)?;
        let place = self.upstreams.get(session.upstream).ok_or(NO_SESSION)?.place;
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

    /// Records an answer for the session in `slot`, if its entry has an answer grace time.
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
        // Serve packets in order of arrival on both paths, so that the result equals serving them one by one.
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
            // All lanes before the next lane of another kind; if there is none (zero), all lanes.
            let others = rest & !if self.all_stay() { alike } else { first };
            let run = rest & (others & others.wrapping_neg()).wrapping_sub(1);
            if of_client {
                self.send_to_upstreams(batch, run, &lookup);
            } else {
                self.send_to_clients(batch, run, &lookup);
            }
            rest &= !run;
        }
        let fragments = batch.columns().fragments & batch.live();
        if fragments != 0 {
            self.serve_fragments(batch, fragments, cx);
        }
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
        self.refresh(cx);
        self.home.begin();
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
        let fragments = self.fragments.memory_bytes();
        (size_of::<Self>() + self.sessions.memory_bytes() + upstreams + ports + limits + fragments) as u64
    }
}

impl UdpRelay {
    /// Logs the upstreams that went down or came up.
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

/// Returns the length of a parsed packet without its Ethernet header, bytes.
#[inline]
fn ip_bytes(batch: &Batch<'_>, lane: usize) -> u16 {
    let columns = batch.columns();
    columns.length[lane].saturating_sub(u16::from(columns.l3[lane]))
}

fn ticks(time: Duration) -> u32 {
    // The wrap is intended: differences stay correct.
    (time.as_millis() / TICK.as_millis()) as u32
}
