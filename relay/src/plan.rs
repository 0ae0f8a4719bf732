//! What every queue's relay agrees on: entries, the choice of upstreams, who owns which source port.
//! Made once, then only read; each handler has its own copy.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use super::gate::{CookieGate, Cookies};
use super::limit::{LimitsPlan, RateLimits};
use super::policy::{self, Denied};
use super::sources::UsedSources;
use crate::config::{Affinity, Config, ConfigError, GateKind, PortRange};
use oxide::net::Tables;
use oxide::packet::Endpoint;

/// One relay entry, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in reports.
    pub name: String,
    /// Where clients send to.
    pub listen: Endpoint,
    /// Where their packets go.
    pub upstreams: Vec<Endpoint>,
    /// What of a client chooses its upstream.
    pub affinity: Affinity,
    /// Whether a client must prove its address before it gets a session.
    pub gated: bool,
    /// How long a session may be idle.
    pub idle_timeout: Duration,
    /// How long a session may be idle once it was answered; `None` where answers make no difference.
    pub answer_grace: Option<Duration>,
    /// When an upstream is down: as many sessions, 0 for never, that were silent for as long.
    pub down_after: (u32, Duration),
    /// Whether sessions leave an upstream that is down.
    pub failover: bool,
}

impl Entry {
    /// The place in [`upstreams`](Self::upstreams) of the one that serves `client`: the highest weight
    /// of both ends (rendezvous hashing). It depends on nothing else, so that every queue, restart and
    /// host agree, and a change of the list moves only the clients that an upstream gains or loses.
    #[must_use]
    pub fn upstream_for(&self, client: &Endpoint) -> usize {
        self.upstream_among(client, |_| true).unwrap_or(0)
    }

    /// As [`upstream_for`](Self::upstream_for), but only of those whose place `may` admits.
    pub(super) fn upstream_among(&self, client: &Endpoint, mut may: impl FnMut(usize) -> bool) -> Option<usize> {
        let port = if self.affinity == Affinity::Address { 0 } else { client.port };
        let client = Endpoint { port, ..*client };
        let upstreams = self.upstreams.iter().enumerate().filter(|&(at, _)| may(at));
        upstreams.max_by_key(|(_, upstream)| weight(&client, upstream)).map(|(at, _)| at)
    }
}

/// Not secret, and the same in every version: whoever picks source ports to reach one upstream could
/// do so with any consistent hash that hosts agree on.
fn weight(client: &Endpoint, upstream: &Endpoint) -> u64 {
    let words = [client, upstream].into_iter().flat_map(|end| {
        let [high, low] = halves(end);
        [high, low, u64::from(end.port)]
    });
    words.fold(0, |hash, word| mix(hash ^ word))
}

/// The halves of an address.
pub(super) fn halves(end: &Endpoint) -> [u64; 2] {
    let address = u128::from_be_bytes(end.address);
    [(address >> 64) as u64, address as u64]
}

/// One step of splitmix64 (Steele, Lea, Flood, OOPSLA 2014): every input bit reaches every output bit.
pub(super) fn mix(word: u64) -> u64 {
    let mut z = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// How long a cookie is good, at least; at most twice as long.
const COOKIE_LIFETIME: Duration = Duration::from_secs(60);

/// Cookies of a secret that nobody can guess: std seeds its hashers from the kernel.
fn cookies() -> Cookies {
    let half = || RandomState::new().build_hasher().finish().to_ne_bytes();
    let (low, high) = (half(), half());
    let secret = std::array::from_fn(|at| if at < 8 { low[at] } else { high[at - 8] });
    Cookies::new(secret, COOKIE_LIFETIME, Instant::now())
}

/// Relay entries that cannot be served on this host.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A value of the configuration cannot be used.
    #[error("{0}")]
    Config(#[from] ConfigError),
    /// Nothing to relay.
    #[error("no [[relay]] entry: write one (`oxide config example` shows how)")]
    NoEntry,
    /// An upstream that is never relayed to.
    #[error("relay[{entry}].upstreams: {denied}; write the address of another host")]
    Denied {
        /// Entry's name.
        entry: String,
        /// Which address, and why.
        denied: Denied,
    },
    /// Fewer source ports than queues.
    #[error(
        "sessions.source_ports = \"{ports}\" has {} ports for {queues} queues: write a range with at least one for each",
        ports.count()
    )]
    TooFewPorts {
        /// As configured.
        ports: PortRange,
        /// Queues that want a slice.
        queues: u32,
    },
}

/// Everything a queue's relay needs to know, the same for all queues.
#[derive(Debug, Clone)]
pub struct RelayPlan {
    entries: Vec<Entry>,
    capacity: u32,
    ports: PortRange,
    limits: LimitsPlan,
    /// For the entries that are gated; one for all queues, and for the plans that follow by reloads.
    cookies: Cookies,
}

impl RelayPlan {
    /// The plan of a configuration. `own` are this host's addresses, which no upstream may be.
    ///
    /// # Errors
    /// [`PlanError::Config`], [`PlanError::NoEntry`], [`PlanError::Denied`].
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
            ports: config.sessions.source_ports,
            limits,
            cookies: cookies(),
        })
    }

    /// Goes on with the secrets of `former`, which this plan takes the place of: its cookies stay good.
    #[must_use]
    pub fn following(mut self, former: &Self) -> Self {
        self.cookies = former.cookies.clone();
        self
    }

    /// Returns the gate of the entries that have one; `None` where none has.
    pub(super) fn gate(&self) -> Option<CookieGate> {
        self.entries.iter().any(|entry| entry.gated).then(|| CookieGate::new(self.cookies.clone()))
    }

    /// The entries, in the order of the file.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Checks that the ports are enough for `queues` queues.
    ///
    /// # Errors
    /// [`PlanError::TooFewPorts`].
    pub fn check_queues(&self, queues: u32) -> Result<(), PlanError> {
        if self.slices(queues).size > 0 {
            return Ok(());
        }
        Err(PlanError::TooFewPorts { ports: self.ports, queues })
    }

    /// Source addresses toward the upstreams, by the tables of the moment.
    #[must_use]
    pub fn source_addresses(&self, tables: &Tables) -> Vec<IpAddr> {
        let upstreams: BTreeSet<IpAddr> =
            self.entries.iter().flat_map(|entry| &entry.upstreams).map(Endpoint::ip).collect();
        let sources = upstreams.into_iter().filter(|&upstream| !tables.local(upstream));
        sources.filter_map(|upstream| tables.source_for(upstream)).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Destinations whose packets are the relay's: where clients send to, and where answers come back
    /// to, which is each source address that sessions may have. To be asked again with every change of the tables.
    #[must_use]
    pub fn destinations(&self, tables: &Tables, used: &UsedSources) -> Vec<(IpAddr, RangeInclusive<u16>)> {
        let listens = self.entries.iter().map(|entry| (entry.listen.ip(), entry.listen.port..=entry.listen.port));
        let sources = used.with(self.source_addresses(tables), tables);
        let answers = sources.into_iter().map(|source| (source, self.ports.into()));
        listens.chain(answers).collect()
    }

    /// Sessions that each of `queues` queues holds at most.
    #[must_use]
    pub fn capacity_per_queue(&self, queues: u32) -> u32 {
        (self.capacity / queues.max(1)).max(1)
    }

    /// What may pass on `queue` of `queues`; `None` where nothing is limited.
    pub(super) fn limits(&self, queue: u32, queues: u32, seed: u64) -> Option<Box<RateLimits>> {
        self.limits.of(queue, queues, seed)
    }

    /// The source ports of each of `queues` queues.
    #[must_use]
    pub fn slices(&self, queues: u32) -> Slices {
        let queues = queues.max(1);
        Slices { first: self.ports.first(), size: self.ports.count() / queues, queues }
    }
}

/// The source ports, in equal contiguous parts by queue number. What is left over is not used.
#[derive(Debug, Clone, Copy)]
pub struct Slices {
    first: u16,
    size: u32,
    queues: u32,
}

impl Slices {
    /// The ports of `queue`; as `u32`, so that the end of the last one fits.
    pub fn of(self, queue: u32) -> Range<u32> {
        let start = u32::from(self.first) + self.size * queue.min(self.queues);
        let size = if queue < self.queues { self.size } else { 0 };
        start..start + size
    }

    /// Whose port it is; `None` if no one's.
    #[inline]
    pub fn owner(self, port: u16) -> Option<u32> {
        let at = u32::from(port.checked_sub(self.first)?);
        at.checked_div(self.size).filter(|&queue| queue < self.queues)
    }
}
