//! One session: two transport keys, two counters, the replay window. Packets are sealed and opened in place.

use std::time::{Duration, Instant};

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

use crate::handshake::TransportKeys;
use crate::message::{DATA_HEADER_LEN, DATA_OVERHEAD, DataHeader, TAG_LEN};
use crate::replay::{COUNTER_LIMIT, ReplayWindow, Replayed};

/// A session is not used after this time.
pub const REJECT_AFTER: Duration = Duration::from_secs(180);
/// The initiator makes a new session after this time.
pub const REKEY_AFTER: Duration = Duration::from_secs(120);
/// A new session is made after so many messages.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;

/// Reports why a data message is dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The peer has no session with this index.
    #[error("data message: no session has its index")]
    UnknownIndex,
    /// The session is older than [`REJECT_AFTER`].
    #[error("data message: its session is too old")]
    Expired,
    /// The replay window refused the counter; nothing was decrypted, unless the same packet is processed twice at once.
    #[error("data message: {0}")]
    Replayed(#[from] Replayed),
    /// The message was altered, or sealed with another key.
    #[error("data message: not authentic")]
    NotAuthentic,
}

/// Reports why a packet cannot be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// There is no session that may be used: a handshake is needed.
    #[error("packet: no usable session with its peer")]
    NoSession,
    /// The buffer has no room for header and tag.
    #[error("packet: buffer of {0} bytes; expected at least {DATA_OVERHEAD}")]
    TooShort(usize),
}

/// Holds a session. Its keys are zeroed when it is dropped.
pub struct Session {
    local: u32,
    remote: u32,
    initiator: bool,
    created: Instant,
    seal: LessSafeKey,
    open: LessSafeKey,
    counter: u64,
    replay: ReplayWindow,
}

impl Session {
    /// Makes the session of a finished handshake, with a replay window of `replay_bits`. Returns `None` if the
    /// cryptographic library refuses a key of 32 bytes, which it does not.
    #[must_use]
    pub fn new(keys: &TransportKeys, replay_bits: usize, now: Instant) -> Option<Self> {
        let key = |bytes: &[u8; 32]| UnboundKey::new(&CHACHA20_POLY1305, bytes).ok().map(LessSafeKey::new);
        Some(Self {
            local: keys.local,
            remote: keys.remote,
            initiator: keys.initiator,
            created: now,
            seal: key(&keys.send)?,
            open: key(&keys.receive)?,
            counter: 0,
            replay: ReplayWindow::new(replay_bits),
        })
    }

    /// Returns the index that the peer writes into messages to this side.
    #[must_use]
    pub fn local(&self) -> u32 {
        self.local
    }

    /// Whether this side began the handshake.
    #[must_use]
    pub fn is_initiator(&self) -> bool {
        self.initiator
    }

    /// Returns the age of the session.
    #[must_use]
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.created)
    }

    /// Returns how many messages were sealed.
    #[must_use]
    pub fn sealed(&self) -> u64 {
        self.counter
    }

    /// Whether a packet may be sealed: neither too old nor at its last counter.
    #[must_use]
    pub fn may_seal(&self, now: Instant) -> bool {
        self.age(now) < REJECT_AFTER && self.counter < COUNTER_LIMIT
    }

    /// Opens a data message in place. `payload` is what follows the header: ciphertext and tag. Returns the length of
    /// the padded packet, which then is at the start of `payload`. After an error its content is undefined.
    ///
    /// # Errors
    /// [`OpenError`]; the window has changed only after success.
    pub fn open(&mut self, counter: u64, payload: &mut [u8], now: Instant) -> Result<usize, OpenError> {
        if self.age(now) >= REJECT_AFTER {
            return Err(OpenError::Expired);
        }
        self.replay.check(counter)?;
        let opened = self.open.open_in_place(nonce(counter), Aad::empty(), payload);
        let length = opened.map_err(|_| OpenError::NotAuthentic)?.len();
        self.replay.mark(counter)?;
        Ok(length)
    }

    /// Seals a packet in place: `message` is room for the header, the padded packet, and room for the tag.
    ///
    /// # Errors
    /// [`SealError`]; the message is then unchanged.
    pub fn seal(&mut self, message: &mut [u8], now: Instant) -> Result<(), SealError> {
        if !self.may_seal(now) {
            return Err(SealError::NoSession);
        }
        let too_short = SealError::TooShort(message.len());
        let header = DataHeader { receiver: self.remote, counter: self.counter };
        let (place, rest) = message.split_first_chunk_mut::<DATA_HEADER_LEN>().ok_or(too_short)?;
        let (packet, tag) = rest.split_last_chunk_mut::<TAG_LEN>().ok_or(too_short)?;
        let sealed = self.seal.seal_in_place_separate_tag(nonce(self.counter), Aad::empty(), packet);
        // The library refuses packets of more than 256 GiB only.
        tag.copy_from_slice(sealed.map_err(|_| too_short)?.as_ref());
        *place = header.to_bytes();
        self.counter += 1;
        Ok(())
    }

    /// Sets the counter of the next message, for tests of the limits.
    #[cfg(test)]
    pub(crate) fn set_sealed(&mut self, counter: u64) {
        self.counter = counter;
    }
}

/// Four zero bytes and the counter (white paper, section 5.4.6).
fn nonce(counter: u64) -> Nonce {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&counter.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]

    use zeroize::Zeroizing;

    use super::*;

    /// Two sessions with each other; the first is the initiator's.
    pub(crate) fn pair(now: Instant, local: u32, remote: u32) -> (Session, Session) {
        let [a, b] = [[1; 32], [2; 32]].map(Zeroizing::new);
        let ours = TransportKeys { send: a.clone(), receive: b.clone(), local, remote, initiator: true };
        let theirs = TransportKeys { send: b, receive: a, local: remote, remote: local, initiator: false };
        (Session::new(&ours, 8_192, now).unwrap(), Session::new(&theirs, 8_192, now).unwrap())
    }

    fn message(packet: &[u8]) -> Vec<u8> {
        [&[0; DATA_HEADER_LEN][..], packet, &[0; TAG_LEN]].concat()
    }

    #[test]
    fn sealed_packet_opens_once() {
        let now = Instant::now();
        let (mut ours, mut theirs) = pair(now, 1, 2);
        let mut sent = message(b"hello");
        ours.seal(&mut sent, now).unwrap();
        assert_eq!(sent[..16], [4, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let mut received = sent[16..].to_vec();
        assert_eq!(theirs.open(0, &mut received, now), Ok(5));
        assert_eq!(&received[..5], b"hello");
        let mut again = sent[16..].to_vec();
        assert_eq!(theirs.open(0, &mut again, now), Err(Replayed::Duplicate.into()));
        assert_eq!(again, sent[16..], "a duplicate is not decrypted");
    }

    #[test]
    fn forged_packet_leaves_the_window_unchanged() {
        let now = Instant::now();
        let (mut ours, mut theirs) = pair(now, 1, 2);
        let mut sent = message(b"hello");
        ours.seal(&mut sent, now).unwrap();
        for at in 16..sent.len() {
            let mut forged = sent[16..].to_vec();
            forged[at - 16] ^= 1;
            assert_eq!(theirs.open(0, &mut forged, now), Err(OpenError::NotAuthentic));
        }
        assert_eq!(theirs.open(1 << 50, &mut sent[16..].to_vec(), now), Err(OpenError::NotAuthentic));
        assert_eq!(theirs.open(0, &mut sent[16..].to_vec(), now), Ok(5), "not shifted out by the forged counter");
        assert_eq!(theirs.open(1, &mut [0; 15], now), Err(OpenError::NotAuthentic));
    }

    #[test]
    fn session_ends_at_its_counter_limit() {
        let now = Instant::now();
        let (mut ours, mut theirs) = pair(now, 1, 2);
        ours.set_sealed(COUNTER_LIMIT - 1);
        let mut last = message(b"last");
        assert_eq!(ours.seal(&mut last, now), Ok(()));
        assert_eq!(theirs.open(COUNTER_LIMIT - 1, &mut last[16..], now), Ok(4));
        assert_eq!(ours.seal(&mut message(b"over"), now), Err(SealError::NoSession));
        assert_eq!(theirs.open(u64::MAX, &mut message(b"x"), now), Err(Replayed::CounterLimit.into()));
    }

    #[test]
    fn session_ends_with_its_time() {
        let now = Instant::now();
        let (mut ours, mut theirs) = pair(now, 1, 2);
        let mut sent = message(b"late");
        let just_before = now + REJECT_AFTER - Duration::from_nanos(1);
        assert_eq!(ours.seal(&mut sent, just_before), Ok(()));
        assert_eq!(ours.seal(&mut message(b"late"), now + REJECT_AFTER), Err(SealError::NoSession));
        assert_eq!(theirs.open(0, &mut sent[16..], now + REJECT_AFTER), Err(OpenError::Expired));
        assert_eq!(theirs.open(0, &mut sent[16..], just_before), Ok(4));
    }

    #[test]
    fn short_buffers_are_refused() {
        let now = Instant::now();
        let (mut ours, _) = pair(now, 1, 2);
        for length in 0..DATA_OVERHEAD {
            assert_eq!(ours.seal(&mut vec![0; length], now), Err(SealError::TooShort(length)));
        }
        assert_eq!(ours.sealed(), 0);
        assert_eq!(ours.seal(&mut [0; DATA_OVERHEAD], now), Ok(()), "a keepalive");
    }
}
