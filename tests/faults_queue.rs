//! Tests faults of one queue: they cost the other queues no packet.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "common/hairpin.rs"]
mod hairpin;
#[path = "common/netns.rs"]
mod netns;

use std::time::Duration;

use hairpin::{Counts, Flows, LONG, all_run, id, lost, plug, start, wait};
use netns::{in_namespace, skip_unless_root};
use oxide::engine::{Engine, EngineHandle, RestartScope};
use oxide::queue::DatapathFault;

/// Runs traffic on all queues with a fault in the middle; afterwards all queues must work without loss.
fn under_traffic(test: &'static str, fault: fn(&Engine), judge: fn(&Counts, &EngineHandle)) {
    if skip_unless_root(test) {
        return;
    }
    in_namespace(move |lab| {
        let far = lab.second_namespace();
        plug(lab, &far, 0);
        plug(lab, &far, 1);
        let engine = start();
        let flows = Flows::find(&far, &[0, 1]);
        let traffic = flows.run(&far);
        std::thread::sleep(Duration::from_millis(100));
        fault(&engine);
        wait(&engine, "all run again", all_run);
        std::thread::sleep(Duration::from_millis(100));
        let (flows, counts) = traffic.end();
        judge(&counts, &engine.handle());
        // All queues work as before.
        let traffic = flows.run(&far);
        std::thread::sleep(Duration::from_millis(200));
        let (_, after) = traffic.end();
        assert_eq!(lost(&after, |_, _| true), 0, "{after:?} {:#?}", engine.status());
        let status = engine.stop(LONG);
        assert!(status.balanced && status.unaccounted == 0, "{status:#?}");
    });
}

/// Waits until the restarts of queue 1 are reported.
fn until_restarted(engine: &Engine, times: u32) {
    wait(engine, "restarted", |s| s.queues[1].restarts >= times && s.queues[1].is_running());
}

#[test]
fn occasional_handler_panic_costs_its_batch() {
    under_traffic(
        "occasional_handler_panic_costs_its_batch",
        |engine| {
            engine.handle().inject(&id("near0", 1), |_| DatapathFault::PanicEvery(100)).unwrap();
            until_restarted(engine, 3);
            engine.handle().inject(&id("near0", 1), |_| DatapathFault::PanicEvery(0)).unwrap();
        },
        |counts, _| {
            assert_eq!(lost(counts, |_, queue| queue != 1), 0, "{counts:?}");
            // Only the current batch is lost; packets that arrive meanwhile wait on the ring.
            assert!(lost(counts, |_, queue| queue == 1) <= 4 * 64, "{counts:?}");
        },
    );
}

#[test]
fn missing_completions_cost_one_port() {
    under_traffic(
        "missing_completions_cost_one_port",
        |engine| {
            engine.handle().inject(&id("near0", 1), DatapathFault::Completions).unwrap();
            until_restarted(engine, 1);
        },
        |counts, handle| {
            assert_eq!(lost(counts, |interface, queue| (interface, queue) != (0, 1)), 0, "{counts:?}");
            assert_eq!(handle.status().queues[1].restarts, 1);
        },
    );
}

#[test]
fn lost_socket_costs_one_port() {
    under_traffic(
        "lost_socket_costs_one_port",
        |engine| {
            engine.handle().inject(&id("near1", 1), DatapathFault::SocketLost).unwrap();
            until_restarted(engine, 1);
        },
        |counts, _| assert_eq!(lost(counts, |interface, queue| (interface, queue) != (1, 1)), 0, "{counts:?}"),
    );
}

#[test]
fn leaked_frames_cost_one_actor() {
    under_traffic(
        "leaked_frames_cost_one_actor",
        |engine| {
            engine.handle().inject(&id("near0", 1), |_| DatapathFault::Leak(3)).unwrap();
            until_restarted(engine, 1);
        },
        |counts, _| assert_eq!(lost(counts, |_, queue| queue != 1), 0, "{counts:?}"),
    );
}

#[test]
fn stalled_handler_is_reported_and_costs_one_actor() {
    under_traffic(
        "stalled_handler_is_reported_and_costs_one_actor",
        |engine| {
            engine.handle().inject(&id("near0", 1), |_| DatapathFault::Stall(Duration::from_millis(1800))).unwrap();
            wait(engine, "stalled", |s| s.queues[1].stalled);
        },
        |counts, handle| {
            assert_eq!(lost(counts, |_, queue| queue != 1), 0, "{counts:?}");
            assert!(handle.status().queues[1].last_event.contains("heart"), "{:#?}", handle.status().queues[1]);
        },
    );
}

#[test]
fn requested_restarts_at_each_scope() {
    under_traffic(
        "requested_restarts_at_each_scope",
        |engine| {
            let handle = engine.handle();
            handle.restart(&id("near0", 1), RestartScope::Handler).unwrap();
            until_restarted(engine, 1);
            handle.restart(&id("near0", 1), RestartScope::Port).unwrap();
            until_restarted(engine, 2);
            handle.restart(&id("near0", 3), RestartScope::Queue).unwrap();
            wait(engine, "restarted", |s| s.queues[3].restarts == 1 && s.queues[3].is_running());
        },
        |counts, _| {
            let touched = |interface, queue| (interface, queue) == (0, 1) || queue == 3;
            assert_eq!(lost(counts, |interface, queue| !touched(interface, queue)), 0, "{counts:?}");
        },
    );
}
