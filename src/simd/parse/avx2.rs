//! Parses eight frames of one family at a time.
//!
//! The EtherType and the byte after it select the lanes that may be IPv4 or IPv6. Each family collects lanes. When it
//! has eight, their headers are loaded and transposed, so that a register has one field of all eight, and every
//! check of the plain parser runs on all of them at once. No branch depends on a single frame, so an
//! unpredictable mix costs the sum of its packets.

use std::arch::x86_64::*;
use std::iter::zip;

use safe_unaligned_simd::x86_64::{_mm_loadu_si128, _mm_storeu_si128, _mm256_storeu_si256};

use super::{AHEAD, GROUP, Lanes};
use crate::packet::{Columns, LANES};
use crate::umem::prefetch;

/// Holds the headers of eight frames.
type Headers<'a> = [&'a [u8; 64]; GROUP];

fearless_simd::kernel!(
    pub(super) fn lanes(
        avx2: Avx2,
        headers: &[&[u8; 64]; LANES],
        lengths: &[u16; LANES],
        live: u64,
        columns: &mut Columns,
    ) {
        let (mut four, mut six) = (FamilyLanes::default(), FamilyLanes::default());
        // These lanes have another family, or need the scalar parser.
        let mut rest = 0;
        let mut last_hop = 0;
        columns.l3.fill(14);
        columns.l4.fill(34);
        let groups = headers.as_chunks::<GROUP>().0;
        headers.iter().take(AHEAD).for_each(|header| prefetch(*header));
        for (group, of_group) in groups.iter().enumerate() {
            let first = group * GROUP;
            if live >> first == 0 {
                break;
            }
            groups.get(group + AHEAD / GROUP).into_iter().flatten().for_each(|header| prefetch(*header));
            let live = (live >> first) as u8;
            let (ipv4, ipv6) = families(of_group);
            rest |= u64::from(live & !(ipv4 | ipv6)) << first;
            // If all lanes have one family, which is the usual case, they are already in order.
            if live & ipv4 == u8::MAX {
                four.all |= 0xff << first;
                let found = ipv4_udp::<true>(headers, lengths, [first as u8; GROUP], columns);
                (rest, last_hop) = (rest | found.bad, last_hop | found.last_hop);
                continue;
            }
            if live & ipv6 == u8::MAX {
                six.all |= 0xff << first;
                let found = ipv6_udp::<true>(headers, lengths, [first as u8; GROUP], columns);
                (rest, last_hop) = (rest | found.bad, last_hop | found.last_hop);
                continue;
            }
            four.add(first, live & ipv4);
            six.add(first, live & ipv6);
            if let Some(lanes) = four.eight() {
                let found = ipv4_udp::<false>(headers, lengths, lanes, columns);
                (rest, last_hop) = (rest | found.bad, last_hop | found.last_hop);
            }
            if let Some(lanes) = six.eight() {
                let found = ipv6_udp::<false>(headers, lengths, lanes, columns);
                (rest, last_hop) = (rest | found.bad, last_hop | found.last_hop);
            }
        }
        if let Some(lanes) = four.last() {
            let found = ipv4_udp::<false>(headers, lengths, lanes, columns);
            (rest, last_hop) = (rest | found.bad, last_hop | found.last_hop);
        }
        if let Some(lanes) = six.last() {
            let found = ipv6_udp::<false>(headers, lengths, lanes, columns);
            (rest, last_hop) = (rest | found.bad, last_hop | found.last_hop);
        }
        let mut out = Lanes { ipv4: four.all & !rest, ipv6: six.all & !rest, last_hop: last_hop & !rest, columns };
        while rest != 0 {
            let lane = rest.trailing_zeros() as usize % LANES;
            rest &= rest - 1;
            out.parse(lane, headers[lane], lengths[lane]);
        }
        out.finish();
    }
);

/// Holds up to 15 lanes of one family that wait until there are eight, with one byte for each.
#[derive(Default)]
struct FamilyLanes {
    lanes: u128,
    waiting: u32,
    /// All lanes that were added so far.
    all: u64,
}

/// Returns the numbers of the set bits, with one byte for each, lowest first.
const PLACES: [u64; 256] = {
    let mut table = [0; 256];
    let mut mask = 0;
    while mask < 256 {
        let (mut bit, mut at) = (0, 0);
        while bit < 8 {
            if mask >> bit & 1 == 1 {
                table[mask] |= (bit as u64) << (8 * at);
                at += 1;
            }
            bit += 1;
        }
        mask += 1;
    }
    table
};

impl FamilyLanes {
    /// Adds the lanes of a group that begins at `first`. Fewer than eight lanes may wait before the call.
    #[inline(always)]
    fn add(&mut self, first: usize, mask: u8) {
        let lanes = PLACES[usize::from(mask)] + first as u64 * 0x0101_0101_0101_0101;
        let count = mask.count_ones();
        // The next lanes overwrite the bytes after the last lane, so these must be zero.
        let lanes = u128::from(lanes) & ((1 << (8 * count)) - 1);
        self.lanes |= lanes << (8 * self.waiting);
        self.waiting += count;
        self.all |= u64::from(mask) << first;
    }

    /// Removes and returns eight lanes, if there are as many.
    #[inline(always)]
    fn eight(&mut self) -> Option<[u8; GROUP]> {
        (self.waiting >= GROUP as u32).then(|| {
            let lanes = self.lanes as u64;
            self.lanes >>= 64;
            self.waiting -= GROUP as u32;
            lanes.to_le_bytes()
        })
    }

    /// Returns the waiting lanes, with the last one repeated to fill eight.
    #[inline(always)]
    fn last(&mut self) -> Option<[u8; GROUP]> {
        let last = self.waiting.checked_sub(1)?;
        let lanes = self.lanes as u64;
        let filler = (lanes >> (8 * last) & 0xff) * 0x0101_0101_0101_0101;
        let waiting = u64::MAX >> (56 - 8 * last);
        Some((lanes & waiting | filler & !waiting).to_le_bytes())
    }
}

/// Returns two masks with a bit for each frame: those with EtherType, version and header length of IPv4 without
/// options, and those with EtherType and version of IPv6.
#[inline]
#[target_feature(enable = "avx2")]
fn families(headers: &Headers<'_>) -> (u8, u8) {
    let word = |i: usize| {
        let [.., a, b, c, d] = headers[i].first_chunk::<16>().unwrap_or(&[0; 16]);
        i32::from_le_bytes([*a, *b, *c, *d])
    };
    let words = _mm256_setr_epi32(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7));
    let alike = |mask: i32, value: i32| {
        bits(_mm256_cmpeq_epi32(_mm256_and_si256(words, _mm256_set1_epi32(mask)), _mm256_set1_epi32(value)))
    };
    (alike(0x00ff_ffff, 0x0045_0008), alike(0x00f0_ffff, 0x0060_dd86))
}

/// Returns 16 bytes at `AT` of eight headers as four registers: word `j` of each, with a 32-bit lane for each frame, in
/// network byte order. `pair` loads frames `i` and `i + 4` into the lower and the upper half before the transposition.
#[inline]
#[target_feature(enable = "avx2")]
fn words<const AT: usize>(headers: &Headers<'_>, mut pair: impl FnMut(usize, __m256i)) -> [__m256i; 4] {
    let [mut a, mut b, mut c, mut d] = [_mm256_setzero_si256(); 4];
    for (i, to) in [&mut a, &mut b, &mut c, &mut d].into_iter().enumerate() {
        *to = _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load::<AT>(headers[i])), load::<AT>(headers[i + 4]));
        pair(i, *to);
    }
    let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
    let (ef, gh) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
    [
        _mm256_unpacklo_epi64(ab, cd),
        _mm256_unpackhi_epi64(ab, cd),
        _mm256_unpacklo_epi64(ef, gh),
        _mm256_unpackhi_epi64(ef, gh),
    ]
}

/// Returns 16 bytes at `AT`.
#[inline]
#[target_feature(enable = "avx2")]
fn load<const AT: usize>(header: &[u8; 64]) -> __m128i {
    const { assert!(AT + 16 <= 64) };
    _mm_loadu_si128(header[AT..].first_chunk::<16>().unwrap_or(&[0; 16]))
}

/// Returns a mask with one bit for each frame.
#[inline]
#[target_feature(enable = "avx2")]
fn bits(lanes: __m256i) -> u8 {
    _mm256_movemask_ps(_mm256_castsi256_ps(lanes)) as u8
}

/// Returns two bytes of each word as a number.
#[inline]
#[target_feature(enable = "avx2")]
fn be16<const HIGH: i8, const LOW: i8>(words: __m256i) -> __m256i {
    const { assert!(HIGH >= 0 && HIGH < 4 && LOW >= 0 && LOW < 4) };
    let word = |at: i8| [at + LOW, at + HIGH, -1, -1];
    let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = [word(0), word(4), word(8), word(12)];
    let turn = _mm_setr_epi8(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p);
    _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(turn))
}

/// Returns the lengths of the frames.
#[inline]
#[target_feature(enable = "avx2")]
fn lengths_of<const IN_ORDER: bool>(lengths: &[u16; LANES], lanes: [u8; GROUP]) -> __m256i {
    if IN_ORDER && let Some(lengths) = lengths.as_chunks::<GROUP>().0.get(usize::from(lanes[0]) / GROUP) {
        return _mm256_cvtepu16_epi32(_mm_loadu_si128(lengths));
    }
    let [a, b, c, d, e, f, g, h] = lanes.map(|lane| i32::from(lengths[usize::from(lane) % LANES]));
    _mm256_setr_epi32(a, b, c, d, e, f, g, h)
}

/// Returns the lanes as positions in the columns. If they are in order, only the first one matters.
#[inline(always)]
fn places<const IN_ORDER: bool>(lanes: [u8; GROUP]) -> [usize; GROUP] {
    let first = usize::from(lanes[0]) % LANES / GROUP * GROUP;
    std::array::from_fn(|i| if IN_ORDER { first + i } else { usize::from(lanes[i]) % LANES })
}

/// Holds masks of lanes.
struct LaneMasks {
    /// Lanes that the plain parser must parse.
    bad: u64,
    last_hop: u64,
}

/// Writes ports and lengths to their columns. `good` and `last_hop` have a register lane for each frame.
#[inline]
#[target_feature(enable = "avx2")]
fn finish<const IN_ORDER: bool>(
    at: [usize; GROUP],
    ports: __m256i,
    total: __m256i,
    good: __m256i,
    last_hop: __m256i,
    columns: &mut Columns,
) -> LaneMasks {
    let turn = _mm256_broadcastsi128_si256(_mm_setr_epi8(1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14));
    let (mut both, mut totals) = ([0_u32; GROUP], [0_u32; GROUP]);
    _mm256_storeu_si256(&mut both, _mm256_shuffle_epi8(ports, turn));
    for (&lane, ports) in zip(&at, both) {
        let flow = &mut columns.flow[lane];
        (flow.source.port, flow.destination.port) = (ports as u16, (ports >> 16) as u16);
    }
    if IN_ORDER && let Some(lengths) = columns.length.as_chunks_mut::<GROUP>().0.get_mut(at[0] / GROUP) {
        // The packed halves contain words 0 to 4 and 8 to 12.
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(total, total));
        _mm_storeu_si128(lengths, _mm256_castsi256_si128(packed));
    } else {
        _mm256_storeu_si256(&mut totals, total);
        zip(at, totals).for_each(|(lane, total)| columns.length[lane] = total as u16);
    }
    let (bad, last_hop) = (u64::from(!bits(good)), u64::from(bits(last_hop)));
    if IN_ORDER {
        return LaneMasks { bad: bad << at[0], last_hop: last_hop << at[0] };
    }
    // A branch for each lane would be mispredicted in a mix.
    let lanes = |of: u64| zip(0.., at).fold(0, |mask, (i, lane)| mask | (of >> i & 1) << lane);
    LaneMasks { bad: lanes(bad), last_hop: if last_hop == 0 { 0 } else { lanes(last_hop) } }
}

/// Writes flows and lengths of frames that may be IPv4. The values are noise for frames that the scalar parser rejects.
#[inline]
#[target_feature(enable = "avx2")]
fn ipv4_udp<const IN_ORDER: bool>(
    headers: &[&[u8; 64]; LANES],
    lengths: &[u16; LANES],
    lanes: [u8; GROUP],
    columns: &mut Columns,
) -> LaneMasks {
    let set = _mm256_set1_epi32;
    let (eq, gt, and, or) = (_mm256_cmpeq_epi32, _mm256_cmpgt_epi32, _mm256_and_si256, _mm256_or_si256);
    let frame = lengths_of::<IN_ORDER>(lengths, lanes);
    let at = places::<IN_ORDER>(lanes);
    let headers = &at.map(|lane| headers[lane]);

    // Sources are bytes 0 to 4 of each half, destinations 4 to 8. The mapped form has them last.
    let last = |at| _mm256_broadcastsi128_si256(_mm_setr_epi32(-1, -1, -1, at));
    let (first, second) = (last(0x0302_0100), last(0x0706_0504));
    let mapped = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0, 0xffff_0000_u32 as i32, 0));
    let [source, destination, ports, udp] = words::<26>(headers, |i, pair| {
        let source = or(_mm256_shuffle_epi8(pair, first), mapped);
        let destination = or(_mm256_shuffle_epi8(pair, second), mapped);
        let flow = &mut columns.flow[at[i]];
        _mm_storeu_si128(&mut flow.source.address, _mm256_castsi256_si128(source));
        _mm_storeu_si128(&mut flow.destination.address, _mm256_castsi256_si128(destination));
        let flow = &mut columns.flow[at[i + 4]];
        _mm_storeu_si128(&mut flow.source.address, _mm256_extracti128_si256::<1>(source));
        _mm_storeu_si128(&mut flow.destination.address, _mm256_extracti128_si256::<1>(destination));
    });
    // The three words are: version to total length; identification and fragment; TTL, protocol and checksum.
    let [_, length, fragment, protocol] = words::<10>(headers, |_, _| ());

    // The sum of ten words has at most 20 bits. Folded once, it is 0xffff exactly if it is a multiple of 0xffff.
    let low = set(0xffff);
    let mut sum = _mm256_setzero_si256();
    for words in [length, fragment, protocol, source, destination] {
        sum = _mm256_add_epi32(sum, _mm256_srli_epi32::<16>(words));
        sum = _mm256_add_epi32(sum, and(words, low));
    }
    let right = eq(_mm256_add_epi32(_mm256_srli_epi32::<16>(sum), and(sum, low)), low);

    let total = be16::<2, 3>(length);
    // The check is 20 <= total <= frame - 14, so the frame holds the header as well.
    let whole = _mm256_andnot_si256(gt(total, _mm256_sub_epi32(frame, set(14))), gt(total, set(19)));
    // The check is 8 <= UDP length <= total - 20.
    let udp = be16::<0, 1>(udp);
    let udp = _mm256_andnot_si256(gt(udp, _mm256_sub_epi32(total, set(20))), gt(udp, set(7)));
    let zero = _mm256_setzero_si256();
    let unfragmented = eq(and(fragment, set(0xff3f_0000_u32 as i32)), zero);
    let is_udp = eq(and(protocol, set(0xff00)), set(0x1100));
    let net = and(source, set(0xff));
    let ttl = and(protocol, set(0xff));
    let mut bad = eq(ttl, zero);
    for other in [
        eq(and(ports, low), zero),
        eq(net, zero),
        eq(net, set(127)),
        eq(and(net, set(0xf0)), set(0xe0)),
        eq(source, set(-1)),
    ] {
        bad = or(bad, other);
    }
    let good = _mm256_andnot_si256(bad, and(and(and(right, whole), and(udp, unfragmented)), is_udp));
    finish::<IN_ORDER>(at, ports, _mm256_add_epi32(total, set(14)), good, eq(ttl, set(1)), columns)
}

/// Writes flows and lengths of frames that may be IPv6. Destinations that look mapped also go to the scalar parser.
#[inline]
#[target_feature(enable = "avx2")]
fn ipv6_udp<const IN_ORDER: bool>(
    headers: &[&[u8; 64]; LANES],
    lengths: &[u16; LANES],
    lanes: [u8; GROUP],
    columns: &mut Columns,
) -> LaneMasks {
    let set = _mm256_set1_epi32;
    let (eq, gt, and, or) = (_mm256_cmpeq_epi32, _mm256_cmpgt_epi32, _mm256_and_si256, _mm256_or_si256);
    let frame = lengths_of::<IN_ORDER>(lengths, lanes);
    let at = places::<IN_ORDER>(lanes);
    let headers = &at.map(|lane| headers[lane]);
    for (&lane, header) in zip(&at, headers) {
        columns.l4[lane] = 54;
        let flow = &mut columns.flow[lane];
        _mm_storeu_si128(&mut flow.source.address, load::<22>(header));
        _mm_storeu_si128(&mut flow.destination.address, load::<38>(header));
    }
    // The words are: version to flow label; payload length, next header and hop limit; the upper half of the source.
    let [_, length, source, subnet] = words::<14>(headers, |_, _| ());
    // The words are: the lower half of the destination; ports; UDP length and checksum.
    let [destination, _, ports, udp] = words::<46>(headers, |_, _| ());

    let payload = be16::<0, 1>(length);
    let long = gt(payload, _mm256_sub_epi32(frame, set(54)));
    // The check is 8 <= UDP length <= payload.
    let datagram = be16::<0, 1>(udp);
    let udp_long = gt(datagram, payload);
    let zero = _mm256_setzero_si256();
    let is_udp = eq(and(length, set(0x00ff_0000)), set(0x0011_0000));
    let hops = _mm256_srli_epi32::<24>(length);
    let mut bad = or(long, udp_long);
    for other in [
        eq(hops, zero),
        eq(_mm256_srli_epi32::<16>(udp), zero), // checksum
        eq(and(ports, set(0xffff)), zero),
        eq(or(source, subnet), zero),
        eq(and(source, set(0xff)), set(0xff)),
        eq(destination, set(0xffff_0000_u32 as i32)),
    ] {
        bad = or(bad, other);
    }
    let good = _mm256_andnot_si256(bad, and(is_udp, gt(datagram, set(7))));
    finish::<IN_ORDER>(at, ports, _mm256_add_epi32(payload, set(54)), good, eq(hops, set(1)), columns)
}
