//! The control side of a device: all its handshakes. One thread owns it; packets do not pass here.
//!
//! What a message from a stranger costs, in this order: nothing is kept for it before each step has passed.
//!
//! 1. Length and type. 2. MAC1: one BLAKE2s. 3. Under load: MAC2, or a cookie reply; then the limit of its source.
//! 4. Four multiplications on the curve. 5. The peer is known, its timestamp is new, and it is not too fast.

mod load;
mod peers;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::cookie::CookieIssuer;
use crate::entropy::{EntropyError, random};
use crate::handshake::{self, NoiseError};
use crate::index::{IndexOwner, Indices};
use crate::keys::{PrivateKey, PublicKey};
use crate::message::{COOKIE_REPLY_LEN, INITIATION_LEN, Malformed, Message, RESPONSE_LEN};
use crate::peer::REKEY_TIMEOUT;
use crate::session::Session;
use crate::source_limit::SourceLimit;
use crate::tai64n::Tai64n;

use load::Load;
use peers::{HandshakePeer, Peers, Pending};
pub use peers::{PeerConfig, PeerError, PeerId};

/// Initiations are repeated for so long (white paper, section 6.4).
const REKEY_ATTEMPT: Duration = Duration::from_secs(90);
/// A repetition is delayed by less than this time at random, so that two peers do not always begin together.
const JITTER_MS: u16 = 334;
/// Initiations of one peer are this far apart at least (the kernel's `INITIATIONS_PER_SECOND`).
const INITIATION_INTERVAL: Duration = Duration::from_millis(20);

/// Holds both clocks, read once for a message.
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// Monotonic time: it measures ages.
    pub now: Instant,
    /// Time since 1970, for the timestamps of initiations. It may go backwards.
    pub unix: Duration,
}

/// Configures a device's handshakes.
#[derive(Debug, Clone, Copy)]
pub struct HandshakeLimits {
    /// Handshake messages per second beyond which a source must prove its address.
    pub per_second: u32,
    /// Width of the replay window of each session, bits.
    pub replay_bits: usize,
}

impl Default for HandshakeLimits {
    fn default() -> Self {
        Self { per_second: 1_000, replay_bits: crate::replay::BITS_MIN }
    }
}

/// Says what follows from a handshake message or from a timer.
pub enum HandshakeOutput {
    /// A datagram is to be sent.
    Send {
        /// Destination.
        to: SocketAddr,
        /// Content.
        datagram: Datagram,
    },
    /// A handshake has finished. Always before the [`Send`](Self::Send) of its response.
    Established {
        /// Identifies the peer.
        peer: PeerId,
        /// Gives its session to the owner of the peer.
        session: Box<Session>,
        /// Source of the message.
        endpoint: SocketAddr,
    },
    /// A peer did not answer for 90 s.
    GaveUp {
        /// Identifies the peer.
        peer: PeerId,
    },
}

/// Holds a handshake message.
#[derive(Clone, Copy)]
pub struct Datagram {
    bytes: [u8; INITIATION_LEN],
    length: usize,
}

impl Datagram {
    fn new(message: &[u8]) -> Self {
        let mut bytes = [0; INITIATION_LEN];
        let length = message.len().min(INITIATION_LEN);
        bytes[..length].copy_from_slice(&message[..length]);
        Self { bytes, length }
    }

    /// Returns the content.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Reports why a handshake message has no effect, or why no handshake was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// The datagram is not a WireGuard message.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The datagram is a data message.
    #[error("data message: not for the handshake side")]
    DataMessage,
    /// MAC1 is wrong: the sender does not know the public key of this device.
    #[error("handshake message: MAC1 is wrong")]
    WrongMac1,
    /// The device is under load and the message has no valid cookie; it was answered with one.
    #[error("handshake message: no valid cookie under load")]
    CookieSent,
    /// The source sends too many handshake messages under load.
    #[error("handshake message: its source sends too many")]
    SourceLimit,
    /// The message does not open.
    #[error(transparent)]
    Noise(#[from] NoiseError),
    /// The sender is not configured.
    #[error("handshake message: unknown peer")]
    UnknownPeer,
    /// The initiation is not newer than the last one of its peer.
    #[error("initiation: its timestamp is not newer than the last one: a copy, or the peer's clock went backwards")]
    OldTimestamp,
    /// The initiation follows the last one of its peer too soon.
    #[error("initiation: too soon after the last one")]
    TooSoon,
    /// No handshake waits for this message.
    #[error("handshake message: no handshake has its index")]
    UnknownIndex,
    /// The cookie reply does not answer the last message to its peer.
    #[error("cookie reply: not authentic")]
    WrongCookie,
    /// A handshake with this peer runs, or began less than 5 s ago.
    #[error("handshake: begun already")]
    Running,
    /// The address of the peer is unknown.
    #[error("handshake: the endpoint of the peer is unknown; it must send first")]
    NoEndpoint,
    /// All indices are in use.
    #[error("handshake: no free session index")]
    NoIndex,
}

impl From<EntropyError> for HandshakeError {
    fn from(error: EntropyError) -> Self {
        Self::Noise(error.into())
    }
}

/// Keeps the handshakes of one device.
pub struct Handshakes {
    own: PrivateKey,
    limits: HandshakeLimits,
    peers: Peers,
    indices: Indices,
    cookies: CookieIssuer,
    load: Load,
    sources: SourceLimit,
}

impl Handshakes {
    /// Starts without peers. `owner` names the owners of the session indices.
    ///
    /// # Errors
    /// [`EntropyError`] if the system gives no random bytes.
    pub fn new(
        own: PrivateKey,
        owner: IndexOwner,
        limits: HandshakeLimits,
        now: Instant,
    ) -> Result<Self, EntropyError> {
        let public = own.public();
        Ok(Self {
            limits,
            peers: Peers::new(public),
            indices: Indices::new(owner),
            cookies: CookieIssuer::new(&public, now)?,
            load: Load::new(limits.per_second, now),
            sources: SourceLimit::new(now)?,
            own,
        })
    }

    /// Returns the public key of this device.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.peers.own
    }

    /// Adds a peer.
    ///
    /// # Errors
    /// [`PeerError`] if the key is in use.
    pub fn add_peer(&mut self, config: PeerConfig) -> Result<PeerId, PeerError> {
        self.peers.add(config)
    }

    /// Removes a peer and releases its indices. Its owner must drop its sessions.
    pub fn remove_peer(&mut self, peer: PeerId) {
        self.peers.remove(peer);
        self.indices.release_peer(peer);
    }

    /// Returns the configured peers.
    #[must_use]
    pub fn peers(&self) -> usize {
        self.peers.len()
    }

    /// Returns the session indices in use.
    #[must_use]
    pub fn indices(&self) -> usize {
        self.indices.len()
    }

    /// Whether sources must prove their address now.
    #[must_use]
    pub fn is_under_load(&self, now: Instant) -> bool {
        self.load.is_high(now)
    }

    /// Takes back the index of a session that its owner dropped.
    pub fn release(&mut self, index: u32) {
        self.indices.release(index);
    }

    /// Sets where initiations to a peer go, as its owner learned it from authentic data messages.
    pub fn set_endpoint(&mut self, peer: PeerId, endpoint: SocketAddr) {
        if let Some(peer) = self.peers.get(peer) {
            peer.endpoint = Some(endpoint);
        }
    }

    /// Handles a message that came from `source`. What follows is added to `out`.
    ///
    /// # Errors
    /// [`HandshakeError`] if the message has no effect; `out` may have a cookie reply then.
    pub fn receive(
        &mut self,
        datagram: &[u8],
        source: SocketAddr,
        time: Time,
        out: &mut Vec<HandshakeOutput>,
    ) -> Result<(), HandshakeError> {
        match Message::parse(datagram)? {
            Message::Data(_) => Err(HandshakeError::DataMessage),
            Message::CookieReply(reply) => self.on_cookie_reply(reply, time.now),
            Message::Initiation(message) => {
                self.admit(message, source, time.now, out)?;
                self.on_initiation(message, source, time.now, out)
            }
            Message::Response(message) => {
                self.admit(message, source, time.now, out)?;
                self.on_response(message, source, time.now, out)
            }
        }
    }

    /// Begins a handshake with a peer, unless one runs already.
    ///
    /// # Errors
    /// [`HandshakeError::Running`], [`NoEndpoint`](HandshakeError::NoEndpoint), [`NoIndex`](HandshakeError::NoIndex),
    /// [`UnknownPeer`](HandshakeError::UnknownPeer), [`Noise`](HandshakeError::Noise).
    pub fn initiate(&mut self, id: PeerId, time: Time, out: &mut Vec<HandshakeOutput>) -> Result<(), HandshakeError> {
        let peer = self.peers.get(id).ok_or(HandshakeError::UnknownPeer)?;
        let recent = |sent: Instant| time.now.saturating_duration_since(sent) < REKEY_TIMEOUT;
        if peer.pending.is_some() || peer.last_sent.is_some_and(recent) {
            return Err(HandshakeError::Running);
        }
        self.send_initiation(id, time.now, time, out)
    }

    /// Repeats initiations that were not answered, and ends those that were not answered for 90 s.
    pub fn poll(&mut self, time: Time, out: &mut Vec<HandshakeOutput>) {
        for id in self.peers.due(time.now) {
            let Some(pending) = self.peers.end(id) else { continue };
            self.indices.release(pending.sent.local());
            let gave_up = time.now.saturating_duration_since(pending.begun) >= REKEY_ATTEMPT;
            if gave_up || self.send_initiation(id, pending.begun, time, out).is_err() {
                out.push(HandshakeOutput::GaveUp { peer: id });
            }
        }
    }

    /// Checks what a handshake message must prove before the curve is used.
    fn admit(
        &mut self,
        message: &[u8],
        source: SocketAddr,
        now: Instant,
        out: &mut Vec<HandshakeOutput>,
    ) -> Result<(), HandshakeError> {
        if !self.cookies.mac1_is_valid(message) {
            return Err(HandshakeError::WrongMac1);
        }
        if !self.load.count(now) {
            return Ok(());
        }
        if !self.cookies.mac2_is_valid(message, source, now) {
            let reply: [u8; COOKIE_REPLY_LEN] = self.cookies.reply(message, source, now)?;
            out.push(HandshakeOutput::Send { to: source, datagram: Datagram::new(&reply) });
            return Err(HandshakeError::CookieSent);
        }
        if self.sources.admits(source, now) { Ok(()) } else { Err(HandshakeError::SourceLimit) }
    }

    fn on_initiation(
        &mut self,
        message: &[u8; INITIATION_LEN],
        source: SocketAddr,
        now: Instant,
        out: &mut Vec<HandshakeOutput>,
    ) -> Result<(), HandshakeError> {
        let received = handshake::read_initiation(&self.own, message)?;
        let id = self.peers.by_key(&received.peer).ok_or(HandshakeError::UnknownPeer)?;
        let peer = self.peers.get(id).ok_or(HandshakeError::UnknownPeer)?;
        if peer.last_timestamp.is_some_and(|last| received.timestamp <= last) {
            return Err(HandshakeError::OldTimestamp);
        }
        if peer.last_received.is_some_and(|last| now.saturating_duration_since(last) < INITIATION_INTERVAL) {
            return Err(HandshakeError::TooSoon);
        }
        let timestamp = received.timestamp;
        let index = self.indices.draw(id, peer.config.owner)?.ok_or(HandshakeError::NoIndex)?;
        let answer = received.respond(&peer.config.psk, index);
        let (mut response, keys) = answer.inspect_err(|_| self.indices.release(index))?;
        peer.last_timestamp = Some(timestamp);
        peer.last_received = Some(now);
        peer.endpoint = Some(source);
        peer.cookies.seal(&mut response, now);
        Self::establish(id, &keys, self.limits.replay_bits, source, now, out);
        out.push(HandshakeOutput::Send { to: source, datagram: Datagram::new(&response) });
        Ok(())
    }

    fn on_response(
        &mut self,
        message: &[u8; RESPONSE_LEN],
        source: SocketAddr,
        now: Instant,
        out: &mut Vec<HandshakeOutput>,
    ) -> Result<(), HandshakeError> {
        let index = crate::message::word(message, 8);
        let id = self.indices.peer(index).ok_or(HandshakeError::UnknownIndex)?;
        let peer = self.peers.get(id).ok_or(HandshakeError::UnknownIndex)?;
        let pending = peer.pending.as_mut().filter(|pending| pending.sent.local() == index);
        let keys = pending.ok_or(HandshakeError::UnknownIndex)?.sent.finish(message)?;
        peer.endpoint = Some(source);
        self.peers.end(id);
        Self::establish(id, &keys, self.limits.replay_bits, source, now, out);
        Ok(())
    }

    /// The endpoint stays as it is: a cookie reply does not prove where the peer is.
    fn on_cookie_reply(&mut self, reply: &[u8; COOKIE_REPLY_LEN], now: Instant) -> Result<(), HandshakeError> {
        let id = self.indices.peer(crate::message::word(reply, 4)).ok_or(HandshakeError::UnknownIndex)?;
        let peer = self.peers.get(id).ok_or(HandshakeError::UnknownIndex)?;
        if peer.cookies.receive(reply, now) { Ok(()) } else { Err(HandshakeError::WrongCookie) }
    }

    fn establish(
        peer: PeerId,
        keys: &handshake::TransportKeys,
        replay_bits: usize,
        endpoint: SocketAddr,
        now: Instant,
        out: &mut Vec<HandshakeOutput>,
    ) {
        let session = Session::new(keys, replay_bits, now).map(Box::new);
        out.extend(session.map(|session| HandshakeOutput::Established { peer, session, endpoint }));
    }

    fn send_initiation(
        &mut self,
        id: PeerId,
        begun: Instant,
        time: Time,
        out: &mut Vec<HandshakeOutput>,
    ) -> Result<(), HandshakeError> {
        let peer: &mut HandshakePeer = self.peers.get(id).ok_or(HandshakeError::UnknownPeer)?;
        let to = peer.endpoint.ok_or(HandshakeError::NoEndpoint)?;
        let jitter = u16::from_le_bytes(random()?) % JITTER_MS;
        let index = self.indices.draw(id, peer.config.owner)?.ok_or(HandshakeError::NoIndex)?;
        let timestamp = peer.last_sent_timestamp.next(Tai64n::from_unix(time.unix));
        let begin = handshake::initiate(&self.own, &peer.config.public, &peer.config.psk, timestamp, index);
        let (sent, mut message) = begin.inspect_err(|_| self.indices.release(index))?;
        peer.cookies.seal(&mut message, time.now);
        (peer.last_sent, peer.last_sent_timestamp) = (Some(time.now), timestamp);
        let retry_at = time.now + REKEY_TIMEOUT + Duration::from_millis(jitter.into());
        self.peers.begin(id, Pending { sent, begun, retry_at });
        out.push(HandshakeOutput::Send { to, datagram: Datagram::new(&message) });
        Ok(())
    }
}
