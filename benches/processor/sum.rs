//! Measures the Internet checksum of a payload.

use std::hash::Hasher;
use std::hint::black_box;

use oxide::simd::Processor;
use s2n_quic_core::inet::checksum::Checksum;

use crate::comparison::{Bench, Contestant, contestant};

const PACKETS: usize = 128;

pub(crate) fn run(bench: &mut Bench) {
    for (measure, length, bounds) in [
        ("payload sum, 1400 B, L2", 1400, [Some(0.38), Some(0.55), Some(1.25)]),
        ("payload sum, 256 B, L2", 256, [None; 3]),
        ("payload sum, 64 B, L2", 64, [None; 3]),
    ] {
        let memory: Vec<u8> = (0..PACKETS * 2048).map(|at| (at * 31 % 251) as u8).collect();
        let packets: Vec<&[u8]> = memory.chunks(2048).map(|frame| &frame[42..][..length]).collect();
        let packets = packets.as_slice();
        let mut contestants = Vec::new();
        let mut levels: Vec<_> = Processor::levels().collect();
        levels.reverse();
        for level in levels {
            let Some(processor) = Processor::with_level(level) else { continue };
            contestants.push(each(packets, format!("oxide, {level}"), move |packet| processor.sum(packet).fold()));
        }
        let smoltcp = each(packets, "smoltcp", smoltcp::wire::checksum::data);
        let s2n = each(packets, "s2n-quic-core", |packet| {
            let mut sum = Checksum::default();
            sum.write(packet);
            sum.finish_be()
        });
        let read = each(packets, "reading the bytes", |packet| read(packet) as u16);
        for (peer, bound) in [smoltcp, s2n, read].into_iter().zip(bounds) {
            contestants.push(match bound {
                Some(bound) => peer.at_most(bound),
                None => peer,
            });
        }
        bench.compare(measure, "128 packets at 2 KiB stride", PACKETS, contestants);
    }
}

/// Sums one packet after the other. Hiding a value from the compiler for each packet would send it through memory, and
/// the core would wait for one sum before it begins the next. So only the list and the total are hidden.
fn each<'a>(packets: &'a [&[u8]], name: impl Into<String>, sum: impl Fn(&[u8]) -> u16 + 'a) -> Contestant<'a> {
    contestant(name, move || {
        black_box(black_box(packets).iter().fold(0, |all, packet| all ^ sum(packet)));
    })
}

#[cfg(target_arch = "x86_64")]
fn read(packet: &[u8]) -> u64 {
    match fearless_simd::Level::new().as_avx512() {
        Some(token) => by_64(token, packet),
        None => plain(packet),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn read(packet: &[u8]) -> u64 {
    plain(packet)
}

fn plain(packet: &[u8]) -> u64 {
    let (words, tail) = packet.as_chunks::<8>();
    let sum = words.iter().fold(0, |sum, word| sum | u64::from_ne_bytes(*word));
    tail.iter().fold(sum, |sum, byte| sum | u64::from(*byte))
}

#[cfg(target_arch = "x86_64")]
fearless_simd::kernel!(
    /// Reads every byte once in loads of 64; the last 64 bytes are one more load.
    fn by_64(avx512: Avx512, packet: &[u8]) -> u64 {
        use safe_unaligned_simd::x86_64::_mm512_loadu_si512;
        use std::arch::x86_64::{_mm512_or_si512, _mm512_reduce_or_epi64, _mm512_setzero_si512};
        let mut sums = [_mm512_setzero_si512(); 2];
        let (pairs, rest) = packet.as_chunks::<128>();
        for pair in pairs {
            let [a, b] = [pair.first_chunk::<64>(), pair.last_chunk::<64>()].map(|half| half.unwrap_or(&[0; 64]));
            sums[0] = _mm512_or_si512(sums[0], _mm512_loadu_si512(a));
            sums[1] = _mm512_or_si512(sums[1], _mm512_loadu_si512(b));
        }
        if let Some(block) = rest.first_chunk::<64>() {
            sums[0] = _mm512_or_si512(sums[0], _mm512_loadu_si512(block));
        }
        if let Some(end) = packet.last_chunk::<64>() {
            sums[1] = _mm512_or_si512(sums[1], _mm512_loadu_si512(end));
        }
        _mm512_reduce_or_epi64(_mm512_or_si512(sums[0], sums[1])) as u64
    }
);
