#![allow(clippy::unwrap_used)]
use std::collections::HashMap;

use proptest::prelude::*;

use super::bucket::ENTRIES;
use super::*;
use crate::packet::{Endpoint, LANES};
use crate::simd::Processor;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Flow {
    key: FlowKey,
    value: u32,
    stamp: u32,
}

impl Keyed for Flow {
    fn key(&self) -> &FlowKey {
        &self.key
    }
}

fn key(n: u32) -> FlowKey {
    let [a, b, c, d] = (n / 1000).to_be_bytes();
    let mut address = [0; 16];
    address[10..].copy_from_slice(&[0xff, 0xff, a, b, c, d]);
    FlowKey { remote: Endpoint { address, port: (n % 1000) as u16 }, local: 7 }
}

fn hash(seed: u64) -> FlowHash {
    FlowHash::new(Processor::detect(), seed)
}

fn flow(n: u32, value: u32) -> Flow {
    Flow { key: key(n), value, stamp: 0 }
}

#[derive(Debug, Clone)]
enum Step {
    Insert(u32),
    LookUp(Vec<u32>, u64),
    Remove(u32),
    Touch(u32),
    /// Advances time and the sweep: flows older than ten expire.
    Advance(u32, usize),
    HandOver,
}

fn step(keys: u32) -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..keys).prop_map(Step::Insert),
        3 => (prop::collection::vec(0..keys, LANES), any::<u64>()).prop_map(|(keys, live)| Step::LookUp(keys, live)),
        3 => (0..keys).prop_map(Step::Remove),
        2 => (0..keys).prop_map(Step::Touch),
        1 => (0u32..4, 0usize..64).prop_map(|(time, steps)| Step::Advance(time, steps)),
        1 => Just(Step::HandOver),
    ]
}

/// Holds the table, and a map with its expected content.
struct Pair {
    table: FlowTable<Flow>,
    model: HashMap<FlowKey, Flow>,
    now: u32,
}

impl Pair {
    fn step(mut self, step: Step) -> Result<Self, TestCaseError> {
        let Self { table, model, now } = &mut self;
        match step {
            Step::Insert(n) => {
                let new = Flow { stamp: *now, ..flow(n, n ^ *now) };
                if model.contains_key(&new.key) {
                    prop_assert!(table.find(&new.key).is_some());
                } else if model.len() == table.capacity() {
                    prop_assert_eq!((table.next_slot(), table.insert(new)), (None, Err(new)));
                } else {
                    let slot = table.next_slot();
                    prop_assert_eq!(table.insert(new).ok(), slot);
                    model.insert(new.key, new);
                }
            }
            Step::LookUp(keys, live) => {
                let keys: [FlowKey; LANES] = std::array::from_fn(|lane| key(keys[lane]));
                let mut found = [u32::MAX; LANES];
                let mut columns = FlowKeys::default();
                keys.iter().enumerate().for_each(|(lane, key)| columns.set(lane, key));
                let hit = table.look_up(&columns, live, &mut found);
                prop_assert_eq!(hit & !live, 0);
                for lane in 0..LANES {
                    let wanted = model.get(&keys[lane]).filter(|_| live >> lane & 1 == 1);
                    let got = (hit >> lane & 1 == 1).then(|| table.get(found[lane])).flatten();
                    prop_assert_eq!(wanted, got);
                }
            }
            Step::Remove(n) => {
                let slot = table.find(&key(n));
                prop_assert_eq!(slot.is_some(), model.contains_key(&key(n)));
                prop_assert_eq!(slot.and_then(|slot| table.remove(slot)), model.remove(&key(n)));
            }
            Step::Touch(n) => {
                if let Some(slot) = table.find(&key(n)) {
                    table.get_mut(slot).unwrap().stamp = *now;
                    model.get_mut(&key(n)).unwrap().stamp = *now;
                }
            }
            Step::Advance(time, mut steps) => {
                *now += time;
                let old = |flow: &Flow| flow.stamp + 10 < *now;
                let all = steps >= table.capacity();
                while let Some((slot, left)) = table.advance(steps, old) {
                    let ended = table.remove(slot).unwrap();
                    prop_assert!(old(&ended));
                    prop_assert_eq!(model.remove(&ended.key), Some(ended));
                    steps = left;
                }
                prop_assert!(!all || !model.values().any(old));
            }
            Step::HandOver => {
                let moved = std::mem::replace(table, FlowTable::new(1, hash(1)));
                prop_assert_eq!(moved.verify(), Ok(()));
                *table = moved;
            }
        }
        prop_assert_eq!(table.len(), model.len());
        prop_assert_eq!(table.audit(), Ok(()));
        Ok(self)
    }
}

proptest! {
    /// Uses more keys than slots, so that the table is often full.
    #[test]
    fn table_equals_a_map(capacity in 1u32..40, seed: u64, steps in prop::collection::vec(step(60), 1..200)) {
        let mut pair =
            Pair { table: FlowTable::new(capacity, hash(seed)), model: HashMap::new(), now: 0 };
        let bytes = pair.table.memory_bytes();
        prop_assert_eq!(bytes, FlowTable::<Flow>::bytes_for(pair.table.capacity() as u32));
        for step in steps {
            pair = pair.step(step)?;
        }
        prop_assert_eq!(pair.table.memory_bytes(), bytes);
        let listed: HashMap<_, _> = pair.table.iter_from(0).map(|(_, flow)| (flow.key, *flow)).collect();
        prop_assert_eq!(listed, pair.model);
    }
}

fn filled(keys: impl Iterator<Item = FlowKey>, capacity: u32, seed: u64) -> FlowTable<Flow> {
    let mut table = FlowTable::new(capacity, hash(seed));
    for key in keys {
        table.insert(Flow { key, value: 0, stamp: 0 }).unwrap();
    }
    table
}

/// Checks that a table takes a flow for every slot, and that few flows are in their second bucket.
#[test]
fn last_slot_works_like_the_first() {
    for seed in 0..8 {
        let table = filled((0..50_000).map(key), 50_000, seed);
        table.audit().unwrap();
        let spilled: u32 = table.buckets.iter().map(|bucket| bucket.spilled).sum();
        assert!(spilled < 4000, "{spilled} of 50000 are in their second bucket");
    }
}

/// Checks that keys which collide for one seed do not collide for another seed.
#[test]
fn collisions_for_one_seed_do_not_collide_for_another() {
    let victim = FlowTable::<Flow>::new(600, hash(1));
    let bad = |n: &u32| {
        let place = victim.place(victim.hash.one(&key(*n)));
        place.first < 2 && place.second < 2
    };
    let chosen: Vec<FlowKey> = (0..2_000_000).filter(bad).take(100).map(key).collect();
    assert!(chosen.len() == 100, "{}", chosen.len());
    let mut table = FlowTable::new(600, hash(1));
    let entered = chosen.iter().filter(|key| table.insert(Flow { key: **key, value: 0, stamp: 0 }).is_ok()).count();
    assert_eq!(entered, 2 * ENTRIES, "the table refuses flows without a free entry and stays usable");
    table.audit().unwrap();
    for seed in 2..10 {
        filled(chosen.iter().copied(), 600, seed).audit().unwrap();
    }
}

/// Checks keys that senders can choose without the seed: neighbouring addresses and ports with few bits set.
#[test]
fn regular_keys_spread() {
    let mut sets: Vec<(&str, Vec<FlowKey>)> = vec![("sequence", (0..60_000).map(key).collect())];
    sets.push((
        "ports of one address",
        (0..60_000u32).map(|n| FlowKey { remote: Endpoint { port: n as u16, ..key(5).remote }, local: 0 }).collect(),
    ));
    sets.push((
        "one address in each network",
        (0..60_000u32)
            .map(|n| {
                let address = (u128::from(n) << 64).to_be_bytes();
                FlowKey { remote: Endpoint { address, port: 53 }, local: 0 }
            })
            .collect(),
    ));
    sets.push((
        "high bits",
        (0..60_000u32)
            .map(|n| {
                let address = (u128::from(n) << 112).to_be_bytes();
                FlowKey { remote: Endpoint { address, port: 53 }, local: 0 }
            })
            .collect(),
    ));
    sets.push(("near end", (0..60_000u32).map(|n| FlowKey { local: n as u16, ..key(9) }).collect()));
    for (name, keys) in sets {
        for seed in 0..4 {
            let table = filled(keys.iter().copied(), 60_000, seed);
            let spilled: u32 = table.buckets.iter().map(|bucket| bucket.spilled).sum();
            assert!(spilled < 6000, "{name}: {spilled} of 60000 are in their second bucket");
        }
    }
}

#[test]
fn panic_during_change_is_detected() {
    let mut table = filled((0..10).map(key), 10, 1);
    assert_eq!((table.verify(), table.audit()), (Ok(()), Ok(())));
    table.changing = true;
    assert_eq!(table.verify(), Err(Inconsistent::Broken));
    table.changing = false;
    table.buckets[0].spilled += 1;
    assert!(matches!(table.audit(), Err(Inconsistent::Spilled { .. })));
    table.buckets[0].spilled -= 1;
    table.free.push(3);
    assert!(matches!(table.audit(), Err(Inconsistent::Slots { .. })));
}

#[test]
fn sweep_visits_each_slot_once_per_round() {
    let mut table = filled((0..10).map(key), 10, 1);
    let mut seen = Vec::new();
    let mut steps = 10;
    while let Some((slot, left)) = table.advance(steps, |flow| flow.key.remote.port.is_multiple_of(2)) {
        seen.push(slot);
        steps = left;
    }
    assert_eq!(seen.len(), 5);
    assert_eq!(table.advance(3, |_| false), None);
    assert_eq!(table.advance(10, |_| true), Some((3, 9)));
    assert_eq!(table.iter_from(8).map(|(slot, _)| slot).collect::<Vec<_>>(), [8, 9]);
}
