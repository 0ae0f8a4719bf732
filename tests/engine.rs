//! Tests the engine with an echo handler in this process: start, panic, restart, drain, and what they leave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/netns.rs"]
mod netns;

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use netns::{Far, Lab, in_namespace, skip_unless_root};
use oxide::config::{Choice, EngineConfig, ExecutorKind};
use oxide::engine::{Engine, EngineError, EngineState, PlannedMachine};
use oxide::packet::reflect;
use oxide::port::QueueId;
use oxide::queue::{Batch, Context, Handler, QueueInfo};

/// Sends every packet back by its port; panics at the payload "panic".
struct Echo;

impl Handler for Echo {
    fn handle(&mut self, batch: &mut Batch<'_>, _cx: &mut Context<'_>) {
        for lane in 0..batch.len() {
            let packet = batch.packet_mut(lane);
            assert!(!packet.ends_with(b"panic"), "injected panic");
            reflect(packet);
            batch.transmit(lane, batch.from());
        }
    }
}

fn link(lab: &Lab, queues: u32) -> Far {
    lab.veth("near", "far", queues, "02:00:00:00:00:0a", "02:00:00:00:00:0b");
    let far = lab.second_namespace();
    lab.give("far", &far);
    lab.address("near", "10.9.0.1/24");
    far.run(|lab| {
        lab.address("far", "10.9.0.2/24");
        lab.neighbour("far", "10.9.0.1", "02:00:00:00:00:0a");
    });
    far
}

fn config(executor: ExecutorKind) -> EngineConfig {
    let mut config = EngineConfig::default();
    config.interfaces = vec!["near".to_owned()];
    config.ring_size = 256;
    config.executor = executor;
    config
}

/// With a plan for other interfaces, port numbers would not match the configuration.
#[test]
fn engine_refuses_a_survey_of_other_interfaces() {
    if skip_unless_root("engine_refuses_a_survey_of_other_interfaces") {
        return;
    }
    in_namespace(|lab| {
        lab.veth("near", "far", 1, "02:00:00:00:00:0a", "02:00:00:00:00:0b");
        let survey = PlannedMachine::new(&config(ExecutorKind::Thread)).unwrap();
        let mut other = config(ExecutorKind::Thread);
        other.interfaces.push("far".to_owned());
        let refused = Engine::builder(other, |_| Echo).planned_machine(survey).start().map(drop);
        match refused {
            Err(EngineError::OtherMachine { planned, configured }) => {
                assert_eq!((planned, configured), (vec!["near".to_owned()], vec!["far".to_owned(), "near".to_owned()]));
            }
            other => panic!("{other:?}"),
        }
    });
}

fn start(config: EngineConfig) -> Engine {
    Engine::builder(config, |_| Echo)
        .destinations(|_| vec![("10.9.0.1".parse().unwrap(), 7..=7)])
        .start()
        .unwrap_or_else(|e| panic!("{e}"))
}

/// Sends one datagram from a new port. Returns true if the echo arrives within the time.
fn echo(far: &Far, word: &'static str, within: Duration) -> bool {
    far.run(move |_| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.set_read_timeout(Some(within)).unwrap();
        socket.send_to(word.as_bytes(), "10.9.0.1:7".parse::<SocketAddr>().unwrap()).unwrap();
        let mut buffer = [0; 64];
        socket.recv_from(&mut buffer).is_ok_and(|(length, _)| buffer[..length] == *word.as_bytes())
    })
}

const LONG: Duration = Duration::from_secs(5);
const SHORT: Duration = Duration::from_millis(200);

/// Waits until `done`; panics with the status after ten seconds.
fn wait(engine: &Engine, what: &str, done: impl Fn(&Engine) -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !done(engine) {
        assert!(Instant::now() < until, "{what}: {:#?}", engine.status());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn each_executor(test: &'static str, body: fn(&Lab, ExecutorKind)) {
    if skip_unless_root(test) {
        return;
    }
    for executor in [ExecutorKind::Glommio, ExecutorKind::Thread] {
        in_namespace(move |lab| body(lab, executor));
    }
}

#[test]
fn engine_echoes_and_stops_with_balanced_accounting() {
    each_executor("engine_echoes_and_stops_with_balanced_accounting", |lab, executor| {
        let far = link(lab, 2);
        let engine = start(config(executor));
        for _ in 0..20 {
            assert!(echo(&far, "hello", LONG));
        }
        let status = engine.stop(LONG);
        assert_eq!(status.state, EngineState::Stopped);
        assert_eq!(status.totals.rx_packets, 20, "{status:#?}");
        assert_eq!((status.totals.tx_packets, status.totals.drops.total()), (20, 0));
        assert!(status.balanced && status.unaccounted == 0, "{status:#?}");
        for queue in &status.queues {
            assert_eq!((queue.census.app, queue.census.transmit), (0, 0), "{queue:#?}");
        }
        assert!(!echo(&far, "hello", SHORT), "the stopped engine still answers");
        assert!(!lab.ip("link show dev near").contains("prog/xdp"), "the XDP program is still attached");
    });
}

#[test]
fn panicking_handler_is_replaced_without_other_loss() {
    each_executor("panicking_handler_is_replaced_without_other_loss", |lab, executor| {
        let far = link(lab, 1);
        let engine = start(config(executor));
        assert!(echo(&far, "hello", LONG));
        assert!(!echo(&far, "panic", SHORT));
        wait(&engine, "handler replaced", |e| e.status().queues[0].restarts == 1 && e.status().queues[0].is_running());
        assert!(echo(&far, "hello", LONG));
        let status = engine.stop(LONG);
        assert_eq!((status.totals.rx_packets, status.totals.tx_packets), (3, 2), "{status:#?}");
        let drops: Vec<_> = status.totals.drops.nonzero().map(|(reason, n)| (reason.name(), n)).collect();
        assert_eq!(drops, [("handler_panic", 1)]);
        assert!(status.balanced && status.unaccounted == 0);
    });
}

#[test]
fn restarted_queue_recovers_and_counters_continue() {
    each_executor("restarted_queue_recovers_and_counters_continue", |lab, executor| {
        let far = link(lab, 1);
        let engine = start(config(executor));
        for round in 1..=3 {
            assert!(echo(&far, "hello", LONG), "round {round}");
            engine.restart(&QueueId::new("near", 0)).unwrap();
            wait(&engine, "restarted", |e| e.status().queues[0].restarts == round && e.status().queues[0].is_running());
        }
        assert!(echo(&far, "hello", LONG));
        assert!(engine.restart(&QueueId::new("near", 5)).unwrap_err().to_string().contains("near:0"));
        let status = engine.stop(LONG);
        assert_eq!((status.totals.rx_packets, status.totals.tx_packets), (4, 4), "{status:#?}");
        assert!(status.balanced && status.unaccounted == 0);
    });
}

#[test]
fn recreated_interface_is_served_again() {
    each_executor("recreated_interface_is_served_again", |lab, executor| {
        let far = link(lab, 1);
        let engine = start(config(executor));
        assert!(echo(&far, "hello", LONG));
        lab.ip("link del near");
        wait(&engine, "noticed", |e| e.status().state == EngineState::Degraded);
        let far = link(lab, 1);
        wait(&engine, "served again", |e| e.status().state == EngineState::Running);
        assert!(echo(&far, "hello", LONG));
        let status = engine.stop(LONG);
        assert_eq!((status.totals.rx_packets, status.totals.tx_packets), (2, 2), "{status:#?}");
        assert!(status.balanced && status.unaccounted == 0);
    });
}

#[test]
fn link_flap_needs_no_restart() {
    each_executor("link_flap_needs_no_restart", |lab, executor| {
        let far = link(lab, 1);
        let engine = start(config(executor));
        assert!(echo(&far, "hello", LONG));
        for _ in 0..3 {
            lab.ip("link set near down");
            lab.ip("link set near up");
            lab.running("near");
            // The sender drops packets until its kernel has seen the carrier, up to a second later.
            far.run(|lab| lab.running("far"));
            assert!(echo(&far, "hello", LONG));
        }
        let status = engine.stop(LONG);
        assert_eq!(status.totals.tx_packets, 4, "{status:#?}");
        assert_eq!(status.queues[0].restarts, 0);
        assert!(status.balanced && status.unaccounted == 0);
    });
}

#[test]
fn failed_start_reports_cause_and_cleans_up() {
    each_executor("failed_start_reports_cause_and_cleans_up", |lab, executor| {
        let _far = link(lab, 1);
        let refuse = |config: EngineConfig| {
            let engine = Engine::builder(config, |_| Echo).start();
            engine.err().unwrap_or_else(|| panic!("started")).to_string()
        };
        let mut absent = config(executor);
        absent.interfaces = vec!["nowhere".to_owned()];
        assert!(refuse(absent).contains("nowhere"));

        let mut queue = config(executor);
        queue.queues = Choice::Fixed(vec![7]);
        assert!(refuse(queue).contains('7'));

        let first = start(config(executor));
        let second = refuse(config(executor));
        assert!(second.contains("near"), "{second}");
        drop(first);

        lab.ip("link set near down");
        let down = refuse(config(executor));
        assert!(down.contains("ip link set"), "{down}");
        lab.ip("link set near up");
        assert!(!lab.ip("link show dev near").contains("prog/xdp"), "the XDP program is still attached");
        drop(start(config(executor)));
    });
}

/// Shares depend on the number of served queues, not on the highest queue number.
#[test]
fn single_listed_queue_is_whole_share() {
    if skip_unless_root("single_listed_queue_is_whole_share") {
        return;
    }
    in_namespace(|lab| {
        let _far = link(lab, 2);
        let (send, seen) = std::sync::mpsc::sync_channel(1);
        let mut config = config(ExecutorKind::Thread);
        config.queues = Choice::Fixed(vec![1]);
        let engine = Engine::builder(config, move |info: &QueueInfo| {
            let _ = send.try_send((info.queue, info.place, info.queues));
            Echo
        });
        let engine = engine.start().unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(seen.recv(), Ok((1, 0, 1)));
        drop(engine);
    });
}
