#![allow(clippy::unwrap_used, clippy::panic)]
//! Tests upstreams that do not answer, through the relay.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::{CLIENTS, SERVERS, World, config, datagram, ends, one, sent};
use crate::{RelayPlan, UdpRelay};
use oxide::queue::{HandlerOutcome, Harness, Replaced};

const ENTRY: &str = "[2001:db8:1::1]:53";
const FIRST: &str = "[2001:db8:2::2]:53";
const SECOND: &str = "[2001:db8:2::3]:53";

fn relay(failover: bool) -> Harness<UdpRelay> {
    let plan = plan(failover);
    Harness::new(Harness::info(2), World::default().tables(1), |info| UdpRelay::new(&plan, info)).unwrap()
}

fn plan(failover: bool) -> RelayPlan {
    let mut config = config("");
    let entry = &mut config.relays[2];
    (entry.down_after_sessions, entry.down_after_ms, entry.failover) = (4, 1000, Some(failover));
    config.check().unwrap();
    RelayPlan::new(&config, &[]).unwrap()
}

fn client(n: u32) -> String {
    format!("[2001:db8:1::7]:{}", 4000 + n)
}

/// Sends from client `n`. Returns the upstream and the source port.
#[track_caller]
fn ask(harness: &mut Harness<UdpRelay>, n: u32) -> (SocketAddr, SocketAddr) {
    let (from, to) = ends(&sent(one(harness, CLIENTS, &datagram(&client(n), ENTRY, b"?"))).1);
    (to, from)
}

fn answer(harness: &mut Harness<UdpRelay>, (upstream, source): (SocketAddr, SocketAddr)) -> HandlerOutcome {
    one(harness, SERVERS, &datagram(&upstream.to_string(), &source.to_string(), b"!"))
}

/// Sends from `n` clients in turn. Returns the number of packets per upstream. All but the first upstream answer.
fn round(harness: &mut Harness<UdpRelay>, clients: std::ops::Range<u32>) -> HashMap<String, u32> {
    let mut counts = HashMap::new();
    for n in clients {
        let asked = ask(harness, n);
        *counts.entry(asked.0.to_string()).or_insert(0) += 1;
        if asked.0.to_string() != FIRST {
            sent(answer(harness, asked));
        }
    }
    counts
}

#[test]
fn silent_upstream_is_skipped_retried_and_restored() {
    let mut harness = relay(false);
    let before = round(&mut harness, 0..100);
    assert!((30..70).contains(&before[FIRST]), "{before:?}");
    harness.advance(Duration::from_millis(1100));
    // At most one client per second tries it.
    let down = round(&mut harness, 100..200);
    assert_eq!(down.get(FIRST), None, "{down:?}");
    let mut tries = 0;
    for second in 0..10 {
        harness.advance(Duration::from_millis(1100));
        let start = 200 + 100 * second;
        tries += round(&mut harness, start..start + 100).get(FIRST).copied().unwrap_or(0);
    }
    assert_eq!(tries, 10);
    // Existing sessions stay, and any answer to one of them marks the upstream as up.
    let old = (0..100).map(|n| ask(&mut harness, n)).find(|asked| asked.0.to_string() == FIRST).unwrap();
    sent(answer(&mut harness, old));
    let healed = round(&mut harness, 2000..2100);
    assert!((30..70).contains(&healed[FIRST]), "{healed:?}");
    let counters = harness.handler().counters();
    assert_eq!((counters.upstream_down, counters.upstream_up, counters.failed_over), (1, 1, 0));
}

#[test]
fn silence_counts_for_sessions_with_another_source_address() {
    let mut harness = relay(true);
    for n in 0..20 {
        let asked = ask(&mut harness, n);
        sent(answer(&mut harness, asked));
    }
    // New sessions have the second address; older ones keep the first, and the slots of their upstreams.
    let both = World { server_side: vec!["198.51.100.1", "2001:db8:2::9", "2001:db8:2::1"], ..World::default() };
    harness.set_tables(both.tables(2));
    let before = round(&mut harness, 20..60);
    assert!(before[FIRST] >= 4, "{before:?}");
    harness.advance(Duration::from_millis(1100));
    assert_eq!(round(&mut harness, 20..60), HashMap::from([(SECOND.to_owned(), 40)]));
}

#[test]
fn failover_moves_sessions_if_configured() {
    let mut harness = relay(true);
    round(&mut harness, 0..20);
    harness.advance(Duration::from_millis(1100));
    let moved = round(&mut harness, 0..20);
    assert_eq!(moved, HashMap::from([(SECOND.to_owned(), 20)]));
    let failed_over = harness.handler().counters().failed_over;
    assert!(failed_over >= 4);
    // The session moves once and stays there.
    round(&mut harness, 0..20);
    assert_eq!(harness.handler().counters().failed_over, failed_over);
}

/// The batch also has clients of an upstream that is up, and a second packet of a client that has just moved.
#[test]
fn moved_session_does_not_disturb_others_in_batch() {
    let mut harness = relay(true);
    let firsts: Vec<u32> = (0..20).filter(|&n| ask(&mut harness, n).0.to_string() == FIRST).collect();
    let second = (0..20).find(|n| !firsts.contains(n)).unwrap();
    assert!(firsts.len() >= 4);
    let answered = ask(&mut harness, second);
    sent(answer(&mut harness, answered));
    harness.advance(Duration::from_millis(1100));
    let batch = [second, firsts[0], firsts[0], second, firsts[1]].map(|n| datagram(&client(n), ENTRY, b"?"));
    for outcome in harness.feed(CLIENTS, &batch) {
        assert_eq!(ends(&sent(outcome).1).1.to_string(), SECOND);
    }
    assert_eq!(harness.handler().counters().failed_over, 2);
}

/// If all upstreams are down, sessions do not move.
#[test]
fn all_upstreams_down_keeps_assignments() {
    let mut harness = relay(true);
    let before: Vec<_> = (0..40).map(|n| ask(&mut harness, n)).collect();
    for _ in 0..5 {
        harness.advance(Duration::from_millis(1100));
        assert_eq!((0..40).map(|n| ask(&mut harness, n)).collect::<Vec<_>>(), before);
    }
    let counters = harness.handler().counters();
    assert_eq!((counters.upstream_down, counters.failed_over), (2, 0));
}

/// Packets on the fast path are recorded as well: requests and answers.
#[test]
fn existing_sessions_report_upstream_health() {
    for (answers, fell) in [(true, 0), (false, 2)] {
        let mut harness = relay(false);
        for n in 0..20 {
            let asked = ask(&mut harness, n);
            sent(answer(&mut harness, asked));
        }
        // The first packet of a session per tick is recorded.
        harness.advance(Duration::from_millis(100));
        // Send all requests first: an answer to the last one would hide that earlier ones were not recorded.
        let asked: Vec<_> = (0..20).map(|n| ask(&mut harness, n)).collect();
        for asked in asked.into_iter().filter(|_| answers) {
            sent(answer(&mut harness, asked));
        }
        harness.advance(Duration::from_millis(1100));
        (20..40).for_each(|n| _ = ask(&mut harness, n));
        assert_eq!(harness.handler().counters().upstream_down, fell, "answers: {answers}");
    }
}

/// With several upstreams, sessions leave a dead one by default.
#[test]
fn dead_upstream_is_left_by_default() {
    let mut config = config("");
    let entry = &mut config.relays[2];
    let text = format!("[[relay]]\nname = \"d\"\nlisten = \"{ENTRY}\"\nupstreams = [\"{FIRST}\", \"{SECOND}\"]");
    let default = crate::config::Config::from_toml(&format!("engine.interfaces = [\"sim0\"]\n{text}")).unwrap();
    *entry = default.relays[0].clone();
    assert!(entry.fails_over());
    let plan = RelayPlan::new(&config, &[]).unwrap();
    let made = |info: &_| UdpRelay::new(&plan, info);
    let mut harness = Harness::new(Harness::info(2), World::default().tables(1), made).unwrap();
    let before = round(&mut harness, 0..20);
    assert!(before[FIRST] >= 3, "{before:?}");
    harness.advance(Duration::from_millis(3100));
    assert_eq!(round(&mut harness, 0..20), HashMap::from([(SECOND.to_owned(), 20)]));
    // With one upstream the sessions stay, but its failure is still detected.
    config.relays[2].upstreams.truncate(1);
    assert!(!config.relays[2].fails_over());
    let plan = RelayPlan::new(&config, &[]).unwrap();
    let made = |info: &_| UdpRelay::new(&plan, info);
    let mut harness = Harness::new(Harness::info(2), World::default().tables(1), made).unwrap();
    let asked: Vec<_> = (0..20).map(|n| ask(&mut harness, n)).collect();
    harness.advance(Duration::from_millis(3100));
    assert_eq!((0..20).map(|n| ask(&mut harness, n)).collect::<Vec<_>>(), asked);
    harness.tick();
    assert_eq!(harness.handler().counters().upstream_down, 1);
}

#[test]
fn down_upstream_stays_down_for_next_handler() {
    let mut harness = relay(false);
    round(&mut harness, 0..100);
    harness.advance(Duration::from_millis(1100));
    assert_eq!(round(&mut harness, 100..120).get(FIRST), None);
    let plan = plan(false);
    for why in [Replaced::Panicked, Replaced::Asked] {
        harness.restart_handler(why, |info| UdpRelay::new(&plan, info)).unwrap();
        assert_eq!(round(&mut harness, 120..130).get(FIRST), None);
        assert_eq!(harness.handler().counters().upstream_down, 1);
    }
}
