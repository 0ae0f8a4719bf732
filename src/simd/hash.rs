//! The keyed hash of a flow table.

use crate::packet::{Endpoint, LANES};

/// What a flow is found by: the far end, and a number of the owner's choice for the near one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FlowKey {
    /// Who sends.
    pub remote: Endpoint,
    /// Which of the owner's ends it is sent to, such as the place of a relay entry in a list.
    pub local: u16,
}

impl FlowKey {
    /// The same bits in words: two of the address, one of port and near end.
    #[inline]
    fn words(&self) -> [u64; 3] {
        let address = u128::from_be_bytes(self.remote.address);
        [(address >> 64) as u64, address as u64, u64::from(self.remote.port) << 16 | u64::from(self.local)]
    }
}

/// A hash of [`FlowKey`]s that cannot be predicted without its seed: whoever chooses addresses and
/// ports must not choose collisions.
///
/// Two multiplications of 64 by 64 bits, each folded to 64, with a secret on either side (the form of
/// wyhash and foldhash). Not a cryptographic hash: who sees its values can learn the secrets, so they
/// stay inside.
#[derive(Clone, Copy)]
pub struct FlowHash {
    secrets: [u64; 4],
}

impl FlowHash {
    /// The hash of `seed`, which must be random and kept to oneself.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut state = seed;
        Self { secrets: std::array::from_fn(|_| splitmix(&mut state)) }
    }

    /// The hash of one key.
    #[must_use]
    #[inline]
    pub fn one(&self, key: &FlowKey) -> u64 {
        let ([a, b, c], [p, q, r, s]) = (key.words(), self.secrets);
        fold(fold(a ^ p, b ^ q) ^ r, c ^ s)
    }

    /// The hashes of the lanes in `live`; those of other lanes are unspecified.
    #[inline]
    pub fn lanes(&self, keys: &[FlowKey; LANES], live: u64, hashes: &mut [u64; LANES]) {
        for (lane, (key, hash)) in keys.iter().zip(hashes).enumerate() {
            if live & 1 << lane != 0 {
                *hash = self.one(key);
            }
        }
    }
}

/// Says nothing of the secrets.
impl std::fmt::Debug for FlowHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FlowHash").finish_non_exhaustive()
    }
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

/// One step of splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
fn splitmix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (*state ^ (*state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
