//! What an application implements, and what it is given.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;

use super::{Batch, HoldKey};
use crate::net::Tables;
use crate::port::{PortInfo, Rss};
use crate::simd::Processor;
use crate::umem::PortIndex;

/// An application's packet handler. One instance for each queue, made on the queue's own core; it is
/// never shared and needs no locks.
pub trait Handler {
    /// Decides about each packet of `batch`. A lane without a verdict is dropped and counted.
    ///
    /// May panic: then the batch is dropped and counted, and the supervisor makes a new handler,
    /// while socket, memory and rings stay as they are.
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>);

    /// Whether [`handle`](Self::handle) reads [`Batch::columns`]. A handler that says no is spared the time it takes to
    /// fill them, and finds no packet in their masks.
    fn reads_columns(&self) -> bool {
        true
    }

    /// Called about every 100 ms, busy or idle, for timeouts.
    fn tick(&mut self, cx: &mut Context<'_>) {
        let _ = cx;
    }

    /// Sessions held now, for the status report.
    fn sessions(&self) -> u64 {
        0
    }

    /// Tells what this handler counts, each by its name, for the status report: about ten times a second.
    fn counts(&self, count: &mut dyn FnMut(&'static str, u64)) {
        let _ = count;
    }

    /// Bytes this handler keeps, for the memory report.
    fn memory_bytes(&self) -> u64 {
        0
    }

    /// Describes at most `limit` sessions at the end of `into`, for an operator who asks. Called between two
    /// batches, so it must not take longer than one: look at a bounded part of what there is.
    fn describe_sessions(&self, limit: usize, into: &mut Vec<SessionInfo>) {
        let _ = (limit, into);
    }

    /// Takes over what is worth keeping of the handler that this one replaces, before its first batch. Returns
    /// how many sessions that were, or why none.
    ///
    /// After [`Replaced::Panicked`] `former` is as the panic left it, perhaps in the middle of a change: take
    /// nothing that was not checked. If this panics, the next handler takes nothing over.
    ///
    /// # Errors
    /// Why nothing was taken over, in words for the operator.
    fn inherit(&mut self, former: &mut Self, why: Replaced) -> Result<u64, String>
    where
        Self: Sized,
    {
        let _ = (former, why);
        Err("this handler has nothing to hand over".to_owned())
    }
}

/// Why a handler is replaced by the next one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replaced {
    /// It panicked.
    Panicked,
    /// Somebody asked for it: a restart, or another configuration.
    Asked,
}

/// One session of a handler, as an operator sees it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct SessionInfo {
    /// Queue that serves it.
    pub queue: u32,
    /// Who began it.
    pub client: SocketAddr,
    /// Where the client sends to.
    pub listen: SocketAddr,
    /// Source address and port toward the upstream.
    pub source: SocketAddr,
    /// Where its packets go.
    pub upstream: SocketAddr,
    /// Since the client was last heard.
    pub idle: Duration,
}

/// Which queue a handler is made for.
#[derive(Debug, Clone)]
pub struct QueueInfo {
    /// Queue number, from zero; the same on each of its interfaces.
    pub queue: u32,
    /// Counts the queues that the engine serves. Their numbers may be any: see [`place`](Self::place).
    pub queues: u32,
    /// Position of this queue among those that the engine serves, from zero, below [`queues`](Self::queues). Shares and
    /// [`Verdict::HandOver`](super::Verdict::HandOver) go by it.
    pub place: u32,
    /// The ports of this queue's actor, in the order of the configuration's interfaces.
    pub ports: Vec<PortInfo>,
    /// How the NIC of each port spreads flows over its queues, where that is known.
    pub rss: Vec<Option<Arc<Rss>>>,
    /// Rises when a port was opened again: its interface number and MAC may be others.
    pub changes: u32,
    /// The batch processor in force, for a handler's own batches and tables.
    pub processor: Processor,
    /// Seed for keyed hashes, different for every handler made.
    pub seed: u64,
}

impl QueueInfo {
    /// The same queue for the handler that follows: its seed is another one. With the same, a relay
    /// would give out the same source ports in the same order again, and answers to the old handler's
    /// clients would go to the new one's.
    #[must_use]
    pub(crate) fn for_next_handler(&self) -> Self {
        // One step of SplitMix64: unpredictable where the first seed was.
        let z = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self { seed: z ^ (z >> 31), ..self.clone() }
    }
}

/// Requests to resolve a next hop that one batch can make; the rest is asked for by a later packet.
const REQUESTS: usize = 16;

/// What a handler may see and ask for besides its batch.
pub struct Context<'a> {
    now: Instant,
    info: &'a QueueInfo,
    tables: &'a Tables,
    draining: bool,
    requests: &'a mut ArrayVec<(u32, IpAddr), REQUESTS>,
}

impl<'a> Context<'a> {
    /// Puts a context together, for what calls a handler without a worker.
    #[doc(hidden)]
    pub fn new(
        now: Instant,
        info: &'a QueueInfo,
        tables: &'a Tables,
        draining: bool,
        requests: &'a mut NextHopRequests,
    ) -> Self {
        Self { now, info, tables, draining, requests: &mut requests.0 }
    }

    /// When this batch was received: one reading of the monotonic clock for all its packets.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Which queue this is, and its ports.
    #[must_use]
    pub fn info(&self) -> &'a QueueInfo {
        self.info
    }

    /// Links, routes and neighbours as they are now.
    #[must_use]
    pub fn tables(&self) -> &'a Tables {
        self.tables
    }

    /// Whether the engine is draining: serve what there is, start nothing new.
    #[must_use]
    pub fn draining(&self) -> bool {
        self.draining
    }

    /// The port that leaves by interface `ifindex`, if this actor has one.
    #[must_use]
    pub fn port_of(&self, ifindex: u32) -> Option<PortIndex> {
        let at = self.info.ports.iter().position(|port| port.ifindex == ifindex)?;
        PortIndex::new(at)
    }

    /// Asks the kernel, by way of the supervisor, for the MAC of `next_hop` on `interface`. Hold the
    /// packet meanwhile ([`Verdict::HoldFor`](super::Verdict::HoldFor)), by the key that is returned.
    pub fn resolve(&mut self, interface: u32, next_hop: IpAddr) -> HoldKey {
        if !self.requests.contains(&(interface, next_hop)) {
            // Full: a later packet of the same flow asks again.
            let _ = self.requests.try_push((interface, next_hop));
        }
        HoldKey::next_hop(interface, next_hop)
    }
}

/// What handlers asked for since it was last looked at.
#[derive(Debug, Default)]
pub struct NextHopRequests(ArrayVec<(u32, IpAddr), REQUESTS>);

impl NextHopRequests {
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (u32, IpAddr)> + '_ {
        self.0.drain(..)
    }
}
