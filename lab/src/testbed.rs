//! Arguments that saturating load and trials at given rates share: destination, frames, CPUs.

use crate::Result;
use crate::programs::{Counter, Shape};
use clap::Args;

/// Destination and frames of the load.
#[derive(Args, Clone)]
pub(crate) struct TestbedArgs {
    /// Interface to send by.
    #[arg(long, default_value = "va")]
    pub(crate) out: String,
    /// Interfaces whose packets are counted, together.
    #[arg(long, default_values = ["va", "vd"])]
    pub(crate) count: Vec<String>,
    /// Bytes of a frame, without FCS; 64 at least.
    #[arg(long, default_value_t = 64)]
    pub(crate) frame: usize,
    /// Flows: a power of two.
    #[arg(long, default_value_t = 256)]
    pub(crate) flows: u32,
    /// First UDP port of the forwarder.
    #[arg(long, default_value_t = 5000)]
    pub(crate) port: u16,
    /// Ports used in turn.
    #[arg(long, default_value_t = 1)]
    pub(crate) ports: u16,
    /// Time until the forwarder must deliver a first packet, milliseconds; 0: `blast` does not wait.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) ready_ms: u64,
    /// The generator's CPU.
    #[arg(long, default_value_t = 0)]
    pub(crate) cpu: u32,
    /// The forwarder's CPU.
    #[arg(long, default_value_t = 1)]
    pub(crate) forwarder_cpu: u32,
}

impl TestbedArgs {
    pub(crate) fn shape(&self) -> Shape {
        Shape { frame: self.frame.max(64), flows: self.flows, port: self.port, ports: self.ports }
    }

    /// Counters on the interfaces whose packets are counted.
    pub(crate) fn counters(&self) -> Result<Vec<Counter>> {
        self.count.iter().map(|name| Counter::attach(name)).collect()
    }
}
