#![allow(clippy::unwrap_used)]
//! Generates random histories of a relay. `tests/relay_reference.rs` compares it with the reference over them.

use proptest::prelude::*;

use super::world::{World, at};
use oxide::packet::Flow;
use oxide::packet::build::UdpFrame;

const LISTENS: [&str; 6] =
    ["192.0.2.1:53", "192.0.2.1:54", "[2001:db8:1::1]:53", "192.0.2.1:55", "192.0.2.1:56", "[2001:db8:1::1]:54"];
const UPSTREAMS: [&str; 7] = [
    "198.51.100.2:53",
    "198.51.100.2:54",
    "[2001:db8:2::2]:53",
    "[2001:db8:2::3]:53",
    "203.0.113.2:53",
    "[2001:db8:2::4]:53",
    "198.51.100.4:53",
];

#[derive(Debug, Clone)]
pub(super) enum Packet {
    /// Sends a packet from client `client` (one of a few, some forged) to entry `entry`.
    Client { client: u16, entry: usize },
    /// Sends a packet from upstream `from` to the source port seen `back` new ports ago, or to `guess`.
    Answer { from: usize, back: usize, guess: Option<u16> },
}

#[derive(Debug, Clone)]
pub(super) struct Shape {
    hop_limit: u8,
    traffic_class: u8,
    payload: Vec<u8>,
    padding: usize,
    /// Changes one byte by xor.
    pub(super) damage: Option<(usize, u8)>,
    /// Clears the UDP checksum (IPv4 only).
    no_checksum: bool,
}

/// Selects the host's addresses towards its upstreams, the preferred one first.
#[derive(Debug, Clone, Copy)]
pub(super) enum Sources {
    First,
    Second,
    /// Prefers the second address; the first one is still assigned.
    Both,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Batch(u8, Vec<(Packet, Shape)>),
    Wait(u32),
    Tick,
    Tables { sources: Sources, known: bool, small_mtu: bool, routes: bool },
    Draining(bool),
}

fn packet() -> impl Strategy<Value = Packet> {
    prop_oneof![
        3 => (0u16..14, 0..LISTENS.len()).prop_map(|(client, entry)| Packet::Client { client, entry }),
        2 => (0..UPSTREAMS.len(), 0usize..8, prop::option::weighted(0.2, 60_995u16..61_020))
            .prop_map(|(from, back, guess)| Packet::Answer { from, back, guess }),
    ]
}

fn shape() -> impl Strategy<Value = Shape> {
    let payload = prop_oneof![9 => prop::collection::vec(any::<u8>(), 0..40), 1 => Just(vec![7; 400])];
    let damage = prop::option::weighted(0.1, (0usize..80, 1u8..));
    (prop_oneof![Just(64u8), 0u8..4], any::<u8>(), payload, 0usize..20, damage, prop::bool::weighted(0.1)).prop_map(
        |(hop_limit, traffic_class, payload, padding, damage, no_checksum)| Shape {
            hop_limit,
            traffic_class,
            payload,
            padding,
            damage,
            no_checksum,
        },
    )
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let sources = prop_oneof![3 => Just(Sources::First), 1 => Just(Sources::Second), 2 => Just(Sources::Both)];
    let tables = (sources, prop::bool::weighted(0.8), prop::bool::weighted(0.2))
        .prop_flat_map(|(a, b, c)| prop::bool::weighted(0.9).prop_map(move |d| (a, b, c, d)));
    prop_oneof![
        8 => (0u8..2, prop::collection::vec((packet(), shape()), 1..20)).prop_map(|(port, packets)| Step::Batch(port, packets)),
        2 => prop_oneof![Just(100u32), Just(119_900), Just(120_000), Just(120_100), 0u32..200_000].prop_map(Step::Wait),
        2 => Just(Step::Tick),
        1 => tables.prop_map(|(sources, known, small_mtu, routes)| Step::Tables { sources, known, small_mtu, routes }),
        1 => prop::bool::weighted(0.3).prop_map(Step::Draining),
    ]
}

/// Returns twelve normal clients of both IP versions and two forged ones.
fn client(n: u16, entry: usize) -> String {
    match (n, entry) {
        (12, 2 | 5) => "[2001:db8:2::1]:9".to_owned(),
        (12, _) => "198.51.100.1:9".to_owned(),
        (13, 3) => UPSTREAMS[4].to_owned(),
        (13, 0..=2) => UPSTREAMS[entry].to_owned(),
        (n, 2 | 5) => format!("[2001:db8:1::{}]:{}", 2 + n % 4, 4000 + n / 4),
        (n, _) => format!("192.0.2.{}:{}", 2 + n % 4, 4000 + n / 4),
    }
}

/// Returns the frame of a packet; `seen` are the source addresses and ports seen so far.
pub(super) fn frame(seen: &[(String, u16)], packet: &Packet, shape: &Shape) -> Vec<u8> {
    let (from, to) = match packet {
        Packet::Client { client: n, entry } => (client(*n, *entry), LISTENS[*entry].to_owned()),
        Packet::Answer { from, back, guess } => {
            let six = UPSTREAMS[*from].starts_with('[');
            let ours: Vec<_> = seen.iter().filter(|(source, _)| source.contains(':') == six).collect();
            let (source, port) = match ours.iter().rev().nth(*back) {
                Some((source, port)) => (source.clone(), *port),
                None => (if six { "2001:db8:2::1" } else { "198.51.100.1" }.to_owned(), 61_000),
            };
            let port = guess.unwrap_or(port);
            (UPSTREAMS[*from].to_owned(), if six { format!("[{source}]:{port}") } else { format!("{source}:{port}") })
        }
    };
    let flow = Flow { source: at(&from).into(), destination: at(&to).into() };
    let built = UdpFrame {
        hop_limit: shape.hop_limit,
        traffic_class: shape.traffic_class,
        ..UdpFrame::new(flow, &shape.payload)
    };
    let mut frame = built.to_vec().unwrap();
    if shape.no_checksum && flow.source.is_ipv4() {
        frame[40..42].fill(0);
    }
    frame.extend(std::iter::repeat_n(0xee, shape.padding));
    if let Some((at, bits)) = shape.damage
        && let Some(byte) = frame.get_mut(at)
    {
        *byte ^= bits;
    }
    frame
}

/// Returns the network after [`Step::Tables`].
pub(super) fn world(sources: Sources, known: bool, small_mtu: bool, routes: bool) -> World {
    let mut world = World { known, routes, ..World::default() };
    let (first, second) = (["198.51.100.1", "2001:db8:2::1"], ["198.51.100.9", "2001:db8:2::9"]);
    world.server_side = match sources {
        Sources::First => first.to_vec(),
        Sources::Second => second.to_vec(),
        Sources::Both => [second, first].concat(),
    };
    if small_mtu {
        world.mtu = 200;
    }
    world
}
