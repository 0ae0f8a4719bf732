//! Tests that a port whose packets are never completed is restarted, but not one with a link down or a slow kernel.

use std::time::{Duration, Instant};

use oxide::net::Tables;
use oxide::port::sim::{KernelFaultRates, SimBackend, SimInterface, SimNet};
use oxide::port::{Backend, Port, PortError, QueueId};
use oxide::queue::{Batch, Context, Datapath, DatapathParts, Handler, QueueInfo, QueuePeers};
use oxide::simd::Processor;
use oxide::umem::PortIndex;

use super::live::LiveBackend;

struct Mirror;

impl Handler for Mirror {
    fn handle(&mut self, batch: &mut Batch<'_>, _: &mut Context<'_>) {
        (0..batch.len()).for_each(|lane| batch.transmit(lane, PortIndex::P0));
    }
}

/// Receives packets for ten seconds of virtual time. Returns the time until the port was closed; `None` if it was not.
fn gives_up(link_up: bool, faults: KernelFaultRates, step: Duration) -> Option<Duration> {
    let (net, id) = (SimNet::new(&[SimInterface::new("sim0", 1)], 1), QueueId::new("sim0", 0));
    let (umem, ports) = LiveBackend(SimBackend::new(&net, std::slice::from_ref(&id))).open().unwrap();
    let started = Instant::now();
    let ports_info = ports.iter().map(|port| port.info().clone()).collect();
    let (processor, peers) = (Processor::detect(), QueuePeers::none());
    let info =
        QueueInfo { queue: 0, queues: 1, place: 0, ports: ports_info, rss: Vec::new(), changes: 0, seed: 1, processor };
    let parts = DatapathParts {
        umem,
        ports: ports.into_iter().map(Some).collect(),
        handler: Mirror,
        processor,
        info,
        peers,
        batch_size: 64,
    };
    let mut datapath = Datapath::new(parts, started);
    datapath.steer(true).unwrap();
    let mut now = started;
    while now < started + Duration::from_secs(10) {
        // Fill the rings first, then start the fault: packets in flight stay there.
        (0..40).for_each(|n| net.inject(&id, &[n; 60]));
        if now - started > 4 * step {
            net.set_faults(&id, faults);
            net.set_link("sim0", link_up);
            let links = net.links().into_iter().map(|link| oxide::net::Link { up: link_up, ..link }).collect();
            datapath.set_tables(Box::new(Tables::new(2, links, Vec::new(), Default::default())));
        }
        now += step;
        net.advance(step);
        datapath.turn(now).unwrap_or_else(|(_, error)| panic!("{error}"));
        match datapath.find_failed_port(now) {
            None => assert!(datapath.balanced()),
            Some((PortIndex::P0, PortError::NoCompletions { .. })) => return Some(now - started),
            Some((_, other)) => panic!("{other}"),
        }
        net.drain_sent(&id, |_| {});
    }
    None
}

#[test]
fn missing_completions_close_port_in_bounded_time() {
    let lost = KernelFaultRates { lost_ppm: 1_000_000, ..KernelFaultRates::none() };
    let after = gives_up(true, lost, Duration::from_millis(10)).unwrap();
    assert!(after < Duration::from_secs(4), "{after:?}");
}

#[test]
fn link_down_is_waited_for() {
    assert_eq!(gives_up(false, KernelFaultRates::none(), Duration::from_millis(10)), None);
}

#[test]
fn slow_kernel_is_not_given_up() {
    let slow = KernelFaultRates { batch: 1, again_ppm: 500_000, ..KernelFaultRates::legal() };
    assert_eq!(gives_up(true, slow, Duration::from_millis(10)), None);
}
