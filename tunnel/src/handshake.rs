//! One handshake: Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s in the messages of WireGuard, without MACs and without policy.

use snow::{Builder, HandshakeState};
use zeroize::{Zeroize, Zeroizing};

use crate::entropy::{EntropyError, random};
use crate::keys::{KEY_LEN, PresharedKey, PrivateKey, PublicKey, has_small_order};
use crate::message::{INITIATION, INITIATION_LEN, RESPONSE, RESPONSE_LEN, word};
use crate::tai64n::Tai64n;

const PATTERN: &str = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// The place of the preshared key in the pattern.
const PSK: u8 = 2;

/// Reports why a handshake message has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NoiseError {
    /// The message was altered, or was made with other keys.
    #[error("handshake message: not authentic")]
    NotAuthentic,
    /// The ephemeral key is a point of small order.
    #[error("handshake message: ephemeral key of small order")]
    SmallOrder,
    /// The Noise implementation refused a fixed parameter.
    #[error("handshake: the Noise implementation failed: please report it")]
    Internal,
    /// The system gave no random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// Holds the result of a handshake: keys and indices of a session. The keys are zeroed when it is dropped.
pub struct TransportKeys {
    /// Seals what this side sends.
    pub send: Zeroizing<[u8; KEY_LEN]>,
    /// Opens what this side receives.
    pub receive: Zeroizing<[u8; KEY_LEN]>,
    /// Index that the peer writes into messages to this side.
    pub local: u32,
    /// Index that this side writes into messages to the peer.
    pub remote: u32,
    /// Whether this side began the handshake.
    pub initiator: bool,
}

/// Waits for the response to an initiation.
pub struct SentInitiation {
    noise: Box<HandshakeState>,
    local: u32,
}

/// Holds an authentic initiation that is not yet answered.
pub struct ReceivedInitiation {
    noise: Box<HandshakeState>,
    remote: u32,
    /// Identifies the sender.
    pub peer: PublicKey,
    /// Orders the initiations of this sender.
    pub timestamp: Tai64n,
}

/// Returns an initiation, whose MACs are still zero, and what waits for its response.
///
/// # Errors
/// [`NoiseError::Entropy`], [`NoiseError::Internal`].
pub fn initiate(
    own: &PrivateKey,
    peer: &PublicKey,
    psk: &PresharedKey,
    timestamp: Tai64n,
    local: u32,
) -> Result<(SentInitiation, [u8; INITIATION_LEN]), NoiseError> {
    let ephemeral = Zeroizing::new(random::<KEY_LEN>()?);
    let builder = builder(own, &ephemeral)?;
    let builder = builder.remote_public_key(peer.as_bytes()).and_then(|builder| builder.psk(PSK, psk.as_bytes()));
    let mut noise = builder.and_then(Builder::build_initiator).map_err(|_| NoiseError::Internal)?;
    let mut message = [0; INITIATION_LEN];
    message[0] = INITIATION;
    message[4..8].copy_from_slice(&local.to_le_bytes());
    noise.write_message(&timestamp.to_bytes(), &mut message[8..116]).map_err(|_| NoiseError::Internal)?;
    Ok((SentInitiation { noise: Box::new(noise), local }, message))
}

/// Opens an initiation: four multiplications on the curve, so check MAC1 first.
///
/// # Errors
/// [`NoiseError::NotAuthentic`], [`NoiseError::SmallOrder`], [`NoiseError::Internal`], [`NoiseError::Entropy`].
pub fn read_initiation(own: &PrivateKey, message: &[u8; INITIATION_LEN]) -> Result<ReceivedInitiation, NoiseError> {
    refuse_small_order(&message[8..])?;
    let ephemeral = Zeroizing::new(random::<KEY_LEN>()?);
    let mut noise = builder(own, &ephemeral)?.build_responder().map_err(|_| NoiseError::Internal)?;
    let mut timestamp = [0; 12];
    noise.read_message(&message[8..116], &mut timestamp).map_err(|_| NoiseError::NotAuthentic)?;
    let peer = noise.get_remote_static().and_then(|key| <[u8; KEY_LEN]>::try_from(key).ok());
    let peer = PublicKey::from_bytes(peer.ok_or(NoiseError::Internal)?).map_err(|_| NoiseError::SmallOrder)?;
    let timestamp = Tai64n::from_bytes(timestamp);
    Ok(ReceivedInitiation { noise: Box::new(noise), remote: word(message, 4), peer, timestamp })
}

impl ReceivedInitiation {
    /// Returns the response, whose MACs are still zero, and the keys. Check peer and timestamp before.
    ///
    /// # Errors
    /// [`NoiseError::Internal`].
    pub fn respond(
        mut self,
        psk: &PresharedKey,
        local: u32,
    ) -> Result<([u8; RESPONSE_LEN], TransportKeys), NoiseError> {
        self.noise.set_psk(PSK.into(), psk.as_bytes()).map_err(|_| NoiseError::Internal)?;
        let mut message = [0; RESPONSE_LEN];
        message[0] = RESPONSE;
        message[4..8].copy_from_slice(&local.to_le_bytes());
        message[8..12].copy_from_slice(&self.remote.to_le_bytes());
        self.noise.write_message(&[], &mut message[12..60]).map_err(|_| NoiseError::Internal)?;
        let [receive, send] = split(&mut self.noise);
        Ok((message, TransportKeys { send, receive, local, remote: self.remote, initiator: false }))
    }

    /// Returns the index that the sender chose.
    #[must_use]
    pub fn sender(&self) -> u32 {
        self.remote
    }
}

impl SentInitiation {
    /// Opens the response. A response that is not authentic changes nothing: the right one may still come.
    ///
    /// # Errors
    /// [`NoiseError::NotAuthentic`], [`NoiseError::SmallOrder`].
    pub fn finish(&mut self, message: &[u8; RESPONSE_LEN]) -> Result<TransportKeys, NoiseError> {
        refuse_small_order(&message[12..])?;
        self.noise.read_message(&message[12..60], &mut []).map_err(|_| NoiseError::NotAuthentic)?;
        let [send, receive] = split(&mut self.noise);
        Ok(TransportKeys { send, receive, local: self.local, remote: word(message, 4), initiator: true })
    }

    /// Returns the index that the response must name.
    #[must_use]
    pub fn local(&self) -> u32 {
        self.local
    }
}

/// The ephemeral key is drawn by [`random`] so that this crate has one source of random numbers.
fn builder<'a>(own: &'a PrivateKey, ephemeral: &'a [u8; KEY_LEN]) -> Result<Builder<'a>, NoiseError> {
    let pattern = PATTERN.parse().map_err(|_| NoiseError::Internal)?;
    let builder = Builder::new(pattern).prologue(PROLOGUE).map_err(|_| NoiseError::Internal)?;
    let builder = builder.local_private_key(own.as_bytes()).map_err(|_| NoiseError::Internal)?;
    Ok(builder.fixed_ephemeral_key_for_testing_only(ephemeral))
}

fn refuse_small_order(ephemeral: &[u8]) -> Result<(), NoiseError> {
    match ephemeral.first_chunk() {
        Some(point) if !has_small_order(point) => Ok(()),
        _ => Err(NoiseError::SmallOrder),
    }
}

/// Returns the key of the initiator's messages and that of the responder's.
fn split(noise: &mut HandshakeState) -> [Zeroizing<[u8; KEY_LEN]>; 2] {
    let (mut first, mut second) = noise.dangerously_get_raw_split();
    let keys = [Zeroizing::new(first), Zeroizing::new(second)];
    first.zeroize();
    second.zeroize();
    keys
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn key(n: u8) -> PrivateKey {
        PrivateKey::from_bytes([n; 32])
    }

    fn psk(n: u8) -> PresharedKey {
        PresharedKey::from_bytes([n; 32])
    }

    fn started() -> (SentInitiation, [u8; INITIATION_LEN]) {
        initiate(&key(1), &key(2).public(), &psk(3), Tai64n::from_bytes([5; 12]), 7).unwrap()
    }

    #[test]
    fn both_sides_get_the_same_keys() {
        let (mut sent, initiation) = started();
        let received = read_initiation(&key(2), &initiation).unwrap();
        assert_eq!((received.peer, received.timestamp), (key(1).public(), Tai64n::from_bytes([5; 12])));
        let (response, theirs) = received.respond(&psk(3), 8).unwrap();
        let ours = sent.finish(&response).unwrap();
        assert_eq!((ours.local, ours.remote, theirs.local, theirs.remote), (7, 8, 8, 7));
        assert!(ours.send == theirs.receive && ours.receive == theirs.send && ours.send != ours.receive);
        assert!(ours.initiator && !theirs.initiator);
    }

    #[test]
    fn forged_response_does_not_end_the_handshake() {
        let (mut sent, initiation) = started();
        let (response, theirs) = read_initiation(&key(2), &initiation).unwrap().respond(&psk(3), 8).unwrap();
        for at in 12..60 {
            let mut forged = response;
            forged[at] ^= 0x10;
            assert_eq!(sent.finish(&forged).err(), Some(NoiseError::NotAuthentic), "byte {at}");
        }
        assert!(sent.finish(&response).unwrap().send == theirs.receive);
    }

    #[test]
    fn other_preshared_key_is_refused() {
        let (mut sent, initiation) = started();
        let (response, _) = read_initiation(&key(2), &initiation).unwrap().respond(&psk(4), 8).unwrap();
        assert_eq!(sent.finish(&response).err(), Some(NoiseError::NotAuthentic));
    }

    #[test]
    fn ephemeral_keys_of_small_order_are_refused() {
        let (mut sent, mut initiation) = started();
        let (mut response, _) = read_initiation(&key(2), &initiation).unwrap().respond(&psk(3), 8).unwrap();
        initiation[8..40].fill(0);
        response[12..44].fill(0);
        assert_eq!(read_initiation(&key(2), &initiation).err(), Some(NoiseError::SmallOrder));
        assert_eq!(sent.finish(&response).err(), Some(NoiseError::SmallOrder));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn altered_initiation_is_not_authentic(at in 8_usize..116, bit in 0_u8..8) {
            let (_, mut initiation) = started();
            initiation[at] ^= 1 << bit;
            prop_assert!(read_initiation(&key(2), &initiation).is_err(), "byte {at} bit {bit}");
        }
    }
}
