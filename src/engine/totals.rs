//! Sums the counters of a queue over all its actors, or of all queues.

use serde::Serialize;

use crate::queue::{QueueCounters, QueueSnapshot};
use crate::telemetry::DropCounters;

/// Holds the counters of one queue or of all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Counts packets taken from RX rings.
    pub rx_packets: u64,
    /// Counts the bytes of these packets.
    pub rx_bytes: u64,
    /// Counts packets put on TX rings.
    pub tx_packets: u64,
    /// Counts the bytes of these packets.
    pub tx_bytes: u64,
    /// Counts packets handed over to other queues.
    pub handed_over: u64,
    /// Counts packets that other queues handed over.
    pub taken_over: u64,
    /// Counts dropped packets by reason.
    pub drops: DropCounters,
    /// Counts packets that the kernel dropped because the RX ring was full or no frame was posted.
    pub rx_missed: u64,
    /// Number of sessions now.
    pub sessions: u64,
    /// Time with packets, in ns.
    pub busy_ns: u64,
    /// Time without packets while kernel work remained, in ns.
    pub backpressure_ns: u64,
    /// Time polling without packets, in ns.
    pub spin_ns: u64,
    /// Time asleep, in ns.
    pub sleep_ns: u64,
    /// Time for messages and reports, in ns.
    pub control_ns: u64,
    /// Time without a running actor (opening, restarting, waiting), in ns.
    pub down_ns: u64,
    /// User-side time for packets, in ns.
    pub work_ns: u64,
    /// Counts system calls that wake the kernel for a ring.
    pub kicks: u64,
    /// Counts system calls that wait for packets.
    pub sleeps: u64,
}

impl Totals {
    /// Adds another set.
    pub fn merge(&mut self, other: &Self) {
        self.rx_packets += other.rx_packets;
        self.rx_bytes += other.rx_bytes;
        self.tx_packets += other.tx_packets;
        self.tx_bytes += other.tx_bytes;
        self.handed_over += other.handed_over;
        self.taken_over += other.taken_over;
        self.drops.merge(&other.drops);
        self.rx_missed += other.rx_missed;
        self.sessions += other.sessions;
        self.busy_ns += other.busy_ns;
        self.backpressure_ns += other.backpressure_ns;
        self.spin_ns += other.spin_ns;
        self.sleep_ns += other.sleep_ns;
        self.control_ns += other.control_ns;
        self.down_ns += other.down_ns;
        self.work_ns += other.work_ns;
        self.kicks += other.kicks;
        self.sleeps += other.sleeps;
    }

    /// Returns the time in each regime, in ns. A queue is in exactly one regime at each moment, so their sum is the
    /// time since the engine started.
    #[must_use]
    pub fn regimes(&self) -> [(&'static str, u64); 6] {
        [
            ("busy", self.busy_ns),
            ("backpressure", self.backpressure_ns),
            ("spin", self.spin_ns),
            ("sleep", self.sleep_ns),
            ("control", self.control_ns),
            ("down", self.down_ns),
        ]
    }

    /// Returns the time in all regimes, in ns.
    #[must_use]
    pub fn wall_ns(&self) -> u64 {
        self.regimes().iter().map(|(_, ns)| ns).sum()
    }
}

impl From<&QueueSnapshot> for Totals {
    fn from(snapshot: &QueueSnapshot) -> Self {
        let QueueCounters { received, taken_over, forwarded, handed_over, ref drops, .. } = snapshot.counters;
        Self {
            rx_packets: received,
            rx_bytes: snapshot.ports.iter().map(|p| p.counters.rx_bytes).sum(),
            tx_packets: forwarded,
            tx_bytes: snapshot.ports.iter().map(|p| p.counters.tx_bytes).sum(),
            handed_over,
            taken_over,
            drops: drops.clone(),
            rx_missed: snapshot.ports.iter().map(|p| p.kernel.rx_dropped + p.kernel.rx_ring_full).sum(),
            sessions: snapshot.sessions,
            busy_ns: snapshot.counters.busy_ns,
            backpressure_ns: snapshot.counters.backpressure_ns,
            spin_ns: snapshot.counters.spin_ns,
            sleep_ns: snapshot.counters.sleep_ns,
            control_ns: snapshot.counters.control_ns,
            // Only the engine knows this time.
            down_ns: 0,
            work_ns: snapshot.counters.work_ns,
            kicks: snapshot.ports.iter().map(|p| p.counters.kicks).sum(),
            sleeps: snapshot.counters.sleeps,
        }
    }
}
