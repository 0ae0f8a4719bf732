//! Sets up two interfaces with four queues each, an echo handler, and a far end that counts every packet per queue.
//!
//! ```text
//!  engine's namespace             far namespace
//!  near0 10.9.0.1 (4 queues) ---- far0 10.9.0.2   one flow for each queue of each interface, paced,
//!  near1 10.9.1.1 (4 queues) ---- far1 10.9.1.2   counted there and back
//! ```
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use oxide::config::{Choice, EngineConfig, ExecutorKind};
use oxide::engine::{Engine, EngineStatus};
use oxide::packet::reflect;
use oxide::port::QueueId;
use oxide::queue::{Batch, Context, Handler};

use crate::netns::{Far, Lab};

pub(crate) const QUEUES: u32 = 4;
pub(crate) const LONG: Duration = Duration::from_secs(10);
/// Time between two packets of a flow. The eight flows stay far below the capacity of any machine.
const PACE: Duration = Duration::from_millis(4);
/// Time for packets in flight when a count ends.
const GRACE: Duration = Duration::from_millis(500);

/// Sends every packet back by its port, with the queue number in the last byte.
pub(crate) struct Echo;

impl Handler for Echo {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        for lane in 0..batch.len() {
            let packet = batch.packet_mut(lane);
            reflect(packet);
            // Clear the checksum, which IPv4 allows, because the payload changed.
            if let Some(checksum) = packet.get_mut(40..42) {
                checksum.fill(0);
            }
            if let Some(last) = packet.last_mut() {
                *last = cx.info().queue as u8;
            }
            batch.transmit(lane, batch.from());
        }
    }
}

/// Creates interface `n` at both ends.
pub(crate) fn plug(lab: &Lab, far: &Far, n: u8) {
    plug_as(lab, far, n, &format!("near{n}"));
}

/// Creates interface `n` with another name at the near end.
pub(crate) fn plug_as(lab: &Lab, far: &Far, n: u8, near: &str) {
    let there = format!("far{n}");
    lab.veth(near, &there, QUEUES, &format!("02:00:00:00:0{n}:0a"), &format!("02:00:00:00:0{n}:0b"));
    lab.give(&there, far);
    lab.address(near, &format!("10.9.{n}.1/24"));
    far.run(move |lab| {
        lab.address(&format!("far{n}"), &format!("10.9.{n}.2/24"));
        lab.neighbour(&format!("far{n}"), &format!("10.9.{n}.1"), &format!("02:00:00:00:0{n}:0a"));
    });
    lab.running(near);
}

pub(crate) fn start() -> Engine {
    start_on(&[])
}

/// Starts the engine on these queues, or on all if the list is empty.
pub(crate) fn start_on(queues: &[u32]) -> Engine {
    let mut config = EngineConfig::default();
    config.interfaces = vec!["near0".to_owned(), "near1".to_owned()];
    config.ring_size = 256;
    config.executor = ExecutorKind::Thread;
    if !queues.is_empty() {
        config.queues = Choice::Fixed(queues.to_vec());
    }
    Engine::builder(config, |_| Echo)
        .destinations(|_| (0..2).map(|n| (format!("10.9.{n}.1").parse().unwrap(), 7..=7)).collect())
        .start()
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Holds a flow of one queue.
struct Flow {
    at: (u8, u32),
    socket: UdpSocket,
}

/// Holds the sockets at the far end, one per queue of each interface.
pub(crate) struct Flows(Vec<Flow>);

impl Flows {
    /// Tries source ports until each queue of each interface in `interfaces` has a flow.
    pub(crate) fn find(far: &Far, interfaces: &'static [u8]) -> Self {
        far.run(move |_| {
            let mut found = BTreeMap::new();
            for &interface in interfaces {
                for _ in 0..400 {
                    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
                    socket.connect(SocketAddr::from(([10, 9, interface, 1], 7))).unwrap();
                    socket.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
                    socket.send(&[0; 16]).unwrap();
                    let mut answer = [0; 16];
                    let length = socket.recv(&mut answer).expect("no echo received");
                    let queue = u32::from(answer[length - 1]);
                    found.entry((interface, queue)).or_insert(Flow { at: (interface, queue), socket });
                    if found.keys().filter(|(i, _)| *i == interface).count() == QUEUES as usize {
                        break;
                    }
                }
            }
            assert_eq!(
                found.len(),
                interfaces.len() * QUEUES as usize,
                "not every queue has a flow: {:?}",
                found.keys()
            );
            Self(found.into_values().collect())
        })
    }

    /// Starts sending and counting.
    pub(crate) fn run(self, far: &Far) -> Traffic {
        let go_on = Arc::new(AtomicBool::new(true));
        let stop = Arc::clone(&go_on);
        let thread = far.run(move |_| std::thread::spawn(move || count(self, &go_on)));
        Traffic { stop, thread }
    }
}

pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<(Flows, Counts)>,
}

/// Returns sent packets and received echoes, by interface and queue.
pub(crate) type Counts = BTreeMap<(u8, u32), (u64, u64)>;

impl Traffic {
    pub(crate) fn end(self) -> (Flows, Counts) {
        self.stop.store(false, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

fn count(flows: Flows, go_on: &AtomicBool) -> (Flows, Counts) {
    let mut counts: Counts = flows.0.iter().map(|flow| (flow.at, (0, 0))).collect();
    let mut last = Instant::now();
    let mut buffer = [0; 64];
    for flow in &flows.0 {
        flow.socket.set_nonblocking(true).unwrap();
    }
    while go_on.load(Ordering::Relaxed) || last.elapsed() < GRACE {
        for flow in &flows.0 {
            let (sent, got) = counts.get_mut(&flow.at).unwrap();
            while flow.socket.recv(&mut buffer).is_ok() {
                *got += 1;
            }
            // Nothing is sent while the link is down, so this is no loss of the engine.
            if go_on.load(Ordering::Relaxed) && flow.socket.send(&[0; 16]).is_ok() {
                *sent += 1;
                last = Instant::now();
            }
        }
        std::thread::sleep(PACE);
    }
    (flows, counts)
}

/// Returns the lost packets of these flows.
pub(crate) fn lost(counts: &Counts, of: impl Fn(u8, u32) -> bool) -> u64 {
    counts.iter().filter(|(at, _)| of(at.0, at.1)).map(|(_, (sent, got))| sent - got.min(sent)).sum()
}

/// Waits until the status is as wanted; panics with the status after a time limit.
pub(crate) fn wait(engine: &Engine, what: &str, done: impl FnMut(&EngineStatus) -> bool) -> EngineStatus {
    let waited = engine.handle().wait(LONG, done);
    waited.unwrap_or_else(|error| panic!("{what}: {error}: {:#?}", engine.status()))
}

pub(crate) fn all_run(status: &EngineStatus) -> bool {
    status.queues.iter().all(|queue| queue.is_running() && !queue.stalled)
}

pub(crate) fn id(interface: &str, queue: u32) -> QueueId {
    QueueId::new(interface, queue)
}
