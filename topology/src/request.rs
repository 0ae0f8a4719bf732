//! What the user wants of a plan.

use serde::{Deserialize, Serialize};

/// The wish the planner tries to meet; taken from the configuration by the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRequest {
    /// Interfaces to serve; the first is where clients arrive, and decides where nodes tie.
    pub interfaces: Vec<String>,
    /// Queues of them.
    pub queues: Queues,
    /// CPUs for the actors.
    pub pin: Pin,
    /// NUMA node for the actors.
    pub numa: Numa,
    /// Whether 2 MiB pages are wanted for packet memory.
    pub huge_pages: bool,
    /// Bytes of one frame: 2048 or 4096.
    pub frame_size: u32,
    /// Packet memory of one actor (it serves one queue number of every interface), bytes.
    pub umem_bytes_per_queue: u64,
    /// Whether the driver's own XDP hook may be used; without it only generic mode is left.
    #[serde(default = "yes")]
    pub native: bool,
    /// Whether zero-copy is wanted.
    #[serde(default)]
    pub zero_copy: ZeroCopyWish,
    /// Whether actors may run on the core kept for the supervisor and the kernel, once no other core
    /// is free.
    pub allow_housekeeping: bool,
}

impl PlanRequest {
    /// Everything left to the planner, for these interfaces; frames of 2048 bytes.
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

/// Whether zero-copy is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroCopyWish {
    /// Where nothing is on record against it.
    #[default]
    Auto,
    /// Always; where it cannot be used there is no start.
    Require,
    /// Never.
    Off,
}

/// Which queues to serve.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queues {
    /// The receive queues that all interfaces have.
    Auto,
    /// These: every interface has each of them. Packets of other queues take the fallback.
    List(Vec<u32>),
}

/// Where actors run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pin {
    /// The planner chooses.
    Auto,
    /// The actor of the n-th queue on the n-th CPU, from the start again when the list is at its end.
    List(Vec<u32>),
}

/// On which memory node actors run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Numa {
    /// The NIC's.
    Auto,
    /// This one.
    Node(u32),
}
