//! What one queue counts. All monotonic.

use serde::Serialize;

use crate::telemetry::DropCounters;

/// Counters of one queue. At every quiescent point
/// `received + taken_over = forwarded + handed_over + sum of drops`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct QueueCounters {
    /// Packets taken from the RX rings.
    pub received: u64,
    /// Packets that other queues handed to this one.
    pub taken_over: u64,
    /// Packets put on a TX ring.
    pub forwarded: u64,
    /// Packets given to the queue that owns their flow.
    pub handed_over: u64,
    /// Packets dropped, by reason.
    pub drops: DropCounters,
    /// Batches shown to the handler.
    pub batches: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// Time in [`work`](super::Worker::work) of turns that had packets: our own share of the cost, ns.
    pub work_ns: u64,
    /// Time in the regime `busy`: the last turn had packets, ns.
    pub busy_ns: u64,
    /// Time in the regime `spin`: polling without packets, ns.
    pub spin_ns: u64,
    /// Time in the regime `sleep`: blocked on the sockets and the doorbell, ns.
    pub sleep_ns: u64,
    /// Times the actor went to sleep.
    pub sleeps: u64,
}
