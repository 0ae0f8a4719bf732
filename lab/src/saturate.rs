//! Sends saturating load with live frames, and counts the packets that arrive.

use crate::cpu::{self, CpuTime, Meter};
use crate::programs::{Counter, Counters, FarSideCount, Generator};
use crate::socket_load::SocketLoad;
use crate::testbed::TestbedArgs;
use crate::{Error, Result};
use clap::Args;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Options {
    #[command(flatten)]
    testbed: TestbedArgs,
    /// Time before the window, in milliseconds.
    #[arg(long, default_value_t = 300)]
    warm_ms: u64,
    /// Duration of the window, in milliseconds.
    #[arg(long, default_value_t = 1000)]
    ms: u64,
    /// Send with this number of AF_XDP sockets instead, one on each queue of --out.
    #[arg(long, default_value_t = 0)]
    sockets: u32,
    /// Count the packets received by vb instead, from this namespace's copy of /proc/net/dev; for the generator
    /// alone.
    #[arg(long)]
    far: Option<std::path::PathBuf>,
}

/// Holds the results of one window.
#[derive(Debug, Serialize)]
struct Report {
    seconds: f64,
    /// Number of frames that the generator sent.
    offered: u64,
    /// Packets that arrived at the far side.
    #[serde(flatten)]
    seen: FarSideCount,
    /// Time from the start to the first delivered packet, in milliseconds.
    ready_ms: f64,
    /// Time of the forwarder's core.
    core: CpuTime,
    /// Time of the generator's core.
    generator_core: CpuTime,
}

/// Counts the frames that the generator has sent.
enum Made {
    Live(Counters),
    Sockets(Arc<AtomicU64>),
}

impl Made {
    fn get(&self) -> Result<u64> {
        match self {
            Made::Live(counters) => counters.get(0),
            Made::Sockets(count) => Ok(count.load(Relaxed)),
        }
    }
}

struct Bench {
    counters: Vec<Counter>,
    made: Made,
    core: Meter,
    generator_core: Meter,
}

#[derive(Clone, Copy)]
struct LoadSample {
    at: Instant,
    offered: u64,
    seen: FarSideCount,
    core: cpu::Sample,
    generator_core: cpu::Sample,
}

impl Bench {
    fn sample(&self, options: &Options) -> Result<LoadSample> {
        Ok(LoadSample {
            at: Instant::now(),
            offered: self.made.get()?,
            seen: match &options.far {
                Some(path) => far(path)?,
                None => Counter::all(&self.counters)?,
            },
            core: self.core.sample()?,
            generator_core: self.generator_core.sample()?,
        })
    }
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let testbed = &options.testbed;
    cpu::pin(testbed.cpu as usize)?;
    let (shape, counters) = (testbed.shape(), testbed.counters()?);
    let [core, generator_core] = [testbed.forwarder_cpu, testbed.cpu].map(Meter::start);
    let (core, generator_core) = (core?, generator_core?);
    let within = Duration::from_millis(testbed.ready_ms);
    let (bench, ready);
    if options.sockets > 0 {
        let (made, out, sockets) = (Arc::new(AtomicU64::new(0)), testbed.out.clone(), options.sockets);
        bench = Bench { counters, made: Made::Sockets(made.clone()), core, generator_core };
        // A socket cannot leave the thread that opened it.
        start("generator", move || SocketLoad::open(&out, sockets, shape, made)?.send())?;
        ready = wait_until_ready(&bench, || Ok(()), within)?;
    } else {
        let mut generator = Generator::load(shape, ifindex(&testbed.out)?, false)?;
        bench = Bench { counters, made: Made::Live(generator.made()?), core, generator_core };
        ready = wait_until_ready(&bench, || generator.send(32), within)?;
        // There is only one call: each waits about 25 ms for other CPUs. It ends with the process.
        start("generator", move || generator.send(u32::MAX))?;
    }
    std::thread::sleep(Duration::from_millis(options.warm_ms));
    let before = bench.sample(options)?;
    std::thread::sleep(Duration::from_millis(options.ms));
    let after = bench.sample(options)?;
    let report = Report {
        seconds: (after.at - before.at).as_secs_f64(),
        offered: after.offered - before.offered,
        seen: after.seen.since(before.seen),
        ready_ms: ready.as_secs_f64() * 1e3,
        core: after.core.since(before.core),
        generator_core: after.generator_core.since(before.generator_core),
    };
    if report.offered == 0 {
        return Err(Error::Text("generator: it did not run".to_owned()));
    }
    crate::print(&report)
}

/// Starts a thread that runs until the process ends.
fn start(name: &str, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
    let thread = std::thread::Builder::new().name(name.to_owned());
    let spawned = thread.spawn(move || eprintln!("oxide-lab: generator ended: {:?}", work()));
    spawned.map(drop).map_err(Error::io("cannot start the generator"))
}

/// Sends a few frames repeatedly until one arrives.
fn wait_until_ready(bench: &Bench, mut send: impl FnMut() -> Result<()>, within: Duration) -> Result<Duration> {
    let start = Instant::now();
    while !within.is_zero() && Counter::all(&bench.counters)?.packets == 0 {
        if start.elapsed() > within {
            return Err(Error::Text(format!("forwarder: no packet delivered within {within:?}")));
        }
        send()?;
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(start.elapsed())
}

/// Reads what vb received from its line of /proc/net/dev: bytes and packets first, with XDP drops.
fn far(path: &std::path::Path) -> Result<FarSideCount> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path.display().to_string()))?;
    let line = text.lines().find_map(|l| l.trim_start().strip_prefix("vb:")).unwrap_or_default();
    let mut columns = line.split_whitespace().map(str::parse::<u64>);
    match (columns.next(), columns.next()) {
        (Some(Ok(bytes)), Some(Ok(packets))) => Ok(FarSideCount { packets, bytes, others: 0 }),
        _ => Err(Error::Text(format!("{}: no line of vb", path.display()))),
    }
}

pub(crate) fn ifindex(interface: &str) -> Result<u32> {
    nix::net::if_::if_nametoindex(interface).map_err(Error::io(interface.to_owned()))
}
