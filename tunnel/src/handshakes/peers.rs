//! The peers as handshakes know them.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::time::Instant;

use crate::cookie::CookieJar;
use crate::handshake::SentInitiation;
use crate::keys::{PresharedKey, PublicKey};
use crate::tai64n::Tai64n;

/// Identifies a peer of a device. A number is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId(u32);

impl PeerId {
    /// Returns the peer with this number.
    #[must_use]
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Returns the number: peers are counted from zero in the order in which they were added.
    #[must_use]
    pub const fn number(self) -> u32 {
        self.0
    }
}

/// Configures one peer.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Identifies the peer.
    pub public: PublicKey,
    /// Symmetric key; the default for none.
    pub psk: PresharedKey,
    /// Address of the peer; `None` if it must send first.
    pub endpoint: Option<SocketAddr>,
    /// Owner of its sessions: a number below [`IndexOwner::owners`](crate::IndexOwner::owners).
    pub owner: u32,
}

/// Reports why a peer cannot be added.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// Another peer has this key.
    #[error(
        "peer {0}: public key given to two peers; expected one key per peer; to fix: make a new key for one of them"
    )]
    Twice(PublicKey),
    /// The key is that of this device.
    #[error(
        "peer {0}: public key of this device; expected the key of the peer; to fix: take it from \"wg pubkey\" there"
    )]
    Own(PublicKey),
    /// All numbers are used.
    #[error("peer {0}: no free number; to fix: restart the process")]
    Full(PublicKey),
}

/// Holds what is kept for a peer.
pub(super) struct HandshakePeer {
    pub(super) config: PeerConfig,
    pub(super) endpoint: Option<SocketAddr>,
    pub(super) cookies: CookieJar,
    /// Timestamp of the newest initiation of the peer.
    pub(super) last_timestamp: Option<Tai64n>,
    pub(super) last_received: Option<Instant>,
    pub(super) last_sent: Option<Instant>,
    pub(super) last_sent_timestamp: Tai64n,
    /// Our initiation that is not answered.
    pub(super) pending: Option<Pending>,
}

/// Holds an initiation that is not answered.
pub(super) struct Pending {
    pub(super) sent: SentInitiation,
    /// When the first of its repetitions was sent.
    pub(super) begun: Instant,
    pub(super) retry_at: Instant,
}

/// Keeps all peers.
pub(super) struct Peers {
    pub(super) own: PublicKey,
    peers: HashMap<PeerId, HandshakePeer>,
    by_key: HashMap<PublicKey, PeerId>,
    retries: BTreeSet<(Instant, PeerId)>,
    next: u32,
}

impl Peers {
    pub(super) fn new(own: PublicKey) -> Self {
        Self { own, peers: HashMap::new(), by_key: HashMap::new(), retries: BTreeSet::new(), next: 0 }
    }

    pub(super) fn add(&mut self, config: PeerConfig) -> Result<PeerId, PeerError> {
        let key = config.public;
        if key == self.own {
            return Err(PeerError::Own(key));
        }
        if self.by_key.contains_key(&key) {
            return Err(PeerError::Twice(key));
        }
        let id = PeerId(self.next);
        self.next = self.next.checked_add(1).ok_or(PeerError::Full(key))?;
        let (endpoint, cookies) = (config.endpoint, CookieJar::new(&key));
        let peer = HandshakePeer {
            config,
            endpoint,
            cookies,
            last_timestamp: None,
            last_received: None,
            last_sent: None,
            last_sent_timestamp: Tai64n::default(),
            pending: None,
        };
        self.peers.insert(id, peer);
        self.by_key.insert(key, id);
        Ok(id)
    }

    pub(super) fn remove(&mut self, id: PeerId) {
        self.end(id);
        if let Some(peer) = self.peers.remove(&id) {
            self.by_key.remove(&peer.config.public);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.peers.len()
    }

    pub(super) fn get(&mut self, id: PeerId) -> Option<&mut HandshakePeer> {
        self.peers.get_mut(&id)
    }

    pub(super) fn by_key(&self, key: &PublicKey) -> Option<PeerId> {
        self.by_key.get(key).copied()
    }

    pub(super) fn begin(&mut self, id: PeerId, pending: Pending) {
        self.end(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            self.retries.insert((pending.retry_at, id));
            peer.pending = Some(pending);
        }
    }

    /// Ends the initiation to a peer, if there is one.
    pub(super) fn end(&mut self, id: PeerId) -> Option<Pending> {
        let pending = self.peers.get_mut(&id)?.pending.take()?;
        self.retries.remove(&(pending.retry_at, id));
        Some(pending)
    }

    /// Returns the peers whose initiation must be repeated.
    pub(super) fn due(&self, now: Instant) -> Vec<PeerId> {
        self.retries.iter().take_while(|(at, _)| *at <= now).map(|(_, id)| *id).collect()
    }
}
