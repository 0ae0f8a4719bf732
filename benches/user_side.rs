//! Measures the user-side cost of one packet, and compares it with a crate that does the same if one exists. All
//! candidates take turns in one run; the results are medians of eleven rounds with minimum and maximum.
//!
//! `cargo bench --bench user_side`

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Instant;

use oxide::packet::build::UdpFrame;
use oxide::packet::{Columns, Endpoint, Flow, LANES, MacAddr, Rewrite, Translation, rewrite};
use oxide::simd::Processor;
use oxide_sim::{Application, SimOptions, run};

const ROUNDS: usize = 11;
/// Sets the batches in a round, which takes some milliseconds.
const BATCHES: usize = 4000;

fn main() {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu =
        cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("?", |(_, name)| name);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    println!(
        "machine: {cpu}; kernel {}; mode: no NIC, headers in L1; frames of 64 bytes, {LANES} flows",
        kernel.trim()
    );
    println!("command: cargo bench --bench user_side\n");
    println!("{:<44} {:>8} {:>8} {:>8}", "nanoseconds per packet", "median", "min", "max");

    let frames: Vec<Vec<u8>> = (0..LANES as u16).map(frame).collect();
    parse(&frames);
    translate(&frames);
    simulated();
}

fn end(text: &str) -> Endpoint {
    text.parse::<SocketAddr>().map(Endpoint::from).unwrap_or_default()
}

fn flow(n: u16) -> Flow {
    Flow { source: Endpoint { port: 20_000 + n, ..end("192.0.2.7:0") }, destination: end("198.51.100.1:5000") }
}

fn frame(n: u16) -> Vec<u8> {
    UdpFrame::new(flow(n), &[7; 22]).to_vec().unwrap_or_default()
}

/// Runs the candidates in turns, and prints a line for each.
fn compare(contestants: &mut [(&str, &mut dyn FnMut())]) {
    let mut times = vec![Vec::new(); contestants.len()];
    for _ in 0..ROUNDS {
        for ((_, batch), times) in contestants.iter_mut().zip(&mut times) {
            let start = Instant::now();
            (0..BATCHES).for_each(|_| batch());
            times.push(start.elapsed().as_nanos() as f64 / (BATCHES * LANES) as f64);
        }
    }
    for ((name, _), times) in contestants.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        println!("{name:<44} {:>8.1} {:>8.1} {:>8.1}", times[ROUNDS / 2], times[0], times[ROUNDS - 1]);
    }
}

fn parse(frames: &[Vec<u8>]) {
    let headers: [[u8; 64]; LANES] =
        std::array::from_fn(|lane| std::array::from_fn(|at| frames[lane].get(at).copied().unwrap_or(0)));
    let headers: [&[u8; 64]; LANES] = std::array::from_fn(|lane| &headers[lane]);
    let lengths: [u16; LANES] = std::array::from_fn(|lane| frames[lane].len() as u16);
    let (processor, mut columns) = (Processor::detect(), Columns::default());
    let mut oxide = || processor.parse(black_box(&headers), &lengths, u64::MAX, black_box(&mut columns));
    let mut peer = || {
        for frame in frames {
            let _ = black_box(etherparse::SlicedPacket::from_ethernet(black_box(frame)));
        }
    };
    compare(&mut [("parse, verify, columns", &mut oxide), ("etherparse, headers only", &mut peer)]);
}

fn translate(frames: &[Vec<u8>]) {
    let to = Rewrite {
        source_mac: MacAddr([2, 0, 0, 0, 0, 3]),
        destination_mac: MacAddr([2, 0, 0, 0, 0, 4]),
        source: end("203.0.113.1:61000"),
        destination: end("203.0.113.9:6000"),
    };
    let translations: Vec<_> = (0..LANES as u16).filter_map(|n| Translation::new(&flow(n), &to).ok()).collect();
    // Each application reduces the TTL, so both candidates copy the packet before each one.
    let mut packet = frames[0].clone();
    let mut once = || {
        for (frame, translation) in frames.iter().zip(&translations) {
            packet.copy_from_slice(frame);
            let _ = black_box(translation.apply(&mut packet, 14, 34, true));
        }
    };
    let mut other = frames[0].clone();
    let mut each = || {
        for (n, frame) in frames.iter().enumerate() {
            other.copy_from_slice(frame);
            let _ = black_box(rewrite::apply(&mut other, 14, 34, true, &flow(n as u16), &to));
        }
    };
    compare(&mut [
        ("rewrite, sums prepared once per session", &mut once),
        ("rewrite, sums computed for each packet", &mut each),
    ]);
}

/// Measures a packet's whole path through datapath, handler and simulated kernel, including the cost of the latter.
fn simulated() {
    for (name, application) in
        [("simulated NIC: forward", Application::Forward), ("simulated NIC: relay", Application::Relay)]
    {
        let options = SimOptions { packets: 200_000, application, ..SimOptions::default() };
        let mut times: Vec<f64> = (0..3).map(|_| 1e9 / run(&options).packets_per_second).collect();
        times.sort_by(f64::total_cmp);
        println!("{name:<44} {:>8.1} {:>8.1} {:>8.1}", times[1], times[0], times[2]);
    }
}
