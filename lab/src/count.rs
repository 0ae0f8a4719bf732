//! Counts what arrives at some interfaces in a given time, from any sender.

use crate::cpu::Meter;
use crate::programs::{Counter, FarSideCount};
use crate::{Result, print};
use clap::Args;
use serde::Serialize;
use std::time::{Duration, Instant};

#[derive(Args)]
pub(crate) struct Options {
    /// Interfaces whose packets are counted and dropped, summed up; all other packets go to the kernel.
    #[arg(long = "on", default_values = ["va", "vd"])]
    interfaces: Vec<String>,
    /// Duration in milliseconds.
    #[arg(long, default_value_t = 1000)]
    ms: u64,
    /// CPU of the forwarder.
    #[arg(long, default_value_t = 1)]
    forwarder_cpu: u32,
}

#[derive(Serialize)]
struct Report {
    seconds: f64,
    #[serde(flatten)]
    seen: FarSideCount,
    core: crate::cpu::CpuTime,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let counters = options.interfaces.iter().map(|name| Counter::attach(name)).collect::<Result<Vec<_>>>()?;
    let meter = Meter::start(options.forwarder_cpu)?;
    let (look, start, before) = (meter.sample()?, Instant::now(), Counter::all(&counters)?);
    std::thread::sleep(Duration::from_millis(options.ms));
    let seen = Counter::all(&counters)?.since(before);
    print(&Report { seconds: start.elapsed().as_secs_f64(), seen, core: meter.sample()?.since(look) })
}
