//! Measures the parser from headers to columns.

use std::hint::black_box;

use etherparse::SlicedPacket;
use oxide::packet::{Columns, LANES};
use oxide::simd::Processor;
use oxide::umem::{Frame, PageKind, Region, RingSizes, Umem, UmemLayout};
use smoltcp::wire::{EthernetFrame, EthernetProtocol, IpProtocol, Ipv4Packet, Ipv6Packet, UdpPacket};

use crate::comparison::{Bench, Contestant, contestant, random};
use crate::frames;

pub(crate) fn run(bench: &mut Bench) {
    l1(bench);
    mixed(bench);
    dram(bench);
}

/// Holds addresses and ports.
type Ends = ([u8; 16], [u8; 16], u16, u16);

/// Reads and checks every field that a relay needs, with smoltcp.
#[inline(never)]
fn smoltcp(frame: &[u8]) -> Option<Ends> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let mut ends = ([0; 16], [0; 16]);
    let payload = match ethernet.ethertype() {
        EthernetProtocol::Ipv4 => {
            let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
            if !ip.verify_checksum() || ip.next_header() != IpProtocol::Udp || ip.more_frags() || ip.frag_offset() != 0
            {
                return None;
            }
            ends.0[12..].copy_from_slice(&ip.src_addr().octets());
            ends.1[12..].copy_from_slice(&ip.dst_addr().octets());
            ip.payload()
        }
        EthernetProtocol::Ipv6 => {
            let ip = Ipv6Packet::new_checked(ethernet.payload()).ok()?;
            if ip.next_header() != IpProtocol::Udp {
                return None;
            }
            ends = (ip.src_addr().octets(), ip.dst_addr().octets());
            ip.payload()
        }
        _ => return None,
    };
    let udp = UdpPacket::new_checked(payload).ok()?;
    Some((ends.0, ends.1, udp.src_port(), udp.dst_port()))
}

/// Returns the processors of all levels of this CPU, the best first.
fn levels() -> Vec<Processor> {
    let mut levels: Vec<_> = Processor::levels().filter_map(Processor::with_level).collect();
    levels.reverse();
    levels
}

fn name(processor: Processor) -> String {
    format!("oxide, {}", processor.capability())
}

fn oxide_levels<'a>(batches: &'a [[&'a [u8; 64]; LANES]]) -> impl Iterator<Item = Contestant<'a>> {
    levels().into_iter().map(move |processor| {
        let (mut columns, lengths) = (Box::<Columns>::default(), [64; LANES]);
        contestant(name(processor), move || {
            for headers in batches {
                processor.parse(black_box(headers), &lengths, u64::MAX, black_box(&mut columns));
            }
        })
    })
}

/// Holds the result of a peer for each frame of a batch. Hiding each result from the compiler separately would send all
/// results through one stack slot, and the core would wait for one frame before it starts the next.
type Found<T> = [Option<T>; LANES];

fn peers<'a>(batches: &'a [[&'a [u8; 64]; LANES]], bounds: (f64, Option<f64>)) -> Vec<Contestant<'a>> {
    let mut found: Box<Found<Ends>> = Box::new([None; LANES]);
    let smoltcp = contestant("smoltcp, checked and verified", move || {
        for headers in black_box(batches) {
            headers.iter().zip(&mut *found).for_each(|(header, found)| *found = smoltcp(*header));
            black_box(&mut found);
        }
    });
    // The results of etherparse are large. Writing all of them would cost more than the wait for one another.
    let etherparse = contestant("etherparse, headers only", move || {
        for header in batches.iter().flatten() {
            let _ = black_box(SlicedPacket::from_ethernet(black_box(*header)));
        }
    });
    let etherparse = match bounds.1 {
        Some(bound) => etherparse.at_most(bound),
        None => etherparse,
    };
    vec![smoltcp.at_most(bounds.0), etherparse]
}

fn l1(bench: &mut Bench) {
    let headers: Vec<[u8; 64]> = (0..LANES as u32).map(|n| frames::udp(n, true)).collect();
    let batch: [[&[u8; 64]; LANES]; 1] = [std::array::from_fn(|lane| &headers[lane])];
    let contestants = oxide_levels(&batch).chain(peers(&batch, (0.30, Some(0.10)))).collect();
    bench.compare("parse, one class, L1", "IPv4/UDP, 64 B", LANES, contestants);
    let headers: Vec<[u8; 64]> = (0..LANES as u32).map(|n| frames::udp(n, false)).collect();
    let batch: [[&[u8; 64]; LANES]; 1] = [std::array::from_fn(|lane| &headers[lane])];
    bench.compare(
        "parse, IPv6, L1",
        "IPv6/UDP, 64 B",
        LANES,
        oxide_levels(&batch).chain(peers(&batch, (1.0, None))).collect(),
    );
}

fn mixed(bench: &mut Bench) {
    let mut dice = random(1);
    let headers: Vec<[u8; 64]> = (0..256).map(|n| frames::mixed(n, dice())).collect();
    // The batches have 65 536 frames in an unpredictable order, from 16 KiB of headers.
    let batches: Vec<[&[u8; 64]; LANES]> =
        (0..1024).map(|_| std::array::from_fn(|_| &headers[(dice() % 256) as usize])).collect();
    // A queue also recognises packets that are not plain UDP. No peer here does that for tags.
    let (processor, mut columns) = (Processor::detect(), Box::<Columns>::default());
    let batches = &batches;
    let recognising = contestant("oxide, with recognition of other packets", move || {
        for headers in batches {
            processor.parse(black_box(headers), &[64; LANES], u64::MAX, &mut columns);
            (columns.udp_extended, columns.tcp, columns.icmp, columns.tagged) = (0, 0, 0, 0);
            columns.fragments = 0;
            let mut others = !columns.udp;
            while others != 0 {
                let lane = others.trailing_zeros() as usize % LANES;
                others &= others - 1;
                columns.recognise(lane, headers[lane]);
            }
            black_box(&mut columns);
        }
    });
    let contestants = oxide_levels(batches).chain(peers(batches, (0.65, None))).chain([recognising]).collect();
    let note = "60 % IPv4/UDP, 20 % IPv6/UDP, 10 % VLAN, 5 % TCP, 5 % ARP, headers in L1";
    bench.compare("parse, unpredictable mix", note, 1024 * LANES, contestants);
}

/// Measures frames of a packet memory that is larger than all caches, in an order that no prefetcher can predict.
fn dram(bench: &mut Bench) {
    const MEASURE: &str = "parse, one class, DRAM";
    const FRAMES: u32 = 1 << 16;
    if !bench.wants(MEASURE) {
        return;
    }
    let rings = RingSizes { fill: 128, rx: 64, tx: 64, completion: 64 };
    let Ok(layout) = UmemLayout::new(2048, FRAMES, 0, &rings, 1, 1500) else { return };
    let Ok(region) = Region::map(layout.bytes(), PageKind::Base, None) else { return };
    let Ok(mut umem) = Umem::new(region, layout) else { return };
    let mut frames: Vec<Frame> = std::iter::from_fn(|| umem.take()).collect();
    for (n, frame) in frames.iter_mut().enumerate() {
        let _ = umem.set_length(frame, 64);
        umem.bytes_mut(frame).copy_from_slice(&frames::udp(n as u32, true));
    }
    let mut dice = random(2);
    for last in (1..frames.len()).rev() {
        frames.swap(last, (dice() % (last as u64 + 1)) as usize);
    }
    // Each contestant continues where it stopped, through all frames.
    let (umem, batches) = (&umem, frames.chunks(LANES).count());
    let chunk = |at: &mut usize| {
        *at = (*at + 1) % batches;
        frames.chunks(LANES).nth(*at).unwrap_or_default()
    };
    let mut contestants: Vec<Contestant<'_>> = Vec::new();
    for (start, processor) in levels().into_iter().enumerate() {
        let (mut at, mut columns) = (start * 97, Box::<Columns>::default());
        contestants.push(contestant(name(processor), move || {
            for _ in 0..64 {
                processor.parse_frames(umem, chunk(&mut at), black_box(&mut columns));
            }
        }));
    }
    let (mut at, mut found): (_, Box<Found<Ends>>) = (500, Box::new([None; LANES]));
    let smoltcp = contestant("smoltcp, checked and verified", move || {
        for _ in 0..64 {
            chunk(&mut at).iter().zip(&mut *found).for_each(|(frame, found)| *found = smoltcp(umem.bytes(frame)));
            black_box(&mut found);
        }
    });
    contestants.push(smoltcp.at_most(0.25));
    // This is the lower bound of any parser: each header's cache line, with all lines of a batch prefetched at once.
    let mut other = 250;
    contestants.push(contestant("reading the headers alone", move || {
        for _ in 0..64 {
            let frames = chunk(&mut other);
            frames.iter().for_each(|frame| umem.prefetch(frame));
            black_box(frames.iter().fold(0, |sum, frame| sum ^ umem.header_bytes(frame)[12]));
        }
    }));
    bench.compare(MEASURE, "128 MiB of frames in random order", 64 * LANES, contestants);
}
