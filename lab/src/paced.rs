//! Sends load at a fixed rate, open loop: packets leave when they are due, independent of earlier results. Each
//! carries its number and due time, so that a late sender shows as latency and not as a smaller load.

use crate::Result;
use crate::client::{self, BURST, Client, Ends};
use crate::cpu::{self, CpuTime, Meter};
use crate::figures::Percentiles;
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Options {
    /// Rate in packets per second.
    #[arg(long, default_value_t = 100_000)]
    rate: u64,
    /// Duration in milliseconds.
    #[arg(long, default_value_t = 2000)]
    ms: u64,
    /// Size of a frame in bytes.
    #[arg(long, default_value_t = 64)]
    frame: usize,
    /// Number of flows, at most 16384.
    #[arg(long, default_value_t = 256)]
    flows: u16,
    /// First UDP port of the forwarder.
    #[arg(long, default_value_t = 5000)]
    port: u16,
    /// Number of ports used in alternation.
    #[arg(long, default_value_t = 1)]
    ports: u16,
    /// Packets return through va, instead of leaving through vd.
    #[arg(long)]
    echo: bool,
    /// Queue of va that sends; an echo returns on the same queue.
    #[arg(long, default_value_t = 0)]
    queue: u32,
    /// Time limit for the first delivered packet, in milliseconds.
    #[arg(long, default_value_t = 10_000)]
    ready_ms: u64,
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    #[arg(long, default_value_t = 1)]
    forwarder_cpu: u32,
}

#[derive(Serialize)]
struct Report {
    seconds: f64,
    sent: u64,
    received: u64,
    lost: u64,
    /// Number of packets lost because this client's own ring was full; the forwarder did not lose them.
    client_missed: u64,
    /// Number of packets received after a packet with a higher number of the same flow.
    out_of_order: u64,
    /// Longest time without a packet, in milliseconds.
    longest_gap_ms: f64,
    /// Longest delay of the sender after a packet's due time.
    late_ms: f64,
    /// Time that the hypervisor took from the forwarder's core, in milliseconds.
    steal_ms: u64,
    #[serde(flatten)]
    latency: Percentiles,
    core: CpuTime,
}

/// Counts arrived packets.
struct Arrivals {
    start: Instant,
    received: u64,
    out_of_order: u64,
    /// Smallest expected number of each flow.
    next: Vec<u64>,
    last: Instant,
    longest_gap: Duration,
    latencies: Vec<u64>,
}

impl Arrivals {
    fn take(&mut self, payload: &[u8], now: Instant) {
        let word = |at: usize| payload.get(at..at + 8).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
        let (Some(number), Some(due)) = (word(0), word(8)) else { return };
        // This packet was sent before the window.
        if number == u64::MAX {
            return;
        }
        self.received += 1;
        self.latencies.push(((now - self.start).as_nanos() as u64).saturating_sub(due));
        let flow = (number % self.next.len() as u64) as usize;
        if number < self.next[flow] {
            self.out_of_order += 1;
        } else {
            self.next[flow] = number + 1;
        }
        self.longest_gap = self.longest_gap.max(now - self.last);
        self.last = now;
    }
}

/// Holds the sending socket, and the receiving one if it is another.
struct Ports {
    out: Client,
    back: Option<Client>,
}

impl Ports {
    fn receive(&mut self, arrivals: &mut Arrivals) -> Result<usize> {
        let client = self.back.as_mut().unwrap_or(&mut self.out);
        let mut now = None;
        client.receive(|payload| arrivals.take(payload, *now.get_or_insert_with(Instant::now)))
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    cpu::pin(options.cpu)?;
    let templates = client::templates(options.frame, options.flows.clamp(1, 16384), options.port, options.ports)?;
    let back = if options.echo { None } else { Some(Client::open("vd", 0, Ends::Across)?) };
    let mut ports = Ports { out: Client::open("va", options.queue, Ends::Back)?, back };
    wait_until_ready(&mut ports, &templates, Duration::from_millis(options.ready_ms))?;
    let missed = |ports: &Ports| ports.back.as_ref().unwrap_or(&ports.out).missed();
    let missed_before = missed(&ports)?;
    let meter = Meter::start(options.forwarder_cpu)?;
    let (look, steal, start) = (meter.sample()?, cpu::steal_ms(options.forwarder_cpu), Instant::now());
    let total = options.rate * options.ms / 1000;
    let mut arrivals = Arrivals {
        start,
        received: 0,
        out_of_order: 0,
        next: vec![0; templates.len()],
        last: start,
        longest_gap: Duration::ZERO,
        latencies: Vec::with_capacity(total as usize),
    };
    let (sent, late) = send_all(options.rate, total, &templates, &mut ports, &mut arrivals)?;
    let (seconds, core) = (start.elapsed().as_secs_f64(), meter.sample()?.since(look));
    let drained = Instant::now();
    while arrivals.received < sent && drained.elapsed() < Duration::from_millis(200) {
        ports.receive(&mut arrivals)?;
    }
    let report = Report {
        seconds,
        sent,
        received: arrivals.received,
        lost: sent.saturating_sub(arrivals.received),
        client_missed: missed(&ports)? - missed_before,
        out_of_order: arrivals.out_of_order,
        longest_gap_ms: arrivals.longest_gap.as_secs_f64() * 1e3,
        late_ms: late as f64 / 1e6,
        steal_ms: cpu::steal_ms(options.forwarder_cpu).saturating_sub(steal),
        latency: Percentiles::of(arrivals.latencies),
        core,
    };
    crate::print(&report)
}

/// Sends packet `n` at `n / rate` after the start. Returns the number of sent packets, and the largest delay in
/// nanoseconds.
fn send_all(
    rate: u64,
    total: u64,
    templates: &[Vec<u8>],
    ports: &mut Ports,
    arrivals: &mut Arrivals,
) -> Result<(u64, u64)> {
    let (mut sent, mut late, start) = (0, 0, arrivals.start);
    while sent < total {
        let elapsed = start.elapsed().as_nanos();
        let due = ((elapsed * u128::from(rate) / 1_000_000_000) as u64 + 1).min(total);
        if due > sent {
            late = late.max((elapsed as u64).saturating_sub(sent * 1_000_000_000 / rate));
        }
        let burst = due.saturating_sub(sent).min(BURST as u64);
        let first = sent;
        for number in first..first + burst {
            let mut payload = [0; 16];
            payload[..8].copy_from_slice(&number.to_be_bytes());
            payload[8..].copy_from_slice(&(number * 1_000_000_000 / rate).to_be_bytes());
            if !ports.out.queue(&templates[(number % templates.len() as u64) as usize], &payload) {
                break;
            }
            sent = number + 1;
        }
        if burst > 0 {
            ports.out.send()?;
        }
        ports.receive(arrivals)?;
    }
    Ok((sent, late))
}

/// Sends every flow repeatedly until packets arrive. Then waits until no more packets arrive.
fn wait_until_ready(ports: &mut Ports, templates: &[Vec<u8>], within: Duration) -> Result<()> {
    let start = Instant::now();
    let mut quiet = Instant::now();
    let mut came = 0;
    let mut ignored = Arrivals {
        start,
        received: 0,
        out_of_order: 0,
        next: vec![0; templates.len()],
        last: start,
        longest_gap: Duration::ZERO,
        latencies: vec![],
    };
    while came == 0 || quiet.elapsed() < Duration::from_millis(20) {
        if start.elapsed() > within {
            return Err(client::no_answer("through the forwarder"));
        }
        if came == 0 {
            for flows in templates.chunks(BURST) {
                flows.iter().for_each(|template| {
                    ports.out.queue(template, &[0xff; 16]);
                });
                ports.out.send()?;
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        let more = ports.receive(&mut ignored)?;
        if more > 0 {
            quiet = Instant::now();
        }
        came += more;
    }
    Ok(())
}
