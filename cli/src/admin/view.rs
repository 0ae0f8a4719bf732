//! Summarizes the engine for `/queues`, `oxide ctl queues` and `oxide top`, in a stable form that can be read back.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use oxide::engine::{EngineState, EngineStatus, QueueState, QueueStatus};

/// Summarizes a relay.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeView {
    /// Version of the running relay.
    pub version: String,
    /// State of the engine.
    pub state: EngineState,
    /// Time since the start of the engine in seconds.
    pub uptime_s: f64,
    /// Changes of the interfaces since they were planned for, each with its remedy.
    pub drift: Vec<String>,
    /// Messages for the operator that no queue state shows: paused ports, links that are down, missing addresses.
    pub notices: Vec<String>,
    /// Summary of each queue.
    pub queues: Vec<QueueView>,
}

/// Summarizes a queue.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueView {
    /// Number of the queue.
    pub queue: u32,
    /// Ports of the queue, as `interface:queue`.
    pub ports: Vec<String>,
    /// State of the queue.
    pub state: QueueState,
    /// State with its reason, and the last event.
    pub last_event: String,
    /// CPU of the actor.
    pub cpu: Option<u32>,
    /// Packet path of each port: `copy`, `zero-copy`, `generic`.
    pub modes: Vec<String>,
    /// Number of packets received.
    pub rx_packets: u64,
    /// Number of bytes received.
    pub rx_bytes: u64,
    /// Number of packets forwarded.
    pub tx_packets: u64,
    /// Number of bytes forwarded.
    pub tx_bytes: u64,
    /// Number of packets that the kernel dropped before the engine received them.
    pub rx_missed: u64,
    /// Number of dropped packets by reason.
    pub drops: BTreeMap<String, u64>,
    /// Number of packets that wait for a next hop or a TX ring.
    pub in_hand: u64,
    /// Number of sessions.
    pub sessions: u64,
    /// Fill level of the fullest ring of each kind, 0 to 1; for `fill`, of the emptiest ring.
    pub rings: BTreeMap<String, f64>,
    /// Time by regime in ns.
    pub regimes: BTreeMap<String, u64>,
    /// Number of batches passed to the handler.
    pub batches: u64,
    /// Number of packets in those batches.
    pub batched: u64,
    /// Number of turns with packets by duration: entry *i* counts those of at most 2^i ns.
    pub turns: Vec<u64>,
    /// Number of restarts.
    pub restarts: u32,
    /// Time from the last failure until the queue ran again, in milliseconds.
    pub last_gap_ms: Option<f64>,
    /// Number of packets lost by the last restart of any scope.
    pub last_lost: u64,
    /// Age of the actor's heartbeat in seconds.
    pub heartbeat_age_s: Option<f64>,
    /// Whether the actor's heartbeat has stopped.
    pub stalled: bool,
    /// Ports that an operator paused.
    pub paused: Vec<String>,
}

impl From<&EngineStatus> for NodeView {
    fn from(status: &EngineStatus) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            state: status.state,
            uptime_s: status.uptime_s,
            drift: status.drift.clone(),
            notices: status.current_notices(),
            queues: status.queues.iter().map(|queue| QueueView::new(queue, status)).collect(),
        }
    }
}

impl QueueView {
    fn new(queue: &QueueStatus, status: &EngineStatus) -> Self {
        let mut rings = BTreeMap::new();
        for port in &queue.ports {
            for (ring, ratio) in port.fullness(&status.rings) {
                let worst = rings.entry(ring.to_owned()).or_insert(ratio);
                *worst = if ring == "fill" { worst.min(ratio) } else { worst.max(ratio) };
            }
        }
        let modes: std::collections::BTreeSet<_> = queue.mode.iter().map(|m| m.mode.to_string()).collect();
        let totals = &queue.totals;
        Self {
            queue: queue.queue,
            ports: queue.ports.iter().map(|p| p.id.to_string()).collect(),
            state: queue.state,
            last_event: queue.last_event.clone(),
            cpu: queue.cpu,
            modes: modes.into_iter().collect(),
            rx_packets: totals.rx_packets,
            rx_bytes: totals.rx_bytes,
            tx_packets: totals.tx_packets,
            tx_bytes: totals.tx_bytes,
            rx_missed: totals.rx_missed,
            drops: totals.drops.nonzero().map(|(reason, n)| (reason.name().to_owned(), n)).collect(),
            in_hand: queue.in_hand,
            sessions: totals.sessions,
            rings,
            regimes: totals.regimes().iter().map(|(name, ns)| ((*name).to_owned(), *ns)).collect(),
            batches: queue.batch_sizes.count(),
            batched: queue.batch_sizes.sum(),
            turns: queue.turn_ns.buckets().map(|(_, n)| n).collect(),
            restarts: queue.restarts,
            last_gap_ms: queue.last_gap_ms,
            last_lost: queue.last_lost,
            heartbeat_age_s: queue.heartbeat_age_s,
            stalled: queue.stalled,
            paused: queue.paused.iter().map(ToString::to_string).collect(),
        }
    }

    /// Returns the state shown to people: `stalled`, or `paused` if a port of a running queue is paused, otherwise
    /// the name of the state.
    #[must_use]
    pub fn shown_state(&self) -> &'static str {
        match (self.stalled, self.paused.is_empty()) {
            (true, _) => "stalled",
            (false, false) if self.state == QueueState::Running => "paused",
            _ => self.state.name(),
        }
    }

    /// Returns the number of dropped packets, for all reasons.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }
}

impl NodeView {
    /// Returns a table with one line for each queue, with totals since the start.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("oxide {} {}, up {:.0} s\n", self.version, self.state, self.uptime_s);
        let _ = writeln!(
            text,
            "{:<5} {:<10} {:>3} {:<9} {:>12} {:>12} {:>10} {:>8} {:>8} {:>5} {:>8} {:>7}  last event",
            "queue", "state", "cpu", "mode", "rx", "tx", "drops", "missed", "sessions", "rst", "gap ms", "beat s"
        );
        for q in &self.queues {
            let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
            let _ = writeln!(
                text,
                "{:<5} {:<10} {:>3} {:<9} {:>12} {:>12} {:>10} {:>8} {:>8} {:>5} {:>8} {:>7}  {}",
                q.queue,
                q.shown_state(),
                or_dash(q.cpu.map(|c| c.to_string())),
                or_dash((!q.modes.is_empty()).then(|| q.modes.join("/"))),
                q.rx_packets,
                q.tx_packets,
                q.dropped(),
                q.rx_missed,
                q.sessions,
                q.restarts,
                or_dash(q.last_gap_ms.map(|ms| format!("{ms:.1}"))),
                or_dash(q.heartbeat_age_s.map(|s| format!("{s:.2}"))),
                q.last_event
            );
        }
        for notice in &self.notices {
            let _ = writeln!(text, "notice: {notice}");
        }
        for drift in &self.drift {
            let _ = writeln!(text, "changed since the start: {drift}");
        }
        text
    }
}
