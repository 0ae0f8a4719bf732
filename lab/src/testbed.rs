//! Defines the arguments that saturating load and trials at fixed rates share: destination, frames, CPUs.

use crate::Result;
use crate::programs::{Counter, Shape};
use clap::Args;

/// Describes destination and frames of the load.
#[derive(Args, Clone)]
pub(crate) struct TestbedArgs {
    /// Interface that sends.
    #[arg(long, default_value = "va")]
    pub(crate) out: String,
    /// Interfaces whose packets are counted, summed up.
    #[arg(long, default_values = ["va", "vd"])]
    pub(crate) count: Vec<String>,
    /// Size of a frame in bytes, without FCS; at least 64.
    #[arg(long, default_value_t = 64)]
    pub(crate) frame: usize,
    /// Number of flows, a power of two.
    #[arg(long, default_value_t = 256)]
    pub(crate) flows: u32,
    /// First UDP port of the forwarder.
    #[arg(long, default_value_t = 5000)]
    pub(crate) port: u16,
    /// Number of ports used in alternation.
    #[arg(long, default_value_t = 1)]
    pub(crate) ports: u16,
    /// Time limit for the first delivered packet in milliseconds; with 0 `saturate` does not wait.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) ready_ms: u64,
    /// CPU of the generator.
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu: u32,
    /// CPU of the forwarder.
    #[arg(long, default_value_t = 1)]
    pub(crate) forwarder_cpu: u32,
}

impl TestbedArgs {
    pub(crate) fn shape(&self) -> Shape {
        Shape { frame: self.frame.max(64), flows: self.flows, port: self.port, ports: self.ports }
    }

    /// Attaches counters to the interfaces whose packets are counted.
    pub(crate) fn counters(&self) -> Result<Vec<Counter>> {
        self.count.iter().map(|name| Counter::attach(name)).collect()
    }
}
