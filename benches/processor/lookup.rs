//! Measures random look-ups among many flows.

use std::hint::black_box;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use oxide::flow::{FlowHash, FlowKey, FlowKeys, FlowTable, Keyed};
use oxide::packet::LANES;
use oxide::simd::Processor;

use crate::comparison::{Bench, contestant, random};
use crate::frames;

/// Has the size of the relay's session.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Session {
    key: FlowKey,
    #[allow(dead_code)] // It gives the option its niche.
    port: std::num::NonZeroU16,
    rest: [u32; 10],
}

impl Keyed for Session {
    fn key(&self) -> &FlowKey {
        &self.key
    }
}

const BATCHES: usize = 1024;

fn key(n: u32) -> FlowKey {
    FlowKey { remote: frames::flow(n, true).source, local: 3 }
}

pub(crate) fn run(bench: &mut Bench) {
    for (measure, flows, misses, bound) in [
        ("look-up, 1 Mi flows, hits", 1 << 20, false, 0.35),
        ("look-up, 1 Mi flows, misses", 1 << 20, true, 0.5),
        ("look-up, 4 Ki flows, hits", 1 << 12, false, 1.2),
    ] {
        if bench.wants(measure) {
            one(bench, measure, flows, misses, bound);
        }
    }
}

type Map = HashMap<FlowKey, [u32; 10], FixedState>;

/// Returns both tables, filled with the flows 0 to `flows`.
fn filled(flows: u32) -> (FlowTable<Session>, Map) {
    let mut table = FlowTable::new(flows, FlowHash::new(Processor::detect(), 5));
    let mut map = HashMap::with_capacity_and_hasher(flows as usize, FixedState::with_seed(5));
    for n in 0..flows {
        let session = Session { key: key(n), port: std::num::NonZeroU16::MIN, rest: [n; 10] };
        let _ = table.insert(session);
        map.insert(session.key, session.rest);
    }
    (table, map)
}

fn one(bench: &mut Bench, measure: &str, flows: u32, misses: bool, bound: f64) {
    let (table, map) = filled(flows);
    let mut dice = random(3);
    let mut any = || {
        let n = (dice() % u64::from(flows)) as u32;
        key(if misses { n + flows } else { n })
    };
    let lists: Vec<[FlowKey; LANES]> = (0..BATCHES).map(|_| std::array::from_fn(|_| any())).collect();
    let columns: Vec<FlowKeys> = lists
        .iter()
        .map(|list| {
            let mut keys = FlowKeys::default();
            list.iter().enumerate().for_each(|(lane, key)| keys.set(lane, key));
            keys
        })
        .collect();
    let (table, map) = (&table, &map);
    let mut found = [0; LANES];
    let mut at = 0;
    let staged = contestant("oxide, staged", || {
        at = (at + 1) % BATCHES;
        let mut hit = table.look_up(&columns[at], u64::MAX, &mut found);
        // Found flows are read, as in the relay.
        let mut sum = 0;
        while hit != 0 {
            let lane = hit.trailing_zeros() as usize;
            hit &= hit - 1;
            sum ^= table.get(found[lane]).map_or(0, |session| session.rest[9]);
        }
        black_box(sum);
    });
    let mut other = BATCHES / 3;
    let single = contestant("oxide, one by one", || {
        other = (other + 1) % BATCHES;
        let flows = lists[other].iter().filter_map(|key| table.get(table.find(key)?));
        black_box(flows.fold(0, |sum, session| sum ^ session.rest[9]));
    });
    let mut third = BATCHES / 2;
    let hashbrown = contestant("hashbrown with foldhash", || {
        third = (third + 1) % BATCHES;
        let flows = lists[third].iter().filter_map(|key| map.get(key));
        black_box(flows.fold(0, |sum, rest| sum ^ rest[9]));
    });
    // This is the lower bound for a table of this size: for hits the lines of the flows, for misses the lines of the
    // index.
    let lines = if misses { filled(flows.div_ceil(6)).0 } else { filled(flows).0 };
    let places: Vec<[u32; LANES]> =
        (0..BATCHES).map(|_| std::array::from_fn(|_| (dice() % lines.capacity() as u64) as u32)).collect();
    let mut fourth = 0;
    let reading = contestant("reading that many lines alone", || {
        fourth = (fourth + 1) % BATCHES;
        places[fourth].iter().for_each(|place| lines.prefetch(*place));
        let flows = places[fourth].iter().filter_map(|place| lines.get(*place));
        black_box(flows.fold(0, |sum, session| sum ^ session.rest[9]));
    });
    let per_flow = table.memory_bytes() as f64 / f64::from(flows);
    let note = format!("random keys; {per_flow:.1} bytes for each flow");
    bench.compare(measure, &note, LANES, vec![staged, single, hashbrown.at_most(bound), reading]);
}
