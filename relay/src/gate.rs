//! A question before a client gets a session: admit, refuse, or let it prove first that it is where it says.
//!
//! A datagram's source address may be forged. A [`Gate`] is asked for each packet of a client that has no
//! session, before anything is kept for it, and may answer with a challenge that only the true owner of
//! the address sees. A challenge is written over the request and is never longer, so a relay cannot be made
//! to send more to a forged address than it got from the forger.
//!
//! ```text
//!  client                         relay                                      upstream
//!    | -- anything, >= 24 bytes --> |  no session: Gate -> Challenge            |
//!    | <-- label, cookie ---------- |  nothing was kept                         |
//!    | -- label, cookie, data ----> |  Gate -> Admit, session made  -- data --> |
//!    | -- data -------------------> |  session exists: not asked    -- data --> |
//! ```
//!
//! [`CookieGate`] is that scheme, ready; [`Cookies`] its keyed part, for a protocol that has a field for a
//! cookie already (DTLS, STUN's NONCE). Off unless [`UdpRelay::with_gate`](super::UdpRelay::with_gate) sets
//! one:
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
//! /// A knock on the door is a payload that starts with `sesame`; others are asked for it.
//! struct Sesame;
//! impl Gate for Sesame {
//!     fn ask(&mut self, knock: &mut AdmissionRequest<'_>) -> Admission {
//!         match knock.payload() {
//!             b"" => Admission::Refuse,
//!             word if word.starts_with(b"sesame") => knock.admit_without(b"sesame".len()),
//!             _ => knock.challenge(b"who?"),
//!         }
//!     }
//! }
//!
//! let config = Config::from_toml(r#"
//!     engine.interfaces = ["sim0"]
//!     [[relay]]
//!     name = "cave"
//!     listen = "192.0.2.1:53"
//!     upstreams = ["198.51.100.7:53"]
//! "#)?;
//! let plan = RelayPlan::new(&config, &[])?;
//! let info = Harness::info(1);
//! let mut harness = Harness::new(info, Default::default(), |queue| UdpRelay::new(&plan, queue).with_gate(Sesame))?;
//! let (client, listen): (SocketAddr, SocketAddr) = ("203.0.113.9:4000".parse()?, "192.0.2.1:53".parse()?);
//! let flow = Flow { source: client.into(), destination: listen.into() };
//! let request = |payload| UdpFrame::new(flow, payload).to_vec().unwrap();
//!
//! let [HandlerOutcome::Transmit(0, challenge)] = &harness.feed(0, &[request(b"open!")])[..] else { panic!() };
//! assert!(challenge.ends_with(b"who?") && challenge.len() <= request(b"open!").len());
//! assert_eq!(harness.feed(0, &[request(b"")]), [HandlerOutcome::Drop(DropReason::Refused)]);
//! // Admitted: now it is the routes that are missing, since this harness has none.
//! assert_eq!(harness.feed(0, &[request(b"sesame, open!")]), [HandlerOutcome::Drop(DropReason::NoRoute)]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use siphasher::sip128::SipHasher24;

use oxide::packet::Endpoint;

/// Longest challenge, bytes of payload.
pub const MAX_CHALLENGE: usize = 256;

/// Decides about clients that have no session.
///
/// One for each queue. Whatever is kept here is kept for anybody who can forge an address, so the best
/// gates keep nothing.
pub trait Gate {
    /// Asked once for each packet of a client without a session. The packet's UDP checksum is right.
    fn ask(&mut self, request: &mut AdmissionRequest<'_>) -> Admission;
}

/// What a [`Gate`] decides. Only an [`AdmissionRequest`] makes one that is not plain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The client gets a session, if there is room for one, and the packet is relayed.
    Admit,
    /// The packet is dropped ([`DropReason::Refused`](oxide::telemetry::DropReason::Refused)).
    Refuse,
    /// [`AdmissionRequest::admit_without`].
    AdmitStripped(StripPrefix),
    /// [`AdmissionRequest::challenge`].
    Challenge(Challenge),
}

/// Bytes at the start of a payload that the upstream will not see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StripPrefix(u16);

impl StripPrefix {
    pub(super) const fn bytes(self) -> u16 {
        self.0
    }
}

/// That a challenge was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Challenge(());

/// A packet of a client that has no session.
pub struct AdmissionRequest<'a> {
    pub(super) client: Endpoint,
    pub(super) listen: Endpoint,
    pub(super) now: Instant,
    pub(super) payload: &'a [u8],
    pub(super) answer: &'a mut ArrayVec<u8, MAX_CHALLENGE>,
}

impl AdmissionRequest<'_> {
    /// Who it says it is.
    #[must_use]
    pub fn client(&self) -> Endpoint {
        self.client
    }

    /// Which entry it sent to, by its address: a cookie that is bound to this holds for all queues and
    /// restarts.
    #[must_use]
    pub fn listen(&self) -> Endpoint {
        self.listen
    }

    /// The batch's clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What the datagram carries.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.payload
    }

    /// Answers with `message`. Refuses instead if that were longer than the request's payload, or than
    /// [`MAX_CHALLENGE`]: whoever may have forged its address gets no more than it sent.
    pub fn challenge(&mut self, message: &[u8]) -> Admission {
        self.answer.clear();
        if message.len() > self.payload.len() || self.answer.try_extend_from_slice(message).is_err() {
            return Admission::Refuse;
        }
        Admission::Challenge(Challenge(()))
    }

    /// Admits the client, and takes the first `bytes` bytes off this packet's payload, such as a cookie
    /// that the upstream knows nothing of. Refuses if the payload is shorter.
    #[must_use]
    pub fn admit_without(&self, bytes: usize) -> Admission {
        match u16::try_from(bytes) {
            Ok(cut) if bytes <= self.payload.len() => Admission::AdmitStripped(StripPrefix(cut)),
            _ => Admission::Refuse,
        }
    }
}

/// Bytes of a cookie.
pub const COOKIE: usize = 16;

/// Makes and knows cookies, and keeps none: a cookie is a MAC (SipHash-2-4, 128 bits) over who it is for,
/// what for, and when.
///
/// Time goes in terms of `lifetime`, each with a key of its own; the keys of the last two are good. So a
/// cookie is good for at least `lifetime`, and never for twice as long. Clones know each other's cookies:
/// give one to every queue, and to the handler that follows after a restart.
#[derive(Clone)]
pub struct Cookies {
    secret: [u8; 16],
    lifetime: Duration,
    started: Instant,
    /// The newest term that was asked for, and the keys of it and of the one before.
    term: u64,
    keys: [[u8; 16]; 2],
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cookies").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

impl Cookies {
    /// `secret` is 128 bits that nobody can guess, for example from `/dev/urandom`; hosts that share it and
    /// the time of `started` know each other's cookies. `lifetime` is at least a millisecond.
    #[must_use]
    pub fn new(secret: [u8; 16], lifetime: Duration, started: Instant) -> Self {
        let lifetime = lifetime.max(Duration::from_millis(1));
        let mut cookies = Self { secret, lifetime, started, term: 0, keys: [[0; 16]; 2] };
        cookies.keys = cookies.keys_of(0);
        cookies
    }

    /// The cookie of `client` at `listen`.
    #[must_use]
    pub fn make(&mut self, client: Endpoint, listen: Endpoint, now: Instant) -> [u8; COOKIE] {
        self.turn(now);
        mac(&self.keys[0], client, listen)
    }

    /// Whether `cookie` was made for `client` at `listen`, not too long ago.
    #[must_use]
    pub fn check(&mut self, cookie: &[u8; COOKIE], client: Endpoint, listen: Endpoint, now: Instant) -> bool {
        self.turn(now);
        let cookie = u128::from_ne_bytes(*cookie);
        // Both always, and as integers: the time says nothing about how much was right.
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

    /// Before the first term there was none: its "last" key is one that no cookie is made with.
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

/// What a challenge and its answer begin with.
pub const LABEL: [u8; 8] = *b"oxide-ck";

/// The scheme of the [module](self): the challenge is [`LABEL`] and a cookie, 24 bytes; a client that sends
/// both back in front of its data is admitted, and the upstream sees only the data.
///
/// A first packet of less than 24 bytes is refused, since the challenge would be longer: clients pad
/// theirs. A packet with the label and a wrong or old cookie is refused as well and not challenged, or two
/// relays could be made to challenge each other for ever; the client starts again without one.
#[derive(Clone)]
pub struct CookieGate(Cookies);

impl CookieGate {
    /// A gate that knows the cookies of `cookies` and of its clones.
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
                // Another queue's, with the same secret.
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

    /// The reference vector of SipHash-2-4 with 128 bits (`vectors_sip128` in its authors' repository):
    /// key 00..0f, no message.
    #[test]
    fn hash_equals_siphash_vectors() {
        let key = std::array::from_fn(|i| i as u8);
        let wanted = [0xa3, 0x81, 0x7f, 0x04, 0xba, 0x25, 0xa8, 0xe6, 0x6d, 0xf6, 0x72, 0x14, 0xc7, 0x55, 0x02, 0x93];
        assert_eq!(sip(&key, b""), wanted);
    }
}
