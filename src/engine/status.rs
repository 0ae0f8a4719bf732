//! What the engine says of itself: one value for the API, the report file and the terminal.

use std::fs;
use std::time::{Duration, Instant};

use oxide_actors::supervisor::State;
use serde::Serialize;

use crate::port::{Mode, PortInfo};
use crate::queue::{QueueCounters, QueueSnapshot};
use crate::telemetry::DropCounters;
use crate::umem::{Census, PageReport};

/// How the engine as a whole is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum EngineState {
    /// Not every queue has opened yet.
    #[default]
    Starting,
    /// Every queue runs.
    Running,
    /// At least one queue does not.
    Degraded,
    /// Ending: no new sessions, then no packets.
    Draining,
    /// Ended.
    Stopped,
}

/// The engine at one moment.
#[derive(Debug, Clone, Serialize, Default)]
pub struct EngineStatus {
    /// How it is as a whole.
    pub state: EngineState,
    /// Since it was started, seconds.
    pub uptime_s: f64,
    /// From start to the last queue taking packets, milliseconds; `None` before.
    pub start_to_ready_ms: Option<f64>,
    /// From start to the first packet forwarded, milliseconds; `None` before. Seen with the snapshots,
    /// so up to 100 ms late.
    pub first_packet_ms: Option<f64>,
    /// The process: all threads, the kernel's work for them included, softirq not.
    pub process: ProcessUsage,
    /// Each queue.
    pub queues: Vec<QueueStatus>,
    /// Sums over the queues.
    pub totals: Totals,
    /// Packets that the XDP programs passed to the kernel or redirected, by reason.
    pub steering: Vec<SteeringStatus>,
    /// Every queue's books balance.
    pub balanced: bool,
    /// Frames that no queue can account for.
    pub unaccounted: u64,
}

/// CPU time and memory of the process.
#[derive(Debug, Clone, Copy, Serialize, Default)]
pub struct ProcessUsage {
    /// In user mode, seconds.
    pub cpu_user_s: f64,
    /// In the kernel, seconds.
    pub cpu_system_s: f64,
    /// Resident memory, bytes.
    pub rss_bytes: u64,
}

impl ProcessUsage {
    /// Reads /proc/self (proc(5)); zeros where that is not there.
    #[must_use]
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the name in parentheses, which may hold anything: count from its end.
        let after = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |n: usize| after.split_whitespace().nth(n - 3).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        Self {
            cpu_user_s: field(14) as f64 / ticks,
            cpu_system_s: field(15) as f64 / ticks,
            rss_bytes: field(24) * rustix::param::page_size() as u64,
        }
    }
}

/// The rung one port is on.
#[derive(Debug, Clone, Serialize)]
pub struct ModeStatus {
    /// Interface.
    pub interface: String,
    /// How packets get into our memory.
    pub mode: Mode,
    /// Which XDP hook: `native` or `generic`.
    pub attach: &'static str,
    /// As the kernel says.
    pub zero_copy: bool,
    /// Why it is not better.
    pub reason: String,
    /// What was asked for of preferred busy polling, or why not.
    pub busy_poll: String,
    /// Preferred busy polling is in force.
    pub busy_polling: bool,
}

impl From<&PortInfo> for ModeStatus {
    fn from(info: &PortInfo) -> Self {
        Self {
            interface: info.id.interface.clone(),
            mode: info.mode,
            attach: if info.mode == Mode::Generic { "generic" } else { "native" },
            zero_copy: info.mode == Mode::ZeroCopy,
            reason: info.mode_reason.clone(),
            busy_poll: info.busy_poll.clone(),
            busy_polling: false,
        }
    }
}

/// What one XDP program did with what it saw.
#[derive(Debug, Clone, Serialize)]
pub struct SteeringStatus {
    /// Its interface.
    pub interface: String,
    /// Packets by verdict.
    pub verdicts: std::collections::BTreeMap<String, u64>,
}

/// One queue.
#[derive(Debug, Clone, Serialize, Default)]
pub struct QueueStatus {
    /// Queue number.
    pub queue: u32,
    /// CPU of its actor.
    pub cpu: Option<u32>,
    /// State and, where it is not running, why.
    pub state: String,
    /// What runs the actor.
    pub executor: String,
    /// The rung of each port.
    pub mode: Vec<ModeStatus>,
    /// Pages of the packet memory.
    pub pages: Option<PageReport>,
    /// How it runs otherwise than planned, a sentence each, by what the kernel says.
    pub differences: Vec<String>,
    /// Sums of this queue.
    #[serde(flatten)]
    pub totals: Totals,
    /// Restarts, soft and hard.
    pub restarts: u32,
    /// The last change of state, and why.
    pub last_event: String,
    /// Time from the last failure to running again, milliseconds.
    pub last_gap_ms: Option<f64>,
    /// Its heartbeat stands still.
    pub stalled: bool,
    /// Where its frames are.
    pub census: Census,
    /// Whether its books balance.
    pub balanced: bool,
    /// Our own work for one packet, nanoseconds.
    pub work_ns_per_packet: f64,
    /// Bytes beside the packet memory: what the handler keeps, and the channels.
    pub memory_bytes: u64,
    /// Bytes of packet memory.
    pub umem_bytes: u64,
    /// What earlier actors of this queue counted.
    #[serde(skip)]
    pub retired: Totals,
    #[serde(skip)]
    pub(super) frames_lost: u64,
    #[serde(skip)]
    pub(super) life: Life,
}

/// What a queue's state means for the engine as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Life {
    #[default]
    Opening,
    Running,
    /// Waiting, failed, or between two tries.
    Stuck,
    Ended,
}

/// Counters of a queue or of all.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Totals {
    /// Packets taken from RX rings.
    pub rx_packets: u64,
    /// Bytes of them.
    pub rx_bytes: u64,
    /// Packets put on TX rings.
    pub tx_packets: u64,
    /// Bytes of them.
    pub tx_bytes: u64,
    /// Packets given to other queues.
    pub handed_over: u64,
    /// Packets that other queues gave.
    pub taken_over: u64,
    /// Packets dropped, by reason.
    pub drops: DropCounters,
    /// Packets the kernel dropped because the RX ring was full or no frame was posted.
    pub rx_missed: u64,
    /// Sessions now.
    pub sessions: u64,
    /// Time with packets, ns.
    pub busy_ns: u64,
    /// Time polling without packets, ns.
    pub spin_ns: u64,
    /// Time asleep, ns.
    pub sleep_ns: u64,
    /// Our own work, ns.
    pub work_ns: u64,
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
        self.spin_ns += other.spin_ns;
        self.sleep_ns += other.sleep_ns;
        self.work_ns += other.work_ns;
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
            spin_ns: snapshot.counters.spin_ns,
            sleep_ns: snapshot.counters.sleep_ns,
            work_ns: snapshot.counters.work_ns,
        }
    }
}

impl QueueStatus {
    /// Takes in what the actor says now.
    pub(super) fn update(&mut self, snapshot: &QueueSnapshot) {
        self.totals = self.retired.clone();
        self.totals.merge(&Totals::from(snapshot));
        self.census = snapshot.census;
        self.balanced = snapshot.balanced;
        self.frames_lost = u64::from(snapshot.census.app.abs_diff(snapshot.in_hand));
        let packets = snapshot.counters.received + snapshot.counters.taken_over;
        self.work_ns_per_packet = if packets == 0 { 0.0 } else { snapshot.counters.work_ns as f64 / packets as f64 };
        self.memory_bytes = snapshot.handler_bytes + super::launch::INBOX_BYTES;
        self.umem_bytes = snapshot.umem_bytes;
        for (mode, port) in self.mode.iter_mut().zip(&snapshot.ports) {
            mode.busy_polling = port.busy_polling;
        }
    }

    /// Its state has changed.
    pub(super) fn changed(&mut self, to: &State, cause: String, gap: Option<Duration>) {
        self.life = match to {
            State::Planned | State::Opening => Life::Opening,
            State::Running => Life::Running,
            State::Restarting { .. } | State::Waiting { .. } | State::Failed { .. } => Life::Stuck,
            State::Draining | State::Stopped => Life::Ended,
        };
        if matches!(to, State::Restarting { .. }) {
            self.restarts += 1;
        }
        if let Some(gap) = gap {
            self.last_gap_ms = Some(millis(gap));
        }
        self.last_event = cause;
    }

    /// Whether it takes packets.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.life == Life::Running
    }

    /// Whether it does not take packets, and will not without something changing.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.life == Life::Stuck
    }

    /// The actor has ended: what it counted stays, and the next one counts from zero.
    pub(super) fn retire(&mut self) {
        self.retired = self.totals.clone();
        self.retired.sessions = 0;
    }
}

impl EngineStatus {
    /// Sums up, for a reader.
    pub(super) fn sum_up(&mut self, started: Instant) {
        self.uptime_s = started.elapsed().as_secs_f64();
        self.process = ProcessUsage::now();
        self.totals = Totals::default();
        for queue in &self.queues {
            self.totals.merge(&queue.totals);
        }
        self.balanced = self.queues.iter().all(|q| q.balanced && q.census.balanced());
        self.unaccounted = self.queues.iter().map(|q| q.frames_lost).sum();
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
