//! Simulates the whole engine with simulated NICs: queues, the supervisor's decisions, traffic and faults, on one
//! thread. The seed determines the run.
//!
//! ```text
//!   clients --> clients:q --> Actor q (the engine's own)  --> servers:q --> servers, who answer
//!                  |         SupervisorCore (the engine's own)     |
//!               SimNet: kernel's side, faults      InvariantChecker: every packet and frame
//! ```
//!
//! The queue's actor, everything below it except the NIC, its mailbox, its state reports and the supervisor's
//! [`SupervisorCore`](oxide_actors::supervisor::SupervisorCore) are the engine's own. Threads, clocks and the kernel
//! are simulated.
//!
//! ```
//! let report = oxide_sim::run(&oxide_sim::SimOptions { packets: 2_000, ..Default::default() });
//! assert!(report.passed(), "{:?}", report.failure);
//! ```
#![forbid(unsafe_code)]

mod actor;
mod app;
mod checks;
mod command;
mod fault_rates;
mod forward;
mod invariants;
mod malformed;
pub mod pcap;
pub mod reference;
mod replay;
mod simulation;
mod traffic;

use std::time::{Duration, Instant};

use serde::Serialize;

pub use app::Application;
pub use fault_rates::{FaultRates, InjectedFault, named};
pub use invariants::{Checker, Failure};
pub use replay::{Replay, ReplayError};

use oxide::port::sim::{KernelFaultRates, LinkCounters, LinkSpec};
use oxide::telemetry::DropCounters;
use oxide::umem::FrameCounts;

/// Describes a simulation run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimOptions {
    /// Sets the number of queues, 1 to 64. Each has an actor, a port towards clients and a port towards servers.
    pub queues: u32,
    /// Sets the number of packets that clients send. Servers answer each packet that they receive.
    pub packets: u64,
    /// Sets the fault rates of the kernel and the NICs.
    pub faults: KernelFaultRates,
    /// Sets the fault rates of actors, links and devices.
    pub fault_rates: FaultRates,
    /// Selects the packet handler.
    pub application: Application,
    /// Describes the links to the clients and to the servers, each for both directions.
    pub links: [LinkSpec; 2],
    /// Limits faults to this queue; faults that affect several queues are off. Other queues may lose nothing.
    pub only: Option<u32>,
    /// Replays clients' packets from a capture instead of generating them. The relay handles them and is compared
    /// with the reference.
    pub replay: Option<Replay>,
    /// Determines the run: equal seeds give equal runs.
    pub seed: u64,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            queues: 2,
            packets: 100_000,
            faults: KernelFaultRates::none(),
            fault_rates: FaultRates::none(),
            application: Application::Forward,
            links: [LinkSpec::default(); 2],
            only: None,
            replay: None,
            seed: 1,
        }
    }
}

/// Reports the result of a simulation run.
#[derive(Debug, Clone, Serialize)]
pub struct SimReport {
    /// Repeats the seed of the options.
    pub seed: u64,
    /// Repeats the number of queues of the options.
    pub queues: u32,
    /// Counts packets that clients sent.
    pub sent: u64,
    /// Counts those of `sent` that left the engine towards a server.
    pub there: u64,
    /// Counts answers that servers sent.
    pub answers: u64,
    /// Counts those of `answers` that left the engine towards a client.
    pub back: u64,
    /// Sums the counters of all links.
    pub links: LinkCounters,
    /// Counts additional malformed packets.
    pub malformed: u64,
    /// Counts those of `sent` that came from one-time clients.
    pub one_time_clients: u64,
    /// Counts packets that the engine dropped, by reason.
    pub drops: DropCounters,
    /// Counts packets lost before the engine received them: on the wire, for lack of a frame, on a full RX ring,
    /// without a socket, or on the rings of a socket that closed.
    pub lost_before: u64,
    /// Counts packets lost after the engine had sent them.
    pub lost_after: u64,
    /// Counts descriptors of the kernel that the ledger refused.
    pub bad_descriptors: u64,
    /// Counts answers that went to another client and were excused. Their session was lost while they were in flight
    /// (with its actor, or by a jump of the clock), and a new session got the source port. Any other misdelivered
    /// answer fails the run.
    pub misdelivered: u64,
    /// Counts handler restarts.
    pub soft_restarts: u64,
    /// Counts port restarts while the actor continued.
    pub port_restarts: u64,
    /// Counts queue restarts.
    pub hard_restarts: u64,
    /// Counts how often a queue failed until an operator restarted it.
    pub given_up: u64,
    /// Counts completions that never came; a restart recovered their frames.
    pub lost_completions: u64,
    /// Counts quiescent points.
    pub quiescent_points: u64,
    /// Counts steps of the simulation.
    pub steps: u64,
    /// Measures the virtual time of the run.
    pub virtual_time: Duration,
    /// Measures the real time of the run.
    pub real_time: Duration,
    /// Measures packets through the engine, in both directions, per second of real time.
    pub packets_per_second: f64,
    /// Reports each queue at the end of the run.
    pub queue_reports: Vec<SimQueue>,
    /// Hashes every packet that left, with time and port: runs with equal fingerprints are equal.
    pub fingerprint: u64,
    /// Counts the checks of each checker.
    pub checks: Vec<(Checker, u64)>,
    /// Holds the first failure; `None` if every check passed.
    pub failure: Option<Failure>,
}

/// Reports one queue at the end of a simulation; the counters include all its runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SimQueue {
    /// Numbers the queue.
    pub queue: u32,
    /// Counts packets from the RX rings.
    pub rx_packets: u64,
    /// Counts packets to the TX rings.
    pub tx_packets: u64,
    /// Counts packets handed over to their home queue.
    pub handed_over: u64,
    /// Counts current sessions.
    pub sessions: u64,
    /// Counts restarts of any scope, automatic and by an operator.
    pub restarts: u64,
    /// Holds the supervisor's state of the queue.
    pub state: String,
    /// Counts its frames by state.
    pub census: FrameCounts,
    /// States whether the accounting of the queue balances.
    pub balanced: bool,
}

impl SimReport {
    /// Returns true if every check passed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failure.is_none()
    }
}

/// Runs a simulation to its end or to the first failure.
#[must_use]
pub fn run(options: &SimOptions) -> SimReport {
    run_with(options, |_: u64| {})
}

/// Observes a running simulation. A closure that takes the number of packets sent so far implements it.
pub trait Watch {
    /// Receives the number of packets sent so far, at each quiescent point.
    fn progress(&mut self, sent: u64) {
        let _ = sent;
    }

    /// Receives a frame that left the engine, with the virtual time.
    fn left(&mut self, at: Duration, frame: &[u8]) {
        let _ = (at, frame);
    }
}

impl<F: FnMut(u64)> Watch for F {
    fn progress(&mut self, sent: u64) {
        self(sent);
    }
}

/// Runs a simulation like [`run`], with an observer.
#[must_use]
pub fn run_with(options: &SimOptions, mut watch: impl Watch) -> SimReport {
    let started = Instant::now();
    let mut world = simulation::Simulation::new(options);
    world.run(&mut watch);
    world.report(started.elapsed())
}
