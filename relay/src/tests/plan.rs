#![allow(clippy::unwrap_used, clippy::panic)]
//! Tests what all queues share: upstream choice, port slices, destinations.

use std::collections::HashSet;

use super::{World, at, config, ip, source_port};
use crate::{Entry, PlanError, RelayPlan, UdpRelay, UsedSources};
use oxide::packet::Endpoint;
use oxide::queue::{Handler, Harness, QueueInfo};

fn client(n: u32) -> Endpoint {
    Endpoint { address: u128::from(n).wrapping_mul(0x1234_5678_9abc_def1).to_be_bytes(), port: n as u16 }
}

fn eight_upstreams() -> Entry {
    let mut entry = RelayPlan::new(&config(""), &[]).unwrap().entries()[2].clone();
    entry.upstreams = (2..10).map(|n| at(&format!("[2001:db8:2::{n}]:53")).into()).collect();
    entry
}

#[test]
fn upstreams_share_evenly_and_change_moves_only_its_clients() {
    let entry = eight_upstreams();
    let chosen = |entry: &Entry, n| entry.upstreams[entry.upstream_for(&client(n))];
    let mut fewer = entry.clone();
    let gone = fewer.upstreams.remove(3);
    fewer.upstreams.reverse();
    let mut counts = std::collections::HashMap::new();
    for n in 0..8000 {
        let (with, without) = (chosen(&entry, n), chosen(&fewer, n));
        *counts.entry(with).or_insert(0) += 1;
        assert!(with == without || with == gone, "{n}");
        assert_ne!(without, gone);
    }
    assert_eq!(counts.len(), 8);
    assert!(counts.values().all(|&n| (850..1150).contains(&n)), "{counts:?}");
}

/// With `affinity = "address"` a client whose NAT changes its port keeps its server.
#[test]
fn affinity_by_address_ignores_the_port() {
    let mut entry = eight_upstreams();
    let chosen = |entry: &Entry, address: u32| -> HashSet<usize> {
        let of = |port| entry.upstream_for(&Endpoint { port, ..client(address) });
        (1..=64).map(of).collect()
    };
    assert!((0..20).all(|n| chosen(&entry, n).len() > 4));
    entry.affinity = crate::config::Affinity::Address;
    assert!((0..20).all(|n| chosen(&entry, n).len() == 1));
    let servers: HashSet<usize> = (0..200).flat_map(|n| chosen(&entry, n)).collect();
    assert_eq!(servers.len(), 8, "addresses spread");
}

/// The choice must be the same in every version.
#[test]
fn upstream_choices_do_not_change_between_versions() {
    let entry = eight_upstreams();
    let choices: Vec<usize> = (1..=16).map(|n| entry.upstream_for(&client(n))).collect();
    assert_eq!(choices, CHOICES);
}
const CHOICES: [usize; 16] = [0, 6, 2, 5, 3, 6, 6, 1, 2, 3, 5, 3, 2, 4, 1, 0];

#[test]
fn each_port_has_one_owner_and_shares_are_equal() {
    for (ports, queues) in [("61000-65535", 4), ("61000-65535", 7), ("5120-65535", 64), ("65535-65535", 1)] {
        let plan = RelayPlan::new(&config(&format!("source_ports = \"{ports}\"")), &[]).unwrap();
        plan.check_queues(queues).unwrap();
        let space = plan.port_space(queues);
        let mut seen = HashSet::new();
        for place in 0..queues {
            assert!(space.count_of(place).abs_diff(space.count_of(0)) <= 1);
            for port in space.of(place) {
                assert!(seen.insert(port));
                assert_eq!((space.contains(port), space.owner(port)), (true, place));
            }
        }
        assert!((0..=u16::MAX).all(|port| space.contains(port) == seen.contains(&port)));
        assert_eq!(space.count_of(queues), 0);
    }
}

#[test]
fn more_queues_than_ports() {
    let plan = RelayPlan::new(&config("source_ports = \"61000-61002\""), &[]).unwrap();
    assert!(plan.check_queues(3).is_ok());
    assert!(plan.check_queues(4).unwrap_err().to_string().contains("3 ports for 4 queues"));
}

/// A queue's share depends on its position, not on its number.
#[test]
fn single_queue_with_high_number_has_all_ports() {
    let plan = RelayPlan::new(&config("source_ports = \"61000-61002\""), &[]).unwrap();
    let info = QueueInfo { queue: 7, queues: 1, place: 0, ..Harness::info(2) };
    let mut harness = Harness::new(info, World::default().tables(1), |info| UdpRelay::new(&plan, info)).unwrap();
    for n in 0..3 {
        source_port(&mut harness, &format!("192.0.2.7:{}", 4000 + n));
    }
    assert_eq!(harness.handler().sessions(), 3);
}

#[test]
fn steering_lists_listen_addresses_and_source_ports() {
    let plan = RelayPlan::new(&config(""), &[]).unwrap();
    let tables = World::default().tables(1);
    assert_eq!(plan.source_addresses(&tables), [ip("198.51.100.1"), ip("203.0.113.1"), ip("2001:db8:2::1")]);
    let used = UsedSources::default();
    let destinations = plan.destinations(&tables, &used);
    assert!(destinations.contains(&(ip("192.0.2.1"), 54..=54)));
    for range in [8500..=29_999, 61_000..=65_535] {
        assert!(destinations.contains(&(ip("2001:db8:2::1"), range)));
    }
    assert_eq!(destinations.len(), 6 + 2 * 3);
    // Answers to sessions with another source address are still steered to the relay.
    let both = World { server_side: vec!["198.51.100.9", "198.51.100.1", "2001:db8:2::1"], ..World::default() };
    let destinations = plan.destinations(&both.tables(2), &used);
    for own in ["198.51.100.1", "198.51.100.9"] {
        assert!(destinations.contains(&(ip(own), 61000..=65535)), "{own} of {destinations:?}");
    }
}

#[test]
fn invalid_relay_plan_is_refused() {
    let own = [ip("198.51.100.2")];
    let error = RelayPlan::new(&config(""), &own).unwrap_err().to_string();
    assert!(error.contains("relay[a].upstreams: 198.51.100.2 is an address of this host"), "{error}");
    let mut none = config("");
    none.relays.clear();
    assert!(matches!(RelayPlan::new(&none, &[]), Err(PlanError::NoEntry)));
}
