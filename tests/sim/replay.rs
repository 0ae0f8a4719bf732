//! Tests captures: written by a run, then replayed through the relay.

use std::time::Duration;

use oxide_sim::pcap::{self, PcapWriter};
use oxide_sim::{Application, Replay, SimOptions, SimReport, Watch, named, run_with};

use super::comparable;

/// Writes leaving packets as a capture.
struct Tap(PcapWriter<Vec<u8>>);

impl Watch for &mut Tap {
    fn left(&mut self, at: Duration, frame: &[u8]) {
        self.0.write(at, frame).unwrap();
    }
}

pub(crate) fn tapped(options: &SimOptions) -> (SimReport, Vec<u8>) {
    let mut tap = Tap(PcapWriter::new(Vec::new()).unwrap());
    let report = run_with(options, &mut tap);
    let again = options.command();
    assert!(report.passed(), "{:?}\nrun again: {again} (with --pcap-in and the capture of this test)", report.failure);
    (report, tap.0.finish().unwrap())
}

fn capture(packets: u64) -> Vec<u8> {
    tapped(&SimOptions { packets, application: Application::Relay, ..Default::default() }).1
}

#[test]
fn capture_has_every_sent_packet_in_order() {
    let (report, file) = tapped(&SimOptions { packets: 3000, ..Default::default() });
    let packets = pcap::read(&file).unwrap();
    assert_eq!(packets.len() as u64, report.there + report.back);
    assert!(packets.is_sorted_by_key(|packet| packet.at));
}

#[test]
fn capture_passes_the_relay() {
    let file = capture(2000);
    let packets = pcap::read(&file).unwrap().len() as u64;
    let replay = Replay::from_bytes(file, "capture").unwrap();
    let options = SimOptions { packets, replay: Some(replay), queues: 3, ..Default::default() };
    let (report, again) = tapped(&options);
    // Half of the packets are requests; answers go to addresses that the relay does not listen on.
    assert_eq!((report.sent, report.there, report.back), (packets, packets / 2, packets / 2), "{report:?}");
    assert_eq!(report.drops.total(), packets / 2);
    assert_eq!(pcap::read(&again).unwrap().len() as u64, packets);
    let looked = |name| report.checks.iter().find(|(checker, _)| checker.name() == name).unwrap().1;
    assert!(looked("reference") > 0 && looked("content") == packets);
}

#[test]
fn capture_replay_is_deterministic_under_faults_and_links() {
    let replay = Replay::from_bytes(capture(1500), "capture").unwrap();
    let (faults, fault_rates) = named("all").unwrap();
    for seed in 0..3 {
        let links = ["delay=1ms,loss=0.02,reorder=0.05".parse().unwrap(), Default::default()];
        let fault_rates = fault_rates.times(5);
        let options = SimOptions {
            packets: 9000,
            replay: Some(replay.clone()),
            faults,
            fault_rates,
            links,
            seed,
            ..Default::default()
        };
        let (a, b) = (tapped(&options), tapped(&options));
        assert!(a.0.back > 100, "{:?}", a.0);
        assert_eq!((comparable(&a.0), a.1), (comparable(&b.0), b.1));
    }
}
