//! Tests links with delay, loss, reordering and rate between the engine and the hosts.

use oxide::port::sim::{LinkSpec, SimBackend, SimInterface, SimNet};
use oxide::port::{Backend, Burst, Port, QueueId};
use oxide_sim::{Application, FaultRates, SimOptions, SimReport, named};
use std::time::Duration;

use super::pass;

fn run(links: [&str; 2], application: Application, faults: &str, seed: u64) -> SimReport {
    let links = links.map(|text| if text.is_empty() { LinkSpec::default() } else { text.parse().unwrap() });
    let (faults, fault_rates) = named(faults).unwrap();
    pass(&SimOptions { packets: 10_000, links, application, faults, fault_rates, seed, ..Default::default() })
}

const BAD: &str = "delay=2ms,loss=ge:0.01/0.3,reorder=0.02,rate=1G";

#[test]
fn link_loss_is_attributed_and_nothing_else_is_lost() {
    for application in [Application::Forward, Application::Relay, Application::CheckedRelay] {
        for seed in 0..3 {
            let report = run([BAD, BAD], application, "none", seed);
            assert!(report.links.lost > 0 && report.links.overtaken > 0, "{report:?}");
            // The lossless checker covers packets that the links delivered, at each quiescent point.
            assert_eq!((report.drops.total(), report.lost_before, report.lost_after), (0, 0, 0), "{report:?}");
            let lost = report.links.lost + report.links.overflowed;
            // A lost request has no answer that could be lost.
            assert!(report.sent - report.answers <= lost && lost < report.sent / 5, "{report:?}");
        }
    }
}

#[test]
fn delay_alone_loses_and_reorders_nothing() {
    let report = run(["delay=3ms", "delay=500us"], Application::CheckedRelay, "none", 1);
    assert_eq!((report.there, report.back, report.links.overtaken), (10_000, 10_000, 0), "{report:?}");
    assert_eq!(report.links.offered, 40_000);
}

#[test]
fn slow_link_spaces_packets() {
    // 10,000 packets of at least 100 bytes are 8 Mbit: at least a second at 8 Mbit/s.
    let slow = run(["rate=8M", ""], Application::Forward, "none", 1);
    assert!(slow.virtual_time > Duration::from_secs(61 + 1) && slow.links.overflowed < slow.sent, "{slow:?}");
}

#[test]
fn every_checker_holds_with_bad_links_and_all_faults() {
    for seed in 0..6 {
        let application = if seed % 2 == 0 { Application::Forward } else { Application::CheckedRelay };
        let report = run([BAD, "delay=1ms,reorder=0.1,loss=0.01"], application, "all", seed);
        assert!(report.back > 500 && report.bad_descriptors > 0 && report.links.lost > 0, "{report:?}");
    }
}

#[test]
fn links_do_not_change_other_runs() {
    let plain = run(["", ""], Application::Forward, "all", 3);
    let zero = run(["delay=0ms,loss=0", "delay=0ms"], Application::Forward, "all", 3);
    assert_eq!(plain.fingerprint, zero.fingerprint);
    assert_eq!(zero.links.offered, 0, "a wire without delay or loss counts no packets");
    let _ = FaultRates::none();
}

/// Holds two simulated queues connected by a link, with a port on each.
#[test]
fn two_queues_share_a_link() {
    let net = SimNet::new(&[SimInterface::new("left", 1), SimInterface::new("right", 1)], 5);
    let (left, right) = (QueueId::new("left", 0), QueueId::new("right", 0));
    net.connect(&left, &right, "delay=1ms".parse().unwrap());
    let mut ends: Vec<_> = [&left, &right]
        .into_iter()
        .map(|id| {
            let (mut umem, mut ports) = SimBackend::new(&net, std::slice::from_ref(id)).open().unwrap();
            ports[0].steer(true).unwrap();
            ports[0].fill(&mut umem);
            (umem, ports.remove(0))
        })
        .collect();
    let packet = [7u8; 60];
    let (umem, port) = &mut ends[0];
    let mut burst = Burst::new();
    let mut frame = umem.take().unwrap();
    assert!(umem.set_length(&mut frame, 60));
    umem.bytes_mut(&mut frame).copy_from_slice(&packet);
    burst.push(frame).unwrap();
    assert_eq!(port.transmit(umem, &mut burst), 1);
    port.kick().unwrap();
    port.run_kernel(umem);
    net.carry();

    let (umem, port) = &mut ends[1];
    port.run_kernel(umem);
    assert_eq!(port.receive(umem, &mut burst, 64), 0, "the packet is in flight");
    net.advance(Duration::from_millis(1));
    net.carry();
    port.run_kernel(umem);
    assert_eq!(port.receive(umem, &mut burst, 64), 1);
    assert_eq!(umem.bytes(&burst[0]), packet);
    let carried = net.carried(&left, &right).unwrap();
    assert_eq!((carried.offered, carried.delivered, net.carried(&right, &left).unwrap().offered), (1, 1, 0));
    burst.drain().for_each(|frame| umem.give(frame));
}
