#![allow(clippy::unwrap_used)]
//! Tests the actor turn by turn over simulated ports: its commands and its reports.

mod ports;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use oxide_actors::mailbox::{Address, mailbox};
use oxide_actors::supervisor::{ActorId, Input, LinkMessage, LinkReceiver, ObserverMessage};

use super::*;
use crate::port::QueueId;
use crate::port::sim::{KernelFaultRates, SimBackend, SimInterface, SimNet};
use crate::queue::{Batch, Context, DatapathFault, PortRequests, Replaced};
use crate::telemetry::DropReason;
use crate::umem::PortIndex;

const MS: Duration = Duration::from_millis(1);
const NAMES: [&str; 2] = ["left", "right"];

/// Holds the state that a test and its handlers share.
#[derive(Default)]
struct Known {
    sessions: AtomicU64,
    draining: AtomicBool,
    /// Port changes that the handler saw in the last batch.
    changes: AtomicU64,
    /// Makes `inherit` panic.
    breaks: AtomicBool,
    /// Seeds of all handlers created.
    seeds: Mutex<Vec<u64>>,
}

/// Sends every packet back through the port it came from, or through the other port if the packet requests it.
struct Mirror(Arc<Known>);

impl Handler for Mirror {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        self.0.draining.store(cx.draining(), Ordering::Relaxed);
        self.0.changes.store(cx.info().changes.into(), Ordering::Relaxed);
        for lane in 0..batch.len() {
            if batch.packet(lane).ends_with(b"poison") {
                std::panic::resume_unwind(Box::new("poisoned"));
            }
            let other = batch.packet(lane).ends_with(b"cross");
            let from = usize::from(batch.from());
            batch.transmit(lane, PortIndex::new(from ^ usize::from(other)).unwrap());
        }
    }

    fn sessions(&self) -> u64 {
        self.0.sessions.load(Ordering::Relaxed)
    }

    fn inherit(&mut self, former: &mut Self, _: Replaced) -> Result<u64, String> {
        if self.0.breaks.load(Ordering::Relaxed) {
            std::panic::resume_unwind(Box::new("half of it"));
        }
        Ok(former.sessions())
    }
}

struct Rig {
    net: SimNet,
    ids: Vec<QueueId>,
    actor: Actor<SimBackend, Mirror>,
    commands: Address<ActorCommand<QueueId>>,
    link_receiver: LinkReceiver<Report>,
    known: Arc<Known>,
    now: Instant,
    reports: Vec<StateReport>,
    replaced: Vec<Result<u64, String>>,
    ports: Vec<Vec<QueueId>>,
    lost: Vec<u64>,
}

impl Rig {
    fn new() -> Self {
        Self::on(SimNet::new(&NAMES.map(|name| SimInterface::new(name, 2)), 1))
    }

    fn on(net: SimNet) -> Self {
        let ids = NAMES.map(|name| QueueId::new(name, 0)).to_vec();
        let (known, now, link_receiver) = (Arc::<Known>::default(), Instant::now(), LinkReceiver::default());
        let (commands, mailbox) = mailbox(16).unwrap();
        let theirs = known.clone();
        let mut spec = ActorSpec {
            backend: SimBackend::new(&net, &ids),
            factory: Arc::new(move |info: &QueueInfo| {
                theirs.seeds.lock().unwrap().push(info.seed);
                Mirror(theirs.clone())
            }),
            processor: Processor::detect(),
            queue: 0,
            queues: 1,
            place: 0,
            peers: QueuePeers::none(),
            batch_size: 64,
            spin: Duration::ZERO,
            realtime: None,
            seed: 1,
            rss: Vec::new(),
            tables: Box::new(Tables::new(1, net.links(), Vec::new(), Default::default())),
        };
        let opened = spec.backend.open_available().unwrap();
        let (link, _) = link_receiver.link(ActorId(0), 1, now);
        let actor = Actor::new(spec, opened, mailbox, link, now).unwrap();
        let (reports, replaced, ports, lost) = Default::default();
        let mut rig = Self { net, ids, actor, commands, link_receiver, known, now, reports, replaced, ports, lost };
        rig.turns(2);
        rig
    }

    /// Runs one turn, one millisecond later.
    fn turn(&mut self) -> Option<QueueExit> {
        self.now += MS;
        self.net.advance(MS);
        let packets = self.actor.datapath.work(self.now);
        self.actor.kick();
        let (umem, ports) = self.actor.datapath.kernel_side();
        ports.for_each(|port| port.run_kernel(umem));
        let exit = self.actor.control(self.now, packets);
        while let Some(message) = self.link_receiver.try_recv() {
            match message {
                LinkMessage::Input(Input::StateReported { report, .. }) => self.reports.push(report),
                LinkMessage::ObserverMessage(ObserverMessage::Report { report: Report::Replaced(what), .. }) => {
                    self.replaced.push(what)
                }
                LinkMessage::ObserverMessage(ObserverMessage::Report { report: Report::Lost(packets), .. }) => {
                    self.lost.push(packets)
                }
                LinkMessage::ObserverMessage(ObserverMessage::Report { report: Report::Ports(ports), .. }) => {
                    self.ports.push(ports.into_iter().map(|port| port.id).collect());
                }
                _ => {}
            }
        }
        exit
    }

    fn turns(&mut self, turns: usize) {
        (0..turns).for_each(|_| assert!(self.turn().is_none()));
    }

    fn send(&self, command: ActorCommand<QueueId>) {
        assert!(self.commands.try_send(command).is_ok());
    }

    fn open(&self, restart: Option<PortIndex>) {
        let requests: PortRequests<QueueId> =
            PortIndex::ALL.into_iter().zip(self.ids.iter().cloned().map(Ok)).collect();
        self.send(ActorCommand::Open { restart, requests });
    }

    fn inject(&self, port: usize, end: &[u8]) {
        self.net.inject(&self.ids[port], &[&[0; 60], end].concat());
    }

    /// Sends one packet to each port. Returns the number of packets that come back from each.
    fn echoes(&mut self) -> [usize; 2] {
        self.ids.iter().for_each(|id| drop(self.net.sent(id)));
        (0..2).for_each(|port| self.inject(port, b""));
        self.turns(4);
        [0, 1].map(|port| self.net.sent(&self.ids[port]).len())
    }

    fn failed(&self) -> Vec<u8> {
        let part =
            |report: &StateReport| if let StateReport::PartFailed { part, .. } = report { Some(*part) } else { None };
        self.reports.iter().filter_map(part).collect()
    }
}

#[test]
fn stop_refuses_new_packets_and_waits_bounded_for_old_ones() {
    let mut rig = Rig::new();
    rig.inject(0, b"");
    rig.net.set_link("left", false);
    rig.inject(1, b"");
    rig.turns(4);
    assert_eq!(rig.echoes(), [0, 1], "the other side's link is up");
    rig.net.set_link("left", true);
    // One packet completes late, and the RX ring holds more packets than one batch.
    rig.net.set_faults(&rig.ids[0], KernelFaultRates { delay_ns: 10_000_000_000, ..KernelFaultRates::none() });
    rig.inject(0, b"");
    rig.turns(2);
    (0..100).for_each(|_| rig.inject(1, b""));
    rig.send(ActorCommand::Stop(50 * MS));
    rig.turns(1);
    let passed = rig.net.counters(&rig.ids[1]).passed;
    rig.inject(1, b"");
    assert_eq!(rig.net.counters(&rig.ids[1]).passed, passed + 1, "the kernel passes new packets at once");
    rig.turns(40);
    assert!(rig.known.draining.load(Ordering::Relaxed), "the handler sees the drain");
    let ended = (0..20).find_map(|_| rig.turn());
    assert!(matches!(ended, Some(QueueExit::Stopped)), "{ended:?}: the completion is still missing");

    let mut rig = Rig::new();
    rig.inject(0, b"");
    rig.turns(4);
    rig.send(ActorCommand::Stop(10_000 * MS));
    let ended = (0..4).find_map(|_| rig.turn());
    assert!(matches!(ended, Some(QueueExit::Stopped)), "{ended:?}: no packet is in progress");
}

#[test]
fn drained_is_reported_once() {
    let mut rig = Rig::new();
    rig.known.sessions.store(1, Ordering::Relaxed);
    rig.send(ActorCommand::Drain);
    rig.turns(300);
    assert!(rig.reports.is_empty(), "one session remains: {:?}", rig.reports);
    rig.echoes();
    assert!(rig.known.draining.load(Ordering::Relaxed), "the handler sees the drain");
    rig.known.sessions.store(0, Ordering::Relaxed);
    rig.turns(1_000);
    assert_eq!(rig.reports, [StateReport::Drained]);
}

#[test]
fn packet_in_flight_delays_drained_report() {
    let mut rig = Rig::new();
    rig.inject(0, b"");
    rig.turns(1);
    rig.net.set_faults(&rig.ids[0], KernelFaultRates { lost_ppm: 1_000_000, ..KernelFaultRates::none() });
    rig.turns(3);
    rig.send(ActorCommand::Drain);
    rig.turns(250);
    assert!(rig.reports.is_empty(), "one packet never completes: {:?}", rig.reports);
}

#[test]
fn lost_frames_end_the_actor() {
    let mut rig = Rig::new();
    rig.turns(150);
    rig.send(ActorCommand::Inject(DatapathFault::Leak(1)));
    let ended = (0..150).find_map(|_| rig.turn());
    assert!(matches!(ended, Some(QueueExit::Leaked)), "{ended:?}");
}

#[test]
fn removed_xskmap_entry_is_restored() {
    let mut rig = Rig::new();
    rig.net.steer_away(&rig.ids[0]);
    assert_eq!(rig.echoes(), [0, 1]);
    rig.send(ActorCommand::Steer);
    rig.turns(1);
    assert_eq!(rig.echoes(), [1, 1]);
}

#[test]
fn packets_that_waited_at_a_paused_port_are_discarded_and_counted() {
    let mut rig = Rig::new();
    rig.send(ActorCommand::Pause(PortIndex::P0, true));
    rig.turns(1);
    assert_eq!(rig.echoes(), [0, 1]);
    rig.send(ActorCommand::Pause(PortIndex::P0, false));
    rig.turns(1);
    assert_eq!(rig.echoes(), [1, 1], "the old packet must be discarded");
    assert_eq!(rig.actor.datapath.counters().drops.of(DropReason::Paused), 1);
    assert!(rig.actor.datapath.balanced());
}

#[test]
fn handler_panic_is_reported_once_and_next_handler_inherits() {
    let mut rig = Rig::new();
    rig.known.sessions.store(7, Ordering::Relaxed);
    rig.inject(0, b"poison");
    rig.turns(300);
    assert_eq!(rig.reports, [StateReport::SoftFailed("poisoned".to_owned())]);
    assert_eq!(rig.echoes(), [0, 0], "a failed handler takes no packets");
    rig.send(ActorCommand::RestartHandler { inherit: true });
    rig.turns(2);
    assert_eq!((rig.reports.last(), rig.replaced.as_slice()), (Some(&StateReport::Running), [Ok(7)].as_slice()));
    assert!(rig.echoes()[0] >= 1);
    // The panic of the next handler is reported too, and it can be replaced without inheritance.
    rig.inject(0, b"poison");
    rig.turns(2);
    assert_eq!(rig.reports.len(), 3);
    rig.send(ActorCommand::RestartHandler { inherit: false });
    rig.turns(2);
    assert!(rig.replaced[1].is_err());
    let mut seeds = rig.known.seeds.lock().unwrap().clone();
    seeds.sort_unstable();
    seeds.dedup();
    assert_eq!(seeds.len(), 3, "each handler needs its own seed: {seeds:?}");
}

#[test]
fn panic_during_inherit_leads_to_handler_without_state() {
    let mut rig = Rig::new();
    rig.known.breaks.store(true, Ordering::Relaxed);
    rig.send(ActorCommand::RestartHandler { inherit: true });
    rig.turns(2);
    assert_eq!((rig.reports.last(), rig.replaced.len()), (Some(&StateReport::Running), 1));
    assert!(rig.replaced[0].as_ref().is_err_and(|why| why.contains("half of it")), "{:?}", rig.replaced);
    assert_eq!(rig.known.seeds.lock().unwrap().len(), 3, "the handler that panicked must be replaced");
    assert_eq!(rig.echoes(), [1, 1]);
}

#[test]
fn lost_packets_are_reported_with_recovery() {
    let mut rig = Rig::new();
    // These four packets form one batch.
    (0..3).for_each(|_| rig.inject(0, b""));
    rig.inject(0, b"poison");
    rig.turns(3);
    assert_eq!(rig.lost, [] as [u64; 0]);
    rig.send(ActorCommand::RestartHandler { inherit: true });
    rig.turns(2);
    assert_eq!(rig.lost, [4]);
    // Two packets stay on the ring until it is closed.
    rig.send(ActorCommand::Pause(PortIndex::P1, true));
    rig.turns(1);
    (0..2).for_each(|_| rig.inject(1, b""));
    rig.turns(2);
    rig.open(Some(PortIndex::P1));
    rig.turns(60);
    assert_eq!(rig.lost, [4, 2]);
}
