//! Tests that sessions survive a change of handlers.

use super::*;
use oxide::queue::Replaced;

fn next(sessions: &str) -> impl FnOnce(&QueueInfo) -> UdpRelay {
    let plan = RelayPlan::new(&config(sessions), &[]).unwrap();
    move |info| UdpRelay::new(&plan, info)
}

#[test]
fn flow_keeps_source_port_across_panic_and_reload() {
    let mut harness = relay("");
    let clients: Vec<String> = (0..50).map(|n| format!("192.0.2.{}:{}", 2 + n % 5, 5000 + n)).collect();
    let before: Vec<u16> = clients.iter().map(|client| source_port(&mut harness, client)).collect();
    for why in [Replaced::Panicked, Replaced::Asked] {
        assert_eq!(harness.restart_handler(why, next("")), Ok(50));
        let after: Vec<u16> = clients.iter().map(|client| source_port(&mut harness, client)).collect();
        assert_eq!(after, before);
        assert_eq!(harness.handler().sessions(), 50);
    }
    // Inherited ports are not assigned again.
    let fresh: Vec<u16> = (0..50).map(|n| source_port(&mut harness, &format!("192.0.2.8:{}", 7000 + n))).collect();
    assert!(fresh.iter().all(|port| !before.contains(port)));
}

#[test]
fn session_outside_new_configuration_ends() {
    let mut harness = relay("");
    for n in 0..80 {
        source_port(&mut harness, &format!("192.0.2.2:{}", 5000 + n));
    }
    assert_eq!(harness.restart_handler(Replaced::Asked, next("capacity = 64")), Ok(64));
    assert_eq!(harness.handler().sessions(), 64);
    // The new configuration has none of the old entries and ports.
    assert_eq!(harness.restart_handler(Replaced::Asked, next("source_ports = \"40000-40999\"")), Ok(0));
    assert!((40_000..=40_999).contains(&source_port(&mut harness, "192.0.2.2:5000")));
}

#[test]
fn idle_time_and_counters_continue_after_reload() {
    let mut harness = relay("idle_timeout_s = 120");
    // Avoid clocks at zero.
    harness.tick();
    harness.advance(Duration::from_secs(10));
    let port = source_port(&mut harness, "192.0.2.7:4000");
    harness.advance(Duration::from_secs(100));
    harness.tick();
    for why in [Replaced::Panicked, Replaced::Asked] {
        assert_eq!(harness.restart_handler(why, next("idle_timeout_s = 120")), Ok(1));
        let mut list = Vec::new();
        harness.handler().describe_sessions(9, &mut list);
        assert_eq!(list.iter().map(|one| one.idle).collect::<Vec<_>>(), [Duration::from_secs(100)]);
    }
    assert_eq!(harness.handler().counters().created, 1);
    let answer = datagram("198.51.100.2:53", &format!("198.51.100.1:{port}"), b"!");
    harness.advance(Duration::from_secs(20));
    sent(one(&mut harness, SERVERS, &answer));
    harness.advance(Duration::from_millis(100));
    assert_eq!(one(&mut harness, SERVERS, &answer), HandlerOutcome::Drop(DropReason::NoSession));
}

/// Returns upstream and source port of a client at the entry with two upstreams.
fn of_six(harness: &mut Harness<UdpRelay>, n: u16) -> (SocketAddr, SocketAddr) {
    let from = format!("[2001:db8:1::7]:{}", 4000 + n);
    let out = sent(one(harness, CLIENTS, &datagram(&from, "[2001:db8:1::1]:53", b"?"))).1;
    let (source, upstream) = ends(&out);
    (upstream, source)
}

#[test]
fn sessions_follow_entry_and_upstream_to_new_index() {
    let mut harness = relay("");
    let plain = source_port(&mut harness, "192.0.2.7:4000");
    let before: Vec<_> = (0..30).map(|n| of_six(&mut harness, n)).collect();
    // All entries and all upstreams of one entry get another index, and a new one comes first.
    let mut other = config("");
    other.relays.reverse();
    let six = other.relays.iter_mut().find(|relay| relay.name == "six").unwrap();
    six.upstreams.reverse();
    six.upstreams.insert(0, at("[2001:db8:2::9]:53"));
    let plan = RelayPlan::new(&other, &[]).unwrap();
    assert_eq!(harness.restart_handler(Replaced::Asked, |info| UdpRelay::new(&plan, info)), Ok(31));
    assert_eq!((0..30).map(|n| of_six(&mut harness, n)).collect::<Vec<_>>(), before);
    assert_eq!(source_port(&mut harness, "192.0.2.7:4000"), plain);
    for (n, (upstream, source)) in before.iter().enumerate() {
        let answer = datagram(&upstream.to_string(), &source.to_string(), b"!");
        let back = ends(&sent(one(&mut harness, SERVERS, &answer)).1);
        assert_eq!(back, (at("[2001:db8:1::1]:53"), at(&format!("[2001:db8:1::7]:{}", 4000 + n))));
    }
    // A removed upstream ends its own sessions only.
    let gone = at("[2001:db8:2::2]:53");
    let six = other.relays.iter_mut().find(|relay| relay.name == "six").unwrap();
    six.upstreams.retain(|upstream| *upstream != gone);
    let plan = RelayPlan::new(&other, &[]).unwrap();
    let stay = before.iter().filter(|(upstream, _)| *upstream != gone).count();
    assert!((1..30).contains(&stay));
    assert_eq!(harness.restart_handler(Replaced::Asked, |info| UdpRelay::new(&plan, info)), Ok(1 + stay as u64));
    for (n, was) in (0..).zip(&before) {
        assert_eq!(of_six(&mut harness, n) == *was, was.0 != gone);
    }
}

/// Next hops are not inherited, because they may have changed.
/// A port belongs to its queue whatever the ranges are: only sessions whose port is not allowed any more end.
#[test]
fn other_source_ports_keep_sessions_inside_them() {
    let mut harness = relay_on(1, 4, "source_ports = \"61000-65535\"");
    let clients: Vec<String> = (0..200).map(|n| format!("192.0.2.7:{}", 4000 + n)).collect();
    let ports: Vec<u16> = clients.iter().map(|client| source_port(&mut harness, client)).collect();
    for (range, last) in [("\"60000-65535\"", u16::MAX), ("[\"2000-2999\", \"50001-63001\"]", 63_001)] {
        let kept = ports.iter().filter(|&&port| port <= last).count() as u64;
        let plan = RelayPlan::new(&config(&format!("source_ports = {range}")), &[]).unwrap();
        let before = harness.handler().sessions();
        assert_eq!(harness.restart_handler(Replaced::Asked, |info| UdpRelay::new(&plan, info)), Ok(kept));
        let taken_over = plan.taken_over();
        assert_eq!((taken_over.kept, taken_over.lost), (kept, before - kept), "{range}");
        let mut list = Vec::new();
        harness.handler().describe_sessions(999, &mut list);
        for one in list {
            let at = clients.iter().position(|client| *client == one.client.to_string()).unwrap();
            assert_eq!(one.source.port(), ports[at]);
        }
    }
    let lost = ports.iter().filter(|&&port| port > 63_001).count() as u64;
    assert!((1..200).contains(&lost));
    assert_eq!(harness.handler().counters().not_taken_over, lost);
}

/// Where the way leads is not taken over: it may be another by now.
#[test]
fn next_hop_is_resolved_again_after_change() {
    let mut harness = relay("");
    source_port(&mut harness, "192.0.2.7:4000");
    harness.restart_handler(Replaced::Asked, next("")).unwrap();
    harness.set_tables(World { known: false, ..World::default() }.tables(2));
    let packet = datagram("192.0.2.7:4000", "192.0.2.1:53", b"?");
    assert_eq!(one(&mut harness, CLIENTS, &packet), HandlerOutcome::Hold(packet.clone()));
}

#[test]
fn session_list_uses_operator_names() {
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
