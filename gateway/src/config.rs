//! What a gateway is made from, and why it cannot be made.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use oxide_tunnel::allowed_ips::PrefixError;
use oxide_tunnel::inner::DscpPolicy;
use oxide_tunnel::{EntropyError, HandshakeLimits, PeerError, Prefix, PresharedKey, PrivateKey, PublicKey};

/// Describes a gateway.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Key of the gateway.
    pub private_key: PrivateKey,
    /// Address and port that clients send to: one of the host's addresses, no wildcard.
    pub listen: SocketAddr,
    /// Prefixes of the inner addresses. Packets to them are taken from the network, whatever their protocol.
    pub inner_prefixes: Vec<Prefix>,
    /// Clients.
    pub peers: Vec<GatewayPeer>,
    /// Limits of the handshakes, and width of the replay windows.
    pub limits: HandshakeLimits,
    /// DSCP of outer headers.
    pub dscp: DscpPolicy,
}

/// Describes a client.
#[derive(Debug, Clone)]
pub struct GatewayPeer {
    /// Key of the client.
    pub public_key: PublicKey,
    /// Symmetric key; the default for none.
    pub preshared_key: PresharedKey,
    /// Address of the client, if the gateway may begin the handshake.
    pub endpoint: Option<SocketAddr>,
    /// Inner addresses of the client, within the inner prefixes.
    pub allowed_ips: Vec<Prefix>,
    /// Interval of persistent keepalives; `None` for none.
    pub persistent_keepalive: Option<Duration>,
}

/// Reports why a gateway cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// The listen address is a wildcard.
    #[error(
        "gateway.listen: wildcard address: {0}; expected one of the host's addresses; to fix: write it, see \"ip address\""
    )]
    Wildcard(SocketAddr),
    /// The socket for handshakes cannot be opened.
    #[error(
        "gateway.listen: cannot listen on {listen}: {source}; expected a free port of an address of this host; to fix: \
         stop the process shown by \"ss -lunp\", or set another port"
    )]
    Listen {
        /// Wanted address.
        listen: SocketAddr,
        /// Error of the kernel.
        source: io::Error,
    },
    /// A peer has an address outside the inner prefixes, so its return traffic would not reach the gateway.
    #[error("peer {peer}: allowed IP {prefix} is in no inner prefix; to fix: add it to inner_prefixes, or remove it")]
    NotInner {
        /// Key of the peer.
        peer: PublicKey,
        /// The address.
        prefix: Prefix,
    },
    /// An inner prefix contains the listen address, so handshakes would go in circles.
    #[error("gateway.listen: {listen} is in inner prefix {prefix}; to fix: use an outer address")]
    ListenIsInner {
        /// The listen address.
        listen: SocketAddr,
        /// The prefix.
        prefix: Prefix,
    },
    /// A prefix cannot be used.
    #[error(transparent)]
    Prefix(#[from] PrefixError),
    /// A peer cannot be used.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The system gives no random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The control thread cannot be started.
    #[error("gateway: cannot start its control thread: {0}; to fix: raise the limit of threads (ulimit -u)")]
    Thread(io::Error),
}

impl GatewayConfig {
    /// Checks what can be checked without the machine.
    ///
    /// # Errors
    /// [`GatewayError`] with the first thing that is wrong.
    pub fn check(&self) -> Result<(), GatewayError> {
        let listen = self.listen;
        if listen.ip().is_unspecified() {
            return Err(GatewayError::Wildcard(listen));
        }
        if let Some(&prefix) = self.inner_prefixes.iter().find(|prefix| prefix.contains(listen.ip().to_canonical())) {
            return Err(GatewayError::ListenIsInner { listen, prefix });
        }
        for peer in &self.peers {
            for prefix in &peer.allowed_ips {
                let within = |inner: &Prefix| inner.length() <= prefix.length() && inner.contains(prefix.address());
                if !self.inner_prefixes.iter().any(within) {
                    return Err(GatewayError::NotInner { peer: peer.public_key, prefix: *prefix });
                }
            }
        }
        Ok(())
    }
}
