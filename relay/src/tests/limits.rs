#![allow(clippy::unwrap_used, clippy::panic)]
//! Tests rate limits through the relay: only packets above a limit are dropped.

use std::time::Duration;

use super::{CLIENTS, SERVERS, World, config, datagram, one, source_port};
use crate::config::Config;
use crate::{RelayPlan, UdpRelay};
use oxide::queue::{Handler, HandlerOutcome, Harness, QueueInfo, Replaced};
use oxide::telemetry::DropReason;

fn relay(change: impl FnOnce(&mut Config), queues: u32) -> Harness<UdpRelay> {
    let mut config = config("");
    change(&mut config);
    config.check().unwrap();
    let plan = RelayPlan::new(&config, &[]).unwrap();
    let info = QueueInfo { queues, ..Harness::info(2) };
    Harness::new(info, World::default().tables(1), |info| UdpRelay::new(&plan, info)).unwrap()
}

fn sent(outcomes: &[HandlerOutcome]) -> usize {
    let limited = |outcome: &&HandlerOutcome| **outcome == HandlerOutcome::Drop(DropReason::RateLimited);
    let sent = outcomes.iter().filter(|outcome| matches!(outcome, HandlerOutcome::Transmit(..))).count();
    assert_eq!(sent + outcomes.iter().filter(limited).count(), outcomes.len());
    sent
}

#[test]
fn each_source_gets_its_own_rate() {
    let mut harness = relay(|config| (config.limits.source_packets_per_s, config.limits.burst_ms) = (100, 100), 1);
    let one_source = vec![datagram("192.0.2.7:4000", "192.0.2.1:53", b"?"); 64];
    assert_eq!(sent(&harness.feed(CLIENTS, &one_source)), 10);
    // Other ports and other entries count as the same source; other addresses do not.
    for to in ["192.0.2.1:53", "192.0.2.1:54"] {
        assert_eq!(sent(&harness.feed(CLIENTS, &[datagram("192.0.2.7:4001", to, b"?")])), 0);
    }
    assert_eq!(sent(&harness.feed(CLIENTS, &[datagram("192.0.2.8:4000", "192.0.2.1:53", b"?")])), 1);
    // Ten milliseconds give one packet.
    harness.advance(Duration::from_millis(35));
    assert_eq!(sent(&harness.feed(CLIENTS, &one_source)), 3);
    harness.advance(Duration::from_millis(5));
    assert_eq!(sent(&harness.feed(CLIENTS, &one_source)), 1);
    assert_eq!((harness.handler().sessions(), harness.handler().counters().shared_bucket), (2, 0));
}

#[test]
fn entry_byte_rate_is_shared_between_queues() {
    let mut harness = relay(|config| config.relays[0].bytes_per_s = 40_000, 4);
    // 20 + 8 + 972 bytes: this queue's share is ten packets per second.
    let packets: Vec<_> =
        (0..40).map(|n| datagram(&format!("192.0.2.7:{}", 4000 + n), "192.0.2.1:53", &[0; 972])).collect();
    assert_eq!(sent(&harness.feed(CLIENTS, &packets)), 10);
    assert_eq!(sent(&harness.feed(CLIENTS, &[datagram("192.0.2.7:9", "192.0.2.1:54", &[0; 972])])), 1);
    harness.advance(Duration::from_secs(100));
    assert_eq!(sent(&harness.feed(CLIENTS, &packets)), 10);
}

#[test]
fn reply_rate_cannot_be_spent_by_others() {
    let mut harness = relay(|config| (config.limits.reply_packets_per_s, config.limits.burst_ms) = (1, 1), 1);
    let port = source_port(&mut harness, "192.0.2.7:4000");
    let to = format!("198.51.100.1:{port}");
    let stranger = datagram("198.51.100.3:53", &to, b"!");
    assert_eq!(one(&mut harness, SERVERS, &stranger), HandlerOutcome::Drop(DropReason::WrongPeer));
    let answer = datagram("198.51.100.2:53", &to, b"!");
    assert_eq!(sent(&harness.feed(SERVERS, &vec![answer.clone(); 5])), 1);
    harness.advance(Duration::from_secs(1));
    assert_eq!(sent(&harness.feed(SERVERS, &vec![answer; 5])), 1);
    // This limit does not apply to requests.
    assert_eq!(source_port(&mut harness, "192.0.2.7:4000"), port);
}

#[test]
fn held_packet_is_charged_once() {
    let mut harness = relay(|config| (config.limits.source_packets_per_s, config.limits.burst_ms) = (1, 1), 1);
    harness.set_tables(World { known: false, ..World::default() }.tables(2));
    let packet = datagram("192.0.2.7:4000", "192.0.2.1:53", b"?");
    assert_eq!(one(&mut harness, CLIENTS, &packet), HandlerOutcome::Hold(packet.clone()));
    harness.set_tables(World::default().tables(3));
    assert_eq!(sent(&harness.feed_again(CLIENTS, &[&packet])), 1);
}

#[test]
fn new_handler_keeps_bucket_levels() {
    let change = |config: &mut Config| {
        (config.limits.source_packets_per_s, config.limits.burst_ms) = (100, 100);
        config.relays[1].packets_per_s = 50;
    };
    let next = |more: fn(&mut Config)| {
        let mut config = config("");
        change(&mut config);
        more(&mut config);
        let plan = RelayPlan::new(&config, &[]).unwrap();
        move |info: &QueueInfo| UdpRelay::new(&plan, info)
    };
    let mut harness = relay(change, 1);
    let source = |to: &str| vec![datagram("192.0.2.7:4000", to, b"?"); 64];
    let entry =
        || (0..20).map(|n| datagram(&format!("192.0.2.{}:9", 20 + n), "192.0.2.1:54", b"?")).collect::<Vec<_>>();
    assert_eq!(sent(&harness.feed(CLIENTS, &source("192.0.2.1:53"))), 10);
    assert_eq!(sent(&harness.feed(CLIENTS, &entry())), 5);
    for why in [Replaced::Panicked, Replaced::Asked] {
        harness.restart_handler(why, next(|_| {})).unwrap();
        assert_eq!(sent(&harness.feed(CLIENTS, &source("192.0.2.1:53"))), 0);
        assert_eq!(sent(&harness.feed(CLIENTS, &entry())), 0);
    }
    // The inherited buckets fill with time as before.
    harness.advance(Duration::from_millis(35));
    assert_eq!(sent(&harness.feed(CLIENTS, &source("192.0.2.1:53"))), 3);
    // A changed limit begins with a new bucket; the entry's limit is unchanged.
    harness.restart_handler(Replaced::Asked, next(|c| c.limits.source_packets_per_s = 200)).unwrap();
    assert_eq!(sent(&harness.feed(CLIENTS, &source("192.0.2.1:53"))), 20);
    assert!(sent(&harness.feed(CLIENTS, &entry())) <= 2);
}
