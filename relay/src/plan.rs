//! Holds what all queues share: entries, the choice of upstreams, the owner of each source port. A plan is made once
//! and then only read; each handler has its own copy.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::flow_owners::FlowOwners;
use super::gate::{CookieGate, Cookies};
use super::limit::{LimitsPlan, RateLimits};
use super::policy::{self, Denied};
use super::port_space::PortSpace;
use super::sources::UsedSources;
use crate::config::{Affinity, Config, ConfigError, GateKind, PortRanges};
use oxide::net::Tables;
use oxide::packet::Endpoint;

/// Holds one checked relay entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name in reports.
    pub name: String,
    /// Address and port that clients send to.
    pub listen: Endpoint,
    /// Servers that get the packets.
    pub upstreams: Vec<Endpoint>,
    /// Part of the client that selects its upstream.
    pub affinity: Affinity,
    /// Requires a client to prove its address before it gets a session.
    pub gated: bool,
    /// Idle time after which a session ends.
    pub idle_timeout: Duration,
    /// Idle time after an answer; `None` if answers do not shorten it.
    pub answer_grace: Option<Duration>,
    /// Number of sessions (0: never) and time without an answer after which an upstream is down.
    pub down_after: (u32, Duration),
    /// Moves existing sessions away from an upstream that is down.
    pub failover: bool,
}

impl Entry {
    /// Returns the index in [`upstreams`](Self::upstreams) of the server for `client`: the one with the highest weight of
    /// both (rendezvous hashing). The choice depends on nothing else, so every queue, restart and host agrees. A change
    /// of the list moves only the clients that an upstream gains or loses.
    #[must_use]
    pub fn upstream_for(&self, client: &Endpoint) -> usize {
        self.upstream_among(client, |_| true).unwrap_or(0)
    }

    /// Chooses like [`upstream_for`](Self::upstream_for), but only among the indices that `may` accepts.
    pub(super) fn upstream_among(&self, client: &Endpoint, mut may: impl FnMut(usize) -> bool) -> Option<usize> {
        let port = if self.affinity == Affinity::Address { 0 } else { client.port };
        let client = Endpoint { port, ..*client };
        let upstreams = self.upstreams.iter().enumerate().filter(|&(at, _)| may(at));
        upstreams.max_by_key(|(_, upstream)| weight(&client, upstream)).map(|(at, _)| at)
    }
}

/// Returns the weight of a client at an upstream. The hash is not secret and never changes: with any hash that hosts
/// agree on, a client can choose its source port to reach a certain upstream.
fn weight(client: &Endpoint, upstream: &Endpoint) -> u64 {
    let words = [client, upstream].into_iter().flat_map(|end| {
        let [high, low] = halves(end);
        [high, low, u64::from(end.port)]
    });
    words.fold(0, |hash, word| mix(hash ^ word))
}

/// Returns the two halves of an address.
pub(super) fn halves(end: &Endpoint) -> [u64; 2] {
    let address = u128::from_be_bytes(end.address);
    [(address >> 64) as u64, address as u64]
}

/// Mixes bits by one step of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): every input bit affects every output bit.
pub(super) fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Minimum lifetime of a cookie; the maximum is twice as long.
const COOKIE_LIFETIME: Duration = Duration::from_secs(60);

/// Returns cookies with a random secret: std seeds its hashers from the kernel.
fn cookies() -> Cookies {
    let half = || RandomState::new().build_hasher().finish().to_ne_bytes();
    let (low, high) = (half(), half());
    let secret = std::array::from_fn(|at| if at < 8 { low[at] } else { high[at - 8] });
    Cookies::new(secret, COOKIE_LIFETIME, Instant::now())
}

/// States why relay entries cannot be served on this host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A value of the configuration cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// The configuration has no entry.
    #[error("relay: no [[relay]] entry; expected at least one; to fix: add one (`oxide config example` prints one)")]
    NoEntry,
    /// An upstream has a refused address.
    #[error("relay[{entry}].upstreams: {denied}; to fix: write the address of another host")]
    Denied {
        /// Name of the entry.
        entry: String,
        /// Address and reason.
        denied: Denied,
    },
    /// The range has fewer source ports than there are queues.
    #[error(
        "sessions.source_ports: \"{ports}\" has {} ports for {queues} queues; expected at least one per queue; to fix: write a wider range",
        ports.count()
    )]
    TooFewPorts {
        /// Configured ranges.
        ports: PortRanges,
        /// Number of queues that need ports.
        queues: u32,
    },
}

/// Holds everything that all queues' relays share.
#[derive(Debug, Clone)]
pub struct RelayPlan {
    entries: Vec<Entry>,
    capacity: u32,
    ports: PortRanges,
    /// Source addresses that the configuration names.
    sources: Vec<IpAddr>,
    limits: LimitsPlan,
    /// Cookies of the gated entries; the same for all queues and for the plans of later reloads.
    cookies: Cookies,
    /// The home queue of each client flow; one for all queues, and for the plans that follow by reloads.
    owners: Arc<FlowOwners>,
    tally: Arc<Tally>,
}

/// Counts the sessions that the handlers of one plan took over.
#[derive(Debug, Default)]
struct Tally {
    kept: AtomicU64,
    lost: AtomicU64,
}

/// Counts the sessions at a change of handlers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[non_exhaustive]
pub struct TakenOver {
    /// Sessions that the new handlers serve.
    pub kept: u64,
    /// Sessions that ended: their port, entry or upstream is not in the new configuration, or there are fewer places.
    pub lost: u64,
}

impl RelayPlan {
    /// Makes the plan of a configuration. `own` are this host's addresses, which are refused as upstreams.
    ///
    /// # Errors
    /// Returns [`PlanError::Config`], [`PlanError::NoEntry`] or [`PlanError::Denied`].
    pub fn new(config: &Config, own: &[IpAddr]) -> Result<Self, PlanError> {
        config.check()?;
        let entries: Vec<Entry> = config
            .relays
            .iter()
            .map(|relay| Entry {
                name: relay.name.clone(),
                listen: relay.listen.into(),
                upstreams: relay.upstreams.iter().copied().map(Endpoint::from).collect(),
                affinity: relay.affinity,
                gated: relay.gate == GateKind::Cookie,
                idle_timeout: config.sessions.idle_timeout(relay),
                answer_grace: (relay.answer_grace_ms > 0).then(|| Duration::from_millis(relay.answer_grace_ms.into())),
                down_after: (relay.down_after_sessions, Duration::from_millis(relay.down_after_ms.into())),
                failover: relay.fails_over(),
            })
            .collect();
        if entries.is_empty() {
            return Err(PlanError::NoEntry);
        }
        for relay in &config.relays {
            for upstream in &relay.upstreams {
                policy::check(upstream.ip(), relay.allow_private, own)
                    .map_err(|denied| PlanError::Denied { entry: relay.name.clone(), denied })?;
            }
        }
        let limits = LimitsPlan::new(&config.limits, &config.relays);
        Ok(Self {
            entries,
            capacity: config.sessions.capacity,
            ports: config.sessions.source_ports.clone(),
            sources: config.sessions.sources.clone(),
            limits,
            cookies: cookies(),
            owners: Arc::new(FlowOwners::new(config.sessions.capacity)),
            tally: Arc::default(),
        })
    }

    /// Takes the secret of `former`, which this plan replaces, so that its cookies stay valid.
    #[must_use]
    pub fn following(mut self, former: &Self) -> Self {
        self.cookies = former.cookies.clone();
        // While handlers are replaced one by one, all queues must agree on the home queue of a flow.
        if self.capacity <= former.owners.capacity() {
            self.owners = Arc::clone(&former.owners);
        }
        self
    }

    pub(super) fn owners(&self) -> &Arc<FlowOwners> {
        &self.owners
    }

    /// Returns the place of the home queue of this flow, if it has one.
    #[doc(hidden)] // for the reference relay
    #[must_use]
    pub fn home_of(&self, client: &Endpoint, listen: &Endpoint) -> Option<u32> {
        self.owners.owner(self.owners.hash(client, listen))
    }

    /// Adds to the sessions that handlers of this plan took over from their predecessors.
    pub(super) fn note_taken_over(&self, kept: u64, lost: u64) {
        self.tally.kept.fetch_add(kept, Ordering::Relaxed);
        self.tally.lost.fetch_add(lost, Ordering::Relaxed);
    }

    /// Returns the sessions that handlers of this plan took over from their predecessors so far, all queues together.
    #[must_use]
    pub fn taken_over(&self) -> TakenOver {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        TakenOver { kept: of(&self.tally.kept), lost: of(&self.tally.lost) }
    }

    /// Returns the gate of the gated entries; `None` if no entry is gated.
    pub(super) fn gate(&self) -> Option<CookieGate> {
        self.entries.iter().any(|entry| entry.gated).then(|| CookieGate::new(self.cookies.clone()))
    }

    /// Returns the entries in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Checks that the ports are enough for `queues` queues.
    ///
    /// # Errors
    /// Returns [`PlanError::TooFewPorts`].
    pub fn check_queues(&self, queues: u32) -> Result<(), PlanError> {
        let space = self.port_space(queues);
        if (0..queues).all(|place| space.of(place).next().is_some()) {
            return Ok(());
        }
        Err(PlanError::TooFewPorts { ports: self.ports.clone(), queues })
    }

    /// Counts the source addresses that the configuration names.
    pub(super) fn configured_sources(&self) -> usize {
        self.sources.len()
    }

    /// Returns the addresses that new sessions to `upstream` may leave from: the configured ones of its family that this
    /// host has. Without a configured one of this family, the address that the kernel prefers.
    pub(super) fn sources_for<'a>(&'a self, upstream: IpAddr, tables: &'a Tables) -> impl Iterator<Item = IpAddr> + 'a {
        let family = move |address: &IpAddr| address.is_ipv4() == upstream.is_ipv4();
        let preferred = if self.sources.iter().any(family) { None } else { tables.source_for(upstream).filter(family) };
        self.sources.iter().copied().filter(move |address| family(address) && tables.local(*address)).chain(preferred)
    }

    /// Returns the preferred source addresses towards the upstreams, by the current tables.
    #[must_use]
    pub fn source_addresses(&self, tables: &Tables) -> Vec<IpAddr> {
        let upstreams: BTreeSet<IpAddr> =
            self.entries.iter().flat_map(|entry| &entry.upstreams).map(Endpoint::ip).collect();
        let sources = upstreams.into_iter().filter(|&upstream| !tables.local(upstream));
        sources.flat_map(|upstream| self.sources_for(upstream, tables)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Returns the destinations that are steered to the relay: listen addresses, and the source ports on each source
    /// address that sessions may have. Call it again after every change of the tables.
    #[must_use]
    pub fn destinations(&self, tables: &Tables, used: &UsedSources) -> Vec<(IpAddr, RangeInclusive<u16>)> {
        let listens = self.entries.iter().map(|entry| (entry.listen.ip(), entry.listen.port..=entry.listen.port));
        let sources = used.with(self.source_addresses(tables), tables);
        let ports = self.port_space(1).ranges();
        let answers = sources.into_iter().flat_map(|source| ports.iter().map(move |range| (source, range.clone())));
        listens.chain(answers).collect()
    }

    /// Returns the maximum number of sessions of each of `queues` queues.
    #[must_use]
    pub fn capacity_per_queue(&self, queues: u32) -> u32 {
        (self.capacity / queues.max(1)).max(1)
    }

    /// Returns the rate limits of `queue`, one of `queues`; `None` if nothing is limited.
    pub(super) fn limits(&self, queue: u32, queues: u32, seed: u64) -> Option<Box<RateLimits>> {
        self.limits.of(queue, queues, seed)
    }

    /// Returns the source ports of `queues` queues. Ports that an entry listens on are not among them: an answer could not
    /// be told from a client's packet.
    #[must_use]
    pub fn port_space(&self, queues: u32) -> PortSpace {
        let ranges = self.ports.ranges().iter().map(|&range| range.into());
        PortSpace::new(ranges, self.entries.iter().map(|entry| entry.listen.port), queues)
    }
}
