#![allow(clippy::unwrap_used)]
use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::simd::Level;

/// Multiplies by x in the field of AES (FIPS 197 section 4.2.1).
fn double(byte: u8) -> u8 {
    byte << 1 ^ if byte & 0x80 == 0 { 0 } else { 0x1b }
}

fn product(a: u8, b: u8) -> u8 {
    (0..8).fold((0, a), |(sum, a), bit| (sum ^ if b >> bit & 1 == 1 { a } else { 0 }, double(a))).0
}

/// Computes the S-box of section 5.1.1: the inverse, and an affine map.
fn substitute(byte: u8) -> u8 {
    let inverse = (0..=255).find(|other| product(byte, *other) == 1).unwrap_or(0);
    (0..5).fold(0x63, |sum, turn| sum ^ inverse.rotate_left(turn))
}

/// Computes one round like the CPU: SubBytes, ShiftRows, MixColumns, AddRoundKey.
fn round(state: u128, key: u128, table: &[u8; 256]) -> u128 {
    let bytes = state.to_le_bytes();
    let mixed = std::array::from_fn(|at| {
        let (column, row) = (at / 4, at % 4);
        let cell = |row: usize| table[usize::from(bytes[(column + row) % 4 * 4 + row])];
        let cells = [0, 1, 2, 3].map(|step| cell((row + step) % 4));
        double(cells[0]) ^ double(cells[1]) ^ cells[1] ^ cells[2] ^ cells[3]
    });
    u128::from_le_bytes(mixed) ^ key
}

fn aes(secrets: &[[u8; 16]; 3], key: &FlowKey, table: &[u8; 256]) -> u64 {
    let [a, b, c] = secrets.map(u128::from_le_bytes);
    let ends = u128::from(key.ends());
    let ends = ends << 96 | ends << 64 | ends << 32 | ends;
    let address = u128::from_le_bytes(key.remote.address);
    [ends, b, c].into_iter().fold(address ^ a, |state, key| round(state, key, table)) as u64
}

fn any_key() -> impl Strategy<Value = FlowKey> {
    (any::<[u8; 16]>(), any::<u16>(), any::<u16>())
        .prop_map(|(address, port, local)| FlowKey { remote: Endpoint { address, port }, local })
}

fn hash(level: Level, seed: u64) -> FlowHash {
    FlowHash::new(Processor::with_level(level).unwrap(), seed)
}

/// Checks the first round of FIPS 197 appendix B.
#[test]
fn reference_equals_aes_vectors() {
    let table: [u8; 256] = std::array::from_fn(|byte| substitute(byte as u8));
    assert_eq!((table[0x00], table[0x53], table[0xff]), (0x63, 0xed, 0x16));
    let state = 0x193de3bea0f4e22b9ac68d2ae9f84808_u128.swap_bytes();
    let key = 0xa0fafe1788542cb123a339392a6c7605_u128.swap_bytes();
    assert_eq!(round(state, key, &table).swap_bytes(), 0xa49c7ff2689f352b6b5bea43026a5049);
}

proptest! {
    /// Compares one key and a lane of a batch at every level with the reference of that level.
    #[test]
    fn every_level_equals_its_reference(keys in prop::collection::vec(any_key(), LANES), live: u64, seed: u64) {
        let table: [u8; 256] = std::array::from_fn(|byte| substitute(byte as u8));
        let mut columns = FlowKeys::default();
        keys.iter().enumerate().for_each(|(lane, key)| columns.set(lane, key));
        for level in Processor::levels() {
            let hash = hash(level, seed);
            let mut hashes = [0; LANES];
            hash.lanes(&columns, live, &mut hashes);
            for (lane, key) in keys.iter().enumerate() {
                prop_assert_eq!(columns.get(lane), *key);
                let wanted = match level {
                    Level::Avx512 => aes(&hash.secrets, key, &table),
                    _ => folded(&hash.secrets, &key.remote.address, key.ends()),
                };
                prop_assert_eq!(hash.one(key), wanted, "{}", level);
                prop_assert!(live >> lane & 1 == 0 || hashes[lane] == wanted, "{}, lane {}", level, lane);
            }
        }
    }
}

/// Checks that keys which differ in one bit differ in about half of the hash, and that the seed changes the hash.
#[test]
fn every_key_bit_changes_hash() {
    for level in Processor::levels() {
        let hashes = |seed: u64| {
            let hash = hash(level, seed);
            let keys = (0..160).map(|bit: usize| {
                let mut key = FlowKey::default();
                match bit {
                    0..128 => key.remote.address[bit / 8] ^= 1 << (bit % 8),
                    128..144 => key.remote.port ^= 1 << (bit - 128),
                    _ => key.local ^= 1 << (bit - 144),
                }
                key
            });
            keys.chain([FlowKey::default()]).map(|key| hash.one(&key)).collect::<Vec<_>>()
        };
        let first = hashes(1);
        assert_eq!(first.iter().collect::<HashSet<_>>().len(), 161, "{level}");
        let far: u32 = first[..160].iter().map(|hash| (hash ^ first[160]).count_ones()).sum();
        assert!((28 * 160..36 * 160).contains(&far), "{level}: {far}");
        assert!(first.iter().zip(hashes(2)).all(|(a, b)| *a != b), "{level}");
    }
}
