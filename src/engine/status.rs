//! What the engine says of itself: one value for the API, the report file and the terminal.

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
    /// Sizes of each port's rings.
    pub rings: RingSizes,
    /// Each queue.
    pub queues: Vec<QueueStatus>,
    /// Sums over the queues.
    pub totals: Totals,
    /// Packets that the XDP programs passed to the kernel or redirected, by reason.
    pub steering: Vec<SteeringStatus>,
    /// What the process has given up, as it said itself ([`EngineHandle::confined`](super::EngineHandle::confined)).
    pub sandbox: Vec<Layer>,
    /// What was changed on the interfaces since they were planned for, a sentence each with its mend.
    pub drift: Vec<String>,
    /// Links of the served interfaces.
    pub links: Vec<LinkStatus>,
    /// Addresses that are listed as the engine's.
    pub addresses: Vec<AddressStatus>,
    /// What an operator should know though every queue runs ([`current_notices`](Self::current_notices)).
    pub notices: Vec<String>,
    /// Queues that were told to end and still run: their handlers did not come back.
    pub not_ended: Vec<u32>,
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
    /// State.
    pub state: QueueState,
    /// Why it restarts, waits or has failed, for people; empty otherwise.
    pub reason: String,
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
    /// Each port: counters, and how full its rings are.
    pub ports: Vec<PortStatus>,
    /// Packets in the actor's hands: waiting for a next hop, or for a TX ring.
    pub in_hand: u64,
    /// Batches shown to the handler, by their number of packets.
    pub batch_sizes: BatchSizes,
    /// Turns that had packets, by their time, ns.
    pub turn_ns: TurnTimes,
    /// Since the actor was last heard, seconds: it reports every 100 ms. `None` while there is no actor.
    pub heartbeat_age_s: Option<f64>,
    /// Restarts, soft and hard.
    pub restarts: u32,
    /// The same by depth and cause.
    pub restarts_by: RestartCounts,
    /// Packets that the last restart cost, of whatever depth.
    pub last_lost: u64,
    /// The last restart: depth, cause, gap and cost.
    pub last_restart: Option<LastRestart>,
    /// The last change of state, and why.
    pub last_event: String,
    /// Time from the last failure to running again, milliseconds.
    pub last_gap_ms: Option<f64>,
    /// Its heartbeat stands still.
    pub stalled: bool,
    /// Ports that an operator paused: no new packets are taken of them. Lasts over restarts.
    pub paused: Vec<QueueId>,
    /// Where its frames are.
    pub census: FrameCounts,
    /// Whether its books balance.
    pub balanced: bool,
    /// Our own work for one packet, nanoseconds.
    pub work_ns_per_packet: f64,
    /// Bytes beside the packet memory: what the handler keeps, and the channels.
    pub memory_bytes: u64,
    /// Bytes of packet memory.
    pub umem_bytes: u64,
    /// What the handlers count by their own names, over all their lives.
    pub handler: HandlerCounts,
    /// Messages that wait for the actor; `None` while there is none.
    pub control_depth: Option<u64>,
    #[serde(skip)]
    pub(super) retired: PastTotals,
    /// When the actor was last heard; `None` while there is none.
    #[serde(skip)]
    pub(super) heard: Option<Instant>,
    #[serde(skip)]
    pub(super) frames_lost: u64,
    /// The last change of state was a handler that came back.
    #[serde(skip)]
    pub(super) handler_back: bool,
}

type HandlerCounts = std::collections::BTreeMap<&'static str, u64>;

/// What earlier actors of a queue counted.
#[derive(Debug, Clone, Default)]
pub(super) struct PastTotals {
    totals: Totals,
    ports: Vec<PortStatus>,
    batch_sizes: BatchSizes,
    turn_ns: TurnTimes,
    handler: HandlerCounts,
}

impl QueueStatus {
    /// A new actor is at work: what the former one counted stays, and the new one counts from zero.
    pub(super) fn begin(&mut self, wall: Duration) {
        self.retire();
        self.heard = Some(Instant::now());
        self.add_downtime(wall);
    }

    /// Takes in what the actor says now; `wall` is the engine's age.
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

    /// The next handler has taken nothing over, and counts from zero.
    pub(super) fn counts_anew(&mut self) {
        self.retired.handler.clone_from(&self.handler);
    }

    /// Whether each packet that came became exactly one thing.
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let Totals { rx_packets, taken_over, tx_packets, handed_over, ref drops, .. } = self.totals;
        rx_packets + taken_over == tx_packets + handed_over + drops.total() + self.in_hand
    }

    /// Books the time that no actor was there for, so that the regimes add up to `wall`, the engine's age. It
    /// never gets less: a counter that does is a restart to those who read it.
    fn add_downtime(&mut self, wall: Duration) {
        let heard_ago = self.heard.map_or(Duration::ZERO, |at| at.elapsed());
        let known = wall.saturating_sub(heard_ago).as_nanos() as u64;
        self.totals.down_ns += known.saturating_sub(self.totals.wall_ns());
    }

    /// Its state has changed.
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

    /// Describes its state for people, with the reason.
    pub(super) fn described(&self) -> String {
        let Self { queue, state, reason, .. } = self;
        if reason.is_empty() { format!("{queue}: {state}") } else { format!("{queue}: {state} ({reason})") }
    }

    /// Whether it takes packets.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.state == QueueState::Running
    }

    /// Whether it does not take packets, and will not without something changing.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        matches!(self.state, QueueState::Restarting | QueueState::Waiting | QueueState::Failed)
    }

    /// The actor has ended: what it counted stays, and what it had in its hands is lost. Told twice, or for
    /// an actor that ended without last words, it is the same.
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
    /// Sums up, for a reader.
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
