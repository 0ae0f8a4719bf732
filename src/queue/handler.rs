//! Defines the trait that an application implements, and the data that it gets.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::{Batch, HoldKey, QueuePeers};
use crate::net::Tables;
use crate::port::{PortInfo, Rss};
use crate::simd::Processor;
use crate::umem::PortIndex;

/// Handles the packets of one queue for an application. Each queue has its own instance, created on the queue's core.
/// Instances are never shared and need no locks.
pub trait Handler {
    /// Decides about each packet of `batch`. A lane without a verdict is dropped and counted.
    ///
    /// If it panics, the batch is dropped and counted, and the supervisor creates a new handler. Socket, memory and
    /// rings stay unchanged.
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>);

    /// Returns whether [`handle`](Self::handle) reads [`Batch::columns`]. If not, the engine does not fill them, and
    /// their masks contain no packet.
    fn reads_columns(&self) -> bool {
        true
    }

    /// Handles timeouts. The engine calls it about every 100 ms, busy or idle.
    fn tick(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }

    /// Returns the number of sessions, for the status report.
    fn sessions(&self) -> u64 {
        0
    }

    /// Reports each counter of this handler by name, for the status report. The engine calls it about ten times a
    /// second.
    fn counts(&self, count: &mut dyn FnMut(&'static str, u64)) {
        let _ = count;
    }

    /// Returns the memory used by this handler in bytes, for the memory report.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// Appends the description of at most `limit` sessions to `into`, for an operator. The engine calls it between two
    /// batches. It must not take longer than a batch, so it must look at a bounded number of entries.
    fn describe_sessions(&self, limit: usize, into: &mut Vec<SessionInfo>) {
        let _ = (limit, into);
    }

    /// Takes over useful state of the handler that this one replaces, before its first batch. Returns the number of
    /// sessions taken over.
    ///
    /// After [`Replaced::Panicked`], `former` is in the state of the panic, possibly in the middle of a change: check
    /// everything before you take it over. If this method panics, the next handler takes over nothing.
    ///
    /// # Errors
    /// Returns a message for the operator: why nothing was taken over.
    fn inherit(&mut self, former: &mut Self, why: Replaced) -> Result<u64, String>
    where
        Self: Sized,
    {
        let _ = (former, why);
        Err("this handler does not support inheritance".to_owned())
    }
}

/// States why the next handler replaces a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replaced {
    /// The handler panicked.
    Panicked,
    /// A restart or a new configuration requested it.
    Asked,
}

/// Describes one session of a handler, for an operator.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SessionInfo {
    /// Queue that serves it.
    pub queue: u32,
    /// Address and port of the client.
    pub client: SocketAddr,
    /// Address and port to which the client sends.
    pub listen: SocketAddr,
    /// Source address and port toward the upstream.
    pub source: SocketAddr,
    /// Address and port of the upstream.
    pub upstream: SocketAddr,
    /// Time since the last packet of the client.
    pub idle: Duration,
}

/// Describes the queue that a handler is created for.
#[derive(Debug, Clone)]
pub struct QueueInfo {
    /// Queue number, from zero; the same on each of its interfaces.
    pub queue: u32,
    /// Counts the queues that the engine serves. Their numbers may be any: see [`place`](Self::place).
    pub queues: u32,
    /// Position of this queue among those that the engine serves, from zero, below [`queues`](Self::queues). Shares and
    /// [`Verdict::HandOver`](super::Verdict::HandOver) use it.
    pub place: u32,
    /// The ports of this queue's actor, in the order of the configuration's interfaces.
    pub ports: Vec<PortInfo>,
    /// RSS settings of each port's NIC; `None` where they are unknown.
    pub rss: Vec<Option<Arc<Rss>>>,
    /// Increases when a port is reopened, because its interface number and MAC address may have changed.
    pub changes: u32,
    /// Batch processor in force, for a handler's own batches and tables.
    pub processor: Processor,
    /// Seed for keyed hashes, different for every handler.
    pub seed: u64,
}

impl QueueInfo {
    /// Returns the same description with another seed, for the next handler. With the same seed, a relay would assign
    /// the same source ports in the same order again. Answers to the old handler's clients would reach new clients.
    #[must_use]
    pub(crate) fn for_next_handler(&self) -> Self {
        // One step of SplitMix64. The result is as unpredictable as the first seed.
        let z = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self { seed: z ^ (z >> 31), ..self.clone() }
    }
}

/// Limits the next hops that one batch can request. Later packets repeat the requests that did not fit.
const REQUESTS: usize = 16;

/// Gives a handler the data that belongs to its batch, and takes its requests.
pub struct Context<'a> {
    now: Instant,
    info: &'a QueueInfo,
    tables: &'a Tables,
    draining: bool,
    requests: &'a mut ArrayVec<(u32, IpAddr), REQUESTS>,
    /// `None` without a datapath.
    peers: Option<&'a QueuePeers>,
}

impl<'a> Context<'a> {
    /// Creates a context, for callers that use a handler without a datapath.
    #[doc(hidden)]
    pub fn new(
        now: Instant,
        info: &'a QueueInfo,
        tables: &'a Tables,
        draining: bool,
        requests: &'a mut NextHopRequests,
    ) -> Self {
        Self { now, info, tables, draining, requests: &mut requests.0, peers: None }
    }

    pub(crate) fn with_peers(self, peers: &'a QueuePeers) -> Self {
        Self { peers: Some(peers), ..self }
    }

    /// Returns the time at which this batch was received. All its packets share one reading of the monotonic clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Returns the description of this queue and its ports.
    #[must_use]
    pub fn info(&self) -> &'a QueueInfo {
        self.info
    }

    /// Returns the current links, routes and neighbours.
    #[must_use]
    pub fn tables(&self) -> &'a Tables {
        self.tables
    }

    /// Returns whether the engine is draining: the handler must serve existing sessions and start no new ones.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining
    }

    /// Returns whether the queue at `place` takes packets that are handed over to it. Without a datapath, every queue does.
    #[must_use]
    pub fn takes_handovers(&self, place: u32) -> bool {
        self.peers.is_none_or(|peers| peers.has(place))
    }

    /// Returns the port that sends through interface `ifindex`, if this actor has one.
    #[must_use]
    pub fn port_of(&self, ifindex: u32) -> Option<PortIndex> {
        let at = self.info.ports.iter().position(|port| port.ifindex == ifindex)?;
        PortIndex::new(at)
    }

    /// Asks the kernel, through the supervisor, for the MAC address of `next_hop` on `interface`. The caller holds the
    /// packet under the returned key ([`Verdict::HoldFor`](super::Verdict::HoldFor)).
    pub fn resolve(&mut self, interface: u32, next_hop: IpAddr) -> HoldKey {
        if !self.requests.contains(&(interface, next_hop)) {
            // The list is full; a later packet of the same flow repeats the request.
            let _ = self.requests.try_push((interface, next_hop));
        }
        HoldKey::next_hop(interface, next_hop)
    }
}

/// Collects the next hops that handlers requested since the last read.
#[derive(Debug, Default)]
pub struct NextHopRequests(ArrayVec<(u32, IpAddr), REQUESTS>);

impl NextHopRequests {
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.0.drain(..)
    }
}
