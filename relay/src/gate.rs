//! Decides whether a client without a session is admitted, refused, or must first prove its address.
//!
//! A datagram's source address may be forged. The relay asks a [`Gate`] for each packet of a client without a session,
//! before it stores anything for it. The gate may answer with a challenge, which only the true owner of the address
//! receives. A challenge overwrites the request and is never longer, so the relay never sends more to a forged
//! address than it received.
//!
//! ```text
//!  client                         relay                                      upstream
//!    | -- anything, >= 24 bytes --> |  no session: Gate -> Challenge            |
//!    | <-- label, cookie ---------- |  nothing was kept                         |
//!    | -- label, cookie, data ----> |  Gate -> Admit, session made  -- data --> |
//!    | -- data -------------------> |  session exists: not asked    -- data --> |
//! ```
//!
//! [`CookieGate`] implements this exchange. [`Cookies`] is its keyed part, for protocols that already have a field for
//! a cookie (DTLS, STUN's NONCE). [`UdpRelay::with_gate`](super::UdpRelay::with_gate) sets another gate:
//!
//! ```
//! use std::net::SocketAddr;
//! use oxide_relay::config::Config;
//! use oxide::packet::{Flow, build::UdpFrame};
//! use oxide::queue::{Harness, HandlerOutcome};
//! use oxide_relay::gate::{Admission, Gate, AdmissionRequest};
//! use oxide_relay::{RelayPlan, UdpRelay};
//! use oxide::telemetry::DropReason;
//!
//! /// Admits payloads that start with `secret`, refuses empty ones, and challenges all others.
//! struct SecretGate;
//! impl Gate for SecretGate {
//!     fn ask(&mut self, request: &mut AdmissionRequest<'_>) -> Admission {
//!         match request.payload() {
//!             b"" => Admission::Refuse,
//!             payload if payload.starts_with(b"secret") => request.admit_without(b"secret".len()),
//!             _ => request.challenge(b"who?"),
//!         }
//!     }
//! }
//!
//! let config = Config::from_toml(r#"
//!     engine.interfaces = ["sim0"]
//!     [[relay]]
//!     name = "dns"
//!     listen = "192.0.2.1:53"
//!     upstreams = ["198.51.100.7:53"]
//! "#)?;
//! let plan = RelayPlan::new(&config, &[])?;
//! let info = Harness::info(1);
//! let mut harness = Harness::new(info, Default::default(), |queue| UdpRelay::new(&plan, queue).with_gate(SecretGate))?;
//! let (client, listen): (SocketAddr, SocketAddr) = ("203.0.113.9:4000".parse()?, "192.0.2.1:53".parse()?);
//! let flow = Flow { source: client.into(), destination: listen.into() };
//! let request = |payload| UdpFrame::new(flow, payload).to_vec().unwrap();
//!
//! let [HandlerOutcome::Transmit(0, challenge)] = &harness.feed(0, &[request(b"hello")])[..] else { panic!() };
//! assert!(challenge.ends_with(b"who?") && challenge.len() <= request(b"hello").len());
//! assert_eq!(harness.feed(0, &[request(b"")]), [HandlerOutcome::Drop(DropReason::Refused)]);
//! // The gate admits this packet; it is dropped because the harness has no routes.
//! assert_eq!(harness.feed(0, &[request(b"secret, hello")]), [HandlerOutcome::Drop(DropReason::NoRoute)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use siphasher::sip128::SipHasher24;

use oxide::packet::Endpoint;

/// Limits the length of a challenge, bytes of payload.
pub const MAX_CHALLENGE: usize = 256;

/// Decides about clients that have no session.
///
/// Each queue has its own gate. State in a gate can be filled by anyone who forges addresses, so a good gate keeps
/// none.
pub trait Gate {
    /// Decides about one packet of a client without a session. The packet's UDP checksum has been verified.
    fn ask(&mut self, request: &mut AdmissionRequest<'_>) -> Admission;
}

/// Is the decision of a [`Gate`]. Only an [`AdmissionRequest`] can create the variants with data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Gives the client a session, if one is free, and relays the packet.
    Admit,
    /// Drops the packet ([`DropReason::Refused`](oxide::telemetry::DropReason::Refused)).
    Refuse,
    /// Admits without a prefix; made by [`AdmissionRequest::admit_without`].
    AdmitStripped(StripPrefix),
    /// Sends a challenge; made by [`AdmissionRequest::challenge`].
    Challenge(Challenge),
}

/// Holds the number of bytes that are removed from the start of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StripPrefix(u16);

impl StripPrefix {
    pub(super) const fn bytes(self) -> u16 {
        self.0
    }
}

/// Proves that a challenge was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge(());

/// Holds a packet of a client without a session.
pub struct AdmissionRequest<'a> {
    pub(super) client: Endpoint,
    pub(super) listen: Endpoint,
    pub(super) now: Instant,
    pub(super) payload: &'a [u8],
    pub(super) answer: &'a mut ArrayVec<u8, MAX_CHALLENGE>,
}

impl AdmissionRequest<'_> {
    /// Returns the source address and port of the packet, which may be forged.
    #[must_use]
    pub fn client(&self) -> Endpoint {
        self.client
    }

    /// Returns the listen address of the entry. A cookie that is bound to it is valid on all queues and after restarts.
    #[must_use]
    pub fn listen(&self) -> Endpoint {
        self.listen
    }

    /// Returns the time of the batch.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Returns the payload of the datagram.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.payload
    }

    /// Answers with `message`. Refuses instead if the message is longer than the request's payload or than
    /// [`MAX_CHALLENGE`], so that a forged address never gets more than was received.
    pub fn challenge(&mut self, message: &[u8]) -> Admission {
        self.answer.clear();
        if message.len() > self.payload.len() || self.answer.try_extend_from_slice(message).is_err() {
            return Admission::Refuse;
        }
        Admission::Challenge(Challenge(()))
    }

    /// Admits the client and removes the first `bytes` bytes of the payload, such as a cookie that the upstream does not
    /// know. Refuses if the payload is shorter.
    #[must_use]
    pub fn admit_without(&self, bytes: usize) -> Admission {
        match u16::try_from(bytes) {
            Ok(cut) if bytes <= self.payload.len() => Admission::AdmitStripped(StripPrefix(cut)),
            _ => Admission::Refuse,
        }
    }
}

/// Length of a cookie, bytes.
pub const COOKIE: usize = 16;

/// Makes and checks cookies without storing them. A cookie is a MAC (SipHash-2-4, 128 bits) over client, listen
/// address and time.
///
/// Time is divided into terms of `lifetime`, each with its own key; the keys of the last two terms are valid. So a
/// cookie is valid for at least `lifetime` and less than twice as long. Clones accept each other's cookies: give one
/// to every queue, and to the next handler after a restart.
#[derive(Clone)]
pub struct Cookies {
    secret: [u8; 16],
    lifetime: Duration,
    started: Instant,
    /// Holds the newest term used so far; `keys` belong to it and to the term before.
    term: u64,
    keys: [[u8; 16]; 2],
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

impl Cookies {
    /// Creates cookies from a `secret` of 128 random bits, for example from `/dev/urandom`. Hosts that share it and the
    /// time of `started` accept each other's cookies. The minimum of `lifetime` is a millisecond.
    #[must_use]
    pub fn new(secret: [u8; 16], lifetime: Duration, started: Instant) -> Self {
        let lifetime = lifetime.max(Duration::from_millis(1));
        let mut cookies = Self { secret, lifetime, started, term: 0, keys: [[0; 16]; 2] };
        cookies.keys = cookies.keys_of(0);
        cookies
    }

    /// Returns the cookie of `client` at `listen`.
    #[must_use]
    pub fn make(&mut self, client: Endpoint, listen: Endpoint, now: Instant) -> [u8; COOKIE] {
        self.turn(now);
        mac(&self.keys[0], client, listen)
    }

    /// Returns true if `cookie` was made for `client` at `listen` and is still valid.
    #[must_use]
    pub fn check(&mut self, cookie: &[u8; COOKIE], client: Endpoint, listen: Endpoint, now: Instant) -> bool {
        self.turn(now);
        let cookie = u128::from_ne_bytes(*cookie);
        // Compare both keys as integers, so that the time does not depend on the number of equal bytes.
        let [new, old] = self.keys.map(|key| u128::from_ne_bytes(mac(&key, client, listen)) ^ cookie == 0);
        new | old
    }

    fn turn(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.started);
        let term = (age.as_nanos() / self.lifetime.as_nanos()) as u64;
        if term != self.term {
            self.term = term;
            self.keys = self.keys_of(term);
        }
    }

    /// Returns the keys of a term and of the one before. Before the first term the second key matches no cookie.
    fn keys_of(&self, term: u64) -> [[u8; 16]; 2] {
        [term, term.wrapping_sub(1)].map(|term| sip(&self.secret, &term.to_be_bytes()))
    }
}

fn mac(key: &[u8; 16], client: Endpoint, listen: Endpoint) -> [u8; COOKIE] {
    let mut message = [0; 36];
    for (half, end) in message.chunks_exact_mut(18).zip([client, listen]) {
        half[..16].copy_from_slice(&end.address);
        half[16..].copy_from_slice(&end.port.to_be_bytes());
    }
    sip(key, &message)
}

fn sip(key: &[u8; 16], message: &[u8]) -> [u8; 16] {
    SipHasher24::new_with_key(key).hash(message).as_bytes()
}

/// Is the first part of a challenge and of its answer.
pub const LABEL: [u8; 8] = *b"oxide-ck";

/// Implements the exchange of the [module](self). The challenge is [`LABEL`] and a cookie, 24 bytes. A client that
/// sends both back in front of its data is admitted; the upstream gets only the data.
///
/// A first packet shorter than 24 bytes is refused, because the challenge would be longer; clients must pad it. A
/// packet with the label and a wrong or old cookie is also refused, and the client starts again without a cookie. A
/// challenge here could make two relays challenge each other endlessly.
#[derive(Clone)]
pub struct CookieGate(Cookies);

impl CookieGate {
    /// Creates a gate that accepts the cookies of `cookies` and of its clones.
    #[must_use]
    pub fn new(cookies: Cookies) -> Self {
        Self(cookies)
    }
}

impl Gate for CookieGate {
    fn ask(&mut self, request: &mut AdmissionRequest<'_>) -> Admission {
        let (client, listen, now) = (request.client, request.listen, request.now);
        match request.payload.strip_prefix(&LABEL).map(|rest| rest.first_chunk()) {
            None => {
                let mut challenge = [0; LABEL.len() + COOKIE];
                challenge[..LABEL.len()].copy_from_slice(&LABEL);
                challenge[LABEL.len()..].copy_from_slice(&self.0.make(client, listen, now));
                request.challenge(&challenge)
            }
            Some(Some(cookie)) if self.0.check(cookie, client, listen, now) => {
                request.admit_without(LABEL.len() + COOKIE)
            }
            Some(_) => Admission::Refuse,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::net::SocketAddr;

    fn end(text: &str) -> Endpoint {
        text.parse::<SocketAddr>().unwrap().into()
    }

    #[test]
    fn cookie_is_valid_for_one_client_one_entry_and_limited_time() {
        let started = Instant::now();
        let lifetime = Duration::from_secs(10);
        let mut cookies = Cookies::new([7; 16], lifetime, started);
        let (client, listen) = (end("192.0.2.7:4000"), end("192.0.2.1:53"));
        for (made, good_until) in [(0, 20), (1, 20), (9, 20), (10, 30), (19, 30), (25, 40)] {
            let made = started + Duration::from_secs(made);
            let cookie = cookies.make(client, listen, made);
            for after in 0..60 {
                let now = made + Duration::from_secs(after);
                // A clone, as on another queue.
                let good = cookies.clone().check(&cookie, client, listen, now);
                assert_eq!(good, now < started + Duration::from_secs(good_until));
            }
            let mut check = |cookie: [u8; COOKIE], client, listen| cookies.check(&cookie, client, listen, made);
            assert!(check(cookie, client, listen));
            for bit in 0..128 {
                let mut wrong = cookie;
                wrong[bit / 8] ^= 1 << (bit % 8);
                assert!(!check(wrong, client, listen));
            }
            assert!(!check(cookie, end("192.0.2.7:4001"), listen));
            assert!(!check(cookie, end("192.0.2.8:4000"), listen));
            assert!(!check(cookie, client, end("192.0.2.1:54")));
            assert!(!check(cookie, listen, client));
            let mut stranger = Cookies::new([8; 16], lifetime, started);
            assert!(!stranger.check(&cookie, client, listen, made));
        }
    }

    /// Uses the reference vector of SipHash-2-4 with 128 bits (`vectors_sip128` in its authors' repository):
    /// key 00..0f, empty message.
    #[test]
    fn hash_equals_siphash_vectors() {
        let key = std::array::from_fn(|i| i as u8);
        let wanted = [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93];
        assert_eq!(sip(&key, b""), wanted);
    }
}
