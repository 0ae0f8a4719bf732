#![allow(clippy::unwrap_used)]
use super::*;
use crate::packet::build::UdpFrame;
use crate::packet::{Parsed, checksum, parse, verify_udp};
use proptest::prelude::*;

fn end(at: &str) -> Endpoint {
    at.parse::<std::net::SocketAddr>().unwrap().into()
}

fn parsed(frame: &[u8]) -> Result<Parsed, DropReason> {
    let bytes = std::array::from_fn(|i| frame.get(i).copied().unwrap_or(0xee));
    parse(&bytes, frame.len() as u16)
}

fn old_and_new(ipv4: bool) -> (Flow, Rewrite) {
    let ends = if ipv4 {
        ["192.0.2.1:4000", "198.51.100.7:53", "198.51.100.7:20001", "203.0.113.9:5353"]
    } else {
        ["[2001:db8::1]:4000", "[2001:db8:7::7]:53", "[2001:db8:7::7]:20001", "[2001:db8:ff:9::9]:5353"]
    };
    let [source, destination, new_source, new_destination] = ends.map(end);
    let new = Rewrite {
        source_mac: MacAddr([2, 1, 1, 1, 1, 1]),
        destination_mac: MacAddr([2, 2, 2, 2, 2, 2]),
        source: new_source,
        destination: new_destination,
    };
    (Flow { source, destination }, new)
}

fn rewritten(mut frame: Vec<u8>, new: &Rewrite) -> Result<Vec<u8>, DropReason> {
    let at = parsed(&frame).unwrap();
    apply(&mut frame, at.l3, at.l4, at.ipv4, &at.flow, new).map(|()| frame)
}

fn built(flow: Flow, new: &Rewrite, hop_limit: u8, traffic_class: u8, payload: &[u8]) -> Vec<u8> {
    let Rewrite { source_mac, destination_mac, .. } = *new;
    UdpFrame { source_mac, destination_mac, flow, hop_limit, traffic_class, payload }.to_vec().unwrap()
}

/// Rewrites with [`FixedHeaderRewrite`]. Bytes beyond the packet are noise and must not change. The checksum change is
/// computed for this direction and reversed from the other one; both must give the same result.
fn with_fixed_headers(frame: &[u8], new: &Rewrite) -> Vec<u8> {
    let at = parsed(frame).unwrap();
    let flow = Flow { source: new.source, destination: new.destination };
    let back = |flow: &Flow| Flow { source: flow.destination, destination: flow.source };
    let reversed = FlowChecksumDelta::new(&back(&flow), &back(&at.flow)).unwrap().reversed();
    let macs = [new.destination_mac.0, new.source_mac.0].concat().try_into().unwrap();
    let results = [FlowChecksumDelta::new(&at.flow, &flow).unwrap(), reversed].map(|change| {
        let fixed = FixedHeaderRewrite {
            macs: &macs,
            source: (&new.source.address, new.source.port),
            destination: (&new.destination.address, new.destination.port),
            change,
        };
        let mut bytes: [u8; 64] = std::array::from_fn(|i| frame.get(i).copied().unwrap_or(0xaa));
        assert!(!at.last_hop);
        fixed.apply(&mut bytes, at.ipv4);
        assert!(bytes.iter().skip(frame.len()).all(|&byte| byte == 0xaa));
        bytes
    });
    assert_eq!(results[0], results[1]);
    let mut after = frame.to_vec();
    let n = after.len().min(64);
    after[..n].copy_from_slice(&results[0][..n]);
    after
}

/// Checks all 65535 values of the UDP checksum before and after, including 0xFFFF for zero.
#[test]
fn updated_checksum_equals_full_computation() {
    for ipv4 in [true, false] {
        let (old, new) = old_and_new(ipv4);
        let target = Flow { source: new.source, destination: new.destination };
        let mut seen_ffff = (false, false);
        for word in 0..=u16::MAX {
            let before = built(old, &new, 64, 0, &word.to_be_bytes());
            let at = parsed(&before).unwrap();
            let field = usize::from(at.l4) + 6;
            seen_ffff.0 |= before[field..field + 2] == [0xff, 0xff];
            let fixed = with_fixed_headers(&before, &new);
            let after = rewritten(before, &new).unwrap();
            assert_eq!(fixed, after, "payload {word:#x}");
            seen_ffff.1 |= after[field..field + 2] == [0xff, 0xff];
            assert_eq!(after, built(target, &new, 63, 0, &word.to_be_bytes()), "payload {word:#x}");
        }
        assert_eq!(seen_ffff, (true, true));
    }
}

/// Checks all values of the IPv4 header checksum, including zero, through the identification field.
#[test]
fn updated_header_checksum_equals_full_computation() {
    let (old, new) = old_and_new(true);
    let mut seen_zero = (false, false);
    for id in 0..=u16::MAX {
        let mut before = built(old, &new, 64, 0, b"");
        before[18..20].copy_from_slice(&id.to_be_bytes());
        let right = checksum::ipv4_header(&before[14..34]).unwrap().to_be_bytes();
        before[24..26].copy_from_slice(&right);
        let after = rewritten(before, &new).unwrap();
        let right_after = checksum::ipv4_header(&after[14..34]).unwrap().to_be_bytes();
        assert_eq!(after[24..26], right_after, "identification {id:#x}");
        assert_eq!(after[18..20], id.to_be_bytes());
        seen_zero = (seen_zero.0 || right == [0, 0], seen_zero.1 || right_after == [0, 0]);
    }
    assert_eq!(seen_zero, (true, true));
}

#[test]
fn absent_checksum_stays_absent() {
    let (_, new) = old_and_new(true);
    let mut before = built(old_and_new(true).0, &new, 64, 0, b"payload");
    before[40..42].copy_from_slice(&[0, 0]);
    let after = rewritten(before, &new).unwrap();
    assert_eq!(after[40..42], [0, 0]);
    assert_eq!(verify_udp(&after, &parsed(&after).unwrap()), Ok(()));
}

#[test]
fn last_hop_is_refused_without_change() {
    for (ipv4, ttl_at) in [(true, 22), (false, 21)] {
        let (old, new) = old_and_new(ipv4);
        let before = built(old, &new, 1, 0, b"payload");
        assert_eq!(before[ttl_at], 1);
        let at = parsed(&before).unwrap();
        let mut frame = before.clone();
        let result = apply(&mut frame, at.l3, at.l4, ipv4, &old, &new);
        assert_eq!((result, frame), (Err(DropReason::TtlExpired), before));
        assert!(rewritten(built(old, &new, 2, 0, b""), &new).is_ok());
    }
}

#[test]
fn mixed_families_are_refused_without_change() {
    let ((old4, new4), (old6, new6)) = (old_and_new(true), old_and_new(false));
    for (old, new) in [(old4, new6), (old6, new4), (old4, Rewrite { source: new6.source, ..new4 })] {
        assert_eq!(Translation::new(&old, &new).unwrap_err(), DropReason::IpVersion);
    }
    // A change of family is allowed, but each flow must have one family.
    let (mixed, flow4) = (Flow { source: old6.source, ..old4 }, Flow { source: new4.source, ..old4 });
    for (old, new) in [(mixed, flow4), (flow4, mixed), (mixed, mixed)] {
        assert_eq!(FlowChecksumDelta::new(&old, &new), Err(DropReason::IpVersion));
    }
    assert!(FlowChecksumDelta::new(&old4, &old6).is_ok());
    let before = built(old6, &new6, 64, 0, b"payload");
    let mut frame = before.clone();
    let result = Translation::new(&old4, &new4).unwrap().apply(&mut frame, 14, 54, false);
    assert_eq!((result, frame), (Err(DropReason::IpVersion), before));
}

#[test]
fn invalid_offsets_are_refused_without_change() {
    let (old, new) = old_and_new(true);
    let before = built(old, &new, 64, 0, b"");
    for (l3, l4, length) in [(14, 34, 41), (14, 33, 42), (34, 14, 42), (11, 34, 42), (14, 255, 42), (255, 255, 42)] {
        let mut frame = before[..length].to_vec();
        let result = apply(&mut frame, l3, l4, true, &old, &new);
        assert_eq!((result, &frame[..]), (Err(DropReason::Truncated), &before[..length]), "{l3} {l4}");
    }
}

#[test]
fn new_next_hop_changes_only_macs() {
    let (old, new) = old_and_new(false);
    let mut translation = Translation::new(&old, &new).unwrap();
    let (mut a, mut b) = (built(old, &new, 64, 0, b"hello"), built(old, &new, 64, 0, b"hello"));
    translation.apply(&mut a, 14, 54, false).unwrap();
    translation.set_macs(MacAddr([4; 6]), MacAddr([6; 6]));
    translation.apply(&mut b, 14, 54, false).unwrap();
    assert_eq!((&b[..6], &b[6..12], &b[12..]), (&[6; 6][..], &[4; 6][..], &a[12..]));
    assert_eq!(translation.rewrite().source, new.source);
}

fn flow(ipv4: bool) -> impl Strategy<Value = Flow> {
    let end = move || {
        (any::<u128>(), 1u16..).prop_map(move |(bits, port)| {
            // Every bit pattern gives a valid source address.
            let ip: std::net::IpAddr = if ipv4 {
                std::net::Ipv4Addr::from_bits(bits as u32 & 0x7eff_ffff | 0x0100_0000).into()
            } else {
                std::net::Ipv6Addr::from_bits(bits >> 8 | 0x20 << 120).into()
            };
            let ip = if ip.is_loopback() { std::net::Ipv4Addr::new(1, 2, 3, 4).into() } else { ip };
            std::net::SocketAddr::new(ip, port).into()
        })
    };
    (end(), end()).prop_map(|(source, destination)| Flow { source, destination })
}

proptest! {
    /// Checks that a rewritten frame equals one built for the new ends, except for the fields that a rewrite keeps
    /// (DSCP, ECN, flow label, identification, DF, payload, padding).
    #[test]
    fn rewritten_packet_equals_newly_built_packet(
        (old, new) in any::<bool>().prop_flat_map(|ipv4| (flow(ipv4), flow(ipv4))),
        hops in 2u8.., class: u8, kept: [u8; 2], label: [u8; 2],
        payload in prop::collection::vec(any::<u8>(), 0..100),
        padding in 0usize..20,
    ) {
        let macs = old_and_new(true).1;
        let to = Rewrite { source: new.source, destination: new.destination, ..macs };
        let keep = |mut frame: Vec<u8>| {
            if old.source.is_ipv4() {
                frame[18..20].copy_from_slice(&kept);
                frame[20] = kept[0] & 0x40;
                let right = checksum::ipv4_header(&frame[14..34]).unwrap();
                frame[24..26].copy_from_slice(&right.to_be_bytes());
            } else {
                frame[16..18].copy_from_slice(&label);
            }
            frame.resize(frame.len() + padding, 0xee);
            frame
        };
        let before = keep(built(old, &macs, hops, class, &payload));
        let after = rewritten(before.clone(), &to).unwrap();
        prop_assert_eq!(with_fixed_headers(&before, &to), after.clone());
        prop_assert_eq!(&after, &keep(built(new, &macs, hops - 1, class, &payload)));
        prop_assert_eq!(verify_udp(&after, &parsed(&after).unwrap()), Ok(()));
    }

    /// Checks that damage is kept: a rewrite must not correct what it did not check.
    #[test]
    fn damaged_checksum_stays_damaged(ipv4: bool, at in 0usize..50, bit in 0u8..8) {
        let (old, new) = old_and_new(ipv4);
        let mut before = built(old, &new, 64, 0, &[7; 50]);
        let payload = before.len() - 50;
        before[payload + at] ^= 1 << bit;
        let after = rewritten(before, &new).unwrap();
        prop_assert_eq!(verify_udp(&after, &parsed(&after).unwrap()), Err(DropReason::UdpChecksum));
    }
}
