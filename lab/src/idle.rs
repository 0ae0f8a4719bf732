//! Measures the time of a forwarder's core without traffic.

use crate::Result;
use crate::cpu::Meter;
use clap::Args;
use std::time::Duration;

#[derive(Args)]
pub(crate) struct Options {
    /// Duration in milliseconds.
    #[arg(long, default_value_t = 2000)]
    ms: u64,
    #[arg(long, default_value_t = 1)]
    forwarder_cpu: u32,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    let meter = Meter::start(options.forwarder_cpu)?;
    let before = meter.sample()?;
    std::thread::sleep(Duration::from_millis(options.ms));
    let split = meter.sample()?.since(before);
    crate::print(&split)
}
