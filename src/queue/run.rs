//! Runs an actor on a core: turns while there are packets, then a short spin, then sleep.
//!
//! ```text
//!          packets                no packets for `spin`
//!   busy <---------> spin ------------------------------> sleep (sockets, doorbell, 100 ms at most)
//!     ^                                                      |
//!     +------------------- packet or message ----------------+
//! ```

use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use oxide_actors::executor::Runtime;
use oxide_actors::mailbox::Mailbox;
use oxide_actors::supervisor::SupervisorLink;

use super::actor::{Actor, ActorSpec};
use super::counters::Regime;
use super::handler::Handler;
use super::messages::{ActorCommand, QueueExit, Report};
use super::pinning::{Pinning, own_cpus};
use super::realtime;
use crate::port::{Backend, Port, PortError};
use crate::umem::MAX_PORTS;

/// Limits the time in which the kernel is called again without a pause because work remains.
const KICK_PATIENCE: Duration = Duration::from_millis(1);

/// Runs an actor until it receives a stop command or its accounting fails. This is the root future of the executor.
pub async fn run<B: Backend, H: Handler>(
    spec: ActorSpec<B, H>,
    runtime: Runtime,
    mailbox: Mailbox<ActorCommand<B::OpenParams>>,
    link: SupervisorLink<Report>,
) -> QueueExit {
    run_on(None, spec, runtime, mailbox, link).await
}

/// Runs an actor like [`run`], pinned to `cpu` if that CPU is online. Otherwise the actor runs on another CPU, reports
/// that, and is pinned when the CPU comes online.
pub async fn run_on<B: Backend, H: Handler>(
    cpu: Option<u32>,
    spec: ActorSpec<B, H>,
    runtime: Runtime,
    mailbox: Mailbox<ActorCommand<B::OpenParams>>,
    link: SupervisorLink<Report>,
) -> QueueExit {
    let pinning = Pinning::new(cpu, Instant::now());
    let mut actor_loop = match ActorLoop::open(spec, pinning, mailbox, link) {
        Ok(actor_loop) => actor_loop,
        Err(error) => return QueueExit::NotOpened(error),
    };
    let ended = actor_loop.turns(&runtime).await;
    actor_loop.actor.end();
    actor_loop.enter(Regime::Control);
    actor_loop.actor.send_final_snapshot();
    ended
}

struct ActorLoop<B: Backend, H> {
    actor: Actor<B, H>,
    pinning: Pinning,
    spin: Duration,
    /// Holds the current regime and its start; each moment counts for exactly one regime.
    regime: Regime,
    since: Instant,
}

impl<B: Backend, H: Handler> ActorLoop<B, H> {
    fn open(
        mut spec: ActorSpec<B, H>,
        pinning: Pinning,
        mailbox: Mailbox<ActorCommand<B::OpenParams>>,
        link: SupervisorLink<Report>,
    ) -> Result<Self, PortError> {
        let started = Instant::now();
        let realtime_refused = spec.realtime.and_then(|priority| realtime::set_fifo(priority).err());
        let spin = spec.spin;
        let (umem, opened) = spec.backend.open_available()?;
        let (pages, seen) = (umem.pages().clone(), umem.pages_seen());
        let actor = Actor::new(spec, (umem, opened), mailbox, link, started)?;
        let ports = actor.datapath.infos().to_vec();
        actor.link.report(Report::Opened { ports, pages, seen, cpus: own_cpus(), realtime_refused });
        actor.begin();
        Ok(Self { actor, pinning, spin, regime: Regime::Control, since: Instant::now() })
    }

    async fn turns(&mut self, runtime: &Runtime) -> QueueExit {
        let mut last_packet = Instant::now();
        loop {
            let now = self.account_time();
            let packets = self.actor.datapath.work(now);
            if packets > 0 {
                self.actor.datapath.counters_mut().work_ns += now.elapsed().as_nanos() as u64;
                last_packet = now;
            }
            let turn = self.actor.kick();
            self.regime = match packets {
                1.. => Regime::Busy,
                0 if turn.kick_again => Regime::Backpressure,
                0 => Regime::Spin,
            };
            if !self.actor.is_due(packets) {
                continue;
            }
            if self.actor.is_called(now) {
                self.enter(Regime::Control);
                if self.pinning.look(now) {
                    self.actor.link.report(Report::Cpus(own_cpus()));
                }
            }
            if let Some(exit) = self.actor.control(now, packets) {
                return exit;
            }
            runtime.checkpoint().await;
            if packets > 0 {
                continue;
            }
            let idle = now.duration_since(last_packet);
            let spins = idle < self.spin && self.pinning.is_pinned();
            if spins || (turn.kick_again && idle < KICK_PATIENCE) {
                std::hint::spin_loop();
            } else {
                self.sleep(if turn.kick_again { KICK_PATIENCE } else { Duration::MAX });
            }
        }
    }

    /// Adds the time since the last call to the current regime. Returns the current time.
    fn account_time(&mut self) -> Instant {
        let now = Instant::now();
        let ns = now.duration_since(self.since).as_nanos() as u64;
        self.actor.datapath.counters_mut().spend(self.regime, ns);
        self.since = now;
        now
    }

    /// Starts `regime` now. Returns the current time.
    fn enter(&mut self, regime: Regime) -> Instant {
        let now = self.account_time();
        self.regime = regime;
        now
    }

    fn sleep(&mut self, at_most: Duration) {
        let before = self.enter(Regime::Sleep);
        let Actor { datapath, mailbox, .. } = &self.actor;
        let timeout = at_most.min(self.actor.patience(before));
        let woken = {
            // Packets must not wake an actor whose handler failed, because it does not take them.
            let taking = datapath.taking();
            let fds: ArrayVec<_, { MAX_PORTS as usize }> =
                taking.filter_map(Port::fd).take(usize::from(MAX_PORTS)).collect();
            mailbox.wait(&fds, timeout, || datapath.has_handovers())
        };
        tracing::trace!(?woken, "woke");
        self.actor.datapath.counters_mut().sleeps += 1;
    }
}
