//! MAC1, MAC2 and cookies (white paper, section 5.4.4): what a handshake message must prove before it costs anything.
//!
//! MAC1 proves that the sender knows the public key. MAC2 proves that it receives at its source address and port: it is
//! keyed by a cookie, which the receiver computes from that address and does not keep.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use blake2::digest::consts::U16;
use blake2::digest::{Digest, KeyInit, Mac};
use blake2::{Blake2s256, Blake2sMac};
use chacha20poly1305::aead::AeadInPlace;
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use crate::entropy::{EntropyError, random};
use crate::keys::PublicKey;
use crate::message::{COOKIE_REPLY, COOKIE_REPLY_LEN, word};

/// Length of a MAC and of a cookie, bytes.
const MAC_LEN: usize = 16;
/// The secret behind the cookies is replaced after this time.
const SECRET_LIFETIME: Duration = Duration::from_secs(120);
/// A received cookie is used for less than the lifetime of its secret, by the time it may be on the way.
const COOKIE_LIFETIME: Duration = Duration::from_secs(115);

/// Computes and checks what the receiver of handshake messages demands.
pub struct CookieIssuer {
    mac1_key: [u8; 32],
    cookie_cipher: XChaCha20Poly1305,
    secret: Zeroizing<[u8; 32]>,
    secret_made: Instant,
}

impl CookieIssuer {
    /// Starts with a new secret for the device with this public key.
    ///
    /// # Errors
    /// [`EntropyError`] if the system gives no random bytes.
    pub fn new(own: &PublicKey, now: Instant) -> Result<Self, EntropyError> {
        Ok(Self {
            mac1_key: mac1_key(own),
            cookie_cipher: cookie_cipher(own),
            secret: Zeroizing::new(random()?),
            secret_made: now,
        })
    }

    /// Whether MAC1 of a handshake message is right.
    #[must_use]
    pub fn mac1_is_valid(&self, message: &[u8]) -> bool {
        let Some((body, mac1, _)) = split(message) else { return false };
        mac(&self.mac1_key, &[body]).ct_eq(mac1).into()
    }

    /// Whether MAC2 of a handshake message proves that its sender received a cookie at `source`.
    #[must_use]
    pub fn mac2_is_valid(&self, message: &[u8], source: SocketAddr, now: Instant) -> bool {
        let Some((body, mac1, mac2)) = split(message) else { return false };
        let fresh = now.saturating_duration_since(self.secret_made) < SECRET_LIFETIME;
        fresh && bool::from(mac(&self.cookie(source), &[body, mac1]).ct_eq(mac2))
    }

    /// Returns the cookie reply to a handshake message whose MAC1 is valid.
    ///
    /// # Errors
    /// [`EntropyError`] if the system gives no random bytes.
    pub fn reply(
        &mut self,
        message: &[u8],
        source: SocketAddr,
        now: Instant,
    ) -> Result<[u8; COOKIE_REPLY_LEN], EntropyError> {
        if now.saturating_duration_since(self.secret_made) >= SECRET_LIFETIME {
            self.secret = Zeroizing::new(random()?);
            self.secret_made = now;
        }
        let nonce: [u8; 24] = random()?;
        let mut cookie = self.cookie(source);
        let mac1 = split(message).map_or(&[][..], |(_, mac1, _)| mac1);
        let mut reply = [0; COOKIE_REPLY_LEN];
        reply[0] = COOKIE_REPLY;
        reply[4..8].copy_from_slice(&word(message, 4).to_le_bytes());
        reply[8..32].copy_from_slice(&nonce);
        // It fails for texts of more than 256 GiB only.
        if let Ok(tag) = self.cookie_cipher.encrypt_in_place_detached(XNonce::from_slice(&nonce), mac1, &mut cookie) {
            reply[32..48].copy_from_slice(&cookie);
            reply[48..].copy_from_slice(&tag);
        }
        Ok(reply)
    }

    fn cookie(&self, source: SocketAddr) -> [u8; MAC_LEN] {
        let port = source.port().to_be_bytes();
        match source.ip().to_canonical() {
            IpAddr::V4(v4) => mac(&*self.secret, &[&v4.octets(), &port]),
            IpAddr::V6(v6) => mac(&*self.secret, &[&v6.octets(), &port]),
        }
    }
}

/// Writes the MACs of the messages to one peer, and keeps the cookie that the peer sent.
pub struct CookieJar {
    mac1_key: [u8; 32],
    cookie_cipher: XChaCha20Poly1305,
    last_mac1: Option<[u8; MAC_LEN]>,
    cookie: Option<(Zeroizing<[u8; MAC_LEN]>, Instant)>,
}

impl CookieJar {
    /// Starts without a cookie.
    #[must_use]
    pub fn new(peer: &PublicKey) -> Self {
        Self { mac1_key: mac1_key(peer), cookie_cipher: cookie_cipher(peer), last_mac1: None, cookie: None }
    }

    /// Writes MAC1 into a handshake message, and MAC2 if there is a cookie.
    pub fn seal(&mut self, message: &mut [u8], now: Instant) {
        let Some(body) = message.len().checked_sub(2 * MAC_LEN) else { return };
        let mac1 = mac(&self.mac1_key, &[&message[..body]]);
        message[body..body + MAC_LEN].copy_from_slice(&mac1);
        self.last_mac1 = Some(mac1);
        self.cookie.take_if(|(_, received)| now.saturating_duration_since(*received) >= COOKIE_LIFETIME);
        if let Some((cookie, _)) = &self.cookie {
            let mac2 = mac(&**cookie, &[&message[..body + MAC_LEN]]);
            message[body + MAC_LEN..].copy_from_slice(&mac2);
        }
    }

    /// Keeps the cookie of a cookie reply. Returns `false`, and changes nothing, if the reply does not answer the last
    /// message or was altered. One message has one reply.
    pub fn receive(&mut self, reply: &[u8; COOKIE_REPLY_LEN], now: Instant) -> bool {
        let Some(mac1) = self.last_mac1 else { return false };
        let mut cookie = Zeroizing::new([0; MAC_LEN]);
        cookie.copy_from_slice(&reply[32..48]);
        let (nonce, tag) = (XNonce::from_slice(&reply[8..32]), (&reply[48..]).into());
        if self.cookie_cipher.decrypt_in_place_detached(nonce, &mac1, &mut *cookie, tag).is_err() {
            return false;
        }
        self.last_mac1 = None;
        self.cookie = Some((cookie, now));
        true
    }
}

/// Splits a handshake message into what MAC1 covers, MAC1 and MAC2.
fn split(message: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (rest, mac2) = message.split_at_checked(message.len().checked_sub(MAC_LEN)?)?;
    let (body, mac1) = rest.split_at_checked(rest.len().checked_sub(MAC_LEN)?)?;
    Some((body, mac1, mac2))
}

fn mac1_key(receiver: &PublicKey) -> [u8; 32] {
    Blake2s256::new().chain_update(b"mac1----").chain_update(receiver.as_bytes()).finalize().into()
}

fn cookie_cipher(receiver: &PublicKey) -> XChaCha20Poly1305 {
    let key = Blake2s256::new().chain_update(b"cookie--").chain_update(receiver.as_bytes()).finalize();
    chacha20poly1305::KeyInit::new(&key)
}

fn mac(key: &[u8], parts: &[&[u8]]) -> [u8; MAC_LEN] {
    // The keys have 16 and 32 bytes, and BLAKE2s takes up to 32.
    let Ok(mut mac) = <Blake2sMac<U16> as KeyInit>::new_from_slice(key) else { return [0; MAC_LEN] };
    parts.iter().for_each(|part| Mac::update(&mut mac, part));
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::keys::PrivateKey;

    fn source(n: u8, port: u16) -> SocketAddr {
        ([192, 0, 2, n], port).into()
    }

    fn pair(now: Instant) -> (CookieIssuer, CookieJar) {
        let own = PrivateKey::from_bytes([1; 32]).public();
        (CookieIssuer::new(&own, now).unwrap(), CookieJar::new(&own))
    }

    #[test]
    fn cookie_is_valid_for_its_address_and_port_only() {
        let now = Instant::now();
        let (mut issuer, mut jar) = pair(now);
        let mut message = [1; 148];
        message[132..].fill(0);
        jar.seal(&mut message, now);
        assert!(issuer.mac1_is_valid(&message) && !issuer.mac2_is_valid(&message, source(1, 7), now));
        let reply = issuer.reply(&message, source(1, 7), now).unwrap();
        assert!(jar.receive(&reply, now));
        assert!(!jar.receive(&reply, now), "one message has one reply");
        jar.seal(&mut message, now);
        assert!(issuer.mac2_is_valid(&message, source(1, 7), now));
        for other in [source(2, 7), source(1, 8)] {
            assert!(!issuer.mac2_is_valid(&message, other, now), "{other}");
        }
        let mapped = "[::ffff:192.0.2.1]:7".parse().unwrap();
        assert!(issuer.mac2_is_valid(&message, mapped, now), "the same address");
    }

    #[test]
    fn cookie_and_its_secret_expire() {
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let (mut issuer, mut jar) = pair(start);
        let mut message = [1; 92];
        jar.seal(&mut message, start);
        assert!(jar.receive(&issuer.reply(&message, source(1, 7), start).unwrap(), start));
        jar.seal(&mut message, after(114));
        assert!(issuer.mac2_is_valid(&message, source(1, 7), after(119)));
        assert!(!issuer.mac2_is_valid(&message, source(1, 7), after(120)), "the secret is too old");
        message[76..].fill(0);
        jar.seal(&mut message, after(115));
        assert_eq!(message[76..], [0; 16], "the cookie is too old");
        issuer.reply(&message, source(1, 7), after(120)).unwrap();
        assert!(issuer.secret_made == after(120));
    }

    #[test]
    fn altered_reply_is_ignored() {
        let now = Instant::now();
        let (mut issuer, mut jar) = pair(now);
        let mut message = [1; 148];
        jar.seal(&mut message, now);
        let reply = issuer.reply(&message, source(1, 7), now).unwrap();
        for at in 8..COOKIE_REPLY_LEN {
            let mut altered = reply;
            altered[at] ^= 1;
            assert!(!jar.receive(&altered, now), "byte {at}");
        }
        assert!(jar.receive(&reply, now));
        assert!(!pair(now).1.receive(&reply, now), "no message was sent");
    }

    #[test]
    fn short_messages_have_no_valid_macs() {
        let (issuer, mut jar) = pair(Instant::now());
        for length in 0..32 {
            let mut message = vec![0; length];
            jar.seal(&mut message, Instant::now());
            assert!(!issuer.mac1_is_valid(&message) && !issuer.mac2_is_valid(&message, source(1, 7), Instant::now()));
        }
    }
}
