//! Measures pieces of the user side; one round is one batch of 64. The pieces are timed in alternation with crates
//! for the same work, or run for a given number of rounds under an instruction counter.

use crate::{Error, Result, cpu, frame};
use clap::Args;
use oxide::flow::{FlowHash, FlowKey, FlowKeys, FlowTable, Keyed};
use oxide::packet::checksum::{self, Sum};
use oxide::packet::{Columns, Endpoint, Flow, LANES, MacAddr, Rewrite, Translation};
use oxide::ring;
use oxide::simd::Processor;
use oxide::umem::{PageKind, Region, RingSizes, Umem, UmemLayout};
use oxide_actors::mailbox;
use oxide_sim::{Application, SimOptions};
use serde::Serialize;
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::time::Instant;

#[derive(Args)]
pub(crate) struct Options {
    /// Number of rounds, in alternation.
    #[arg(long, default_value_t = 11)]
    rounds: usize,
    #[arg(long, default_value_t = 1)]
    cpu: usize,
}

#[derive(Args)]
pub(crate) struct WorkOptions {
    /// Piece to run; without it the names are listed.
    name: Option<String>,
    /// Number of batches of 64.
    #[arg(default_value_t = 1000)]
    batches: u32,
}

/// Holds one implementation of a piece of work, which runs one batch at a time.
struct Work {
    piece: &'static str,
    /// Name of the implementation: `oxide`, or the crate.
    by: &'static str,
    batch: Box<dyn FnMut()>,
}

/// Holds the nanoseconds per packet of each round.
#[derive(Serialize)]
struct Report {
    piece: &'static str,
    by: &'static str,
    ns: Vec<f64>,
}

type Pieces = Vec<Work>;

fn failed<E: std::fmt::Display>(error: E) -> Error {
    Error::Text(error.to_string())
}

fn ours(piece: &'static str, batch: impl FnMut() + 'static) -> Work {
    Work { piece, by: "oxide", batch: Box::new(batch) }
}

fn theirs(piece: &'static str, by: &'static str, batch: impl FnMut() + 'static) -> Work {
    Work { piece, by, batch: Box::new(batch) }
}

/// Returns every piece, with or without the compared crates. A HashMap's random seed would change instruction counts.
fn pieces(peers: bool) -> Result<Pieces> {
    let mut all = vec![];
    rings(&mut all)?;
    memory(&mut all)?;
    parse(&mut all)?;
    look_up(&mut all, peers);
    rewrite(&mut all)?;
    checksums(&mut all);
    publish(&mut all)?;
    all.push(ours("relay in the simulation", relay_steps(1)));
    Ok(all)
}

fn rings(all: &mut Pieces) -> Result<()> {
    // The counters start near their end, so that they wrap.
    let (mut producer, mut consumer) = ring::pair::<u64>(1024, u32::MAX - 500).map_err(failed)?;
    all.push(ours("ring, 64 in and out", move || {
        let mut room = producer.reserve(LANES as u32);
        for n in 0..LANES as u64 {
            black_box(room.push(n));
        }
        room.commit();
        let peeked = consumer.peek(LANES as u32);
        black_box(peeked.iter().sum::<u64>());
        let count = peeked.len();
        peeked.release(count);
    }));
    Ok(())
}

fn umem() -> Result<Umem> {
    let rings = RingSizes::from_ring_size(64).map_err(failed)?;
    let layout = UmemLayout::new(2048, UmemLayout::frames_for(&rings, 1), 0, &rings, 1, 0).map_err(failed)?;
    Umem::new(Region::map(layout.bytes(), PageKind::Base, None).map_err(failed)?, layout).map_err(failed)
}

fn memory(all: &mut Pieces) -> Result<()> {
    let mut umem = umem()?;
    let mut held = Vec::with_capacity(LANES);
    all.push(ours("UMEM, 64 taken and given", move || {
        held.extend((0..LANES).map_while(|_| umem.take()));
        for frame in held.drain(..) {
            umem.give(frame);
        }
    }));
    Ok(())
}

fn frames() -> Result<Vec<Vec<u8>>> {
    (0..LANES as u16).map(|n| frame::from(frame::CLIENT, frame::CLIENT_PORT + n, 64, 5000)).collect()
}

fn parse(all: &mut Pieces) -> Result<()> {
    let frames = frames()?;
    let headers: Vec<[u8; 64]> = frames.iter().filter_map(|f| f.first_chunk::<64>().copied()).collect();
    let processor = Processor::detect();
    let mut columns = Box::<Columns>::default();
    all.push(ours("parse and verify headers", move || {
        let headers: [&[u8; 64]; LANES] = std::array::from_fn(|lane| &headers[lane]);
        processor.parse(black_box(&headers), &[64; LANES], u64::MAX, black_box(&mut columns));
    }));
    let packets = frames.clone();
    all.push(theirs("parse and verify headers", "etherparse", move || {
        for packet in &packets {
            if let Ok(sliced) = etherparse::SlicedPacket::from_ethernet(black_box(packet))
                && let Some(etherparse::NetSlice::Ipv4(ip)) = &sliced.net
            {
                // etherparse parses without a check of the header's checksum.
                let header = ip.header().to_header();
                black_box(header.calc_header_checksum() == header.header_checksum);
            }
        }
    }));
    all.push(theirs("parse and verify headers", "smoltcp", move || {
        use smoltcp::wire::{EthernetFrame, Ipv4Packet, UdpPacket};
        for packet in &frames {
            let ip = EthernetFrame::new_checked(black_box(packet.as_slice())).map(|ethernet| ethernet.payload());
            if let Ok(ip) = ip.and_then(Ipv4Packet::new_checked)
                && ip.verify_checksum()
            {
                let udp = UdpPacket::new_checked(ip.payload());
                black_box(udp.map(|udp| (udp.src_port(), udp.dst_port())).ok());
            }
        }
    }));
    Ok(())
}

struct Entry(FlowKey);

impl Keyed for Entry {
    fn key(&self) -> &FlowKey {
        &self.0
    }
}

fn key(n: u32) -> FlowKey {
    let mut address = [0; 16];
    address[10..12].fill(0xff);
    address[12..].copy_from_slice(&Ipv4Addr::from_bits(u32::from(frame::CLIENT) + (n >> 14)).octets());
    FlowKey { remote: Endpoint { address, port: 16384 + (n & 16383) as u16 }, local: 0 }
}

fn look_up(all: &mut Pieces, peers: bool) {
    const PIECES: [(&str, u32); 2] = [("look-up, 256 flows", 256), ("look-up, 64 Ki flows", 65_536)];
    for (piece, flows) in PIECES {
        let mut table = FlowTable::new(flows * 2, FlowHash::new(Processor::detect(), 7));
        for n in 0..flows {
            let _ = table.insert(Entry(key(n)));
        }
        let (mut at, mut keys, mut found) = (0_u32, Box::<FlowKeys>::default(), [0; LANES]);
        all.push(ours(piece, move || {
            for lane in 0..LANES {
                // An odd factor visits every flow, and successive flows are not neighbours.
                at = at.wrapping_add(1);
                keys.set(lane, &key(at.wrapping_mul(0x9e37_79b1) & (flows - 1)));
            }
            black_box(table.look_up(&keys, u64::MAX, &mut found));
        }));
        if !peers {
            continue;
        }
        let mut map = std::collections::HashMap::new();
        for n in 0..flows {
            map.insert((key(n).remote.address, key(n).remote.port, 0_u16), n);
        }
        let mut at = 0_u32;
        all.push(theirs(piece, "std HashMap", move || {
            for _ in 0..LANES {
                at = at.wrapping_add(1);
                let key = key(at.wrapping_mul(0x9e37_79b1) & (flows - 1));
                black_box(map.get(&(key.remote.address, key.remote.port, key.local)));
            }
        }));
    }
}

fn rewrite(all: &mut Pieces) -> Result<()> {
    let end = |address: Ipv4Addr, port: u16| Endpoint::from(std::net::SocketAddr::from((address, port)));
    let to = Rewrite {
        source_mac: frame::VA,
        destination_mac: MacAddr([2, 0, 0, 0, 0, 9]),
        source: end(Ipv4Addr::new(10, 78, 0, 1), 61_000),
        destination: end(frame::UPSTREAM, 6000),
    };
    let frames = frames()?;
    let translations: Vec<Translation> = (0..LANES as u16)
        .filter_map(|n| {
            let flow =
                Flow { source: end(frame::CLIENT, frame::CLIENT_PORT + n), destination: end(frame::LISTEN, 5000) };
            Translation::new(&flow, &to).ok()
        })
        .collect();
    let mut packet = frames[0].clone();
    all.push(ours("rewrite addresses, ports, sums", move || {
        for (frame, translation) in frames.iter().zip(&translations) {
            // Each round decrements the hop limit, so the packet is copied again.
            packet.copy_from_slice(frame);
            let _ = black_box(translation.apply(&mut packet, 14, 34, true));
        }
    }));
    Ok(())
}

fn checksums(all: &mut Pieces) {
    const PIECES: [(&str, usize); 2] = [("UDP checksum, 64 B", 30), ("UDP checksum, 1400 B", 1366)];
    for (piece, length) in PIECES {
        let mut datagram = vec![0x5a_u8; length];
        datagram[4..6].copy_from_slice(&(length as u16).to_be_bytes());
        let same = datagram.clone();
        all.push(ours(piece, move || {
            for _ in 0..LANES {
                let pseudo = Sum::pseudo_ipv4([10, 0, 0, 1], [10, 0, 0, 2], length as u16);
                black_box(checksum::udp(pseudo, black_box(&datagram)));
            }
        }));
        all.push(theirs(piece, "smoltcp", move || {
            let (from, to) = (Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into());
            for _ in 0..LANES {
                let packet = smoltcp::wire::UdpPacket::new_unchecked(black_box(same.as_slice()));
                black_box(packet.verify_checksum(&from, &to));
            }
        }));
    }
}

fn publish(all: &mut Pieces) -> Result<()> {
    let (address, mailbox) = mailbox::mailbox::<[u64; 32]>(128).map_err(failed)?;
    all.push(ours("channel, 64 of 256 B published and taken", move || {
        for n in 0..LANES as u64 {
            let _ = address.try_send([n; 32]);
        }
        while let Some(message) = mailbox.try_recv() {
            black_box(message);
        }
    }));
    Ok(())
}

/// Returns a run of the relay over the simulated port: actors, sessions, rewriting, and the cost of the simulated
/// kernel.
fn relay_steps(batches: u32) -> impl FnMut() {
    move || {
        let packets = u64::from(batches) * LANES as u64;
        let options = SimOptions { packets, queues: 1, application: Application::Relay, ..SimOptions::default() };
        black_box(oxide_sim::run(&options));
    }
}

/// Times every piece, with all implementations of one piece in alternation.
pub(crate) fn run(options: &Options) -> Result<()> {
    cpu::pin(options.cpu)?;
    // The set-up of a simulation does not belong to the relay, so the number of packets is large.
    let mut all = pieces(true)?;
    if let Some(relay) = all.iter_mut().find(|w| w.piece == "relay in the simulation") {
        relay.batch = Box::new(relay_steps(RELAY_BATCHES));
    }
    let mut reports: Vec<Report> = all.iter().map(|w| Report { piece: w.piece, by: w.by, ns: vec![] }).collect();
    for _ in 0..options.rounds {
        for (work, report) in all.iter_mut().zip(&mut reports) {
            let (calls, batches) =
                if work.piece == "relay in the simulation" { (1, RELAY_BATCHES) } else { (2000, 2000) };
            let start = Instant::now();
            (0..calls).for_each(|_| (work.batch)());
            report.ns.push(start.elapsed().as_nanos() as f64 / f64::from(batches) / LANES as f64);
        }
    }
    println!("{}", serde_json::to_string(&reports).map_err(failed)?);
    Ok(())
}

const RELAY_BATCHES: u32 = 1500;

/// Runs one piece for an instruction counter. Without a name it prints the names of all pieces.
pub(crate) fn work(options: &WorkOptions) -> Result<()> {
    let all = pieces(false)?;
    let Some(name) = &options.name else {
        all.iter().filter(|w| w.by == "oxide").for_each(|w| println!("{}", w.piece));
        return Ok(());
    };
    if name == "relay in the simulation" {
        relay_steps(options.batches)();
        return Ok(());
    }
    let work = all.into_iter().find(|w| w.piece == name && w.by == "oxide");
    let mut work = work.ok_or_else(|| Error::Text(format!("piece {name}: unknown")))?;
    (0..options.batches).for_each(|_| (work.batch)());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_measure_and_its_comparison_runs() {
        let mut all = pieces(true).unwrap_or_default();
        assert!(all.len() > 10);
        all.iter_mut().for_each(|work| (work.batch)());
    }
}
