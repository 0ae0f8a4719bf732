#![allow(clippy::unwrap_used)]
//! Tests which sessions are inherited from tables that a panic damaged or that do not fit the new configuration.

use std::num::NonZeroU16;

use super::*;
use crate::RelayPlan;
use crate::source_ports::Wanted;
use crate::tests::{at, config};
use oxide::flow::FlowHash;
use oxide::packet::{Flow, FlowChecksumDelta};
use oxide::queue::{Harness, QueueInfo};

const FIRST_PORT: u16 = 61_000;
const SEED: u64 = 7;
const PORTS: &str = "source_ports = \"61000-61039\"";
/// Indices of entries `a` and `six`, and of their first upstreams.
const A: (u16, u32) = (0, 0);
const SIX: (u16, u32) = (2, 2);

fn relay(seed: u64, sessions: &str) -> UdpRelay {
    let plan = RelayPlan::new(&config(sessions), &[]).unwrap();
    UdpRelay::new(&plan, &QueueInfo { seed, ..Harness::info(2) })
}

fn key(entry: u16, n: u32) -> FlowKey {
    let [_, a, b, c] = n.to_be_bytes();
    let client = if entry == SIX.0 { format!("[2001:db8::{n:x}]:4000") } else { format!("10.{a}.{b}.{c}:4000") };
    FlowKey { remote: at(&client).into(), local: entry }
}

/// Inserts a session as damaged tables may have it. Returns its slot.
fn put(relay: &mut UdpRelay, key: FlowKey, upstream: u32, port: u16) -> u32 {
    let own = if key.local == SIX.0 { "[2001:db8:2::1]:0" } else { "198.51.100.1:0" };
    let source = relay.source(Endpoint::from(at(own)).address).unwrap();
    let port = NonZeroU16::new(port).unwrap();
    // After a panic the value may belong to no packet.
    let flow = Flow { source: key.remote, destination: key.remote };
    let (change, to_client) = (FlowChecksumDelta::new(&flow, &flow).unwrap(), CachedNextHop::UNKNOWN);
    let (source, answered) = (source as u8, false);
    let session = Session { key, port, source, answered, upstream, last_seen: 0, change, to_client };
    relay.sessions.insert(session).ok().unwrap()
}

/// Returns the free ports for the first upstream of entry `a`, sorted.
fn free_ports(relay: &mut UdpRelay) -> Vec<u16> {
    let UdpRelay { sources, space, .. } = relay;
    let wanted = Wanted { slot: 0, server: 0, tag: 0 };
    let take = || sources[0].take(space, wanted, 0, |_| false, |_| false);
    let mut free: Vec<u16> = std::iter::from_fn(take).collect();
    free.sort_unstable();
    free
}

/// Returns the slot of the only session with this port.
fn slot_of(relay: &UdpRelay, port: u16) -> Option<u32> {
    relay.sources[0].slots(relay.space.index(port)).next()
}

/// Returns all ports except those of the relay's sessions.
fn others(relay: &UdpRelay) -> Vec<u16> {
    let used: Vec<u16> = relay.sessions.iter_from(0).map(|(_, session)| session.port.get()).collect();
    (FIRST_PORT..FIRST_PORT + 40).filter(|port| !used.contains(port)).collect()
}

#[test]
fn session_with_foreign_or_missing_upstream_ends() {
    // Upstreams of the entry before and of the entry after, and one that does not exist.
    for (entry, upstream, taken) in [
        (A.0, A.1, 1),
        (A.0, A.1 + 1, 0),
        (A.0, SIX.1, 0),
        (A.0, 7, 0),
        (SIX.0, SIX.1 - 1, 0),
        (SIX.0, SIX.1, 1),
        (SIX.0, SIX.1 + 1, 1),
        (SIX.0, SIX.1 + 2, 0),
        (6, 0, 0),
    ] {
        let (mut former, mut next) = (relay(SEED, PORTS), relay(SEED, PORTS));
        put(&mut former, key(entry, 1), upstream, FIRST_PORT);
        assert_eq!(next.take_over(&mut former), taken, "entry {entry}, upstream {upstream}");
        let kept: Vec<_> = next.sessions.iter_from(0).map(|(_, kept)| (kept.key, kept.upstream)).collect();
        let wanted = [(key(entry, 1), upstream)];
        assert_eq!(kept, wanted[..taken as usize], "entry {entry}, upstream {upstream}");
    }
}

#[test]
fn duplicate_client_session_keeps_first() {
    let (mut former, mut next) = (relay(SEED, PORTS), relay(SEED, PORTS));
    put(&mut former, key(A.0, 1), A.1, FIRST_PORT);
    let second = put(&mut former, key(A.0, 2), A.1, FIRST_PORT + 1);
    // The index of the old table is not used.
    former.sessions.get_mut(second).unwrap().key = key(A.0, 1);
    assert_eq!(next.take_over(&mut former), 1);
    assert_eq!(next.sessions.iter_from(0).map(|(_, kept)| kept.port.get()).collect::<Vec<_>>(), [FIRST_PORT]);
    // Inheriting from the same relay again adds nothing.
    assert_eq!((next.take_over(&mut former), next.sessions.len()), (0, 1));
    assert_eq!(free_ports(&mut next), (FIRST_PORT + 1..FIRST_PORT + 40).collect::<Vec<_>>());
}

#[test]
fn duplicate_port_session_keeps_first() {
    let (mut former, mut next) = (relay(SEED, PORTS), relay(SEED, PORTS));
    put(&mut former, key(A.0, 1), A.1, FIRST_PORT);
    put(&mut former, key(A.0, 2), A.1, FIRST_PORT);
    // Ports without an owner, and ports of another range.
    put(&mut former, key(A.0, 3), A.1, FIRST_PORT - 1);
    put(&mut former, key(A.0, 4), A.1, FIRST_PORT + 40);
    assert_eq!((next.take_over(&mut former), next.sessions.len()), (1, 1));
    let slot = next.sessions.find(&key(A.0, 1));
    assert!(slot.is_some() && slot_of(&next, FIRST_PORT) == slot);
}

/// Checksum changes and next hops are computed again, not inherited.
#[test]
fn inherited_session_recomputes_derived_fields() {
    let (mut former, mut next) = (relay(SEED, PORTS), relay(SEED, PORTS));
    put(&mut former, key(A.0, 1), A.1, FIRST_PORT);
    assert_eq!(next.take_over(&mut former), 1);
    let slot = next.sessions.find(&key(A.0, 1)).unwrap();
    let kept = next.sessions.get(slot).unwrap();
    let end = |end: &str| Endpoint::from(at(end));
    let came = Flow { source: key(A.0, 1).remote, destination: end("192.0.2.1:53") };
    let goes = Flow { source: end("198.51.100.1:61000"), destination: end("198.51.100.2:53") };
    assert_eq!(kept.change, FlowChecksumDelta::new(&came, &goes).unwrap());
    assert!(!kept.to_client.fresh(kept.to_client.generation));
    // A client cannot have another IP version than its entry.
    let stranger = FlowKey { remote: end("[2001:db8::1]:4000"), local: A.0 };
    put(&mut former, stranger, A.1, FIRST_PORT + 1);
    assert_eq!(relay(SEED, PORTS).take_over(&mut former), 1);
}

/// A source address takes memory for all its ports, and one of few entries.
#[test]
fn refused_sessions_bring_no_source_address() {
    let (mut former, mut next) = (relay(SEED, PORTS), relay(SEED, PORTS));
    put(&mut former, key(A.0, 1), A.1, FIRST_PORT - 1);
    put(&mut former, key(A.0, 2), A.1 + 1, FIRST_PORT);
    put(&mut former, key(A.0, 3), A.1, FIRST_PORT + 40);
    assert_eq!((next.take_over(&mut former), next.sources.len()), (0, 0));
}

/// If the index has no place for keys of the same two buckets, their ports stay free.
#[test]
fn session_without_index_slot_frees_its_port() {
    let (mut former, mut next) = (relay(SEED + 1, PORTS), relay(SEED, &format!("capacity = 64\n{PORTS}")));
    let hash = FlowHash::new(Harness::info(2).processor, SEED);
    // With both halves of the hash this small, the place is one of the first two of at most 16 buckets.
    let low = |hash: u64| hash >> 60 == 0 && hash as u32 >> 28 == 0;
    let keys: Vec<_> = (0..).map(|n| key(A.0, n)).filter(|key| low(hash.one(key))).take(30).collect();
    for (key, port) in keys.iter().zip(FIRST_PORT..) {
        put(&mut former, *key, A.1, port);
    }
    // Two buckets with eleven entries each.
    assert_eq!((next.take_over(&mut former), next.sessions.len()), (22, 22));
    let wanted = others(&next);
    for &port in &wanted {
        assert_eq!(slot_of(&next, port), None, "{port}");
    }
    assert_eq!((wanted.len(), free_ports(&mut next)), (18, wanted));
}

#[test]
fn inherited_ports_are_not_free() {
    let (mut former, mut next) = (relay(SEED, PORTS), relay(SEED + 1, PORTS));
    for n in 0..20 {
        put(&mut former, key(A.0, n), A.1, FIRST_PORT + 2 * n as u16);
    }
    assert_eq!(next.take_over(&mut former), 20);
    let wanted = others(&next);
    assert_eq!((wanted.len(), free_ports(&mut next)), (20, wanted));
}

/// Packets wait while a list is made, so its length is limited.
#[test]
fn session_list_is_bounded() {
    let mut relay = relay(SEED, "capacity = 70000");
    (0..LOOK_AT as u32 + 9).for_each(|n| _ = put(&mut relay, key(A.0, n), A.1, FIRST_PORT));
    let mut list = Vec::new();
    relay.describe(usize::MAX, &mut list);
    assert_eq!(list.len(), LOOK_AT);
    relay.describe(5, &mut list);
    assert_eq!(list.len(), LOOK_AT + 5);
}
