//! Headers to columns.
//!
//! The vector kernel takes plain IPv4/UDP, which is nearly all there is: eight frames at a time their
//! headers are loaded (bytes 10 to 42, each frame's line once), turned so that one register has one
//! field of all eight, and every check of [`packet::parse`](crate::packet::parse()) is made on all of
//! them at once. What does not pass goes to the plain parser, which finds out what it is.

use super::Processor;
use crate::packet::{self, Columns, LANES};
use crate::umem::prefetch;

/// Frames in one step of a vector kernel, and how far ahead heads are asked for. 8 ahead hides DRAM as
/// well as 32 does; 16 or more is slower while frames are in L2, because heads at 2 KiB stride share
/// few sets of L1, which holds 16 to 24 of them.
const GROUP: usize = 8;

pub(super) fn lanes(
    processor: Processor,
    heads: &[&[u8; 64]; LANES],
    lengths: &[u16; LANES],
    live: u64,
    columns: &mut Columns,
) {
    #[cfg(target_arch = "x86_64")]
    if let Some(token) = processor.avx2() {
        return x86::lanes(token, heads, lengths, live, columns);
    }
    let _ = processor;
    plain(heads, lengths, live, columns);
}

fn plain(heads: &[&[u8; 64]; LANES], lengths: &[u16; LANES], live: u64, columns: &mut Columns) {
    let mut lanes = Lanes::new(columns);
    ask_for(heads, 0, live);
    for (lane, (head, length)) in heads.iter().zip(lengths).enumerate() {
        if let Some(ahead) = heads.get(lane + GROUP)
            && live >> lane >> GROUP & 1 != 0
        {
            prefetch(*ahead);
        }
        if live & 1 << lane != 0 {
            lanes.parse(lane, head, *length);
        }
    }
    lanes.finish();
}

/// Asks for the heads of the group that begins at `first`.
#[inline(always)]
fn ask_for(heads: &[&[u8; 64]; LANES], first: usize, live: u64) {
    for (lane, head) in heads.iter().enumerate().skip(first).take(GROUP) {
        if live & 1 << lane != 0 {
            prefetch(*head);
        }
    }
}

/// Columns being filled, with the masks in registers.
struct Lanes<'a> {
    columns: &'a mut Columns,
    ipv4: u64,
    ipv6: u64,
}

impl<'a> Lanes<'a> {
    fn new(columns: &'a mut Columns) -> Self {
        Self { columns, ipv4: 0, ipv6: 0 }
    }

    /// Parses one frame; `lane` is below [`LANES`].
    #[inline(always)]
    fn parse(&mut self, lane: usize, head: &[u8; 64], length: u16) {
        let Self { columns, ipv4, ipv6 } = self;
        let accepted = packet::parse_with(head, length, |parsed| {
            *(if parsed.ipv4 { ipv4 } else { ipv6 }) |= 1 << lane;
            columns.l3[lane] = parsed.l3;
            columns.l4[lane] = parsed.l4;
            columns.length[lane] = parsed.length;
            columns.flow[lane] = parsed.flow;
        });
        if let Err(reason) = accepted {
            columns.fault[lane] = reason;
        }
    }

    fn finish(self) {
        (self.columns.ipv4, self.columns.ipv6) = (self.ipv4, self.ipv6);
        self.columns.udp = self.ipv4 | self.ipv6;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::iter::zip;

    use safe_unaligned_simd::x86_64::{_mm_loadu_si128, _mm_storeu_si128};

    use super::{GROUP, Lanes, ask_for};
    use crate::packet::{Columns, Flow, LANES};

    fearless_simd::kernel!(
        pub(super) fn lanes(
            avx2: Avx2,
            heads: &[&[u8; 64]; LANES],
            lengths: &[u16; LANES],
            live: u64,
            columns: &mut Columns,
        ) {
            let mut out = Lanes::new(columns);
            ask_for(heads, 0, live);
            let groups = zip(heads.as_chunks::<GROUP>().0, lengths.as_chunks::<GROUP>().0);
            for (group, (group_heads, group_lengths)) in groups.enumerate() {
                let first = group * GROUP;
                let live = live >> first;
                if live == 0 {
                    break;
                }
                ask_for(heads, first + GROUP, u64::MAX);
                let live = live as u8;
                // Among IPv6 and other traffic the plain parser is as fast or faster.
                if !mostly_ipv4(group_heads) {
                    let lanes = group_heads.iter().zip(group_lengths).enumerate();
                    for (lane, (head, length)) in lanes.filter(|(lane, _)| live & 1 << lane != 0) {
                        out.parse(first + lane, head, *length);
                    }
                    continue;
                }
                let columns = &mut *out.columns;
                let (Some(flows), Some(total)) = (
                    columns.flow.as_chunks_mut::<GROUP>().0.get_mut(group),
                    columns.length.as_chunks_mut::<GROUP>().0.get_mut(group),
                ) else {
                    break;
                };
                let good = ipv4_udp(group_heads, group_lengths, flows, total) & live;
                out.ipv4 |= u64::from(good) << first;
                let mut rest = live & !good;
                while rest != 0 {
                    let at = rest.trailing_zeros() as usize % GROUP;
                    rest &= rest - 1;
                    out.parse(first + at, group_heads[at], group_lengths[at]);
                }
                let columns = &mut *out.columns;
                for (lane, (l3, l4)) in
                    zip(&mut columns.l3[first..first + GROUP], &mut columns.l4[first..first + GROUP]).enumerate()
                {
                    if good & 1 << lane != 0 {
                        (*l3, *l4) = (14, 34);
                    }
                }
            }
            out.finish();
        }
    );

    /// By their EtherTypes.
    #[inline(always)]
    fn mostly_ipv4(heads: &[&[u8; 64]; GROUP]) -> bool {
        heads.iter().map(|head| usize::from([head[12], head[13]] == [0x08, 0x00])).sum::<usize>() > GROUP / 2
    }

    /// Eight frames' fields, a 32-bit lane for each frame; bytes in the order of the wire.
    struct Fields {
        /// Two bytes of the source MAC, EtherType.
        link: __m256i,
        /// Version and header length, traffic class, total length.
        length: __m256i,
        /// Identification, flags and fragment offset.
        fragment: __m256i,
        /// TTL, protocol, header checksum.
        protocol: __m256i,
        source: __m256i,
        destination: __m256i,
        ports: __m256i,
        /// UDP length and checksum.
        udp: __m256i,
    }

    impl Fields {
        /// Reads bytes 10 to 42 of each head. `pair` gets frames `i` and `i + 4`: bytes 26 to 42 of
        /// either, in the lower and the upper half.
        #[inline]
        #[target_feature(enable = "avx2")]
        fn load(heads: &[&[u8; 64]; GROUP], mut pair: impl FnMut(usize, __m256i)) -> Self {
            let mut low = [_mm256_setzero_si256(); 4];
            let mut high = low;
            for i in 0..4 {
                low[i] = two::<10>(heads[i], heads[i + 4]);
                high[i] = two::<26>(heads[i], heads[i + 4]);
                pair(i, high[i]);
            }
            let [link, length, fragment, protocol] = transpose(low);
            let [source, destination, ports, udp] = transpose(high);
            Self { link, length, fragment, protocol, source, destination, ports, udp }
        }

        /// IPv4 without options, with a right header checksum: all ones for frames that are.
        #[inline]
        #[target_feature(enable = "avx2")]
        fn right(&self) -> __m256i {
            let ipv4 = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(self.link), _mm256_set1_epi32(0x0008));
            let low = _mm256_set1_epi32(0xffff);
            let plain =
                _mm256_cmpeq_epi32(_mm256_and_si256(self.length, _mm256_set1_epi32(0xff)), _mm256_set1_epi32(0x45));
            // Ten words: at most 20 bits. Folded once, it is 0xffff just if it is a multiple of it.
            let mut sum = _mm256_setzero_si256();
            for words in [self.length, self.fragment, self.protocol, self.source, self.destination] {
                sum = _mm256_add_epi32(sum, _mm256_srli_epi32::<16>(words));
                sum = _mm256_add_epi32(sum, _mm256_and_si256(words, low));
            }
            let folded = _mm256_add_epi32(_mm256_srli_epi32::<16>(sum), _mm256_and_si256(sum, low));
            _mm256_and_si256(_mm256_and_si256(ipv4, plain), _mm256_cmpeq_epi32(folded, low))
        }
    }

    /// 16 bytes at `AT` of two heads, in the lower and the upper half.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn two<const AT: usize>(low: &[u8; 64], high: &[u8; 64]) -> __m256i {
        const { assert!(AT + 16 <= 64) };
        let load = |head: &[u8; 64]| _mm_loadu_si128(head[AT..].first_chunk::<16>().unwrap_or(&[0; 16]));
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load(low)), load(high))
    }

    /// In both halves: row `i`'s word `j` becomes row `j`'s word `i`.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn transpose([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
        let (ab, cd) = (_mm256_unpacklo_epi32(a, b), _mm256_unpacklo_epi32(c, d));
        let (ef, gh) = (_mm256_unpackhi_epi32(a, b), _mm256_unpackhi_epi32(c, d));
        [
            _mm256_unpacklo_epi64(ab, cd),
            _mm256_unpackhi_epi64(ab, cd),
            _mm256_unpacklo_epi64(ef, gh),
            _mm256_unpackhi_epi64(ef, gh),
        ]
    }

    /// One bit for each frame.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn bits(lanes: __m256i) -> u8 {
        _mm256_movemask_ps(_mm256_castsi256_ps(lanes)) as u8
    }

    /// The frames that the plain parser accepts as IPv4, with their flows and lengths; of other frames,
    /// flow and length are noise.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn ipv4_udp(
        heads: &[&[u8; 64]; GROUP],
        lengths: &[u16; GROUP],
        flows: &mut [Flow; GROUP],
        total: &mut [u16; GROUP],
    ) -> u8 {
        let set = _mm256_set1_epi32;
        let (eq, gt, and) = (_mm256_cmpeq_epi32, _mm256_cmpgt_epi32, _mm256_and_si256);
        // Sources are bytes 0 to 4 of each half, destinations 4 to 8; the mapped form has them last.
        const NONE: i8 = -1;
        let last = |a, b, c, d| {
            let half =
                _mm_setr_epi8(NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, NONE, a, b, c, d);
            _mm256_broadcastsi128_si256(half)
        };
        let (source, destination) = (last(0, 1, 2, 3), last(4, 5, 6, 7));
        let mapped = _mm256_broadcastsi128_si256(_mm_setr_epi32(0, 0, 0xffff_0000_u32 as i32, 0));
        let fields = Fields::load(heads, |i, pair| {
            let source = _mm256_or_si256(_mm256_shuffle_epi8(pair, source), mapped);
            let destination = _mm256_or_si256(_mm256_shuffle_epi8(pair, destination), mapped);
            _mm_storeu_si128(&mut flows[i].source.address, _mm256_castsi256_si128(source));
            _mm_storeu_si128(&mut flows[i + 4].source.address, _mm256_extracti128_si256::<1>(source));
            _mm_storeu_si128(&mut flows[i].destination.address, _mm256_castsi256_si128(destination));
            _mm_storeu_si128(&mut flows[i + 4].destination.address, _mm256_extracti128_si256::<1>(destination));
        });
        for (flow, head) in zip(flows, heads) {
            flow.source.port = u16::from_be_bytes([head[34], head[35]]);
            flow.destination.port = u16::from_be_bytes([head[36], head[37]]);
        }
        let right = fields.right();

        let be16 = |words, high, low| {
            let word = |at: i8| [at + low, at + high, NONE, NONE];
            let [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]] = [word(0), word(4), word(8), word(12)];
            let turn = _mm_setr_epi8(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p);
            _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(turn))
        };
        let length = be16(fields.length, 2, 3);
        let frame = _mm256_cvtepu16_epi32(_mm_loadu_si128(lengths));
        // 20 <= length <= frame - 14, so the frame holds the header as well.
        let whole = _mm256_andnot_si256(gt(length, _mm256_sub_epi32(frame, set(14))), gt(length, set(19)));
        // 8 <= UDP length <= length - 20.
        let udp = be16(fields.udp, 0, 1);
        let udp = _mm256_andnot_si256(gt(udp, _mm256_sub_epi32(length, set(20))), gt(udp, set(7)));
        let zero = _mm256_setzero_si256();
        let unfragmented = eq(and(fields.fragment, set(0xff3f_0000_u32 as i32)), zero);
        let protocol = eq(and(fields.protocol, set(0xff00)), set(0x1100));
        let first = and(fields.source, set(0xff));
        let mut bad = eq(and(fields.protocol, set(0xff)), zero); // TTL
        for other in [
            eq(and(fields.ports, set(0xffff)), zero),
            eq(first, zero),
            eq(first, set(127)),
            eq(and(first, set(0xf0)), set(0xe0)),
            eq(fields.source, set(-1)),
        ] {
            bad = _mm256_or_si256(bad, other);
        }
        let good = and(and(and(right, whole), and(udp, unfragmented)), protocol);

        let long = _mm256_add_epi32(length, set(14));
        // Packed in halves: words 0 to 4 and 8 to 12.
        let packed = _mm256_permute4x64_epi64::<0b1000>(_mm256_packus_epi32(long, long));
        _mm_storeu_si128(total, _mm256_castsi256_si128(packed));
        bits(_mm256_andnot_si256(bad, good))
    }
}
