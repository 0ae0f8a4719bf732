//! The whole engine against simulated NICs: n queues, the supervisor's decisions, traffic and faults,
//! on one thread, with one seed for one run.
//!
//! ```text
//!   clients --> clients:q --> Actor q (the engine's own)  --> servers:q --> servers, who answer
//!                  |              Roster (the supervisor's own)    |
//!               SimNet: kernel's side, faults          Judge: every packet, every frame
//! ```
//!
//! What is real: the queue's actor with everything under it but the NIC, its mailbox and its words, and the
//! supervisor's [`SupervisorCore`](oxide_actors::supervisor::SupervisorCore). What is not: threads, clocks, and the kernel.
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

/// What to simulate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimOptions {
    /// Queues, each with an actor, a port towards clients and a port towards servers; 1 to 64.
    pub queues: u32,
    /// Packets that clients send. Servers answer each one they get.
    pub packets: u64,
    /// Faults of the kernel and the NICs.
    pub faults: KernelFaultRates,
    /// Faults of actors, links and devices.
    pub fault_rates: FaultRates,
    /// What handles the packets.
    pub application: Application,
    /// Links between the engine and its clients, and between it and servers; both ways of each.
    pub links: [LinkSpec; 2],
    /// Faults strike this queue alone, and only those that strike one queue; the others may lose nothing.
    pub only: Option<u32>,
    /// Clients' packets from a capture instead of made ones. The relay handles them, held against the
    /// reference.
    pub replay: Option<Replay>,
    /// One seed, one run.
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

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct SimReport {
    /// As asked for.
    pub seed: u64,
    /// As asked for.
    pub queues: u32,
    /// Packets that clients sent.
    pub sent: u64,
    /// Of them, those that left the engine towards a server.
    pub there: u64,
    /// Answers that servers sent.
    pub answers: u64,
    /// Of them, those that left the engine towards a client.
    pub back: u64,
    /// What the links did, all together.
    pub links: LinkCounters,
    /// Packets besides that were malformed.
    pub malformed: u64,
    /// Of the clients' packets: those of clients that come once.
    pub one_time_clients: u64,
    /// Packets that the engine dropped, by reason.
    pub drops: DropCounters,
    /// Packets that were lost before the engine saw them: the wire, no frame, no room on the RX ring,
    /// no socket, a socket closed under them.
    pub lost_before: u64,
    /// Packets that were lost after the engine had sent them.
    pub lost_after: u64,
    /// Descriptors of the kernel that the ledger refused.
    pub bad_descriptors: u64,
    /// Answers that came to another client: the sessions they were asked for in were lost while they were under
    /// way (with their actor, or by a jump of the clock), and a new session had got the source port. Any other that
    /// goes astray fails the run.
    pub misdelivered: u64,
    /// Handlers made anew.
    pub soft_restarts: u64,
    /// Times at which ports were opened again while their actor lived on.
    pub port_restarts: u64,
    /// Actors made anew.
    pub hard_restarts: u64,
    /// Times at which a queue was given up, until an operator restarted it.
    pub given_up: u64,
    /// Completions that never came; their frames came back by a restart.
    pub lost_completions: u64,
    /// Times at which everything was at rest and checked.
    pub quiescent_points: u64,
    /// Steps of the simulation.
    pub steps: u64,
    /// Virtual time.
    pub virtual_time: Duration,
    /// Real time.
    pub real_time: Duration,
    /// Packets through the engine, there and back, for each second of real time.
    pub packets_per_second: f64,
    /// Each queue, as it stood at the end.
    pub queue_reports: Vec<SimQueue>,
    /// Over every packet that left, when and where: two runs are the same if these are.
    pub fingerprint: u64,
    /// How often each checker looked.
    pub checks: Vec<(Checker, u64)>,
    /// The first thing that did not hold.
    pub failure: Option<Failure>,
}

/// One queue at the end of a simulation; counters over all its lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SimQueue {
    /// Its number.
    pub queue: u32,
    /// Packets from the RX rings.
    pub rx_packets: u64,
    /// Packets to the TX rings.
    pub tx_packets: u64,
    /// Packets that belong to another queue, and were passed on.
    pub handed_over: u64,
    /// Sessions held.
    pub sessions: u64,
    /// Restarts, soft and hard, of itself and asked for.
    pub restarts: u64,
    /// As the supervisor has it.
    pub state: String,
    /// Where its frames are.
    pub census: FrameCounts,
    /// Whether its books balance.
    pub balanced: bool,
}

impl SimReport {
    /// Whether every checker held.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failure.is_none()
    }
}

/// Runs a simulation to its end, or to the first thing that does not hold.
#[must_use]
pub fn run(options: &SimOptions) -> SimReport {
    run_with(options, |_: u64| {})
}

/// Who looks on while a simulation runs. A closure over the packets sent so far is one.
pub trait Watch {
    /// Now and then: so many packets were sent.
    fn progress(&mut self, sent: u64) {
        let _ = sent;
    }

    /// A frame left the engine, `at` virtual time.
    fn left(&mut self, at: Duration, frame: &[u8]) {
        let _ = (at, frame);
    }
}

impl<F: FnMut(u64)> Watch for F {
    fn progress(&mut self, sent: u64) {
        self(sent);
    }
}

/// As [`run`]; `watch` looks on.
#[must_use]
pub fn run_with(options: &SimOptions, mut watch: impl Watch) -> SimReport {
    let started = Instant::now();
    let mut world = simulation::Simulation::new(options);
    world.run(&mut watch);
    world.report(started.elapsed())
}
