//! Measures the hash of the flow table, and that of the NIC.

use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;

use foldhash::fast::FixedState;
use oxide::packet::LANES;
use oxide::simd::{FlowHash, FlowKey, FlowKeys, Level, Processor, Toeplitz, Tuples};

use crate::comparison::{Bench, contestant};
use crate::frames;

pub(crate) fn run(bench: &mut Bench) {
    keyed(bench);
    toeplitz(bench);
}

fn keyed(bench: &mut Bench) {
    let list: Vec<FlowKey> =
        (0..LANES as u32).map(|n| FlowKey { remote: frames::flow(n, true).source, local: 3 }).collect();
    let mut keys = FlowKeys::default();
    list.iter().enumerate().for_each(|(lane, key)| keys.set(lane, key));
    let (keys, list) = (&keys, &list);
    let mut contestants = Vec::new();
    for level in [Level::Avx512, Level::Scalar] {
        let Some(processor) = Processor::with_level(level) else { continue };
        let (hash, mut hashes) = (FlowHash::new(processor, 1), [0; LANES]);
        contestants.push(contestant(format!("oxide, {level}"), move || {
            hash.lanes(black_box(keys), u64::MAX, black_box(&mut hashes));
        }));
    }
    let (fold, mut hashes) = (FixedState::with_seed(1), [0; LANES]);
    let foldhash = contestant("foldhash", move || {
        for (key, hash) in black_box(list).iter().zip(&mut hashes) {
            let address = u128::from_ne_bytes(key.remote.address);
            let mut state = fold.build_hasher();
            state.write_u64(address as u64);
            state.write_u64((address >> 64) as u64);
            state.write_u32(u32::from(key.remote.port) << 16 | u32::from(key.local));
            *hash = state.finish();
        }
        black_box(&mut hashes);
    });
    contestants.push(foldhash.at_most(0.12));
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = fearless_simd::Level::new().as_avx512() {
        contestants.push(contestant("three rounds of AES, nothing else", move || rounds(token, black_box(&[7; 64]))));
    }
    bench.compare("keyed hash", "64 keys: address, port, near end", LANES, contestants);
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// Runs as many AES instructions as 64 keys need, in four chains. Only their number matters.
    fn rounds(avx512: Avx512, bytes: &[u8; 64]) {
        use std::arch::x86_64::_mm512_aesenc_epi128;
        let secret = safe_unaligned_simd::x86_64::_mm512_loadu_si512(bytes);
        let mut states = [secret; 4].map(black_box);
        for _ in 0..3 * LANES / 16 {
            states = states.map(|state| _mm512_aesenc_epi128(state, secret));
        }
        black_box(states);
    }
);

fn toeplitz(bench: &mut Bench) {
    let mut tuples = Tuples::default();
    (0..LANES as u32).for_each(|n| tuples.set(n as usize, &frames::flow(n, true)));
    let tuples = &tuples;
    let mut contestants = Vec::new();
    for level in [Level::Avx512, Level::Scalar] {
        let Some(processor) = Processor::with_level(level) else { continue };
        let Some(hash) = Toeplitz::new(processor, &[0x6d; 40]) else { continue };
        let mut hashes = [0; LANES];
        contestants.push(contestant(format!("oxide, {level}"), move || {
            hash.lanes(black_box(tuples), true, black_box(&mut hashes));
        }));
    }
    bench.compare(
        "Toeplitz",
        "IPv4 addresses and ports; no DPDK is linked here: its GFNI bulk took 0.96 ns on a Zen 5",
        LANES,
        contestants,
    );
}
