//! Holds the requirements of a plan.

use serde::{Deserialize, Serialize};

/// Holds the requirements that the planner tries to meet. The caller takes them from the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Interfaces to serve. Clients arrive at the first one, whose node decides a tie.
    pub interfaces: Vec<String>,
    /// Queues to serve.
    pub queues: Queues,
    /// CPUs of the actors.
    pub pin: Pin,
    /// NUMA node of the actors.
    pub numa: Numa,
    /// Whether packet memory uses 2 MiB pages.
    pub huge_pages: bool,
    /// Size of a frame in bytes: 2048 or 4096.
    pub frame_size: u32,
    /// Packet memory in bytes of one actor, which serves one queue number of every interface.
    pub umem_bytes_per_queue: u64,
    /// Whether the driver's own XDP hook may be used. Otherwise only generic mode is possible.
    #[serde(default = "yes")]
    pub native: bool,
    /// Whether to use zero-copy.
    #[serde(default)]
    pub zero_copy: ZeroCopyWish,
    /// Whether actors may run on the core of the supervisor and the kernel, after all other cores are in use.
    pub allow_housekeeping: bool,
}

impl PlanRequest {
    /// Creates a request for these interfaces with defaults for everything else; frames have 2048 bytes.
    #[must_use]
    pub fn new(interfaces: Vec<String>, umem_bytes_per_queue: u64) -> Self {
        Self {
            interfaces,
            queues: Queues::Auto,
            pin: Pin::Auto,
            numa: Numa::Auto,
            huge_pages: true,
            frame_size: 2048,
            umem_bytes_per_queue,
            native: true,
            zero_copy: ZeroCopyWish::Auto,
            allow_housekeeping: false,
        }
    }
}

const fn yes() -> bool {
    true
}

/// Selects the use of zero-copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroCopyWish {
    /// Use it unless there is a known problem with it.
    #[default]
    Auto,
    /// Always use it; without it the relay does not start.
    Require,
    /// Never use it.
    Off,
}

/// Selects the queues to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queues {
    /// The receive queues that all interfaces have.
    Auto,
    /// These queues, which every interface must have. Packets of other queues take the fallback.
    List(Vec<u32>),
}

/// Selects the CPUs of the actors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// The planner chooses.
    Auto,
    /// The actor of the n-th queue runs on the n-th CPU. The list repeats after its end.
    List(Vec<u32>),
}

/// Selects the memory node of the actors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Numa {
    /// The node of the NIC.
    Auto,
    /// This node.
    Node(u32),
}
