#![allow(clippy::unwrap_used)]
use super::*;
use proptest::prelude::*;

/// Computes the sum as section 1 of RFC 1071 describes it: 16-bit words in network order, carries added at once.
fn textbook(data: &[u8]) -> u16 {
    data.chunks(2).fold(0, |sum: u16, pair| {
        let word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

#[test]
fn rfc_1071_section_3() {
    let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
    assert_eq!((sum.fold(), sum.checksum()), (0xddf2, 0x220d));
}

#[test]
fn rfc_1624_section_4() {
    // The equation of RFC 1141 gives a wrong result here: 0xffff instead of 0x0000.
    assert_eq!(ChecksumDelta::default().word(0x5555, 0x3285).apply(0xdd2f), 0x0000);
}

/// Holds the example of Wikipedia's "Internet checksum".
const HEADER: [u8; 20] =
    [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];

#[test]
fn ipv4_header_of_a_real_packet() {
    assert_eq!(ipv4_header(&HEADER), Some(0xb861));
    assert!(ipv4_header_verifies(&HEADER));
    for bit in 0..160 {
        let mut damaged = HEADER;
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(!ipv4_header_verifies(&damaged), "bit {bit}");
    }
}

#[test]
fn ipv4_header_covers_options_and_not_what_follows() {
    let mut long = [0xee; 64];
    long[..20].copy_from_slice(&HEADER);
    long[0] = 0x46;
    let with_option = ipv4_header(&long).unwrap();
    assert_eq!(with_option, !textbook(&[&long[..10], &[0, 0], &long[12..24]].concat()));
    long[24] = 0;
    assert_eq!(ipv4_header(&long), Some(with_option));
    assert_eq!(ipv4_header(&long[..23]), None, "shorter than its length field");
    long[0] = 0x44;
    assert_eq!(ipv4_header(&long), None, "length field of 16 bytes");
    assert_eq!(ipv4_header(&[]), None);
}

#[test]
fn zero_udp_checksum_means_none_and_is_never_produced() {
    let pseudo = Sum::pseudo_ipv4([192, 0, 2, 1], [192, 0, 2, 2], 10);
    // This payload makes the sum all ones, so that its complement is zero.
    let rest = Sum::default().bytes(&[0x12, 0x34, 0x56, 0x78, 0, 10]).fold();
    let both = Sum::default().word(pseudo.fold()).word(rest).fold();
    let [a, b] = (!both).to_be_bytes();
    let mut datagram = [0x12, 0x34, 0x56, 0x78, 0, 10, 0, 0, a, b];
    assert_eq!(udp(pseudo, &datagram), Some(0xffff));
    assert!(!udp_verifies(pseudo, &datagram), "an absent checksum is not valid");
    datagram[6..8].copy_from_slice(&[0xff, 0xff]);
    assert!(udp_verifies(pseudo, &datagram));
    assert_eq!(ChecksumDelta::default().word(1, 2).apply_udp(0), 0, "an absent checksum stays absent");
    assert_eq!(udp(pseudo, &datagram[..7]), None);
}

/// Checks sums at every edge of the steps, including those of packets beyond 64 KiB.
#[test]
fn every_carry_is_folded_in() {
    let edges = [0u64, 1, 2, 0x7fff, 0x8000, 0xfffe, 0xffff, 0x1_0000, 0x1_0001, 0xffff_0000, 0xffff_fffe, 0xffff_ffff];
    for (high, low) in edges.iter().flat_map(|high| edges.map(|low| (high, low))) {
        let sum = high << 32 | low;
        // A ones' complement sum is a sum modulo 65535, and zero only if all words are zero.
        let wanted = if sum == 0 { 0 } else { (sum - 1) % 0xffff + 1 };
        assert_eq!(u64::from(fold(sum)), wanted, "{sum:#x}");
    }
}

proptest! {
    #[test]
    fn sum_equals_reference(data in prop::collection::vec(any::<u8>(), 0..300), start in 0usize..9) {
        let data = data.get(start..).unwrap_or(&[]);
        let sum = Sum::default().bytes(data).fold();
        // Both forms of zero are the same number. The reference and the fold also give the same form.
        prop_assert_eq!(sum, textbook(data));
    }

    #[test]
    fn parts_add_up(a in prop::collection::vec(any::<[u8; 2]>(), 0..50), b in prop::collection::vec(any::<u8>(), 0..99), w: u16) {
        let a = a.concat();
        let parts = Sum::default().bytes(&a).word(w).bytes(&b).fold();
        prop_assert_eq!(parts, textbook(&[&a[..], &w.to_be_bytes(), &b].concat()));
    }

    /// Compares RFC 1624 with a full sum after changes of arbitrary words.
    #[test]
    fn incremental_equals_full(
        mut datagram in prop::collection::vec(any::<u8>(), 40..200),
        source: [u8; 16], port: u16, narrow: [u8; 4],
        extreme in prop::sample::select(vec![None, Some(0u8), Some(0xff)]),
    ) {
        let pseudo = Sum::pseudo_ipv6([1; 16], [2; 16], datagram.len() as u16);
        let (source, narrow) = extreme.map_or((source, narrow), |byte| ([byte; 16], [byte; 4]));
        let before = udp(pseudo, &datagram).unwrap();
        let was = datagram.clone();
        datagram[..2].copy_from_slice(&port.to_be_bytes());
        datagram[8..24].copy_from_slice(&source);
        datagram[24..28].copy_from_slice(&narrow);
        let change = ChecksumDelta::default()
            .word(u16::from_be_bytes([was[0], was[1]]), port)
            .bytes::<16>(was[8..24].try_into().unwrap(), &source)
            .bytes::<4>(was[24..28].try_into().unwrap(), &narrow);
        prop_assert_eq!(change.apply_udp(before), udp(pseudo, &datagram).unwrap());
        prop_assert_eq!(change.folded().apply_udp(before), udp(pseudo, &datagram).unwrap());
        datagram[6..8].copy_from_slice(&change.apply_udp(before).to_be_bytes());
        prop_assert!(udp_verifies(pseudo, &datagram));
    }
}
