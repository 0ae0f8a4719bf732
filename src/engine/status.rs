//! Defines the status of the engine: one value for the API, the report file and the terminal.

use std::fs;
use std::time::{Duration, Instant};

use oxide_actors::supervisor::{ActorState, Cause};
use serde::Serialize;

use super::cause::{LastRestart, RestartCounts};
use super::layer::Layer;
use super::link_status::{AddressStatus, LinkStatus};
use super::port_status::PortStatus;
use super::state::{EngineState, QueueState};
use super::totals::Totals;
use crate::port::{Mode, PortInfo, QueueId};
use crate::queue::{BatchSizes, QueueSnapshot, TurnTimes};
use crate::telemetry::DropReason;
use crate::umem::{FrameCounts, PageReport, RingSizes};

/// Describes the engine at one moment.
#[derive(Debug, Clone, Serialize, Default)]
pub struct EngineStatus {
    /// State of the engine as a whole.
    pub state: EngineState,
    /// Time since start, in seconds.
    pub uptime_s: f64,
    /// Time from start until the last queue received packets, in milliseconds; `None` before.
    pub start_to_ready_ms: Option<f64>,
    /// Time from start until the first packet was forwarded, in milliseconds; `None` before. The snapshots make it up
    /// to 100 ms late.
    pub first_packet_ms: Option<f64>,
    /// CPU time and memory of all threads. The kernel's work for them is included, softirq is not.
    pub process: ProcessUsage,
    /// Sizes of each port's rings.
    pub rings: RingSizes,
    /// Status of each queue.
    pub queues: Vec<QueueStatus>,
    /// Sums over the queues.
    pub totals: Totals,
    /// Packets that the XDP programs passed to the kernel or redirected, by reason.
    pub steering: Vec<SteeringStatus>,
    /// Sandbox layers that the process reported ([`EngineHandle::confined`](super::EngineHandle::confined)).
    pub sandbox: Vec<Layer>,
    /// Changes of the interfaces since the plan, one sentence with remedy each.
    pub drift: Vec<String>,
    /// Links of the served interfaces.
    pub links: Vec<LinkStatus>,
    /// Addresses of the destinations.
    pub addresses: Vec<AddressStatus>,
    /// Conditions that an operator should know although every queue runs ([`current_notices`](Self::current_notices)).
    pub notices: Vec<String>,
    /// Queues that were stopped and still run, because their handlers do not return.
    pub not_ended: Vec<u32>,
    /// Whether the accounting of every queue matches.
    pub balanced: bool,
    /// Number of frames missing from the accounting.
    pub unaccounted: u64,
}

/// Reports CPU time and memory of the process.
#[derive(Debug, Clone, Copy, Serialize, Default)]
pub struct ProcessUsage {
    /// CPU time in user mode, in seconds.
    pub cpu_user_s: f64,
    /// CPU time in the kernel, in seconds.
    pub cpu_system_s: f64,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
}

impl ProcessUsage {
    /// Reads /proc/self (proc(5)). Returns zeros if it is missing.
    #[must_use]
    pub fn now() -> Self {
        let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        // The second field is the name in parentheses, which may contain any character, so count after its end.
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

/// Describes the receive mode of one port.
#[derive(Debug, Clone, Serialize)]
pub struct ModeStatus {
    /// Interface.
    pub interface: String,
    /// Mode in which packets reach the packet memory.
    pub mode: Mode,
    /// XDP hook: `native` or `generic`.
    pub attach: &'static str,
    /// Whether the kernel reports zero-copy.
    pub zero_copy: bool,
    /// Reason why no faster mode is in force.
    pub reason: String,
    /// Result of the request for preferred busy polling, or the reason against it.
    pub busy_poll: String,
    /// Whether preferred busy polling is in force.
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

/// Reports the verdicts of one XDP program.
#[derive(Debug, Clone, Serialize)]
pub struct SteeringStatus {
    /// Interface of the program.
    pub interface: String,
    /// Number of packets by verdict.
    pub verdicts: std::collections::BTreeMap<String, u64>,
}

/// Describes one queue.
#[derive(Debug, Clone, Serialize, Default)]
pub struct QueueStatus {
    /// Queue number.
    pub queue: u32,
    /// CPU of its actor.
    pub cpu: Option<u32>,
    /// State of the queue.
    pub state: QueueState,
    /// Reason why it restarts, waits or has failed, as text; empty otherwise.
    pub reason: String,
    /// Executor that runs the actor.
    pub executor: String,
    /// Receive mode of each port.
    pub mode: Vec<ModeStatus>,
    /// Pages of the packet memory.
    pub pages: Option<PageReport>,
    /// Differences from the plan, one sentence each, as the kernel reports them.
    pub differences: Vec<String>,
    /// Sums of this queue over all its actors.
    #[serde(flatten)]
    pub totals: Totals,
    /// Counters and ring use of each port.
    pub ports: Vec<PortStatus>,
    /// Packets that the actor holds, which wait for a next hop or a TX ring.
    pub in_hand: u64,
    /// Batches shown to the handler, by their number of packets.
    pub batch_sizes: BatchSizes,
    /// Turns with packets, by their duration in ns.
    pub turn_ns: TurnTimes,
    /// Time since the actor's last report, in seconds. It reports every 100 ms. `None` while there is no actor.
    pub heartbeat_age_s: Option<f64>,
    /// Number of restarts at any scope.
    pub restarts: u32,
    /// Number of restarts by scope and cause.
    pub restarts_by: RestartCounts,
    /// Packets that the last restart lost, at any scope.
    pub last_lost: u64,
    /// Last restart: scope, cause, duration and lost packets.
    pub last_restart: Option<LastRestart>,
    /// Last state change, with the reason.
    pub last_event: String,
    /// Time from the last failure until the queue ran again, in milliseconds.
    pub last_gap_ms: Option<f64>,
    /// Whether its heartbeat has stopped.
    pub stalled: bool,
    /// Ports that an operator paused: they receive no new packets. The pause continues after restarts.
    pub paused: Vec<QueueId>,
    /// Number of its frames in each state.
    pub census: FrameCounts,
    /// Whether its accounting matches.
    pub balanced: bool,
    /// User-side time per packet, in nanoseconds.
    pub work_ns_per_packet: f64,
    /// Memory in bytes without the packet memory: the handler and the channels.
    pub memory_bytes: u64,
    /// Size of the packet memory, in bytes.
    pub umem_bytes: u64,
    /// Counters of the handlers by name, over all handlers of the queue.
    pub handler: HandlerCounts,
    /// Number of messages that wait for the actor; `None` while there is none.
    pub control_depth: Option<u64>,
    #[serde(skip)]
    pub(super) retired: PastTotals,
    /// Time of the actor's last report; `None` while there is no actor.
    #[serde(skip)]
    pub(super) heard: Option<Instant>,
    #[serde(skip)]
    pub(super) frames_lost: u64,
    /// Whether the last state change was a handler restart.
    #[serde(skip)]
    pub(super) handler_back: bool,
}

type HandlerCounts = std::collections::BTreeMap<&'static str, u64>;

/// Holds the counters of a queue's earlier actors.
#[derive(Debug, Clone, Default)]
pub(super) struct PastTotals {
    totals: Totals,
    ports: Vec<PortStatus>,
    batch_sizes: BatchSizes,
    turn_ns: TurnTimes,
    handler: HandlerCounts,
}

impl QueueStatus {
    /// Records that a new actor runs. It keeps the counters of the former actor, and the new one counts from zero.
    pub(super) fn begin(&mut self, wall: Duration) {
        self.retire();
        self.heard = Some(Instant::now());
        self.add_downtime(wall);
    }

    /// Updates the status from the actor's snapshot. `wall` is the engine's age.
    pub(super) fn update(&mut self, snapshot: &QueueSnapshot, wall: Duration) {
        self.heard = Some(Instant::now());
        let down_ns = self.totals.down_ns;
        self.totals = self.retired.totals.clone();
        self.totals.merge(&Totals::from(snapshot));
        self.totals.down_ns = down_ns;
        self.add_downtime(wall);
        self.batch_sizes = self.retired.batch_sizes.clone();
        self.batch_sizes.merge(&snapshot.counters.batches);
        self.turn_ns = self.retired.turn_ns.clone();
        self.turn_ns.merge(&snapshot.counters.turn_ns);
        self.ports = PortStatus::list(&self.retired.ports, &snapshot.ports);
        self.in_hand = u64::from(snapshot.in_hand);
        self.census = snapshot.census;
        self.balanced = snapshot.balanced;
        self.frames_lost = u64::from(snapshot.census.app.abs_diff(snapshot.in_hand));
        let packets = snapshot.counters.received + snapshot.counters.taken_over;
        self.work_ns_per_packet = if packets == 0 { 0.0 } else { snapshot.counters.work_ns as f64 / packets as f64 };
        self.memory_bytes = snapshot.handler_bytes + super::outbox::INBOX_BYTES;
        self.umem_bytes = snapshot.umem_bytes;
        self.handler.clone_from(&self.retired.handler);
        snapshot.handler.iter().for_each(|(name, count)| *self.handler.entry(name).or_default() += count);
        for (mode, port) in self.mode.iter_mut().zip(&snapshot.ports) {
            mode.busy_polling = port.busy_polling;
        }
    }

    /// Records that the next handler took over nothing and counts from zero.
    pub(super) fn restart_handler_counts(&mut self) {
        self.retired.handler.clone_from(&self.handler);
    }

    /// Returns whether every received packet was counted exactly once.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let Totals { rx_packets, taken_over, tx_packets, handed_over, ref drops, .. } = self.totals;
        rx_packets + taken_over == tx_packets + handed_over + drops.total() + self.in_hand
    }

    /// Adds the time without an actor, so that the sum of the regimes is `wall`, the engine's age. The value never
    /// decreases, because readers of a counter take a decrease for a restart.
    fn add_downtime(&mut self, wall: Duration) {
        let heard_ago = self.heard.map_or(Duration::ZERO, |at| at.elapsed());
        let known = wall.saturating_sub(heard_ago).as_nanos() as u64;
        self.totals.down_ns += known.saturating_sub(self.totals.wall_ns());
    }

    /// Records a state change.
    pub(super) fn changed(&mut self, from: &ActorState, to: &ActorState, cause: &Cause, gap: Option<Duration>) {
        self.restarted(from, to, cause, gap);
        self.state = QueueState::from(to);
        self.reason = match to {
            ActorState::Restarting { .. } => cause.to_string(),
            ActorState::Waiting { why } => why.to_string(),
            ActorState::Failed { why } => why.to_string(),
            _ => String::new(),
        };
        if matches!(to, ActorState::Restarting { .. }) {
            self.restarts += 1;
        }
        self.restarts_by.count(to, cause);
        self.handler_back = *cause == Cause::HandlerRestarted;
        self.last_event = match (to, gap, &self.last_restart) {
            (ActorState::Running, Some(_), Some(last)) => last.to_string(),
            _ => cause.to_string(),
        };
    }

    /// Describes the state of the queue for a reader, with the reason.
    pub(super) fn described(&self) -> String {
        let Self { queue, state, reason, .. } = self;
        if reason.is_empty() { format!("{queue}: {state}") } else { format!("{queue}: {state} ({reason})") }
    }

    /// Returns whether the queue receives packets.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == QueueState::Running
    }

    /// Returns whether the queue receives no packets until something changes.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        matches!(self.state, QueueState::Restarting | QueueState::Waiting | QueueState::Failed)
    }

    /// Records that the actor has ended: its counters stay, and the packets it held are lost. A second call changes
    /// nothing, nor does an actor that ended without a final snapshot.
    pub(super) fn retire(&mut self) {
        if self.heard.take().is_none() {
            return;
        }
        let on_rings = self.ports.iter().map(PortStatus::waiting).sum::<u64>();
        self.lost(self.in_hand + on_rings);
        self.totals.drops.add(DropReason::Restart, self.in_hand);
        self.in_hand = 0;
        self.totals.sessions = 0;
        self.ports.iter_mut().for_each(PortStatus::close);
        self.retired = PastTotals {
            totals: self.totals.clone(),
            ports: self.ports.clone(),
            batch_sizes: self.batch_sizes.clone(),
            turn_ns: self.turn_ns.clone(),
            handler: self.handler.clone(),
        };
    }
}

impl EngineStatus {
    /// Computes the sums for a reader.
    pub(super) fn sum_up(&mut self, started: Instant) {
        self.uptime_s = started.elapsed().as_secs_f64();
        self.process = ProcessUsage::now();
        self.totals = Totals::default();
        for queue in &mut self.queues {
            queue.add_downtime(started.elapsed());
            queue.heartbeat_age_s = queue.heard.map(|at| at.elapsed().as_secs_f64());
            self.totals.merge(&queue.totals);
        }
        self.notices = self.current_notices();
        self.balanced = self.queues.iter().all(|q| q.balanced && q.census.balanced() && q.adds_up());
        self.unaccounted = self.queues.iter().map(|q| q.frames_lost).sum();
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
