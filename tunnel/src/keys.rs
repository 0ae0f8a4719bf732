//! Keys, as WireGuard's tools write them: 32 bytes in base64. Secret keys are zeroed when they are dropped, and are
//! never printed.

use std::fmt;
use std::str::FromStr;

use subtle::ConstantTimeEq;
use x25519_dalek::StaticSecret;
use zeroize::Zeroizing;

use crate::entropy::{EntropyError, random};

/// Length of a key, bytes.
pub const KEY_LEN: usize = 32;

/// Reports why a text is not a key. The message does not contain the text, which may be secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text has another length.
    #[error("key: wrong length: {0} characters; expected 44 characters of base64; to fix: make one by \"wg genkey\"")]
    Length(usize),
    /// The text has another alphabet or end.
    #[error("key: not base64; expected 43 letters, digits, + or /, and one =; to fix: make one by \"wg genkey\"")]
    Alphabet,
    /// The public key is a point of small order, so a shared secret with it is known to everybody.
    #[error("key: not a usable public key (small order); to fix: take the peer's key from \"wg pubkey\"")]
    SmallOrder,
}

/// Holds the static private key of a device.
#[derive(Clone)]
pub struct PrivateKey(Zeroizing<[u8; KEY_LEN]>);

/// Identifies a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey([u8; KEY_LEN]);

/// Holds the optional symmetric key of two peers; all zeroes without one.
#[derive(Clone, Default)]
pub struct PresharedKey(Zeroizing<[u8; KEY_LEN]>);

impl PrivateKey {
    /// Returns the key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`EntropyError`] if the system gives no random bytes.
    pub fn generate() -> Result<Self, EntropyError> {
        Ok(Self::from_bytes(random()?))
    }

    /// Returns the public key that belongs to this key.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        let secret = StaticSecret::from(*self.0);
        PublicKey(x25519_dalek::PublicKey::from(&secret).to_bytes())
    }

    /// Returns the bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PublicKey {
    /// Returns the key with these bytes.
    ///
    /// # Errors
    /// [`KeyError::SmallOrder`] for a point with which every shared secret is zero.
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Result<Self, KeyError> {
        if has_small_order(&bytes) { Err(KeyError::SmallOrder) } else { Ok(Self(bytes)) }
    }

    /// Returns the bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl PresharedKey {
    /// Returns the key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; KEY_LEN]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// Returns the bytes of the key.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; KEY_LEN] {
        &self.0
    }
}

impl FromStr for PrivateKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(*decode(text)?)
    }
}

impl FromStr for PresharedKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        decode(text).map(Self)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(..)")
    }
}

impl fmt::Debug for PresharedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresharedKey(..)")
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode(&self.0))
    }
}

/// The encodings of the points of small order on Curve25519, without the highest bit (cr.yp.to/ecdh.html#validate).
const SMALL_ORDER: [[u8; KEY_LEN]; 7] = {
    let mut p = [0xff; KEY_LEN];
    p[31] = 0x7f;
    let (mut minus, mut zero, mut plus) = (p, p, p);
    minus[0] = 0xec;
    zero[0] = 0xed;
    plus[0] = 0xee;
    let mut one = [0; KEY_LEN];
    one[0] = 1;
    [
        [0; KEY_LEN],
        one,
        [
            0xe0, 0xeb, 0x7a, 0x7c, 0x3b, 0x41, 0xb8, 0xae, 0x16, 0x56, 0xe3, 0xfa, 0xf1, 0x9f, 0xc4, 0x6a, 0xda, 0x09,
            0x8d, 0xeb, 0x9c, 0x32, 0xb1, 0xfd, 0x86, 0x62, 0x05, 0x16, 0x5f, 0x49, 0xb8, 0x00,
        ],
        [
            0x5f, 0x9c, 0x95, 0xbc, 0xa3, 0x50, 0x8c, 0x24, 0xb1, 0xd0, 0xb1, 0x55, 0x9c, 0x83, 0xef, 0x5b, 0x04, 0x44,
            0x5c, 0xc4, 0x58, 0x1c, 0x8e, 0x86, 0xd8, 0x22, 0x4e, 0xdd, 0xd0, 0x9f, 0x11, 0x57,
        ],
        minus,
        zero,
        plus,
    ]
};

/// Whether a shared secret with this point is zero, whatever the private key. The Noise crate does not check it.
pub(crate) fn has_small_order(point: &[u8; KEY_LEN]) -> bool {
    let mut canonical = *point;
    canonical[31] &= 0x7f;
    SMALL_ORDER.iter().any(|known| bool::from(known.ct_eq(&canonical)))
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

fn encode(bytes: &[u8; KEY_LEN]) -> String {
    let letters = bytes.chunks(3).flat_map(|three| {
        let group =
            three.iter().fold(0_usize, |group, &byte| group << 8 | usize::from(byte)) << (8 * (3 - three.len()));
        (0..=three.len()).map(move |i| char::from(ALPHABET[group >> (18 - 6 * i) & 63]))
    });
    letters.chain(['=']).collect()
}

/// Decodes without a table look-up by a secret: the time does not depend on the key.
fn decode(text: &str) -> Result<Zeroizing<[u8; KEY_LEN]>, KeyError> {
    let letters: &[u8; 44] = text.as_bytes().try_into().map_err(|_| KeyError::Length(text.chars().count()))?;
    let (mut key, mut bad) = (Zeroizing::new([0; KEY_LEN]), letters[43] ^ b'=');
    for (group, three) in key.chunks_mut(3).enumerate() {
        let mut word = 0_u32;
        for &letter in &letters[4 * group..4 * group + 4] {
            let pad = letter == b'=' && group == 10;
            let value = if pad { 0 } else { value_of(letter) };
            bad |= (value >> 8) as u8;
            word = word << 6 | u32::from(value & 63);
        }
        let bytes = word.to_be_bytes();
        three.copy_from_slice(&bytes[1..=three.len()]);
        if three.len() == 2 {
            // Bits beyond the last byte must be zero: each key has one text.
            bad |= bytes[3];
        }
    }
    bad |= u8::from(letters[..43].contains(&b'='));
    if bad == 0 { Ok(key) } else { Err(KeyError::Alphabet) }
}

/// Returns the six bits of a letter, or 0xff00 if it is not in the alphabet.
fn value_of(letter: u8) -> u16 {
    let letter = i16::from(letter);
    // All ones where low <= letter <= high.
    let within = |low: u8, high: u8| ((i16::from(low) - 1 - letter) & (letter - i16::from(high) - 1)) >> 15;
    let upper = within(b'A', b'Z') & (letter - 65);
    let lower = within(b'a', b'z') & (letter - 71);
    let digit = within(b'0', b'9') & (letter + 4);
    let plus = within(b'+', b'+') & 62;
    let slash = within(b'/', b'/') & 63;
    let known = within(b'A', b'Z') | within(b'a', b'z') | within(b'0', b'9') | within(b'+', b'+') | within(b'/', b'/');
    ((upper | lower | digit | plus | slash) | (!known & 0x7f00)) as u16
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn public_key_matches_wireguard_tools() {
        // Made by `wg genkey` and `wg pubkey` of wireguard-tools 1.0.20210914.
        let private: PrivateKey = "eBzOaZagsb6FvKJf3pwDUZkUDtH+hNFZlDadzFm6lEo=".parse().unwrap();
        assert_eq!(private.public().to_string(), "Lt1QXBy9FEbrvOvlGzEo2oBt6JneicRIz0aSzD6W1xk=");
    }

    #[test]
    fn wrong_texts_are_refused_without_printing_them() {
        let good = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=";
        assert!(good.parse::<PrivateKey>().is_ok());
        for bad in
            ["", "abc", &good[..43], &good.replace('+', "-"), &good.replace("mk=", "ml="), &good.replace("k=", "==")]
        {
            let error = bad.parse::<PrivateKey>().unwrap_err().to_string();
            assert!(error.starts_with("key: ") && (bad.is_empty() || !error.contains(bad)), "{bad}: {error}");
        }
        assert_eq!(format!("{:?}", good.parse::<PrivateKey>().unwrap()), "PrivateKey(..)");
        assert_eq!(format!("{:?}", good.parse::<PresharedKey>().unwrap()), "PresharedKey(..)");
    }

    #[test]
    fn points_of_small_order_are_refused() {
        for point in SMALL_ORDER {
            let secret = StaticSecret::from([7; 32]);
            assert!(!secret.diffie_hellman(&point.into()).was_contributory(), "{point:x?} has a large order");
            assert_eq!(PublicKey::from_bytes(point), Err(KeyError::SmallOrder));
        }
    }

    proptest! {
        #[test]
        fn keys_read_back(bytes: [u8; 32]) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), 44);
            let key: PresharedKey = text.parse().unwrap();
            prop_assert_eq!(*key.as_bytes(), bytes);
        }

        #[test]
        fn one_key_has_one_text(text in "[A-Za-z0-9+/=]{44}") {
            if let Ok(key) = text.parse::<PresharedKey>() {
                prop_assert_eq!(encode(key.as_bytes()), text);
            }
        }
    }
}
