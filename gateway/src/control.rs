//! The control side: one thread with all handshakes.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TrySendError, bounded};
use oxide_tunnel::inner::DscpPolicy;
use oxide_tunnel::message::{INITIATION_LEN, KEEPALIVE_LEN};
use oxide_tunnel::{
    AllowedIps, HandshakeOutput, Handshakes, IndexOwner, Peer, PeerConfig, PeerId, Prefix, PresharedKey, PublicKey,
    Session, Time,
};

use crate::config::{GatewayConfig, GatewayError, GatewayPeer};

/// Messages that wait for the control thread. A flood of handshakes fills it, and the rest is dropped.
const CONTROL_MESSAGES: usize = 1_024;
/// Sessions that wait for one queue.
const SESSIONS: usize = 4_096;
/// How often timers are looked at.
const POLL_EVERY: Duration = Duration::from_millis(100);

/// A message from a queue to the control thread.
pub(crate) enum ControlMessage {
    /// A handshake message arrived.
    Handshake { bytes: [u8; INITIATION_LEN], length: u8, source: SocketAddr },
    /// A peer needs a session.
    Wanted { peer: PeerId, endpoint: Option<SocketAddr> },
    /// A keepalive is to be sent.
    Keepalive { bytes: [u8; KEEPALIVE_LEN], to: SocketAddr },
    /// A session was dropped.
    Released(u32),
    /// The gateway ends.
    Stop,
}

/// A message from the control thread to the queue that owns a peer.
pub(crate) struct NewSession {
    pub(crate) peer: PeerId,
    pub(crate) session: Box<Session>,
    pub(crate) endpoint: SocketAddr,
}

/// A peer, and the place of the queue that owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerRef {
    pub(crate) id: PeerId,
    pub(crate) place: u32,
}

/// What all queues read and nobody writes.
pub(crate) struct Shared {
    pub(crate) listen: SocketAddr,
    pub(crate) allowed: AllowedIps<PeerRef>,
    pub(crate) owner: IndexOwner,
    pub(crate) dscp: DscpPolicy,
    pub(crate) peers: Vec<(PeerRef, Option<SocketAddr>, Option<Duration>)>,
    pub(crate) sessions: Vec<Receiver<NewSession>>,
    pub(crate) control: Sender<ControlMessage>,
}

/// Owns a running gateway's control side. Dropping it ends the control thread; established sessions then serve until
/// they expire.
pub struct Gateway {
    shared: Arc<Shared>,
    prefixes: Vec<Prefix>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts the control side for an engine with `queues` served queues. The socket belongs to the network namespace of
    /// the calling thread.
    ///
    /// # Errors
    /// [`GatewayError`]; nothing stays open then.
    pub fn start(config: GatewayConfig, queues: u32) -> Result<Self, GatewayError> {
        config.check()?;
        let GatewayConfig { private_key, listen, inner_prefixes, peers, limits, dscp } = config;
        let owner = IndexOwner::new(queues)?;
        let mut handshakes = Handshakes::new(private_key, owner, limits, Instant::now())?;
        let (mut entries, mut known) = (Vec::new(), Vec::new());
        for (peer, place) in peers.into_iter().zip((0..owner.owners()).cycle()) {
            let GatewayPeer { public_key: public, preshared_key: psk, endpoint, allowed_ips, persistent_keepalive } =
                peer;
            let id = add(&mut handshakes, public, psk, endpoint, place)?;
            let peer = PeerRef { id, place };
            entries.extend(allowed_ips.into_iter().map(|prefix| (prefix, peer)));
            known.push((peer, endpoint, persistent_keepalive));
        }
        let allowed = AllowedIps::build(entries)?;
        let socket = UdpSocket::bind(listen).map_err(|source| GatewayError::Listen { listen, source })?;
        let (control, messages) = bounded(CONTROL_MESSAGES);
        let (senders, sessions): (Vec<_>, Vec<_>) = (0..owner.owners()).map(|_| bounded(SESSIONS)).unzip();
        let places = known.iter().map(|(peer, ..)| peer.place).collect();
        let thread = ControlThread { handshakes, socket, messages, senders, places, out: Vec::new() };
        let thread = thread::Builder::new().name("oxide-gateway".to_owned()).spawn(move || thread.run());
        let shared = Shared { listen, allowed, owner, dscp, peers: known, sessions, control };
        Ok(Self {
            shared: Arc::new(shared),
            prefixes: inner_prefixes,
            thread: Some(thread.map_err(GatewayError::Thread)?),
        })
    }

    /// Returns what handlers are created from, for the factory of the engine.
    #[must_use]
    pub fn handlers(&self) -> GatewayHandlers {
        GatewayHandlers(Arc::clone(&self.shared))
    }

    /// Returns the address and port for [`EngineBuilder::destinations`](oxide::EngineBuilder::destinations).
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        self.shared.listen
    }

    /// Returns the inner prefixes for [`EngineBuilder::prefixes`](oxide::EngineBuilder::prefixes).
    #[must_use]
    pub fn prefixes(&self) -> Vec<(std::net::IpAddr, u8)> {
        self.prefixes.iter().map(|prefix| (prefix.address(), prefix.length())).collect()
    }
}

/// Holds what the handlers of a gateway are created from.
#[derive(Clone)]
pub struct GatewayHandlers(pub(crate) Arc<Shared>);

impl Shared {
    /// Returns the peers of one queue, without sessions.
    pub(crate) fn peers_of(&self, place: u32, now: Instant) -> impl Iterator<Item = (PeerId, Peer)> + '_ {
        let own = self.peers.iter().filter(move |(peer, ..)| peer.place == place);
        own.map(move |(peer, endpoint, keepalive)| (peer.id, Peer::new(*endpoint, *keepalive, now)))
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.shared.control.send_timeout(ControlMessage::Stop, Duration::from_secs(1));
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("gateway control thread panicked");
        }
    }
}

fn add(
    handshakes: &mut Handshakes,
    public: PublicKey,
    psk: PresharedKey,
    endpoint: Option<SocketAddr>,
    owner: u32,
) -> Result<PeerId, GatewayError> {
    Ok(handshakes.add_peer(PeerConfig { public, psk, endpoint, owner })?)
}

struct ControlThread {
    handshakes: Handshakes,
    socket: UdpSocket,
    messages: Receiver<ControlMessage>,
    senders: Vec<Sender<NewSession>>,
    /// Place of each peer, by its number.
    places: Vec<u32>,
    out: Vec<HandshakeOutput>,
}

impl ControlThread {
    fn run(mut self) {
        let mut polled = Instant::now();
        loop {
            let time = time();
            match self.messages.recv_timeout(POLL_EVERY) {
                Ok(ControlMessage::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.on_message(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if time.now.saturating_duration_since(polled) >= POLL_EVERY {
                polled = time.now;
                self.handshakes.poll(time, &mut self.out);
                self.apply();
            }
        }
    }

    fn on_message(&mut self, message: ControlMessage) {
        let time = time();
        match message {
            ControlMessage::Handshake { bytes, length, source } => {
                let datagram = bytes.get(..usize::from(length)).unwrap_or(&bytes);
                if let Err(error) = self.handshakes.receive(datagram, source, time, &mut self.out) {
                    tracing::debug!(%source, %error, "handshake message without effect");
                }
            }
            ControlMessage::Wanted { peer, endpoint } => {
                if let Some(endpoint) = endpoint {
                    self.handshakes.set_endpoint(peer, endpoint);
                }
                if let Err(error) = self.handshakes.initiate(peer, time, &mut self.out) {
                    tracing::debug!(peer = peer.number(), %error, "handshake not begun");
                }
            }
            ControlMessage::Keepalive { bytes, to } => self.send(&bytes, to),
            ControlMessage::Released(index) => self.handshakes.release(index),
            ControlMessage::Stop => {}
        }
        self.apply();
    }

    /// A session reaches its queue before its response leaves, so the first packet finds it.
    fn apply(&mut self) {
        for output in std::mem::take(&mut self.out) {
            match output {
                HandshakeOutput::Send { to, datagram } => self.send(datagram.as_bytes(), to),
                HandshakeOutput::GaveUp { peer } => tracing::info!(peer = peer.number(), "peer does not answer"),
                HandshakeOutput::Established { peer, session, endpoint } => {
                    let place = self.places.get(peer.number() as usize).copied().unwrap_or(0);
                    let Some(queue) = self.senders.get(place as usize) else { continue };
                    if let Err(TrySendError::Full(new) | TrySendError::Disconnected(new)) =
                        queue.try_send(NewSession { peer, session, endpoint })
                    {
                        tracing::warn!(
                            peer = peer.number(),
                            place,
                            "queue does not take a new session; session dropped"
                        );
                        self.handshakes.release(new.session.local());
                    }
                }
            }
        }
    }

    fn send(&self, datagram: &[u8], to: SocketAddr) {
        if let Err(error) = self.socket.send_to(datagram, to) {
            tracing::debug!(%to, %error, "control message not sent");
        }
    }
}

fn time() -> Time {
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Time { now: Instant::now(), unix }
}
