#![allow(clippy::unwrap_used)]
use std::net::SocketAddr;

use proptest::prelude::*;

use super::*;

/// Holds the key and both tables of Microsoft's "Verifying the RSS hash calculation".
const MICROSOFT: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca, 0x2b,
    0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac,
    0x01, 0xfa,
];

/// Contains source, destination, hash with ports, and hash of the addresses alone.
const VECTORS: [(&str, &str, u32, u32); 8] = [
    ("66.9.149.187:2794", "161.142.100.80:1766", 0x51ccc178, 0x323e8fc2),
    ("199.92.111.2:14230", "65.69.140.83:4739", 0xc626b0ea, 0xd718262a),
    ("24.19.198.95:12898", "12.22.207.184:38024", 0x5c2b394a, 0xd2d0a5de),
    ("38.27.205.30:48228", "209.142.163.6:2217", 0xafc7327f, 0x82989176),
    ("153.39.163.191:44251", "202.188.127.2:1303", 0x10e828a2, 0x5d1809c5),
    ("[3ffe:2501:200:1fff::7]:2794", "[3ffe:2501:200:3::1]:1766", 0x40207d3d, 0x2cc18cd5),
    ("[3ffe:501:8::260:97ff:fe40:efab]:14230", "[ff02::1]:4739", 0xdde51bbf, 0x0f0c461c),
    ("[3ffe:1900:4545:3:200:f8ff:fe21:67cf]:44251", "[fe80::200:f8ff:fe21:67cf]:38024", 0x02d1feef, 0x4b61e985),
];

/// Computes the hash by its definition, one bit at a time.
fn plain(key: &[u8; 40], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
    (0..input.len() * 8)
        .filter(|at| bit(input, *at) == 1)
        .fold(0, |hash, at| hash ^ (0..32).fold(0, |window, i| window << 1 | bit(key, at + i)))
}

fn flow(from: &str, to: &str) -> Flow {
    let end = |at: &str| at.parse::<SocketAddr>().unwrap().into();
    Flow { source: end(from), destination: end(to) }
}

#[test]
fn hash_equals_microsoft_vectors() {
    for level in Processor::levels() {
        let hash = Toeplitz::new(Processor::with_level(level).unwrap(), &MICROSOFT).unwrap();
        for (from, to, with_ports, addresses) in VECTORS {
            let flow = flow(from, to);
            assert_eq!(hash.one(&flow), with_ports, "{from} {to}");
            let mut input = [0; INPUT];
            let length = input_of(&flow, &mut input);
            assert_eq!(hash.bytes(&input[..length - 4]), addresses, "{from} {to}");
            let mut tuples = Tuples::default();
            (0..LANES).for_each(|lane| tuples.set(lane, &flow));
            let mut hashes = [0; LANES];
            hash.lanes(&tuples, flow.source.is_ipv4(), &mut hashes);
            assert_eq!(hashes, [with_ports; LANES], "{level}");
        }
    }
}

#[test]
fn short_key_is_refused() {
    assert!(Toeplitz::new(Processor::detect(), &MICROSOFT[..39]).is_none());
    assert!(Toeplitz::new(Processor::detect(), &[1; 52]).is_some());
}

proptest! {
    #[test]
    fn any_key_any_flow(
        key in prop::collection::vec(any::<u8>(), 40),
        flows in prop::collection::vec((any::<[u8; 16]>(), any::<[u8; 16]>(), any::<u16>(), any::<u16>()), LANES),
        ipv4: bool,
    ) {
        let key: [u8; 40] = key.try_into().unwrap();
        let mut tuples = Tuples::default();
        let mut wanted = [0; LANES];
        for (lane, (a, b, c, d)) in flows.into_iter().enumerate() {
            let (mut a, mut b) = (a, b);
            if ipv4 {
                for address in [&mut a, &mut b] {
                    address[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
                }
            } else {
                (a[0], b[0]) = (0x20, 0x20);
            }
            let end = |address, port| crate::packet::Endpoint { address, port };
            let flow = Flow { source: end(a, c), destination: end(b, d) };
            tuples.set(lane, &flow);
            let mut input = [0; INPUT];
            let length = input_of(&flow, &mut input);
            prop_assert_eq!(length, if ipv4 { 12 } else { 36 });
            wanted[lane] = plain(&key, &input[..length]);
        }
        for level in Processor::levels() {
            let hash = Toeplitz::new(Processor::with_level(level).unwrap(), &key).unwrap();
            let mut hashes = [0; LANES];
            hash.lanes(&tuples, ipv4, &mut hashes);
            prop_assert_eq!(hashes, wanted, "{}", level);
        }
    }
}
