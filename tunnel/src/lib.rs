//! The WireGuard protocol without I/O: no threads, no sockets, no clock of its own. Time and datagrams are arguments,
//! and what is to be sent is a result.
//!
//! ```text
//!   control side                            data side, one owner per peer
//!   Handshakes: messages 1, 2, 3            Peer: three sessions, timers, endpoint
//!     static key, cookies, timestamps         Session: open and seal in place, replay window
//!        |                                        ^       |
//!        +------- Established(session) -----------+       |
//!        ^------- Wants::handshake, released indices -----+
//! ```
//!
//! The two sides share no memory, so that they may run on different threads. [`AllowedIps`] belongs to nobody: it is
//! built once and then only read.
//!
//! | module | owns |
//! |---|---|
//! | [`message`] | the four message formats |
//! | [`keys`] | private, public and preshared keys |
//! | [`handshake`] | one Noise handshake, in both roles |
//! | [`cookie`] | MAC1, MAC2 and cookies, in both roles |
//! | [`handshakes`] | all handshakes of one device: peers, timestamps, load, retries |
//! | [`index`] | session indices, which name the queue that owns them |
//! | [`session`], [`replay`] | transport keys, counters, the replay window |
//! | [`peer`] | the sessions, the timers and the endpoint of one peer |
//! | [`allowed_ips`] | inner prefix to peer |
//! | [`inner`] | headers of inner packets, padding, ECN and DSCP |
#![forbid(unsafe_code)]

pub mod allowed_ips;
pub mod cookie;
mod entropy;
pub mod handshake;
pub mod handshakes;
pub mod index;
pub mod inner;
pub mod keys;
pub mod message;
pub mod peer;
pub mod replay;
pub mod session;
mod source_limit;
pub mod tai64n;

pub use allowed_ips::{AllowedIps, Prefix};
pub use entropy::EntropyError;
pub use handshakes::{
    Datagram, HandshakeError, HandshakeLimits, HandshakeOutput, Handshakes, PeerConfig, PeerError, PeerId, Time,
};
pub use index::IndexOwner;
pub use keys::{KeyError, PresharedKey, PrivateKey, PublicKey};
pub use message::Message;
pub use peer::{Peer, Wants};
pub use session::{OpenError, SealError, Session};
