//! Tests real threads over the simulated NIC: the engine's queue actor, executor and supervisor. The machine decides the
//! order of events, so a seed cannot repeat a run; the test waits for expected events.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use oxide::net::Tables;
use oxide::packet::Flow;
use oxide::packet::build::UdpFrame;
use oxide::port::QueueId;
use oxide::port::sim::{SimBackend, SimInterface, SimNet};
use oxide::queue::{
    ActorCommand, ActorSpec, Batch, Context, Handler, PortRequests, QueueExit, QueueInfo, QueuePeers, QueueSnapshot,
    Report, run,
};
use oxide::simd::Processor;
use oxide::umem::PortIndex;
use oxide_actors::executor::{ExecutorHandle, ExecutorKind, ExecutorSpec, ThreadOutcome, spawn};
use oxide_actors::mailbox::{Address, mailbox};
use oxide_actors::supervisor::{self, ActorExit, ActorId, Settings, SupervisorLink, Undelivered, supervise};

use super::live::LiveBackend;

/// Sends every packet back by its port; panics at a packet that requests it.
struct Mirror;

impl Handler for Mirror {
    fn handle(&mut self, batch: &mut Batch<'_>, _: &mut Context<'_>) {
        for lane in 0..batch.len() {
            // Bypass the panic hook and its message.
            if batch.packet(lane).ends_with(b"poison") {
                std::panic::resume_unwind(Box::new("poisoned"));
            }
            batch.transmit(lane, PortIndex::P0);
        }
    }
}

/// Starts and stops one queue as `engine/controller.rs` does.
struct QueueController {
    net: SimNet,
    id: QueueId,
    running: Option<(ExecutorHandle<QueueExit>, Address<ActorCommand<QueueId>>)>,
}

impl supervisor::ActorController for QueueController {
    type Report = Report;
    type EngineMessage = ();

    fn name(&self) -> &str {
        &self.id.interface
    }

    fn start(&mut self, _generation: u64, link: SupervisorLink<Report>) -> Result<(), ActorExit> {
        let (commands, mailbox) = mailbox::<ActorCommand<QueueId>>(64).unwrap();
        let spec = ActorSpec {
            backend: LiveBackend(SimBackend::new(&self.net, std::slice::from_ref(&self.id))),
            factory: Arc::new(|_: &QueueInfo| Mirror),
            processor: Processor::detect(),
            queue: self.id.queue,
            queues: 3,
            place: self.id.queue,
            peers: QueuePeers::none(),
            batch_size: 64,
            spin: Duration::ZERO,
            realtime: None,
            seed: 1,
            rss: Vec::new(),
            tables: Box::new(Tables::new(1, self.net.links(), Vec::new(), Default::default())),
        };
        let executor = ExecutorSpec { name: format!("sim-q{}", self.id.queue), cpu: None, kind: ExecutorKind::Thread };
        let handle = spawn(executor, move |runtime| run(spec, runtime, mailbox, link)).unwrap();
        self.running = Some((handle, commands));
        Ok(())
    }

    fn command(&mut self, command: supervisor::SupervisorCommand) -> Result<(), Undelivered> {
        let Some((_, commands)) = &self.running else { return Err(Undelivered::Gone) };
        commands.try_send(ActorCommand::of(command, || self.requests())).map_err(|_| Undelivered::Busy)
    }

    fn on_engine_message(&mut self, (): ()) {}

    fn poll_end(&mut self) -> Option<ActorExit> {
        let outcome = self.running.as_mut()?.0.join_timeout(Duration::ZERO)?;
        self.running = None;
        Some(match outcome {
            ThreadOutcome::Finished(exit) => exit.end(),
            ThreadOutcome::Panicked(words) => ActorExit::Panicked(words),
            ThreadOutcome::Lost(words) => ActorExit::Failed(words),
        })
    }
}

impl QueueController {
    fn requests(&self) -> PortRequests<QueueId> {
        vec![(PortIndex::P0, Ok(self.id.clone()))]
    }
}

struct Lab {
    net: SimNet,
    ids: Vec<QueueId>,
    started: Instant,
    last: Arc<Mutex<Vec<QueueSnapshot>>>,
}

impl Lab {
    /// Lets the virtual clock follow the real one.
    fn tick(&self) {
        std::thread::sleep(Duration::from_millis(2));
        self.net.advance(self.started.elapsed().saturating_sub(self.net.now()));
    }

    fn inject(&self, queue: usize, payload: &[u8]) {
        let flow = Flow {
            source: std::net::SocketAddr::from(([192, 0, 2, 1], 4000)).into(),
            destination: std::net::SocketAddr::from(([192, 0, 2, 2], 4000)).into(),
        };
        self.net.inject(&self.ids[queue], &UdpFrame::new(flow, payload).to_vec().unwrap());
    }

    /// Waits up to a minute until `queue` forwards packets; packets sent while it is down are lost.
    fn passes(&self, queue: usize) {
        let by = Instant::now() + Duration::from_secs(60);
        let mut left = 0;
        while left == 0 {
            assert!(Instant::now() < by, "queue {queue} forwards no packet");
            self.inject(queue, b"hello");
            self.tick();
            self.net.drain_sent(&self.ids[queue], |_| left += 1);
        }
    }
}

#[test]
fn actor_and_supervisor_run_over_simulated_port() {
    let net = SimNet::new(&[SimInterface::new("sim0", 3)], 1);
    let ids: Vec<_> = (0..3).map(|queue| QueueId::new("sim0", queue)).collect();
    let last = Arc::new(Mutex::new(Vec::new()));
    let workers = ids.iter().map(|id| QueueController { net: net.clone(), id: id.clone(), running: None }).collect();
    let keep = last.clone();
    let observe = move |notice| {
        if let supervisor::ObserverMessage::Report { report: Report::FinalSnapshot(snapshot), .. } = notice {
            keep.lock().unwrap().push(*snapshot);
        }
    };
    let supervisor = supervise(Settings::default(), workers, observe).unwrap();
    let lab = Lab { net, ids, started: Instant::now(), last };
    (0..3).for_each(|queue| lab.passes(queue));

    // A panic, a dead socket and an operator's restart, each at one queue: all of them recover.
    lab.inject(0, b"poison");
    lab.net.kill_socket(&lab.ids[1]);
    supervisor.handle().restart(ActorId(2), supervisor::RestartScope::Queue, 0).unwrap();
    (0..3).for_each(|queue| lab.passes(queue));

    let rested = supervisor.handle().stop(Duration::from_secs(30)).unwrap();
    assert!(rested.not_ended.is_empty(), "{rested:?}");
    supervisor.join().unwrap();
    for id in &lab.ids {
        assert_eq!(lab.net.violations(id), []);
        let nic = lab.net.counters(id);
        assert_eq!(nic.arrived, nic.passed + nic.dropped + nic.refused + nic.delivered + nic.waiting, "{nic:?}");
    }
    let last = lab.last.lock().unwrap();
    assert!(last.len() >= 4, "three queues, and one that was restarted as a whole: {}", last.len());
    assert!(last.iter().all(|snapshot| snapshot.balanced), "{last:?}");
}
