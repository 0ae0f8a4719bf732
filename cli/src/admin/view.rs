//! The engine in short: what `/queues`, `oxide ctl queues` and `oxide top` show. A stable form that reads back.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use oxide::engine::{EngineState, EngineStatus, QueueState, QueueStatus};

/// A relay in short.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct NodeView {
    /// Version that runs.
    pub version: String,
    /// State of the engine.
    pub state: EngineState,
    /// Since the engine was started, seconds.
    pub uptime_s: f64,
    /// What was changed on the interfaces since they were planned for, each with its mend.
    pub drift: Vec<String>,
    /// What an operator should know though every queue runs: paused ports, links that are down, addresses that are gone.
    pub notices: Vec<String>,
    /// Each queue.
    pub queues: Vec<QueueView>,
}

/// A queue in short.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueView {
    /// Queue number.
    pub queue: u32,
    /// Its ports, as `interface:queue`.
    pub ports: Vec<String>,
    /// State.
    pub state: QueueState,
    /// Its state with the reason, and what happened last.
    pub last_event: String,
    /// CPU of its actor.
    pub cpu: Option<u32>,
    /// How packets get into memory on each port: `copy`, `zero-copy`, `generic`.
    pub modes: Vec<String>,
    /// Packets received.
    pub rx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Packets forwarded.
    pub tx_packets: u64,
    /// Bytes forwarded.
    pub tx_bytes: u64,
    /// Packets that the kernel dropped before we had them.
    pub rx_missed: u64,
    /// Packets dropped, by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packets that wait for a next hop or a TX ring.
    pub in_hand: u64,
    /// Sessions.
    pub sessions: u64,
    /// How full the fullest ring of each kind is, 0 to 1; for `fill`, the emptiest.
    pub rings: BTreeMap<String, f64>,
    /// Time by regime, ns.
    pub regimes: BTreeMap<String, u64>,
    /// Batches shown to the handler.
    pub batches: u64,
    /// Packets in them.
    pub batched: u64,
    /// Turns with packets by their time: at place *i* those of at most 2^i ns.
    pub turns: Vec<u64>,
    /// Restarts.
    pub restarts: u32,
    /// From the last failure to running again, milliseconds.
    pub last_gap_ms: Option<f64>,
    /// Packets that the last restart cost, of whatever depth.
    pub last_lost: u64,
    /// Since its actor was last heard, seconds.
    pub heartbeat_age_s: Option<f64>,
    /// Its heartbeat stands still.
    pub stalled: bool,
    /// Its ports that an operator paused.
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

    /// Returns the name of its state as people see it: `stalled`, or `paused` where a port of a running queue takes no
    /// packets.
    #[must_use]
    pub fn shown_state(&self) -> &'static str {
        match (self.stalled, self.paused.is_empty()) {
            (true, _) => "stalled",
            (false, false) if self.state == QueueState::Running => "paused",
            _ => self.state.name(),
        }
    }

    /// Packets dropped, for all reasons.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.drops.values().sum()
    }
}

impl NodeView {
    /// A line for each queue, totals since start.
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
