//! What one queue counts. All monotonic.

use serde::Serialize;

use crate::telemetry::{DropCounters, Histogram};

/// Sizes of batches: 1, 2, 4, up to 64 packets.
pub type BatchSizes = Histogram<8>;
/// Times of turns, ns: up to a second.
pub type TurnTimes = Histogram<32>;

/// Counters of one queue. At every quiescent point
/// `received + taken_over = forwarded + handed_over + sum of drops + in hand`, and
/// `busy + backpressure + spin + sleep + control` is the time since the actor has had its ports open.
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
    /// Batches shown to the handler, by their number of packets.
    pub batches: BatchSizes,
    /// Turns of the loop.
    pub turns: u64,
    /// Turns that had packets, by their time, the kernel's share included, ns.
    pub turn_ns: TurnTimes,
    /// Time in [`work`](super::Datapath::work) of turns that had packets: our own share of the cost, ns.
    pub work_ns: u64,
    /// Time in the regime `busy`: the turn had packets, ns.
    pub busy_ns: u64,
    /// Time in the regime `backpressure`: no packet was taken, and something waited for the kernel, ns.
    pub backpressure_ns: u64,
    /// Time in the regime `spin`: polling without packets, ns.
    pub spin_ns: u64,
    /// Time in the regime `sleep`: blocked on the sockets and the doorbell, ns.
    pub sleep_ns: u64,
    /// Time in the regime `control`: messages and snapshots, ns.
    pub control_ns: u64,
    /// Times the actor went to sleep.
    pub sleeps: u64,
}

/// What the actor's time goes to. At each moment it is exactly one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Regime {
    Busy,
    Backpressure,
    Spin,
    Sleep,
    Control,
}

impl QueueCounters {
    /// Books `ns` of the wall clock.
    #[inline]
    pub(super) fn spend(&mut self, regime: Regime, ns: u64) {
        match regime {
            Regime::Busy => {
                self.busy_ns += ns;
                self.turn_ns.record(ns);
            }
            Regime::Backpressure => self.backpressure_ns += ns,
            Regime::Spin => self.spin_ns += ns,
            Regime::Sleep => self.sleep_ns += ns,
            Regime::Control => self.control_ns += ns,
        }
    }

    /// Time in all regimes, ns: how long the actor has been at work.
    #[must_use]
    pub fn wall_ns(&self) -> u64 {
        self.busy_ns + self.backpressure_ns + self.spin_ns + self.sleep_ns + self.control_ns
    }
}
