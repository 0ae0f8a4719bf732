//! Sessions over a change of handlers.

use super::*;
use crate::queue::Replaced;

fn next(sessions: &str) -> impl FnOnce(&QueueInfo) -> UdpRelay {
    let plan = RelayPlan::new(&config(sessions), &[]).unwrap();
    move |info| UdpRelay::new(&plan, info)
}

#[test]
fn a_flow_keeps_its_source_port_over_a_panic_and_over_a_reload() {
    let mut harness = relay("");
    let clients: Vec<String> = (0..50).map(|n| format!("192.0.2.{}:{}", 2 + n % 5, 5000 + n)).collect();
    let before: Vec<u16> = clients.iter().map(|client| source_port(&mut harness, client)).collect();
    for why in [Replaced::Panicked, Replaced::Asked] {
        assert_eq!(harness.restart_handler(why, next("")), Ok(50));
        let after: Vec<u16> = clients.iter().map(|client| source_port(&mut harness, client)).collect();
        assert_eq!(after, before);
        assert_eq!(harness.handler().sessions(), 50);
    }
    // What was taken over is not given out again.
    let fresh: Vec<u16> = (0..50).map(|n| source_port(&mut harness, &format!("192.0.2.8:{}", 7000 + n))).collect();
    assert!(fresh.iter().all(|port| !before.contains(port)));
}

#[test]
fn what_does_not_fit_the_new_configuration_ends() {
    let mut harness = relay("");
    for n in 0..80 {
        source_port(&mut harness, &format!("192.0.2.2:{}", 5000 + n));
    }
    assert_eq!(harness.restart_handler(Replaced::Asked, next("capacity = 64")), Ok(64));
    assert_eq!(harness.handler().sessions(), 64);
    // No entry and no port of the old ones is left.
    assert_eq!(harness.restart_handler(Replaced::Asked, next("source_ports = \"40000-40999\"")), Ok(0));
    assert!((40_000..=40_999).contains(&source_port(&mut harness, "192.0.2.2:5000")));
}

#[test]
fn sessions_are_described_as_an_operator_knows_them() {
    let mut harness = relay("");
    let port = source_port(&mut harness, "192.0.2.2:5000");
    source_port(&mut harness, "192.0.2.3:5000");
    harness.advance(Duration::from_secs(3));
    harness.tick();
    let mut list = Vec::new();
    harness.handler().describe_sessions(1, &mut list);
    let [one] = list.as_slice() else { panic!("{list:?}") };
    assert_eq!((one.client, one.source.port(), one.queue), (at("192.0.2.2:5000"), port, 0));
    assert_eq!(one.idle, Duration::from_secs(3));
}
