//! Saturating load from live frames, and what comes through.

use crate::cpu::{self, Meter, Split};
use crate::programs::{Counter, Generator, Seen, Shape};
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Options {
    /// Interface to send by.
    #[arg(long, default_value = "va")]
    out: String,
    /// Interfaces whose packets are counted, together.
    #[arg(long, default_values = ["va", "vd"])]
    count: Vec<String>,
    /// Bytes of a frame, without FCS.
    #[arg(long, default_value_t = 64)]
    frame: usize,
    /// Flows: a power of two.
    #[arg(long, default_value_t = 256)]
    flows: u32,
    /// First UDP port of the forwarder.
    #[arg(long, default_value_t = 5000)]
    port: u16,
    /// Ports used in turn.
    #[arg(long, default_value_t = 1)]
    ports: u16,
    /// Before the window, milliseconds.
    #[arg(long, default_value_t = 300)]
    warm_ms: u64,
    /// The window, milliseconds.
    #[arg(long, default_value_t = 1000)]
    ms: u64,
    /// How long the forwarder may take until a first packet comes through, milliseconds; 0 does not wait.
    #[arg(long, default_value_t = 10_000)]
    ready_ms: u64,
    /// The generator's CPU.
    #[arg(long, default_value_t = 0)]
    cpu: u32,
    /// The forwarder's CPU.
    #[arg(long, default_value_t = 1)]
    forwarder_cpu: u32,
    /// Count what vb received instead, by this namespace's copy of /proc/net/dev: for the generator alone.
    #[arg(long)]
    far: Option<std::path::PathBuf>,
}

/// One window.
#[derive(Debug, Serialize)]
struct Report {
    seconds: f64,
    /// Frames the generator made.
    offered: u64,
    /// What came through.
    #[serde(flatten)]
    seen: Seen,
    /// From start to the first packet through, milliseconds.
    ready_ms: f64,
    /// The forwarder's core.
    core: Split,
    /// The generator's core.
    generator_core: Split,
}

struct Bench {
    counters: Vec<Counter>,
    made: crate::programs::Counters,
    core: Meter,
    generator_core: Meter,
}

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    offered: u64,
    seen: Seen,
    core: cpu::Look,
    generator_core: cpu::Look,
}

impl Bench {
    fn seen(&self) -> Result<Seen> {
        self.counters.iter().try_fold(Seen::default(), |sum, counter| {
            let seen = counter.seen()?;
            Ok(Seen {
                packets: sum.packets + seen.packets,
                bytes: sum.bytes + seen.bytes,
                others: sum.others + seen.others,
            })
        })
    }

    fn look(&self, options: &Options) -> Result<Look> {
        Ok(Look {
            at: Instant::now(),
            offered: self.made.get(0)?,
            seen: match &options.far {
                Some(path) => far(path)?,
                None => self.seen()?,
            },
            core: self.core.look()?,
            generator_core: self.generator_core.look()?,
        })
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    cpu::pin(options.cpu as usize)?;
    let ifindex = ifindex(&options.out)?;
    let shape = Shape { frame: options.frame, flows: options.flows, port: options.port, ports: options.ports };
    let mut generator = Generator::load(shape, ifindex)?;
    let counters = options.count.iter().map(|name| Counter::attach(name)).collect::<Result<Vec<_>>>()?;
    let bench = Bench {
        counters,
        made: generator.made()?,
        core: Meter::start(options.forwarder_cpu)?,
        generator_core: Meter::start(options.cpu)?,
    };
    let ready = wait_until_ready(&bench, &mut generator, Duration::from_millis(options.ready_ms))?;

    std::thread::Builder::new()
        .name("generator".to_owned())
        .spawn(move || {
            // One call: each costs some 25 ms of waiting for other CPUs. It ends with the process.
            let end = generator.send(u32::MAX);
            eprintln!("oxide-lab: the generator ended: {end:?}");
        })
        .map_err(Error::io("starting the generator"))?;
    std::thread::sleep(Duration::from_millis(options.warm_ms));
    let before = bench.look(options)?;
    std::thread::sleep(Duration::from_millis(options.ms));
    let after = bench.look(options)?;
    let report = Report {
        seconds: (after.at - before.at).as_secs_f64(),
        offered: after.offered - before.offered,
        seen: after.seen.since(before.seen),
        ready_ms: ready.as_secs_f64() * 1e3,
        core: after.core.since(before.core),
        generator_core: after.generator_core.since(before.generator_core),
    };
    if report.offered == 0 {
        return Err(Error::Text("the generator did not run".to_owned()));
    }
    println!("{}", serde_json::to_string(&report).map_err(|e| Error::Text(e.to_string()))?);
    Ok(())
}

/// Sends a few frames now and then until one comes through.
fn wait_until_ready(bench: &Bench, generator: &mut Generator, within: Duration) -> Result<Duration> {
    let start = Instant::now();
    while !within.is_zero() && bench.seen()?.packets == 0 {
        if start.elapsed() > within {
            return Err(Error::Text(format!("no packet came through the forwarder within {within:?}")));
        }
        generator.send(32)?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(start.elapsed())
}

/// What vb received, by its line of /proc/net/dev: bytes and packets first. XDP drops are in it.
fn far(path: &std::path::Path) -> Result<Seen> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path.display().to_string()))?;
    let line = text.lines().find_map(|l| l.trim_start().strip_prefix("vb:")).unwrap_or_default();
    let mut columns = line.split_whitespace().map(str::parse::<u64>);
    match (columns.next(), columns.next()) {
        (Some(Ok(bytes)), Some(Ok(packets))) => Ok(Seen { packets, bytes, others: 0 }),
        _ => Err(Error::Text(format!("no vb in {}", path.display()))),
    }
}

pub(crate) fn ifindex(interface: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(interface).map_err(Error::io(interface.to_owned()))
}
