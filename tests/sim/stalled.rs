//! A port whose packets are never completed is given up; one whose link is down is not.

use std::time::{Duration, Instant};

use oxide::port::sim::{Faults, SimBackend, SimInterface, SimNet};
use oxide::port::{Backend, Port, PortError, QueueId};
use oxide::queue::{Batch, Context, Handler, Parts, Peers, QueueInfo, Worker};
use oxide::simd::Processor;

use super::live::LiveBackend;

struct Mirror;

impl Handler for Mirror {
    fn handle(&mut self, batch: &mut Batch<'_>, _: &mut Context<'_>) {
        (0..batch.len()).for_each(|lane| batch.transmit(lane, 0));
    }
}

/// Packets come in for ten seconds of virtual time; how long until the port failed, if it did.
fn gives_up(trouble: impl Fn(&SimNet, &QueueId), step: Duration) -> Option<Duration> {
    let (net, id) = (SimNet::new(&[SimInterface::new("sim0", 1)], 1), QueueId::new("sim0", 0));
    let (umem, ports) = LiveBackend(SimBackend::new(&net, std::slice::from_ref(&id))).open().unwrap();
    let started = Instant::now();
    let ports_info = ports.iter().map(|port| port.info().clone()).collect();
    let (processor, peers) = (Processor::detect(), Peers::none());
    let info = QueueInfo { queue: 0, queues: 1, ports: ports_info, seed: 1, processor };
    let parts = Parts { umem, ports, handler: Mirror, processor, info, peers, batch_size: 64 };
    let mut worker = Worker::new(parts, started);
    worker.steer(true).unwrap();
    let mut now = started;
    while now < started + Duration::from_secs(10) {
        // Full rings first, then the trouble: packets that are on their way stay there.
        (0..40).for_each(|n| net.inject(&id, &[n; 60]));
        if now - started > 4 * step {
            trouble(&net, &id);
        }
        now += step;
        net.advance(step);
        match worker.turn(now) {
            Ok(_) => assert!(worker.balanced()),
            Err(PortError::Stalled { id: which }) => {
                assert_eq!(which, id);
                return Some(now - started);
            }
            Err(other) => panic!("{other}"),
        }
        net.drain_sent(&id, |_| {});
    }
    None
}

#[test]
fn completions_that_never_come_end_the_port_in_bounded_time() {
    let lost = |net: &SimNet, id: &QueueId| net.set_faults(id, Faults { lost_ppm: 1_000_000, ..Faults::none() });
    let after = gives_up(lost, Duration::from_millis(10)).expect("it waits for ever");
    assert!((Duration::from_secs(2)..Duration::from_secs(4)).contains(&after), "{after:?}");
}

#[test]
fn a_link_that_is_down_is_waited_for() {
    assert_eq!(gives_up(|net, _| net.set_link("sim0", false), Duration::from_millis(10)), None);
}

#[test]
fn a_kernel_that_is_slow_is_not_given_up() {
    let slow =
        |net: &SimNet, id: &QueueId| net.set_faults(id, Faults { batch: 1, again_ppm: 500_000, ..Faults::legal() });
    assert_eq!(gives_up(slow, Duration::from_millis(10)), None);
}

#[test]
fn a_machine_that_was_stopped_for_a_minute_gives_nothing_up() {
    let lost = |net: &SimNet, id: &QueueId| net.set_faults(id, Faults { batch: 1, ..Faults::none() });
    assert_eq!(gives_up(lost, Duration::from_secs(3)), None);
}
