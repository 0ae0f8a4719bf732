//! Tests an engine from the embedding program: reload, sessions, pause, drain of one queue, and their errors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::Duration;

use netns::{Far, Lab, in_namespace, skip_unless_root};
use oxide::config::{EngineConfig, ExecutorKind};
use oxide::engine::{Engine, EngineError, EngineStatus, QueueState, RelayExit, RestartScope};
use oxide::packet::reflect;
use oxide::port::QueueId;
use oxide::queue::{Batch, Context, DatapathFault, Handler, QueueInfo, Replaced, SessionInfo};
use oxide::telemetry::DropReason;

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(300);

/// Answers with its letter in the first byte and its queue in the second; each client port is a session.
struct Greeter {
    word: u8,
    queue: u32,
    clients: BTreeSet<u16>,
}

impl Handler for Greeter {
    fn handle(&mut self, batch: &mut Batch<'_>, cx: &mut Context<'_>) {
        for lane in 0..batch.len() {
            let packet = batch.packet_mut(lane);
            // The lab sends only UDP over IPv4 without options.
            let client = u16::from_be_bytes([packet[34], packet[35]]);
            if cx.draining() && !self.clients.contains(&client) {
                continue;
            }
            self.clients.insert(client);
            reflect(packet);
            packet[40..44].copy_from_slice(&[0, 0, self.word, self.queue as u8]);
            batch.transmit(lane, batch.from());
        }
    }

    fn sessions(&self) -> u64 {
        self.clients.len() as u64
    }

    fn describe_sessions(&self, limit: usize, into: &mut Vec<SessionInfo>) {
        let at = |address: &str, port| SocketAddr::new(address.parse().unwrap(), port);
        into.extend(self.clients.iter().take(limit).map(|&client| SessionInfo {
            queue: self.queue,
            client: at("10.9.0.2", client),
            listen: at("10.9.0.1", 7),
            source: at("10.9.0.1", 7),
            upstream: at("10.9.0.2", client),
            idle: Duration::ZERO,
        }));
    }

    fn inherit(&mut self, former: &mut Self, _why: Replaced) -> Result<u64, String> {
        self.clients = std::mem::take(&mut former.clients);
        Ok(self.clients.len() as u64)
    }
}

fn greeter(word: u8) -> impl Fn(&QueueInfo) -> Greeter + Send + Sync {
    move |info| Greeter { word, queue: info.queue, clients: BTreeSet::new() }
}

/// Starts two queues, with a socket for each at the far end.
fn lab(test: &'static str, body: fn(&Far, &Engine, [UdpSocket; 2])) {
    if skip_unless_root(test) {
        return;
    }
    in_namespace(move |lab| {
        let (far, engine, clients) = set_up(lab);
        body(&far, &engine, clients);
        let status = engine.stop(LONG);
        assert!(status.balanced && status.unaccounted == 0, "{status:#?}");
        assert_eq!(status.relay_exit(), RelayExit::Ok);
    });
}

fn set_up(lab: &Lab) -> (Far, Engine, [UdpSocket; 2]) {
    lab.veth("near", "far", 2, "02:00:00:00:00:0a", "02:00:00:00:00:0b");
    let far = lab.second_namespace();
    lab.give("far", &far);
    lab.address("near", "10.9.0.1/24");
    far.run(|lab| {
        lab.address("far", "10.9.0.2/24");
        lab.neighbour("far", "10.9.0.1", "02:00:00:00:00:0a");
    });
    lab.running("near");
    let mut config = EngineConfig::default();
    config.interfaces = vec!["near".to_owned()];
    config.ring_size = 256;
    config.executor = ExecutorKind::Thread;
    let destinations = |_: &_| vec![("10.9.0.1".parse().unwrap(), 7..=7)];
    let engine = Engine::builder(config, greeter(b'a')).destinations(destinations).start();
    let engine = engine.unwrap_or_else(|e| panic!("{e}"));
    let clients = [0, 1].map(|queue| client(&far, queue));
    (far, engine, clients)
}

/// Returns a socket whose packets arrive at `queue`.
fn client(far: &Far, queue: u8) -> UdpSocket {
    far.run(move |_| {
        let sockets = (0..200).map(|_| UdpSocket::bind("0.0.0.0:0").unwrap());
        let mut sockets = sockets.inspect(|socket| socket.connect("10.9.0.1:7").unwrap());
        sockets.find(|socket| ask(socket, LONG).is_some_and(|(_, by)| by == queue)).expect("a flow for each queue")
    })
}

/// Returns the letter of the answer and its queue.
fn ask(socket: &UdpSocket, within: Duration) -> Option<(u8, u8)> {
    socket.send(&[0; 16]).unwrap();
    hear(socket, within)
}

fn hear(socket: &UdpSocket, within: Duration) -> Option<(u8, u8)> {
    socket.set_read_timeout(Some(within)).unwrap();
    let mut answer = [0; 16];
    socket.recv(&mut answer).ok().map(|_| (answer[0], answer[1]))
}

fn wait(engine: &Engine, what: &str, done: impl FnMut(&EngineStatus) -> bool) {
    let waited = engine.handle().wait(LONG, done);
    waited.unwrap_or_else(|error| panic!("{what}: {error}: {:#?}", engine.status()));
}

fn id(queue: u32) -> QueueId {
    QueueId::new("near", queue)
}

#[test]
fn reload_replaces_handlers_and_destinations_and_keeps_sockets() {
    lab("reload_replaces_handlers_and_destinations_and_keeps_sockets", |far, engine, clients| {
        let handle = engine.handle();
        let sessions = handle.status().totals.sessions;
        handle.reload(greeter(b'b'), |_| vec![("10.9.0.1".parse().unwrap(), 7..=8)]).unwrap();
        wait(engine, "new handlers", |s| s.queues.iter().all(|q| q.restarts == 1 && q.is_running()));
        for (socket, queue) in clients.iter().zip(0..) {
            assert_eq!(ask(socket, LONG), Some((b'b', queue)));
        }
        // The other port is now steered to the engine as well.
        let other = far.run(|_| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect("10.9.0.1:8").unwrap();
            socket
        });
        wait(engine, "the list", |_| matches!(ask_quietly(&other), Some((b'b', _))));
        wait(engine, "sessions are kept", |s| s.totals.sessions > sessions);
        for queue in handle.status().queues {
            let last = queue.last_restart.unwrap();
            assert_eq!((last.scope, last.lost), (RestartScope::Handler, 0), "{last:?}");
        }

        struct Other;
        impl Handler for Other {
            fn handle(&mut self, _: &mut Batch<'_>, _: &mut Context<'_>) {}
        }
        let refused = handle.reload(|_| Other, |_| Vec::new());
        assert!(matches!(refused, Err(EngineError::OtherHandler { .. })), "{refused:?}");
        assert_eq!(ask(&clients[0], LONG), Some((b'b', 0)), "a refused reload changes nothing");
    });
}

/// Returns this number of addresses in addition to the engine's own.
fn many(addresses: u16, second: u8) -> Vec<(IpAddr, RangeInclusive<u16>)> {
    let others = (1..addresses).map(|n| (IpAddr::from([10, second, (n >> 8) as u8, n as u8]), 7..=7));
    std::iter::once(("10.9.0.1".parse().unwrap(), 7..=7)).chain(others).collect()
}

#[test]
fn reload_exchanges_full_lists_and_refuses_oversized_one_as_a_whole() {
    lab("reload_exchanges_full_lists_and_refuses_oversized_one_as_a_whole", |_, engine, clients| {
        let handle = engine.handle();
        for (word, second) in [(b'b', 20), (b'c', 21)] {
            let report = handle.reload(greeter(word), move |_| many(1024, second)).unwrap();
            assert_eq!(report.pending, []);
            assert_eq!(ask(&clients[0], LONG), Some((word, 0)), "a full list replaces another full list");
        }
        let refused = handle.reload(greeter(b'd'), |_| many(1025, 22)).unwrap_err().to_string();
        assert!(refused.contains("1025") && refused.contains("expected at most 1024"), "{refused}");
        let refused = handle.reload(greeter(b'd'), |_| vec![("224.0.0.1".parse().unwrap(), 7..=7)]).unwrap_err();
        assert!(matches!(refused, EngineError::Steering { .. }), "{refused}");
        for queue in 0..2 {
            assert_eq!(ask(&clients[usize::from(queue)], LONG), Some((b'c', queue)), "a refused reload has no effect");
            handle.restart(&id(queue.into()), RestartScope::Queue).unwrap();
            wait(engine, "restarted", |s| s.queues[usize::from(queue)].is_running());
            assert_eq!(
                ask(&clients[usize::from(queue)], LONG),
                Some((b'c', queue)),
                "a refused reload has no effect after a later start"
            );
        }
    });
}

#[test]
fn reload_keeps_drained_queue_stopped() {
    lab("reload_keeps_drained_queue_stopped", |_, engine, clients| {
        let handle = engine.handle();
        handle.drain_queue(&id(1), Duration::ZERO).unwrap();
        let report = handle.reload(greeter(b'b'), |_| vec![("10.9.0.1".parse().unwrap(), 7..=7)]).unwrap();
        let [pending] = report.pending.as_slice() else { panic!("{report:?}") };
        assert_eq!(pending.to_string(), "queue 1: stopped; new handler when it is restarted");
        assert_eq!(handle.status().queues[1].state, QueueState::Stopped);
        assert_eq!(ask(&clients[0], LONG), Some((b'b', 0)));
        handle.restart(&id(1), RestartScope::Handler).unwrap();
        wait(engine, "started", |s| s.queues[1].is_running());
        assert_eq!(ask(&clients[1], LONG), Some((b'b', 1)), "with the new handler");
    });
}

#[test]
fn reload_keeps_failed_queue_failed() {
    lab("reload_keeps_failed_queue_failed", |_, engine, clients| {
        let handle = engine.handle();
        while handle.status().queues[1].state != QueueState::Failed {
            // A lost frame ends the actor; after five restarts it is not started again.
            let _ = handle.inject(&id(1), |_| DatapathFault::Leak(1));
            std::thread::sleep(Duration::from_millis(20));
        }
        let report = handle.reload(greeter(b'b'), |_| vec![("10.9.0.1".parse().unwrap(), 7..=7)]).unwrap();
        assert!(report.pending[0].state == QueueState::Failed, "{report:?}");
        assert_eq!(handle.status().queues[1].state, QueueState::Failed);
        handle.restart(&id(1), RestartScope::Queue).unwrap();
        wait(engine, "started", |s| s.queues[1].is_running());
        assert_eq!(ask(&clients[1], LONG), Some((b'b', 1)));
    });
}

#[test]
fn reload_keeps_paused_queue_paused() {
    lab("reload_keeps_paused_queue_paused", |_, engine, clients| {
        let handle = engine.handle();
        handle.pause(&id(1), true).unwrap();
        wait(engine, "paused", |_| ask(&clients[1], SHORT).is_none());
        handle.reload(greeter(b'b'), |_| vec![("10.9.0.1".parse().unwrap(), 7..=7)]).unwrap();
        assert_eq!(ask(&clients[0], LONG), Some((b'b', 0)));
        assert_eq!(ask(&clients[1], SHORT), None);
    });
}

#[test]
fn last_of_many_quick_reloads_is_in_force_on_every_queue() {
    lab("last_of_many_quick_reloads_is_in_force_on_every_queue", |_, engine, clients| {
        let handle = engine.handle();
        let reload = |word| handle.reload(greeter(word), |_| vec![("10.9.0.1".parse().unwrap(), 7..=7)]);
        std::thread::scope(|scope| {
            for word in b'b'..=b'i' {
                scope.spawn(move || reload(word).unwrap());
                // Restart queues in between: an opening actor may have made its handler with the former factory.
                let _ = handle.restart(&id(1), RestartScope::Queue);
            }
        });
        wait(engine, "running", |s| s.queues.iter().all(|q| q.is_running()));
        let report = reload(b'z').unwrap();
        assert_eq!(report.pending, []);
        for (socket, queue) in clients.iter().zip(0..) {
            assert_eq!(ask(socket, LONG), Some((b'z', queue)));
        }
    });
}

/// Returns true while the destination is not listed, because the kernel then answers with an error.
fn ask_quietly(socket: &UdpSocket) -> Option<(u8, u8)> {
    socket.send(&[0; 16]).ok()?;
    hear(socket, SHORT)
}

#[test]
fn sessions_are_listed_by_their_queue() {
    lab("sessions_are_listed_by_their_queue", |_, engine, clients| {
        let handle = engine.handle();
        for (socket, queue) in clients.iter().zip(0..) {
            let listed = handle.sessions(&id(queue), 100).unwrap();
            let port = socket.local_addr().unwrap().port();
            assert!(listed.iter().any(|session| session.client.port() == port && session.queue == queue), "{listed:?}");
            assert_eq!(handle.sessions(&id(queue), 1).unwrap().len(), 1);
        }
        assert!(matches!(handle.sessions(&id(9), 1), Err(EngineError::NoSuchQueue { .. })));
    });
}

#[test]
fn paused_queue_stays_paused_after_restart() {
    lab("paused_queue_stays_paused_after_restart", |_, engine, clients| {
        let handle = engine.handle();
        handle.pause(&id(1), true).unwrap();
        wait(engine, "paused", |_| ask(&clients[1], SHORT).is_none());
        assert_eq!(ask(&clients[0], LONG), Some((b'a', 0)), "the other queue continues");
        handle.restart(&id(1), RestartScope::Handler).unwrap();
        wait(engine, "restarted", |s| s.queues[1].restarts == 1 && s.queues[1].is_running());
        assert_eq!(ask(&clients[1], SHORT), None);
        handle.pause(&id(1), false).unwrap();
        // Packets that waited on the ring are old: they are dropped and counted, and get no answer.
        wait(engine, "resumed", |s| s.queues[1].totals.drops.of(DropReason::Paused) >= 2);
        assert_eq!(hear(&clients[1], SHORT), None);
        assert_eq!(ask(&clients[1], LONG), Some((b'a', 1)));
    });
}

#[test]
fn drained_queue_stops_after_last_session() {
    lab("drained_queue_stops_after_last_session", |_, engine, clients| {
        let handle = engine.handle();
        std::thread::scope(|scope| {
            // Its sessions never end by themselves, so the drain takes its full time.
            let drained = scope.spawn(|| handle.drain_queue(&id(1), Duration::from_secs(2)));
            wait(engine, "draining", |s| s.queues[1].state == QueueState::Draining);
            assert_eq!(ask(&clients[1], LONG), Some((b'a', 1)), "existing sessions are served");
            let refused = handle.restart(&id(1), RestartScope::Queue);
            assert!(matches!(refused, Err(EngineError::NotNow { .. })), "{refused:?}");
            drained.join().unwrap().unwrap();
        });
        assert_eq!(handle.status().queues[1].state, QueueState::Stopped);
        assert_eq!(ask(&clients[0], LONG), Some((b'a', 0)));
        assert!(matches!(handle.sessions(&id(1), 1), Err(EngineError::NotNow { .. })));
        handle.restart(&id(1), RestartScope::Queue).unwrap();
        wait(engine, "started", |s| s.queues[1].is_running());
        assert_eq!(ask(&clients[1], LONG), Some((b'a', 1)));
    });
}

#[test]
fn stuck_handler_is_named_and_blocks_nobody() {
    let test = "stuck_handler_is_named_and_blocks_nobody";
    if skip_unless_root(test) {
        return;
    }
    in_namespace(|lab| {
        let (_far, engine, clients) = set_up(lab);
        // The handler blocks longer than this test; its thread ends with the process.
        engine.handle().inject(&id(1), |_| DatapathFault::Stall(Duration::from_secs(20))).unwrap();
        wait(&engine, "stalled", |s| {
            // It is not known which packet arrives after the fault.
            let _ = clients[1].send(&[0; 16]);
            s.queues[1].stalled
        });
        assert_eq!(ask(&clients[0], LONG), Some((b'a', 0)));
        let status = engine.stop(Duration::from_millis(500));
        assert_eq!(
            (status.not_ended.as_slice(), status.relay_exit()),
            ([1].as_slice(), RelayExit::HandlerStuck),
            "{status:#?}"
        );
    });
}
