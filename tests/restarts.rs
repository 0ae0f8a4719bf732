//! Tests that a thousand restarts of all three scopes leave descriptors, mappings and memory unchanged. It is the only
//! test of its process, so that every count belongs to this engine.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/hairpin.rs"]
mod hairpin;
#[path = "common/netns.rs"]
mod netns;

use std::collections::BTreeMap;

use hairpin::{Flows, LONG, QUEUES, id, lost, plug, start, wait};
use netns::{in_namespace, skip_unless_root};
use oxide::engine::{Engine, ProcessUsage, RestartScope};

/// Restarts of each scope: 1000 in total, 250 per queue.
const RESTARTS: [(RestartScope, u32); 3] =
    [(RestartScope::Handler, 600), (RestartScope::Port, 300), (RestartScope::Queue, 100)];
/// Restarts of each scope before the first count, which create thread stacks, arenas and lazily loaded data.
const WARM_UP: u32 = 40;
/// Tolerated mappings: the allocator keeps, splits and joins arenas of ended threads. A leak of one mapping per restart
/// would be hundreds.
const MAPPINGS: usize = 8;
/// Tolerated memory. A leaked UMEM would be 4 MiB per queue restart, a leaked handler or table some KiB for each of
/// 600.
const RSS_BYTES: u64 = 4 << 20;

/// Returns descriptors by kind, mappings and resident bytes of this process.
fn held() -> (BTreeMap<String, usize>, Vec<String>, u64) {
    let mut descriptors = BTreeMap::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        // The descriptor of this listing is already closed.
        let Ok(what) = std::fs::read_link(entry.unwrap().path()) else { continue };
        let what = what.to_string_lossy().split(['[', '(']).next().unwrap_or_default().to_owned();
        *descriptors.entry(what).or_default() += 1;
    }
    let mappings = std::fs::read_to_string("/proc/self/maps").unwrap().lines().map(str::to_owned).collect();
    (descriptors, mappings, ProcessUsage::now().rss_bytes)
}

/// Restarts all queues at once, `count` times.
fn restart(engine: &Engine, depth: RestartScope, count: u32) {
    let handle = engine.handle();
    for round in 0..count / QUEUES {
        let before: Vec<u32> = engine.status().queues.iter().map(|queue| queue.restarts).collect();
        for queue in 0..QUEUES {
            handle.restart(&id(if round % 2 == 0 { "near0" } else { "near1" }, queue), depth).unwrap();
        }
        wait(engine, "restarted", |s| {
            s.queues.iter().zip(&before).all(|(queue, before)| queue.restarts == before + 1 && queue.is_running())
        });
    }
}

#[test]
fn thousand_restarts_leak_nothing() {
    if skip_unless_root("thousand_restarts_leak_nothing") {
        return;
    }
    in_namespace(|lab| {
        let far = lab.second_namespace();
        plug(lab, &far, 0);
        plug(lab, &far, 1);
        let engine = start();
        for (depth, _) in RESTARTS {
            restart(&engine, depth, WARM_UP);
        }
        let before = held();
        for (depth, count) in RESTARTS {
            restart(&engine, depth, count);
        }
        let after = held();
        assert_eq!(after.0, before.0, "descriptors");
        let (mappings, were) = (after.1.len(), before.1.len());
        assert!(mappings <= were + MAPPINGS, "{were} -> {mappings} mappings: {:#?}", after.1);
        assert!(after.2 <= before.2 + RSS_BYTES, "{} -> {} bytes resident", before.2, after.2);
        eprintln!("{} -> {} mappings, {} -> {} KiB resident", were, mappings, before.2 >> 10, after.2 >> 10);

        let traffic = Flows::find(&far, &[0, 1]).run(&far);
        std::thread::sleep(std::time::Duration::from_millis(200));
        let (_, counts) = traffic.end();
        assert_eq!(lost(&counts, |_, _| true), 0, "{counts:?}");
        let status = engine.stop(LONG);
        assert!(status.balanced && status.unaccounted == 0, "{status:#?}");
    });
}
