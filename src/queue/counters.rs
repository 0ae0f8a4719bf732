//! Defines the counters of one queue. All of them are monotonic.

use serde::Serialize;

use crate::telemetry::{DropCounters, Histogram};

/// Counts batches by size: 1, 2, 4, up to 64 packets.
pub type BatchSizes = Histogram<8>;
/// Counts turns by duration, in ns, up to one second.
pub type TurnTimes = Histogram<32>;

/// Counts the events of one queue. At every quiescent point
/// `received + taken_over = forwarded + handed_over + sum of drops + in hand`. The sum
/// `busy + backpressure + spin + sleep + control` is the time since the actor opened its ports.
#[derive(Debug, Clone, Default, Serialize)]
pub struct QueueCounters {
    /// Counts packets taken from the RX rings.
    pub received: u64,
    /// Counts packets that other queues handed over to this one.
    pub taken_over: u64,
    /// Counts packets put on a TX ring.
    pub forwarded: u64,
    /// Counts packets handed over to the queue that owns their flow.
    pub handed_over: u64,
    /// Counts dropped packets by reason.
    pub drops: DropCounters,
    /// Counts batches shown to the handler, by their number of packets.
    pub batches: BatchSizes,
    /// Counts turns of the loop.
    pub turns: u64,
    /// Counts turns with packets by their duration in ns, the kernel side included.
    pub turn_ns: TurnTimes,
    /// Measures the time in [`work`](super::Datapath::work) of turns with packets, which is the user side, in ns.
    pub work_ns: u64,
    /// Measures the time in the regime `busy`, in ns: the turn had packets.
    pub busy_ns: u64,
    /// Measures the time in the regime `backpressure`, in ns: no packet was taken, and kernel work remained.
    pub backpressure_ns: u64,
    /// Measures the time in the regime `spin`, in ns: polling without packets.
    pub spin_ns: u64,
    /// Measures the time in the regime `sleep`, in ns: blocked on the sockets and the mailbox.
    pub sleep_ns: u64,
    /// Measures the time in the regime `control`, in ns: messages and snapshots.
    pub control_ns: u64,
    /// Counts how often the actor went to sleep.
    pub sleeps: u64,
}

/// Names what the actor's time is used for. Exactly one regime is in force at each moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Regime {
    Busy,
    Backpressure,
    Spin,
    Sleep,
    Control,
}

impl QueueCounters {
    /// Adds `ns` of wall clock time to `regime`.
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

    /// Returns the time in all regimes in ns, which is the time since the actor opened its ports.
    #[must_use]
    pub fn wall_ns(&self) -> u64 {
        self.busy_ns + self.backpressure_ns + self.spin_ns + self.sleep_ns + self.control_ns
    }
}
