//! One queue's part of a gateway: the sessions of its peers, and which packets are the gateway's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender};
use oxide::packet::{Endpoint, LANES};
use oxide::queue::{Batch, Context, Handler, QueueInfo, Replaced, SessionInfo};
use oxide_tunnel::inner::Inner;
use oxide_tunnel::{Peer, PeerId};

use crate::control::{ControlMessage, GatewayHandlers, NewSession, PeerRef, Shared};

/// Counts the packets of one queue's gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GatewayCounters {
    /// Packets taken out of tunnels and sent.
    pub opened: u64,
    /// Packets put into tunnels and sent.
    pub sealed: u64,
    /// Handshake messages passed to the control thread.
    pub handshakes: u64,
    /// Keepalives received.
    pub keepalives: u64,
    /// Data messages refused by the replay window, without decryption.
    pub replayed: u64,
    /// Data messages that are not authentic, or whose session expired, and datagrams that are no message.
    pub refused: u64,
    /// Inner packets from an address that their peer does not own.
    pub spoofed: u64,
}

/// Handles the packets of a gateway, and gives all others to `H`. Create one per queue with [`new`](Self::new).
///
/// `H` sees batches that may contain packets of the gateway. Its verdicts for those are replaced, so it must not change
/// packets that it does not know.
pub struct GatewayHandler<H> {
    inner: H,
    pub(crate) tunnels: Tunnels,
}

/// The tunnels of one queue.
pub(crate) struct Tunnels {
    pub(crate) shared: Arc<Shared>,
    pub(crate) place: u32,
    pub(crate) listen: Endpoint,
    pub(crate) peers: HashMap<PeerId, Peer>,
    pub(crate) by_index: HashMap<u32, PeerId>,
    pub(crate) counters: GatewayCounters,
    pub(crate) control: Sender<ControlMessage>,
    sessions: Option<Receiver<NewSession>>,
    /// Indices that the control thread could not yet take back.
    unreleased: Vec<u32>,
}

/// Says what a lane is to the gateway.
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    /// Not the gateway's.
    Other,
    /// A datagram to the listen port.
    Tunnel,
    /// A packet to an inner address.
    ToPeer(PeerRef, Inner),
    /// A packet that was taken out of a tunnel and waited for its next hop.
    Out(Inner),
}

impl<H: Handler> GatewayHandler<H> {
    /// Creates the handler of one queue.
    #[must_use]
    pub fn new(gateway: &GatewayHandlers, queue: &QueueInfo, inner: H) -> Self {
        let shared = Arc::clone(&gateway.0);
        let tunnels = Tunnels {
            place: queue.place,
            listen: shared.listen.into(),
            peers: shared.peers_of(queue.place, Instant::now()).collect(),
            by_index: HashMap::new(),
            counters: GatewayCounters::default(),
            control: shared.control.clone(),
            sessions: shared.sessions.get(queue.place as usize).cloned(),
            unreleased: Vec::new(),
            shared,
        };
        Self { inner, tunnels }
    }

    /// Returns the counters.
    #[must_use]
    pub fn counters(&self) -> GatewayCounters {
        self.tunnels.counters
    }
}

impl<H: Handler> Handler for GatewayHandler<H> {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        self.tunnels.install(cx.now());
        let mut kinds = [Lane::Other; LANES];
        let mut others = false;
        for (lane, kind) in kinds.iter_mut().enumerate().take(batch.len()) {
            *kind = self.tunnels.classify(batch, lane);
            others |= matches!(kind, Lane::Other);
        }
        if others {
            self.inner.handle(batch, cx);
        }
        for (lane, kind) in kinds.iter().enumerate().take(batch.len()) {
            if let Some(verdict) = self.tunnels.serve(batch, lane, *kind, cx) {
                batch.decide(lane, verdict);
            }
        }
    }

    fn tick(&mut self, cx: &mut Context<'_>) {
        self.tunnels.install(cx.now());
        self.tunnels.poll(cx.now());
        self.inner.tick(cx);
    }

    fn sessions(&self) -> u64 {
        self.inner.sessions() + self.tunnels.by_index.len() as u64
    }

    fn counts(&self, count: &mut dyn FnMut(&'static str, u64)) {
        self.inner.counts(count);
    }

    fn memory_bytes(&self) -> u64 {
        self.inner.memory_bytes()
    }

    fn describe_sessions(&self, limit: usize, into: &mut Vec<SessionInfo>) {
        self.inner.describe_sessions(limit, into);
    }

    /// Takes the sessions over, unless the former handler panicked: it may have sealed a packet and not yet counted it,
    /// and a counter must never be used twice. Those peers make new sessions.
    fn inherit(&mut self, former: &mut Self, why: Replaced) -> Result<u64, String> {
        let kept = self.inner.inherit(&mut former.inner, why);
        if why != Replaced::Asked {
            return kept;
        }
        let by_index = std::mem::take(&mut former.tunnels.by_index);
        for (id, peer) in former.tunnels.peers.drain() {
            // The configuration may have changed: only peers that it has.
            if let Some(own) = self.tunnels.peers.get_mut(&id) {
                *own = peer;
            }
        }
        self.tunnels.by_index = by_index;
        match (kept, self.tunnels.by_index.len() as u64) {
            (Ok(kept), own) => Ok(kept + own),
            (Err(reason), 0) => Err(reason),
            // The other handler has nothing to keep; the tunnels are kept all the same.
            (Err(_), own) => Ok(own),
        }
    }
}

impl Tunnels {
    /// Takes the sessions that the control thread made.
    fn install(&mut self, now: Instant) {
        while let Some(new) = self.sessions.as_ref().and_then(|sessions| sessions.try_recv().ok()) {
            let NewSession { peer: id, session, endpoint } = new;
            let Some(peer) = self.peers.get_mut(&id) else { continue };
            self.by_index.insert(session.local(), id);
            peer.install(*session, endpoint, now);
            self.flush(id, now);
        }
    }

    fn classify(&self, batch: &Batch<'_>, lane: usize) -> Lane {
        let columns = batch.columns();
        if columns.udp & 1 << lane != 0 && columns.flow[lane].destination == self.listen {
            return Lane::Tunnel;
        }
        let packet = batch.packet(lane);
        let is_ip = matches!(packet.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]));
        let Some(Ok(inner)) = packet.get(14..).filter(|_| is_ip).map(Inner::parse) else { return Lane::Other };
        match self.shared.allowed.owner(inner.destination) {
            Some(peer) => Lane::ToPeer(peer, inner),
            // Only the gateway holds packets from inner addresses: a held packet is no datagram of a tunnel any more.
            None if batch.was_held() && self.shared.allowed.owner(inner.source).is_some() => Lane::Out(inner),
            None => Lane::Other,
        }
    }

    /// Sends what a peer wants, and gives the indices of its former sessions back.
    pub(crate) fn flush(&mut self, id: PeerId, now: Instant) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let wants = peer.take_wants();
        if wants.keepalive
            && let Some(to) = peer.endpoint()
            && let Ok(bytes) = peer.keepalive(now)
        {
            // A lost keepalive is repeated by the timers.
            let _ = self.control.try_send(ControlMessage::Keepalive { bytes, to });
        }
        if wants.handshake || peer.take_wants().handshake {
            // Asked for again after 5 s.
            let _ = self.control.try_send(ControlMessage::Wanted { peer: id, endpoint: peer.endpoint() });
        }
        for index in peer.take_released() {
            self.by_index.remove(&index);
            self.unreleased.push(index);
        }
    }

    fn poll(&mut self, now: Instant) {
        let ids: Vec<PeerId> = self.peers.keys().copied().collect();
        for id in ids {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.poll(now);
            }
            self.flush(id, now);
        }
        self.unreleased.retain(|index| self.control.try_send(ControlMessage::Released(*index)).is_err());
    }
}

impl Drop for Tunnels {
    fn drop(&mut self) {
        for index in self.by_index.keys().chain(&self.unreleased) {
            let _ = self.control.try_send(ControlMessage::Released(*index));
        }
    }
}
